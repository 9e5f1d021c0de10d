//! What follows a run: the report of what went wrong, and what becomes of the machine.

use crate::boot::Boot;
use crate::cache::{Kept, Tombstone};
use crate::error::{Chain, RunError, Stage};
use crate::json::object;
use crate::outcome::{Place, Retirement, RunOutcome};
use crate::platform::Word;
use crate::provider::Recognition;
use crate::report::{LAST_LINES, Redactor};
use crate::run_state::Admitted;
use crate::runner_config::settings::OnBootFailure;
use crate::supervise::{Ended, StopSignals};
use crate::{VERSION, platform, retirement};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use std::time::Duration;
use taskcluster_api::{Client, ReportWorkerError};

/// How long the metadata service may keep a machine from being removed.
const RECOGNITION: Duration = Duration::from_secs(2);

/// The exit code where a signal ended us before there was a worker: as if SIGTERM had, which it did before we listened.
pub const TOLD_TO_STOP: u8 = 128 + 15;

/// How much of a worker's line a report shows, in characters.
const LINE: usize = 400;

/// A run that is over, whatever came of it.
pub struct End {
    /// What it came to.
    pub outcome: RunOutcome,
    /// What tells of that.
    pub exit_code: u8,
    report: Option<ReportWorkerError>,
    place: Place,
    /// Whether a signal told us to end.
    signalled: bool,
    /// What is left to whatever starts here next, for init leaves no time for it: to have the machine removed, or to shut it down.
    left_over: Option<LeftOver>,
    /// Whether the worker asked for the machine to be retired.
    asks_for_retirement: bool,
    /// Whether the machine has been retired already.
    retired: bool,
    /// What the cloud may be told to go on with.
    to_acknowledge: Vec<String>,
    /// What another run would go on with.
    kept: Kept,
    client: Client,
    redactor: Redactor,
    signals: Option<StopSignals>,
}

/// What the next start does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOver {
    Removal,
    Shutdown,
}

/// What another run of the worker begins with.
pub struct Again {
    /// The registered machine.
    pub kept: Kept,
    /// Requests to end.
    pub signals: StopSignals,
}

impl End {
    /// That of a worker.
    pub fn of_run(boot: &Boot, ended: Ended) -> Self {
        let Ended {
            facts,
            run,
            habits,
            client,
            redactor,
            last_lines,
            to_acknowledge,
            asks_for_retirement,
            retired,
            signals,
        } = ended;
        let outcome = RunOutcome::of(facts);
        let (report, exit_code) = if outcome == RunOutcome::OurFailure {
            tracing::error!("{}", RunError::Supervision.report());
            (Some(failure_of(boot, &RunError::Supervision)), Stage::Supervision.exit_code())
        } else {
            let code = facts.exit.exit_code();
            let failure = worker_failure(boot, outcome, facts.exit.full_code(), (&last_lines, &redactor));
            (failure, code)
        };
        Self {
            outcome,
            exit_code,
            report,
            place: place(boot, habits.leaves_reboots_to_others),
            signalled: facts.signalled,
            left_over: None,
            asks_for_retirement,
            retired,
            // Where we end for another reason, the cloud's own time stands.
            to_acknowledge: if matches!(outcome, RunOutcome::Interrupted(_)) { to_acknowledge } else { Vec::new() },
            kept: Kept::Configured(run),
            client,
            redactor,
            signals: Some(signals),
        }
    }

    /// That of a driver that had nothing to run.
    pub fn of_nothing(boot: &Boot, kept: Kept, client: Client) -> Self {
        Self {
            outcome: RunOutcome::Finished,
            exit_code: 0,
            report: None,
            place: place(boot, false),
            signalled: false,
            left_over: None,
            asks_for_retirement: false,
            retired: false,
            to_acknowledge: Vec::new(),
            redactor: Redactor::of_machine(kept.admitted()),
            kept,
            client,
            signals: None,
        }
    }

    /// That of a machine that was to be drained before it had a worker.
    pub fn of_drain(boot: &Boot, kept: Kept, client: Client) -> Self {
        Self { outcome: RunOutcome::Drained, ..Self::of_nothing(boot, kept, client) }
    }

    /// That of a machine that a signal came to before it had a worker.
    pub fn of_signal(boot: &Boot, kept: Kept, client: Client) -> Self {
        tracing::info!("told to stop before the worker was started");
        let nothing = Self::of_nothing(boot, kept, client);
        Self { outcome: RunOutcome::Signalled, exit_code: TOLD_TO_STOP, signalled: true, ..nothing }
    }

