//! The story: runner config → provider → registration → secrets and layers → files → driver → supervision →
//! retirement. Each step takes what the one before made; a boot that goes on from the cache joins in where the earlier
//! one left off.

use crate::cache::{Cache, CacheProblem, Kept};
use crate::driver::process::WorkerExit;
use crate::driver::{self, Driver, Started};
use crate::error::RunError;
use crate::layer::{Layer, Source};
use crate::logging::LogStream;
use crate::outcome::{Retirement, RunOutcome};
use crate::provider::metadata_http::MetadataService;
use crate::provider::{self, Provider, Recognition};
use crate::run_state::{Admitted, RunState};
use crate::runner_config::{self, ProviderConfig, RunnerConfig};
use crate::secrets::{self, FormError, Share};
use crate::supervise::{Ended, StopSignals, Surroundings, supervise};
use crate::{VERSION, files, platform, preflight, registration, report, retirement};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;
use taskcluster_api::{Client, ReportWorkerError};

/// The exit code where a signal ended us before there was a worker: as if SIGTERM had, which it did before we listened.
const TOLD_TO_STOP: u8 = 128 + 15;

/// How long the metadata service may keep a boot that goes on from the cache from starting.
const RECOGNITION: Duration = Duration::from_secs(1);

/// What a run is given.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The runner config.
    pub runner_config: PathBuf,
    /// Where a cloud's metadata service is.
    pub metadata_service: MetadataService,
}

/// Runs a worker on this machine. The answer is the exit code that tells of the worker's end.
///
/// # Errors
/// Our own failure before the machine was registered. A later one is logged and reported, the machine is retired where
/// a cloud made it, and the answer is that failure's exit code.
pub async fn run(options: RunOptions, log: LogStream) -> Result<u8, RunError> {
    tracing::info!("start-worker {VERSION}");
    let config = runner_config::load(&options.runner_config)?.require()?;
    runner_config::tighten(&options.runner_config);
    let boot = Boot::of(config, &options.metadata_service)?;
    let mut signals = StopSignals::listen().map_err(RunError::System)?;
    let (kept, client, expired) = tokio::select! {
        admitted = boot.admit() => admitted?,
        () = signals.next() => {
            tracing::info!("told to stop before there was a worker");
            return Ok(TOLD_TO_STOP);
        }
    };

    // From here on the machine is worker-manager's: whatever fails is reported, and a cloud's machine retired.
    let (admitted, is_cloud) = (kept.admitted().clone(), boot.is_cloud);
    let worked = match expired {
        Some(expired) => Err(RunError::Expired { expired }),
        // A task of its own, so that a panic arrives as an outcome too. There is one thread, so it is the same one.
        None => tokio::spawn(boot.work(kept, client.clone(), log, signals)).await.unwrap_or(Err(RunError::Bug)),
    };
    match worked {
        Ok(Work::Ended(ended)) => Ok(conclude(&admitted, *ended, is_cloud).await),
        Ok(Work::ToldToStop) => {
            tracing::info!("told to stop before the worker was started: leaving the machine as it is");
            Ok(TOLD_TO_STOP)
        }
        Ok(Work::Nothing) => {
            if is_cloud {
                let name = admitted.identity.worker();
                unless_told_to_stop(retirement::remove_or_shut_down(&client, &name)).await;
            }
            Ok(0)
        }
        Err(error) => {
            // First of all: what follows takes minutes, and may end the machine.
            tracing::error!("{}", error.report());
            unless_told_to_stop(give_up(&error, &client, &admitted, is_cloud)).await;
            Ok(error.stage().exit_code())
        }
    }
}

/// As [`unless_signalled`], where nobody has listened for signals lately.
async fn unless_told_to_stop(finish: impl Future<Output = ()>) {
    match StopSignals::listen() {
        Ok(mut signals) => unless_signalled(finish, &mut signals).await,
        Err(_) => finish.await,
    }
}

/// A signal leaves the machine as it is, as when init stops everything.
async fn unless_signalled(finish: impl Future<Output = ()>, signals: &mut StopSignals) {
    tokio::select! {
        () = finish => {}
        () = signals.next() => tracing::info!("told to stop: leaving the machine as it is"),
    }
}

/// What came of a registered machine's boot.
enum Work {
    /// A worker ran, and has ended.
    Ended(Box<Ended>),
    /// The driver has nothing to run.
    Nothing,
    /// A signal came before the worker was started.
    ToldToStop,
}

/// The parts of a boot, as the runner config names them.
struct Boot {
    config: RunnerConfig,
    provider: Box<dyn Provider>,
    driver: Box<dyn Driver>,
    cache: Cache,
    is_cloud: bool,
}

impl Boot {
    fn of(config: RunnerConfig, metadata: &MetadataService) -> Result<Self, RunError> {
        Ok(Self {
            provider: provider::build(&config.provider, metadata).map_err(RunError::from_provider)?,
            driver: driver::build(&config.worker),
            cache: Cache::new(config.cache_over_restarts.clone(), config.provider.name()),
            is_cloud: config.provider.is_cloud(),
            config,
        })
    }

