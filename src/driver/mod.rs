//! Drivers: how one kind of worker is configured, found fit to start, and started.

mod docker_worker;
mod dummy;
mod generic_worker;
pub mod process;

use crate::json::object;
use crate::layer::{Layer, Merged};
use crate::platform::{self, Access, Sid};
use crate::private_file::{self, Durability};
use crate::run_state::{Admitted, RunState};
use crate::runner_config::{GenericWorkerStart, Settings, WorkerConfig};
use async_trait::async_trait;
use process::{Process, Streams};
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

/// A worker that was started.
pub struct Worker {
    /// Its process.
    pub process: Process,
    /// Its standard streams.
    pub streams: Streams,
}

/// What a worker is started with, beside its configuration.
pub struct StartTerms<'a> {
    /// What its `oom_score_adj` is set back to.
    pub oom_score_adj: Option<&'a str>,
    /// How start-worker behaves.
    pub settings: &'a Settings,
}

/// What became of a start.
pub enum Started {
    /// A worker runs.
    Worker(Box<Worker>),
    /// There was nothing to start, and it is done.
    Done,
}

/// Why a worker can't be started.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The worker's program is not fit to be started.
    #[error("the worker's program {} cannot be executed", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that the worker needs is nowhere on `PATH`.
    #[error("there is no `{0}` on PATH, and docker-worker needs it")]
    Missing(&'static str),
    /// The worker's configuration can't be written.
    #[error("cannot write the worker's configuration {}", path.display())]
    Config {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process can't be started.
    #[error("cannot start {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The worker's service can't be started.
    #[cfg(windows)]
    #[error(transparent)]
    Service(#[from] process::ServiceError),
    /// Not on this system.
    #[cfg(not(windows))]
    #[error("a worker can be a service on Windows only, and `{0}` is one")]
    NoServices(String),
}

/// What a kind of worker does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// SIGINT, or `CTRL_BREAK` on a console, makes it finish its tasks and end.
    pub drains_on_interrupt: bool,
    /// SIGTERM, or the service manager's stop, makes it end in order. Where it doesn't there is only the end by force.
    pub heeds_termination: bool,
    /// It writes for as long as it lives: a closed output is lost contact.
    pub ends_with_its_output: bool,
    /// It asks worker-manager whether it is still wanted.
    pub asks_whether_wanted: bool,
    /// After 67 neither it nor we reboot the machine, but somebody else.
    pub leaves_reboots_to_others: bool,
}

/// One kind of worker. All methods are required.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The key under which a worker pool's configuration for this worker stands.
    fn config_key(&self) -> &'static str;

    /// The layers that go on top of all others: the machine, and the secret part of its credentials.
    fn layers(&self, admitted: &Admitted) -> Vec<Layer>;

    /// What the worker does by itself.
    fn habits(&self, run: &RunState) -> Habits;

    /// Whether the worker can be started as things are. Changes nothing.
    ///
    /// # Errors
    /// Why not.
    fn preflight(&self) -> Result<(), DriverError>;

    /// Writes the worker's configuration and starts it.
    ///
    /// # Errors
    /// Why that can't be done; then no process is left. Nor is one where nobody waits for it any more.
    async fn start(&self, run: &RunState, terms: &StartTerms<'_>) -> Result<Started, DriverError>;
}

/// The driver that the config names.
pub fn build(config: &WorkerConfig) -> Box<dyn Driver> {
    match config.clone() {
        WorkerConfig::GenericWorker { start: GenericWorkerStart::Path(path), config_path } => {
            Box::new(generic_worker::GenericWorker::new(path, config_path))
        }
        WorkerConfig::GenericWorker { start: GenericWorkerStart::Service { name, protocol_pipe }, config_path } => {
            Box::new(generic_worker::Service::new(name, protocol_pipe, config_path))
        }
        WorkerConfig::DockerWorker { path, config_path } => {
            Box::new(docker_worker::DockerWorker::new(path, config_path))
        }
        WorkerConfig::Dummy => Box::new(dummy::Dummy),
    }
}

/// The program that a path means: a bare name is looked for on `PATH`, as the Go program does.
fn resolve(path: &Path) -> PathBuf {
    if let Some(program) = platform::with_extension(path) {
        return program;
    }
    let found = path.to_str().filter(|_| is_bare(path)).and_then(platform::find_program);
    found.unwrap_or_else(|| path.to_owned())
}

/// Whether a path is a name alone.
fn is_bare(path: &Path) -> bool {
    path.components().count() == 1 && path.file_name() == Some(path.as_os_str())
}

/// Whether the program that a path means is there and may be executed.
fn require_program(path: &Path) -> Result<(), DriverError> {
    let program = resolve(path);
    // A name alone is never that of a file in the working folder when it is started.
    let may_be_executed = if cfg!(unix) && is_bare(&program) {
        let name = program.display();
        let problem = format!("no program of that name is on PATH (one in the working folder is `./{name}`)");
        Err(io::Error::new(io::ErrorKind::NotFound, problem))
    } else {
        platform::access(&program, Access::Execute)
    };
    may_be_executed.map_err(|source| DriverError::Program { path: program, source })
}

/// Writes the merged configuration where the worker reads it, private from its first byte, for these accounts to read too.
fn write_config(path: &Path, config: &Merged, readers: &[Sid]) -> Result<(), DriverError> {
    let failed = |source| DriverError::Config { path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(&config.to_value()).map_err(|error| failed(error.into()))?;
    private_file::write_for(path, &text, Durability::Fleeting, readers).map_err(failed)
}

/// Those of these facts that are known, as strings.
fn facts<'a>(facts: impl IntoIterator<Item = (&'static str, Option<&'a str>)>) -> Map<String, Value> {
    object(facts.into_iter().filter_map(|(key, value)| Some((key, value?.into()))))
}

/// A string that holds JSON, as both workers want their location.
fn location(admitted: &Admitted) -> String {
    let location = admitted.identity.location.iter().map(|(key, value)| (key, value.as_str().into()));
    Value::Object(object(location)).to_string()
}
