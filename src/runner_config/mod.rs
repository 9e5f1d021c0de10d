//! The runner config: what a `runner.yml` says, with every mistake in it found at once.
//!
//! [`load`] reads the file, [`Loaded::require`] turns it into a [`RunnerConfig`] or an error that holds all problems.
//! What the worker's program and folders look like on this machine is [`crate::preflight`]'s business.

mod decode;
mod document;
mod problem;
pub mod settings;
mod table;

pub use decode::Sections;
pub use document::{Position, parse_mapping};
pub use problem::{Problem, Severity};
pub use settings::Settings;

use self::document::{Document, SyntaxError, parse};
use crate::platform::{self, Looseness, PRIVATE};
use crate::run_state::Identity;
use secrecy::SecretString;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use taskcluster_api::{Credentials, ProviderId, RootUrl, WorkerGroup, WorkerId, WorkerName, WorkerPoolId};

/// A file of more bytes than this is refused.
const MAX_SIZE: u64 = 128 * 1024 * 1024;

/// A runner config without mistakes.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Who this machine is, or who says so.
    pub provider: ProviderConfig,
    /// The worker.
    pub worker: WorkerConfig,
    /// The lowest layer of the worker's configuration.
    pub worker_config: Map<String, Value>,
    /// Whether the secrets service is asked.
    pub get_secrets: bool,
    /// The file that carries a run over reboots.
    pub cache_over_restarts: Option<PathBuf>,
    /// How start-worker behaves.
    pub settings: Settings,
}

/// Which provider, and what it has to be told.
#[derive(Debug, Clone)]
pub enum ProviderConfig {
    /// Amazon EC2.
    Aws,
    /// Microsoft Azure.
    Azure,
    /// Google Compute Engine.
    Google,
    /// A machine that worker-manager knows by a shared secret.
    Static(StaticConfig),
    /// A machine that worker-manager doesn't know.
    Standalone(StandaloneConfig),
}

/// What `providerType: static` needs.
#[derive(Debug, Clone)]
pub struct StaticConfig {
    /// The machine's name and deployment.
    pub host: HostConfig,
    /// The provider in worker-manager's configuration.
    pub provider_id: ProviderId,
    /// The secret that worker-manager and this machine share.
    pub static_secret: SecretString,
}

/// What `providerType: standalone` needs.
#[derive(Debug, Clone)]
pub struct StandaloneConfig {
    /// The machine's name and deployment.
    pub host: HostConfig,
    /// The credentials of the worker, for as long as it lives.
    pub credentials: Credentials,
}

/// What a machine that no cloud describes says of itself.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The deployment.
    pub root_url: RootUrl,
    /// The pool it works for.
    pub worker_pool_id: WorkerPoolId,
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id.
    pub worker_id: WorkerId,
    /// What the worker is told of the machine.
    pub provider_metadata: Map<String, Value>,
    /// Where it is.
    pub worker_location: BTreeMap<String, String>,
}

impl HostConfig {
    /// The machine that this describes. `cloud` is the word in its location.
    pub fn identity(&self, provider_id: ProviderId, cloud: &str) -> Identity {
        let mut location = BTreeMap::from([("cloud".to_owned(), cloud.to_owned())]);
        location.extend(self.worker_location.clone());
        Identity {
            root_url: self.root_url.clone(),
            provider_id,
            worker_pool_id: self.worker_pool_id.clone(),
            worker_group: self.worker_group.clone(),
            worker_id: self.worker_id.clone(),
            metadata: self.provider_metadata.clone(),
            location,
        }
    }

    /// Whether both describe the same machine.
    pub fn is_same(&self, other: &Self) -> bool {
        self.root_url == other.root_url && self.worker() == other.worker()
    }

    /// The worker that the machine is.
    pub fn worker(&self) -> WorkerName {
        WorkerName {
            worker_pool_id: self.worker_pool_id.clone(),
            worker_group: self.worker_group.clone(),
            worker_id: self.worker_id.clone(),
        }
    }

    /// Whether this describes that machine.
    pub fn is(&self, identity: &Identity) -> bool {
        self.root_url == identity.root_url && self.worker() == identity.worker()
    }
}

impl fmt::Display for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} (group {}) at {}", self.worker_id, self.worker_pool_id, self.worker_group, self.root_url)
    }
}

