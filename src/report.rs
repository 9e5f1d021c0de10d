//! Telling worker-manager of errors. What is told becomes public, so nothing secret is part of it, and nothing is told
//! twice within an hour, whoever starts us how often: what was told is noted in a file, as hashes.

use crate::hash::hex;
use crate::json::object;
use crate::layer::{Layer, REDACTED};
use crate::private_file::{self, Durability};
use crate::run_state::{Admitted, RunState};
use crate::runner_config::settings::ReportSettings;
use jiff::Timestamp;
use ring::digest;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use taskcluster_api::{
    ApiError, Client, Credentials, Failure, ReportWorkerError, RetryPolicy, WorkerManager, WorkerName,
};
use worker_protocol::line::MAX_MESSAGE;

/// A string of a secret that is shorter than this may be any word, and is no secret by itself.
const SHORTEST_SECRET: usize = 8;

/// Sends reports. Cheap to clone: all clones know what was told.
#[derive(Debug, Clone)]
pub struct Reporter {
    settings: ReportSettings,
    /// Whether our client may lack the scope: those of standalone workers are made by hand.
    may_lack_scope: bool,
    /// Where that is noted, beside a tombstone.
    file: PathBuf,
    told: Arc<Mutex<Vec<Told>>>,
}

/// A failure that was told of.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Told {
    /// What makes two reports the same: their kind, title and description, without the worker's lines.
    failure: String,
    when: Timestamp,
}

/// What stands before the worker's lines.
pub const LAST_LINES: &str = "The worker's last lines:";

/// The name of that file.
const FILE: &str = "start-worker-reports.json";

/// How long writing it may hold anything up.
const PATIENCE: Duration = Duration::from_secs(2);

impl Reporter {
    /// What was told before is noted in that folder.
    pub fn new(settings: &ReportSettings, may_lack_scope: bool, folder: &Path) -> Self {
        let file = folder.join(FILE);
        // One that is not there, or makes no sense, knows of nothing.
        let told = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { settings: settings.clone(), may_lack_scope, file, told: Arc::new(Mutex::new(told)) }
    }

    /// Tries to report an error; that it can't be reported is a line in the log.
    pub async fn send(&self, client: &Client, worker: &WorkerName, redactor: &Redactor, report: ReportWorkerError) {
        let report = redactor.report(report);
        let (failure, title) = (failure_of(&report, worker), report.title.clone());
        if self.was_told(&failure) {
            tracing::debug!("not reported again: {}", report.title);
            return;
        }
        let timeout = self.settings.timeout;
        // The same report twice is better than none.
        let service = WorkerManager::new(client.with_retry(RetryPolicy::persistent(timeout)));
        match tokio::time::timeout(timeout, service.report_worker_error(worker, report)).await {
            // An answer that makes no sense is still that of a service that took the report.
            Ok(Ok(_) | Err(ApiError { failure: Failure::Decode(_), .. })) => {
                tracing::info!("reported to worker-manager: {title}");
                self.note(failure).await;
            }
            Ok(Err(error)) if error.status() == Some(403) && self.may_lack_scope => {
                tracing::debug!("may not report errors: {}", error.failure);
            }
            Ok(Err(error)) => tracing::warn!("cannot report an error to worker-manager: {}", error.failure),
            Err(_) => {
                tracing::warn!("cannot report an error to worker-manager within {} s", timeout.as_secs_f32());
            }
        }
    }

    fn was_told(&self, failure: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        // What is noted for the future was noted by a clock that was wrong.
        let counts = |told: &Told| {
            Duration::try_from(now.duration_since(told.when)).is_ok_and(|age| age < self.settings.repeat_after)
        };
        told.retain(counts);
        told.iter().any(|known| known.failure == failure)
    }

    async fn note(&self, failure: String) {
        let text = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.push(Told { failure, when: Timestamp::now() });
            serde_json::to_vec(&*told).unwrap_or_default()
        };
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || private_file::write(&file, &text, Durability::Fleeting));
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!("cannot note the report in {}: {error}", self.file.display()),
            Ok(Err(_)) | Err(_) => tracing::debug!("cannot note the report in {}", self.file.display()),
        }
    }
}

