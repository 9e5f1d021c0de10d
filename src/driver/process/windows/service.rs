//! A worker that is a Windows service, and talks over two named pipes.
//!
//! The pipes are there before the service is started. A thread attends to the service from then on: it lets the worker,
//! and nobody else, connect, and hears of the service's end.

use super::attendance::{self, Connected};
use super::listening::event;
use super::process_tree::{Pinned, Tree};
use super::{KILLED, SMALL_STACK, Streams, WorkerExit, pipe};
use crate::platform::{Goal, Waiter, into_io, says};
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use windows_service::service::{Service as Handle, ServiceAccess, ServiceExitCode};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, ERROR_SERVICE_DOES_NOT_EXIST};
use windows_sys::Win32::System::Threading::SetEvent;

/// How long a service may take to stop that nobody needs any more; then its processes are ended.
pub(super) const STOPPED_FOR_GOOD: Duration = Duration::from_secs(10);

/// How long a service may take to begin before it is told to stop.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks at whether a worker has ended after its service.
const LOOK: Duration = Duration::from_millis(50);

/// How long the service manager may take to say that a service has stopped whose process has ended.
pub(super) const LAST_WORD: Duration = Duration::from_secs(2);

/// What starting and stopping a worker's service takes.
pub const RIGHTS: ServiceAccess = ServiceAccess::QUERY_STATUS
    .union(ServiceAccess::QUERY_CONFIG)
    .union(ServiceAccess::START)
    .union(ServiceAccess::STOP);

/// A worker that is a service.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// The service's name.
    pub name: String,
    /// The pipes' name, without `-input` and `-output`.
    pub protocol_pipe: String,
    /// How long the service may take to stop, where it runs already.
    pub stops_within: Duration,
    /// How long the worker may take to connect, from the service's start on.
    pub connects_within: Duration,
}

/// Why a worker that is a service can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no such service.
    #[error("there is no service `{0}` on this machine")]
    Missing(String),
    /// Something can't be done with it.
    #[error("cannot {action} the service `{name}`{}", lacking(source, right))]
    Control {
        /// The service.
        name: String,
        /// What.
        action: &'static str,
        /// The right that it takes.
        right: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It runs already, and goes on.
    #[error(
        "the service `{name}` runs already and does not stop within {} s: its pipes are another run's",
        patience.as_secs_f32()
    )]
    Runs {
        /// The service.
        name: String,
        /// How long it had.
        patience: Duration,
    },
    /// A pipe can't be made.
    #[error("cannot make the pipe {name}: does another process have it?")]
    Pipe {
        /// The pipe.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The service has ended already.
    #[error("the service `{name}` ended before its worker had connected to {pipe}-input and {pipe}-output: {exit}")]
    Ended {
        /// The service.
        name: String,
        /// The pipes.
        pipe: String,
        /// How it ended.
        exit: WorkerExit,
    },
    /// It never connected.
    #[error(
        "the service `{name}` runs, but its worker has not connected to {pipe}-input and {pipe}-output within {} s: is it told of `protocolPipe`, and started with --with-worker-runner?",
        patience.as_secs_f32()
    )]
    Silent {
        /// The service.
        name: String,
        /// The pipes.
        pipe: String,
        /// How long it had.
        patience: Duration,
    },
    /// We can't attend to it.
    #[error("cannot attend to the service `{name}`")]
    System {
        /// The service.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn lacking(error: &io::Error, right: &str) -> String {
    if says(error, ERROR_ACCESS_DENIED) { format!(": this account lacks the right {right}") } else { String::new() }
}

/// Opens a service with these rights.
///
/// # Errors
/// Where there is none, or it may not be opened.
pub fn find(name: &str, rights: ServiceAccess) -> Result<Handle, ServiceError> {
    let failed = |action, right, source: windows_service::Error| match into_io(source) {
        error if says(&error, ERROR_SERVICE_DOES_NOT_EXIST) => ServiceError::Missing(name.to_owned()),
        source => ServiceError::Control { name: name.to_owned(), action, right, source },
    };
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)
        .map_err(|error| failed("look for", "SC_MANAGER_CONNECT", error))?;
    manager.open_service(name, rights).map_err(|error| {
        failed("open", "SERVICE_QUERY_STATUS, SERVICE_QUERY_CONFIG, SERVICE_START or SERVICE_STOP", error)
    })
}

/// A service that runs as the worker. Dropping it stops it.
pub struct Service {
    name: String,
    worker: Pinned,
    tree: Tree,
    ended: oneshot::Receiver<ServiceExitCode>,
    exit: Option<WorkerExit>,
    killed: bool,
    _attendance: Attendance,
}

