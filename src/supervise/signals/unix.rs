//! Signals.

use super::Request;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A stream of requests. From its making on, none of them ends us by itself.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    drain: Signal,
    hangup: Signal,
    suspend: Signal,
}

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