/// Which worker, and how it is started.
#[derive(Debug, Clone)]
pub enum WorkerConfig {
    /// generic-worker.
    GenericWorker {
        /// How it is started.
        start: GenericWorkerStart,
        /// Where its configuration is written.
        config_path: PathBuf,
    },
    /// docker-worker.
    DockerWorker {
        /// Its folder.
        path: PathBuf,
        /// Where its configuration is written.
        config_path: PathBuf,
    },
    /// None: the state is printed.
    Dummy,
}

impl WorkerConfig {
    /// Where the worker reads its configuration.
    pub fn config_path(&self) -> Option<&Path> {
        match self {
            Self::GenericWorker { config_path, .. } | Self::DockerWorker { config_path, .. } => Some(config_path),
            Self::Dummy => None,
        }
    }

    /// What the worker's start will read, as far as that is known.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::GenericWorker { start: GenericWorkerStart::Path(path), config_path }
            | Self::DockerWorker { path, config_path } => vec![path, platform::folder_of(config_path)],
            Self::GenericWorker { start: GenericWorkerStart::Service { .. }, config_path } => {
                vec![platform::folder_of(config_path)]
            }
            Self::Dummy => Vec::new(),
        }
    }
}

/// How generic-worker is started.
#[derive(Debug, Clone)]
pub enum GenericWorkerStart {
    /// As our child.
    Path(PathBuf),
    /// As a Windows service.
    Service {
        /// The service's name.
        name: String,
        /// The name of the pipes without `-input` and `-output`.
        protocol_pipe: String,
    },
}

impl ProviderConfig {
    /// The word in the config, the caches and the logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Google => "google",
            Self::Static(_) => "static",
            Self::Standalone(_) => "standalone",
        }
    }

    /// Whether a cloud made the machine and can take it away.
    pub const fn is_cloud(&self) -> bool {
        match self {
            Self::Aws | Self::Azure | Self::Google => true,
            Self::Static(_) | Self::Standalone(_) => false,
        }
    }
}

/// A file as it was read: what it says, as far as it could be understood, and what is wrong with it.
#[derive(Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// What it says; none where an error is among the problems.
    pub config: Option<RunnerConfig>,
    /// All problems, in the order of the file.
    pub problems: Vec<Problem>,
    /// What could be read of it otherwise.
    pub sections: Sections,
    /// The document, for the places of its keys.
    document: Option<Document>,
}

/// The runner config can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RunnerConfigError {
    /// It can't be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process runs a worker with it.
    #[error("another start-worker runs with {} already", .0.display())]
    Taken(PathBuf),
    /// It holds mistakes.
    #[error("{}", list(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its mistakes.
        problems: Vec<Problem>,
    },
}

/// Reads a runner config, changing nothing.
///
/// # Errors
/// Where the file can't be read; everything else is among the problems.
pub fn load(path: &Path) -> Result<Loaded, RunnerConfigError> {
    let unreadable = |source| RunnerConfigError::Unreadable { path: path.to_owned(), source };
    let mut file = platform::open_regular_file(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(unreadable(io::Error::other(format!("it is larger than {} MiB", MAX_SIZE / 1024 / 1024))));
    }
    let Reading { sections, mut problems, document } = read(&bytes);
    let mut config = sections.config.clone();
    if let Some(problem) = one_file_twice(path, &sections) {
        problems.push(problem);
        config = None;
    }
    if let Some(note) = platform::looseness(&file).map_err(unreadable)?.as_ref().map(loose_note) {
        problems.push(Problem::of_file(Severity::Warning, note));
    }
    Ok(Loaded { path: path.to_owned(), config, problems, sections, document })
}

/// What is read and what is written must be different files, however they are spelled.
fn one_file_twice(path: &Path, sections: &Sections) -> Option<Problem> {
    let program = match &sections.program {
        Some(WorkerConfig::GenericWorker { start: GenericWorkerStart::Path(path), .. }) => Some(path.as_path()),
        Some(
            WorkerConfig::GenericWorker { start: GenericWorkerStart::Service { .. }, .. }
            | WorkerConfig::DockerWorker { .. }
            | WorkerConfig::Dummy,
        )
        | None => None,
    };
    let named = [
        ("the runner config itself", Some(path)),
        ("worker.path", program),
        ("worker.configPath", sections.config_path.as_deref()),
        ("cacheOverRestarts", sections.cache_over_restarts.as_deref()),
    ];
    let mut seen: Vec<(&str, PathBuf)> = Vec::new();
    for (name, path) in named {
        let Some(path) = path else { continue };
        let place = platform::resolve(path);
        if let Some((other, _)) = seen.iter().find(|(_, before)| *before == place) {
            let note = format!("{other} and {name} are one file, {}: one would overwrite the other", place.display());
            return Some(Problem::of_file(Severity::Error, note));
        }
        seen.push((name, place));
    }
    None
}

