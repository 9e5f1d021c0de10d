//! Amazon EC2, through the instance metadata service, version 2 (with a session token).
//!
//! Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_scheduled_events.html>,
//! <https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html>.

use super::metadata_http::{Answer, Failure, MetadataHttp, MetadataService, Question};
use super::{
    Claim, Found, HearRootUrl, Look, Notice, NoticeKind, Pace, Poll, Provider, ProviderError, Recognition, Watch,
    cloud_time, known, plain_word, recognise_id,
};
use crate::run_state::Identity;
use async_trait::async_trait;
use serde::Deserialize;
use std::time::{Duration, Instant};
use taskcluster_api::{RootUrl, WorkerProof};

const HOST: &str = "169.254.169.254";
const FOLDER: &str = "/latest";

const TOKEN: &str = "/api/token";
const USER_DATA: &str = "/user-data";
const DOCUMENT: &str = "/dynamic/instance-identity/document";
const SIGNATURE: &str = "/dynamic/instance-identity/signature";
const PUBLIC_HOSTNAME: &str = "/meta-data/public-hostname";
const PUBLIC_IPV4: &str = "/meta-data/public-ipv4";
const SPOT_ACTION: &str = "/meta-data/spot/instance-action";
const TERMINATION_TIME: &str = "/meta-data/spot/termination-time";
const REBALANCE: &str = "/meta-data/events/recommendations/rebalance";
const LIFECYCLE_TARGET: &str = "/meta-data/autoscaling/target-lifecycle-state";
const MAINTENANCE: &str = "/meta-data/events/maintenance/scheduled";
const LIFE_CYCLE: &str = "/meta-data/instance-life-cycle";

/// A session token's life, in seconds: the longest there is.
const TOKEN_LIFE: &str = "21600";

/// A token older than this is not used any more.
const TOKEN_RENEWAL: Duration = Duration::from_secs(5 * 60 * 60);

/// EC2.
pub struct Aws {
    metadata: MetadataHttp,
    pace: Pace,
}

/// A session token, renewed before it ends.
struct Session {
    metadata: MetadataHttp,
    token: Option<(String, Instant)>,
}

/// What spot instances hear two minutes ahead.
struct Spot {
    session: Session,
    /// Whether this is a spot instance, as far as is known.
    is_spot: Option<bool>,
}

/// Everything else.
struct Events(Session);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserData {
    worker_pool_id: String,
    provider_id: String,
    worker_group: String,
    root_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    instance_id: String,
    #[serde(default)]
    image_id: Option<String>,
    #[serde(default)]
    instance_type: Option<String>,
    region: String,
    availability_zone: String,
    #[serde(default)]
    private_ip: Option<String>,
}

#[derive(Deserialize)]
struct SpotAction {
    action: String,
    time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ScheduledEvent {
    event_id: Option<String>,
    code: String,
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    not_before: Option<String>,
}

impl Aws {
    pub fn new(service: &MetadataService, pace: Pace) -> Result<Self, ProviderError> {
        let metadata = MetadataHttp::new(service, HOST, FOLDER, None)?;
        Ok(Self { metadata, pace })
    }

    async fn new_token(&self) -> Result<String, ProviderError> {
        Ok(self.metadata.required(token_question()).await?.text)
    }

    fn session(&self) -> Session {
        Session { metadata: self.metadata.clone(), token: None }
    }
}

/// Tags, which people give instances to tell them apart.
///
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/work-with-tags-in-IMDS.html>.
#[cfg(feature = "ec2")]
impl Aws {
    /// From the metadata service where it offers them, else from the API; none where neither does.
    async fn tags(&self, document: &Document, token: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
        const TAGS: &str = "/meta-data/tags/instance";
        let ask = async |path: String| {
            let question = Question::get(path).header("x-aws-ec2-metadata-token", token);
            self.metadata.ask(&question).await.ok().map(|answer| answer.text)
        };
        if let Some(names) = ask(TAGS.to_owned()).await {
            let mut tags = serde_json::Map::new();
            for name in names.lines() {
                let value = ask(format!("{TAGS}/{name}")).await.unwrap_or_default();
                tags.insert(name.to_owned(), value.into());
            }
            return Some(tags);
        }
        match super::ec2::Ec2::of(&document.region).tags(&document.instance_id).await {
            Ok(tags) => Some(tags),
            Err(error) => {
                tracing::info!("going on without this instance's tags: {error}");
                None
            }
        }
    }
}

impl Session {
    /// What is there, or nothing where it isn't.
    async fn ask(&mut self, path: &'static str) -> Result<Option<Answer>, Failure> {
        let token = match self.token.take().filter(|(_, made)| made.elapsed() < TOKEN_RENEWAL) {
            Some(token) => token,
            None => (self.metadata.ask(&token_question()).await?.text, Instant::now()),
        };
        match self.metadata.ask(&with_token(path, &token.0)).await {
            Ok(answer) => {
                self.token = Some(token);
                Ok(Some(answer))
            }
            // The token is at fault, and the next question brings its own; or it was too many of them.
            Err(Failure::Status(status)) if matches!(status.as_u16(), 401 | 429) => Err(Failure::Status(status)),
            // It is not there, or not for us: what else there is must not be hidden by that.
            Err(Failure::Status(status)) if status.is_client_error() => {
                self.token = Some(token);
                Ok(None)
            }
            Err(failure) => {
                self.token = Some(token);
                Err(failure)
            }
        }
    }
}

#[async_trait]
impl Look for Spot {
    const WANTED: &'static str = "spot interruption notices";

