//! From a runner config to a worker that runs: who the machine is, its credentials, its configuration, its files.

use crate::USER_AGENT;
use crate::cache::{Cache, CacheProblem, Kept, Tombstone};
use crate::driver::{self, Driver, StartTerms, Started};
use crate::error::RunError;
use crate::files::FileSpec;
use crate::layer::{Layer, Source};
use crate::logging::LogStream;
use crate::platform::{ServiceManager, Word};
use crate::provider::{self, Pace, Provider, Recognition};
use crate::registration::RenewalError;
use crate::report::{Redactor, Reporter};
use crate::run::RunOptions;
use crate::run_state::{Admitted, RunState};
use crate::runner_config::{ProviderConfig, RunnerConfig};
use crate::secrets::{self, FormError, Share};
use crate::supervise::{Ended, Request, StopSignals, Surroundings, Terms, supervise};
use crate::timeline::{self, Stages};
use crate::{conclusion, files, platform, preflight, registration};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use taskcluster_api::retry::Tries;
use taskcluster_api::{Client, NewClientError, RetryPolicy, RootUrl};
use tracing::{Instrument, Span};

/// How long the metadata service may keep a boot that goes on from the cache from starting.
const RECOGNITION: Duration = Duration::from_secs(1);

/// For how long worker-manager is asked whether credentials that seem to have ended can be renewed.
const REVIVAL: Duration = Duration::from_secs(60);

/// How often this thread looks for news before it makes another: by then a first request has been connected, handed over and
/// written, or there is a name server or a handshake to be waited for.
const TURNS_OF_A_REQUEST: u32 = 4;

/// The parts of a boot, as the runner config names them.
pub struct Boot {
    /// What it was made from.
    pub config: RunnerConfig,
    /// Who says who the machine is.
    pub provider: Arc<dyn Provider>,
    /// Knows the worker.
    pub driver: Box<dyn Driver>,
    /// Where the run is kept.
    pub cache: Cache,
    /// Sends error reports.
    pub reporter: Reporter,
    /// Who started us.
    pub manager: ServiceManager,
    /// What the boot's time goes into.
    pub stages: Stages,
    /// What the worker's `oom_score_adj` is set back to.
    oom_score_adj: Option<String>,
    /// Whether worker-manager has been asked for credentials that it gives once, and has not answered.
    is_asking: AtomicBool,
}

/// What a boot begins with.
pub enum Admission {
    /// A registered machine.
    Run(Kept, Client),
    /// A registered machine that can't go on.
    Lost(Kept, Client, Box<RunError>),
    /// A machine whose run was over before this boot.
    Retiring(Tombstone),
}

/// What came of a registered machine's boot.
pub enum Work {
    /// A worker ran, and has ended.
    Ended(Box<Ended>),
    /// The driver has nothing to run.
    Nothing,
    /// A signal came before the worker was started.
    ToldTo(Request),
}

impl Boot {
    /// The parts of a boot.
    ///
    /// # Errors
    /// Where no HTTP client can be made.
    pub fn of(config: RunnerConfig, options: &RunOptions) -> Result<Self, RunError> {
        let pace = Pace::from(&config.settings.interruption);
        platform::become_subreaper();
        Ok(Self {
            provider: provider::build(&config.provider, &options.metadata_service, pace)
                .map_err(RunError::from_provider)?,
            driver: driver::build(&config.worker),
            cache: Cache::of(&config, &options.runner_config),
            reporter: Reporter::new(
                &config.settings.report,
                matches!(config.provider, ProviderConfig::Standalone(_)),
                &platform::state_folder_or_beside(&options.runner_config),
            ),
            manager: options.manager.clone(),
            stages: Stages::begin(options.began),
            oom_score_adj: platform::prefer_to_survive(),
            is_asking: AtomicBool::new(false),
            config,
        })
    }

    /// Whether a cloud made the machine.
    pub fn is_cloud(&self) -> bool {
        self.config.provider.is_cloud()
    }

    /// A registered machine: as it was `before`, from an earlier boot, or anew.
    ///
    /// # Errors
    /// Where it can't be registered, or the worker is not there to be started.
    pub async fn admit(&self, before: Option<Kept>) -> Result<Admission, RunError> {
        let (kept, problem) = match before {
            Some(kept) => (self.as_configured(kept), None),
            None => self.recall().await,
        };
        if let Some(Kept::Retiring(tombstone)) = kept {
            return Ok(Admission::Retiring(tombstone));
        }
        let fit = preflight::before_registration(&*self.driver, &self.config, files_are_waiting(kept.as_ref()));
        let Some(kept) = kept else {
            fit.map_err(RunError::Preflight)?;
            let (kept, client) = self.register(problem).await?;
            return Ok(Admission::Run(kept, client));
        };
        let client = Self::client_of(kept.admitted())?;
        match (fit, kept.admitted().expired()) {
            (Err(error), _) => Ok(Admission::Lost(kept, client, Box::new(RunError::Preflight(error)))),
            (Ok(()), Some(expired)) => Ok(self.revive(kept, client, expired).await),
            (Ok(()), None) => Ok(Admission::Run(kept, client)),
        }
    }

