//! Errors of workers and pools.

use super::{Refusal, Reply, Routed, Taskcluster, absent, answer, invalid};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use taskcluster_api::worker_manager::{
    ReportWorkerErrorRequest, WorkerPoolError, WorkerPoolErrorList, WorkerPoolErrorStats, WorkerPoolErrorTotals,
};
use taskcluster_api::{LaunchConfigId, SlugId, WorkerPoolId};

impl Taskcluster {
    pub(super) fn report_worker_error(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let request: ReportWorkerErrorRequest = routed.payload()?;
        let length = |text: &str| text.chars().count();
        let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !request.kind.bytes().any(named) || length(&request.kind) > 128 {
            return Err(invalid("kind does not validate"));
        }
        if length(&request.title) > 128 || length(&request.description) > 10_240 {
            return Err(invalid("title or description is too long"));
        }
        let pool = self.pool(&routed.pool()?)?.worker_pool_id.clone();
        let worker_pool_id = pool.ok_or_else(|| absent("the pool has no id"))?;
        self.reports.push(serde_json::from_slice(routed.body).unwrap_or(Value::Null));
        answer(self.note_error(worker_pool_id, request, self.timestamp()))
    }

    /// Adds what a worker reports to its pool's errors.
    pub(super) fn note_error(
        &mut self,
        worker_pool_id: WorkerPoolId,
        report: ReportWorkerErrorRequest,
        reported: Timestamp,
    ) -> WorkerPoolError {
        let ReportWorkerErrorRequest { worker_group, worker_id, kind, title, description, mut extra } = report;
        extra.insert("workerGroup".to_owned(), worker_group.as_str().into());
        extra.insert("workerId".to_owned(), worker_id.as_str().into());
        let error_id = self.slug_id();
        let launch_config_id = None;
        let error =
            WorkerPoolError { worker_pool_id, error_id, reported, kind, title, description, extra, launch_config_id };
        self.errors.push(error.clone());
        error
    }

    /// Newest first, as the service has them.
    pub(super) fn list_worker_pool_errors(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let id = routed.pool()?;
        let fits = |error: &&WorkerPoolError| {
            error.worker_pool_id == id
                && routed.wants("errorId", Some(error.error_id.as_str()))
                && routed.wants("launchConfigId", error.launch_config_id.as_ref().map(LaunchConfigId::as_str))
        };
        if let Some(wanted) = routed.query.get("errorId") {
            wanted.parse::<SlugId>().map_err(|_| super::query_is_wrong("errorId"))?;
        }
        let mut errors: Vec<&WorkerPoolError> = self.errors.iter().filter(fits).collect();
        errors.sort_by_key(|error| std::cmp::Reverse(error.reported));
        let (worker_pool_errors, continuation_token) = routed.page(errors.into_iter().cloned())?;
        answer(WorkerPoolErrorList { worker_pool_errors, continuation_token })
    }

    pub(super) fn worker_pool_error_stats(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let wanted = routed.query.get("workerPoolId");
        let now = self.timestamp();
        let of_week: Vec<&WorkerPoolError> = self
            .errors
            .iter()
            .filter(|error| wanted.is_none_or(|id| error.worker_pool_id.as_str() == id))
            .filter(|error| now.duration_since(error.reported) < SignedDuration::from_hours(7 * 24))
            .collect();
        let count = |key: &dyn Fn(&WorkerPoolError) -> Option<String>| {
            let mut counts = Map::new();
            for name in of_week.iter().filter_map(|error| key(error)) {
                let before = counts.get(&name).and_then(Value::as_u64).unwrap_or(0);
                counts.insert(name, (before + 1).into());
            }
            counts
        };
        let begin = |time: Timestamp, characters: usize| time.to_string().chars().take(characters).collect::<String>();
        let hour = |error: &WorkerPoolError| {
            let recent = now.duration_since(error.reported) < SignedDuration::from_hours(24);
            recent.then(|| begin(error.reported, 13) + ":00:00Z")
        };
        answer(WorkerPoolErrorStats {
            worker_pool_id: wanted.cloned().unwrap_or_default(),
            totals: WorkerPoolErrorTotals {
                total: f64::from(u32::try_from(of_week.len()).unwrap_or(u32::MAX)),
                daily: count(&|error| Some(begin(error.reported, 10))),
                hourly: count(&hour),
                title: count(&|error| Some(error.title.clone())),
                code: count(&|error| Some(error.extra.get("code")?.as_str()?.to_owned())),
                launch_config: count(&|error| Some(error.launch_config_id.as_ref()?.to_string())),
                worker_pool: count(&|error| Some(error.worker_pool_id.to_string())),
            },
        })
    }
}
