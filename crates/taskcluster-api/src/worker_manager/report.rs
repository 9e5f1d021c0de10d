//! Errors of workers and pools, which are public.

use super::worker::WorkerName;
use crate::ids::{LaunchConfigId, SlugId, WorkerGroup, WorkerId, WorkerPoolId};
use crate::pages::page_body;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// worker-manager accepts titles of this many characters (`worker-pool-error.json`).
const MAX_TITLE: usize = 128;

/// What a worker reports. Everything in it becomes public.
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

impl ReportWorkerError {
    /// worker-manager accepts descriptions of this many characters (`worker-pool-error.json`).
    pub const MAX_DESCRIPTION: usize = 10_240;

    /// How much `extra` may hold, in bytes of JSON: the service sets no limit, memory does.
    const MAX_EXTRA: usize = 16 * 1024;

    /// The report, cut to what the service accepts.
    #[must_use]
    pub fn clipped(self) -> Self {
        let extra = if Value::Object(self.extra.clone()).to_string().len() > Self::MAX_EXTRA {
            let mut cut = Map::new();
            cut.insert("truncated".to_owned(), Value::Bool(true));
            cut
        } else {
            self.extra
        };
        Self {
            kind: valid_kind(&self.kind),
            title: clip(&self.title, MAX_TITLE),
            description: clip(&self.description, Self::MAX_DESCRIPTION),
            extra,
        }
    }
}

/// What `reportWorkerError` takes. Schema: `report-worker-error-request.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReportWorkerErrorRequest {
    /// The worker's group.
    pub worker_group: WorkerGroup,
    /// The worker's id within the group.
    pub worker_id: WorkerId,
    /// What kind, for grouping.
    pub kind: String,
    /// One line: at most 128 characters.
    pub title: String,
    /// More: at most 10,240 characters.
    pub description: String,
    /// Anything more.
    pub extra: Map<String, Value>,
}

impl ReportWorkerErrorRequest {
    pub(crate) fn of(worker: &WorkerName, report: ReportWorkerError) -> Self {
        let ReportWorkerError { kind, title, description, extra } = report;
        let (worker_group, worker_id) = (worker.worker_group.clone(), worker.worker_id.clone());
        Self { worker_group, worker_id, kind, title, description, extra }
    }
}

/// An error of a worker or of a pool's provisioning, in `listWorkerPoolErrors`, and what `reportWorkerError` answers. Schema: `worker-pool-error.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolError {
    /// The pool.
    pub worker_pool_id: WorkerPoolId,
    /// The error's own id.
    pub error_id: SlugId,
    /// When it was reported.
    #[serde(with = "crate::time")]
    pub reported: Timestamp,
    /// What kind, for grouping.
    pub kind: String,
    /// One line.
    pub title: String,
    /// More.
    pub description: String,
    /// Anything more: usually `workerGroup` and `workerId`.
    pub extra: Map<String, Value>,
    /// What the worker was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_config_id: Option<LaunchConfigId>,
}

page_body! {
    /// What `listWorkerPoolErrors` answers.
    WorkerPoolErrorList, worker_pool_errors: WorkerPoolError, "workerPoolErrors"
}

/// Which errors `listWorkerPoolErrors` lists: all that fit what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerPoolErrorFilter {
    /// Of workers made from this.
    pub launch_config_id: Option<LaunchConfigId>,
    /// This one.
    pub error_id: Option<SlugId>,
}

/// What `workerPoolErrorStats` answers. Schema: `worker-pool-error-stats.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolErrorStats {
    /// The pool; empty where it is all of them.
    pub worker_pool_id: String,
    /// How many errors.
    pub totals: WorkerPoolErrorTotals,
}

/// How many errors there were in the last seven days. The groups are counts by name; the schema leaves them open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolErrorTotals {
    /// All of them.
    pub total: f64,
    /// By day.
    pub daily: Map<String, Value>,
    /// By hour, of the last 24.
    pub hourly: Map<String, Value>,
    /// By title.
    pub title: Map<String, Value>,
    /// By error code, where there is one.
    pub code: Map<String, Value>,
    /// By launch configuration.
    pub launch_config: Map<String, Value>,
    /// By pool.
    pub worker_pool: Map<String, Value>,
}

fn clip(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// The kind with whatever the service's pattern `[-a-z0-9]+` doesn't allow replaced.
fn valid_kind(kind: &str) -> String {
    let valid = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let kind: String = kind.chars().map(|c| valid(c.to_ascii_lowercase())).take(MAX_TITLE).collect();
    if kind.is_empty() { "worker-error".to_owned() } else { kind }
}

#[cfg(test)]
mod tests {
    use super::{clip, valid_kind};

    #[test]
    fn reports_are_clipped_to_what_the_service_accepts() {
        assert_eq!(clip("äöü", 3), "äöü");
        assert_eq!(clip("äöüx", 3), "äö…");
        assert_eq!(valid_kind("Worker Failed!"), "worker-failed-");
        assert_eq!(valid_kind(""), "worker-error");
    }
}
