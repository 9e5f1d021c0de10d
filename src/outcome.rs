//! What a run came to, and what that means for the machine. Pure.

use crate::driver::process::{ExitCode, WorkerExit};
use crate::error::Stage;
use crate::provider::NoticeKind;
use crate::runner_config::settings::{RestartPolicy, Settings};
use std::fmt;

/// SIGKILL, with which the kernel ends a process when memory runs out.
const SIGKILL: i32 = 9;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// The worker is done, or there was nothing to run.
    Finished,
    /// The worker was idle for long enough: 68.
    Idle,
    /// The worker wants, and makes, a reboot: 67.
    RebootRequired,
    /// Somebody other than us told the worker to end: 70 worker-manager, 71 an interruption, 72 gracefully.
    ToldToStop(i32),
    /// A signal told us to end: init stops or reboots the machine, or an operator wants the worker gone.
    Signalled,
    /// An operator asked for a drain.
    Drained,
    /// A notice said that the machine goes away.
    Interrupted(NoticeKind),
    /// The worker's credentials ended and could not be replaced.
    CredentialsEnded,
    /// The worker failed.
    WorkerFailed(i32),
    /// The worker said nothing for too long and was stopped.
    Wedged,
    /// A signal ended the worker that we didn't send.
    Killed(i32),
    /// Memory ran out, and that ended the worker or its unit.
    OutOfMemory,
    /// The worker could not be started.
    CouldNotStart,
    /// We could hear the worker no more.
    LostContact,
    /// We failed.
    OurFailure,
}

/// What becomes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// worker-manager is asked to remove it, and where that fails it is shut down.
    RemoveWorker,
    /// It is shut down.
    ShutDownHost,
    /// It is rebooted.
    Reboot,
    /// It is left alone.
    LeaveRunning,
    /// The worker is started again.
    RestartWorker,
}

/// Outcomes that a runner config can give another retirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the outcome of that name")]
pub enum OutcomeClass {
    Finished,
    Idle,
    Reboot,
    ToldToStop,
    Drained,
    Interrupted,
    CredentialsEnd,
    Failure,
    Killed,
    OutOfMemory,
    StartFailure,
    LostContact,
    OwnFailure,
}

/// Why we asked the worker to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// SIGTERM or SIGINT.
    Signal,
    /// SIGUSR1.
    Drain,
    /// A notice.
    Notice(NoticeKind),
    /// Its credentials end.
    Credentials,
    /// It says nothing.
    Silence,
    /// We can hear it no more.
    LostContact,
    /// A part of us failed.
    PartLost,
}

/// What is known of a run that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunFacts {
    /// How the worker ended.
    pub exit: WorkerExit,
    /// Why we first asked it to, if we did.
    pub asked: Option<StopCause>,
    /// Whether a signal asked us to end, before or after the worker's end.
    pub signalled: bool,
    /// Whether memory ran out just before the worker's end or that signal.
    pub out_of_memory: bool,
}

/// Where a run was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whether a cloud made the machine.
    pub is_cloud: bool,
    /// Whether a reboot goes on with the run: a cloud machine registers only once.
    pub survives_reboot: bool,
    /// Whether somebody other than the worker and us reboots the machine.
    pub reboots_are_others: bool,
}

impl Place {
    /// Whether a reboot ends the machine's use, as any other end of ours does: it registers only once.
    pub const fn is_lost_by_reboot(self) -> bool {
        self.is_cloud && !self.survives_reboot
    }
}

impl StopCause {
    /// Whether it still holds where the worker makes a reboot instead of ending: generic-worker does between two tasks, before it
    /// looks whether it is to end.
    const fn outlives_reboot(self) -> bool {
        match self {
            Self::Drain | Self::Notice(_) | Self::Credentials | Self::Silence | Self::LostContact => true,
            Self::Signal | Self::PartLost => false,
        }
    }
}

