//! Worker pools and how many workers they have.

use crate::ids::{ProviderId, WorkerPoolId};
use crate::pages::page_body;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How many workers a pool or launch configuration has in each state, and how many tasks those can run at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Tasks that all workers but the stopped ones can run at once.
    pub current_capacity: u64,
    /// Workers that have been asked for.
    pub requested_count: u64,
    /// Workers that run.
    pub running_count: u64,
    /// Workers that are going.
    pub stopping_count: u64,
    /// Workers that are gone, and not forgotten yet.
    pub stopped_count: u64,
    /// Tasks that the requested workers will be able to run at once.
    pub requested_capacity: u64,
    /// Tasks that the running workers can run at once.
    pub running_capacity: u64,
    /// Tasks that the stopping workers could run at once.
    pub stopping_capacity: u64,
    /// Tasks that the stopped workers could run at once.
    pub stopped_capacity: u64,
}

/// A struct with the counts among its fields: flattened by serde they would lose their place in errors.
macro_rules! with_counts {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* } counts { $($count:ident)* }) => {
        $(#[$doc])*
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            $(
                #[doc = concat!("As [`WorkerCounts::", stringify!($count), "`] says.")]
                pub $count: u64,
            )*
        }

        impl $name {
            /// How many workers there are.
            pub fn counts(&self) -> WorkerCounts {
                WorkerCounts { $($count: self.$count),* }
            }
        }
    };
    ($(#[$doc:meta])* $name:ident { $($fields:tt)* }) => {
        with_counts! {
            $(#[$doc])* $name { $($fields)* } counts {
                current_capacity requested_count running_count stopping_count stopped_count
                requested_capacity running_capacity stopping_capacity stopped_capacity
            }
        }
    };
}

with_counts! {
    /// A worker pool's definition and state: what `workerPool` and whatever changes a pool answer. Schema: `worker-pool-full.json`.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    WorkerPool {
        /// Its id. The schema allows that it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker_pool_id: Option<WorkerPoolId>,
        /// The provider that makes its workers; `null-provider` where the pool is being deleted.
        provider_id: ProviderId,
        /// For people.
        description: String,
        /// When it was made.
        #[serde(with = "crate::time")]
        created: Timestamp,
        /// When it was last changed.
        #[serde(with = "crate::time")]
        last_modified: Timestamp,
        /// What its provider needs to know, and the workers' own configuration.
        config: Map<String, Value>,
        /// Whom errors are sent to, by e-mail.
        owner: String,
        /// Whether they are.
        email_on_error: bool,
        /// What a newer service says that this version doesn't know.
        #[serde(flatten)]
        other: Map<String, Value>,
    }
}

/// What `createWorkerPool` takes. Schema: `create-worker-pool-request.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateWorkerPool {
    /// The provider that makes its workers.
    pub provider_id: ProviderId,
    /// For people: at most 10,240 characters.
    pub description: String,
    /// What its provider needs to know, and the workers' own configuration.
    pub config: Map<String, Value>,
    /// Whom errors are sent to: an e-mail address.
    pub owner: String,
    /// Whether they are.
    pub email_on_error: bool,
}

/// What `updateWorkerPool` takes. Schema: `update-worker-pool-request.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateWorkerPool {
    /// The pool's id, which must be that of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_pool_id: Option<WorkerPoolId>,
    /// The provider that makes its workers from now on.
    pub provider_id: ProviderId,
    /// For people: at most 10,240 characters.
    pub description: String,
    /// Allowed, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub created: Option<Timestamp>,
    /// Allowed, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub last_modified: Option<Timestamp>,
    /// What its provider needs to know, and the workers' own configuration.
    pub config: Map<String, Value>,
    /// Whom errors are sent to: an e-mail address.
    pub owner: String,
    /// Whether they are.
    pub email_on_error: bool,
    /// What a newer service said of the pool and this version doesn't know, so that an update doesn't lose it. Clear
    /// it where a service refuses what is in it.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// All of the pool but the counts, which are the service's own.
impl From<WorkerPool> for UpdateWorkerPool {
    fn from(pool: WorkerPool) -> Self {
        Self {
            worker_pool_id: pool.worker_pool_id,
            provider_id: pool.provider_id,
            description: pool.description,
            created: Some(pool.created),
            last_modified: Some(pool.last_modified),
            config: pool.config,
            owner: pool.owner,
            email_on_error: pool.email_on_error,
            other: pool.other,
        }
    }
}

/// Whether a list has launch configurations that are no longer used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archived {
    /// It hasn't.
    Excluded,
    /// It has.
    Included,
}

/// What a pool's workers are made from, in `listWorkerPoolLaunchConfigs`. Schema: `worker-pool-launch-config-list.json`, which sets no pattern for ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchConfig {
    /// Its id.
    pub launch_config_id: String,
    /// The pool's id.
    pub worker_pool_id: String,
    /// Whether it is no longer used.
    pub is_archived: bool,
    /// The configuration, of the provider's own form.
    pub configuration: Map<String, Value>,
    /// When it was made.
    #[serde(with = "crate::time")]
    pub created: Timestamp,
    /// When it was last changed.
    #[serde(with = "crate::time")]
    pub last_modified: Timestamp,
}

with_counts! {
    /// How many workers a pool has, in `listWorkerPoolsStats`. Schema: `worker-pool-list-stats.json`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    WorkerPoolListStats {
        /// The pool.
        worker_pool_id: WorkerPoolId,
    }
}

with_counts! {
    /// How many workers a launch configuration has, in `workerPoolStats`. Schema: `worker-pool-stats.json`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    LaunchConfigStats {
        /// The pool.
        worker_pool_id: WorkerPoolId,
        /// The launch configuration. The schema sets no pattern for its id.
        launch_config_id: String,
    }
}

/// What `workerPoolStats` answers. Schema: `worker-pool-stats.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStats {
    /// By launch configuration.
    pub launch_config_stats: Vec<LaunchConfigStats>,
}

page_body! {
    /// What `listWorkerPools` answers.
    WorkerPoolList, worker_pools: WorkerPool, "workerPools"
}

page_body! {
    /// What `listWorkerPoolLaunchConfigs` answers.
    WorkerPoolLaunchConfigList, worker_pool_launch_configs: LaunchConfig, "workerPoolLaunchConfigs"
}

page_body! {
    /// What `listWorkerPoolsStats` answers.
    WorkerPoolStatsList, worker_pools_stats: WorkerPoolListStats, "workerPoolsStats"
}
