//! What can stop us: one variant a stage, an exit code and a hint for each.

use crate::cache::CacheProblem;
use crate::driver::DriverError;
use crate::files::FilesError;
use crate::provider::{Notice, ProviderError};
use crate::registration::RegistrationError;
use crate::runner_config::RunnerConfigError;
use crate::secrets::{FormError, SecretsError};
use jiff::Timestamp;
use std::error::Error;
use std::fmt::Write as _;
pub use taskcluster_api::Chain;
use taskcluster_api::{ApiError, Failure, NewClientError};

/// Our own failure, by the stage in which it happened.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runner config can't be used.
    #[error("reading the runner config")]
    RunnerConfig(#[from] RunnerConfigError),
    /// The provider can't say who the machine is.
    #[error("asking the provider who this machine is")]
    Provider(#[source] ProviderError),
    /// The machine is being taken away already.
    #[error("booting: this machine is not registered, for its cloud takes it away already: {0}")]
    Reclaimed(Notice),
    /// No HTTP client for Taskcluster can be made.
    #[error("getting ready to talk to Taskcluster")]
    Client(#[from] NewClientError),
    /// worker-manager doesn't take the machine.
    #[error("registering this machine{}", also(cache.as_ref()))]
    Registration {
        /// Why.
        #[source]
        source: RegistrationError,
        /// Why the run of an earlier boot could not go on instead.
        cache: Option<CacheProblem>,
    },
    /// The kept credentials have ended and can't be replaced.
    #[error(
        "going on with the run of an earlier boot: its credentials ended at {expired:.0}, and a cloud machine registers only once"
    )]
    Expired {
        /// When.
        expired: Timestamp,
    },
    /// A file named on the command line can't be used.
    #[error("reading {}: {problem}", path.display())]
    Document {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The secrets can't be had.
    #[error("getting the worker pool's secrets")]
    Secrets(#[source] SecretsError),
    /// The worker pool's configuration is of no known form.
    #[error("merging the worker's configuration")]
    Configuration(#[source] FormError),
    /// The files can't be written.
    #[error("writing the worker pool's files")]
    Files(#[source] FilesError),
    /// The worker is not fit to be started.
    #[error("looking whether the worker can be started")]
    Preflight(#[source] DriverError),
    /// The worker can't be started.
    #[error("starting the worker")]
    Start(#[source] DriverError),
    /// A part of us failed while the worker ran.
    #[error("staying beside the worker: a part of start-worker failed, and the worker was stopped")]
    Supervision,
    /// A panic of ours.
    #[error("running: start-worker has a bug")]
    Bug,
    /// The system doesn't give us what we need to supervise.
    #[error("getting ready to supervise the worker")]
    System(#[source] std::io::Error),
}

/// What failed, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The command line.
    CommandLine,
    /// The runner config.
    RunnerConfig,
    /// The provider.
    Provider,
    /// The machine is being reclaimed.
    Reclaimed,
    /// Registration.
    Registration,
    /// The kept credentials have ended.
    Expired,
    /// The secrets.
    Secrets,
    /// The worker's configuration.
    Configuration,
    /// The files.
    Files,
    /// The worker's program.
    Preflight,
    /// The worker's start.
    Start,
    /// Supervision.
    Supervision,
    /// A bug of ours.
    Bug,
    /// A command for a fleet's operators.
    Fleet,
    /// The Windows service.
    Service,
}

impl Stage {
    /// Every stage, in the order of its code.
    pub const ALL: [Self; 15] = [
        Self::CommandLine,
        Self::RunnerConfig,
        Self::Provider,
        Self::Reclaimed,
        Self::Registration,
        Self::Expired,
        Self::Secrets,
        Self::Configuration,
        Self::Files,
        Self::Preflight,
        Self::Start,
        Self::Supervision,
        Self::Bug,
        Self::Fleet,
        Self::Service,
    ];

    /// The exit code. None is 0 to 2, 64 to 84, 101, or 126 and more: those are the worker's, the shell's and
    /// Rust's.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::CommandLine => 3,
            Self::RunnerConfig => 10,
            Self::Provider => 11,
            Self::Reclaimed => 12,
            Self::Registration => 13,
            Self::Expired => 14,
            Self::Secrets => 15,
            Self::Configuration => 16,
            Self::Files => 17,
            Self::Preflight => 18,
            Self::Start => 19,
            Self::Supervision => 20,
            Self::Bug => 21,
            Self::Fleet => 22,
            // 23 is a worker's exit code that doesn't fit.
            Self::Service => 24,
        }
    }

    /// What the code says, for the table in the README.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::CommandLine => "the command line is wrong",
            Self::RunnerConfig => "the runner config cannot be read or holds mistakes",
            Self::Provider => "the provider does not say who this machine is",
            Self::Reclaimed => "the cloud is already taking this machine away, so it was not registered",
            Self::Registration => "worker-manager did not register this machine",
            Self::Expired => "the credentials of a kept run have ended, and a cloud machine registers only once",
            Self::Secrets => "the secrets service did not give the worker pool's secrets",
            Self::Configuration => "the worker pool's configuration has no known form",
            Self::Files => "the worker pool's files could not be written",
            Self::Preflight => "the worker's program is missing or cannot be executed",
            Self::Start => "the worker could not be started",
            Self::Supervision => "a part of start-worker failed beside a running worker",
            Self::Bug => "a bug in start-worker",
            Self::Fleet => "enroll, unenroll, errors or workers failed",
            Self::Service => "the Windows service could not be installed, removed, started, stopped or looked at",
        }
    }

    /// The stage's name, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CommandLine => "command-line",
            Self::RunnerConfig => "runner-config",
            Self::Provider => "provider",
            Self::Reclaimed => "reclaimed",
            Self::Registration => "registration",
            Self::Expired => "expired",
            Self::Secrets => "secrets",
            Self::Configuration => "configuration",
            Self::Files => "files",
            Self::Preflight => "preflight",
            Self::Start => "start",
            Self::Supervision => "supervision",
            Self::Bug => "bug",
            Self::Fleet => "fleet",
            Self::Service => "service",
        }
    }
}

