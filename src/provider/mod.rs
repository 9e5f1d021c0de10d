//! Providers: who says which worker this machine is, how that is proved, and who says that it will go away.

mod aws;
mod azure;
#[cfg(feature = "ec2")]
mod ec2;
mod google;
mod host;
pub mod metadata_http;

use crate::json::object;
use crate::platform::{self, Alarm};
use crate::run_state::Identity;
use crate::runner_config::ProviderConfig;
use crate::runner_config::settings::InterruptionSettings;
use async_trait::async_trait;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use metadata_http::{Failure, MetadataError, MetadataService};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use taskcluster_api::{Credentials, RootUrl, WorkerProof};

/// What a provider finds out about the machine.
#[derive(Debug)]
pub struct Found {
    /// Who it is.
    pub identity: Identity,
    /// What makes worker-manager believe that.
    pub claim: Claim,
}

/// How a machine gets its credentials.
#[derive(Debug)]
pub enum Claim {
    /// By registering with this proof.
    Proof(WorkerProof),
    /// It has them already.
    Preissued(Credentials),
}

/// Whether a cached run is this machine's.
#[derive(Debug, PartialEq, Eq)]
pub enum Recognition {
    /// It is.
    Ours,
    /// It is not: this machine is another.
    Other(String),
    /// Nobody answered.
    Unknown,
}

/// Word that the machine will be interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What tells it from other notices: a nearer or farther deadline of the same notice is no second one.
    pub id: String,
    /// What will happen.
    pub kind: NoticeKind,
    /// When, if that is said.
    pub deadline: Option<Timestamp>,
    /// Whether there is time to finish tasks where no deadline is said.
    pub finish_tasks: bool,
    /// Who says so, and what: for the log.
    pub source: String,
    /// What [`Provider::acknowledge`] takes, where that concerns nobody but us.
    pub acknowledge: Option<String>,
}

/// What will happen to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// Its cloud takes it away, or stops it.
    Reclaim,
    /// It will be rebooted, and come back.
    Reboot,
    /// It will stand still for a moment.
    Freeze,
    /// It might be taken away: its cloud recommends another.
    Advice,
    /// worker-manager doesn't want the worker any more.
    Unwanted,
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reclaim => "the machine is taken away",
            Self::Reboot => "the machine is rebooted",
            Self::Freeze => "the machine stands still",
            Self::Advice => "the machine may be taken away",
            Self::Unwanted => "the worker is not wanted any more",
        })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.deadline {
            Some(deadline) => write!(f, "{}, at {deadline:.0}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// What a watch says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Something will happen, or at another time than was said.
    Notice(Notice),
    /// It will not happen, or is over.
    Withdrawn(Notice),
}

/// A look-out for notices from one source.
#[async_trait]
pub trait Watch: Send {
    /// The next word. Asks as often as that source needs; never ends where nothing comes.
    async fn next(&mut self) -> Word;
}

/// What a source has announced so far, so that only news is passed on.
#[derive(Debug, Default)]
struct Announced(Vec<Notice>);

impl Announced {
    /// One difference between what was announced and what holds now; it is announced then.
    fn news(&mut self, current: &[Notice]) -> Option<Word> {
        let known =
            |notice: &&Notice| self.0.iter().any(|known| known.id == notice.id && known.deadline == notice.deadline);
        if let Some(new) = current.iter().find(|notice| !known(notice)) {
            self.0.retain(|known| known.id != new.id);
            self.0.push(new.clone());
            return Some(Word::Notice(new.clone()));
        }
        let gone = self.0.iter().position(|known| !current.iter().any(|notice| notice.id == known.id))?;
        Some(Word::Withdrawn(self.0.remove(gone)))
    }
}

/// Why a provider can't say who the machine is.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The metadata service doesn't answer as it should.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// An answer holds something else than it should.
    #[error("{url}: `{field}`: {problem}")]
    Field {
        /// What was asked.
        url: String,
        /// Which part of the answer.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine is being taken away already.
    #[error("this instance is already being reclaimed: {0}")]
    Reclaimed(Notice),
}

/// Somebody who wants to know where the deployment is before the rest is known: to connect to it.
pub type HearRootUrl<'a> = dyn Fn(&RootUrl) + Send + Sync + 'a;

/// A source of identity. All methods are required: "this host gets no notice" is a line that somebody wrote.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Who this machine is, and its claim to be. Where the deployment is, is heard as soon as that is known.
    async fn identify(&self, hear: &HearRootUrl<'_>) -> Result<Found, ProviderError>;

    /// A fresh proof of the same.
    async fn prove(&self) -> Result<WorkerProof, ProviderError>;

    /// Whether a cached run is this machine's. May wait; the caller sets the limit.
    async fn recognise(&self, cached: &Identity) -> Recognition;

    /// Everything that says that the machine will be interrupted, each source by itself.
    fn watches(&self) -> Vec<Box<dyn Watch>>;

    /// Says that nothing has to be waited for any more: the worker has gone.
    async fn acknowledge(&self, event: &str);

    /// Has the cloud's own API end this machine, where nothing else did. Whether it does; a provider that can't says so.
    async fn terminate(&self, identity: &Identity) -> bool;
}

/// A source that has to be asked again and again.
#[async_trait]
trait Look: Send {
    /// What is looked for, for the log.
    const WANTED: &'static str;

    /// Everything that is announced now.
    async fn look(&mut self) -> Result<Vec<Notice>, Failure>;
}

/// A watch that looks at intervals.
struct Poll<L> {
    source: L,
    pause: Duration,
    /// Whether the next look waits: not every first one does.
    waits: bool,
    announced: Announced,
    current: Vec<Notice>,
    trouble: Trouble,
    /// Rings for the next look, once, where a timer of the runtime wakes up twice.
    alarm: Option<Alarm>,
}

impl<L: Look> Poll<L> {
    fn new(source: L, pause: Duration, waits: bool) -> Self {
        let (announced, current, trouble) = (Announced::default(), Vec::new(), Trouble::default());
        Self { source, pause, waits, announced, current, trouble, alarm: None }
    }

    async fn wait(&mut self) {
        // An alarm may ring sooner than after a longer pause; and there, one wake-up more is no matter.
        if self.pause <= platform::LOOK_AT_CLOCK {
            self.alarm.get_or_insert_with(Alarm::unset).ring(self.pause).await;
        } else {
            tokio::time::sleep(self.pause).await;
        }
    }
}

#[async_trait]
impl<L: Look> Watch for Poll<L> {
    async fn next(&mut self) -> Word {
        loop {
            if let Some(word) = self.announced.news(&self.current) {
                return word;
            }
            if std::mem::replace(&mut self.waits, true) {
                self.wait().await;
            }
            let looked = self.source.look().await;
            self.trouble.note(L::WANTED, looked.as_ref().err());
            if let Ok(current) = looked {
                self.current = current;
            }
        }
    }
}

/// How often is looked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks at what comes at short notice.
    pub quick: Duration,
    /// Between two looks at what comes long before.
    pub slow: Duration,
}

