//! `start-worker enroll`: makes a static machine known to worker-manager, and writes its runner config.
//!
//! The config is written beside its place first, then worker-manager is told its secret, then the config is put into
//! its place: whatever happens in between, the secret that worker-manager has is in one of the two files, and the same
//! command goes on from there.

use super::FleetError;
use super::deployment::Deployment;
use super::runner_config::{self, Description};
use crate::cli::{EnrollArguments, EnrolledWorker};
use crate::private_file::{self, Durability};
use crate::runner_config::StaticConfig;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::json;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use taskcluster_api::worker_manager::{CreateWorker, ProviderInfo, ProviderType};
use taskcluster_api::{
    ApiError, ErrorClass, ExposeSecret, ProviderId, RootUrl, StaticSecret, Worker, WorkerName, WorkerPoolId,
    WorkerState,
};

/// One worker that is to be enrolled.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) worker: WorkerName,
    /// Where its runner config goes.
    pub(super) config: PathBuf,
    pub(super) implementation: EnrolledWorker,
    pub(super) worker_path: Option<PathBuf>,
    pub(super) worker_config_path: Option<PathBuf>,
    /// When worker-manager forgets it; what it is, or a year, where nothing is said.
    pub(super) expires: Option<Span>,
    /// How many tasks it runs at once; what it is, or 1, where nothing is said.
    pub(super) capacity: Option<NonZeroU64>,
    pub(super) rotate: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enrolled {
    /// It is known now, and has a config.
    New,
    /// It was known, and had a config: nothing was changed.
    Already,
    /// An enrollment that had been interrupted was completed.
    Completed,
    /// worker-manager had forgotten it, and knows it again, by the secret in its config.
    Again,
    /// It has a new secret.
    Rotated,
}

impl Enrolled {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::New => "enrolled",
            Self::Already => "already enrolled",
            Self::Completed => "enrolled (completed)",
            Self::Again => "enrolled again",
            Self::Rotated => "rotated",
        }
    }

    /// The same for programs.
    const fn key(self) -> &'static str {
        match self {
            Self::New => "enrolled",
            Self::Already => "already-enrolled",
            Self::Completed => "completed",
            Self::Again => "enrolled-again",
            Self::Rotated => "rotated",
        }
    }
}

/// A worker and what became of it, for programs.
pub(super) fn document(plan: &Plan, result: &Result<Enrolled, FleetError>) -> serde_json::Value {
    let WorkerName { worker_pool_id, worker_group, worker_id } = &plan.worker;
    let mut document = json!({
        "workerPoolId": worker_pool_id, "workerGroup": worker_group, "workerId": worker_id,
        "config": plan.config.display().to_string(),
    });
    match result {
        Ok(enrolled) => document["result"] = enrolled.key().into(),
        Err(error) => {
            document["result"] = "failed".into();
            document["error"] = crate::error::Chain(error).to_string().into();
        }
    }
    document
}

/// Enrolls one machine, and says what to do next.
pub(super) async fn enroll(arguments: &EnrollArguments) -> Result<(), FleetError> {
    let (Some(pool), Some(group), Some(id)) = (&arguments.pool, &arguments.group, &arguments.id) else {
        return Err(FleetError::Arguments("--pool, --group and --id are needed".to_owned()));
    };
    let worker = WorkerName { worker_pool_id: pool.clone(), worker_group: group.clone(), worker_id: id.clone() };
    let config = arguments.config.clone().unwrap_or_else(|| PathBuf::from(format!("{id}.yml")));
    let plan = Plan {
        worker,
        config,
        implementation: arguments.implementation,
        worker_path: arguments.worker_path.clone(),
        worker_config_path: arguments.worker_config_path.clone(),
        expires: arguments.expires,
        capacity: arguments.capacity,
        rotate: arguments.rotate,
    };
    let deployment = Deployment::of(&arguments.deployment)?;
    let provider_id = static_provider(&deployment, pool).await?;
    let enrolled = enroll_one(&deployment, &provider_id, &plan).await?;
    // A reader that went away is no failure of ours.
    let _ = if arguments.json {
        writeln!(io::stdout(), "{:#}", document(&plan, &Ok(enrolled)))
    } else {
        io::stdout().write_all(next_steps(&plan, enrolled).as_bytes())
    };
    Ok(())
}

