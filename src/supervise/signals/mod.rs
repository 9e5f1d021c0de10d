//! What asks us to end or to drain: SIGTERM, SIGINT and SIGUSR1 on Unix, control events and the service control manager
//! on Windows.

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

impl StopSignals {
    /// The next request to end, whatever else is asked before. Cancel-safe.
    pub async fn told_to_stop(&mut self) {
        while self.next().await != Request::Stop {
            tracing::info!("told to drain, but there is no worker");
        }
    }
}
