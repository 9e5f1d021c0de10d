//! The commands for people who look after fleets: they talk to a deployment with an operator's credentials, and to no
//! machine.
//!
//! What they print for people is a table where a terminal reads, and tab-separated otherwise; `--json` is for
//! programs. Secrets come from files and the environment and go into private files, never into arguments or output.

mod deployment;
mod enroll;
mod many;
mod plan;
mod pool_errors;
mod progress;
mod runner_config;
mod table;
mod unenroll;
mod workers;

use crate::cli::{EnrollArguments, ErrorsArguments, UnenrollArguments, WorkersArguments};
use crate::error::Stage;
use jiff::Timestamp;
use std::io::{self, Write};
use std::path::PathBuf;
use taskcluster_api::worker_manager::ProviderType;
use taskcluster_api::{ApiError, EnvironmentError, NewClientError, ProviderId, WorkerName, WorkerPoolId};

/// A command for a fleet's operators failed.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The environment doesn't say which deployment, or with which credentials.
    #[error("finding the deployment and credentials in the environment")]
    Environment(#[source] EnvironmentError),
    /// The file with the credentials can't be used.
    #[error("reading the credentials in {}: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No HTTP client can be made.
    #[error("getting ready to talk to Taskcluster")]
    Client(#[source] NewClientError),
    /// Only a proxy's URL is known, which is no use to a machine.
    #[error("finding the deployment in the environment: TASKCLUSTER_PROXY_URL is set, and TASKCLUSTER_ROOT_URL is not")]
    OnlyProxy,
    /// A question was not answered.
    #[error("asking Taskcluster")]
    Ask(#[source] ApiError),
    /// A call failed, and nothing has changed.
    #[error("talking to Taskcluster; nothing was changed")]
    Call(#[source] ApiError),
    /// The pool isn't one whose workers are made known by hand.
    #[error("enrolling into {pool}: its provider is of the kind {kind}, and only a static pool's workers are enrolled")]
    NotStatic {
        /// The pool.
        pool: WorkerPoolId,
        /// What its provider is.
        kind: ProviderType,
    },
    /// The name is taken by a worker that has been removed.
    #[error("enrolling {worker}: a removed worker has this name until its row is deleted, soon after {until:.0}")]
    Stopped {
        /// Which.
        worker: WorkerName,
        /// When its row ends.
        until: Timestamp,
    },
    /// The worker's row is of another provider than the pool's is now.
    #[error(
        "enrolling {worker}: worker-manager knows it as one of the provider {theirs}, and the pool's is {ours} now"
    )]
    OtherProvider {
        /// Which.
        worker: WorkerName,
        /// The row's.
        theirs: ProviderId,
        /// The pool's.
        ours: ProviderId,
    },
    /// A rotation was interrupted, and worker-manager has the secret before it, so far.
    #[error("enrolling {worker}: a rotation was interrupted, and its new secret waits in {}", pending.display())]
    RotationWaits {
        /// Which.
        worker: WorkerName,
        /// The config with the new secret.
        pending: PathBuf,
    },
    /// A folder can't be taken.
    #[error("keeping other processes out of {}; nothing was changed", folder.display())]
    Lock {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name is taken by a worker whose row has ended, and is not deleted yet.
    #[error("enrolling {worker}: an earlier worker has this name until worker-manager has swept its row away")]
    NotSwept {
        /// Which.
        worker: WorkerName,
    },
    /// The answer to what changes something was lost, and no file waits for it.
    #[error("{doing} {worker}: it is not known whether worker-manager did it")]
    Doubtful {
        /// What was asked for.
        doing: &'static str,
        /// Which.
        worker: WorkerName,
        /// What happened.
        #[source]
        source: ApiError,
    },
    /// The worker is known, and its secret isn't here.
    #[error("enrolling {worker}: worker-manager knows it already, and its secret is not in {}", path.display())]
    SecretElsewhere {
        /// Which.
        worker: WorkerName,
        /// Where it would be.
        path: PathBuf,
    },
    /// There is nothing to rotate.
    #[error("rotating the secret of {worker}: worker-manager does not know it")]
    Unknown {
        /// Which.
        worker: WorkerName,
    },
    /// A machine's runner config can't be used.
    #[error("reading {}: {problem}; nothing was changed", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// What was found can't be printed.
    #[error("writing to standard output")]
    Output(#[source] io::Error),
    /// A file is in the way.
    #[error("writing {}: {problem}; nothing was changed", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
        /// What it is.
        problem: String,
    },
    /// A file can't be written.
    #[error("writing {}; nothing was changed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It can't be told whether worker-manager has the secret of a config that waits.
    #[error("enrolling {worker}: it is not known whether worker-manager took it; its config is kept in {}", pending.display())]
    Unsure {
        /// Which.
        worker: WorkerName,
        /// The config that is not in its place yet.
        pending: PathBuf,
        /// What happened.
        #[source]
        source: ApiError,
    },
    /// worker-manager has the new secret, and the config couldn't be put into its place.
    #[error("putting the config of {worker} into its place: worker-manager took it, and it is in {}", pending.display())]
    NotInPlace {
        /// Which.
        worker: WorkerName,
        /// Where it is.
        pending: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Half of what ends a worker was done.
    #[error("unenrolling {worker}: {done}, and then a call failed")]
    HalfUnenrolled {
        /// Which.
        worker: WorkerName,
        /// What was done.
        done: &'static str,
        /// What failed.
        #[source]
        source: ApiError,
    },
    /// A file of a worker that is gone can't be deleted.
    #[error("deleting {}: the worker is unenrolled, and this file is still there", path.display())]
    NotDeleted {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A list of workers to enroll holds mistakes.
    #[error("reading {}; nothing was changed:\n  {}", path.display(), problems.join("\n  "))]
    List {
        /// The file.
        path: PathBuf,
        /// Its mistakes, each with its line.
        problems: Vec<String>,
    },
    /// Some workers of a list could not be enrolled.
    #[error("enrolling the workers in {}: {failed} of {all} failed; run the same command again for those", path.display())]
    SomeFailed {
        /// The file.
        path: PathBuf,
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// The command's arguments don't fit together.
    #[error("reading the command line: {0}")]
    Arguments(String),
    /// The system lacks what is needed.
    #[error("getting ready")]
    System(#[source] io::Error),
}

impl FleetError {
    /// A call failed that was to change something, and that no file waits for.
    fn of_change(doing: &'static str, worker: &WorkerName, error: ApiError) -> Self {
        if is_certainly_undone(&error) {
            return Self::Call(error);
        }
        Self::Doubtful { doing, worker: worker.clone(), source: error }
    }

    /// What failed, for the exit code.
    pub fn stage(&self) -> Stage {
        if matches!(self, Self::Arguments(_)) { Stage::CommandLine } else { Stage::Fleet }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Environment(_) => {
                "or name a file: --credentials FILE, with rootUrl, clientId, accessToken and, for temporary credentials, certificate"
            }
            Self::Credentials { .. } => {
                "it must hold rootUrl, clientId, accessToken and, for temporary credentials, certificate, as YAML or JSON"
            }
            Self::OnlyProxy => {
                "set TASKCLUSTER_ROOT_URL to the deployment's own root URL as well: a machine cannot use the proxy"
            }
            Self::OtherProvider { .. } => "unenroll it, and enroll it again once its name is free",
            Self::RotationWaits { .. } => "finish it with --rotate: what was sent may still arrive",
            Self::Lock { .. } => "name a config in a folder of a local filesystem that you may read",
            Self::NotSwept { .. } => "try again within about an hour, or use another name",
            Self::Client(_) => "the system's TLS certificates or proxy variables cannot be used",
            Self::Ask(error) if error.status().is_none() => "is the root URL right, and can this machine reach it?",
            Self::Ask(error)
            | Self::Call(error)
            | Self::Unsure { source: error, .. }
            | Self::Doubtful { source: error, .. }
            | Self::HalfUnenrolled { source: error, .. } => match error.status() {
                Some(401) => "are these credentials still valid, and for this deployment?",
                Some(403) => "the credentials lack the scope that is named above",
                Some(404) => "is the worker pool's name right?",
                Some(429) => "worker-manager is busy: run the same command again later",
                Some(400..=499) => "see worker-manager's own words above",
                Some(_) | None => "run the same command again: it goes on from here",
            },
            Self::NotStatic { .. } => "a cloud's workers are made by worker-manager itself",
            Self::Stopped { .. } => {
                "use another name, or free this one with start-worker unenroll (minutes to an hour later it can be enrolled)"
            }
            Self::SecretElsewhere { .. } => {
                "name the config that has it with --config, or make a new secret with --rotate (the machine needs the new config then)"
            }
            Self::Unknown { .. } => "enroll it without --rotate",
            Self::Config { .. } => {
                "name the runner config of the machine, for the deployment that the credentials are for"
            }
            Self::Output(_) => "make room where the output goes; what was done is done",
            Self::InTheWay { .. } => "name another file with --config",
            Self::Write { .. } => "name a file that can be written with --config",
            Self::NotDeleted { .. } => {
                "delete it by hand: a config's secret opens nothing any more, but credentials in a cache live for up to four days"
            }
            Self::NotInPlace { .. } => "make room or correct the permissions, and run the same command again",
            Self::List { .. } => {
                "the first line names the columns: id and, where the options don't say it for all, pool, group, config, capacity, expires"
            }
            Self::SomeFailed { .. } => "each failure is named above",
            Self::Arguments(_) => "start-worker COMMAND --help says more",
            Self::System(_) => "please report this with the log above",
        }
    }
}

/// Whether Taskcluster itself says that there is no such thing. A bare 404 may be a proxy's.
fn is_unknown(error: &ApiError) -> bool {
    error.status() == Some(404) && error.code() == Some("ResourceNotFound")
}

/// Whether worker-manager itself has certainly not done what it was asked for: a refusal without Taskcluster's code may
/// be that of something in between, behind which the call went on.
fn is_certainly_undone(error: &ApiError) -> bool {
    error.is_certainly_undone() && error.refusal().is_none_or(|refusal| refusal.code.is_some())
}

/// Prints; whether anybody still reads. A reader that went away is no failure of ours.
fn print(text: &str) -> Result<bool, FleetError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(FleetError::Output(error)),
    }
}

/// Enrolls a machine, or many.
///
/// # Errors
/// As [`FleetError`] says.
pub async fn enroll(arguments: &EnrollArguments) -> Result<(), FleetError> {
    match &arguments.many {
        Some(path) => many::enroll(arguments, path).await,
        None => enroll::enroll(arguments).await,
    }
}

/// Takes a machine out of a fleet.
///
/// # Errors
/// As [`FleetError`] says.
pub async fn unenroll(arguments: &UnenrollArguments) -> Result<(), FleetError> {
    unenroll::unenroll(arguments).await
}

/// Shows a pool's errors.
///
/// # Errors
/// As [`FleetError`] says.
pub async fn errors(arguments: &ErrorsArguments) -> Result<(), FleetError> {
    pool_errors::show(arguments).await
}

/// Shows a pool's workers.
///
/// # Errors
/// As [`FleetError`] says.
pub async fn workers(arguments: &WorkersArguments) -> Result<(), FleetError> {
    workers::show(arguments).await
}
