//! Windows' service control manager (SCM).
//!
//! Source: learn.microsoft.com, "Service Control Handler Function", "`SERVICE_STATUS` structure".
//!
//! The handler is registered here and not by the crate that does everything else about services: that one frees its
//! handler when it is told to stop, while another control may be on its way to it.

use super::Word;
use crate::platform::{checked, wide};
use crate::supervise::StopSignals;
use std::ffi::c_void;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use windows_sys::Win32::Foundation::{ERROR_CALL_NOT_IMPLEMENTED, ERROR_SERVICE_SPECIFIC_ERROR, NO_ERROR};
use windows_sys::Win32::System::Services::{
    RegisterServiceCtrlHandlerExW, SERVICE_ACCEPT_POWEREVENT, SERVICE_ACCEPT_PRESHUTDOWN, SERVICE_ACCEPT_SHUTDOWN,
    SERVICE_ACCEPT_STOP, SERVICE_CONTROL_INTERROGATE, SERVICE_CONTROL_POWEREVENT, SERVICE_CONTROL_PRESHUTDOWN,
    SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_STOP, SERVICE_RUNNING, SERVICE_START_PENDING, SERVICE_STATUS,
    SERVICE_STATUS_CURRENT_STATE, SERVICE_STATUS_HANDLE, SERVICE_STOP_PENDING, SERVICE_STOPPED,
    SERVICE_WIN32_OWN_PROCESS, SetServiceStatus,
};
use windows_sys::Win32::UI::WindowsAndMessaging::{PBT_APMRESUMEAUTOMATIC, PBT_APMRESUMESUSPEND};

/// The control by which an operator asks for a drain (`sc control start-worker 128`): the first that is free for a
/// service's own use.
pub const DRAIN: u32 = 128;

/// The variables that are not for the processes that we start: the service control manager sets none.
pub const FOR_US_ALONE: [&str; 0] = [];

/// While we stop, how often the SCM hears that we get on, and after which time it may think that we don't.
const HEARTBEAT: Duration = Duration::from_secs(2);
const WAIT_HINT: Duration = Duration::from_secs(20);

/// Who started us.
#[derive(Debug, Clone)]
pub enum ServiceManager {
    /// A shell, or another program that doesn't want to know.
    Nobody,
    /// The service control manager.
    Scm(Scm),
}

/// How often each control has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controls {
    /// That we are to end.
    pub stops: u32,
    /// That we are to drain.
    pub drains: u32,
    /// That the machine has slept, and is awake.
    pub resumes: u32,
}

/// The service control manager, as this process knows it. Cheap to clone.
#[derive(Clone)]
pub struct Scm {
    shared: Arc<Shared>,
    controls: watch::Receiver<Controls>,
}

impl std::fmt::Debug for Scm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scm")
    }
}

struct Shared {
    handle: OnceLock<Handle>,
    state: Mutex<State>,
    controls: watch::Sender<Controls>,
}

/// What the SCM knows this process by.
struct Handle(SERVICE_STATUS_HANDLE);

// SAFETY: it is a number to the SCM, and needs neither closing nor a thread of its own.
unsafe impl Send for Handle {}
// SAFETY: the same; every call with it is one of the system's own.
unsafe impl Sync for Handle {}

#[derive(Debug)]
struct State {
    state: SERVICE_STATUS_CURRENT_STATE,
    checkpoint: u32,
}

/// How a service ended, in the SCM's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastWord {
    /// As somebody wanted: it is not started again.
    Done,
    /// With this exit code of its own: it is started again.
    Failed(u32),
}

impl ServiceManager {
    /// A process that no SCM has started.
    pub const fn of_this_process() -> Self {
        Self::Nobody
    }

    /// Tells it something.
    pub fn tell(&self, word: Word<'_>) {
        match (self, word) {
            (Self::Scm(scm), Word::Stopping) => scm.shared.stopping(),
            (Self::Scm(scm), Word::Alive) => scm.shared.beat(),
            // It has no place for texts, we run from the first moment on, and it waits while the heart beats.
            (Self::Scm(_), Word::Ready | Word::Status(_) | Word::Extend(_)) | (Self::Nobody, _) => {}
        }
    }

    /// Waits until it is to hear again that we are alive: every few seconds from the moment on in which we stop.
    pub async fn heartbeat_is_due(&mut self) {
        match self {
            Self::Nobody => std::future::pending().await,
            Self::Scm(scm) => {
                if scm.controls.wait_for(|controls| controls.stops > 0).await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(HEARTBEAT).await;
            }
        }
    }