impl RunError {
    /// A provider's error: that the machine is going away is a stage of its own.
    pub fn from_provider(error: ProviderError) -> Self {
        match error {
            ProviderError::Reclaimed(notice) => Self::Reclaimed(notice),
            ProviderError::Metadata(_) | ProviderError::Field { .. } => Self::Provider(error),
        }
    }

    /// Where it happened.
    pub const fn stage(&self) -> Stage {
        match self {
            Self::RunnerConfig(_) => Stage::RunnerConfig,
            Self::Provider(_) => Stage::Provider,
            Self::Reclaimed(_) => Stage::Reclaimed,
            Self::Client(_) | Self::Registration { .. } => Stage::Registration,
            Self::Expired { .. } => Stage::Expired,
            Self::Secrets(_) => Stage::Secrets,
            Self::Configuration(_) | Self::Document { .. } => Stage::Configuration,
            Self::Files(_) => Stage::Files,
            Self::Preflight(_) => Stage::Preflight,
            Self::Start(_) => Stage::Start,
            Self::Supervision | Self::System(_) => Stage::Supervision,
            Self::Bug => Stage::Bug,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::RunnerConfig(RunnerConfigError::Unreadable { .. }) => {
                "name a regular file that start-worker may read: start-worker runner.yml"
            }
            Self::RunnerConfig(RunnerConfigError::Taken(_)) => {
                "a second one would end the first one's machine: stop that first, or give this one a config of its own"
            }
            Self::RunnerConfig(RunnerConfigError::Invalid { .. }) => {
                "correct the file and try it with: start-worker check FILE"
            }
            Self::Provider(ProviderError::Field { .. }) => {
                "the worker pool's launch configuration puts this there: compare it with worker-manager's documentation"
            }
            Self::Provider(_) => {
                "is providerType right for this machine, and may it reach its metadata service (no firewall, IMDS enabled)?"
            }
            Self::Reclaimed(_) => "nothing is wrong here; another machine will be started in its place",
            Self::Client(_) => "the system's TLS certificates or proxy variables cannot be used",
            Self::Registration { source, .. } => registration_hint(source),
            Self::Expired { .. } => "the machine is retired now; its worker pool starts another one",
            Self::Secrets(SecretsError::Refused { .. }) => {
                "the worker pool's role needs secrets:get:worker-pool:<workerPoolId>, or set getSecrets: false"
            }
            Self::Secrets(SecretsError::Form(_)) | Self::Configuration(_) => {
                "try the definition offline: start-worker show-config runner.yml --registration FILE --secret FILE"
            }
            Self::Document { .. } => "name a YAML or JSON file that holds a mapping",
            Self::Files(_) => "correct `files` in the worker pool's definition or its secret, or make room for them",
            Self::Preflight(_) => "install the worker there, or correct `worker` in the runner config",
            Self::Start(_) => "see the cause above; start-worker check FILE looks at the same things",
            Self::Supervision | Self::System(_) | Self::Bug => "please report this with the log above",
        }
    }