    /// A registered machine: from an earlier boot (and then perhaps with credentials that have ended), or anew.
    async fn admit(&self) -> Result<(Kept, Client, Option<Timestamp>), RunError> {
        let (kept, problem) = self.recall().await;
        preflight::before_registration(&*self.driver, self.is_cloud, files_are_waiting(kept.as_ref()))
            .map_err(RunError::Preflight)?;
        match kept {
            Some(kept) => {
                let (client, expired) = (Self::client_of(kept.admitted())?, kept.admitted().expired());
                Ok((kept, client, expired))
            }
            None => {
                let (kept, client) = self.register(problem).await?;
                Ok((kept, client, None))
            }
        }
    }

    /// The run of an earlier boot, if it can go on; otherwise why not, if there is one.
    async fn recall(&self) -> (Option<Kept>, Option<CacheProblem>) {
        let mut kept = match self.cache.load() {
            Ok(Some(kept)) => kept,
            Ok(None) => return (None, None),
            Err(problem) => {
                tracing::warn!("{problem}: booting anew");
                return (None, Some(problem));
            }
        };
        let identity = &kept.admitted().identity;
        let asked = tokio::time::timeout(RECOGNITION, self.provider.recognise(identity));
        // No answer in time: it is ours, as it nearly always is.
        match asked.await.unwrap_or(Recognition::Unknown) {
            Recognition::Ours | Recognition::Unknown => {}
            Recognition::Other(us) => {
                let problem = self.cache.other_machine(identity, us);
                tracing::warn!("{problem}: booting anew");
                return (None, Some(problem));
            }
        }
        match &self.config.provider {
            // The operator may have changed them in the file that is their home.
            ProviderConfig::Standalone(config) => kept.admitted_mut().credentials = config.credentials.clone(),
            ProviderConfig::Static(_) if kept.admitted().expired().is_some() => {
                tracing::warn!("the credentials of the run kept from an earlier boot have ended: registering anew");
                return (None, None);
            }
            ProviderConfig::Static(_) | ProviderConfig::Aws | ProviderConfig::Azure | ProviderConfig::Google => {}
        }
        tracing::info!("going on with the run of an earlier boot as {}", kept.admitted().identity);
        (Some(kept), None)
    }

    async fn register(&self, cache: Option<CacheProblem>) -> Result<(Kept, Client), RunError> {
        let found = self.provider.identify().await.map_err(RunError::from_provider)?;
        tracing::info!("this machine is {}, says {}", found.identity, self.config.provider.name());
        let client = Client::new(found.identity.root_url.clone())?;
        tracing::debug!("registering with {}", client.root_url());
        let admitted = registration::admit(&client, &*self.provider, found, self.is_cloud)
            .await
            .map_err(|source| RunError::Registration { source, cache })?;
        if let Some(lease) = &admitted.lease {
            tracing::info!("registered with {}; credentials end at {:.0}", client.root_url(), lease.expires);
            if admitted.expired().is_some() {
                tracing::error!("by this machine's clock these credentials have ended already: is the clock right?");
            }
        }
        let client = client.with_credentials(admitted.credentials.clone());
        Ok((Kept::Admitted(admitted), client))
    }

    fn client_of(admitted: &Admitted) -> Result<Client, RunError> {
        Ok(Client::new(admitted.identity.root_url.clone())?.with_credentials(admitted.credentials.clone()))
    }

    /// From a registered machine to a worker that has ended, or to none where the driver has none.
    async fn work(
        self,
        kept: Kept,
        client: Client,
        log: LogStream,
        mut signals: StopSignals,
    ) -> Result<Work, RunError> {
        let run = tokio::select! {
            run = self.prepare(kept, &client) => run?,
            () = signals.next() => return Ok(Work::ToldToStop),
        };
        self.driver.preflight().map_err(RunError::Preflight)?;
        platform::become_subreaper();
        let oom_score_adj = platform::prefer_to_survive();
        let worker = match self.driver.start(&run, oom_score_adj.as_deref()).map_err(RunError::Start)? {
            Started::Worker(worker) => *worker,
            Started::Done => return Ok(Work::Nothing),
        };
        tracing::info!("started the worker (process {})", worker.process.id());
        let surroundings =
            Surroundings { provider: self.provider, client, cache: self.cache, log, signals, is_cloud: self.is_cloud };
        Ok(Work::Ended(Box::new(supervise(worker, run, surroundings).await)))
    }

    /// Everything that the worker will be told, and its files in place.
    async fn prepare(&self, kept: Kept, client: &Client) -> Result<RunState, RunError> {
        let run = match kept {
            Kept::Admitted(admitted) => self.configure(admitted, client).await?,
            Kept::Configured(run) => run,
        };
        self.place_files(run).await
    }

