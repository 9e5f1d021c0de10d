//! The calls of worker-manager that a machine makes. Source: `references/worker-manager/v1/api.json`.

use crate::client::{Call, Client};
use crate::credentials::Credentials;
use crate::error::{ApiError, Failure};
use crate::ids::{Identifier, WorkerPoolId};
use crate::retry::RetryPolicy;
use jiff::Timestamp;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

const SERVICE: &str = "worker-manager";

/// How long one try of an ordinary call may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long one try of `registerWorker` or `reregisterWorker` may take: long, for one that we give up may have
/// succeeded, and then a machine has used its one registration, or its secret.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(120);

/// worker-manager accepts titles of this many characters (`worker-pool-error.json`).
const MAX_TITLE: usize = 128;

/// worker-manager accepts descriptions of this many characters (`worker-pool-error.json`).
const MAX_DESCRIPTION: usize = 10_240;

/// worker-manager, through a [`Client`].
#[derive(Debug, Clone)]
pub struct WorkerManager(Client);

/// Which worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName {
    /// The pool it belongs to.
    pub worker_pool_id: WorkerPoolId,
    /// Its group.
    pub worker_group: Identifier,
    /// Its id within the group.
    pub worker_id: Identifier,
}

/// What `registerWorker` asks for.
#[derive(Debug, Clone)]
pub struct RegisterWorker<'a> {
    /// The worker.
    pub worker: &'a WorkerName,
    /// The provider that made it.
    pub provider_id: &'a Identifier,
    /// What proves it, of the provider's own form.
    pub proof: &'a WorkerProof,
    /// When the machine's operating system came up.
    pub system_boot_time: Option<Timestamp>,
}

/// `workerIdentityProof`: what a machine shows to prove that it is the worker.
#[derive(Debug, Clone)]
pub enum WorkerProof {
    /// aws: the instance identity document, byte for byte, and its signature.
    Aws {
        /// The document.
        document: SecretString,
        /// Its signature.
        signature: SecretString,
    },
    /// azure: the attested document.
    Azure {
        /// The document.
        document: SecretString,
    },
    /// google: an identity token for the root URL.
    Google {
        /// The token.
        token: SecretString,
    },
    /// static: the secret that worker-manager and the machine share.
    Static {
        /// The secret.
        secret: SecretString,
    },
}

impl WorkerProof {
    fn to_json(&self) -> Value {
        match self {
            Self::Aws { document, signature } => {
                json!({"document": document.expose_secret(), "signature": signature.expose_secret()})
            }
            Self::Azure { document } => json!({"document": document.expose_secret()}),
            Self::Google { token } => json!({"token": token.expose_secret()}),
            Self::Static { secret } => json!({"staticSecret": secret.expose_secret()}),
        }
    }
}

/// What `registerWorker` answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "WireRegistration")]
pub struct Registration {
    /// Credentials, their end, and what renews them.
    pub renewal: Renewal,
    /// The worker pool's configuration for this worker.
    pub worker_config: Map<String, Value>,
}

/// What `reregisterWorker` asks for.
#[derive(Debug, Clone)]
pub struct ReregisterWorker<'a> {
    /// The worker.
    pub worker: &'a WorkerName,
    /// The secret of the last registration; dead as soon as the call succeeds.
    pub secret: &'a SecretString,
}

/// What `reregisterWorker` answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "WireRenewal")]
pub struct Renewal {
    /// The credentials.
    pub credentials: Credentials,
    /// When they end.
    pub expires: Timestamp,
    /// What renews them, once.
    pub secret: SecretString,
}

/// What `reportWorkerError` takes. Everything in it becomes public.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportWorkerError {
    /// What kind, for grouping.
    pub kind: String,
    /// One line.
    pub title: String,
    /// More.
    pub description: String,
    /// Anything more.
    pub extra: Map<String, Value>,
}

