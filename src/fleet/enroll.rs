//! `start-worker enroll`: makes a static machine known to worker-manager, and writes its runner config.
//!
//! The config is written beside its place first, then worker-manager is told its secret, then the config is put into
//! its place: whatever happens in between, the secret that worker-manager has is in one of the two files, and the same
//! command goes on from there.

use super::FleetError;
use super::deployment::Deployment;
use super::plan::{Enrolled, Plan, document, in_a_year};
use super::runner_config::{self, Description};
use crate::cli::EnrollArguments;
use crate::error::Chain;
use crate::platform::{self, Lock};
use crate::private_file::{self, Durability};
use crate::runner_config::StaticConfig;
use jiff::Timestamp;
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use taskcluster_api::worker_manager::{CreateWorker, ProviderInfo, ProviderType};
use taskcluster_api::{
    ApiError, ExposeSecret, ProviderId, RootUrl, StaticSecret, Worker, WorkerName, WorkerPoolId, WorkerState,
};

/// Enrolls one machine, and says what to do next.
pub(super) async fn enroll(arguments: &EnrollArguments) -> Result<(), FleetError> {
    let (Some(pool), Some(group), Some(id)) = (&arguments.pool, &arguments.group, &arguments.id) else {
        return Err(FleetError::Arguments("--pool, --group and --id are needed".to_owned()));
    };
    let worker = WorkerName { worker_pool_id: pool.clone(), worker_group: group.clone(), worker_id: id.clone() };
    let config = arguments.config.clone().unwrap_or_else(|| PathBuf::from(format!("{id}.yml")));
    let plan = Plan::new(arguments, worker, config, arguments.expires, arguments.capacity);
    let plan = plan.map_err(FleetError::Arguments)?;
    let folder = platform::folder_of(&plan.config);
    if !folder.is_dir() {
        let problem = format!("there is no folder {}", folder.display());
        return Err(FleetError::InTheWay { path: plan.config, problem });
    }
    let deployment = Deployment::of(&arguments.deployment)?;
    let provider_id = static_provider(&deployment, pool).await?;
    let _lock = lock(folder)?;
    let enrolled = enroll_one(&deployment, &provider_id, &plan).await?;
    let text = match arguments.json {
        true => format!("{:#}\n", document(&plan, &Ok(enrolled))),
        false => next_steps(&plan, enrolled),
    };
    super::print(&text).map(drop)
}

/// Two processes that write configs into one folder would take each other's for their own.
pub(super) fn lock(folder: &Path) -> Result<Lock, FleetError> {
    platform::lock_folder(folder).map_err(|source| FleetError::Lock { folder: folder.to_owned(), source })
}

