//! Telling worker-manager of errors. What is told becomes public.

use std::time::Duration;
use taskcluster_api::{Client, ReportWorkerError, RetryPolicy, WorkerManager, WorkerName};

/// A report never holds anything up for longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries to report an error; that it can't be reported is a line in the log.
pub async fn send(client: &Client, worker: &WorkerName, report: ReportWorkerError) {
    let service = WorkerManager::new(client.clone());
    let title = report.title.clone();
    let policy = RetryPolicy { total: PATIENCE, ..RetryPolicy::DEFAULT };
    match tokio::time::timeout(PATIENCE, service.report_worker_error(worker, report, policy)).await {
        Ok(Ok(())) => tracing::info!("reported to worker-manager: {}", title),
        // A client without that scope, as standalone workers may have, is no fault.
        Ok(Err(error)) if error.status() == Some(403) => tracing::debug!("may not report errors: {}", error.failure),
        Ok(Err(error)) => tracing::warn!("cannot report an error to worker-manager: {}", error.failure),
        Err(_) => tracing::warn!("cannot report an error to worker-manager within {} s", PATIENCE.as_secs()),
    }
}
