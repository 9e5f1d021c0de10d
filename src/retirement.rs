//! What becomes of a machine after its run.

use crate::platform;
use std::io;
use std::time::Duration;
use taskcluster_api::{Client, RetryPolicy, WorkerManager, WorkerName};

/// For how long worker-manager is asked to remove the worker.
const PATIENCE: Duration = Duration::from_secs(120);

/// Has worker-manager remove the machine, and shuts it down where that fails.
pub async fn remove_or_shut_down(client: &Client, worker: &WorkerName) {
    tracing::info!("asking worker-manager to remove this worker and its machine");
    let removed = WorkerManager::new(client.clone()).remove_worker(worker, RetryPolicy::persistent(PATIENCE)).await;
    match removed {
        Ok(()) => tracing::info!("worker-manager removes this machine"),
        Err(error) => {
            tracing::error!("worker-manager does not remove this machine ({}): shutting it down", error.failure);
            match shut_down().await {
                Ok(()) => tracing::info!("this machine is shutting down"),
                Err(error) => tracing::error!("THIS MACHINE CANNOT BE SHUT DOWN AND GOES ON COSTING MONEY: {error}"),
            }
        }
    }
}

async fn shut_down() -> io::Result<()> {
    let mut command = platform::shutdown_command()?;
    let status = tokio::task::spawn_blocking(move || command.status()).await.map_err(io::Error::other)?;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(io::Error::other(format!("shutdown ended with {status}"))),
        // Beside a worker every ended child is cleared away: this one ran, and how it ended is not known.
        Err(error) if error.raw_os_error() == Some(platform::NO_CHILD) => Ok(()),
        Err(error) => Err(error),
    }
}
