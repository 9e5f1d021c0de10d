//! One call: URL, signature, deadline, bounded answer, retries.

use crate::credentials::Credentials;
use crate::error::{ApiError, Chain, ErrorClass, Failure, from_json};
use crate::ids::RootUrl;
use crate::retry::{RetryPolicy, Tries};
use crate::{sign, tls};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};
use url::Url;

/// An answer may have this many bytes: a worker pool's configuration carries whole files.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A service's `Retry-After` is honoured up to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// What `encodeURIComponent` leaves as it is.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// A deployment, a connection pool, the credentials and what is known of the service's clock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    root_url: RootUrl,
    credentials: Option<Credentials>,
    clock: Arc<Clock>,
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client")]
pub struct NewClientError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// One call, as the API reference describes it.
pub(crate) struct Call<'a> {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    pub(crate) service: &'static str,
    pub(crate) path: &'a [&'a str],
    pub(crate) body: Option<Value>,
    pub(crate) signed: bool,
    /// How long one try may take.
    pub(crate) timeout: Duration,
    pub(crate) retry: RetryPolicy,
}

impl Client {
    /// A client without credentials.
    ///
    /// # Errors
    /// Where TLS can't be set up.
    pub fn new(root_url: RootUrl) -> Result<Self, NewClientError> {
        let http = tls::http_client(&root_url).map_err(NewClientError)?;
        Ok(Self { http, root_url, credentials: None, clock: Arc::default() })
    }

    /// The same client, signing with these credentials; connections and clock are shared.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self { credentials: Some(credentials), ..self.clone() }
    }

    /// The deployment.
    pub fn root_url(&self) -> &RootUrl {
        &self.root_url
    }

    /// How far the service's clock was ahead of ours, in seconds, when it last refused a request for that; 0 where it
    /// never has.
    pub fn clock_offset(&self) -> i64 {
        self.clock.0.load(Ordering::Relaxed)
    }

    pub(crate) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ApiError> {
        let mut tries = Tries::begin(call.retry);
        loop {
            let error = match self.call_once(&call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error);
            }
            let Some(pause) = tries.next_pause(error.retry_after().map(|asked| asked.min(MAX_RETRY_AFTER))) else {
                return Err(error);
            };
            tracing::warn!(
                "{} failed ({}); trying again in {:.1} s",
                call.name,
                Chain(&error.failure),
                pause.as_secs_f32()
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// One try; two where the first one shows that our clock is off.
    async fn call_once<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ApiError> {
        match self.exchange(call).await {
            Err(error) if call.signed && error.class() == ErrorClass::Clock && self.clock.correct(&error.failure) => {
                self.exchange(call).await
            }
            result => result,
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ApiError> {
        let text = self.url(call);
        let result = match Url::parse(&text) {
            Ok(url) => self.send(call, url).await,
            Err(error) => Err(Failure::Request(error.to_string())),
        };
        result.map_err(|failure| ApiError { call: call.name, url: text, failure })
    }

    fn url(&self, call: &Call<'_>) -> String {
        let mut url = format!("{}/api/{}/v1", self.root_url, call.service);
        for segment in call.path {
            url.push('/');
            url.extend(utf8_percent_encode(segment, PATH_SEGMENT));
        }
        url
    }

    /// What an answer must not be quoted with, should a service or a proxy echo it.
    fn secrets_of(&self, call: &Call<'_>) -> Vec<String> {
        let mut secrets = Vec::new();
        if let Some(credentials) = &self.credentials {
            secrets.push(credentials.access_token.expose_secret().to_owned());
        }
        for key in ["secret", "workerIdentityProof"] {
            collect_texts(call.body.as_ref().and_then(|body| body.get(key)), &mut secrets);
        }
        secrets
    }

    async fn send<T: DeserializeOwned>(&self, call: &Call<'_>, url: Url) -> Result<T, Failure> {
        let body = call.body.as_ref().map(|body| body.to_string().into_bytes());
        let mut request = self.http.request(call.method.clone(), url.clone()).timeout(call.timeout);
        if call.signed {
            let credentials =
                self.credentials.as_ref().ok_or_else(|| Failure::Request("it needs credentials".to_owned()))?;
            let now = self.clock.service_time(SystemTime::now());
            let value = sign::authorization(credentials, (call.method.as_str(), &url), body.as_deref(), now)
                .map_err(Failure::Request)?;
            let mut header = reqwest::header::HeaderValue::try_from(value)
                .map_err(|_| Failure::Request("the client id does not fit into a header".to_owned()))?;
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, sign::CONTENT_TYPE).body(body);
        }
        let response = request.send().await.map_err(|error| transport(error, call.timeout))?;
        let status = response.status();
        tracing::debug!("{} {url} answered {}", call.method, status.as_u16());
        let headers = response.headers().clone();
        let body = read_body(response).await.map_err(|error| match error {
            BodyError::TooLarge => Failure::TooLarge(MAX_ANSWER),
            BodyError::Broken(error) => transport(error, call.timeout),
        })?;
        if !status.is_success() {
            let secrets = self.secrets_of(call);
            return Err(refusal(status.as_u16(), &headers, &body, &secrets));
        }
        from_json(&body).map_err(Failure::Decode)
    }
}

fn collect_texts(value: Option<&Value>, texts: &mut Vec<String>) {
    match value {
        Some(Value::String(text)) => texts.push(text.clone()),
        Some(Value::Object(members)) => members.values().for_each(|member| collect_texts(Some(member), texts)),
        Some(Value::Array(elements)) => elements.iter().for_each(|element| collect_texts(Some(element), texts)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_)) | None => {}
    }
}

enum BodyError {
    TooLarge,
    Broken(reqwest::Error),
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn transport(error: reqwest::Error, timeout: Duration) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        Failure::Timeout(timeout)
    } else {
        Failure::Transport(error.without_url().into())
    }
}

