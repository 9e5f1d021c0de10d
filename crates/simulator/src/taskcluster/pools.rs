//! Providers and worker pools.

use super::{Refusal, Reply, Routed, Taskcluster, absent, answer, input, invalid, query_is_wrong};
use jiff::Timestamp;
use serde_json::{Map, Value};
use taskcluster_api::worker_manager::{
    CreateWorkerPool, LaunchConfig, LaunchConfigStats, ProviderList, UpdateWorkerPool, WorkerCounts,
    WorkerPoolLaunchConfigList, WorkerPoolList, WorkerPoolListStats, WorkerPoolStats, WorkerPoolStatsList,
};
use taskcluster_api::{ProviderId, Worker, WorkerPool, WorkerPoolId, WorkerState};

/// The provider of pools that are being deleted.
const NULL_PROVIDER: &str = "null-provider";

/// A pool without workers.
pub(super) fn new_pool(id: &WorkerPoolId, provider_id: &ProviderId, now: Timestamp) -> WorkerPool {
    pool_of(
        id,
        CreateWorkerPool {
            provider_id: provider_id.clone(),
            description: "a simulated pool".to_owned(),
            config: Map::new(),
            owner: "owner@example.com".to_owned(),
            email_on_error: false,
        },
        now,
    )
}

fn pool_of(id: &WorkerPoolId, definition: CreateWorkerPool, now: Timestamp) -> WorkerPool {
    let CreateWorkerPool { provider_id, description, config, owner, email_on_error } = definition;
    let mut pool = WorkerPool {
        worker_pool_id: Some(id.clone()),
        provider_id,
        description,
        created: now,
        last_modified: now,
        config,
        owner,
        email_on_error,
        other: Map::new(),
        current_capacity: 0,
        requested_count: 0,
        running_count: 0,
        stopping_count: 0,
        stopped_count: 0,
        requested_capacity: 0,
        running_capacity: 0,
        stopping_capacity: 0,
        stopped_capacity: 0,
    };
    fill(&mut pool.config);
    pool
}

/// Gives every launch configuration an id, as the service does.
fn fill(config: &mut Map<String, Value>) {
    let Some(Value::Array(configs)) = config.get_mut("launchConfigs") else { return };
    for (number, config) in configs.iter_mut().enumerate() {
        if let Value::Object(config) = config {
            let manager = config.entry("workerManager").or_insert_with(|| Map::new().into());
            if let Value::Object(manager) = manager {
                manager.entry("launchConfigId").or_insert_with(|| format!("lc-{number}").into());
            }
        }
    }
}

fn launch_config_id(config: &Value) -> String {
    config.pointer("/workerManager/launchConfigId").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn count<'a>(workers: impl Iterator<Item = &'a Worker>) -> WorkerCounts {
    let mut counts = WorkerCounts::default();
    for worker in workers {
        let capacity = u64::from(worker.capacity);
        let (number, sum) = match worker.state {
            WorkerState::Requested => (&mut counts.requested_count, &mut counts.requested_capacity),
            WorkerState::Running => (&mut counts.running_count, &mut counts.running_capacity),
            WorkerState::Stopping => (&mut counts.stopping_count, &mut counts.stopping_capacity),
            WorkerState::Stopped => (&mut counts.stopped_count, &mut counts.stopped_capacity),
            WorkerState::Standalone | WorkerState::Other(_) => continue,
        };
        *number += 1;
        *sum = sum.saturating_add(capacity);
        if worker.state != WorkerState::Stopped {
            counts.current_capacity = counts.current_capacity.saturating_add(capacity);
        }
    }
    counts
}

/// The fields of any struct that has the counts among its own.
macro_rules! counted {
    ($counts:expr, $name:ident { $($rest:tt)* }) => {{
        let counts: WorkerCounts = $counts;
        $name {
            current_capacity: counts.current_capacity,
            requested_count: counts.requested_count,
            running_count: counts.running_count,
            stopping_count: counts.stopping_count,
            stopped_count: counts.stopped_count,
            requested_capacity: counts.requested_capacity,
            running_capacity: counts.running_capacity,
            stopping_capacity: counts.stopping_capacity,
            stopped_capacity: counts.stopped_capacity,
            $($rest)*
        }
    }};
}

impl Taskcluster {
    fn workers_of<'a>(&'a self, id: &'a WorkerPoolId) -> impl Iterator<Item = &'a Worker> {
        self.workers.values().map(|row| &row.worker).filter(move |worker| worker.worker_pool_id == *id)
    }

    /// The pool with the numbers of its workers.
    pub(super) fn counted(&self, pool: &WorkerPool) -> WorkerPool {
        let pool = pool.clone();
        let counts = pool.worker_pool_id.as_ref().map(|id| count(self.workers_of(id))).unwrap_or_default();
        counted!(counts, WorkerPool { ..pool })
    }

    pub(super) fn list_providers(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let (providers, continuation_token) = routed.page(self.providers.iter().cloned())?;
        answer(ProviderList { providers, continuation_token })
    }

