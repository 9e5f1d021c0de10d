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
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::json;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use taskcluster_api::worker_manager::{CreateWorker, ProviderInfo, ProviderType};
use taskcluster_api::{
    ApiError, ErrorClass, ExposeSecret, ProviderId, StaticSecret, Worker, WorkerName, WorkerPoolId, WorkerState,
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
    let worker = &plan.worker;
    let config = runner_config::existing(&plan.config, &deployment.root_url, worker)?;
    let pending = runner_config::pending(&plan.config);
    // What was left by an enrollment that was interrupted; anything else there is no use to anybody.
    let left = runner_config::existing(&pending, &deployment.root_url, worker).unwrap_or_default();
    let known = match deployment.manager.worker(worker).await {
        Ok(known) => Some(known),
        Err(error) if error.class() == ErrorClass::Absent => None,
        Err(error) => return Err(FleetError::Call(error)),
    };
    if let Some(Worker { state: WorkerState::Stopped | WorkerState::Stopping, expires, .. }) = &known {
        return Err(FleetError::Stopped { worker: worker.clone(), until: *expires });
    }
    let step = Step { plan, pending: &pending, known: known.as_ref() };
    let described = |secret: &StaticSecret| {
        Description {
            root_url: &deployment.root_url,
            provider_id,
            worker,
            implementation: plan.implementation,
            path: plan.worker_path.as_deref(),
            config_path: plan.worker_config_path.as_deref(),
        }
        .write(secret)
    };
    match (&known, config, left) {
        (None, _, _) if plan.rotate => Err(FleetError::Unknown { worker: worker.clone() }),
        (Some(_), config, _) if plan.rotate => {
            let secret = random()?;
            let text = match &config {
                Some(old) => runner_config::with_secret(&plan.config, old, &secret)?,
                None => described(&secret),
            };
            step.prepare(&text)?;
            step.settle(deployment.manager.update_worker(worker, &step.definition(&secret)?).await)?;
            Ok(Enrolled::Rotated)
        }
        (Some(_), Some(_), None) => Ok(Enrolled::Already),
        (None, Some(config), None) => {
            let secret = secret_of(config.static_secret.expose_secret(), &plan.config)?;
            let made = deployment.manager.create_worker(worker, &step.definition(&secret)?).await;
            made.map(|_| Enrolled::Again).map_err(FleetError::Call)
        }
        // createWorker takes the same secret twice, and no other: it says whether this is the one.
        (known, config, Some(left)) => {
            let secret = secret_of(left.static_secret.expose_secret(), &pending)?;
            match (deployment.manager.create_worker(worker, &step.definition(&secret)?).await, config) {
                (Err(error), Some(_)) if known.is_some() && error.status() == Some(400) => {
                    step.forget();
                    Ok(Enrolled::Already)
                }
                (Err(error), None) if known.is_some() && error.status() == Some(400) => {
                    step.forget();
                    Err(FleetError::SecretElsewhere { worker: worker.clone(), path: plan.config.clone() })
                }
                (made, _) => step.settle(made).map(|()| Enrolled::Completed),
            }
        }
        (Some(_), None, None) => Err(FleetError::SecretElsewhere { worker: worker.clone(), path: plan.config.clone() }),
        (None, None, None) => {
            let secret = random()?;
            step.prepare(&described(&secret))?;
            step.settle(deployment.manager.create_worker(worker, &step.definition(&secret)?).await)?;
            Ok(Enrolled::New)
        }
    }
}

/// What the ways to enroll have in common.
struct Step<'a> {
    plan: &'a Plan,
    pending: &'a Path,
    known: Option<&'a Worker>,
}

impl Step<'_> {
    /// What worker-manager is to know of the worker.
    fn definition(&self, secret: &StaticSecret) -> Result<CreateWorker, FleetError> {
        let expires = match (self.plan.expires, self.known) {
            (None, Some(known)) => known.expires,
            (span, _) => end_of(span.unwrap_or_else(|| Span::new().years(1)))?,
        };
        let known = self.known.and_then(|known| NonZeroU64::new(known.capacity.into()));
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

    /// Puts the config into its place where worker-manager took its secret, and forgets it where that certainly
    /// did not.
    fn settle(&self, answer: Result<Worker, ApiError>) -> Result<(), FleetError> {
        let (worker, pending) = (self.plan.worker.clone(), self.pending.to_owned());
        match answer {
            Ok(_) => {
                let put = runner_config::put_in_place(self.pending, &self.plan.config);
                put.map_err(|source| FleetError::NotInPlace { worker, pending, source })
            }
            Err(error) if error.is_certainly_undone() => {
                self.forget();
                Err(FleetError::Call(error))
            }
            Err(source) => Err(FleetError::Unsure { worker, pending, source }),
        }
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

fn secret_of(text: &str, path: &Path) -> Result<StaticSecret, FleetError> {
    text.parse().map_err(|_| FleetError::InTheWay {
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