    /// Credentials that have ended by this machine's clock, which worker-manager may know better.
    async fn revive(&self, mut kept: Kept, client: Client, expired: Timestamp) -> Admission {
        let worker = kept.admitted().identity.worker();
        let mut tries = Tries::begin(RetryPolicy::persistent(REVIVAL));
        while let Some(lease) = kept.admitted().lease.clone() {
            self.is_asking.store(true, Ordering::Relaxed);
            let renewed = registration::renew(&client, &worker, &lease.secret).await;
            let (error, is_final) = match renewed {
                Ok(renewal) => {
                    tracing::warn!(
                        "by this machine's clock its credentials ended at {expired:.0}: is the clock right?"
                    );
                    kept.admitted_mut().adopt(renewal);
                    self.cache.keep(&kept).await;
                    let client = client.with_credentials(kept.admitted().credentials.clone());
                    return Admission::Run(kept, client);
                }
                // Not ours to sign with by worker-manager's clock either, which the client signs by once it has been told.
                Err(RenewalError::Failed(error)) => {
                    let is_final = error.status() == Some(401);
                    (error, is_final)
                }
                Err(RenewalError::Refused(error)) => (error, true),
            };
            self.is_asking.store(false, Ordering::Relaxed);
            let Some(pause) = tries.next_pause(error.retry_after()).filter(|_| !is_final) else {
                tracing::warn!("cannot renew the credentials: {}", error.failure);
                break;
            };
            tracing::warn!("cannot renew the credentials: {}; trying again", error.failure);
            tokio::time::sleep(pause).await;
        }
        Admission::Lost(kept, client, Box::new(RunError::Expired { expired }))
    }

    /// Keeps a registration that is under way when we are told to end: its answer is the machine, and worker-manager gives it
    /// once. Where no run is kept, or none is wanted, what starts next retires the machine. Whoever tells us again waits no longer.
    pub async fn keep_what_arrives(
        &self,
        admitting: impl Future<Output = Result<Admission, RunError>>,
        request: Request,
        signals: &mut StopSignals,
    ) {
        if !self.is_cloud() || !self.is_asking.load(Ordering::Relaxed) {
            return;
        }
        let patience = self.config.settings.stop.grace;
        tracing::info!("waiting up to {} s for the answer of worker-manager", patience.as_secs_f32());
        self.manager.tell(Word::Extend(patience));
        let arrived = tokio::select! {
            arrived = tokio::time::timeout(patience, admitting) => arrived,
            () = signals.told_to_stop() => return,
        };
        if let Ok(Ok(Admission::Run(kept, _))) = arrived {
            let goes_on = self.cache.keeps() && request == Request::Stop;
            let kept = if goes_on { kept } else { Kept::Retiring(Tombstone::of(kept.admitted(), true)) };
            self.cache.keep(&kept).await;
        }
    }

    /// The run of an earlier boot, if it can go on; otherwise why not, if there is one.
    async fn recall(&self) -> (Option<Kept>, Option<CacheProblem>) {
        let kept = match self.cache.load() {
            Ok(Some(kept)) => kept,
            Ok(None) => return (None, None),
            Err(problem) => {
                tracing::warn!("{problem}: booting anew");
                return (None, Some(problem));
            }
        };
        let identity = &kept.admitted().identity;
        let asked = self.provider.recognise(identity);
        let recognised = match &kept {
            // A machine must not end for another one's tombstone, so there is no hurry.
            Kept::Retiring(_) => asked.await,
            // No answer in time: it is ours, as it nearly always is.
            Kept::Admitted(_) | Kept::Configured(_) => {
                tokio::time::timeout(RECOGNITION, asked).await.unwrap_or(Recognition::Unknown)
            }
        };
        // Whoever is about to retire a machine must know which one it is.
        let recognised = match recognised {
            Recognition::Unknown if self.is_cloud() && kept.admitted().expired().is_some() => {
                self.provider.recognise(identity).await
            }
            known => known,
        };
        match recognised {
            Recognition::Ours | Recognition::Unknown => {}
            Recognition::Other(us) => {
                let problem = self.cache.other_machine(identity, us);
                tracing::warn!("{problem}: booting anew");
                self.cache.forget_tombstone();
                return (None, Some(problem));
            }
        }
        if matches!(kept, Kept::Retiring(_)) {
            return (Some(kept), None);
        }
        let kept = self.as_configured(kept);
        if let Some(kept) = &kept {
            tracing::info!("going on with the run of an earlier boot as {}", kept.admitted().identity);
        }
        (kept, None)
    }

