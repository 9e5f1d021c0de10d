//! The command line.

use crate::provider::metadata_http::MetadataService;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Span;
use std::num::NonZeroU64;
use std::path::PathBuf;
use taskcluster_api::{WorkerGroup, WorkerId, WorkerPoolId, WorkerState};

/// Turn this machine into a Taskcluster worker and stay beside it.
#[derive(Debug, Parser)]
#[command(
    name = "start-worker",
    version,
    disable_help_subcommand = true,
    after_help = "START_WORKER_LOG in the environment is another way to set the log level.\nExit status: the worker's own, 128 and a signal's number, or one for what failed (README)."
)]
pub struct Cli {
    /// What to do other than to run.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The runner config, YAML or JSON
    pub runner_config: Option<PathBuf>,

    /// Print the version number alone
    #[arg(long, exclusive = true)]
    pub short_version: bool,

    /// How much to log: error, warn, info, debug or trace [default: info]
    // `dispatch` in main.rs reads START_WORKER_LOG where this isn't given.
    #[arg(long, value_name = "LEVEL", global = true, display_order = 100)]
    pub log_level: Option<tracing::Level>,

    /// Ask this metadata service, on a loopback address: to try things out
    #[arg(long, value_name = "URL")]
    pub metadata_service: Option<MetadataService>,
}

/// What to do other than to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for mistakes in a runner config and on this machine, changing nothing
    Check(CheckArguments),
    /// Show the configuration that the worker would get, with the source of each value
    ShowConfig(ShowConfigArguments),
    /// Make a machine of your own known to worker-manager, and write its runner config
    Enroll(EnrollArguments),
    /// Take a machine of your own out of its pool, and free its name
    Unenroll(UnenrollArguments),
    /// Show a pool's workers
    Workers(WorkersArguments),
    /// Show what went wrong in a pool, grouped
    Errors(ErrorsArguments),
}

/// Which deployment, and who asks.
#[derive(Debug, Args)]
pub struct DeploymentArguments {
    /// A file with rootUrl, clientId, accessToken and, for temporary credentials, certificate [default: the environment's `TASKCLUSTER_ROOT_URL`, `TASKCLUSTER_CLIENT_ID` and so on]
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
}

/// What `enroll` takes.
#[derive(Debug, Args)]
pub struct EnrollArguments {
    /// Which deployment, and who asks.
    #[command(flatten)]
    pub deployment: DeploymentArguments,

    /// The worker pool, whose provider must be a static one
    #[arg(long, value_name = "POOL")]
    pub pool: Option<WorkerPoolId>,

    /// The worker's group, such as its rack
    #[arg(long, value_name = "GROUP")]
    pub group: Option<WorkerGroup>,

    /// The worker's id within the group
    #[arg(long, value_name = "ID", conflicts_with = "many")]
    pub id: Option<WorkerId>,

    /// Where the runner config goes; with --many the folder of all [default: ID.yml, with --many GROUP-ID.yml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Which worker the machine runs: generic-worker, docker-worker or dummy (what a worker would be told is printed)
    #[arg(long, value_enum, value_name = "WORKER", hide_possible_values = true, default_value_t = EnrolledWorker::GenericWorker)]
    pub implementation: EnrolledWorker,

    /// Where the worker is installed on the machine
    #[arg(long, value_name = "PATH")]
    pub worker_path: Option<PathBuf>,

    /// Where the worker's own configuration is written on the machine
    #[arg(long, value_name = "PATH")]
    pub worker_config_path: Option<PathBuf>,

    /// When worker-manager forgets the machine, such as 90d or 1y [default: 1y]
    #[arg(long, value_name = "DURATION")]
    pub expires: Option<Span>,

    /// How many tasks the machine runs at once [default: 1]
    #[arg(long, value_name = "TASKS")]
    pub capacity: Option<NonZeroU64>,

    /// Make a new secret for a machine that is known already
    #[arg(long, conflicts_with = "many")]
    pub rotate: bool,

    /// Give a machine that is known already another end (a year from now, or --expires) and --capacity, with the secret that it has
    #[arg(long, conflicts_with = "rotate")]
    pub update: bool,

    /// Enroll every machine in this CSV file; its first line names the columns: id and, where no option says it for all, pool, group, config, capacity, expires
    #[arg(long, value_name = "FILE")]
    pub many: Option<PathBuf>,