/// What `shouldWorkerTerminate` answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ShouldTerminate {
    /// Whether the worker should end.
    pub terminate: bool,
    /// Why.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRegistration {
    #[serde(deserialize_with = "crate::time::clamped")]
    expires: Timestamp,
    credentials: WireCredentials,
    secret: SecretString,
    worker_config: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRenewal {
    #[serde(deserialize_with = "crate::time::clamped")]
    expires: Timestamp,
    credentials: WireCredentials,
    secret: SecretString,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCredentials {
    client_id: String,
    access_token: SecretString,
    #[serde(default)]
    certificate: Option<SecretString>,
}

/// An answer that holds nothing of interest.
#[derive(Deserialize)]
struct Empty {}

impl WorkerManager {
    /// The service, through this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// `registerWorker`: shows the proof, gets credentials. Unsigned. A cloud worker registers once.
    ///
    /// # Errors
    /// As [`ApiError`] says; retried as `retry` says.
    pub async fn register_worker(
        &self,
        request: RegisterWorker<'_>,
        retry: RetryPolicy,
    ) -> Result<Registration, ApiError> {
        let mut body = json!({
            "workerPoolId": request.worker.worker_pool_id,
            "providerId": request.provider_id,
            "workerGroup": request.worker.worker_group,
            "workerId": request.worker.worker_id,
            "workerIdentityProof": request.proof.to_json(),
        });
        if let Some(time) = request.system_boot_time {
            body["systemBootTime"] = format!("{time:.3}").into();
        }
        let call = Call { timeout: REGISTER_TIMEOUT, ..post("registerWorker", &["worker", "register"], body, retry) };
        let call = Call { signed: false, ..call };
        self.0.call(call).await
    }

    /// `reregisterWorker`: new credentials for old ones that still live. The secret is dead afterwards, even
    /// where the answer is lost.
    ///
    /// # Errors
    /// As [`ApiError`] says; retried as `retry` says.
    pub async fn reregister_worker(
        &self,
        request: ReregisterWorker<'_>,
        retry: RetryPolicy,
    ) -> Result<Renewal, ApiError> {
        let body = json!({
            "workerPoolId": request.worker.worker_pool_id,
            "workerGroup": request.worker.worker_group,
            "workerId": request.worker.worker_id,
            "secret": request.secret.expose_secret(),
        });
        let call = post("reregisterWorker", &["worker", "reregister"], body, retry);
        self.0.call(Call { timeout: REGISTER_TIMEOUT, ..call }).await
    }

    /// `removeWorker`: ends the machine and the worker.
    ///
    /// # Errors
    /// As [`ApiError`] says; retried as `retry` says.
    pub async fn remove_worker(&self, worker: &WorkerName, retry: RetryPolicy) -> Result<(), ApiError> {
        let [pool, group, id] = worker.segments();
        let Empty {} = self
            .0
            .call(Call {
                name: "removeWorker",
                method: Method::DELETE,
                service: SERVICE,
                path: &["workers", pool, group, id],
                body: None,
                signed: true,
                timeout: TIMEOUT,
                retry,
            })
            .await?;
        Ok(())
    }

    /// `reportWorkerError`: what the pool's operators see of a failure. Clipped to what the service accepts.
    ///
    /// # Errors
    /// As [`ApiError`] says; retried as `retry` says.
    pub async fn report_worker_error(
        &self,
        worker: &WorkerName,
        report: ReportWorkerError,
        retry: RetryPolicy,
    ) -> Result<(), ApiError> {
        let report = report.clipped();
        let body = json!({
            "workerGroup": worker.worker_group,
            "workerId": worker.worker_id,
            "kind": report.kind,
            "title": report.title,
            "description": report.description,
            "extra": report.extra,
        });
        let path = ["worker-pool-errors", worker.worker_pool_id.as_str()];
        let _: Value = self.0.call(post("reportWorkerError", &path, body, retry)).await?;
        Ok(())
    }

    /// `shouldWorkerTerminate`: whether worker-manager wants the worker to end.
    ///
    /// # Errors
    /// As [`ApiError`] says; retried as `retry` says.
    pub async fn should_worker_terminate(
        &self,
        worker: &WorkerName,
        retry: RetryPolicy,
    ) -> Result<ShouldTerminate, ApiError> {
        let [pool, group, id] = worker.segments();
        self.0
            .call(Call {
                name: "shouldWorkerTerminate",
                method: Method::GET,
                service: SERVICE,
                path: &["workers", pool, group, id, "should-terminate"],
                body: None,
                signed: true,
                timeout: TIMEOUT,
                retry,
            })
            .await
    }
}

impl ReportWorkerError {
    /// How much `extra` may hold, in bytes of JSON: the service sets no limit, memory does.
    const MAX_EXTRA: usize = 16 * 1024;

    /// The report, cut to what the service accepts.
    #[must_use]
    pub fn clipped(self) -> Self {
        let extra = if Value::Object(self.extra.clone()).to_string().len() > Self::MAX_EXTRA {
            Map::from_iter([("truncated".to_owned(), Value::Bool(true))])
        } else {
            self.extra
        };
        Self {
            kind: valid_kind(&self.kind),
            title: clip(&self.title, MAX_TITLE),
            description: clip(&self.description, MAX_DESCRIPTION),
            extra,
        }
    }
}

impl WorkerName {
    fn segments(&self) -> [&str; 3] {
        [self.worker_pool_id.as_str(), self.worker_group.as_str(), self.worker_id.as_str()]
    }
}

impl From<WireRenewal> for Renewal {
    fn from(wire: WireRenewal) -> Self {
        Self { credentials: wire.credentials.into(), expires: wire.expires, secret: wire.secret }
    }
}

impl From<WireRegistration> for Registration {
    fn from(wire: WireRegistration) -> Self {
        let WireRegistration { expires, credentials, secret, worker_config } = wire;
        Self { renewal: Renewal { credentials: credentials.into(), expires, secret }, worker_config }
    }
}

impl From<WireCredentials> for Credentials {
    fn from(wire: WireCredentials) -> Self {
        // The service of a deployment without temporary credentials answers with an empty certificate.
        let certificate = wire.certificate.filter(|certificate| !certificate.expose_secret().is_empty());
        Self { client_id: wire.client_id, access_token: wire.access_token, certificate }
    }
}

fn post<'a>(name: &'static str, path: &'a [&'a str], body: Value, retry: RetryPolicy) -> Call<'a> {
    Call { name, method: Method::POST, service: SERVICE, path, body: Some(body), signed: true, timeout: TIMEOUT, retry }
}

