//! One call: URL, signature, deadline, bounded answer, retries.

use crate::answer::{BodyError, MAX_ANSWER, read_body, refusal, transport};
use crate::connect::{Connections, TIMELINE};
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, Method};
use crate::environment::{Environment, EnvironmentError};
use crate::error::{ApiError, Chain, ErrorClass, Failure, Refusal, from_json};
use crate::ids::RootUrl;
use crate::retry::{Repeat, RetryPolicy, Tries};
use crate::sign::{self, Signer};
use crate::tls::{self, SystemVerifier};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use url::Url;

/// Shorter texts are no secrets that could be told from ordinary words.
const SHORTEST_SECRET: usize = 8;

/// A deployment, a connection pool, the credentials, and what is known of the service's clock.
///
/// Clones share the connections and the clock. A call takes the endpoint's own time a try (30 s, or 2 min for
/// registrations) or that of [`Client::with_timeout`], and tries again as [`Client::with_retry`] says: it ends after
/// [`RetryPolicy::total`] and one such time at the latest, or two where the last try shows that our clock is off. Dropping a call's future cancels the call: nothing goes on
/// behind it, though the service may have done by then what it was asked for.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    connections: Connections,
    root_url: RootUrl,
    credentials: Option<Credentials>,
    authorized_scopes: Option<Vec<String>>,
    clock: Arc<Clock>,
    retry: RetryPolicy,
    timeout: Option<Duration>,
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client")]
pub struct NewClientError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// A client can't be made from the environment.
#[derive(Debug, thiserror::Error)]
pub enum FromEnvironmentError {
    /// A variable is missing or wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The HTTP client could not be made.
    #[error(transparent)]
    Client(#[from] NewClientError),
}

/// One call.
pub(crate) struct Call<'a> {
    pub(crate) endpoint: &'static Endpoint,
    /// Those of the path, in its order.
    pub(crate) arguments: &'a [&'a str],
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) body: Option<Value>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(endpoint: &'static Endpoint, arguments: &'a [&'a str]) -> Self {
        Self { endpoint, arguments, query: &[], body: None }
    }
}

impl Client {
    /// A client without credentials: its calls are not signed, and the service takes them for anonymous ones.
    ///
    /// # Errors
    /// Where TLS can't be set up.
    pub fn new(root_url: RootUrl) -> Result<Self, NewClientError> {
        Self::with_user_agent(root_url, concat!("taskcluster-api/", env!("CARGO_PKG_VERSION")))
    }

    /// The same, calling itself something else.
    ///
    /// # Errors
    /// Where TLS can't be set up.
    pub fn with_user_agent(root_url: RootUrl, user_agent: &str) -> Result<Self, NewClientError> {
        let connections = Connections::default();
        let verifier = root_url.is_https().then(SystemVerifier::begin);
        let http = tls::http_client(user_agent, &connections, verifier).map_err(NewClientError)?;
        let (clock, retry) = (Arc::default(), RetryPolicy::DEFAULT);
        Ok(Self {
            http,
            connections,
            root_url,
            credentials: None,
            authorized_scopes: None,
            clock,
            retry,
            timeout: None,
        })
    }

    /// A client with what [`Environment`] finds.
    ///
    /// # Errors
    /// Where a variable is missing or wrong, or TLS can't be set up.
    pub fn from_environment() -> Result<Self, FromEnvironmentError> {
        let Environment { called_url, credentials, .. } = Environment::read()?;
        let client = Self::new(called_url)?;
        Ok(credentials.map(|credentials| client.with_credentials(credentials)).unwrap_or(client))
    }

    /// Connects to the deployment, for the first call to find a connection. Nothing is sent over it; where it can't be
    /// had, the first call says why; and after that it does nothing. A service that closes a connection on which nothing
    /// is said for two seconds costs the first call a try.
    pub async fn connect_ahead(&self) {
        self.connections.make_ahead(self.http.get(self.root_url.as_str()).send()).await;
    }