    /// Print JSON; with --many a line a machine
    #[arg(long)]
    pub json: bool,
}

/// Which worker an enrolled machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EnrolledWorker {
    /// generic-worker
    GenericWorker,
    /// docker-worker
    DockerWorker,
    /// None: what a worker would be told is printed
    Dummy,
}

impl EnrolledWorker {
    /// The word in a runner config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GenericWorker => "generic-worker",
            Self::DockerWorker => "docker-worker",
            Self::Dummy => "dummy",
        }
    }

    /// Where it and its configuration usually are.
    pub const fn default_paths(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::GenericWorker if cfg!(windows) => {
                Some((r"C:\generic-worker\generic-worker.exe", r"C:\generic-worker\generic-worker.config"))
            }
            Self::GenericWorker => Some(("/usr/local/bin/generic-worker", "/etc/generic-worker/config.json")),
            Self::DockerWorker => Some(("/opt/docker-worker", "/etc/docker-worker/config.json")),
            Self::Dummy => None,
        }
    }
}

/// What `unenroll` takes.
#[derive(Debug, Args)]
pub struct UnenrollArguments {
    /// Which deployment, and who asks.
    #[command(flatten)]
    pub deployment: DeploymentArguments,

    /// The worker pool
    #[arg(long, value_name = "POOL")]
    pub pool: Option<WorkerPoolId>,

    /// The worker's group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<WorkerGroup>,

    /// The worker's id within the group
    #[arg(long, value_name = "ID")]
    pub id: Option<WorkerId>,

    /// The machine's runner config, which says the same
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Delete the runner config, and what is kept of the machine's runs
    #[arg(long, requires = "config")]
    pub delete: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `workers` takes.
#[derive(Debug, Args)]
pub struct WorkersArguments {
    /// Which deployment, and who asks.
    #[command(flatten)]
    pub deployment: DeploymentArguments,

    /// The worker pool
    #[arg(long, value_name = "POOL")]
    pub pool: WorkerPoolId,

    /// Only those that are requested, running, stopping, stopped or standalone
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<WorkerState>,

    /// Look again every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5")]
    pub watch: Option<NonZeroU64>,

    /// Print JSON: one document a look
    #[arg(long)]
    pub json: bool,
}

/// What `errors` takes.
#[derive(Debug, Args)]
pub struct ErrorsArguments {
    /// Which deployment, and who asks.
    #[command(flatten)]
    pub deployment: DeploymentArguments,

    /// The worker pool
    #[arg(long, value_name = "POOL")]
    pub pool: WorkerPoolId,

    /// Only those that were reported no longer ago than this, such as 2h or 3d
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Span>,

    /// Go on with what comes, a line each, and look for it every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "15")]
    pub follow: Option<NonZeroU64>,

    /// Print JSON; with --follow a line an error
    #[arg(long)]
    pub json: bool,
}

fn state(text: &str) -> Result<WorkerState, String> {
    match WorkerState::from(text) {
        WorkerState::Other(_) => {
            let known: Vec<&str> = WorkerState::KNOWN.iter().map(WorkerState::as_str).collect();
            Err(format!("expected one of {}", known.join(", ")))
        }
        known => Ok(known),
    }
}

/// What `check` takes.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The runner config
    pub runner_config: PathBuf,

    /// How to print the problems
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub format: CheckFormat,
}

/// How `check` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// A line a problem, on standard error
    Text,
    /// One JSON document, on standard output
    Json,
}

/// What `show-config` takes.
#[derive(Debug, Args)]
pub struct ShowConfigArguments {
    /// The runner config
    pub runner_config: PathBuf,

    /// A worker pool's definition or a `workerConfig`, as if this machine had registered with it
    #[arg(long, value_name = "FILE")]
    pub registration: Option<PathBuf>,

    /// A secret, as if the secrets service had given it (may be repeated, lowest first)
    #[arg(long, value_name = "FILE")]
    pub secret: Vec<PathBuf>,

    /// How to print the configuration
    #[arg(long, value_enum, default_value_t = ShowFormat::Tree)]
    pub format: ShowFormat,

    /// Show the values of secrets and credentials
    #[arg(long)]
    pub reveal_secrets: bool,
}

/// How `show-config` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShowFormat {
    /// A tree with the source of each value
    Tree,
    /// The configuration as JSON
    Json,
    /// The configuration as YAML
    Yaml,
}