fn clip(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters - 1).chain(['…']).collect(),
    }
}

/// The kind with whatever the service's pattern `[-a-z0-9]+` doesn't allow replaced.
fn valid_kind(kind: &str) -> String {
    let valid = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let kind: String = kind.chars().map(|c| valid(c.to_ascii_lowercase())).take(MAX_TITLE).collect();
    if kind.is_empty() { "worker-error".to_owned() } else { kind }
}

impl ApiError {
    /// For `registerWorker`: the service says that this worker has registered before, which no proof changes.
    pub fn is_already_registered(&self) -> bool {
        match &self.failure {
            Failure::Status { status: 400 | 409, message, .. } => {
                let message = message.to_ascii_lowercase();
                ["already running", "already been registered", "already registered", "stopped"]
                    .iter()
                    .any(|words| message.contains(words))
            }
            Failure::Status { .. }
            | Failure::Transport(_)
            | Failure::Timeout(_)
            | Failure::TooLarge(_)
            | Failure::Decode(_)
            | Failure::Request(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Registration, clip, valid_kind};
    use crate::error::from_json;
    use proptest::prelude::*;

    proptest! {
        /// Whatever answers is read or refused, and a refusal holds none of it.
        #[test]
        fn any_answer_is_read_or_refused(token in "[a-z]{20}", cut in 0usize..400, flip in any::<u8>()) {
            let answer = format!(
                r#"{{"expires":"2999-01-01T00:00:00Z","secret":"{token}","credentials":{{"clientId":"c","accessToken":"{token}","certificate":""}},"workerConfig":{{}}}}"#
            );
            let whole: Registration = from_json(answer.as_bytes()).unwrap();
            prop_assert!(whole.renewal.credentials.certificate.is_none());
            let mut bytes = answer.into_bytes();
            let at = cut % bytes.len();
            bytes[at] = flip;
            if let Err(error) = from_json::<Registration>(&bytes) {
                prop_assert!(!error.to_string().contains(&token[..]));
            }
            prop_assert!(from_json::<Registration>(&bytes[..at]).is_err());
        }
    }

    #[test]
    fn reports_are_clipped_to_what_the_service_accepts() {
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöüx", 3), "äö…");
        assert_eq!(valid_kind("Worker Failed!"), "worker-failed-");
        assert_eq!(valid_kind(""), "worker-error");
    }
}