fn next_steps(plan: &Plan, enrolled: Enrolled) -> String {
    let (worker, config) = (&plan.worker, plan.config.display());
    let done = match enrolled {
        Enrolled::New => format!("{worker} is enrolled; its runner config is {config}."),
        Enrolled::Already => {
            return format!(
                "{worker} is enrolled already, with the runner config {config}. Nothing was changed; --rotate would make a new secret.\n"
            );
        }
        Enrolled::Completed => {
            format!(
                "{worker} is enrolled: an enrollment that was interrupted is complete now. Its runner config is {config}."
            )
        }
        Enrolled::Again => {
            format!(
                "{worker} is enrolled again: worker-manager had forgotten it. Its runner config {config} is as it was."
            )
        }
        Enrolled::Rotated => {
            format!(
                "{worker} has a new secret, in {config}. What runs goes on; the machine needs this config before it starts again."
            )
        }
    };
    format!(
        "{done}\n\nNext, on the machine, with this file (it holds the machine's secret: copy it privately, then delete it here):\n  \
         start-worker check {config}\n  start-worker {config}\nand then: start-worker workers --pool {}\n",
        worker.worker_pool_id
    )
}

/// The provider of a pool, if workers can be enrolled with it.
pub(super) async fn static_provider(deployment: &Deployment, pool: &WorkerPoolId) -> Result<ProviderId, FleetError> {
    let definition = deployment.manager.worker_pool(pool).await.map_err(FleetError::Call)?;
    let provider_id = definition.provider_id;
    match deployment.manager.list_providers().all().await {
        Ok(providers) => {
            let provider = providers.into_iter().find(|provider| provider.provider_id == provider_id.as_str());
            match provider.map(|provider| provider.provider_type) {
                Some(ProviderType::Static) => Ok(provider_id),
                Some(kind) => Err(FleetError::NotStatic { pool: pool.clone(), kind }),
                None => Err(FleetError::NotStatic { pool: pool.clone(), kind: provider_id.as_str().into() }),
            }
        }
        // Whoever may not list providers hears from createWorker itself.
        Err(error) if error.status() == Some(403) => Ok(provider_id),
        Err(error) => Err(FleetError::Call(error)),
    }
}

/// Enrolls one worker.
pub(super) async fn enroll_one(
    deployment: &Deployment,
    provider_id: &ProviderId,
    plan: &Plan,
) -> Result<Enrolled, FleetError> {
    let (worker, root_url) = (&plan.worker, deployment.root_url()?);
    let config = runner_config::existing(&plan.config, root_url, worker)?;
    let known = match deployment.manager.worker(worker).await {
        Ok(known) => Some(known),
        Err(error) if error.class() == ErrorClass::Absent => None,
        Err(error) => return Err(FleetError::Call(error)),
    };
    match &known {
        Some(known) if known.expires <= Timestamp::now() => {
            return Err(FleetError::NotSwept { worker: worker.clone() });
        }
        Some(Worker { state: WorkerState::Stopped | WorkerState::Stopping, expires, .. }) => {
            return Err(FleetError::Stopped { worker: worker.clone(), until: *expires });
        }
        Some(_) | None => {}
    }
    let pending = runner_config::pending(&plan.config);
    let mut step = Step { deployment, plan, pending: &pending, known };
    let completed = step.complete(config.is_some()).await?;
    let config = if completed { runner_config::existing(&plan.config, root_url, worker)? } else { config };
    match (&step.known, config) {
        (None, _) if plan.rotate => Err(FleetError::Unknown { worker: worker.clone() }),
        (Some(_), Some(old)) if plan.rotate => {
            let secret = random()?;
            step.change(&runner_config::with_secret(&plan.config, &old, &secret)?, &secret).await?;
            Ok(Enrolled::Rotated)
        }
        (Some(_), None) if plan.rotate => {
            let secret = random()?;
            step.change(&step.describe(root_url, provider_id, &secret), &secret).await?;
            Ok(Enrolled::Rotated)
        }
        (Some(_), Some(_)) if completed => Ok(Enrolled::Completed),
        (Some(_), Some(_)) => Ok(Enrolled::Already),
        (Some(_), None) => Err(FleetError::SecretElsewhere { worker: worker.clone(), path: plan.config.clone() }),
        (None, Some(config)) => {
            let secret = secret_of(&config, &plan.config)?;
            match deployment.manager.create_worker(worker, &step.definition(&secret)?).await {
                Ok(_) => Ok(Enrolled::Again),
                Err(error) if error.is_certainly_undone() => Err(FleetError::Call(error)),
                Err(source) => Err(FleetError::Doubtful { doing: "enrolling", worker: worker.clone(), source }),
            }
        }
        (None, None) => {
            let secret = random()?;
            step.change(&step.describe(root_url, provider_id, &secret), &secret).await?;
            Ok(Enrolled::New)
        }
    }
}

/// What the ways to enroll have in common.
struct Step<'a> {
    deployment: &'a Deployment,
    plan: &'a Plan,
    /// The config that waits for worker-manager's answer.
    pending: &'a Path,
    /// What worker-manager knows of the worker.
    known: Option<Worker>,
}

