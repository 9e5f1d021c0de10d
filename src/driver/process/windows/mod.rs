//! A worker's process on Windows: our child in a job, or a service's.

mod attendance;
mod child;
mod command_line;
mod job;
mod listening;
mod pipe;
mod process_tree;
mod service;

pub use attendance::account as service_account;
pub use service::{RIGHTS as SERVICE_RIGHTS, ServiceError, ServiceSpec, find as find_service};

use super::{ProcessSpec, Streams, WorkerExit};
use child::Child;
use service::Service;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::thread;
use tokio::sync::oneshot;
use windows_sys::Win32::System::Console::GetConsoleProcessList;
use windows_sys::Win32::System::Threading::{INFINITE, WaitForSingleObject};

/// Whether a program that is terminated may end in order: here it ends in the midst of what it does.
pub const TERMINATION_IS_GENTLE: bool = false;

/// What a worker's process that we ended says of its end: as on Unix after SIGKILL.
const KILLED: u32 = 137;

/// The stack of a thread that waits.
const SMALL_STACK: usize = 128 * 1024;

/// Whether a process can be interrupted: where there is a console that it shares with us. A service may have none.
pub fn can_interrupt() -> bool {
    let mut process = 0;
    // SAFETY: there is room for one id; where there are more, none is written.
    unsafe { GetConsoleProcessList(&raw mut process, 1) > 0 }
}

/// A worker's process. Dropping it ends it.
pub enum Process {
    /// Our child.
    Child(Child),
    /// A service.
    Service(Service),
}

impl Process {
    /// Starts a process as our child.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(spec: &ProcessSpec) -> io::Result<(Self, Streams)> {
        let (child, streams) = Child::spawn(spec)?;
        Ok((Self::Child(child), streams))
    }

    /// Starts a service, and waits until it has connected to its pipes. Dropped before that, it stops the service.
    ///
    /// # Errors
    /// Why it can't be started, or didn't connect.
    pub async fn start_service(spec: &ServiceSpec) -> Result<(Self, Streams), ServiceError> {
        let (service, streams) = Service::start(spec).await?;
        Ok((Self::Service(service), streams))
    }

    /// The process id, for the log.
    pub fn id(&self) -> u32 {
        match self {
            Self::Child(child) => child.id(),
            Self::Service(service) => service.id(),
        }
    }

    /// Waits for the end. Cancel-safe.
    pub async fn exited(&mut self) -> WorkerExit {
        match self {
            Self::Child(child) => child.exited().await,
            Self::Service(service) => service.exited().await,
        }
    }

    /// Asks the process to finish what it does and end: `CTRL_BREAK`, which a Go program takes for an interrupt.
    pub fn interrupt(&self) {
        match self {
            Self::Child(child) => child.interrupt(),
            // It has a console of its own, if any.
            Self::Service(_) => {}
        }
    }

    /// Asks a service to stop; a child knows no such thing and is ended.
    pub fn terminate(&mut self) {
        match self {
            Self::Child(child) => child.kill(),
            Self::Service(service) => service.stop(),
        }
    }

    /// Ends the process and all that it has started.
    pub fn kill(&mut self) {
        match self {
            Self::Child(child) => child.kill(),
            Self::Service(service) => service.kill(),
        }
    }

    /// Once the process has ended: ends every descendant that is left, and says which. Of a service it is the worker.
    pub async fn end_descendants(&mut self, _spare_our_group: bool) {
        match self {
            Self::Child(child) => child.end_descendants().await,
            Self::Service(service) => service.end_worker().await,
        }
    }
}

/// Waits on a thread of its own until a process has ended.
fn when_ended(process: OwnedHandle) -> io::Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name("worker's end".into()).stack_size(SMALL_STACK).spawn(move || {
        // SAFETY: the handle is open, and ours until this thread ends.
        unsafe { WaitForSingleObject(process.as_raw_handle(), INFINITE) };
        let _ = sender.send(());
    })?;
    Ok(receiver)
}