    async fn look(&mut self) -> Result<Vec<Notice>, Failure> {
        if self.is_spot.is_none() {
            let life_cycle = self.session.ask(LIFE_CYCLE).await?;
            self.is_spot = Some(life_cycle.is_none_or(|answer| answer.text.trim() != "on-demand"));
        }
        if self.is_spot == Some(false) {
            tracing::debug!("this is no spot instance: not looking for spot notices");
            std::future::pending::<()>().await;
        }
        let action = self.session.ask(SPOT_ACTION).await?;
        Ok(action.as_ref().and_then(spot_notice).into_iter().collect())
    }
}

#[async_trait]
impl Look for Events {
    const WANTED: &'static str = "this instance's events";

    async fn look(&mut self) -> Result<Vec<Notice>, Failure> {
        let spot = self.0.ask(TERMINATION_TIME).await?;
        let rebalance = self.0.ask(REBALANCE).await?;
        let target = self.0.ask(LIFECYCLE_TARGET).await?;
        let maintenance = self.0.ask(MAINTENANCE).await?;
        let mut current: Vec<Notice> = spot.as_ref().and_then(termination_notice).into_iter().collect();
        current.extend(rebalance.as_ref().and_then(rebalance_notice));
        current.extend(target.as_ref().and_then(lifecycle_notice));
        if let Some(maintenance) = &maintenance {
            current.extend(maintenance_notices(maintenance)?);
        }
        Ok(current)
    }
}

#[async_trait]
impl Provider for Aws {
    async fn identify(&self, hear: &HearRootUrl<'_>) -> Result<Found, ProviderError> {
        let token = self.new_token().await?;
        let required = |path| {
            let question = with_token(path, &token);
            async { Ok::<_, ProviderError>(self.metadata.required(question).await?) }
        };
        let optional = |path| {
            let question = with_token(path, &token);
            async { Ok(self.metadata.optional(question).await) }
        };
        let user_data = async {
            let answer = required(USER_DATA).await?;
            let user: UserData = self.metadata.json(USER_DATA, &answer.text)?;
            let root_url: RootUrl = self.metadata.parse(USER_DATA, "rootUrl", &user.root_url)?;
            hear(&root_url);
            Ok((user, root_url))
        };
        let (user_data, document, signature, hostname, address, action) = tokio::try_join!(
            user_data,
            required(DOCUMENT),
            required(SIGNATURE),
            optional(PUBLIC_HOSTNAME),
            optional(PUBLIC_IPV4),
            // Its older form, the termination time, is the watch's first question.
            optional(SPOT_ACTION),
        )?;
        if let Some(notice) = action.as_ref().and_then(spot_notice) {
            return Err(ProviderError::Reclaimed(notice));
        }
        let from_document: Document = self.metadata.json(DOCUMENT, &document.text)?;
        #[cfg_attr(not(feature = "ec2"), expect(unused_mut, reason = "tags are added with the feature alone"))]
        let mut identity = self.identity(user_data, &from_document, hostname, address)?;
        #[cfg(feature = "ec2")]
        if let Some(tags) = self.tags(&from_document, &token).await {
            identity.metadata.insert("instance-tags".to_owned(), tags.into());
        }
        let proof = WorkerProof::Aws { document: document.text.into(), signature: signature.text.into() };
        Ok(Found { identity, claim: Claim::Proof(proof) })
    }

    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        let token = self.new_token().await?;
        let (document, signature) = tokio::try_join!(
            self.metadata.required(with_token(DOCUMENT, &token)),
            self.metadata.required(with_token(SIGNATURE, &token)),
        )?;
        Ok(WorkerProof::Aws { document: document.text.into(), signature: signature.text.into() })
    }

