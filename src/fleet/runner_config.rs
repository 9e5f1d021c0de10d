//! The runner config of an enrolled machine: complete, commented, private.

use super::FleetError;
use crate::cli::EnrolledWorker;
use crate::private_file;
use crate::runner_config::{self, ProviderConfig, StaticConfig};
use jiff::Timestamp;
use serde_json::json;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use taskcluster_api::{ExposeSecret, ProviderId, RootUrl, StaticSecret, WorkerName};

/// What the config says beside the secret.
pub(super) struct Description<'a> {
    pub(super) root_url: &'a RootUrl,
    pub(super) provider_id: &'a ProviderId,
    pub(super) worker: &'a WorkerName,
    pub(super) implementation: EnrolledWorker,
    /// The worker's program, or docker-worker's folder.
    pub(super) path: Option<&'a Path>,
    /// The worker's own configuration.
    pub(super) config_path: Option<&'a Path>,
}

/// A text in YAML that is read as this text, whatever is in it.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

impl Description<'_> {
    /// The whole config.
    pub(super) fn write(&self, secret: &StaticSecret) -> String {
        let WorkerName { worker_pool_id, worker_group, worker_id } = self.worker;
        let default = self.implementation.default_paths();
        let path = |given: Option<&Path>, default: &str| {
            quoted(&given.map_or_else(|| default.to_owned(), |path| path.display().to_string()))
        };
        let mut text = format!(
            "# The runner config of {worker_group}/{worker_id} in {worker_pool_id}, made by `start-worker enroll` on {:.0}.\n\
             # It holds this machine's secret: only its owner may read it. Every key is described in docs/configuration.md.\n\
             # On the machine: start-worker check FILE, then start-worker FILE.\n\n\
             provider:\n  providerType: static\n  rootURL: {}\n  providerID: {}\n  workerPoolID: {}\n  workerGroup: {}\n  workerID: {}\n  \
             # What worker-manager knows this machine by. `start-worker enroll --rotate` replaces it.\n  staticSecret: {}\n  \
             # Told to the worker as workerTypeMetadata, for example {{rack: 7}}.\n  providerMetadata: {{}}\n  \
             # Told to tasks as TASKCLUSTER_WORKER_LOCATION, for example {{room: basement}}.\n  workerLocation: {{}}\n\n\
             worker:\n  implementation: {}\n",
            Timestamp::now(),
            quoted(self.root_url.as_str()),
            quoted(self.provider_id.as_str()),
            quoted(worker_pool_id.as_str()),
            quoted(worker_group.as_str()),
            quoted(worker_id.as_str()),
            quoted(secret.as_secret().expose_secret()),
            self.implementation.name(),
        );
        if let Some((program, config)) = default {
            let (program, config) = (path(self.path, program), path(self.config_path, config));
            let _ = write!(
                text,
                "  # Where the worker is installed.\n  path: {program}\n  \
                 # Where start-worker writes the worker's own configuration, at each start.\n  configPath: {config}\n"
            );
        }
        text.push_str(
            "\n# The lowest layer of the worker's own configuration; the worker pool and its secrets go over it.\nworkerConfig: {}\n\n\
             # Whether the pool's secrets are asked for.\ngetSecrets: true\n\n\
             # A static machine may register at every start. To go on with the same run after a reboot, name a file:\n\
             # cacheOverRestarts: /var/lib/start-worker/run.json\n",
        );
        text
    }
}

/// The config of a worker that was enrolled before, if there is one at this path.
pub(super) fn existing(
    path: &Path,
    root_url: &RootUrl,
    worker: &WorkerName,
) -> Result<Option<StaticConfig>, FleetError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(_) | Err(_) => {}
    }
    let in_the_way = |problem: String| FleetError::InTheWay { path: path.to_owned(), problem };
    let found = read(path).map_err(in_the_way)?;
    let host = &found.host;
    let same = host.root_url == *root_url && host.worker() == *worker;
    if same { Ok(Some(found)) } else { Err(in_the_way(format!("it is the runner config of {host}"))) }
}

/// A static machine's runner config.
pub(super) fn read(path: &Path) -> Result<StaticConfig, String> {
    let loaded = runner_config::load(path).map_err(|error| crate::error::Chain(&error).to_string())?;
    let config = loaded.config.ok_or("it is there, and is no runner config without mistakes")?;
    match config.provider {
        ProviderConfig::Static(config) => Ok(config),
        ProviderConfig::Aws | ProviderConfig::Azure | ProviderConfig::Google | ProviderConfig::Standalone(_) => {
            Err(format!("it is the runner config of a machine of the provider {}", config.provider.name()))
        }
    }
}

/// A config with another secret, and everything else, comments too, as it is.
pub(super) fn with_secret(path: &Path, old: &StaticConfig, new: &StaticSecret) -> Result<String, FleetError> {
    let in_the_way = |problem: &str| FleetError::InTheWay { path: path.to_owned(), problem: problem.to_owned() };
    let text = fs::read_to_string(path).map_err(|error| in_the_way(&error.to_string()))?;
    let old = old.static_secret.expose_secret();
    if old.is_empty() || text.matches(old).count() != 1 {
        return Err(in_the_way("its secret stands there more than once, or spelled in another way"));
    }
    Ok(text.replace(old, new.as_secret().expose_secret()))
}

/// Where a config waits for worker-manager's answer.
pub(super) fn pending(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".enrolling");
    path.with_file_name(name)
}

/// Puts a config into its place, for good.
pub(super) fn put_in_place(pending: &Path, path: &Path) -> std::io::Result<()> {
    private_file::refuse_other_kind(path)?;
    crate::platform::replace(pending, path)?;
    // It is in its place; whether that outlives a power cut is another matter.
    if let Err(error) = crate::platform::sync_folder(path) {
        tracing::warn!("{}: {error}: a power cut could bring back the file before", path.display());
    }
    Ok(())
}
