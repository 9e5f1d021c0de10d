//! What asks us to end or to drain: SIGTERM, SIGINT and SIGUSR1 on Unix, control events and the service control manager
//! on Windows.

use std::fmt;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::StopSignals;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::StopSignals;

/// What somebody asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To end.
    Stop,
    /// To let the worker finish its tasks, and end then.
    Drain,
}

/// For the log: `told to drain`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Drain => "drain",
        })
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
