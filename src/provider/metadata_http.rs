//! The clouds' metadata services: plain HTTP on the link, never through a proxy, up whenever the network is.

use super::ProviderError;
use crate::USER_AGENT;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use taskcluster_api::retry::Tries;
use taskcluster_api::{RetryPolicy, TIMELINE};
use tracing::field::Empty;
use tracing::{Instrument, Span};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(1);

/// Where every cloud has its service. Source: the clouds' pages, for Google's name
/// <https://cloud.google.com/compute/docs/metadata/querying-metadata>.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);

/// How long one try may take.
const TRY: Duration = Duration::from_secs(5);

/// For how long the service is asked: a machine boots before its network does, and one that gives up is lost.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The longest pause between two tries, before jitter: this service is this machine's alone, and a network that has just
/// come up must not be waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// For how long a 404 on what must be there is not believed.
const ABSENT_PATIENCE: Duration = Duration::from_secs(10);

/// How often something that may be absent is asked for, where the answer is neither that it is nor it.
const OPTIONAL_TRIES: usize = 3;

/// An answer may have this many bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Where the metadata service is, if not where the cloud puts it.
#[derive(Debug, Clone, Default)]
pub struct MetadataService(Option<Url>);

/// The override is not on this machine.
#[derive(Debug, thiserror::Error)]
#[error("a metadata service of your own must be an http URL on a loopback address, such as http://127.0.0.1:8080")]
pub struct NotLoopback;

impl MetadataService {
    /// Where it is, if not where the cloud puts it.
    pub const fn url(&self) -> Option<&Url> {
        self.0.as_ref()
    }
}

impl std::str::FromStr for MetadataService {
    type Err = NotLoopback;

    /// Only loopback addresses: whoever can redirect this decides whose worker the machine is.
    fn from_str(text: &str) -> Result<Self, NotLoopback> {
        let url = Url::parse(text).map_err(|_| NotLoopback)?;
        let loopback = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(_)) | None => false,
        };
        if loopback && url.scheme() == "http" { Ok(Self(Some(url))) } else { Err(NotLoopback) }
    }
}

/// Why a metadata service could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// No client.
    #[error("cannot make an HTTP client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No usable answer, after all tries.
    #[error("{method} {url}: {failure} (tried for {} s)", tried.as_secs())]
    Failed {
        /// The method.
        method: Method,
        /// What was asked.
        url: String,
        /// What the last try came to.
        failure: Failure,
        /// For how long it was tried.
        tried: Duration,
    },
}

/// What one try came to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No answer.
    #[error("no answer ({0})")]
    NoAnswer(String),
    /// A status that is no success.
    #[error("answered {}", .0.as_u16())]
    Status(StatusCode),
    /// An answer that a metadata service wouldn't give.
    #[error("{0}")]
    Strange(&'static str),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The body.
    pub text: String,
    /// Its headers.
    pub headers: HeaderMap,
}