    /// That of a failure of ours on a registered machine.
    pub fn of_failure(boot: &Boot, error: &RunError, kept: Kept, client: Client) -> Self {
        // First of all: what follows takes minutes, and may end the machine.
        tracing::error!("{}", error.report());
        Self {
            outcome: RunOutcome::of_failure(error.stage()),
            exit_code: error.stage().exit_code(),
            report: Some(failure_of(boot, error)),
            ..Self::of_nothing(boot, kept, client)
        }
    }
}

fn place(boot: &Boot, reboots_are_others: bool) -> Place {
    Place { is_cloud: boot.is_cloud(), survives_reboot: boot.cache.holds_run(), reboots_are_others }
}

/// Does what follows a run. Another run, where there is to be one. A signal that comes meanwhile, as when init stops
/// everything, ends us; what a tombstone says is gone on with at the next start.
pub async fn conclude(boot: &Boot, mut end: End) -> Option<Again> {
    let retirement = match end.outcome.retirement(end.place, &boot.config.settings) {
        // It comes back for nothing.
        Retirement::Reboot if end.asks_for_retirement => Retirement::RemoveWorker,
        usual => usual,
    };
    // Init ends everything, and may be in the midst of a reboot; but not where it only ends a unit that is out of memory.
    let ends_all = end.signalled && end.outcome != RunOutcome::OutOfMemory;
    let retirement = if ends_all || (end.signalled && retirement == Retirement::RestartWorker) {
        end.left_over = left_over(end.place, end.outcome, retirement);
        Retirement::LeaveRunning
    } else {
        retirement
    };
    let signals = carry_out(boot, &mut end, retirement).await?;
    (retirement == Retirement::RestartWorker && !end.retired).then_some(Again { kept: end.kept, signals })
}

/// What a signal leaves to the next start of what was to become of a cloud's machine.
const fn left_over(place: Place, outcome: RunOutcome, retirement: Retirement) -> Option<LeftOver> {
    match retirement {
        _ if !place.is_cloud => None,
        Retirement::RemoveWorker => Some(LeftOver::Removal),
        Retirement::ShutDownHost => Some(LeftOver::Shutdown),
        // Nothing can go on here; but where the runner config has a machine left for somebody to look at, it is.
        Retirement::LeaveRunning if matches!(outcome, RunOutcome::Signalled) && place.is_lost_by_reboot() => {
            Some(LeftOver::Removal)
        }
        Retirement::RestartWorker if place.is_lost_by_reboot() => Some(LeftOver::Removal),
        // A reboot is under way.
        Retirement::Reboot | Retirement::LeaveRunning | Retirement::RestartWorker => None,
    }
}

/// Leaves a registered machine at a signal, as it is: what starts here next retires it where it could not go on.
pub async fn leave(boot: &Boot, kept: &Kept) {
    if place(boot, false).is_lost_by_reboot() {
        tracing::info!("the next start retires this machine: it registers only once, and its run is not kept");
        boot.cache.keep(&Kept::Retiring(Tombstone::of(kept.admitted(), true))).await;
    }
}

/// What follows a drain that comes while the worker waits to be started again.
pub async fn drain(boot: &Boot, again: Again) {
    if let Ok(client) = Boot::client_of(again.kept.admitted()) {
        let mut end = End { signals: Some(again.signals), ..End::of_drain(boot, again.kept, client) };
        let retirement = match end.outcome.retirement(end.place, &boot.config.settings) {
            Retirement::RestartWorker => Retirement::LeaveRunning,
            usual => usual,
        };
        carry_out(boot, &mut end, retirement).await;
    }
}

/// Retires a cloud's machine whose worker was to be started again, but too often.
pub async fn give_up(boot: &Boot, again: Again, outcome: RunOutcome) {
    if let (true, Ok(client)) = (boot.is_cloud(), Boot::client_of(again.kept.admitted())) {
        let mut end = End { outcome, signals: Some(again.signals), ..End::of_nothing(boot, again.kept, client) };
        carry_out(boot, &mut end, Retirement::RemoveWorker).await;
    }
}

