//! The story: runner config → provider → registration → secrets and layers → files → driver → supervision →
//! retirement. Each step takes what the one before made; a boot that goes on from the cache joins in where the earlier
//! one left off, and one that finds a tombstone there goes on with the retirement.

use crate::boot::{Admission, Boot, Work};
use crate::cache::Kept;
use crate::conclusion::{self, End, TOLD_TO_STOP};
use crate::error::RunError;
use crate::logging::LogStream;
use crate::platform::{KeepAlive, ServiceManager, Word};
use crate::provider::metadata_http::MetadataService;
use crate::restart::Restarts;
use crate::supervise::{Request, StopSignals};
use crate::{VERSION, runner_config};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use taskcluster_api::Client;

/// What a run is given.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The runner config.
    pub runner_config: PathBuf,
    /// Where a cloud's metadata service is.
    pub metadata_service: MetadataService,
    /// Who started us.
    pub manager: ServiceManager,
    /// When we began.
    pub began: Instant,
}

/// Runs a worker on this machine, on this thread: one is enough, and what is bound to the thread that starts the worker
/// lives as long as we do. The answer is as that of [`run`].
///
/// # Errors
/// As [`run`], and a bug of ours.
pub fn boot(options: RunOptions, log: &LogStream) -> Result<u8, RunError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_park({
        // From the first moment on in which there is nothing else to do: mostly the first answer is waited for then.
        let log = log.clone();
        move || log.begin_writing()
    });
    let runtime = runtime.build().map_err(RunError::System)?;
    let result = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(options, log.clone()))));
    // A thread that hangs on a disk or a name server doesn't keep us.
    runtime.shutdown_background();
    result.unwrap_or(Err(RunError::Bug))
}

/// Runs a worker on this machine. The answer is the exit code that tells of the worker's end.
///
/// # Errors
/// Our own failure before the machine was registered. A later one is logged and reported, the machine is retired where
/// a cloud made it, and the answer is that failure's exit code.
pub async fn run(options: RunOptions, log: LogStream) -> Result<u8, RunError> {
    let mut signals = options.manager.signals().map_err(RunError::System)?;
    tracing::info!("start-worker {VERSION}");
    let config = runner_config::load(&options.runner_config)?.require()?;
    let _ours_alone = runner_config::claim(&options.runner_config)?;
    runner_config::tighten(&options.runner_config);
    let boot = Arc::new(Boot::of(config, &options)?);
    let _alive = KeepAlive::begin(&boot.manager);
    let mut restarts = Restarts::begin(&boot.config.settings.restart, Instant::now());
    let (mut kept, mut restarted) = (None, false);
    loop {
        boot.manager.tell(Word::Status("learning who this machine is"));
        let before = kept.take();
        let mut admitting = Box::pin(boot.admit(before.clone()));
        let admitted = tokio::select! {
            admitted = &mut admitting => admitted,
            // There is no worker to drain, and there need not be one.
            request = signals.next() => {
                tracing::info!("told to {request} before there was a worker");
                match before {
                    Some(kept) => conclusion::leave(&boot, &kept).await,
                    None => boot.keep_what_arrives(admitting, request, &mut signals).await,
                }
                return Ok(match request {
                    Request::Stop => TOLD_TO_STOP,
                    Request::Drain => 0,
                });
            }
        };
        // From here on the machine is worker-manager's: whatever fails is reported, and a cloud's machine retired.
        let end = match admitted {
            Ok(Admission::Run(kept, client)) => work(&boot, kept, client, &log, signals).await,
            Ok(Admission::Lost(kept, client, error)) => End::of_failure(&boot, &error, kept, client),
            Ok(Admission::Retiring(tombstone)) => {
                return Ok(Box::pin(conclusion::go_on_retiring(&boot, tombstone, signals)).await);
            }
            Err(error) if restarted => {
                tracing::error!("{}", error.report());
                match wait_for_restart(&boot, &mut restarts, &mut signals).await {
                    Wait::Over => {
                        boot.stages.begin_again();
                        continue;
                    }
                    Wait::Told(_) | Wait::TooMany => return Ok(error.stage().exit_code()),
                }
            }
            Err(error) => return Box::pin(conclusion::never_registered(&boot, error, signals)).await,
        };
        let (outcome, code) = (end.outcome, end.exit_code);
        let Some(mut again) = Box::pin(conclusion::conclude(&boot, end)).await else { return Ok(code) };
        match wait_for_restart(&boot, &mut restarts, &mut again.signals).await {
            Wait::Over => {
                boot.stages.begin_again();
                (kept, signals, restarted) = (Some(again.kept), again.signals, true);
            }
            Wait::Told(Request::Stop) => {
                conclusion::leave(&boot, &again.kept).await;
                return Ok(code);
            }
            Wait::Told(Request::Drain) => {
                Box::pin(conclusion::drain(&boot, again)).await;
                return Ok(0);
            }
            Wait::TooMany => {
                Box::pin(conclusion::give_up(&boot, again, outcome)).await;
                return Ok(code);
            }
        }
    }
}

/// What came of waiting before the worker is started again.
enum Wait {
    /// It may be.
    Over,
    /// It is not to be.
    Told(Request),
    /// It was started too often.
    TooMany,
}

async fn wait_for_restart(boot: &Boot, restarts: &mut Restarts, signals: &mut StopSignals) -> Wait {
    let Some(pause) = restarts.next(Instant::now(), fastrand::f64()) else {
        tracing::error!("the worker was started too often lately: it is not started again");
        return Wait::TooMany;
    };
    tracing::info!("starting the worker again in {:.1} s", pause.as_secs_f32());
    boot.manager.tell(Word::Status("waiting to start the worker again"));
    tokio::select! {
        () = tokio::time::sleep(pause) => Wait::Over,
        request = signals.next() => {
            tracing::info!("told to {request}: the worker is not started again");
            Wait::Told(request)
        }
    }
}

/// One run of a worker on a registered machine.
async fn work(boot: &Arc<Boot>, kept: Kept, client: Client, log: &LogStream, signals: StopSignals) -> End {
    // A task of its own, so that a panic arrives as an outcome too. There is one thread, so it is the same one.
    let task = Arc::clone(boot).work(kept.clone(), client.clone(), log.clone(), signals);
    let Ok(worked) = tokio::spawn(task).await else {
        // Credentials that were renewed meanwhile are in the cache.
        let kept = boot.cache.load().ok().flatten().unwrap_or(kept);
        let client = client.with_credentials(kept.admitted().credentials.clone());
        return End::of_failure(boot, &RunError::Bug, kept, client);
    };
    match worked {
        Ok(Work::Ended(ended)) => End::of_run(boot, *ended),
        Ok(Work::Nothing) => End::of_nothing(boot, kept, client),
        Ok(Work::ToldTo(Request::Drain)) => End::of_drain(boot, kept, client),
        Ok(Work::ToldTo(Request::Stop)) => End::of_signal(boot, kept, client),
        Err(error) => End::of_failure(boot, &error, kept, client),
    }
}