    async fn recognise(&self, cached: &Identity) -> Recognition {
        let ask = async {
            let token = self.new_token().await?;
            let answer = self.metadata.required(with_token(DOCUMENT, &token)).await?;
            Ok(self.metadata.json::<Document>(DOCUMENT, &answer.text)?.instance_id)
        };
        let id: Result<String, ProviderError> = ask.await;
        recognise_id(cached.worker_id.as_str(), id.as_deref())
    }

    fn watches(&self) -> Vec<Box<dyn Watch>> {
        // The boot has looked for what spot instances hear a moment ago.
        let spot = Poll::new(Spot { session: self.session(), is_spot: None }, self.pace.quick, true);
        let events = Poll::new(Events(self.session()), self.pace.slow, false);
        vec![Box::new(spot), Box::new(events)]
    }

    /// There is nothing to acknowledge here.
    async fn acknowledge(&self, _event: &str) {}

    #[cfg(feature = "ec2")]
    async fn terminate(&self, identity: &Identity) -> bool {
        let (Some(region), instance) = (identity.metadata_text("region"), identity.worker_id.as_str()) else {
            return false;
        };
        tracing::warn!("asking EC2 to terminate {instance}");
        match super::ec2::Ec2::of(region).terminate(instance).await {
            Ok(()) => {
                tracing::info!("EC2 terminates this instance");
                true
            }
            Err(error) => {
                tracing::error!("EC2 does not terminate this instance: {error}");
                false
            }
        }
    }

    /// EC2's own API is asked only where the cargo feature `ec2` is on.
    #[cfg(not(feature = "ec2"))]
    async fn terminate(&self, _identity: &Identity) -> bool {
        false
    }
}

impl Aws {
    fn identity(
        &self,
        (user, root_url): (UserData, RootUrl),
        document: &Document,
        hostname: Option<Answer>,
        address: Option<Answer>,
    ) -> Result<Identity, ProviderError> {
        let metadata = &self.metadata;
        let facts = [
            ("instance-id", Some(document.instance_id.clone())),
            ("image", document.image_id.clone()),
            ("instance-type", document.instance_type.clone()),
            ("region", Some(document.region.clone())),
            ("availability-zone", Some(document.availability_zone.clone())),
            ("local-ipv4", document.private_ip.clone()),
            ("public-hostname", hostname.map(|answer| answer.text)),
            ("public-ipv4", address.map(|answer| answer.text)),
        ];
        let location =
            [("cloud", "aws"), ("region", &document.region), ("availabilityZone", &document.availability_zone)];
        Ok(Identity {
            root_url,
            provider_id: metadata.parse(USER_DATA, "providerId", &user.provider_id)?,
            worker_pool_id: metadata.parse(USER_DATA, "workerPoolId", &user.worker_pool_id)?,
            worker_group: metadata.parse(USER_DATA, "workerGroup", &user.worker_group)?,
            worker_id: metadata.parse(DOCUMENT, "instanceId", &document.instance_id)?,
            metadata: known(facts),
            location: location.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        })
    }
}

fn token_question() -> Question {
    Question::put(TOKEN).header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE)
}

fn with_token(path: &'static str, token: &str) -> Question {
    Question::get(path).header("x-aws-ec2-metadata-token", token)
}

fn spot_notice(answer: &Answer) -> Option<Notice> {
    let action: SpotAction = serde_json::from_str(&answer.text).ok()?;
    let source = format!("AWS is about to {} this spot instance", plain_word(&action.action));
    Some(Notice { deadline: cloud_time(&action.time), source, ..reclaim("spot") })
}

/// The same notice in its older form. Anything that is no time, such as an error page, is none.
fn termination_notice(answer: &Answer) -> Option<Notice> {
    let deadline = Some(cloud_time(&answer.text)?);
    Some(Notice { deadline, source: "AWS is about to terminate this spot instance".to_owned(), ..reclaim("spot") })
}