impl Step<'_> {
    /// Completes what was interrupted, or takes it back: createWorker takes the same secret twice, and no other, so it
    /// says whether the secret that waits is the one that worker-manager has. Whether it was completed.
    async fn complete(&mut self, has_config: bool) -> Result<bool, FleetError> {
        let (worker, root_url) = (&self.plan.worker, self.deployment.root_url()?);
        // Anything else of that name was never whole, or is no use.
        let Ok(Some(left)) = runner_config::existing(self.pending, root_url, worker) else { return Ok(false) };
        let secret = secret_of(&left, self.pending)?;
        match self.deployment.manager.create_worker(worker, &self.definition(&secret)?).await {
            Ok(known) => {
                self.put_in_place()?;
                self.known = Some(known);
                Ok(true)
            }
            Err(error) if self.known.is_some() && error.status() == Some(400) => {
                self.forget();
                Ok(false)
            }
            // Nobody has a secret of a worker that nobody knows.
            Err(error) if self.known.is_none() && error.is_certainly_undone() && !has_config => {
                self.forget();
                Err(FleetError::Call(error))
            }
            Err(source) => Err(self.unsure(source)),
        }
    }

    /// Writes the config beside its place, tells worker-manager its secret, and puts it into its place; or takes it
    /// back, where worker-manager has certainly not taken it.
    async fn change(&self, text: &str, secret: &StaticSecret) -> Result<(), FleetError> {
        let definition = self.definition(secret)?;
        self.prepare(text)?;
        let (manager, worker) = (&self.deployment.manager, &self.plan.worker);
        let answer = match self.known {
            Some(_) => manager.update_worker(worker, &definition).await,
            None => manager.create_worker(worker, &definition).await,
        };
        match answer {
            Ok(_) => self.put_in_place(),
            Err(error) if error.is_certainly_undone() => {
                self.forget();
                Err(FleetError::Call(error))
            }
            Err(source) => Err(self.unsure(source)),
        }
    }

    fn describe(&self, root_url: &RootUrl, provider_id: &ProviderId, secret: &StaticSecret) -> String {
        Description {
            root_url,
            provider_id,
            worker: &self.plan.worker,
            implementation: self.plan.implementation,
            path: self.plan.worker_path.as_deref(),
            config_path: self.plan.worker_config_path.as_deref(),
        }
        .write(secret)
    }

    /// What worker-manager is to know of the worker.
    fn definition(&self, secret: &StaticSecret) -> Result<CreateWorker, FleetError> {
        let expires = match (self.plan.expires, &self.known) {
            (None, Some(known)) => known.expires,
            (span, _) => end_of(span.unwrap_or_else(|| Span::new().years(1)))?,
        };
        let known = self.known.as_ref().and_then(|known| NonZeroU64::new(known.capacity.into()));
        Ok(CreateWorker {
            expires,
            capacity: self.plan.capacity.or(known),
            provider_info: Some(ProviderInfo { static_secret: secret.clone() }),
        })
    }

    /// Writes the config beside its place.
    fn prepare(&self, text: &str) -> Result<(), FleetError> {
        let write = |path: &Path, source| FleetError::Write { path: path.to_owned(), source };
        private_file::refuse_other_kind(&self.plan.config).map_err(|source| write(&self.plan.config, source))?;
        private_file::write(self.pending, text.as_bytes(), Durability::Durable)
            .map_err(|source| write(&self.plan.config, source))
    }

    fn put_in_place(&self) -> Result<(), FleetError> {
        runner_config::put_in_place(self.pending, &self.plan.config).map_err(|source| FleetError::NotInPlace {
            worker: self.plan.worker.clone(),
            pending: self.pending.to_owned(),
            source,
        })
    }

    fn unsure(&self, source: ApiError) -> FleetError {
        FleetError::Unsure { worker: self.plan.worker.clone(), pending: self.pending.to_owned(), source }
    }

    fn forget(&self) {
        if let Err(error) = fs::remove_file(self.pending) {
            tracing::warn!("cannot remove {}, which is no use any more: {error}", self.pending.display());
        }
    }
}

fn random() -> Result<StaticSecret, FleetError> {
    StaticSecret::random().map_err(|error| FleetError::System(io::Error::other(error)))
}

fn secret_of(config: &StaticConfig, path: &Path) -> Result<StaticSecret, FleetError> {
    config.static_secret.expose_secret().parse().map_err(|_| FleetError::InTheWay {
        path: path.to_owned(),
        problem: format!("its staticSecret is not {}", StaticSecret::EXPECTED),
    })
}

/// So long from now, by the calendar.
pub(super) fn end_of(span: Span) -> Result<Timestamp, FleetError> {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let end = now.checked_add(span).map_err(|_| FleetError::Arguments(format!("{span:#} is too long")))?;
    if end <= now {
        return Err(FleetError::Arguments(format!("{span:#} from now must be in the future")));
    }
    Ok(end.timestamp())
}
