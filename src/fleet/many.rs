//! `start-worker enroll --many FILE.csv`: a fleet at once.

use super::FleetError;
use super::deployment::Deployment;
use super::enroll::{enroll_one, lock, static_provider};
use super::plan::{Enrolled, Plan, document};
use super::progress::Progress;
use super::table;
use crate::cli::EnrollArguments;
use crate::error::Chain;
use crate::platform;
use csv::StringRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Component, Path};
use std::str::FromStr;
use std::sync::Arc;
use taskcluster_api::{ProviderId, WorkerName, WorkerPoolId};
use tokio::task::JoinSet;

/// How many workers are enrolled side by side.
const AT_ONCE: usize = 8;

/// A file of more bytes than this is no list.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// So many mistakes are named.
const MOST_PROBLEMS: usize = 50;

/// A longer list is split by whoever has it.
const MOST_ROWS: usize = 100_000;

/// The columns that a list may have.
const COLUMNS: [&str; 6] = ["pool", "group", "id", "config", "capacity", "expires"];

/// Enrolls every worker of a list; a line each says what became of it.
pub(super) async fn enroll(arguments: &EnrollArguments, path: &Path) -> Result<(), FleetError> {
    let plans = read(arguments, path)?;
    let folder = arguments.config.clone().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| ".".into());
    let deployment = Deployment::of(&arguments.deployment)?;
    let mut providers: BTreeMap<WorkerPoolId, ProviderId> = BTreeMap::new();
    for plan in &plans {
        let pool = &plan.worker.worker_pool_id;
        if !providers.contains_key(pool) {
            providers.insert(pool.clone(), static_provider(&deployment, pool).await?);
        }
    }
    fs::create_dir_all(&folder).map_err(|source| FleetError::Write { path: folder.clone(), source })?;
    let _lock = lock(&folder)?;
    let (all, mut done, mut failed) = (plans.len(), 0, 0);
    let mut unprinted = None;
    let progress = Progress::begin();
    let (deployment, providers) = (Arc::new(deployment), Arc::new(providers));
    let mut waiting = plans.into_iter();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some(plan) = waiting.next()
        {
            let (deployment, providers) = (Arc::clone(&deployment), Arc::clone(&providers));
            under_way.spawn(async move {
                let provider_id = &providers[&plan.worker.worker_pool_id];
                let result = enroll_one(&deployment, provider_id, &plan).await;
                (plan, result)
            });
        }
        let Some(enrolled) = under_way.join_next().await else { break };
        let (plan, result) = enrolled.map_err(|error| FleetError::System(io::Error::other(error)))?;
        failed += usize::from(result.is_err());
        done += 1;
        let line = line(&plan, &result, arguments.json) + "\n";
        progress.clear();
        // A reader that went away is no reason to stop half-way; nor is a full disk, but that is said.
        if let Err(error) = super::print(&line) {
            unprinted = Some(error);
        }
        progress.done(done, all);
    }
    drop(progress);
    match failed {
        0 => unprinted.map_or(Ok(()), Err),
        failed => Err(FleetError::SomeFailed { path: path.to_owned(), failed, all }),
    }
}

fn line(plan: &Plan, result: &Result<Enrolled, FleetError>, json: bool) -> String {
    if json {
        return document(plan, result).to_string();
    }
    let WorkerName { worker_pool_id, worker_group, worker_id } = &plan.worker;
    let (word, rest) = match result {
        Ok(enrolled) => (enrolled.word(), plan.config.display().to_string()),
        Err(error) => ("FAILED", table::line(&Chain(error).to_string())),
    };
    if io::stdout().is_terminal() {
        return format!("{word:<20}  {worker_pool_id} {worker_group}/{worker_id}  {rest}");
    }
    format!("{word}\t{worker_pool_id}\t{worker_group}/{worker_id}\t{rest}")
}

