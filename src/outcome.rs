//! What a run came to, and what that means for the machine. Pure.

use crate::driver::process::WorkerExit;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// The worker is done: exit code 0.
    Finished,
    /// The worker was idle for long enough: 68.
    Idle,
    /// The worker wants, and makes, a reboot: 67.
    RebootRequired,
    /// Somebody other than us told the worker to end: 70 worker-manager, 71 an interruption, 72 gracefully.
    ToldToStop(i32),
    /// We told the worker to end.
    Stopped(WorkerExit),
    /// The worker failed.
    WorkerFailed(i32),
    /// A signal ended the worker that we didn't send.
    Killed(i32),
}

/// What becomes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// worker-manager is asked to remove it, and where that fails it is shut down.
    RemoveWorker,
    /// It is left alone.
    LeaveRunning,
}

impl RunOutcome {
    /// Reads generic-worker's exit codes; the other workers use 0 and others. `asked` says that we told the worker
    /// to end.
    pub const fn of(exit: WorkerExit, asked: bool) -> Self {
        match exit {
            WorkerExit::Code(0) => Self::Finished,
            WorkerExit::Code(67) => Self::RebootRequired,
            WorkerExit::Code(68) => Self::Idle,
            WorkerExit::Code(code @ 70..=72) => Self::ToldToStop(code),
            WorkerExit::Code(_) | WorkerExit::Signal(_) if asked => Self::Stopped(exit),
            WorkerExit::Code(code) => Self::WorkerFailed(code),
            WorkerExit::Signal(signal) => Self::Killed(signal),
        }
    }

    /// What becomes of the machine. A machine that an operating system's init is stopping or rebooting stays as it
    /// is, whatever the worker said; so does one that no cloud made.
    pub const fn retirement(self, is_cloud: bool, signalled: bool) -> Retirement {
        match self {
            _ if signalled || !is_cloud => Retirement::LeaveRunning,
            Self::RebootRequired => Retirement::LeaveRunning,
            Self::Finished
            | Self::Idle
            | Self::ToldToStop(_)
            | Self::Stopped(_)
            | Self::WorkerFailed(_)
            | Self::Killed(_) => Retirement::RemoveWorker,
        }
    }

    /// What worker-manager is told of it, as kind and title; nothing where nothing went wrong.
    pub fn failure(self) -> Option<(&'static str, String)> {
        match self {
            Self::Finished | Self::Idle | Self::RebootRequired | Self::ToldToStop(_) | Self::Stopped(_) => None,
            Self::WorkerFailed(code) => Some(("worker-failed", format!("The worker ended with exit code {code}"))),
            Self::Killed(signal) => Some(("worker-killed", format!("The worker was ended by signal {signal}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_mean_what_generic_worker_means_by_them() {
        let code = WorkerExit::Code;
        let table = [
            (code(0), false, RunOutcome::Finished, false),
            (code(1), false, RunOutcome::WorkerFailed(1), true),
            (code(1), true, RunOutcome::Stopped(code(1)), false),
            (code(64), false, RunOutcome::WorkerFailed(64), true),
            (code(65), false, RunOutcome::WorkerFailed(65), true),
            (code(67), false, RunOutcome::RebootRequired, false),
            (code(68), false, RunOutcome::Idle, false),
            (code(69), false, RunOutcome::WorkerFailed(69), true),
            (code(70), false, RunOutcome::ToldToStop(70), false),
            (code(72), true, RunOutcome::ToldToStop(72), false),
            (code(84), false, RunOutcome::WorkerFailed(84), true),
            (WorkerExit::Signal(9), false, RunOutcome::Killed(9), true),
            (WorkerExit::Signal(15), true, RunOutcome::Stopped(WorkerExit::Signal(15)), false),
        ];
        for (exit, asked, expected, reported) in table {
            let outcome = RunOutcome::of(exit, asked);
            assert_eq!((outcome, outcome.failure().is_some()), (expected, reported), "{exit}");
        }
    }

    #[test]
    fn only_cloud_machines_that_nobody_is_rebooting_are_removed() {
        for code in [0, 1, 64, 68, 69, 70, 71, 72] {
            let outcome = RunOutcome::of(WorkerExit::Code(code), false);
            assert_eq!(outcome.retirement(true, false), Retirement::RemoveWorker, "{code}");
            assert_eq!(outcome.retirement(false, false), Retirement::LeaveRunning, "{code}");
            assert_eq!(outcome.retirement(true, true), Retirement::LeaveRunning, "{code}");
        }
        let reboot = RunOutcome::of(WorkerExit::Code(67), false);
        assert_eq!(reboot.retirement(true, false), Retirement::LeaveRunning);
    }
}
