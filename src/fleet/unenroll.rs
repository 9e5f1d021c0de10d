//! `start-worker unenroll`: takes a machine out of its pool, and frees its name.

use super::FleetError;
use super::deployment::Deployment;
use super::runner_config;
use crate::cache;
use crate::cli::UnenrollArguments;
use jiff::Timestamp;
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use taskcluster_api::worker_manager::{CreateWorker, ProviderInfo};
use taskcluster_api::{ErrorClass, StaticSecret, WorkerName};

/// An end that is in the past by any clock: the second second of 2000.
const LONG_AGO: i64 = 946_684_801;

/// Removes the worker, and then has its row end and its secret be nobody's.
pub(super) async fn unenroll(arguments: &UnenrollArguments) -> Result<(), FleetError> {
    let deployment = Deployment::of(&arguments.deployment)?;
    let worker = name(arguments, &deployment)?;
    let manager = &deployment.manager;
    // Removal alone leaves a stopped row, whose name nobody can have until it ends.
    let known = match manager.remove_worker(&worker).await {
        Ok(()) => true,
        Err(error) if error.class() == ErrorClass::Absent => false,
        Err(error) if error.is_certainly_undone() => return Err(FleetError::Call(error)),
        Err(source) => return Err(FleetError::Doubtful { doing: "unenrolling", worker, source }),
    };
    if known {
        let secret = StaticSecret::random().map_err(|error| FleetError::System(io::Error::other(error)))?;
        let definition = CreateWorker {
            expires: Timestamp::from_second(LONG_AGO).unwrap_or(Timestamp::UNIX_EPOCH),
            capacity: None,
            provider_info: Some(ProviderInfo { static_secret: secret }),
        };
        match manager.update_worker(&worker, &definition).await {
            Ok(_) => {}
            // Swept away in between.
            Err(error) if error.class() == ErrorClass::Absent => {}
            Err(source) => {
                let done = "it is removed, but its name is not free yet";
                return Err(FleetError::HalfUnenrolled { worker, done, source });
            }
        }
    }
    let deleted = match (&arguments.config, arguments.delete) {
        (Some(config), true) => delete(config)?,
        (_, _) => Vec::new(),
    };
    let _ = if arguments.json {
        writeln!(
            io::stdout(),
            "{:#}",
            json!({
                "workerPoolId": worker.worker_pool_id, "workerGroup": worker.worker_group,
                "workerId": worker.worker_id, "result": if known { "unenrolled" } else { "unknown" },
                "deleted": deleted.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            })
        )
    } else {
        io::stdout().write_all(words(&worker, known, &deleted).as_bytes())
    };
    Ok(())
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
        let in_the_way = |problem| FleetError::InTheWay { path: path.clone(), problem };
        let host = runner_config::read(path).map_err(in_the_way)?.host;
        let root_url = deployment.root_url()?;
        if host.root_url == *root_url {
            let (worker_pool_id, worker_group, worker_id) = (host.worker_pool_id, host.worker_group, host.worker_id);
            Ok(WorkerName { worker_pool_id, worker_group, worker_id })
        } else {
            Err(in_the_way(format!("it is for {}, and the credentials for {}", host.root_url, root_url)))
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

/// Deletes the config and what is kept of its runs. Which files there were.
fn delete(config: &Path) -> Result<Vec<PathBuf>, FleetError> {
    let loaded = crate::runner_config::load(config).ok().and_then(|loaded| loaded.config);
    let mut files = loaded.map(|loaded| cache::Cache::of(&loaded, config).files()).unwrap_or_default();
    files.extend([runner_config::pending(config), config.to_owned()]);
    let mut deleted = Vec::new();
    for path in files {
        match fs::remove_file(&path) {
            Ok(()) => deleted.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(FleetError::NotDeleted { path, source }),
        }
    }
    Ok(deleted)
}