impl RunOutcome {
    /// Reads generic-worker's exit codes; the other workers use 0 and others.
    pub const fn of(facts: RunFacts) -> Self {
        let RunFacts { exit, asked, signalled, out_of_memory } = facts;
        // The signal is init's then, in the midst of the reboot.
        let reboots = matches!((exit, asked), (WorkerExit::Code(67), Some(cause)) if cause.outlives_reboot());
        match (exit, asked) {
            (_, Some(StopCause::PartLost)) => Self::OurFailure,
            // systemd's OOMPolicy=stop is no reboot; but a worker that reboots says so.
            (WorkerExit::Code(code), _) if signalled && out_of_memory && code != 67 => Self::OutOfMemory,
            (WorkerExit::Signal(_), _) if signalled && out_of_memory => Self::OutOfMemory,
            (_, _) if signalled && !reboots => Self::Signalled,
            (_, Some(StopCause::Signal)) => Self::Signalled,
            (_, Some(StopCause::LostContact)) => Self::LostContact,
            (_, Some(StopCause::Silence)) => Self::Wedged,
            (_, Some(StopCause::Credentials)) => Self::CredentialsEnded,
            (_, Some(StopCause::Notice(kind))) => Self::Interrupted(kind),
            (_, Some(StopCause::Drain)) => Self::Drained,
            (WorkerExit::Code(67), None) => Self::RebootRequired,
            (WorkerExit::Code(0), None) => Self::Finished,
            (WorkerExit::Code(68), None) => Self::Idle,
            (WorkerExit::Code(code @ 70..=72), None) => Self::ToldToStop(code),
            (WorkerExit::Signal(SIGKILL), None) if out_of_memory => Self::OutOfMemory,
            (WorkerExit::Code(code), None) => Self::WorkerFailed(code),
            (WorkerExit::Signal(signal), None) => Self::Killed(signal),
        }
    }

    /// The outcome of a failure of ours on a registered machine.
    pub const fn of_failure(stage: Stage) -> Self {
        match stage {
            Stage::Preflight | Stage::Start => Self::CouldNotStart,
            Stage::Expired => Self::CredentialsEnded,
            Stage::CommandLine
            | Stage::RunnerConfig
            | Stage::Provider
            | Stage::Reclaimed
            | Stage::Registration
            | Stage::Secrets
            | Stage::Configuration
            | Stage::Files
            | Stage::Supervision
            | Stage::Bug
            | Stage::Fleet
            | Stage::Service => Self::OurFailure,
        }
    }

    /// What becomes of the machine, as the runner config has it.
    pub fn retirement(self, place: Place, settings: &Settings) -> Retirement {
        let chosen = self.class().and_then(|class| settings.retirement.choices.get(&class));
        match chosen.copied().unwrap_or_else(|| self.usual_retirement(place, settings.restart.policy)) {
            Retirement::Reboot if place.is_lost_by_reboot() => Retirement::RemoveWorker,
            retirement => retirement,
        }
    }

    /// What becomes of the machine. One that init is stopping or rebooting stays as it is, whatever the worker said;
    /// one that a cloud made is never left idle; one that none made is its owner's.
    const fn usual_retirement(self, place: Place, restart: RestartPolicy) -> Retirement {
        match self {
            Self::Signalled => Retirement::LeaveRunning,
            Self::RebootRequired if place.reboots_are_others && !place.is_lost_by_reboot() => Retirement::LeaveRunning,
            // Where that can't come back, `retirement` makes a removal of it.
            Self::RebootRequired | Self::Interrupted(NoticeKind::Reboot) => Retirement::Reboot,
            Self::Finished
            | Self::Idle
            | Self::ToldToStop(_)
            | Self::Drained
            | Self::Interrupted(_)
            | Self::CredentialsEnded
            | Self::WorkerFailed(_)
            | Self::Wedged
            | Self::Killed(_)
            | Self::OutOfMemory
            | Self::CouldNotStart
            | Self::LostContact
            | Self::OurFailure => {
                if place.is_cloud {
                    Retirement::RemoveWorker
                } else if self.restarts(restart) {
                    Retirement::RestartWorker
                } else {
                    Retirement::LeaveRunning
                }
            }
        }
    }

