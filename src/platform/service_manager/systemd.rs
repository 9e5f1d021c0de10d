//! systemd, and every other service manager that listens at `$NOTIFY_SOCKET`.

use super::Word;
use crate::supervise::StopSignals;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The variable that says where it listens. Source: `sd_notify(3)`.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The variables that say how often, and from whom, it wants to hear. Source: `sd_watchdog_enabled(3)`.
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The variables that are not for the processes that we start.
pub const FOR_US_ALONE: [&str; 3] = [NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID];

/// Who started us.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager {
    socket: Option<OsString>,
    heartbeat: Option<Duration>,
    /// Whether a heartbeat has been due.
    beat: bool,
}

impl ServiceManager {
    /// The one that our environment names.
    pub fn of_this_process() -> Self {
        Self { socket: env::var_os(NOTIFY_SOCKET), heartbeat: watchdog_interval(), beat: false }
    }

    /// Tells it something, where it listens. Never waits for it: one that doesn't read misses a word.
    ///
    /// Source: `sd_notify(3)`, `EXTEND_TIMEOUT_USEC` and abstract sockets (`@`) included.
    pub fn tell(&self, word: Word<'_>) {
        let Some(address) = &self.socket else { return };
        let state = match word {
            Word::Ready => "READY=1".to_owned(),
            // A second line would be a second word.
            Word::Status(text) => format!("STATUS={}", text.replace('\n', " ")),
            Word::Stopping => "STOPPING=1".to_owned(),
            Word::Extend(time) => format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            Word::Alive => "WATCHDOG=1".to_owned(),
        };
        if let Err(error) = send_without_waiting(address, state.as_bytes()) {
            tracing::debug!("cannot tell the service manager: {error}");
        }
    }

    /// Waits until it is to hear again that we are alive: at once at first, and for ever where it doesn't want to.
    pub async fn heartbeat_is_due(&mut self) {
        match self.heartbeat {
            Some(interval) if std::mem::replace(&mut self.beat, true) => tokio::time::sleep(interval).await,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    /// Requests to end, which come as signals.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn signals(&self) -> io::Result<StopSignals> {
        StopSignals::listen()
    }

    /// Waits until the machine has woken up from its sleep: nobody says so here.
    pub async fn resumed(&mut self) {
        std::future::pending::<()>().await;
    }
}

fn send_without_waiting(address: &OsStr, datagram: &[u8]) -> io::Result<usize> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match address.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            socket.send_to_addr(datagram, &std::os::unix::net::SocketAddr::from_abstract_name(name)?)
        }
        _ => socket.send_to(datagram, address),
    }
}

/// How often it wants to hear that we are alive: twice in the time that it waits.
///
/// Source: `sd_watchdog_enabled(3)`.
fn watchdog_interval() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = env::var_os(WATCHDOG_PID).is_none() || number(WATCHDOG_PID) == Some(std::process::id().into());
    number(WATCHDOG_USEC).filter(|time| is_ours && *time > 1).map(|time| Duration::from_micros(time / 2))
}
