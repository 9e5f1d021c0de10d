//! `start-worker errors`: what went wrong in a pool, grouped.

use super::FleetError;
use super::deployment::Deployment;
use super::progress::Progress;
use super::table::{self, Table};
use crate::cli::ErrorsArguments;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;
use taskcluster_api::worker_manager::{WorkerPoolError, WorkerPoolErrorFilter};
use taskcluster_api::{ApiError, SlugId};

/// So many characters of a text are shown.
const TEXT: usize = 2000;

/// The errors of one kind and title.
struct Group<'a> {
    kind: &'a str,
    title: &'a str,
    /// Newest first.
    errors: Vec<&'a WorkerPoolError>,
}

/// Shows a pool's errors, and those that come, where they are followed.
pub(super) async fn show(arguments: &ErrorsArguments) -> Result<(), FleetError> {
    let since = arguments.since.map(begin_of).transpose()?;
    let deployment = Deployment::of(&arguments.deployment)?;
    let errors = collect(&deployment, arguments, since, &BTreeSet::new()).await.map_err(FleetError::Ask)?;
    let Some(pause) = arguments.follow else {
        let text = if arguments.json { format!("{}\n", as_json(&groups(&errors))) } else { as_text(&groups(&errors)) };
        return super::print(&text).map(drop);
    };
    if !arguments.json && !super::print(&as_text(&groups(&errors)))? {
        return Ok(());
    }
    let mut seen: BTreeSet<SlugId> = BTreeSet::new();
    // For programs everything is a line; for people what was there is above.
    let mut new = errors;
    let mut is_new = arguments.json;
    loop {
        for error in new.iter().rev() {
            seen.insert(error.error_id.clone());
            let line = if arguments.json { json!(error).to_string() } else { as_line(error) };
            if is_new && !super::print(&(line + "\n"))? {
                return Ok(());
            }
        }
        is_new = true;
        tokio::time::sleep(Duration::from_secs(pause.get())).await;
        new = match collect(&deployment, arguments, since, &seen).await {
            Ok(new) => new,
            Err(error) if error.is_retryable() => {
                tracing::warn!("{}", crate::error::Chain(&error));
                Vec::new()
            }
            Err(error) => return Err(FleetError::Ask(error)),
        };
    }
}

/// So long ago, by the calendar.
fn begin_of(span: Span) -> Result<Timestamp, FleetError> {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let begin = now.checked_sub(span).map_err(|_| FleetError::Arguments(format!("{span:#} is too long")))?;
    if begin > now {
        return Err(FleetError::Arguments(format!("--since: {span:#} ago is in the future")));
    }
    Ok(begin.timestamp())
}

/// The pool's errors since then that have not been seen, newest first.
async fn collect(
    deployment: &Deployment,
    arguments: &ErrorsArguments,
    since: Option<Timestamp>,
    seen: &BTreeSet<SlugId>,
) -> Result<Vec<WorkerPoolError>, ApiError> {
    let list = deployment.manager.list_worker_pool_errors(&arguments.pool, WorkerPoolErrorFilter::default());
    let progress = Progress::begin();
    let (mut errors, mut pages) = (Vec::new(), list.pages());
    let mut newest_first = true;
    while let Some(page) = pages.next().await {
        let mut items = page?.items;
        newest_first &= items.is_sorted_by_key(|error| std::cmp::Reverse(error.reported));
        let had_some = !items.is_empty();
        items.retain(|error| since.is_none_or(|since| error.reported >= since) && !seen.contains(&error.error_id));
        // The service lists the newest first, though nothing promises that: after a page that has nothing for us none
        // has.
        let is_last = newest_first && had_some && items.is_empty();
        errors.extend(items);
        progress.so_far(errors.len());
        if is_last {
            break;
        }
    }
    errors.sort_by_key(|error| std::cmp::Reverse(error.reported));
    Ok(errors)
}

/// The most frequent first.
fn groups(errors: &[WorkerPoolError]) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<(&str, &str), Vec<&WorkerPoolError>> = BTreeMap::new();
    for error in errors {
        groups.entry((&error.kind, &error.title)).or_default().push(error);
    }
    let mut groups: Vec<Group<'_>> =
        groups.into_iter().map(|((kind, title), errors)| Group { kind, title, errors }).collect();
    groups
        .sort_by_key(|group| std::cmp::Reverse((group.errors.len(), group.errors.first().map(|error| error.reported))));
    groups
}

/// The worker that an error is of, where it says so.
fn worker_of(error: &WorkerPoolError) -> Option<String> {
    let text = |name: &str| Some(table::line(error.extra.get(name)?.as_str()?));
    Some(format!("{}/{}", text("workerGroup")?, text("workerId")?))
}

impl Group<'_> {
    fn workers(&self) -> usize {
        let mut workers: Vec<String> = self.errors.iter().filter_map(|error| worker_of(error)).collect();
        workers.sort_unstable();
        workers.dedup();
        workers.len()
    }
}

fn as_text(groups: &[Group<'_>]) -> String {
    if groups.is_empty() {
        return "no errors\n".to_owned();
    }
    let mut table = Table::new(&["COUNT", "WORKERS", "LAST", "KIND", "TITLE"]);
    for group in groups {
        table.row(vec![
            group.errors.len().to_string(),
            group.workers().to_string(),
            group.errors.first().map(|error| table::time(error.reported)).unwrap_or_default(),
            table::line(group.kind),
            table::line(group.title),
        ]);
    }
    let mut text = table.text();
    for newest in groups.iter().filter_map(|group| group.errors.first()) {
        let worker = worker_of(newest).map(|worker| format!(" on {worker}")).unwrap_or_default();
        let _ = write!(text, "\n{}, newest{worker}:\n", table::line(&newest.title));
        let shown: String = newest.description.chars().take(TEXT).collect();
        for line in shown.lines() {
            let _ = writeln!(text, "  {}", table::line(line));
        }
    }
    text
}

fn as_line(error: &WorkerPoolError) -> String {
    let worker = worker_of(error).unwrap_or_else(|| "-".to_owned());
    let description = error.description.lines().next().unwrap_or_default();
    let cells = [&table::time(error.reported), &worker, &error.kind, &error.title, description];
    cells.map(table::line).join("\t")
}

fn as_json(groups: &[Group<'_>]) -> Value {
    let group = |group: &Group<'_>| {
        let time = |error: Option<&&WorkerPoolError>| error.map(|error| format!("{:.3}", error.reported));
        json!({
            "kind": group.kind, "title": group.title, "count": group.errors.len(), "workers": group.workers(),
            "first": time(group.errors.last()), "last": time(group.errors.first()), "newest": group.errors.first(),
        })
    };
    groups.iter().map(group).collect()
}
