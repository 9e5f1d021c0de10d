//! worker-manager. Source: `references/worker-manager/v1/api.json` and the schemas that it names.

mod pool;
mod provider;
mod registration;
mod report;
mod worker;

pub use pool::{
    Archived, CreateWorkerPool, LaunchConfig, LaunchConfigStats, UpdateWorkerPool, WorkerCounts, WorkerPool,
    WorkerPoolLaunchConfigList, WorkerPoolList, WorkerPoolListStats, WorkerPoolStats, WorkerPoolStatsList,
};
pub use provider::{Provider, ProviderList, ProviderType};
pub use registration::{
    InvalidStaticSecret, NoRandomNumbers, RegisterWorker, Registration, Renewal, ReregisterWorker, StaticSecret,
    WorkerProof,
};
pub use report::{
    ReportWorkerError, ReportWorkerErrorRequest, WorkerPoolError, WorkerPoolErrorFilter, WorkerPoolErrorList,
    WorkerPoolErrorStats, WorkerPoolErrorTotals,
};
pub use worker::{
    Capacity, CreateWorker, ProviderInfo, Quarantine, QueueWorker, QueueWorkerDetails, QueueWorkerFilter,
    QueueWorkerList, ShouldTerminate, TaskRun, Worker, WorkerFilter, WorkerList, WorkerName, WorkerState,
};

use crate::client::{Call, Client};
use crate::endpoint::worker_manager as endpoint;
use crate::error::ApiError;
use crate::ids::{WorkerGroup, WorkerPoolId};
use crate::pages::List;
use crate::probes::probes;

/// worker-manager, through a [`Client`].
///
/// ```no_run
/// # use taskcluster_api::{Client, WorkerManager, worker_manager::WorkerFilter};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let worker_manager = WorkerManager::new(Client::from_environment()?);
/// let pool = "proj-example/linux".parse()?;
/// let mut workers = worker_manager.list_workers_for_worker_pool(&pool, WorkerFilter::default()).items();
/// while let Some(worker) = workers.next().await {
///     let worker = worker?;
///     println!("{} {} {}", worker.worker_group, worker.worker_id, worker.state);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct WorkerManager(Client);

impl WorkerManager {
    /// The service, through this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    probes!(endpoint);

    /// `listProviders`: what makes and watches over workers in this deployment.
    pub fn list_providers(&self) -> List<ProviderList> {
        List::new(&self.0, &endpoint::LIST_PROVIDERS, &[])
    }