/// Reads a list whole, with all of its mistakes.
fn read(arguments: &EnrollArguments, path: &Path) -> Result<Vec<Plan>, FleetError> {
    let wrong = |problems: Vec<String>| FleetError::List { path: path.to_owned(), problems };
    let mut text = String::new();
    let read = platform::open_regular_file(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text));
    read.map_err(|error| wrong(vec![error.to_string()]))?;
    if text.len() as u64 > MAX_SIZE {
        return Err(wrong(vec![format!("it is larger than {} MiB", MAX_SIZE / 1024 / 1024)]));
    }
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| wrong(vec![error.to_string()]))?.clone();
    let columns: Vec<&str> = header.iter().collect();
    if let Some(unknown) = columns.iter().find(|column| !COLUMNS.contains(column)) {
        return Err(wrong(vec![format!(
            "line 1: there is no column {:?}; known are {}",
            short(unknown),
            COLUMNS.join(", ")
        )]));
    }
    if let Some(twice) = columns.iter().enumerate().find(|(at, column)| columns[..*at].contains(column)) {
        return Err(wrong(vec![format!("line 1: the column {} is there twice", twice.1)]));
    }
    if !columns.contains(&"id") {
        return Err(wrong(vec!["line 1: the column id is missing".to_owned()]));
    }
    let (mut plans, mut problems, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (rows, record) in reader.records().enumerate() {
        if rows >= MOST_ROWS || problems.len() >= MOST_PROBLEMS {
            problems.push(format!("and perhaps more: only {rows} rows were read"));
            break;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        match (Row { columns: &columns, record: &record }).plan(arguments) {
            Ok(plan) if !seen.insert(plan.worker.clone()) => {
                problems.push(format!("line {line}: {} is there twice", plan.worker));
            }
            Ok(plan) => plans.push(plan),
            Err(problem) => problems.push(format!("line {line}: {problem}")),
        }
    }
    // Some filesystems take capitals for small letters.
    let mut files = BTreeSet::new();
    let twice = plans.iter().filter(|plan| !files.insert(plan.config.to_string_lossy().to_lowercase()));
    problems.extend(twice.map(|plan| format!("two workers would have the config {}", plan.config.display())));
    if plans.is_empty() && problems.is_empty() {
        problems.push("it names no worker".to_owned());
    }
    if problems.is_empty() { Ok(plans) } else { Err(wrong(problems)) }
}

struct Row<'a> {
    columns: &'a [&'a str],
    record: &'a StringRecord,
}

impl Row<'_> {
    fn cell(&self, name: &str) -> Option<&str> {
        let at = self.columns.iter().position(|column| *column == name)?;
        self.record.get(at).filter(|cell| !cell.is_empty())
    }

    /// What the row says, or else what the option says for all.
    fn value<T: FromStr<Err: std::fmt::Display> + Clone>(
        &self,
        name: &str,
        option: Option<&T>,
    ) -> Result<Option<T>, String> {
        match self.cell(name) {
            Some(cell) => cell.parse().map(Some).map_err(|error| format!("{name}: {error}")),
            None => Ok(option.cloned()),
        }
    }

    fn plan(&self, arguments: &EnrollArguments) -> Result<Plan, String> {
        let missing = |name: &str| format!("{name} is missing: give it here, or for all with --{name}");
        let worker_pool_id = self.value("pool", arguments.pool.as_ref())?.ok_or_else(|| missing("pool"))?;
        let worker_group = self.value("group", arguments.group.as_ref())?.ok_or_else(|| missing("group"))?;
        let worker_id = self.value("id", None)?.ok_or("id is missing")?;
        let worker = WorkerName { worker_pool_id, worker_group, worker_id };
        let folder = arguments.config.clone().unwrap_or_default();
        let name = match self.cell("config") {
            None => format!("{}-{}.yml", worker.worker_group, worker.worker_id),
            Some(name) if is_file_name(name) => name.to_owned(),
            Some(name) => {
                return Err(format!("config: {:?} is no file's name in the folder of all", short(name)));
            }
        };
        let expires = self.value("expires", arguments.expires.as_ref())?;
        let capacity = self.value("capacity", arguments.capacity.as_ref())?;
        Plan::new(arguments, worker, folder.join(name), expires, capacity)
    }
}

/// As much of a cell as tells which it is.
fn short(cell: &str) -> String {
    table::line(cell).chars().take(60).collect()
}

/// Whether it is a name alone, that leads nowhere else.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let is_normal = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    is_normal && parts.next().is_none() && !name.contains(|c: char| c.is_control())
}