    /// Whether the deployment has the pool's provider.
    fn check_provider(&self, pool: &CreateWorkerPool) -> Result<(), Refusal> {
        let known = self.providers.iter().any(|provider| provider.provider_id == pool.provider_id.as_str());
        if known || pool.provider_id.as_str() == NULL_PROVIDER { Ok(()) } else { Err(input("Invalid Provider")) }
    }

    pub(super) fn create_worker_pool(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let definition: CreateWorkerPool = routed.payload()?;
        check_form(&definition)?;
        let id = routed.pool()?;
        self.check_provider(&definition)?;
        if self.pools.contains_key(&id) {
            return Err((409, "RequestConflict", "Worker pool already exists".to_owned()));
        }
        let pool = pool_of(&id, definition, self.timestamp());
        self.pools.insert(id, pool.clone());
        answer(pool)
    }

    pub(super) fn update_worker_pool(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let update: UpdateWorkerPool = routed.payload()?;
        if let Some(unknown) = update.other.keys().next() {
            return Err(invalid(format!("{unknown} is not allowed")));
        }
        let UpdateWorkerPool { worker_pool_id, provider_id, description, config, owner, email_on_error, .. } = update;
        let definition = CreateWorkerPool { provider_id, description, config, owner, email_on_error };
        check_form(&definition)?;
        let id = routed.pool()?;
        if worker_pool_id.is_some_and(|other| other != id) {
            return Err(input("Incorrect workerPoolId in request body"));
        }
        self.check_provider(&definition)?;
        let before = self.pool(&id)?.created;
        let pool = WorkerPool { created: before, ..pool_of(&id, definition, self.timestamp()) };
        self.pools.insert(id, pool.clone());
        answer(self.counted(&pool))
    }

    pub(super) fn delete_worker_pool(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let id = routed.pool()?;
        let now = self.timestamp();
        let pool = self.pools.get_mut(&id).ok_or_else(|| absent("Worker pool does not exist"))?;
        pool.provider_id = NULL_PROVIDER.parse().map_err(|_| input("no provider"))?;
        pool.last_modified = now;
        let pool = self.counted(&self.pools[&id]);
        // A pool is gone once its last worker is.
        if pool.current_capacity == 0 {
            self.pools.remove(&id);
        }
        answer(pool)
    }

    pub(super) fn list_worker_pools(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let (worker_pools, continuation_token) = routed.page(self.pools.values().map(|pool| self.counted(pool)))?;
        answer(WorkerPoolList { worker_pools, continuation_token })
    }

    fn launch_configs<'a>(id: &'a WorkerPoolId, pool: &'a WorkerPool) -> impl Iterator<Item = LaunchConfig> + 'a {
        let configs = pool.config.get("launchConfigs").and_then(Value::as_array).into_iter().flatten();
        configs.map(|config| LaunchConfig {
            launch_config_id: launch_config_id(config),
            worker_pool_id: id.to_string(),
            is_archived: pool.provider_id.as_str() == NULL_PROVIDER,
            configuration: config.as_object().cloned().unwrap_or_default(),
            created: pool.created,
            last_modified: pool.last_modified,
        })
    }

    pub(super) fn list_launch_configs(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let id = routed.pool()?;
        let archived = match routed.query.get("includeArchived").map(String::as_str) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(query_is_wrong("includeArchived")),
        };
        let pool = self.pool(&id)?;
        let wanted = Self::launch_configs(&id, pool).filter(|config| archived || !config.is_archived);
        let (worker_pool_launch_configs, continuation_token) = routed.page(wanted)?;
        answer(WorkerPoolLaunchConfigList { worker_pool_launch_configs, continuation_token })
    }

    pub(super) fn worker_pool_stats(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let id = routed.pool()?;
        let stats = Self::launch_configs(&id, self.pool(&id)?).map(|config| {
            let of_config = |worker: &&Worker| {
                worker.launch_config_id.as_ref().is_some_and(|id| id.as_str() == config.launch_config_id)
            };
            let (worker_pool_id, launch_config_id) = (id.clone(), config.launch_config_id.clone());
            counted!(
                count(self.workers_of(&id).filter(of_config)),
                LaunchConfigStats { worker_pool_id, launch_config_id }
            )
        });
        answer(WorkerPoolStats { launch_config_stats: stats.collect() })
    }

    pub(super) fn list_worker_pools_stats(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let stats = self
            .pools
            .keys()
            .map(|id| counted!(count(self.workers_of(id)), WorkerPoolListStats { worker_pool_id: id.clone() }));
        let (worker_pools_stats, continuation_token) = routed.page(stats)?;
        answer(WorkerPoolStatsList { worker_pools_stats, continuation_token })
    }
}

/// What the schema says beyond types.
fn check_form(pool: &CreateWorkerPool) -> Result<(), Refusal> {
    if pool.description.chars().count() > 10_240 {
        return Err(invalid("description is too long"));
    }
    if is_email(&pool.owner) { Ok(()) } else { Err(invalid("owner is no e-mail address")) }
}

/// As far as a format can tell.
fn is_email(text: &str) -> bool {
    let valid = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c == '@');
    text.split_once('@').is_some_and(|(local, domain)| valid(local) && valid(domain))
}
