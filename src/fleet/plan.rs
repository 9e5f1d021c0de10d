//! What is to be enrolled, and what became of it.

use super::{FleetError, table};
use crate::cli::{EnrollArguments, EnrolledWorker};
use crate::error::Chain;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
use serde_json::{Value, json};
use std::num::NonZeroU64;
use std::path::PathBuf;
use taskcluster_api::WorkerName;

/// Nobody gets a machine going in less.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

/// One worker that is to be enrolled.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) worker: WorkerName,
    /// Where its runner config goes.
    pub(super) config: PathBuf,
    pub(super) implementation: EnrolledWorker,
    pub(super) worker_path: Option<PathBuf>,
    pub(super) worker_config_path: Option<PathBuf>,
    /// When worker-manager forgets it; what it is, or a year, where nothing is said.
    pub(super) expires: Option<Timestamp>,
    /// How many tasks it runs at once; what it is, or 1, where nothing is said.
    pub(super) capacity: Option<NonZeroU64>,
    pub(super) rotate: bool,
    pub(super) update: bool,
}

impl Plan {
    /// What the command line, or a row of a list, asks for; or what is wrong with that.
    pub(super) fn new(
        arguments: &EnrollArguments,
        worker: WorkerName,
        config: PathBuf,
        expires: Option<Span>,
        capacity: Option<NonZeroU64>,
    ) -> Result<Self, String> {
        let EnrollArguments { implementation, worker_path, worker_config_path, rotate, update, .. } = arguments;
        let names_folder = config.to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]);
        if names_folder || config.file_name().is_none() {
            return Err(format!("--config: {} is no file's name", config.display()));
        }
        let name = config.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && [".enrolling", ".start-worker-new", "-lock"].iter().any(|end| name.ends_with(end)) {
            return Err(format!("--config: {} is a name that start-worker uses itself", config.display()));
        }
        for (option, path) in [("--worker-path", worker_path), ("--worker-config-path", worker_config_path)] {
            let Some(path) = path else { continue };
            if implementation.default_paths().is_none() {
                return Err(format!("{option}: {} has no worker", implementation.name()));
            }
            // It may be a path of another kind of system than this one.
            let text = path.to_str().ok_or_else(|| format!("{option}: this is no valid text"))?;
            if !text.starts_with('/') && !text.contains(":\\") && !path.is_absolute() {
                return Err(format!("{option}: {text} must be an absolute path: it is one of the machine's"));
            }
        }
        let expires = expires.map(end_of).transpose()?;
        Ok(Self {
            worker,
            config,
            implementation: *implementation,
            worker_path: worker_path.clone(),
            worker_config_path: worker_config_path.clone(),
            expires,
            capacity,
            rotate: *rotate,
            update: *update,
        })
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enrolled {
    /// It is known now, and has a config.
    New,
    /// It was known, and had a config: nothing was changed.
    Already,
    /// An enrollment that had been interrupted was completed.
    Completed,
    /// worker-manager had forgotten it, and knows it again, by the secret in its config.
    Again,
    /// It was known, and its end or capacity is another one now.
    Updated,
    /// It has a new secret.
    Rotated,
}

impl Enrolled {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::New => "enrolled",
            Self::Already => "already enrolled",
            Self::Completed => "enrolled (completed)",
            Self::Again => "enrolled again",
            Self::Updated => "updated",
            Self::Rotated => "rotated",
        }
    }

    /// The same for programs.
    const fn key(self) -> &'static str {
        match self {
            Self::New => "enrolled",
            Self::Already => "already-enrolled",
            Self::Completed => "completed",
            Self::Again => "enrolled-again",
            Self::Updated => "updated",
            Self::Rotated => "rotated",
        }
    }
}

/// A worker and what became of it, for programs.
pub(super) fn document(plan: &Plan, result: &Result<Enrolled, FleetError>) -> Value {
    let WorkerName { worker_pool_id, worker_group, worker_id } = &plan.worker;
    let mut document = json!({
        "workerPoolId": worker_pool_id, "workerGroup": worker_group, "workerId": worker_id,
        "config": plan.config.display().to_string(),
    });
    match result {
        Ok(enrolled) => document["result"] = enrolled.key().into(),
        Err(error) => {
            document["result"] = "failed".into();
            document["error"] = table::line(&Chain(error).to_string()).into();
        }
    }
    document
}

/// What is usual.
pub(super) fn in_a_year() -> Timestamp {
    end_of(Span::new().years(1)).unwrap_or(Timestamp::MAX)
}

/// So long from now, by the calendar; or why not.
fn end_of(span: Span) -> Result<Timestamp, String> {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let end = now.checked_add(span).map_err(|_| format!("{span:#} is too long"))?.timestamp();
    let soonest = now.timestamp().saturating_add(SHORTEST).unwrap_or(Timestamp::MAX);
    if end < soonest { Err(format!("{span:#} from now must be ten minutes ahead at least")) } else { Ok(end) }
}
