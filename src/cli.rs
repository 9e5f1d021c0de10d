//! The command line.

use crate::provider::metadata_http::MetadataService;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Turn this machine into a Taskcluster worker and stay beside it.
#[derive(Debug, Parser)]
#[command(
    name = "start-worker",
    version,
    disable_help_subcommand = true,
    after_help = "START_WORKER_LOG in the environment is another way to set the log level.\n\nExit status: the worker's own, 128 and the number for a signal, or a code for what failed (see the README)."
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
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<tracing::Level>,

    /// Ask this metadata service, on a loopback address, instead of the cloud's: for trying things out
    #[arg(long, value_name = "URL")]
    pub metadata_service: Option<MetadataService>,
}

/// What to do other than to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for mistakes in a runner config and on this machine, changing nothing
    Check(CheckArguments),
    /// Show the configuration that the worker would get, and where each value comes from, offline
    ShowConfig(ShowConfigArguments),
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