    /// The error with its causes and its hint, in lines, for the log of this machine.
    pub fn report(&self) -> String {
        describe(self, &causes(self), self.hint())
    }

    /// The same for everybody's eyes: without the causes where those tell of what came from a secret.
    pub fn public_report(&self) -> String {
        match self {
            Self::Files(_) | Self::Configuration(_) | Self::Secrets(SecretsError::Form(_)) | Self::System(_) => {
                describe(self, &[], self.hint())
            }
            Self::RunnerConfig(_)
            | Self::Provider(_)
            | Self::Reclaimed(_)
            | Self::Client(_)
            | Self::Registration { .. }
            | Self::Expired { .. }
            | Self::Document { .. }
            | Self::Secrets(SecretsError::Refused { .. })
            | Self::Preflight(_)
            | Self::Start(_)
            | Self::Supervision
            | Self::Bug => self.report(),
        }
    }
}

/// An error with its causes and its hint, in lines.
pub fn report(error: &dyn Error, hint: &str) -> String {
    describe(error, &causes(error), hint)
}

fn describe(error: &dyn Error, causes: &[String], hint: &str) -> String {
    let mut text = format!("failed while {error}");
    for cause in causes {
        // A cause that says nothing new is left out.
        if !text.contains(cause) {
            let _ = write!(text, "\n  because: {cause}");
        }
    }
    let _ = write!(text, "\n  hint: {hint}");
    text
}

fn registration_hint(error: &RegistrationError) -> &'static str {
    let RegistrationError::Refused(error) = error else {
        return "the machine's metadata service stopped answering";
    };
    if matches!(error.failure, Failure::Decode(_) | Failure::TooLarge(_)) {
        return "what answers there is no worker-manager that this program knows";
    }
    match error.status() {
        Some(300..=399) => "the root URL leads elsewhere: is it http where it should be https, or an old name?",
        None => {
            "may this machine reach the root URL, directly or through HTTPS_PROXY, and does it trust its certificate?"
        }
        Some(_) if is_registered(error) => {
            "a cloud machine registers once in its life: with cacheOverRestarts it goes on after a reboot; retirement.onBootFailure: shutdown ends one that cannot"
        }
        Some(400 | 401 | 403 | 404) => {
            "compare workerPoolID, providerID, workerGroup, workerID and the proof with worker-manager's record of this worker"
        }
        Some(_) => "worker-manager had no answer for a long time: is it up?",
    }
}

fn is_registered(error: &ApiError) -> bool {
    error.is_already_registered()
}

fn also(cache: Option<&CacheProblem>) -> String {
    cache.map(|problem| format!(" (anew, for {problem})")).unwrap_or_default()
}

fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::Stage;
    use std::collections::HashSet;

    #[test]
    fn no_code_of_ours_is_anybody_elses_and_none_stands_twice() {
        let codes: HashSet<u8> = Stage::ALL.iter().map(|stage| stage.exit_code()).collect();
        assert_eq!(codes.len(), Stage::ALL.len());
        for code in codes {
            assert!(code > 2 && !(64..=84).contains(&code) && code != 101 && code < 126, "{code}");
        }
    }

    #[test]
    fn the_readme_has_every_code() {
        let readme = include_str!("../README.md");
        for stage in Stage::ALL {
            let row = format!("| {} | {} |", stage.exit_code(), stage.meaning());
            assert!(readme.contains(&row), "README.md lacks the row `{row}`");
        }
    }
}
