//! The command line.

use crate::provider::metadata_http::MetadataService;
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use jiff::Span;
use std::env;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::ops::Deref;
use std::path::PathBuf;
use taskcluster_api::{WorkerGroup, WorkerId, WorkerPoolId, WorkerState};

/// Turn this machine into a Taskcluster worker and stay beside it.
#[derive(Debug, Default, Parser)]
#[command(
    name = "start-worker",
    version,
    disable_help_subcommand = true,
    after_help = "Exit status: the worker's own, 128 and a signal's number, or one for what failed (README)."
)]
pub struct Cli {
    /// What to do other than to run.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The runner config, YAML or JSON
    pub runner_config: Option<PathBuf>,

    /// Print the version number alone
    // For scripts that know it from the Go program.
    #[arg(long, exclusive = true, hide = true)]
    pub short_version: bool,

    /// How much to log.
    // `dispatch` in main.rs reads START_WORKER_LOG where this isn't given.
    #[arg(
        long,
        value_name = "LEVEL",
        global = true,
        display_order = 100,
        help = "error, warn, info, debug or trace [default: $START_WORKER_LOG, info]"
    )]
    pub log_level: Option<tracing::Level>,

    /// Record what the boot's time goes into, for `start-worker timeline`
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<PathBuf>,

    /// Leave the time out of each line of the log: journald adds its own
    #[arg(long, global = true, display_order = 101)]
    pub no_timestamps: bool,

    /// Ask this metadata service, on a loopback address: to try things out
    #[arg(long, value_name = "URL", hide = true)]
    pub metadata_service: Option<MetadataService>,
}

impl Cli {
    /// What this process is asked to do.
    ///
    /// # Errors
    /// What is wrong with its arguments, or what is to be shown instead: help, the version.
    pub fn of_this_process() -> Result<Self, clap::Error> {
        Self::of(&env::args_os().collect::<Vec<_>>())
    }

    /// What these arguments ask for, of which the first is the program.
    fn of(arguments: &[OsString]) -> Result<Self, clap::Error> {
        match arguments {
            // A boot. To describe all that there is to a parser would take as long as some answers.
            [_, only] if is_path(only) => Ok(Self { runner_config: Some(only.into()), ..Self::default() }),
            _ => Self::try_parse_from(arguments),
        }
    }
}

/// Whether an argument can be nothing but a path: it begins like no option, and no command has such a name.
fn is_path(argument: &OsStr) -> bool {
    let bytes = argument.as_encoded_bytes();
    !bytes.starts_with(b"-") && bytes.iter().any(|byte| matches!(byte, b'.' | b'/'))
}

/// What to do other than to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for mistakes in a runner config and on this machine, changing nothing
    Check(Deferred<CheckArguments>),
    /// Show the configuration that the worker would get, with the source of each value
    ShowConfig(Deferred<ShowConfigArguments>),
    /// Make a machine of your own known to worker-manager, and write its runner config
    Enroll(Deferred<EnrollArguments>),
    /// Take a machine of your own out of its pool, and free its name
    Unenroll(Deferred<UnenrollArguments>),
    /// Show a pool's workers
    Workers(Deferred<WorkersArguments>),
    /// Show what went wrong in a pool, grouped
    Errors(Deferred<ErrorsArguments>),
    /// Draw a boot that `--timeline` has recorded
    Timeline(Deferred<TimelineArguments>),
    /// Make start-worker a Windows service, and start, stop or look at it
    #[cfg(windows)]
    #[command(subcommand)]
    Service(ServiceCommand),
}

/// A command's arguments, which are described to the parser when that command is given, and not at every boot.
#[derive(Debug)]
pub struct Deferred<A>(A);

impl<A> Deref for Deferred<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0
    }
}

impl<A: FromArgMatches> FromArgMatches for Deferred<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl<A: Args> Args for Deferred<A> {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.defer(|command| {
            // The command's own description, not that of its arguments.
            let about = command.get_about().cloned().unwrap_or_default();
            A::augment_args(command).about(about)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        A::augment_args_for_update(command)
    }
}

/// What `timeline` takes.
#[derive(Debug, Args)]
pub struct TimelineArguments {
    /// The recording
    pub recording: PathBuf,

    /// Where the page goes, to be opened in a browser [default: beside the recording, `.html`]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Where the trace events go, to be opened in a browser's profiler [default: beside the recording, `.trace.json`]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// What is done with the Windows service.
#[cfg(windows)]
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Make it, or change it to what the options say; it starts with the machine
    Install(InstallArguments),
    /// Stop it, and take it away
    Uninstall(ServiceName),
    /// Start it now
    Start(ServiceName),
    /// Stop it, and wait until its worker has ended
    Stop(ServiceName),
    /// Show how it does
    Status(ServiceName),
    /// What the service control manager starts
    #[command(hide = true)]
    Run(ServiceRunArguments),
}

/// Which service.
#[cfg(windows)]
#[derive(Debug, Args)]
pub struct ServiceName {
    /// The service's name
    #[arg(long, value_name = "NAME", default_value = crate::service::DEFAULT_NAME)]
    pub name: String,
}

/// What `service install` takes.
#[cfg(windows)]
#[derive(Debug, Args)]
pub struct InstallArguments {
    /// Which service.
    #[command(flatten)]
    pub service: ServiceName,

    /// The runner config [default: `%ProgramData%\start-worker\runner.yml`]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where the log goes [default: `%ProgramData%\start-worker\logs`]
    #[arg(long, value_name = "FOLDER")]
    pub log_folder: Option<PathBuf>,

    /// Start some minutes after the machine, when everything else is up
    #[arg(long)]
    pub delayed: bool,

    /// The account that it runs as; a password, where it has one, is asked for or read from standard input [default: `LocalSystem`]
    #[arg(long, value_name = "ACCOUNT")]
    pub user: Option<String>,
}

/// What the service control manager starts.
#[cfg(windows)]
#[derive(Debug, Args)]
pub struct ServiceRunArguments {
    /// Which service.
    #[command(flatten)]
    pub service: ServiceName,

    /// Where the log goes
    #[arg(long, value_name = "FOLDER")]
    pub log_folder: PathBuf,

    /// The runner config
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_boot_is_what_the_parser_would_make_of_its_arguments() {
        for argument in
            ["runner.yml", "/etc/start-worker/runner", "./runner", r"C:\a b\runner.json", ".", "--x.y", "check"]
        {
            let arguments = ["start-worker".into(), argument.into()];
            let [ours, parsed] = [Cli::of(&arguments), Cli::try_parse_from(&arguments)];
            let shown = |cli: Result<Cli, clap::Error>| cli.map_err(|error| error.to_string());
            assert_eq!(format!("{:?}", shown(ours)), format!("{:?}", shown(parsed)), "{argument}");
        }
    }

    #[test]
    fn no_command_can_be_taken_for_a_path() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_name_and_visible_aliases().iter().all(|name| !is_path(name.as_ref())));
        }
    }
}