    const fn restarts(self, policy: RestartPolicy) -> bool {
        match policy {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => self.is_failure(),
            // But somebody wanted these to end.
            RestartPolicy::Always => !matches!(self, Self::Signalled | Self::Drained),
        }
    }

    /// Whether something went wrong.
    pub const fn is_failure(self) -> bool {
        match self {
            Self::Finished
            | Self::Idle
            | Self::RebootRequired
            | Self::ToldToStop(_)
            | Self::Signalled
            | Self::Drained
            | Self::Interrupted(_) => false,
            Self::CredentialsEnded
            | Self::WorkerFailed(_)
            | Self::Wedged
            | Self::Killed(_)
            | Self::OutOfMemory
            | Self::CouldNotStart
            | Self::LostContact
            | Self::OurFailure => true,
        }
    }

    /// The key that can give it another retirement; what a signal asks for is not up for choice.
    pub const fn class(self) -> Option<OutcomeClass> {
        Some(match self {
            Self::Signalled => return None,
            Self::Finished => OutcomeClass::Finished,
            Self::Idle => OutcomeClass::Idle,
            Self::RebootRequired => OutcomeClass::Reboot,
            Self::ToldToStop(_) => OutcomeClass::ToldToStop,
            Self::Drained => OutcomeClass::Drained,
            Self::Interrupted(_) => OutcomeClass::Interrupted,
            Self::CredentialsEnded => OutcomeClass::CredentialsEnd,
            Self::WorkerFailed(_) | Self::Wedged => OutcomeClass::Failure,
            Self::Killed(_) => OutcomeClass::Killed,
            Self::OutOfMemory => OutcomeClass::OutOfMemory,
            Self::CouldNotStart => OutcomeClass::StartFailure,
            Self::LostContact => OutcomeClass::LostContact,
            Self::OurFailure => OutcomeClass::OwnFailure,
        })
    }

    /// What worker-manager is told of a worker's end, as kind and title; nothing where nothing went wrong, or where
    /// it has been told when it happened.
    pub fn report(self) -> Option<(&'static str, String)> {
        match self {
            Self::Finished
            | Self::Idle
            | Self::RebootRequired
            | Self::ToldToStop(_)
            | Self::Signalled
            | Self::Drained
            | Self::Interrupted(_)
            | Self::Wedged
            | Self::CouldNotStart
            | Self::OurFailure => None,
            Self::CredentialsEnded => Some((
                "credentials-ended",
                "The worker was stopped, for its credentials could not be renewed".to_owned(),
            )),
            Self::WorkerFailed(code) => {
                Some(("worker-failed", format!("The worker ended with exit code {}", ExitCode(code))))
            }
            Self::Killed(signal) => Some(("worker-killed", format!("The worker was ended by signal {signal}"))),
            Self::OutOfMemory => Some(("out-of-memory", "The worker's machine ran out of memory".to_owned())),
            Self::LostContact => Some(("lost-contact", "The worker could be heard no more and was stopped".to_owned())),
        }
    }
}

/// For the log: `outcome: the worker failed (exit code 1)`.
impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("the worker is done"),
            Self::Idle => f.write_str("the worker was idle"),
            Self::RebootRequired => f.write_str("the worker wants a reboot"),
            Self::ToldToStop(code) => write!(f, "the worker was told to stop (exit code {code})"),
            Self::Signalled => f.write_str("a signal told start-worker to stop"),
            Self::Drained => f.write_str("the worker was drained"),
            Self::Interrupted(kind) => write!(f, "interrupted ({kind})"),
            Self::CredentialsEnded => f.write_str("the worker's credentials ended"),
            Self::WorkerFailed(code) => write!(f, "the worker failed (exit code {})", ExitCode(*code)),
            Self::Wedged => f.write_str("the worker said nothing for too long"),
            Self::Killed(signal) => write!(f, "signal {signal} ended the worker"),
            Self::OutOfMemory => f.write_str("memory ran out"),
            Self::CouldNotStart => f.write_str("the worker could not be started"),
            Self::LostContact => f.write_str("contact with the worker was lost"),
            Self::OurFailure => f.write_str("start-worker failed"),
        }
    }
}