/// Takes the file for this process: two runs would have one identity, and the end of one would be that of the other's machine. A
/// filesystem that knows no locks is no reason not to boot.
///
/// # Errors
/// Where another process has it.
pub fn claim(path: &Path) -> Result<Option<platform::Lock>, RunnerConfigError> {
    match platform::try_lock_file(path) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(RunnerConfigError::Taken(path.to_owned())),
        Err(error) => {
            tracing::debug!("cannot lock {}: {error}", path.display());
            Ok(None)
        }
    }
}

/// Takes reading and writing of the file away from others, where it is ours and they have it. What is in it may
/// be secret, but that is never a reason not to boot.
pub fn tighten(path: &Path) {
    let result = platform::open_regular_file(path).and_then(|file| match platform::looseness(&file)? {
        Some(Looseness { ours: true, access }) => {
            platform::make_private(&file)?;
            tracing::warn!("{} may hold secrets and had {access}: it is {PRIVATE} now", path.display());
            Ok(())
        }
        Some(looseness) => {
            tracing::warn!("{}: {}", path.display(), loose_note(&looseness));
            Ok(())
        }
        None => Ok(()),
    });
    if let Err(error) = result {
        tracing::warn!("cannot make {} private: {error}", path.display());
    }
}

fn loose_note(looseness: &Looseness) -> String {
    let access = &looseness.access;
    if looseness.ours {
        format!("the file may hold secrets and has {access}; a boot makes it {PRIVATE}")
    } else {
        format!(
            "THE FILE MAY HOLD SECRETS, OTHERS MAY READ OR CHANGE IT ({access}), AND IT BELONGS TO SOMEBODY ELSE: make it {PRIVATE} and ours"
        )
    }
}

impl Loaded {
    /// Where a key's value stands, such as `["worker", "path"]`.
    pub fn position_of(&self, keys: &[&str]) -> Option<Position> {
        let root = &self.document.as_ref()?.root;
        keys.iter().try_fold(root, |node, key| node.member(key)).map(|node| node.at)
    }

    /// The config, its warnings logged.
    ///
    /// # Errors
    /// With all problems, where one is an error.
    pub fn require(self) -> Result<RunnerConfig, RunnerConfigError> {
        match self.config {
            Some(config) if !self.problems.iter().any(Problem::is_error) => {
                for problem in self.problems.iter().filter(|problem| problem.line.is_some()) {
                    tracing::warn!("{}", line_of(&self.path, problem));
                }
                Ok(config)
            }
            Some(_) | None => Err(RunnerConfigError::Invalid { path: self.path, problems: self.problems }),
        }
    }
}

/// What the text of a runner config says.
#[derive(Debug)]
pub struct Reading {
    /// What could be read.
    pub sections: Sections,
    /// All problems, in the order of the text.
    pub problems: Vec<Problem>,
    document: Option<Document>,
}

/// Reads the text of a runner config.
pub fn read(bytes: &[u8]) -> Reading {
    let start = Position { line: 1, column: 1 };
    let fail = |problem: Problem| Reading { sections: Sections::default(), problems: vec![problem], document: None };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return fail(Problem::error(start, "").found("UTF-16").expected("UTF-8").note("save the file as UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let problem = Problem::error(Position { line, column }, "").found("bytes that are no UTF-8");
            return fail(problem.expected("UTF-8"));
        }
    };
    match parse(text) {
        Ok(document) => {
            let mut problems = Vec::new();
            let sections = decode::decode(&document, &mut problems);
            Reading { sections, problems, document: Some(document) }
        }
        Err(SyntaxError { at, problem }) => {
            fail(Problem::error(at, "").note(format!("this is neither YAML nor JSON that can be used: {problem}")))
        }
    }
}

/// `runner.yml:3:17: error: …`, as compilers write it.
pub fn line_of(path: &Path, problem: &Problem) -> String {
    let place = match (problem.line, problem.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", path.display()),
        (_, _) => path.display().to_string(),
    };
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    format!("{place}: {severity}: {problem}")
}

fn list(path: &Path, problems: &[Problem]) -> String {
    let count = problems.iter().filter(|problem| problem.is_error()).count();
    let lines: Vec<_> = problems.iter().map(|problem| format!("\n  {}", line_of(path, problem))).collect();
    format!("the runner config holds {count} error{}{}", if count == 1 { "" } else { "s" }, lines.concat())
}
