//! `start-worker unenroll`: takes a machine out of its pool, and frees its name.

use super::FleetError;
use super::deployment::Deployment;
use super::enroll::lock;
use super::runner_config;
use crate::cache::Cache;
use crate::cli::UnenrollArguments;
use crate::platform;
use crate::runner_config::ProviderConfig;
use jiff::Timestamp;
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use taskcluster_api::worker_manager::{CreateWorker, ProviderInfo};
use taskcluster_api::{StaticSecret, WorkerName};

/// An end that is in the past by any clock: the second second of 2000.
const LONG_AGO: i64 = 946_684_801;

/// Has the worker's row end and its secret be nobody's, and then removes it: only a static pool's worker can be changed, and
/// that of another one must not be ended by the removal.
pub(super) async fn unenroll(arguments: &UnenrollArguments) -> Result<(), FleetError> {
    let deployment = Deployment::of(&arguments.deployment)?;
    // Nobody enrolls or rotates here meanwhile.
    let folder = arguments.config.as_deref().map(platform::folder_of).filter(|folder| folder.is_dir());
    let _lock = folder.map(lock).transpose()?;
    let worker = name(arguments, &deployment)?;
    let manager = &deployment.manager;
    // Removal alone leaves a stopped row, whose name nobody can have until it ends.
    let secret = StaticSecret::random().map_err(|error| FleetError::System(io::Error::other(error)))?;
    let definition = CreateWorker {
        expires: Timestamp::from_second(LONG_AGO).unwrap_or(Timestamp::UNIX_EPOCH),
        capacity: None,
        provider_info: Some(ProviderInfo { static_secret: secret }),
    };
    let known = match manager.update_worker(&worker, &definition).await {
        Ok(_) => true,
        Err(error) if super::is_unknown(&error) => false,
        Err(error) => return Err(FleetError::of_change("unenrolling", &worker, error)),
    };
    if known {
        match manager.remove_worker(&worker).await {
            Ok(()) => {}
            // Swept away in between.
            Err(error) if super::is_unknown(&error) => {}
            Err(source) => {
                let done = "its secret opens nothing any more, but it is not removed yet";
                return Err(FleetError::HalfUnenrolled { worker, done, source });
            }
        }
    }
    let (deleted, stays) = match (&arguments.config, arguments.delete) {
        (Some(config), true) => delete(config),
        (_, _) => (Vec::new(), None),
    };
    let text = if arguments.json {
        format!(
            "{:#}\n",
            json!({
                "workerPoolId": worker.worker_pool_id, "workerGroup": worker.worker_group,
                "workerId": worker.worker_id, "result": if known { "unenrolled" } else { "unknown" },
                "deleted": deleted.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            })
        )
    } else {
        words(&worker, known, &deleted)
    };
    super::print(&text)?;
    stays.map_or(Ok(()), Err)
}

fn words(worker: &WorkerName, known: bool, deleted: &[PathBuf]) -> String {
    let mut text = if known {
        format!(
            "{worker} is unenrolled: its secret opens nothing any more, and its credentials end by themselves. Its name is free once worker-manager has swept its row away, within about an hour.\n"
        )
    } else {
        format!("worker-manager does not know {worker}.\n")
    };
    for path in deleted {
        let _ = writeln!(text, "Deleted {}.", path.display());
    }
    text
}

/// Which worker: what is said, or what the config says.
fn name(arguments: &UnenrollArguments, deployment: &Deployment) -> Result<WorkerName, FleetError> {
    let of_config = arguments.config.as_ref().map(|path| {
        let unusable = |problem| FleetError::Config { path: path.clone(), problem };
        // Of an enrollment that was interrupted only the config that waits is there.
        let pending = runner_config::pending(path);
        let there = if !path.exists() && pending.exists() { &pending } else { path };
        let host = runner_config::read(there).map_err(unusable)?.host;
        let root_url = deployment.root_url()?;
        if host.root_url == *root_url {
            Ok(host.worker())
        } else {
            Err(unusable(format!("it is for {}, and the credentials for {}", host.root_url, root_url)))
        }
    });
    let of_config = of_config.transpose()?;
    match (&arguments.pool, &arguments.group, &arguments.id, of_config) {
        (Some(pool), Some(group), Some(id), of_config) => {
            let worker =
                WorkerName { worker_pool_id: pool.clone(), worker_group: group.clone(), worker_id: id.clone() };
            match of_config {
                Some(other) if other != worker => {
                    Err(FleetError::Arguments(format!("--config is that of {other}, not of {worker}")))
                }
                Some(_) | None => Ok(worker),
            }
        }
        (None, None, None, Some(worker)) => Ok(worker),
        (_, _, _, _) => Err(FleetError::Arguments("name --pool, --group and --id, or --config alone".to_owned())),
    }
}

/// Deletes the config, what waits beside it, and what is kept of the machine's runs: files of those names that are
/// another machine's stay. Which files are gone, and what went wrong last.
fn delete(config: &Path) -> (Vec<PathBuf>, Option<FleetError>) {
    let mut files = Vec::new();
    let pending = runner_config::pending(config);
    if !config.exists() {
        // Then the worker's name came from the one that waits.
        files.push(pending);
    } else if let Some(loaded) = crate::runner_config::load(config).ok().and_then(|loaded| loaded.config)
        && let ProviderConfig::Static(machine) = &loaded.provider
    {
        files.extend(Cache::of(&loaded, config).files_of(&machine.host));
        files.extend(
            runner_config::read(&pending).ok().filter(|other| other.host.is_same(&machine.host)).map(|_| pending),
        );
    }
    files.push(config.to_owned());
    let (mut deleted, mut problem) = (Vec::new(), None);
    for path in files {
        match fs::remove_file(&path) {
            Ok(()) => deleted.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => problem = Some(FleetError::NotDeleted { path, source }),
        }
    }
    (deleted, problem)
}