/// A recommendation has no deadline, and often nothing follows it.
fn rebalance_notice(answer: &Answer) -> Option<Notice> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&answer.text).ok()?;
    object.contains_key("noticeTime").then(|| Notice {
        kind: NoticeKind::Advice,
        finish_tasks: true,
        source: "AWS recommends to rebalance: this spot instance is at elevated risk of interruption".to_owned(),
        ..reclaim("rebalance")
    })
}

/// The state that an auto scaling group wants: how long there is until then is not said.
fn lifecycle_notice(answer: &Answer) -> Option<Notice> {
    let source = "this instance's auto scaling group is about to terminate it".to_owned();
    (answer.text.trim() == "Terminated").then(|| Notice { source, ..reclaim("autoscaling") })
}

/// Events that are over or cancelled stay in the list for a while.
fn maintenance_notices(answer: &Answer) -> Result<Vec<Notice>, Failure> {
    let events: Vec<serde_json::Value> =
        serde_json::from_str(&answer.text).map_err(|_| Failure::Strange("the answer is no list of events"))?;
    // One event that makes no sense hides no other.
    let events = events.into_iter().filter_map(|event| serde_json::from_value::<ScheduledEvent>(event).ok());
    let ahead = events.filter(|event| !matches!(event.state.as_deref(), Some("completed" | "canceled")));
    let notices = ahead
        .map(|event| {
            let kind = match event.code.as_str() {
                "system-maintenance" => NoticeKind::Freeze,
                // `instance-retirement`, `instance-stop`, and whatever is new. And `instance-reboot` and `system-reboot`:
                // a reboot of ours doesn't take them off the list, so the machine would be drained again and again.
                _ => NoticeKind::Reclaim,
            };
            let word: String = event.code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(30).collect();
            let id = event.event_id.unwrap_or_else(|| word.clone());
            let deadline = event.not_before.as_deref().and_then(cloud_time);
            Notice { kind, deadline, source: format!("AWS has scheduled maintenance ({word})"), ..reclaim(&id) }
        })
        .collect();
    Ok(notices)
}

fn reclaim(id: &str) -> Notice {
    Notice {
        id: id.to_owned(),
        kind: NoticeKind::Reclaim,
        deadline: None,
        finish_tasks: false,
        source: String::new(),
        acknowledge: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use reqwest::header::HeaderMap;

    fn answer(text: &str) -> Answer {
        Answer { text: text.to_owned(), headers: HeaderMap::new() }
    }

    #[test]
    fn either_document_is_a_notice_and_rubbish_is_none() {
        let action = answer(r#"{"action": "stop", "time": "2026-11-20T08:22:00Z"}"#);
        let time = answer("2026-11-20T08:22:00Z");
        let rubbish = answer("<html>");
        let deadline: Timestamp = "2026-11-20T08:22:00Z".parse().unwrap();
        assert_eq!(spot_notice(&action).unwrap().source, "AWS is about to stop this spot instance");
        assert_eq!(spot_notice(&action).unwrap().deadline, Some(deadline));
        assert_eq!(termination_notice(&time).unwrap().deadline, Some(deadline));
        assert_eq!((spot_notice(&rubbish), termination_notice(&rubbish)), (None, None));
    }

    #[test]
    fn what_comes_long_before_is_read() {
        assert!(rebalance_notice(&answer(r#"{"noticeTime": "2026-11-20T08:22:00Z"}"#)).unwrap().finish_tasks);
        assert_eq!(rebalance_notice(&answer("rubbish")), None);
        assert!(lifecycle_notice(&answer("Terminated")).is_some());
        assert_eq!(lifecycle_notice(&answer("InService")), None);
        let list = r#"[
            {"NotBefore": "21 Jan 2019 09:00:43 GMT", "Code": "system-reboot", "EventId": "e1", "State": "active"},
            {"NotBefore": "21 Jan 2019 09:00:43 GMT", "Code": "instance-stop", "EventId": "e2", "State": "completed"},
            {"Code": 7}, {"Code": "instance-retirement", "EventId": "e3"}
        ]"#;
        let notices = maintenance_notices(&answer(list)).unwrap();
        let seen: Vec<_> = notices.iter().map(|notice| (notice.id.as_str(), notice.kind)).collect();
        assert_eq!(seen, [("e1", NoticeKind::Reclaim), ("e3", NoticeKind::Reclaim)]);
        assert_eq!(notices[0].deadline, "2019-01-21T09:00:43Z".parse().ok());
        assert!(maintenance_notices(&answer("[]")).unwrap().is_empty());
        assert!(maintenance_notices(&answer("<html>")).is_err(), "rubbish withdraws nothing");
    }
}