/// A cloud's metadata service.
#[derive(Debug, Clone)]
pub struct MetadataHttp {
    client: Client,
    base: Arc<str>,
    /// A header that every genuine answer carries.
    seal: Option<(HeaderName, &'static str)>,
    /// Whether anything has answered yet: until then the network may not be up.
    answered: Arc<AtomicBool>,
    /// When asking began: all questions of a boot share their patience.
    began: Instant,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Question {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Option<String>,
    timeout: Duration,
}

impl Question {
    /// `GET` this path.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), headers: HeaderMap::new(), body: None, timeout: TRY }
    }

    /// `PUT` this path, without a body.
    pub fn put(path: impl Into<String>) -> Self {
        Self { method: Method::PUT, ..Self::get(path) }
    }

    /// `POST` this JSON to this path.
    pub fn post(path: impl Into<String>, json: &serde_json::Value) -> Self {
        let question = Self { method: Method::POST, body: Some(json.to_string()), ..Self::get(path) };
        question.header("content-type", "application/json")
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(mut value) = HeaderValue::from_str(value) {
            value.set_sensitive(true);
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// With this long for each try.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl MetadataHttp {
    /// The service at `host` (or where `service` says), its paths below `folder`.
    pub fn new(
        service: &MetadataService,
        host: &str,
        folder: &str,
        seal: Option<(HeaderName, &'static str)>,
    ) -> Result<Self, MetadataError> {
        let base = match &service.0 {
            Some(url) => format!("{}{folder}", url.as_str().trim_end_matches('/')),
            None => format!("http://{host}{folder}"),
        };
        // A cloud's own name for it is no name server's to know, which may not be there yet.
        let build = |builder: reqwest::ClientBuilder| {
            builder.user_agent(USER_AGENT).no_proxy().resolve(host, ADDRESS).connect_timeout(CONNECT).build()
        };
        let client = taskcluster_api::plain_http_client()
            .and_then(|builder| Ok(build(builder)?))
            .map_err(MetadataError::Client)?;
        Ok(Self { client, base: base.into(), seal, answered: Arc::default(), began: Instant::now() })
    }

    /// The URL of a path, for messages.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn tries(&self) -> Tries {
        let policy = RetryPolicy::persistent(PATIENCE.saturating_sub(self.began.elapsed()));
        Tries::begin(RetryPolicy { longest: LONGEST_PAUSE, ..policy })
    }

    /// What must be there.
    pub async fn required(&self, question: Question) -> Result<Answer, MetadataError> {
        let mut tries = self.tries();
        let mut absent_since = None;
        loop {
            let failure = match self.ask(&question).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let absent = matches!(failure, Failure::Status(StatusCode::NOT_FOUND));
            absent_since = absent.then(|| absent_since.unwrap_or_else(Instant::now));
            let believed = absent_since.is_some_and(|since: Instant| since.elapsed() >= ABSENT_PATIENCE);
            let pause = tries.next_pause(None).filter(|_| !believed);
            let Some(pause) = pause else { return Err(self.failed(&question, failure, tries.elapsed())) };
            let pause = if absent { pause.min(Duration::from_secs(2)) } else { pause };
            tracing::warn!(
                "{} {}: {failure}; trying again in {:.1} s",
                question.method,
                self.url(&question.path),
                pause.as_secs_f32()
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// What may be absent. Absent is also what can't be had within a few tries, once the service answers at all.
    pub async fn optional(&self, question: Question) -> Option<Answer> {
        let mut tries = self.tries();
        let mut counted = 0;
        loop {
            let failure = match self.ask(&question).await {
                Ok(answer) => return Some(answer),
                Err(Failure::Status(StatusCode::NOT_FOUND)) => return None,
                Err(failure) => failure,
            };
            counted += usize::from(self.answered.load(Ordering::Relaxed));
            let Some(pause) = tries.next_pause(None).filter(|_| counted < OPTIONAL_TRIES) else {
                let url = self.url(&question.path);
                tracing::warn!("{} {url}: {failure}, {OPTIONAL_TRIES} times: going on without it", question.method);
                return None;
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One try.
    pub async fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let (method, url) = (question.method.as_str(), self.url(&question.path));
        let span = tracing::info_span!(target: TIMELINE, "request", method, what = url, status = Empty);
        self.send(question).instrument(span).await
    }

    async fn send(&self, question: &Question) -> Result<Answer, Failure> {
        let request = self.client.request(question.method.clone(), self.url(&question.path));
        let mut request = request.headers(question.headers.clone()).timeout(question.timeout);
        if let Some(body) = &question.body {
            request = request.body(body.clone());
        }
        let mut response = request.send().await.map_err(|error| Failure::NoAnswer(describe(&error)))?;
        Span::current().record("status", response.status().as_u16());
        tracing::trace!("{} {} answered {}", question.method, self.url(&question.path), response.status().as_u16());
        if let Some((name, value)) = &self.seal
            && response.headers().get(name).is_none_or(|found| found.as_bytes() != value.as_bytes())
        {
            return Err(Failure::Strange("the answer lacks the header that a genuine one carries"));
        }
        self.answered.store(true, Ordering::Relaxed);
        if !response.status().is_success() {
            return Err(Failure::Status(response.status()));
        }
        let text = read_text(&mut response).instrument(tracing::info_span!(target: TIMELINE, "body")).await?;
        Ok(Answer { text, headers: std::mem::take(response.headers_mut()) })
    }

    fn failed(&self, question: &Question, failure: Failure, tried: Duration) -> MetadataError {
        MetadataError::Failed { method: question.method.clone(), url: self.url(&question.path), failure, tried }
    }

    /// Reads an answer as JSON; says what is wrong by field, never by value.
    pub fn json<T: DeserializeOwned>(&self, path: &str, text: &str) -> Result<T, ProviderError> {
        taskcluster_api::from_json(text.as_bytes()).map_err(|problem| ProviderError::Field {
            url: self.url(path),
            field: "the whole answer",
            problem: problem.to_string(),
        })
    }

    /// Reads a part of an answer that must have a shape.
    pub fn parse<T: std::str::FromStr>(&self, path: &str, field: &'static str, text: &str) -> Result<T, ProviderError>
    where
        T::Err: std::fmt::Display,
    {
        text.parse().map_err(|error: T::Err| {
            // A URL may hold a password.
            let shown = if text.contains('@') { "something else" } else { text };
            let problem = format!("found {:?}: {error}", shown.chars().take(100).collect::<String>());
            ProviderError::Field { url: self.url(path), field, problem }
        })
    }
}

/// An answer's text, within bounds.
async fn read_text(response: &mut reqwest::Response) -> Result<String, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::NoAnswer(describe(&error)))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(Failure::Strange("the answer is larger than 1 MiB"));
        }
    }
    String::from_utf8(body).map_err(|_| Failure::Strange("the answer is no UTF-8"))
}

/// The innermost cause says most, such as `Connection refused`.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::MetadataService;

    #[test]
    fn only_a_loopback_address_can_stand_in_for_the_metadata_service() {
        for good in ["http://127.0.0.1:1234", "http://127.9.9.9", "http://[::1]:80/"] {
            assert!(good.parse::<MetadataService>().is_ok(), "{good}");
        }
        for bad in [
            "http://169.254.169.254",
            "http://localhost",
            "https://127.0.0.1",
            "127.0.0.1",
            "http://127.0.0.1.example.com",
        ] {
            assert!(bad.parse::<MetadataService>().is_err(), "{bad}");
        }
    }
}