    /// A run that goes on, with the credentials that the runner config has by now; none where others must be had.
    fn as_configured(&self, mut kept: Kept) -> Option<Kept> {
        match &self.config.provider {
            // The operator may have changed them in the file that is their home.
            ProviderConfig::Standalone(config) => kept.admitted_mut().credentials = config.credentials.clone(),
            // A worker is stopped that long before they end.
            ProviderConfig::Static(_)
                if kept.admitted().ends_within(self.config.settings.interruption.abort_before) =>
            {
                tracing::warn!("the credentials of the run so far are at their end: registering anew");
                return None;
            }
            ProviderConfig::Static(_) | ProviderConfig::Aws | ProviderConfig::Azure | ProviderConfig::Google => {}
        }
        Some(kept)
    }

    /// Does what the boot will need, and what can be done as well while it waits for the network: learns what instructions the
    /// processor has, which takes long on a virtual machine and is asked when the first answer is read; and has the system read
    /// the worker's files, in a thread, which takes as long to make as a near answer.
    fn warm_up(&self) {
        if matches!(self.config.provider, ProviderConfig::Standalone(_)) {
            return;
        }
        let files: Vec<PathBuf> = self.config.worker.files().into_iter().map(Path::to_owned).collect();
        tokio::spawn(async move {
            for _ in 0..TURNS_OF_A_REQUEST {
                tokio::task::yield_now().await;
            }
            #[cfg(target_arch = "x86_64")]
            let _ = std::is_x86_feature_detected!("avx2");
            tokio::task::spawn_blocking(move || files.iter().for_each(|file| platform::read_ahead(file)));
        });
    }

    async fn register(&self, cache: Option<CacheProblem>) -> Result<(Kept, Client), RunError> {
        self.warm_up();
        let known = OnceLock::new();
        let hear = |root_url: &RootUrl| {
            known.get_or_init(|| connect_ahead(root_url));
        };
        let identifying = self.provider.identify(&hear).instrument(stage("metadata"));
        let found = identifying.await.map_err(RunError::from_provider)?;
        self.stages.done("metadata");
        tracing::info!("this machine is {}, says {}", found.identity, self.config.provider.name());
        let client = match known.into_inner() {
            Some(client) => client?,
            None => Client::with_user_agent(found.identity.root_url.clone(), USER_AGENT)?,
        };
        tracing::debug!("registering with {}", client.root_url());
        self.is_asking.store(true, Ordering::Relaxed);
        let admitting = registration::admit(&client, &*self.provider, found, self.is_cloud());
        let admitted = admitting.instrument(stage("register")).await;
        self.is_asking.store(false, Ordering::Relaxed);
        let admitted = admitted.map_err(|source| RunError::Registration { source, cache })?;
        self.stages.done("register");
        if let Some(lease) = &admitted.lease {
            tracing::info!("registered with {}; credentials end at {:.0}", client.root_url(), lease.expires);
            if admitted.expired().is_some() {
                tracing::error!("by this machine's clock these credentials have ended already: is the clock right?");
            }
        }
        let client = client.with_credentials(admitted.credentials.clone());
        Ok((Kept::Admitted(admitted), client))
    }

    /// worker-manager, with that machine's credentials.
    ///
    /// # Errors
    /// Where no HTTP client can be made.
    pub fn client_of(admitted: &Admitted) -> Result<Client, RunError> {
        let client = Client::with_user_agent(admitted.identity.root_url.clone(), USER_AGENT)?;
        Ok(client.with_credentials(admitted.credentials.clone()))
    }

