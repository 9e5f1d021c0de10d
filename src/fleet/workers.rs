//! `start-worker workers`: a pool's workers, as worker-manager and the queue know them.

use super::FleetError;
use super::deployment::Deployment;
use super::progress::Progress;
use super::table::{self, Table};
use crate::cli::WorkersArguments;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;
use taskcluster_api::worker_manager::{
    Capacity, QueueWorker, QueueWorkerFilter, QueueWorkerList, WorkerFilter, WorkerList,
};
use taskcluster_api::{ApiError, List, PageBody, Worker, WorkerGroup, WorkerId, WorkerState};

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

type Key = (WorkerGroup, WorkerId);

/// What is known of one worker: by worker-manager, by the queue, or by both.
#[derive(Default)]
struct Entry {
    managed: Option<Worker>,
    queued: Option<QueueWorker>,
}

/// Shows the workers, once or for as long as anybody watches.
pub(super) async fn show(arguments: &WorkersArguments) -> Result<(), FleetError> {
    let deployment = Deployment::of(&arguments.deployment)?;
    let pause = arguments.watch.map(|seconds| Duration::from_secs(seconds.get()));
    loop {
        let entries = match (collect(&deployment, arguments).await, pause) {
            (Ok(entries), _) => entries,
            // Whoever watches sees the next look.
            (Err(error), Some(pause)) if error.is_retryable() => {
                tracing::warn!("{}", crate::error::Chain(&error));
                tokio::time::sleep(pause).await;
                continue;
            }
            (Err(error), _) => return Err(FleetError::Ask(error)),
        };
        let clear = if pause.is_some() && !arguments.json && io::stdout().is_terminal() { CLEAR } else { "" };
        let text = if arguments.json { as_json(&entries) } else { as_text(&entries) };
        let is_read = super::print(&format!("{clear}{text}"))?;
        let Some(pause) = pause.filter(|_| is_read) else { return Ok(()) };
        tokio::time::sleep(pause).await;
    }
}

async fn collect(deployment: &Deployment, arguments: &WorkersArguments) -> Result<BTreeMap<Key, Entry>, ApiError> {
    let (service, pool, state) = (&deployment.manager, &arguments.pool, arguments.state.clone());
    let managed =
        service.list_workers_for_worker_pool(pool, WorkerFilter { state: state.clone(), launch_config_id: None });
    // The queue's own filter knows no `standalone`.
    let of_queue = state.clone().filter(|state| *state != WorkerState::Standalone);
    let queued = service.list_workers(pool, QueueWorkerFilter { state: of_queue, ..QueueWorkerFilter::default() });
    let progress = Progress::begin();
    let (managed, queued) =
        tokio::join!(all::<WorkerList>(managed, &progress), all::<QueueWorkerList>(queued, &progress));
    drop(progress);
    let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
    for worker in managed? {
        let key = (worker.worker_group.clone(), worker.worker_id.clone());
        entries.entry(key).or_default().managed = Some(worker);
    }
    match queued {
        Ok(queued) => {
            for worker in queued {
                let key = (worker.worker_group.clone(), worker.worker_id.clone());
                entries.entry(key).or_default().queued = Some(worker);
            }
        }
        Err(error) => tracing::warn!("when each was last active is not known: {}", crate::error::Chain(&error)),
    }
    entries.retain(|_, entry| state.as_ref().is_none_or(|wanted| entry.state() == Some(wanted)));
    Ok(entries)
}

/// Everything of a list, with a word on how far it is.
async fn all<B: PageBody>(list: List<B>, progress: &Progress) -> Result<Vec<B::Item>, ApiError> {
    let (mut all, mut pages) = (Vec::new(), list.pages());
    while let Some(page) = pages.next().await {
        all.extend(page?.items);
        progress.so_far(all.len());
    }
    Ok(all)
}

impl Entry {
    fn state(&self) -> Option<&WorkerState> {
        let managed = self.managed.as_ref().map(|worker| &worker.state);
        managed.or_else(|| self.queued.as_ref()?.state.as_ref())
    }

    fn capacity(&self) -> Option<u64> {
        let managed = self.managed.as_ref().map(|worker| worker.capacity);
        match managed.or_else(|| self.queued.as_ref()?.capacity)? {
            Capacity::Tasks(tasks) => Some(tasks.get()),
            Capacity::Unknown => None,
        }
    }

    fn created(&self) -> Option<Timestamp> {
        let first_claim = self.queued.as_ref().and_then(|worker| worker.first_claim);
        self.managed.as_ref().map(|worker| worker.created).or(first_claim)
    }

    fn last_active(&self) -> Option<Timestamp> {
        self.queued.as_ref()?.last_date_active
    }

    /// While it lasts.
    fn quarantine_until(&self) -> Option<Timestamp> {
        self.queued.as_ref()?.quarantine_until.filter(|until| *until > Timestamp::now())
    }
}

fn as_text(entries: &BTreeMap<Key, Entry>) -> String {
    let now = Timestamp::now();
    let mut table = Table::new(&["GROUP", "ID", "STATE", "CAPACITY", "AGE", "LAST ACTIVE", "QUARANTINE"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for ((group, id), entry) in entries {
        table.row(vec![
            group.to_string(),
            id.to_string(),
            or_dash(entry.state().map(|state| table::line(state.as_str()))),
            or_dash(entry.capacity().map(|tasks| tasks.to_string())),
            or_dash(entry.created().map(|time| table::span(now.duration_since(time)))),
            or_dash(entry.last_active().map(|time| table::span(now.duration_since(time)) + " ago")),
            or_dash(entry.quarantine_until().map(table::time)),
        ]);
    }
    let mut text = table.text();
    if io::stdout().is_terminal() {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for state in entries.values().filter_map(Entry::state) {
            *counts.entry(state.as_str()).or_default() += 1;
        }
        let counts: Vec<String> =
            counts.into_iter().map(|(state, count)| format!("{count} {}", table::line(state))).collect();
        let colon = if counts.is_empty() { "" } else { ": " };
        let _ = writeln!(text, "\n{} workers{colon}{}", entries.len(), counts.join(", "));
    }
    text
}

fn as_json(entries: &BTreeMap<Key, Entry>) -> String {
    let worker = |((group, id), entry): (&Key, &Entry)| {
        let time = |time: Option<Timestamp>| time.map(|time| format!("{time:.3}"));
        json!({
            "workerGroup": group, "workerId": id, "state": entry.state(), "capacity": entry.capacity(),
            "created": time(entry.created()), "lastDateActive": time(entry.last_active()),
            "expires": time(entry.managed.as_ref().map(|worker| worker.expires)),
            "quarantineUntil": time(entry.quarantine_until()),
        })
    };
    format!("{}\n", Value::Array(entries.iter().map(worker).collect()))
}