/// Does that, unless a signal comes meanwhile.
async fn carry_out(boot: &Boot, end: &mut End, retirement: Retirement) -> Option<StopSignals> {
    tracing::info!("the run is over: {}; {}", end.outcome, what_follows(retirement, boot, end));
    boot.manager.tell(Word::Status(&format!("the run is over: {}", end.outcome)));
    let signals = end.signals.take().or_else(|| boot.manager.signals().ok());
    let Some(mut signals) = signals else {
        follow(boot, end, retirement).await;
        return None;
    };
    tokio::select! {
        () = follow(boot, end, retirement) => Some(signals),
        () = signals.told_to_stop() => {
            tracing::info!("told to stop: leaving the machine as it is");
            if retirement == Retirement::RestartWorker {
                leave(boot, &end.kept).await;
            }
            None
        }
    }
}

async fn follow(boot: &Boot, end: &End, retirement: Retirement) {
    let report = async {
        if let Some(report) = end.report.clone() {
            let worker = end.kept.admitted().identity.worker();
            boot.reporter.send(&end.client, &worker, &end.redactor, report).await;
        }
    };
    match retirement {
        Retirement::RemoveWorker => {
            bury(boot, end, true).await;
            // None waits for another.
            tokio::join!(report, remove(boot, end), acknowledge(boot, end));
        }
        Retirement::ShutDownHost => {
            bury(boot, end, false).await;
            report.await;
            acknowledge(boot, end).await;
            shut_down(boot, end.kept.admitted()).await;
        }
        Retirement::Reboot => {
            report.await;
            acknowledge(boot, end).await;
            let grace = boot.config.settings.retirement.reboot_grace;
            tracing::info!("waiting {} s for the machine to be rebooted", grace.as_secs_f32());
            tokio::time::sleep(grace).await;
            if !retirement::reboot().await && boot.is_cloud() {
                bury(boot, end, true).await;
                remove(boot, end).await;
            }
        }
        Retirement::LeaveRunning | Retirement::RestartWorker => {
            if let Some(left_over) = end.left_over {
                bury(boot, end, left_over == LeftOver::Removal).await;
            }
            report.await;
            acknowledge(boot, end).await;
        }
    }
}

async fn remove(boot: &Boot, end: &End) {
    let settings = &boot.config.settings.retirement;
    let worker = end.kept.admitted().identity.worker();
    let removed = end.retired || (is_ours(boot, end).await && retirement::remove(&end.client, &worker, settings).await);
    if !removed {
        shut_down(boot, end.kept.admitted()).await;
    }
}

async fn shut_down(boot: &Boot, admitted: &Admitted) {
    retirement::shut_down(&boot.config.settings.retirement, &*boot.provider, Some(&admitted.identity)).await;
}

/// Whether it is this machine that would be removed: an image may have been made from the disk of another one, and the
/// metadata service may have been silent when we started.
async fn is_ours(boot: &Boot, end: &End) -> bool {
    let asked = boot.provider.recognise(&end.kept.admitted().identity);
    match tokio::time::timeout(RECOGNITION, asked).await {
        Ok(Recognition::Other(us)) => {
            tracing::error!("this machine is {us}, and ran as {}: not removing that", end.kept.admitted().identity);
            false
        }
        Ok(Recognition::Ours | Recognition::Unknown) | Err(_) => true,
    }
}

/// From here on whatever starts on a cloud's machine goes on with its retirement. A machine of one's own comes back
/// when its owner wants it.
async fn bury(boot: &Boot, end: &End, remove: bool) {
    if boot.is_cloud() {
        boot.cache.keep(&Kept::Retiring(Tombstone::of(end.kept.admitted(), remove))).await;
    }
}

async fn acknowledge(boot: &Boot, end: &End) {
    for event in &end.to_acknowledge {
        boot.provider.acknowledge(event).await;
    }
}

fn what_follows(retirement: Retirement, boot: &Boot, end: &End) -> String {
    match retirement {
        Retirement::RemoveWorker if end.retired => "this machine is being removed".to_owned(),
        Retirement::RemoveWorker => "this machine is to be removed".to_owned(),
        Retirement::ShutDownHost => "this machine is shut down".to_owned(),
        Retirement::Reboot => {
            let grace = boot.config.settings.retirement.reboot_grace;
            format!("this machine is rebooted, at the latest in {} s", grace.as_secs_f32())
        }
        Retirement::LeaveRunning if end.left_over.is_some() => {
            "this machine is left as it is, and the next start retires it".to_owned()
        }
        Retirement::LeaveRunning => "this machine is left as it is".to_owned(),
        Retirement::RestartWorker => "the worker is started again".to_owned(),
    }
}