    /// From a registered machine to a worker that has ended, or to none where the driver has none.
    ///
    /// # Errors
    /// Where anything on the way to a running worker fails.
    pub async fn work(
        self: Arc<Self>,
        kept: Kept,
        client: Client,
        log: LogStream,
        mut signals: StopSignals,
    ) -> Result<Work, RunError> {
        self.manager.tell(Word::Status(&format!("preparing {}", kept.admitted().identity)));
        let registered = Some(&kept).filter(|kept| matches!(kept, Kept::Admitted(_))).cloned();
        let (run, redactor) = tokio::select! {
            prepared = self.prepare(kept, &client) => prepared?,
            request = signals.next() => {
                // It may not have been written yet, and it is the machine.
                if let Some(registered) = registered {
                    self.cache.keep(&registered).await;
                }
                return Ok(Work::ToldTo(request));
            }
        };
        self.driver.preflight().map_err(RunError::Preflight)?;
        let terms = StartTerms { oom_score_adj: self.oom_score_adj.as_deref(), settings: &self.config.settings };
        let started = tokio::select! {
            // A worker that is there at once is there.
            biased;
            started = self.driver.start(&run, &terms).instrument(stage("start")) => started.map_err(RunError::Start)?,
            // A service takes its time.
            request = signals.next() => return Ok(Work::ToldTo(request)),
        };
        let worker = match started {
            Started::Worker(worker) => *worker,
            Started::Done => return Ok(Work::Nothing),
        };
        tracing::info!("started the worker (process {})", worker.process.id());
        self.stages.done("start");
        tracing::info!("{}", self.stages);
        self.manager.tell(Word::Ready);
        self.manager.tell(Word::Status(&format!("the worker runs as {}", run.admitted.identity)));
        let terms = Terms {
            is_cloud: self.is_cloud(),
            registers_again: matches!(self.config.provider, ProviderConfig::Static(_)),
            habits: self.driver.habits(&run),
            settings: self.config.settings.clone(),
            report_extra: conclusion::extra(&self, "worker", None),
            seed: fastrand::u64(..),
        };
        let surroundings = Surroundings {
            terms,
            provider: Arc::clone(&self.provider),
            client,
            cache: self.cache.clone(),
            reporter: self.reporter.clone(),
            redactor,
            log,
            manager: self.manager.clone(),
            signals,
        };
        Ok(Work::Ended(Box::new(Box::pin(supervise(worker, run, surroundings)).await)))
    }

    /// Everything that the worker will be told, and its files in place.
    async fn prepare(&self, kept: Kept, client: &Client) -> Result<(RunState, Redactor), RunError> {
        let run = match kept {
            Kept::Admitted(admitted) => self.configure(admitted, client).await?,
            Kept::Configured(run) => run,
            // Whoever finds one starts no worker.
            Kept::Retiring(tombstone) => RunState { admitted: tombstone.admitted, layers: vec![], files: vec![] },
        };
        let mut redactor = Redactor::of(&run);
        if let ProviderConfig::Static(config) = &self.config.provider {
            redactor.learn_secret(&config.static_secret);
        }
        Ok((self.place_files(run).await?, redactor))
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
                let fetching = secrets::fetch(client, pool).instrument(stage("secrets"));
                share.extend(fetching.await.map_err(RunError::Secrets)?);
            }
            Ok::<Share, RunError>(share)
        };
        let keeping = self.cache.keep(&registered).instrument(work("keep the registration"));
        let (_, share) = tokio::join!(keeping, share);
        self.stages.done("secrets");
        let share = share?;
        let run = RunState { admitted, layers: share.layers, files: share.files };
        self.cache.keep(&Kept::Configured(run.clone())).instrument(work("keep the run")).await;
        Ok(run)
    }

    async fn place_files(&self, mut run: RunState) -> Result<RunState, RunError> {
        if !run.files.iter().any(FileSpec::is_waiting) {
            return Ok(run);
        }
        let (list, keeps) = (std::mem::take(&mut run.files), self.cache.keeps());
        let machine = run.admitted.identity.worker().to_string();
        let span = stage("files");
        let placing = tokio::task::spawn_blocking(move || {
            files::place(&list, &machine)?;
            if keeps {
                files::sync(&list);
            }
            Ok(FileSpec::written(list))
        });
        let placed = placing.instrument(span).await;
        run.files = placed.map_err(|error| RunError::System(error.into()))?.map_err(RunError::Files)?;
        self.stages.done("files");
        self.cache.keep(&Kept::Configured(run.clone())).await;
        Ok(run)
    }
}

/// worker-manager, with a connection under way before anybody needs it.
fn connect_ahead(root_url: &RootUrl) -> Result<Client, NewClientError> {
    let client = Client::with_user_agent(root_url.clone(), USER_AGENT)?;
    let ahead = client.clone();
    tokio::spawn(async move { ahead.connect_ahead().await }.in_current_span());
    Ok(client)
}

/// A step of the boot, for the timeline.
fn stage(what: &'static str) -> Span {
    tracing::info_span!(target: timeline::TARGET, "stage", what)
}

/// Work of our own within one.
fn work(what: &'static str) -> Span {
    tracing::info_span!(target: timeline::TARGET, "work", what)
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
        // A pool's definition with nothing below the key.
        Some(Value::Null) if worker_config.len() == 1 => Share::default(),
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
        Some(Kept::Configured(run)) => run.files.iter().any(FileSpec::is_waiting),
        Some(Kept::Admitted(_) | Kept::Retiring(_)) | None => false,
    }
}