/// Several workers may have one folder for what they have told.
fn failure_of(report: &ReportWorkerError, worker: &WorkerName) -> String {
    let description = report.description.split(LAST_LINES).next().unwrap_or_default();
    let text = [&*report.kind, &*report.title, description, &worker.to_string()].join("\n");
    hex(&digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Knows the secrets of a run, and takes them out of what becomes public.
#[derive(Debug, Clone, Default)]
pub struct Redactor(Vec<SecretString>);

impl Redactor {
    /// Knows a machine's credentials.
    pub fn of_machine(admitted: &Admitted) -> Self {
        let mut redactor = Self::default();
        redactor.learn(&admitted.credentials, admitted.lease.as_ref().map(|lease| &lease.secret));
        redactor
    }

    /// Knows everything secret about a run.
    pub fn of(run: &RunState) -> Self {
        let mut redactor = Self::of_machine(&run.admitted);
        let secret = run.layers.iter().filter(|layer| layer.source.is_secret());
        secret.for_each(|Layer { config, .. }| config.values().for_each(|value| redactor.learn_value(value)));
        for file in &run.files {
            file.secret_texts().iter().for_each(|text| redactor.learn_text(text));
        }
        redactor
    }

    /// Learns any other secret.
    pub fn learn_secret(&mut self, secret: &SecretString) {
        self.learn_text(secret.expose_secret());
    }

    /// Learns new credentials; the old ones stay known.
    pub fn learn(&mut self, credentials: &Credentials, registration: Option<&SecretString>) {
        self.learn_text(credentials.access_token.expose_secret());
        if let Some(certificate) = &credentials.certificate {
            let text = certificate.expose_secret();
            self.learn_text(text);
            // Whoever prints it may print it another way.
            let parts: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            parts.get("signature").into_iter().for_each(|signature| self.learn_value(signature));
        }
        if let Some(secret) = registration {
            self.learn_text(secret.expose_secret());
        }
    }

    fn learn_value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.learn_text(text),
            Value::Array(elements) => elements.iter().for_each(|element| self.learn_value(element)),
            Value::Object(members) => members.values().for_each(|member| self.learn_value(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn learn_text(&mut self, text: &str) {
        // Of a text of several lines any line may turn up by itself. What is longer than a message is in none.
        let parts = [text].into_iter().chain(text.lines().map(str::trim));
        self.0
            .extend(parts.filter(|part| (SHORTEST_SECRET..=MAX_MESSAGE).contains(&part.len())).map(SecretString::from));
        // The longest first: one may be part of another.
        self.0.sort_unstable_by(|a, b| rank(a).cmp(&rank(b)));
        self.0.dedup_by(|a, b| rank(a) == rank(b));
    }

    /// The report without secrets.
    pub fn report(&self, report: ReportWorkerError) -> ReportWorkerError {
        let ReportWorkerError { kind, title, description, extra } = report;
        let extra = object(extra.into_iter().map(|(key, value)| (self.text(&key), self.value(value))));
        ReportWorkerError {
            kind: self.text(&kind),
            title: self.text(&title),
            description: self.text(&description),
            extra,
        }
    }

    /// A text without secrets.
    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            let secret = secret.expose_secret();
            if text.contains(secret) { text.replace(secret, REDACTED) } else { text }
        })
    }

    fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.text(&text).into(),
            Value::Array(elements) => elements.into_iter().map(|element| self.value(element)).collect(),
            Value::Object(members) => {
                object(members.into_iter().map(|(key, value)| (self.text(&key), self.value(value)))).into()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}

/// By length, the longest first, then by text.
fn rank(secret: &SecretString) -> (std::cmp::Reverse<usize>, &str) {
    let text = secret.expose_secret();
    (std::cmp::Reverse(text.len()), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_secret_is_taken_out_wherever_it_stands() {
        let mut redactor = Redactor::default();
        let certificate = json!({"signature": "canary-signature", "scopes": ["assume:worker"]}).to_string();
        let credentials = Credentials {
            client_id: "worker/1".into(),
            access_token: "canary-token".into(),
            certificate: Some(certificate.clone().into()),
        };
        redactor.learn(&credentials, Some(&"canary-token-and-more".into()));
        redactor.learn_value(&json!({"a": ["canary-in-a-list", "short"], "key": "first line\ncanary-second-line\n"}));
        // However long it is.
        redactor.learn_text(&(0..50_000).fold(String::new(), |text, line| text + &format!("canary-line-{line:06}\n")));
        let report = ReportWorkerError {
            kind: "worker-failed".into(),
            title: "it said canary-token-and-more, worker/1".into(),
            description: format!("{certificate} canary-signature canary-second-line short canary-line-000007"),
            extra: json!({"x": {"canary-in-a-list": ["<canary-token>", 5]}}).as_object().cloned().unwrap(),
        };
        let public = redactor.report(report);
        let text = format!("{public:?}");
        assert!(!text.contains("canary"), "{text}");
        assert!(text.contains("short") && text.contains("worker/1"), "{text}");
        assert_eq!(public.title, "it said [redacted], worker/1");
    }
}
