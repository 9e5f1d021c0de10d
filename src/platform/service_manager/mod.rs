//! Who started us and wants to know how we do: systemd, Windows' service control manager, or nobody.

#[cfg(windows)]
mod scm;
#[cfg(unix)]
mod systemd;

#[cfg(windows)]
pub use scm::{Controls, FOR_US_ALONE, LastWord, Scm, ServiceManager};
#[cfg(unix)]
pub use systemd::{FOR_US_ALONE, ServiceManager};

use std::time::Duration;

/// Something that the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// The worker has been started.
    Ready,
    /// What we are doing.
    Status(&'a str),
    /// We are ending.
    Stopping,
    /// What we are doing takes this much longer.
    Extend(Duration),
    /// We are alive.
    Alive,
}

/// Tells the service manager that we are alive, for as long as it lives, where that is asked for; and that we end, then.
pub struct KeepAlive {
    manager: ServiceManager,
    task: tokio::task::JoinHandle<()>,
}

impl KeepAlive {
    /// Begins.
    pub fn begin(manager: &ServiceManager) -> Self {
        let mut teller = manager.clone();
        let task = tokio::spawn(async move {
            loop {
                teller.heartbeat_is_due().await;
                teller.tell(Word::Alive);
            }
        });
        Self { manager: manager.clone(), task }
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
        self.manager.tell(Word::Stopping);
    }
}