impl Retirement {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::RemoveWorker, Self::ShutDownHost, Self::Reboot, Self::LeaveRunning, Self::RestartWorker];

    /// The word in a runner config.
    pub const fn word(self) -> &'static str {
        match self {
            Self::RemoveWorker => "remove",
            Self::ShutDownHost => "shutdown",
            Self::Reboot => "reboot",
            Self::LeaveRunning => "leave",
            Self::RestartWorker => "restart",
        }
    }
}

impl OutcomeClass {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Finished,
        Self::Idle,
        Self::Reboot,
        Self::ToldToStop,
        Self::Drained,
        Self::Interrupted,
        Self::CredentialsEnd,
        Self::Failure,
        Self::Killed,
        Self::OutOfMemory,
        Self::StartFailure,
        Self::LostContact,
        Self::OwnFailure,
    ];

    /// The key under `retirement`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Finished => "onFinished",
            Self::Idle => "onIdle",
            Self::Reboot => "onReboot",
            Self::ToldToStop => "onToldToStop",
            Self::Drained => "onDrained",
            Self::Interrupted => "onInterrupted",
            Self::CredentialsEnd => "onCredentialsEnd",
            Self::Failure => "onFailure",
            Self::Killed => "onKilled",
            Self::OutOfMemory => "onOutOfMemory",
            Self::StartFailure => "onStartFailure",
            Self::LostContact => "onLostContact",
            Self::OwnFailure => "onOwnFailure",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const CLOUD: Place = Place { is_cloud: true, survives_reboot: true, reboots_are_others: false };
    const HOST: Place = Place { is_cloud: false, survives_reboot: false, reboots_are_others: false };

    fn facts(exit: WorkerExit, asked: Option<StopCause>) -> RunFacts {
        RunFacts { exit, asked, signalled: asked == Some(StopCause::Signal), out_of_memory: false }
    }

    #[test]
    fn exit_codes_mean_what_generic_worker_means_by_them() {
        let code = WorkerExit::Code;
        let signal = WorkerExit::Signal;
        let reclaim = StopCause::Notice(NoticeKind::Reclaim);
        let table = [
            (code(0), None, RunOutcome::Finished, false),
            (code(1), None, RunOutcome::WorkerFailed(1), true),
            (code(1), Some(reclaim), RunOutcome::Interrupted(NoticeKind::Reclaim), false),
            (code(0), Some(reclaim), RunOutcome::Interrupted(NoticeKind::Reclaim), false),
            (code(0), Some(StopCause::Signal), RunOutcome::Signalled, false),
            (code(1), Some(StopCause::Signal), RunOutcome::Signalled, false),
            (code(72), Some(StopCause::Drain), RunOutcome::Drained, false),
            (code(67), Some(StopCause::Drain), RunOutcome::Drained, false),
            (code(67), Some(reclaim), RunOutcome::Interrupted(NoticeKind::Reclaim), false),
            (code(71), Some(StopCause::Silence), RunOutcome::Wedged, false),
            (code(71), Some(StopCause::Credentials), RunOutcome::CredentialsEnded, true),
            (signal(15), Some(StopCause::PartLost), RunOutcome::OurFailure, false),
            (signal(15), Some(StopCause::LostContact), RunOutcome::LostContact, true),
            (code(64), None, RunOutcome::WorkerFailed(64), true),
            (code(65), None, RunOutcome::WorkerFailed(65), true),
            (code(67), None, RunOutcome::RebootRequired, false),
            (code(68), None, RunOutcome::Idle, false),
            (code(69), None, RunOutcome::WorkerFailed(69), true),
            (code(70), None, RunOutcome::ToldToStop(70), false),
            (code(72), None, RunOutcome::ToldToStop(72), false),
            (code(84), None, RunOutcome::WorkerFailed(84), true),
            (signal(9), None, RunOutcome::Killed(9), true),
            (signal(15), None, RunOutcome::Killed(15), true),
        ];
        for (exit, asked, expected, reported) in table {
            let outcome = RunOutcome::of(facts(exit, asked));
            assert_eq!((outcome, outcome.report().is_some()), (expected, reported), "{exit} {asked:?}");
        }
    }

    #[test]
    fn a_reboot_that_the_worker_makes_does_not_make_forget_why_it_was_to_end() {
        let of = |exit, asked| {
            RunOutcome::of(RunFacts { exit: WorkerExit::Code(exit), asked, signalled: true, out_of_memory: false })
        };
        assert_eq!(of(67, Some(StopCause::Drain)), RunOutcome::Drained);
        let reclaim = StopCause::Notice(NoticeKind::Reclaim);
        assert_eq!(of(67, Some(reclaim)), RunOutcome::Interrupted(NoticeKind::Reclaim));
        // Whoever lost patience with a drain wants the worker gone, and the machine left alone.
        assert_eq!(of(72, Some(StopCause::Drain)), RunOutcome::Signalled);
        assert_eq!(of(67, Some(StopCause::Signal)), RunOutcome::Signalled);
        assert_eq!(of(67, None), RunOutcome::Signalled);
    }

    #[test]
    fn memory_that_ran_out_is_told_from_a_reboot() {
        let of = |exit, asked, signalled| RunOutcome::of(RunFacts { exit, asked, signalled, out_of_memory: true });
        let (code, kill) = (WorkerExit::Code, WorkerExit::Signal(9));
        assert_eq!(of(kill, None, false), RunOutcome::OutOfMemory);
        assert_eq!(of(code(71), Some(StopCause::Signal), true), RunOutcome::OutOfMemory);
        // A task was out of memory, and the worker reboots after it.
        assert_eq!(of(code(67), None, true), RunOutcome::Signalled);
        assert_eq!(of(code(0), None, false), RunOutcome::Finished);
    }

    #[test]
    fn a_cloud_machine_is_retired_whatever_the_outcome_but_a_reboot_or_a_signal() {
        let settings = Settings::default();
        for outcome in every_outcome() {
            let expected = match outcome {
                RunOutcome::Signalled => Retirement::LeaveRunning,
                RunOutcome::RebootRequired | RunOutcome::Interrupted(NoticeKind::Reboot) => Retirement::Reboot,
                _ => Retirement::RemoveWorker,
            };
            assert_eq!(outcome.retirement(CLOUD, &settings), expected, "{outcome}");
            let lost = Place { survives_reboot: false, ..CLOUD };
            let expected = if outcome == RunOutcome::Signalled { expected } else { Retirement::RemoveWorker };
            assert_eq!(outcome.retirement(lost, &settings), expected, "{outcome}");
        }
        let others = Place { reboots_are_others: true, ..CLOUD };
        assert_eq!(RunOutcome::RebootRequired.retirement(others, &settings), Retirement::LeaveRunning);
        let lost = Place { survives_reboot: false, ..others };
        assert_eq!(RunOutcome::RebootRequired.retirement(lost, &settings), Retirement::RemoveWorker);
        let mut reboot = Settings::default();
        reboot.retirement.choices.insert(OutcomeClass::Failure, Retirement::Reboot);
        assert_eq!(RunOutcome::WorkerFailed(1).retirement(CLOUD, &reboot), Retirement::Reboot);
        assert_eq!(RunOutcome::WorkerFailed(1).retirement(lost, &reboot), Retirement::RemoveWorker);
    }

    #[test]
    fn a_machine_of_ones_own_restarts_its_worker_only_where_it_is_told_to() {
        let of = |outcome: RunOutcome, policy| {
            let mut settings = Settings::default();
            settings.restart.policy = policy;
            outcome.retirement(HOST, &settings)
        };
        for outcome in every_outcome() {
            let reboots = matches!(outcome, RunOutcome::RebootRequired | RunOutcome::Interrupted(NoticeKind::Reboot));
            let expected = |restarts| match (reboots, restarts) {
                (true, _) => Retirement::Reboot,
                (false, true) => Retirement::RestartWorker,
                (false, false) => Retirement::LeaveRunning,
            };
            assert_eq!(of(outcome, RestartPolicy::Never), expected(false), "{outcome}");
            assert_eq!(of(outcome, RestartPolicy::OnFailure), expected(outcome.is_failure()), "{outcome}");
            let stays = matches!(outcome, RunOutcome::Signalled | RunOutcome::Drained);
            assert_eq!(of(outcome, RestartPolicy::Always), expected(!stays), "{outcome}");
        }
    }

    #[test]
    fn the_runner_config_can_choose_otherwise_but_not_for_a_signal() {
        let mut settings = Settings::default();
        for class in OutcomeClass::ALL {
            settings.retirement.choices.insert(class, Retirement::ShutDownHost);
        }
        for outcome in every_outcome() {
            let expected = match outcome.class() {
                Some(_) => Retirement::ShutDownHost,
                None => Retirement::LeaveRunning,
            };
            assert_eq!(outcome.retirement(CLOUD, &settings), expected, "{outcome}");
        }
    }

    /// The table in docs/operations.md is made by this; where it differs, the test prints what belongs there.
    #[test]
    fn the_operators_page_has_the_table_of_outcomes() {
        let mut settings = Settings::default();
        settings.restart.policy = RestartPolicy::OnFailure;
        let word = |outcome: RunOutcome, place| match outcome.retirement(place, &settings) {
            Retirement::RestartWorker => "leave, or as `restart` says",
            Retirement::LeaveRunning => "leave",
            Retirement::RemoveWorker => "remove",
            Retirement::ShutDownHost => "shut down",
            Retirement::Reboot => "reboot",
        };
        let mut table = String::from(
            "| outcome | cloud | cloud without `cacheOverRestarts` | static, standalone | key |\n| --- | --- | --- | --- | --- |\n",
        );
        for outcome in every_outcome() {
            let key = outcome.class().map_or("none: always so".to_owned(), |class| format!("`{}`", class.key()));
            let lost = Place { survives_reboot: false, ..CLOUD };
            let cells = [word(outcome, CLOUD), word(outcome, lost), word(outcome, HOST)].join(" | ");
            let _ = writeln!(table, "| {outcome} | {cells} | {key} |");
        }
        let page = include_str!("../docs/operations.md").replace("\r\n", "\n");
        assert!(page.contains(&table), "docs/operations.md lacks this table:\n{table}");
    }

    fn every_outcome() -> Vec<RunOutcome> {
        let kinds = [NoticeKind::Reclaim, NoticeKind::Reboot, NoticeKind::Unwanted];
        let all = [
            RunOutcome::Finished,
            RunOutcome::Idle,
            RunOutcome::RebootRequired,
            RunOutcome::ToldToStop(70),
            RunOutcome::Signalled,
            RunOutcome::Drained,
            RunOutcome::CredentialsEnded,
            RunOutcome::WorkerFailed(1),
            RunOutcome::Wedged,
            RunOutcome::Killed(9),
            RunOutcome::OutOfMemory,
            RunOutcome::CouldNotStart,
            RunOutcome::LostContact,
            RunOutcome::OurFailure,
        ];
        all.into_iter().chain(kinds.map(RunOutcome::Interrupted)).collect()
    }
}
