//! How a machine goes: worker-manager removes it, or it shuts itself down, or it reboots.

use crate::platform::{self, Shutdown};
use crate::provider::Provider;
use crate::run_state::Identity;
use crate::runner_config::settings::RetirementSettings;
use std::io;
use std::time::Duration;
use taskcluster_api::{Client, RetryPolicy, WorkerManager, WorkerName};

/// How long the system's own `shutdown` may take to say that it will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has worker-manager remove the machine, with patience; a refusal ends that at once. Whether it does.
pub async fn remove(client: &Client, worker: &WorkerName, settings: &RetirementSettings) -> bool {
    tracing::info!("asking worker-manager to remove this worker and its machine");
    let client = client.with_retry(RetryPolicy::persistent(settings.removal));
    match WorkerManager::new(client).remove_worker(worker).await {
        Ok(()) => {
            tracing::info!("worker-manager removes this machine");
            true
        }
        Err(error) => {
            tracing::error!("worker-manager does not remove this machine: {}", error.failure);
            false
        }
    }
}

/// Shuts the machine down, or has its cloud end it; where that fails, tries again, for ever. Before it is known which
/// machine this is, there is nothing to name to a cloud.
pub async fn shut_down(settings: &RetirementSettings, provider: &dyn Provider, identity: Option<&Identity>) {
    while !try_to_shut_down().await {
        if let Some(identity) = identity
            && provider.terminate(identity).await
        {
            return;
        }
        let pause = settings.shutdown_retry;
        tracing::error!("trying again in {} s, until this machine is gone", pause.as_secs_f32());
        tokio::time::sleep(pause).await;
    }
}

/// Tries once to shut the machine down. Whether that is under way.
pub async fn try_to_shut_down() -> bool {
    tracing::info!("shutting this machine down");
    match run_shutdown(Shutdown::Halt).await {
        Ok(()) => {
            tracing::info!("this machine is shutting down");
            true
        }
        Err(error) => {
            tracing::error!("THIS MACHINE CANNOT BE SHUT DOWN AND GOES ON COSTING MONEY: {error}");
            false
        }
    }
}

/// Reboots the machine. Whether that is under way.
pub async fn reboot() -> bool {
    tracing::info!("rebooting this machine");
    match run_shutdown(Shutdown::Reboot).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!("this machine cannot be rebooted: {error}");
            false
        }
    }
}

async fn run_shutdown(then: Shutdown) -> io::Result<()> {
    let ordered = tokio::task::spawn_blocking(move || platform::shut_down(then));
    match tokio::time::timeout(PATIENCE, ordered).await {
        Ok(ordered) => ordered.map_err(io::Error::other)?,
        Err(_) => Err(io::Error::other(format!("shutdown does not end within {} s", PATIENCE.as_secs()))),
    }
}
