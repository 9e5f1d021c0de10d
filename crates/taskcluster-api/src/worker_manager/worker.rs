//! Workers, as worker-manager knows them and as the queue does.

use super::registration::StaticSecret;
use crate::ids::{LaunchConfigId, ProviderId, SlugId, WorkerGroup, WorkerId, WorkerPoolId};
use crate::open_enum::open_enum;
use crate::pages::page_body;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;

/// Which worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerName {
    /// The pool it belongs to.
    pub worker_pool_id: WorkerPoolId,
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id within the group.
    pub worker_id: WorkerId,
}

impl WorkerName {
    pub(crate) fn segments(&self) -> [&str; 3] {
        [self.worker_pool_id.as_str(), self.worker_group.as_str(), self.worker_id.as_str()]
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.worker_pool_id, self.worker_group, self.worker_id)
    }
}

open_enum! {
    /// What a worker is doing, as far as worker-manager knows.
    WorkerState {
        /// It is being made, and has not registered yet.
        Requested = "requested",
        /// It has registered, or needs not to.
        Running = "running",
        /// It is going.
        Stopping = "stopping",
        /// It is gone. Its row is kept until it ends, and nobody can have its name until then.
        Stopped = "stopped",
        /// worker-manager does not manage it; only the queue knows it.
        Standalone = "standalone",
    }
}

/// How many tasks a worker runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub enum Capacity {
    /// Nobody knows: worker-manager does not manage the worker. 0 in the API.
    Unknown,
    /// This many.
    Tasks(NonZeroU64),
}

impl From<u64> for Capacity {
    fn from(tasks: u64) -> Self {
        NonZeroU64::new(tasks).map_or(Self::Unknown, Self::Tasks)
    }
}

impl From<Capacity> for u64 {
    fn from(capacity: Capacity) -> Self {
        match capacity {
            Capacity::Unknown => 0,
            Capacity::Tasks(tasks) => tasks.get(),
        }
    }
}

/// A worker, as worker-manager knows it: what `worker`, `createWorker` and `updateWorker` answer. Schema: `worker-full.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// The pool it belongs to.
    pub worker_pool_id: WorkerPoolId,
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id within the group.
    pub worker_id: WorkerId,
    /// The provider that made it, which may be another one than its pool's now.
    pub provider_id: ProviderId,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_config_id: Option<LaunchConfigId>,
    /// When it was made.
    #[serde(with = "crate::time")]
    pub created: Timestamp,
    /// When its row is deleted.
    #[serde(with = "crate::time")]
    pub expires: Timestamp,
    /// What it is doing.
    pub state: WorkerState,
    /// How many tasks it runs at once.
    pub capacity: Capacity,
    /// When its cloud was last asked about it; when it was made, where there is nobody to ask.
    #[serde(with = "crate::time")]
    pub last_checked: Timestamp,
    /// When its state last changed.
    #[serde(with = "crate::time")]
    pub last_modified: Timestamp,
}

impl Worker {
    /// Its name.
    pub fn name(&self) -> WorkerName {
        WorkerName {
            worker_pool_id: self.worker_pool_id.clone(),
            worker_group: self.worker_group.clone(),
            worker_id: self.worker_id.clone(),
        }
    }
}

page_body! {
    /// What `listWorkersForWorkerPool` and `listWorkersForWorkerGroup` answer.
    WorkerList, workers: Worker, "workers"
}

/// Which workers `listWorkersForWorkerPool` lists: all that fit what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerFilter {
    /// Made from this.
    pub launch_config_id: Option<LaunchConfigId>,
    /// Doing this.
    pub state: Option<WorkerState>,
}

/// What `createWorker` and `updateWorker` take. Schema: `create-worker-request.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateWorker {
    /// When the worker's row is deleted. In the past only for `updateWorker`.
    #[serde(with = "crate::time")]
    pub expires: Timestamp,
    /// How many tasks it runs at once; 1 where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<NonZeroU64>,
    /// What its provider needs to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_info: Option<ProviderInfo>,
}

/// What a worker's provider needs to know, in `createWorker` and `updateWorker`. The schema knows the static provider's only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderInfo {
    /// What the worker shows when it registers.
    pub static_secret: StaticSecret,
}

/// What `shouldWorkerTerminate` answers. Schema: `should-worker-terminate-response.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShouldTerminate {
    /// Whether the worker should end.
    pub terminate: bool,
    /// Why.
    pub reason: String,
}

/// One run of a task, in `listWorkers` and `getWorker`. Schema: `task-run.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRun {
    /// The task.
    pub task_id: SlugId,
    /// Which of its runs, from 0.
    pub run_id: u32,
}

/// A worker, as the queue and worker-manager together know it, in `listWorkers`. Schema: `list-workers-response.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueWorker {
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id within the group.
    pub worker_id: WorkerId,
    /// The pool it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_pool_id: Option<WorkerPoolId>,
    /// The provider that made it; `none` where worker-manager does not manage it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<ProviderId>,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_config_id: Option<LaunchConfigId>,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkerState>,
    /// How many tasks it runs at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// When it first claimed a task.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub first_claim: Option<Timestamp>,
    /// When it last asked for tasks, to half an hour.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub last_date_active: Option<Timestamp>,
    /// Until when it gets no tasks, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub quarantine_until: Option<Timestamp>,
    /// What it claimed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_task: Option<TaskRun>,
}

page_body! {
    /// What `listWorkers` answers.
    QueueWorkerList, workers: QueueWorker, "workers"
}

/// Which workers `listWorkers` lists: all that fit what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueWorkerFilter {
    /// Made from this.
    pub launch_config_id: Option<LaunchConfigId>,
    /// In quarantine, or not.
    pub quarantined: Option<bool>,
    /// Doing this.
    pub state: Option<WorkerState>,
}

/// One worker, as the queue and worker-manager together know it: what `getWorker` answers. Schema: `worker-response.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueWorkerDetails {
    /// The first half of its pool's id.
    pub provisioner_id: String,
    /// The second half of its pool's id.
    pub worker_type: String,
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id within the group.
    pub worker_id: WorkerId,
    /// The pool it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_pool_id: Option<WorkerPoolId>,
    /// The provider that made it; `none` where worker-manager does not manage it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<ProviderId>,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_config_id: Option<LaunchConfigId>,
    /// What it is doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkerState>,
    /// How many tasks it runs at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// When it first claimed a task.
    #[serde(with = "crate::time")]
    pub first_claim: Timestamp,
    /// When it last asked for tasks, to half an hour.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub last_date_active: Option<Timestamp>,
    /// When the queue forgets it.
    #[serde(with = "crate::time")]
    pub expires: Timestamp,
    /// What it claimed last: at most 20.
    pub recent_tasks: Vec<TaskRun>,
    /// Until when it gets no tasks, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub quarantine_until: Option<Timestamp>,
    /// Who said so, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_details: Option<Vec<Quarantine>>,
}

/// One change of a worker's quarantine, in `getWorker`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// Who made it.
    pub client_id: String,
    /// When.
    #[serde(with = "crate::time")]
    pub updated_at: Timestamp,
    /// Until when it was to last.
    #[serde(with = "crate::time")]
    pub quarantine_until: Timestamp,
    /// Why.
    pub quarantine_info: String,
}