/// The thread that attends to a service, for as long as this lives. Then it leaves the service stopped.
struct Attendance {
    name: String,
    leave: Arc<OwnedHandle>,
    /// Closed when the thread ends.
    thread: mpsc::Receiver<()>,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        // SAFETY: the handle is that of an event, and open.
        unsafe { SetEvent(self.leave.as_raw_handle()) };
        // Whoever drops this may be about to end the process, and the thread with it.
        let is_late = |patience| self.thread.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
        if !is_late(STOPPED_FOR_GOOD) {
            return;
        }
        // The thread may be in a call that waits for the service itself, for half a minute.
        if let Err(error) = attendance::end_processes(&self.name) {
            tracing::error!("{}", taskcluster_api::Chain(&error));
        }
        if is_late(LAST_WORD) {
            tracing::error!("the service `{}` is left behind as it is: it does not stop", self.name);
        }
    }
}

impl Service {
    /// Starts a service, and waits until its worker has connected.
    ///
    /// # Errors
    /// Why it can't be started, or didn't connect; it is stopped then.
    pub async fn start(spec: &ServiceSpec) -> Result<(Self, Streams), ServiceError> {
        let failed = |source| ServiceError::System { name: spec.name.clone(), source };
        let leave = Arc::new(event().map_err(failed)?);
        let (running, thread) = mpsc::channel();
        let attendance = Attendance { name: spec.name.clone(), leave: Arc::clone(&leave), thread };
        let (connected_sender, connected) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let attended = spec.clone();
        thread::Builder::new()
            .name("worker's service".into())
            .stack_size(SMALL_STACK)
            .spawn(move || {
                attendance::attend(&attended, &leave, connected_sender, ended_sender);
                drop(running);
            })
            .map_err(failed)?;
        let gone = || failed(io::Error::other("the thread that does so failed"));
        let Connected { output, input, worker, service } = connected.await.map_err(|_| gone())??;
        let streams = Streams {
            input: Box::new(pipe::stream(input).map_err(failed)?),
            output: Box::new(pipe::stream(output).map_err(failed)?),
            errors: Box::new(tokio::io::empty()),
        };
        let name = spec.name.clone();
        Ok((
            Self { name, worker, tree: Tree::of(service), ended, exit: None, killed: false, _attendance: attendance },
            streams,
        ))
    }

    /// The worker's process id.
    pub const fn id(&self) -> u32 {
        self.worker.id
    }

    /// Waits until the service has stopped. Cancel-safe.
    pub async fn exited(&mut self) -> WorkerExit {
        if let Some(exit) = self.exit {
            return exit;
        }
        let exit = match (&mut self.ended).await {
            Ok(_) if self.killed => WorkerExit::Code(KILLED.cast_signed()),
            Ok(exit) => exit_of(exit),
            Err(_) => {
                tracing::error!("the thread that attends to the service `{}` failed", self.name);
                WorkerExit::Code(1)
            }
        };
        self.exit = Some(exit);
        exit
    }

    /// Has the service manager stop it: on another thread, for that waits for the service's answer, and before that until
    /// the service has begun.
    pub fn stop(&self) {
        tracing::info!("having the service `{}` stopped", self.name);
        let name = self.name.clone();
        let stop = move || {
            let deadline = Instant::now() + BEGINS_WITHIN;
            if let Ok(service) = find(&name, ServiceAccess::QUERY_STATUS) {
                // Where that can't be heard it is asked all the same.
                let _ = Waiter::new(service, Goal::Settled).wait(&[], Some(deadline));
            }
            attendance::request_stop(&name);
        };
        if let Err(error) = thread::Builder::new().stack_size(SMALL_STACK).spawn(stop) {
            tracing::error!("cannot have the service `{}` stopped: {error}", self.name);
        }
    }

    /// Ends the service's process and all that it has started.
    pub fn kill(&mut self) {
        self.killed = true;
        self.tree.end();
        Tree::of(self.worker.clone()).end();
    }

    /// Once the service has ended: ends its worker, which a wrapper that crashed leaves behind. A service says that it has
    /// stopped a moment before its process ends.
    pub async fn end_worker(&mut self) {
        let deadline = Instant::now() + LAST_WORD;
        while self.worker.runs() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        self.worker.end_left_behind();
    }
}

/// A service's own exit code, or the system's for it: `ERROR_PROCESS_ABORTED` (1067) where it just ended.
pub(super) fn exit_of(exit: ServiceExitCode) -> WorkerExit {
    let (ServiceExitCode::ServiceSpecific(code) | ServiceExitCode::Win32(code)) = exit;
    WorkerExit::Code(code.cast_signed())
}