    /// The same client, signing with these credentials. What its calls are restricted to stays.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self { credentials: Some(credentials), ..self.clone() }
    }

    /// The same client, whose calls may use these of the credentials' scopes only, whichever credentials it gets.
    #[must_use]
    pub fn with_authorized_scopes(&self, scopes: Vec<String>) -> Self {
        Self { authorized_scopes: Some(scopes), ..self.clone() }
    }

    fn signer(&self) -> Option<Signer<'_>> {
        let (credentials, authorized_scopes) = (self.credentials.as_ref()?, self.authorized_scopes.as_deref());
        Some(Signer { credentials, authorized_scopes })
    }

    /// The same client, trying again in another way. [`RetryPolicy::DEFAULT`] is what a client begins with.
    #[must_use]
    pub fn with_retry(&self, retry: RetryPolicy) -> Self {
        Self { retry, ..self.clone() }
    }

    /// The same client, with this much time for each try of any call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
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

    /// The URL of a GET with its signature in it (a Hawk bewit): whoever has it can make this one call until
    /// `valid_for` from now by the service's clock, without any credentials. Nobody is asked.
    ///
    /// ```
    /// # use taskcluster_api::{Client, Credentials, ExposeSecret, endpoint};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new("https://taskcluster.example.com".parse()?)?
    ///     .with_credentials(Credentials::new("me", "token"));
    /// let url = client.signed_url(&endpoint::secrets::GET, &["garbage/a"], &[], Duration::from_secs(60))?;
    /// assert!(url.expose_secret().starts_with("https://taskcluster.example.com/api/secrets/v1/secret/garbage%2Fa?bewit="));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the endpoint is no GET, the arguments are not those of its path, or there are no credentials.
    pub fn signed_url(
        &self,
        endpoint: &'static Endpoint,
        arguments: &[&str],
        query: &[(&str, &str)],
        valid_for: Duration,
    ) -> Result<SecretString, ApiError> {
        let call = Call { endpoint, arguments, query, body: None };
        let refuse = |problem: String| self.error(&call, Failure::Request(problem));
        if endpoint.method != Method::Get {
            return Err(refuse("only the URL of a GET can be signed".to_owned()));
        }
        let signer = self.signer().ok_or_else(|| refuse("it needs credentials".to_owned()))?;
        let url = self.url(&call).map_err(|failure| self.error(&call, failure))?;
        let now = self.clock.service_time(SystemTime::now());
        let expiry = now.checked_add(valid_for).ok_or_else(|| refuse("it would be valid for ever".to_owned()))?;
        signer.signed_url(url, expiry).map_err(refuse)
    }

    /// A call whose answer is of interest.
    pub(crate) async fn call<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ApiError> {
        let answer = self.answer(call).await?;
        from_json(&answer).map_err(|problem| self.error(call, Failure::Decode(problem)))
    }

    /// A call that takes a document.
    pub(crate) async fn call_with<T: DeserializeOwned>(
        &self,
        mut call: Call<'_>,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ApiError> {
        self.give(&mut call, body)?;
        self.call(&call).await
    }

    /// Gives the call its document.
    pub(crate) fn give(&self, call: &mut Call<'_>, body: &impl Serialize) -> Result<(), ApiError> {
        let body = serde_json::to_value(body);
        call.body = Some(body.map_err(|_| self.error(call, Failure::Request("its payload is no JSON".to_owned())))?);
        Ok(())
    }

    /// A call whose answer holds nothing that the API promises.
    pub(crate) async fn perform(&self, call: &Call<'_>) -> Result<(), ApiError> {
        self.answer(call).await.map(drop)
    }

    async fn answer(&self, call: &Call<'_>) -> Result<Vec<u8>, ApiError> {
        let mut tries = Tries::begin(self.retry);
        let mut may_be_done = false;
        loop {
            let error = match self.call_once(call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => ApiError { earlier_may_be_done: may_be_done, ..self.error(call, failure) },
            };
            may_be_done |= !error.failure.is_certainly_undone();
            let may_repeat =
                call.endpoint.idempotent || self.retry.repeat == Repeat::Any || error.failure.is_certainly_undone();
            if !error.is_retryable() || !may_repeat {
                return Err(error);
            }
            let Some(pause) = tries.next_pause(error.retry_after()) else {
                return Err(error);
            };
            tracing::warn!(
                "{} failed ({}); trying again in {:.1} s",
                call.endpoint,
                Chain(&error.failure),
                pause.as_secs_f32()
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// One try; two where the first one shows that our clock is off.
    async fn call_once(&self, call: &Call<'_>) -> Result<Vec<u8>, Failure> {
        let url = self.url(call)?;
        match self.exchange(call, &url).await {
            Err(failure) if failure.class() == ErrorClass::Clock && self.clock.correct(&failure) => {
                self.exchange(call, &url).await
            }
            result => result,
        }
    }

    pub(crate) fn error(&self, call: &Call<'_>, failure: Failure) -> ApiError {
        let url = match self.url(call) {
            Ok(url) => url.into(),
            Err(_) => format!("{}{}", self.root_url, call.endpoint.path(call.arguments)),
        };
        ApiError { endpoint: call.endpoint, url, failure, earlier_may_be_done: false }
    }

    fn url(&self, call: &Call<'_>) -> Result<Url, Failure> {
        // A path with a segment less would be another call.
        if call.endpoint.arguments().count() != call.arguments.len() || call.arguments.contains(&"") {
            return Err(Failure::Request("an argument of its path is empty".to_owned()));
        }
        // Dots alone are a way up the path, even encoded.
        if call.arguments.iter().any(|argument| matches!(*argument, "." | "..")) {
            return Err(Failure::Request("an argument of its path is no name".to_owned()));
        }
        let text = format!("{}{}", self.root_url, call.endpoint.path(call.arguments));
        let mut url = Url::parse(&text).map_err(|error| Failure::Request(error.to_string()))?;
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        Ok(url)
    }

    /// What an answer must not be quoted with, should a service or a proxy echo it; the longest first.
    fn secrets_of(&self, call: &Call<'_>) -> Vec<String> {
        let mut texts = Vec::new();
        if let Some(credentials) = &self.credentials {
            texts.push(credentials.access_token.expose_secret().to_owned());
            if let Some(certificate) = &credentials.certificate {
                let document = serde_json::from_str::<Value>(certificate.expose_secret()).unwrap_or_default();
                collect_texts(document.get("signature"), &mut texts);
                texts.push(certificate.expose_secret().to_owned());
            }
        }
        for key in ["secret", "workerIdentityProof", "providerInfo"] {
            collect_texts(call.body.as_ref().and_then(|body| body.get(key)), &mut texts);
        }
        // As a whole, line by line, and as it stands in JSON.
        let forms = |text: &String| {
            let json = Value::from(text.as_str()).to_string();
            let inner = json.trim_matches('"').to_owned();
            text.lines().map(str::to_owned).chain([text.clone(), inner]).collect::<Vec<_>>()
        };
        let mut secrets: Vec<String> =
            texts.iter().flat_map(forms).filter(|text| text.len() >= SHORTEST_SECRET).collect();
        secrets.sort_unstable_by_key(|text| std::cmp::Reverse(text.len()));
        secrets
    }

    async fn exchange(&self, call: &Call<'_>, url: &Url) -> Result<Vec<u8>, Failure> {
        let method = call.endpoint.method.as_str();
        let span = tracing::info_span!(target: TIMELINE, "request", method, what = %url, status = Empty);
        self.send(call, url).instrument(span).await
    }

    async fn send(&self, call: &Call<'_>, url: &Url) -> Result<Vec<u8>, Failure> {
        let timeout = self.timeout.unwrap_or(call.endpoint.timeout);
        let body = call.body.as_ref().map(|body| body.to_string().into_bytes());
        let method = match call.endpoint.method {
            Method::Get => reqwest::Method::GET,
            Method::Put => reqwest::Method::PUT,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = self.http.request(method, url.clone()).timeout(timeout);
        // What asks for no scopes is taken from anybody: a registration shows its proof instead.
        if let Some(signer) = self.signer().filter(|_| !call.endpoint.scopes.is_empty()) {
            let now = self.clock.service_time(SystemTime::now());
            let method = call.endpoint.method.as_str();
            let value =
                signer.authorization((method, url), body.as_deref(), now, sign::nonce()).map_err(Failure::Request)?;
            let mut header = reqwest::header::HeaderValue::try_from(value)
                .map_err(|_| Failure::Request("the client id does not fit into a header".to_owned()))?;
            header.set_sensitive(true);
            request = request.header(AUTHORIZATION, header);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, sign::CONTENT_TYPE).body(body);
        }
        let response = request.send().await.map_err(|error| transport(error, timeout))?;
        let status = response.status();
        tracing::debug!("{} {url} answered {}", call.endpoint.method.as_str(), status.as_u16());
        let headers = response.headers().clone();
        Span::current().record("status", status.as_u16());
        let body =
            read_body(response).instrument(tracing::info_span!(target: TIMELINE, "body")).await.map_err(|error| {
                match error {
                    BodyError::TooLarge => Failure::TooLarge(MAX_ANSWER),
                    BodyError::Broken(error) => transport(error, timeout),
                }
            })?;
        if !status.is_success() {
            let secrets = self.secrets_of(call);
            return Err(refusal(status.as_u16(), &headers, &body, &secrets));
        }
        Ok(body)
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
        let Failure::Status(Refusal { date: Some(date), .. }) = failure else { return false };
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
    use reqwest::header::HeaderMap;

    #[test]
    fn nothing_that_was_sent_in_secret_is_quoted_in_whatever_form() {
        let certificate = r#"{"version":1,"signature":"canary+signature=="}"#;
        let credentials =
            Credentials { certificate: Some(certificate.into()), ..Credentials::new("me", "canary-token") };
        let client = Client::new("http://127.0.0.1:1".parse().unwrap()).unwrap().with_credentials(credentials);
        let body =
            serde_json::json!({"secret": {"key": "canary begin\ncanary end", "longer": "canary begin and more"}});
        let arguments = ["x"];
        let call = Call { body: Some(body), ..Call::new(&crate::endpoint::secrets::SET, &arguments) };
        let secrets = client.secrets_of(&call);
        let echo = r"key canary begin\ncanary end; canary end; canary begin and more; canary-token; canary+signature==";
        let answer = serde_json::json!({
            "code": "canary-token", "message": echo,
            "requestInfo": {"method": "canary-token", "params": {"name": "canary-token"}},
        });
        let failure = refusal(400, &HeaderMap::new(), answer.to_string().as_bytes(), &secrets);
        assert!(!format!("{failure:?}").contains("canary"), "{failure:?}");
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
