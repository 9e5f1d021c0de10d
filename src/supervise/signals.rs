//! What asks us to end or to drain: SIGTERM, SIGINT and SIGUSR1 on Unix, control events on Windows.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What somebody asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To end.
    Stop,
    /// To let the worker finish its tasks, and end then.
    Drain,
}

/// A stream of requests. From its making on, none of them ends us by itself.
#[cfg(unix)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    drain: Signal,
    hangup: Signal,
    suspend: Signal,
}

#[cfg(unix)]
impl StopSignals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            drain: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
            suspend: signal(SignalKind::from_raw(nix::libc::SIGTSTP))?,
        })
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Request {
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => return Request::Stop,
                Some(()) = self.interrupt.recv() => return Request::Stop,
                Some(()) = self.drain.recv() => return Request::Drain,
                // A terminal that goes away, or somebody who hopes for a reload: neither is a reason to end.
                Some(()) = self.hangup.recv() => tracing::info!("ignoring SIGHUP"),
                // Its worker would go on without us.
                Some(()) = self.suspend.recv() => tracing::info!("ignoring SIGTSTP: a worker needs its runner"),
            }
        }
    }
}

/// A stream of requests.
#[cfg(windows)]
pub struct StopSignals {
    interrupt: tokio::signal::windows::CtrlC,
    break_: tokio::signal::windows::CtrlBreak,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl StopSignals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn listen() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_shutdown};
        Ok(Self { interrupt: ctrl_c()?, break_: ctrl_break()?, shutdown: ctrl_shutdown()? })
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Request::Stop,
            Some(()) = self.break_.recv() => Request::Stop,
            Some(()) = self.shutdown.recv() => Request::Stop,
        }
    }
}

impl StopSignals {
    /// The next request to end, whatever else is asked before. Cancel-safe.
    pub async fn told_to_stop(&mut self) {
        while self.next().await != Request::Stop {
            tracing::info!("told to drain, but there is no worker");
        }
    }
}
