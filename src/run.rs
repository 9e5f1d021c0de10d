//! The story: runner config → provider → registration → secrets and layers → files → driver → supervision →
//! retirement. Each step takes what the one before made; a boot that goes on from the cache joins in where the earlier
//! one left off, and one that finds a tombstone there goes on with the retirement.

use crate::boot::{Admission, Boot, Work};
use crate::cache::Kept;
use crate::conclusion::{self, End};
use crate::error::RunError;
use crate::logging::LogStream;
use crate::platform::InitWord;
use crate::provider::metadata_http::MetadataService;
use crate::restart::Restarts;
use crate::supervise::{Request, StopSignals};
use crate::{VERSION, platform, runner_config};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use taskcluster_api::Client;

/// The exit code where a signal ended us before there was a worker: as if SIGTERM had, which it did before we listened.
const TOLD_TO_STOP: u8 = 128 + 15;

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
    let mut signals = StopSignals::listen().map_err(RunError::System)?;
    tracing::info!("start-worker {VERSION}");
    let config = runner_config::load(&options.runner_config)?.require()?;
    runner_config::tighten(&options.runner_config);
    let boot = Arc::new(Boot::of(config, &options)?);
    let _alive = KeepAlive::begin();
    let mut restarts = Restarts::begin(&boot.config.settings.restart, Instant::now());
    let (mut kept, mut restarted) = (None, false);
    loop {
        platform::tell_init(InitWord::Status("learning who this machine is"));
        let mut admitting = std::pin::pin!(boot.admit(kept.take()));
        let admitted = tokio::select! {
            admitted = &mut admitting => admitted,
            // There is no worker to drain, and there need not be one.
            Request::Stop | Request::Drain = signals.next() => {
                tracing::info!("told to stop before there was a worker");
                boot.keep_what_arrives(admitting).await;
                return Ok(TOLD_TO_STOP);
            }
        };
        // From here on the machine is worker-manager's: whatever fails is reported, and a cloud's machine retired.
        let end = match admitted {
            Ok(Admission::Run(kept, client)) => work(&boot, kept, client, &log, signals).await,
            Ok(Admission::Lost(kept, client, error)) => Some(End::of_failure(&boot, &error, kept, client)),
            Ok(Admission::Retiring(tombstone)) => {
                return Ok(conclusion::go_on_retiring(&boot, tombstone, signals).await);
            }
            Err(error) if restarted => {
                tracing::error!("{}", error.report());
                match wait_for_restart(&mut restarts, &mut signals).await {
                    Wait::Over => continue,
                    Wait::Told | Wait::TooMany => return Ok(error.stage().exit_code()),
                }
            }
            Err(error) => return conclusion::never_registered(&boot, error, signals).await,
        };
        let Some(end) = end else {
            tracing::info!("told to stop before the worker was started: leaving the machine as it is");
            return Ok(TOLD_TO_STOP);
        };
        let code = end.exit_code;
        let Some(mut again) = conclusion::conclude(&boot, end).await else { return Ok(code) };
        match wait_for_restart(&mut restarts, &mut again.signals).await {
            Wait::Over => (kept, signals, restarted) = (Some(again.kept), again.signals, true),
            Wait::Told => return Ok(code),
            Wait::TooMany => {
                conclusion::give_up(&boot, again).await;
                return Ok(code);
            }
        }
    }
}

/// What came of waiting before the worker is started again.
enum Wait {
    /// It may be.
    Over,
    /// A signal came.
    Told,
    /// It was started too often.
    TooMany,
}

async fn wait_for_restart(restarts: &mut Restarts, signals: &mut StopSignals) -> Wait {
    let Some(pause) = restarts.next(Instant::now(), fastrand::f64()) else {
        tracing::error!("the worker was started too often lately: it is not started again");
        return Wait::TooMany;
    };
    tracing::info!("starting the worker again in {:.1} s", pause.as_secs_f32());
    platform::tell_init(InitWord::Status("waiting to start the worker again"));
    tokio::select! {
        () = tokio::time::sleep(pause) => Wait::Over,
        () = signals.told_to_stop() => {
            tracing::info!("told to stop: the worker is not started again");
            Wait::Told
        }
    }
}

/// One run of a worker on a registered machine; none where a signal came before the worker.
async fn work(boot: &Arc<Boot>, kept: Kept, client: Client, log: &LogStream, signals: StopSignals) -> Option<End> {
    // A task of its own, so that a panic arrives as an outcome too. There is one thread, so it is the same one.
    let task = Arc::clone(boot).work(kept.clone(), client.clone(), log.clone(), signals);
    let Ok(worked) = tokio::spawn(task).await else {
        // Credentials that were renewed meanwhile are in the cache.
        let kept = boot.cache.load().ok().flatten().unwrap_or(kept);
        let client = client.with_credentials(kept.admitted().credentials.clone());
        return Some(End::of_failure(boot, &RunError::Bug, kept, client));
    };
    match worked {
        Ok(Work::Ended(ended)) => Some(End::of_run(boot, *ended)),
        Ok(Work::Nothing) => Some(End::of_nothing(boot, kept, client)),
        Ok(Work::ToldTo(Request::Drain)) => Some(End::of_drain(boot, kept, client)),
        Ok(Work::ToldTo(Request::Stop)) => None,
        Err(error) => Some(End::of_failure(boot, &error, kept, client)),
    }
}

/// Tells the init system that we are alive, for as long as it lives, where the init system asks for that.
struct KeepAlive(Option<tokio::task::JoinHandle<()>>);

impl KeepAlive {
    fn begin() -> Self {
        Self(platform::watchdog_interval().map(|interval| {
            tokio::spawn(async move {
                loop {
                    platform::tell_init(InitWord::Alive);
                    tokio::time::sleep(interval).await;
                }
            })
        }))
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
        platform::tell_init(InitWord::Stopping);
    }
}