/// Reads a Taskcluster error: `{code, message, requestInfo}`, where a line `---` in the message begins an echo
/// of the request, which may hold secrets.
fn refusal(status: u16, headers: &HeaderMap, body: &[u8], secrets: &[String]) -> Failure {
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let text = |name: &str| document.as_ref().and_then(|document| document.get(name)).and_then(Value::as_str);
    let message = text("message").map(|message| {
        let own = message.lines().take_while(|line| !line.starts_with("---")).collect::<Vec<_>>().join("\n");
        let hide = |text: String, secret: &String| text.replace(secret.as_str(), "[redacted]");
        let own = secrets.iter().filter(|secret| secret.len() >= 8).fold(own, hide);
        own.trim().chars().take(1000).collect()
    });
    let header = |name| headers.get(name).and_then(|value: &reqwest::header::HeaderValue| value.to_str().ok());
    let date = header(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let retry_after = header(RETRY_AFTER).and_then(|value| match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(date.unwrap_or_else(SystemTime::now)).ok(),
    });
    Failure::Status {
        status,
        code: text("code").map(|code| code.chars().take(100).collect()),
        message: message.unwrap_or_default(),
        retry_after,
        date,
    }
}

/// How far the service's clock is ahead of ours, in seconds.
#[derive(Debug, Default)]
struct Clock(AtomicI64);

impl Clock {
    fn service_time(&self, now: SystemTime) -> SystemTime {
        let offset = self.0.load(Ordering::Relaxed);
        let distance = Duration::from_secs(offset.unsigned_abs());
        let shifted = if offset < 0 { now.checked_sub(distance) } else { now.checked_add(distance) };
        shifted.unwrap_or(now)
    }

    /// Takes the offset from an answer; whether there was one to take.
    fn correct(&self, failure: &Failure) -> bool {
        let Failure::Status { date: Some(date), .. } = failure else { return false };
        let now = SystemTime::now();
        let offset = match date.duration_since(now) {
            Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX),
            Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(i64::MAX),
        };
        if self.0.swap(offset, Ordering::Relaxed) == 0 {
            tracing::warn!(
                "this machine's clock differs from the service's by {offset} s; signing with the service's time from now on"
            );
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_of_the_request_is_not_part_of_the_message() {
        let body = br#"{"code":"InputError","message":"no such pool\n\n---\n\n* payload: canary","requestInfo":{}}"#;
        let failure = refusal(400, &HeaderMap::new(), body, &[]);
        assert_eq!(failure.to_string(), "answered 400 InputError: no such pool");
        let body = br#"{"code":"InputError","message":"your token canary-token is none","requestInfo":{}}"#;
        let failure = refusal(400, &HeaderMap::new(), body, &["canary-token".to_owned()]);
        assert_eq!(failure.to_string(), "answered 400 InputError: your token [redacted] is none");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_services_clock() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Sat, 21 Nov 2026 00:00:00 GMT".parse().unwrap());
        for (value, expected) in [("7", 7), ("Sat, 21 Nov 2026 00:01:00 GMT", 60)] {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            match refusal(429, &headers, b"", &[]) {
                Failure::Status { retry_after, .. } => assert_eq!(retry_after, Some(Duration::from_secs(expected))),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn an_offset_moves_the_time_that_is_signed_both_ways() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let clock = Clock::default();
        for (offset, expected) in [(0, 10_000), (90, 10_090), (-90, 9_910)] {
            clock.0.store(offset, Ordering::Relaxed);
            assert_eq!(clock.service_time(now), SystemTime::UNIX_EPOCH + Duration::from_secs(expected));
        }
    }
}