    /// Everything that the worker will be told. The registration's answer is kept beside the asking for secrets: a
    /// machine registers only once, so that answer is the machine.
    async fn configure(&self, admitted: Admitted, client: &Client) -> Result<RunState, RunError> {
        let registered = Kept::Admitted(admitted.clone());
        let share = async {
            let mut share =
                layers_of(&self.config, &*self.driver, &admitted.worker_config).map_err(RunError::Configuration)?;
            if self.config.get_secrets {
                let pool = &admitted.identity.worker_pool_id;
                share.extend(secrets::fetch(client, pool).await.map_err(RunError::Secrets)?);
            }
            Ok::<Share, RunError>(share)
        };
        let (_, share) = tokio::join!(self.cache.keep(&registered), share);
        let share = share?;
        let run = RunState { admitted, layers: share.layers, files: share.files };
        self.cache.keep(&Kept::Configured(run.clone())).await;
        Ok(run)
    }

    async fn place_files(&self, mut run: RunState) -> Result<RunState, RunError> {
        if run.files.is_empty() {
            return Ok(run);
        }
        let (list, keeps) = (std::mem::take(&mut run.files), self.cache.keeps());
        let placed = tokio::task::spawn_blocking(move || {
            files::place(&list)?;
            if keeps {
                files::sync(&list);
            }
            Ok(())
        });
        placed.await.map_err(|error| RunError::System(error.into()))?.map_err(RunError::Files)?;
        self.cache.keep(&Kept::Configured(run.clone())).await;
        Ok(run)
    }
}

/// The layers and files that come before the secrets: the runner config's, then the worker pool's.
///
/// # Errors
/// Where the worker pool's configuration is of no known form.
pub fn layers_of(
    config: &RunnerConfig,
    driver: &dyn Driver,
    worker_config: &Map<String, Value>,
) -> Result<Share, FormError> {
    let lowest = Layer { source: Source::RunnerConfig, config: config.worker_config.clone() };
    let mut share = Share { layers: vec![lowest], files: Vec::new() };
    let pool = match worker_config.get(driver.config_key()) {
        Some(Value::Object(own)) if worker_config.len() == 1 => {
            secrets::read_config_and_files(own.clone(), Source::Registration)?
        }
        Some(_) if worker_config.len() == 1 => {
            return Err(FormError::NoObject { from: Source::Registration, key: driver.config_key() });
        }
        Some(_) | None => {
            // Of old it was the configuration itself.
            Share { layers: vec![Layer { source: Source::Registration, config: worker_config.clone() }], files: vec![] }
        }
    };
    share.extend(pool);
    Ok(share)
}

fn files_are_waiting(kept: Option<&Kept>) -> bool {
    match kept {
        Some(Kept::Configured(run)) => !run.files.is_empty(),
        Some(Kept::Admitted(_)) | None => false,
    }
}

/// What follows the worker's end. A signal that comes meanwhile, as when init stops one after the other, leaves the
/// machine alone.
async fn conclude(admitted: &Admitted, ended: Ended, is_cloud: bool) -> u8 {
    let Ended { exit, client, asked, signalled, retired, lost_part, mut signals } = ended;
    let worker = admitted.identity.worker();
    let outcome = RunOutcome::of(exit, asked || signalled);
    let report = if lost_part {
        tracing::error!("{}", RunError::Supervision.report());
        Some(failure_of(&RunError::Supervision))
    } else {
        worker_failure(outcome, exit)
    };
    let finish = async {
        if let Some(report) = report {
            report::send(&client, &worker, report).await;
        }
        match outcome.retirement(is_cloud, signalled) {
            Retirement::RemoveWorker if !retired => retirement::remove_or_shut_down(&client, &worker).await,
            Retirement::RemoveWorker | Retirement::LeaveRunning => {}
        }
    };
    unless_signalled(finish, &mut signals).await;
    if lost_part { RunError::Supervision.stage().exit_code() } else { exit.exit_code() }
}

fn worker_failure(outcome: RunOutcome, exit: WorkerExit) -> Option<ReportWorkerError> {
    let (kind, title) = outcome.failure()?;
    let description = format!("{title}. The machine's log says more.");
    let extra = extra(&[("exitCode", json!(exit.exit_code()))]);
    Some(ReportWorkerError { kind: kind.to_owned(), title, description, extra })
}

/// What follows a failure of ours on a registered machine.
async fn give_up(error: &RunError, client: &Client, admitted: &Admitted, is_cloud: bool) {
    let worker = admitted.identity.worker();
    report::send(client, &worker, failure_of(error)).await;
    if is_cloud {
        retirement::remove_or_shut_down(client, &worker).await;
    }
}

fn failure_of(error: &RunError) -> ReportWorkerError {
    let stage = error.stage();
    ReportWorkerError {
        kind: format!("start-worker-{}", stage.name()),
        title: format!("start-worker failed: {}", stage.meaning()),
        description: error.public_report(),
        extra: extra(&[("stage", json!(stage.name())), ("exitCode", json!(stage.exit_code()))]),
    }
}

fn extra(facts: &[(&str, Value)]) -> Map<String, Value> {
    let version = ("startWorkerVersion", json!(VERSION));
    facts.iter().chain([&version]).map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}