impl From<&InterruptionSettings> for Pace {
    fn from(settings: &InterruptionSettings) -> Self {
        Self { quick: settings.poll, slow: settings.slow_poll }
    }
}

/// The provider that the config names. `metadata` says where a cloud's metadata service is.
///
/// # Errors
/// Where no HTTP client can be made.
pub fn build(
    config: &ProviderConfig,
    metadata: &MetadataService,
    pace: Pace,
) -> Result<Arc<dyn Provider>, ProviderError> {
    Ok(match config {
        ProviderConfig::Aws => Arc::new(aws::Aws::new(metadata, pace)?),
        ProviderConfig::Azure => Arc::new(azure::Azure::new(metadata, pace)?),
        ProviderConfig::Google => Arc::new(google::Google::new(metadata, pace)?),
        ProviderConfig::Static(config) => Arc::new(host::StaticHost::new(config.clone())),
        ProviderConfig::Standalone(config) => Arc::new(host::Standalone::new(config.clone())),
    })
}

/// Compares the one id that tells machines of a provider apart.
fn recognise_id(cached: &str, now: Result<&str, &ProviderError>) -> Recognition {
    match now {
        Ok(id) if id == cached => Recognition::Ours,
        Ok(id) => Recognition::Other(id.to_owned()),
        Err(error) => {
            tracing::debug!("cannot ask who this machine is: {error}");
            Recognition::Unknown
        }
    }
}

/// Those of these facts that are known; nothing is invented for the others.
fn known<const N: usize>(facts: [(&str, Option<String>); N]) -> Map<String, Value> {
    object(facts.into_iter().filter_map(|(key, value)| Some((key, value?.into()))))
}

/// Looks happen every second: says once that they fail, and once that they work again.
#[derive(Debug, Default)]
struct Trouble(bool);

impl Trouble {
    fn note(&mut self, source: &str, failure: Option<&Failure>) {
        match (self.0, failure) {
            (false, Some(failure)) => tracing::warn!("cannot look for {source}: {failure}; going on trying"),
            (true, None) => tracing::info!("looking for {source} works again"),
            (true, Some(_)) | (false, None) => {}
        }
        self.0 = failure.is_some();
    }
}

/// At most so many plain letters and digits of what somebody else wrote, for the log.
fn plain_word(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(20).collect()
}

/// A time as the clouds write it: `Mon, 19 Sep 2016 18:29:47 GMT`, `21 Jan 2019 09:00:43 GMT`, or RFC 3339.
fn cloud_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok().or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_is_said_and_what_is_gone_is_withdrawn() {
        let notice = |id: &str, second| Notice {
            id: id.to_owned(),
            kind: NoticeKind::Reclaim,
            deadline: Timestamp::from_second(second).ok(),
            finish_tasks: false,
            source: "s".to_owned(),
            acknowledge: None,
        };
        let mut announced = Announced::default();
        let (a, b, nearer) = (notice("a", 10), notice("b", 20), notice("a", 5));
        assert_eq!(announced.news(&[]), None);
        assert_eq!(announced.news(&[a.clone(), b.clone()]), Some(Word::Notice(a.clone())));
        assert_eq!(announced.news(&[a.clone(), b.clone()]), Some(Word::Notice(b.clone())));
        assert_eq!(announced.news(&[a.clone(), b.clone()]), None);
        assert_eq!(announced.news(&[nearer.clone(), b.clone()]), Some(Word::Notice(nearer.clone())));
        assert_eq!(announced.news(std::slice::from_ref(&b)), Some(Word::Withdrawn(nearer)));
        assert_eq!(announced.news(std::slice::from_ref(&b)), None);
    }

    #[test]
    fn the_clouds_ways_to_write_a_time_are_read() {
        let expected: Timestamp = "2019-01-21T09:00:43Z".parse().unwrap();
        for text in ["21 Jan 2019 09:00:43 GMT", "Mon, 21 Jan 2019 09:00:43 GMT", "2019-01-21T09:00:43Z"] {
            assert_eq!(cloud_time(text), Some(expected), "{text}");
        }
        assert_eq!(cloud_time(""), None);
    }
}