    /// `createWorkerPool`. 409 where there is one of that id.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn create_worker_pool(&self, id: &WorkerPoolId, pool: &CreateWorkerPool) -> Result<WorkerPool, ApiError> {
        self.0.call_with(Call::new(&endpoint::CREATE_WORKER_POOL, &[id.as_str()]), pool).await
    }

    /// `updateWorkerPool`: replaces the pool's definition. One that was read before becomes an update with
    /// [`UpdateWorkerPool::from`].
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn update_worker_pool(&self, id: &WorkerPoolId, pool: &UpdateWorkerPool) -> Result<WorkerPool, ApiError> {
        self.0.call_with(Call::new(&endpoint::UPDATE_WORKER_POOL, &[id.as_str()]), pool).await
    }

    /// `deleteWorkerPool`: the pool is gone once its last worker is.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn delete_worker_pool(&self, id: &WorkerPoolId) -> Result<WorkerPool, ApiError> {
        self.0.call(&Call::new(&endpoint::DELETE_WORKER_POOL, &[id.as_str()])).await
    }

    /// `workerPool`: a pool's definition.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn worker_pool(&self, id: &WorkerPoolId) -> Result<WorkerPool, ApiError> {
        self.0.call(&Call::new(&endpoint::WORKER_POOL, &[id.as_str()])).await
    }

    /// `listWorkerPools`: every pool's definition.
    pub fn list_worker_pools(&self) -> List<WorkerPoolList> {
        List::new(&self.0, &endpoint::LIST_WORKER_POOLS, &[])
    }

    /// `listWorkerPoolLaunchConfigs`: what a cloud's pool makes its workers from.
    pub fn list_worker_pool_launch_configs(
        &self,
        id: &WorkerPoolId,
        archived: Archived,
    ) -> List<WorkerPoolLaunchConfigList> {
        let archived = match archived {
            Archived::Excluded => None,
            Archived::Included => Some("true".to_owned()),
        };
        List::new(&self.0, &endpoint::LIST_WORKER_POOL_LAUNCH_CONFIGS, &[id.as_str()])
            .filter("includeArchived", archived)
    }

    /// `workerPoolStats`: how many workers a pool has, by launch configuration.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn worker_pool_stats(&self, id: &WorkerPoolId) -> Result<WorkerPoolStats, ApiError> {
        self.0.call(&Call::new(&endpoint::WORKER_POOL_STATS, &[id.as_str()])).await
    }

    /// `listWorkerPoolsStats`: how many workers each pool has.
    pub fn list_worker_pools_stats(&self) -> List<WorkerPoolStatsList> {
        List::new(&self.0, &endpoint::LIST_WORKER_POOLS_STATS, &[])
    }

    /// `reportWorkerError`: what the pool's operators, and everybody else, see of a failure. Clipped to what the service
    /// accepts. Not sent again where the answer is lost, unless the client's policy says so.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn report_worker_error(
        &self,
        worker: &WorkerName,
        report: ReportWorkerError,
    ) -> Result<WorkerPoolError, ApiError> {
        let pool = [worker.worker_pool_id.as_str()];
        let request = ReportWorkerErrorRequest::of(worker, report.clipped());
        self.0.call_with(Call::new(&endpoint::REPORT_WORKER_ERROR, &pool), &request).await
    }

    /// `workerPoolErrorStats`: how many errors a pool, or every pool, had of late.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn worker_pool_error_stats(&self, id: Option<&WorkerPoolId>) -> Result<WorkerPoolErrorStats, ApiError> {
        let query: Vec<_> = id.iter().map(|id| ("workerPoolId", id.as_str())).collect();
        self.0.call(&Call { query: &query, ..Call::new(&endpoint::WORKER_POOL_ERROR_STATS, &[]) }).await
    }

    /// `listWorkerPoolErrors`: a pool's errors.
    pub fn list_worker_pool_errors(
        &self,
        id: &WorkerPoolId,
        filter: WorkerPoolErrorFilter,
    ) -> List<WorkerPoolErrorList> {
        List::new(&self.0, &endpoint::LIST_WORKER_POOL_ERRORS, &[id.as_str()])
            .filter("launchConfigId", filter.launch_config_id.map(String::from))
            .filter("errorId", filter.error_id.map(String::from))
    }

    /// `listWorkersForWorkerPool`: a pool's workers, as worker-manager knows them.
    pub fn list_workers_for_worker_pool(&self, id: &WorkerPoolId, filter: WorkerFilter) -> List<WorkerList> {
        List::new(&self.0, &endpoint::LIST_WORKERS_FOR_WORKER_POOL, &[id.as_str()])
            .filter("launchConfigId", filter.launch_config_id.map(String::from))
            .filter("state", filter.state.map(String::from))
    }

    /// `listWorkersForWorkerGroup`: the workers of one group of a pool.
    pub fn list_workers_for_worker_group(&self, id: &WorkerPoolId, group: &WorkerGroup) -> List<WorkerList> {
        List::new(&self.0, &endpoint::LIST_WORKERS_FOR_WORKER_GROUP, &[id.as_str(), group.as_str()])
    }

    /// `worker`: one worker, as worker-manager knows it.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn worker(&self, worker: &WorkerName) -> Result<Worker, ApiError> {
        self.0.call(&Call::new(&endpoint::WORKER, &worker.segments())).await
    }

    /// `createWorker`: makes a worker known, so that it can register. Only for pools whose provider makes none itself,
    /// such as static ones: 400 otherwise, and where there is another one of that name.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn create_worker(&self, worker: &WorkerName, definition: &CreateWorker) -> Result<Worker, ApiError> {
        self.0.call_with(Call::new(&endpoint::CREATE_WORKER, &worker.segments()), definition).await
    }

    /// `updateWorker`: replaces what `createWorker` said. An end in the past has the worker forgotten soon.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn update_worker(&self, worker: &WorkerName, definition: &CreateWorker) -> Result<Worker, ApiError> {
        self.0.call_with(Call::new(&endpoint::UPDATE_WORKER, &worker.segments()), definition).await
    }

    /// `removeWorker`: ends the machine and the worker.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn remove_worker(&self, worker: &WorkerName) -> Result<(), ApiError> {
        self.0.perform(&Call::new(&endpoint::REMOVE_WORKER, &worker.segments())).await
    }

    /// `shouldWorkerTerminate`: whether worker-manager wants the worker to end.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn should_worker_terminate(&self, worker: &WorkerName) -> Result<ShouldTerminate, ApiError> {
        self.0.call(&Call::new(&endpoint::SHOULD_WORKER_TERMINATE, &worker.segments())).await
    }

    /// `registerWorker`: shows the proof, gets credentials. Unsigned. A cloud worker registers once, so it is not sent
    /// again where the answer is lost, unless the client's policy says so.
    ///
    /// # Errors
    /// As [`ApiError`] says; see [`ApiError::is_already_registered`].
    pub async fn register_worker(&self, request: &RegisterWorker) -> Result<Registration, ApiError> {
        self.0.call_with(Call::new(&endpoint::REGISTER_WORKER, &[]), request).await
    }

    /// `reregisterWorker`: new credentials for old ones that still live. The secret is dead afterwards, even where the
    /// answer is lost.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn reregister_worker(&self, request: &ReregisterWorker) -> Result<Renewal, ApiError> {
        self.0.call_with(Call::new(&endpoint::REREGISTER_WORKER, &[]), request).await
    }

    /// `listWorkers`: a pool's workers as the queue and worker-manager together know them: also those that are not
    /// managed, when each was last active, and whether it is in quarantine.
    pub fn list_workers(&self, id: &WorkerPoolId, filter: QueueWorkerFilter) -> List<QueueWorkerList> {
        List::new(&self.0, &endpoint::LIST_WORKERS, &[id.provisioner_id(), id.worker_type()])
            .filter("launchConfigId", filter.launch_config_id.map(String::from))
            .filter("quarantined", filter.quarantined.map(|quarantined| quarantined.to_string()))
            .filter("workerState", filter.state.map(String::from))
    }

    /// `getWorker`: one worker as the queue and worker-manager together know it.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn get_worker(&self, worker: &WorkerName) -> Result<QueueWorkerDetails, ApiError> {
        let WorkerName { worker_pool_id: pool, worker_group, worker_id } = worker;
        let arguments = [pool.provisioner_id(), pool.worker_type(), worker_group.as_str(), worker_id.as_str()];
        self.0.call(&Call::new(&endpoint::GET_WORKER, &arguments)).await
    }
}