/// A file's name as a shell takes it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/\\.:_-+=@%,".contains(c);
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    match cfg!(windows) {
        _ if text.chars().all(plain) => text,
        // There no file's name holds a quote.
        true => format!("\"{text}\""),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn next_steps(plan: &Plan, enrolled: Enrolled) -> String {
    let (worker, config) = (&plan.worker, shown(&plan.config));
    let done = match enrolled {
        Enrolled::New => format!("{worker} is enrolled; its runner config is {config}."),
        Enrolled::Already => {
            return format!(
                "{worker} is enrolled already, with the runner config {config}. Nothing was changed: --update would give it another end and capacity, --rotate a new secret.\n"
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
        Enrolled::Updated => {
            return format!(
                "{worker} was enrolled already; its end and capacity are as you say now. {config} is as it was.\n"
            );
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
        Err(error) if super::is_unknown(&error) => None,
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
    if let Some(known) = &known
        && known.provider_id != *provider_id
    {
        let (theirs, ours) = (known.provider_id.clone(), provider_id.clone());
        return Err(FleetError::OtherProvider { worker: worker.clone(), theirs, ours });
    }
    let pending = runner_config::pending(&plan.config);
    let mut step = Step { deployment, provider_id, plan, pending: &pending, known };
    let left = step.settle_left().await?;
    let completed = matches!(left, Left::Completed);
    let config = if completed { runner_config::existing(&plan.config, root_url, worker)? } else { config };
    match (&step.known, config) {
        (None, _) if plan.rotate => Err(FleetError::Unknown { worker: worker.clone() }),
        (Some(_), old) if plan.rotate => {
            match (left, old) {
                // What was sent may still arrive: sent again, it is the secret either way.
                (Left::Waits(secret), _) => {
                    step.tell(&secret).await.map_err(|error| step.unsure(error))?;
                    step.put_in_place()?;
                }
                (Left::Nothing | Left::Completed, Some(old)) => {
                    let secret = random()?;
                    step.change(&runner_config::with_secret(&plan.config, &old, &secret)?, &secret).await?;
                }
                (Left::Nothing | Left::Completed, None) => {
                    let secret = random()?;
                    step.change(&step.describe(root_url, &secret), &secret).await?;
                }
            }
            Ok(Enrolled::Rotated)
        }
        (Some(_), Some(_)) if matches!(left, Left::Waits(_)) => {
            Err(FleetError::RotationWaits { worker: worker.clone(), pending: pending.clone() })
        }
        (Some(_), Some(_)) if completed && !plan.update => Ok(Enrolled::Completed),
        (Some(_), Some(config)) if plan.update => {
            let secret = secret_of(&config, &plan.config)?;
            match step.has(&secret).await.map_err(FleetError::Call)? {
                Some(_) => step.update(&secret).await,
                None => Err(FleetError::SecretElsewhere { worker: worker.clone(), path: plan.config.clone() }),
            }
        }
        (Some(_), Some(_)) => Ok(Enrolled::Already),
        (Some(_), None) => Err(FleetError::SecretElsewhere { worker: worker.clone(), path: plan.config.clone() }),
        (None, Some(config)) => {
            let secret = secret_of(&config, &plan.config)?;
            let made = deployment.manager.create_worker(worker, &step.definition(&secret)).await;
            made.map(|_| Enrolled::Again).map_err(|error| FleetError::of_change("enrolling", worker, error))
        }
        (None, None) => {
            let secret = random()?;
            step.change(&step.describe(root_url, &secret), &secret).await?;
            Ok(Enrolled::New)
        }
    }
}

/// What the ways to enroll have in common.
struct Step<'a> {
    deployment: &'a Deployment,
    provider_id: &'a ProviderId,
    plan: &'a Plan,
    /// The config that waits for worker-manager's answer.
    pending: &'a Path,
    /// What worker-manager knows of the worker.
    known: Option<Worker>,
}

/// What an enrollment or rotation that was interrupted has left.
enum Left {
    Nothing,
    /// worker-manager has its secret, and so has the config now.
    Completed,
    /// worker-manager has another secret, so far.
    Waits(StaticSecret),
}

impl Step<'_> {
    /// Completes what was interrupted, where that can be told. What waits is never given up for a "no": what was sent
    /// may still be under way.
    async fn settle_left(&mut self) -> Result<Left, FleetError> {
        let (worker, root_url) = (&self.plan.worker, self.deployment.root_url()?);
        let Some(left) = runner_config::existing(self.pending, root_url, worker)? else { return Ok(Left::Nothing) };
        let secret = secret_of(&left, self.pending)?;
        match self.has(&secret).await {
            Ok(Some(known)) => {
                self.put_in_place()?;
                self.known = Some(known);
                Ok(Left::Completed)
            }
            Ok(None) => Ok(Left::Waits(secret)),
            Err(source) => Err(self.unsure(source)),
        }
    }

    /// The worker, if worker-manager knows it by this secret; one that it doesn't know it knows then. createWorker takes
    /// the same secret twice, changing nothing, and no other.
    async fn has(&self, secret: &StaticSecret) -> Result<Option<Worker>, ApiError> {
        let mut definition = self.definition(secret);
        if let Some(known) = &self.known {
            definition.expires = known.expires;
        }
        match self.deployment.manager.create_worker(&self.plan.worker, &definition).await {
            Ok(worker) => Ok(Some(worker)),
            Err(error) if self.known.is_some() && says_another_has_the_name(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has worker-manager take another end or capacity for the same secret.
    async fn update(&self, secret: &StaticSecret) -> Result<Enrolled, FleetError> {
        let worker = &self.plan.worker;
        let expires = self.plan.expires.unwrap_or_else(in_a_year);
        let definition = CreateWorker { expires, ..self.definition(secret) };
        let updated = self.deployment.manager.update_worker(worker, &definition).await;
        updated.map(|_| Enrolled::Updated).map_err(|error| FleetError::of_change("updating", worker, error))
    }

    /// Writes the config beside its place, tells worker-manager its secret, and puts it into its place; or takes it
    /// back, where worker-manager has certainly not taken it.
    async fn change(&self, text: &str, secret: &StaticSecret) -> Result<(), FleetError> {
        self.prepare(text, secret)?;
        match self.tell(secret).await {
            Ok(_) => self.put_in_place(),
            Err(error) if super::is_certainly_undone(&error) => {
                self.forget();
                Err(FleetError::Call(error))
            }
            Err(source) => Err(self.unsure(source)),
        }
    }

    /// Tells worker-manager the secret of the config that waits.
    async fn tell(&self, secret: &StaticSecret) -> Result<Worker, ApiError> {
        let (manager, worker, definition) = (&self.deployment.manager, &self.plan.worker, self.definition(secret));
        match self.known {
            Some(_) => manager.update_worker(worker, &definition).await,
            None => manager.create_worker(worker, &definition).await,
        }
    }

    fn describe(&self, root_url: &RootUrl, secret: &StaticSecret) -> String {
        Description {
            root_url,
            provider_id: self.provider_id,
            worker: &self.plan.worker,
            implementation: self.plan.implementation,
            path: self.plan.worker_path.as_deref(),
            config_path: self.plan.worker_config_path.as_deref(),
        }
        .write(secret)
    }

    /// What worker-manager is to know of the worker.
    fn definition(&self, secret: &StaticSecret) -> CreateWorker {
        let known = self.known.as_ref();
        let expires = self.plan.expires.or(known.map(|known| known.expires));
        let capacity = known.and_then(|known| NonZeroU64::new(known.capacity.into()));
        CreateWorker {
            expires: expires.unwrap_or_else(in_a_year),
            capacity: self.plan.capacity.or(capacity),
            provider_info: Some(ProviderInfo { static_secret: secret.clone() }),
        }
    }

    /// Writes the config beside its place, and reads it back: it must be this machine's, with this secret and without
    /// mistakes, before anybody is told of it.
    fn prepare(&self, text: &str, secret: &StaticSecret) -> Result<(), FleetError> {
        let write = |path: &Path, source| FleetError::Write { path: path.to_owned(), source };
        private_file::refuse_other_kind(&self.plan.config).map_err(|source| write(&self.plan.config, source))?;
        if let Err(source) = private_file::write(self.pending, text.as_bytes(), Durability::Durable) {
            // It may be there although it is not known to last.
            let _ = fs::remove_file(self.pending);
            return Err(write(self.pending, source));
        }
        let root_url = self.deployment.root_url()?;
        let written = runner_config::existing(self.pending, root_url, &self.plan.worker);
        let own = |config: &StaticConfig| config.static_secret.expose_secret() == secret.as_secret().expose_secret();
        let problem = match written {
            Ok(Some(config)) if own(&config) => return Ok(()),
            Ok(_) => "its secret cannot be replaced: it is spelled in an unusual way".to_owned(),
            Err(error) => Chain(&error).to_string(),
        };
        self.forget();
        Err(FleetError::InTheWay { path: self.plan.config.clone(), problem })
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

/// worker-manager's words (its static provider's `createWorker`).
fn says_another_has_the_name(error: &ApiError) -> bool {
    error.refusal().is_some_and(|refusal| refusal.status == 400 && refusal.message.contains("worker already exists"))
}