/// A machine that found its own tombstone: no worker runs here any more, and sooner or later the machine is gone. The
/// answer is the exit code.
pub async fn go_on_retiring(boot: &Boot, tombstone: Tombstone, mut signals: StopSignals) -> u8 {
    let Tombstone { admitted, since, remove } = tombstone;
    tracing::warn!("{}: this machine has been retiring since {since:.0}; no worker is started", admitted.identity);
    boot.manager.tell(Word::Status("retiring this machine"));
    let retire = async {
        let settings = &boot.config.settings.retirement;
        if remove && age(since) < settings.shutdown_after && removes(boot, &admitted).await {
            let left = settings.shutdown_after.saturating_sub(age(since));
            tracing::info!("if this machine is still here in {} s it is shut down", left.as_secs());
            tokio::time::sleep(left).await;
        }
        shut_down(boot, &admitted).await;
    };
    tokio::select! {
        () = retire => 0,
        () = signals.told_to_stop() => {
            tracing::info!("told to stop: the next start goes on with the retirement");
            0
        }
    }
}

async fn removes(boot: &Boot, admitted: &Admitted) -> bool {
    match Boot::client_of(admitted) {
        Ok(client) => retirement::remove(&client, &admitted.identity.worker(), &boot.config.settings.retirement).await,
        Err(error) => {
            tracing::error!("cannot ask worker-manager: {}", Chain(&error));
            false
        }
    }
}

/// How long ago that was; no time at all where the clock was set back to before it.
fn age(since: Timestamp) -> Duration {
    let age: SignedDuration = Timestamp::now().duration_since(since);
    Duration::try_from(age).unwrap_or_default()
}

/// What becomes of a machine that could not be registered: there is nothing to remove, and whoever started us tries
/// again.
///
/// # Errors
/// The failure, where nothing else is done about it.
pub async fn never_registered(boot: &Boot, error: RunError, mut signals: StopSignals) -> Result<u8, RunError> {
    match boot.config.settings.retirement.on_boot_failure {
        OnBootFailure::Leave => Err(error),
        OnBootFailure::Shutdown => {
            tracing::error!("{}", error.report());
            tokio::select! {
                () = retirement::shut_down(&boot.config.settings.retirement, &*boot.provider, None) => {}
                () = signals.told_to_stop() => tracing::info!("told to stop: leaving the machine as it is"),
            }
            Ok(error.stage().exit_code())
        }
    }
}

fn worker_failure(
    boot: &Boot,
    outcome: RunOutcome,
    exit_code: u32,
    (last_lines, redactor): (&[String], &Redactor),
) -> Option<ReportWorkerError> {
    let (kind, title) = outcome.report()?;
    let mut description = format!("{title}. The machine's log says more.");
    if !last_lines.is_empty() {
        description = format!("{title}. {LAST_LINES}\n\n");
        let room = ReportWorkerError::MAX_DESCRIPTION.saturating_sub(description.chars().count());
        description += &end_of(last_lines, redactor, room).join("\n");
    }
    let extra = extra(boot, "worker", Some(exit_code));
    Some(ReportWorkerError { kind: kind.to_owned(), title, description, extra })
}

/// The last of these lines for which there is room, in characters, without secrets.
fn end_of(lines: &[String], redactor: &Redactor, mut room: usize) -> Vec<String> {
    let shown = |line: &String| redactor.text(line).chars().take(LINE).collect::<String>();
    let mut last: Vec<String> = Vec::new();
    for line in lines.iter().rev().map(shown) {
        // And the newline.
        let Some(left) = room.checked_sub(line.chars().count() + 1) else { break };
        room = left;
        last.insert(0, line);
    }
    last
}

fn failure_of(boot: &Boot, error: &RunError) -> ReportWorkerError {
    let stage = error.stage();
    ReportWorkerError {
        kind: format!("start-worker-{}", stage.name()),
        title: format!("start-worker failed: {}", stage.meaning()),
        description: error.public_report(),
        extra: extra(boot, stage.name(), Some(stage.exit_code().into())),
    }
}

/// What every report of ours says beside its text.
pub fn extra(boot: &Boot, stage: &str, exit_code: Option<u32>) -> Map<String, Value> {
    object([
        ("startWorkerVersion", json!(VERSION)),
        ("provider", json!(boot.config.provider.name())),
        ("stage", json!(stage)),
        ("exitCode", json!(exit_code)),
        ("uptimeSeconds", json!(platform::up_time().map(|up| up.as_secs()))),
    ])
}