    /// Requests to end: the console's, or the SCM's.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn signals(&self) -> io::Result<StopSignals> {
        match self {
            Self::Nobody => StopSignals::of_console(),
            Self::Scm(scm) => Ok(StopSignals::of_service(scm.controls.clone())),
        }
    }

    /// Waits until the machine has woken up from its sleep. Cancel-safe.
    pub async fn resumed(&mut self) {
        let Self::Scm(scm) = self else { return std::future::pending().await };
        let before = scm.controls.borrow_and_update().resumes;
        if scm.controls.wait_for(|controls| controls.resumes != before).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Scm {
    /// Makes this process, which the SCM has started as this service, one that runs and hears its controls.
    ///
    /// # Errors
    /// What the SCM answers.
    pub fn register(service: &str) -> io::Result<Self> {
        let shared = Shared::new();
        // The SCM has this for as long as there is a process: it is never taken back.
        let context = Arc::into_raw(Arc::clone(&shared)).cast_mut().cast::<c_void>();
        // SAFETY: the name ends with a zero, and the context is what the handler takes it for.
        let handle = unsafe { RegisterServiceCtrlHandlerExW(wide(service).as_ptr(), Some(hear), context) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // Nobody else sets it.
        let _ = shared.handle.set(Handle(handle));
        let controls = shared.controls.subscribe();
        shared.running()?;
        Ok(Self { shared, controls })
    }

    /// Whether it has told us to stop.
    pub fn told_to_stop(&self) -> bool {
        self.controls.borrow().stops > 0
    }

    /// The last word.
    ///
    /// # Errors
    /// What the SCM answers.
    pub fn stopped(&self, word: LastWord) -> io::Result<()> {
        let mut now = self.shared.lock();
        (now.state, now.checkpoint) = (SERVICE_STOPPED, 0);
        self.shared.send(&now, word)
    }
}

/// Runs on a thread of the SCM's, which waits for the answer.
unsafe extern "system" fn hear(control: u32, event: u32, _data: *mut c_void, context: *mut c_void) -> u32 {
    // SAFETY: the context is the one that was registered, which is never freed.
    let shared = unsafe { &*context.cast::<Shared>() };
    if shared.hear(control, event) { NO_ERROR } else { ERROR_CALL_NOT_IMPLEMENTED }
}

impl Shared {
    fn new() -> Arc<Self> {
        let state = Mutex::new(State { state: SERVICE_START_PENDING, checkpoint: 0 });
        Arc::new(Self { handle: OnceLock::new(), state, controls: watch::Sender::new(Controls::default()) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that control means something to us.
    fn hear(&self, control: u32, event: u32) -> bool {
        let name = match control {
            SERVICE_CONTROL_STOP => "stop",
            SERVICE_CONTROL_PRESHUTDOWN => "the machine is about to shut down",
            SERVICE_CONTROL_SHUTDOWN => "the machine shuts down",
            SERVICE_CONTROL_INTERROGATE => return true,
            DRAIN => {
                self.controls.send_modify(|controls| controls.drains += 1);
                return true;
            }
            SERVICE_CONTROL_POWEREVENT => {
                if [PBT_APMRESUMEAUTOMATIC, PBT_APMRESUMESUSPEND].contains(&event) {
                    self.controls.send_modify(|controls| controls.resumes += 1);
                }
                return true;
            }
            _ => return false,
        };
        // First of all: who told us so waits.
        self.stopping();
        self.controls.send_modify(|controls| controls.stops += 1);
        tracing::info!("the service control manager says: {name}");
        true
    }

    fn running(&self) -> io::Result<()> {
        let mut now = self.lock();
        // The first control may have come already.
        if now.state != SERVICE_START_PENDING {
            return Ok(());
        }
        now.state = SERVICE_RUNNING;
        self.send(&now, LastWord::Done)
    }

    fn stopping(&self) {
        let mut now = self.lock();
        if [SERVICE_START_PENDING, SERVICE_RUNNING].contains(&now.state) {
            (now.state, now.checkpoint) = (SERVICE_STOP_PENDING, 1);
            self.try_to_send(&now);
        }
    }

    fn beat(&self) {
        let mut now = self.lock();
        if now.state == SERVICE_STOP_PENDING {
            now.checkpoint += 1;
            self.try_to_send(&now);
        }
    }

    fn try_to_send(&self, now: &State) {
        if let Err(error) = self.send(now, LastWord::Done) {
            tracing::warn!("cannot tell the service control manager how we do: {error}");
        }
    }

    fn send(&self, now: &State, word: LastWord) -> io::Result<()> {
        let Some(Handle(handle)) = self.handle.get() else { return Ok(()) };
        let status = status_of(now, word);
        // SAFETY: the handle is the one that the SCM gave, and the structure lives.
        checked(unsafe { SetServiceStatus(*handle, &raw const status) })
    }
}

fn status_of(now: &State, word: LastWord) -> SERVICE_STATUS {
    let (win32, specific) = match word {
        LastWord::Done => (NO_ERROR, 0),
        LastWord::Failed(code) => (ERROR_SERVICE_SPECIFIC_ERROR, code),
    };
    // While we stop there is nothing that we could be told beyond that.
    let (accepts, hint) = match now.state {
        SERVICE_RUNNING => (
            SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_PRESHUTDOWN | SERVICE_ACCEPT_SHUTDOWN | SERVICE_ACCEPT_POWEREVENT,
            Duration::ZERO,
        ),
        SERVICE_STOPPED => (0, Duration::ZERO),
        _ => (0, WAIT_HINT),
    };
    SERVICE_STATUS {
        dwServiceType: SERVICE_WIN32_OWN_PROCESS,
        dwCurrentState: now.state,
        dwControlsAccepted: accepts,
        dwWin32ExitCode: win32,
        dwServiceSpecificExitCode: specific,
        dwCheckPoint: now.checkpoint,
        dwWaitHint: u32::try_from(hint.as_millis()).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_become_requests_and_a_stop_is_answered_before_anything_else() {
        let shared = Shared::new();
        shared.running().unwrap();
        let counts = || *shared.controls.borrow();
        assert!(shared.hear(SERVICE_CONTROL_INTERROGATE, 0) && !shared.hear(77, 0));
        assert!(shared.hear(DRAIN, 0) && shared.hear(SERVICE_CONTROL_POWEREVENT, PBT_APMRESUMEAUTOMATIC));
        assert!(shared.hear(SERVICE_CONTROL_POWEREVENT, 4), "it falls asleep");
        assert_eq!(counts(), Controls { stops: 0, drains: 1, resumes: 1 });
        for (index, control) in
            [SERVICE_CONTROL_STOP, SERVICE_CONTROL_PRESHUTDOWN, SERVICE_CONTROL_SHUTDOWN].into_iter().enumerate()
        {
            assert!(shared.hear(control, 0));
            assert_eq!(counts().stops, u32::try_from(index).unwrap() + 1);
        }
        let now = shared.lock();
        assert_eq!((now.state, now.checkpoint), (SERVICE_STOP_PENDING, 1));
    }

    #[test]
    fn while_it_stops_the_manager_hears_that_it_gets_on_and_nothing_brings_it_back() {
        let shared = Shared::new();
        shared.running().unwrap();
        shared.beat();
        assert_eq!(shared.lock().checkpoint, 0);
        shared.stopping();
        shared.beat();
        shared.stopping();
        shared.running().unwrap();
        let status = status_of(&shared.lock(), LastWord::Done);
        assert_eq!((status.dwCurrentState, status.dwCheckPoint), (SERVICE_STOP_PENDING, 2));
        assert_eq!((status.dwControlsAccepted, status.dwWaitHint), (0, 20_000));
    }

    #[test]
    fn an_end_that_failed_says_so() {
        let now = State { state: SERVICE_STOPPED, checkpoint: 0 };
        let said = |word| {
            let status = status_of(&now, word);
            (status.dwWin32ExitCode, status.dwServiceSpecificExitCode)
        };
        assert_eq!(said(LastWord::Done), (0, 0));
        assert_eq!(said(LastWord::Failed(13)), (1066, 13));
        // Also one that ended well, but is not to stay ended.
        assert_eq!(said(LastWord::Failed(0)), (1066, 0));
    }

    #[tokio::test]
    async fn waking_up_is_heard_once() {
        let shared = Shared::new();
        let scm = Scm { controls: shared.controls.subscribe(), shared };
        let mut manager = ServiceManager::Scm(scm.clone());
        let wake = async {
            tokio::task::yield_now().await;
            scm.shared.hear(SERVICE_CONTROL_POWEREVENT, PBT_APMRESUMESUSPEND);
        };
        tokio::join!(manager.resumed(), wake);
        let again = tokio::time::timeout(Duration::ZERO, manager.resumed()).await;
        assert!(again.is_err(), "it has not slept since");
    }

    #[tokio::test]
    async fn a_stop_that_came_before_anybody_listened_is_heard() {
        use crate::supervise::Request;
        let shared = Shared::new();
        let scm = Scm { controls: shared.controls.subscribe(), shared };
        scm.shared.hear(SERVICE_CONTROL_STOP, 0);
        let manager = ServiceManager::Scm(scm.clone());
        assert_eq!(manager.signals().unwrap().next().await, Request::Stop);
        // Whoever listens anew hears it, too.
        let mut signals = manager.signals().unwrap();
        assert_eq!(signals.next().await, Request::Stop);
        scm.shared.hear(DRAIN, 0);
        assert_eq!(signals.next().await, Request::Drain);
    }
}
