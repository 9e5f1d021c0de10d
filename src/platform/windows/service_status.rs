//! Waiting until a service has reached a state, without looking again and again.
//!
//! Source: learn.microsoft.com, "`NotifyServiceStatusChangeW` function", "`SERVICE_NOTIFY_2W` structure".

use super::size_of_u32;
use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::os::windows::io::RawHandle;
use std::time::{Duration, Instant};
use windows_service::service::{
    Service, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_sys::Win32::Foundation::{
    ERROR_SERVICE_SPECIFIC_ERROR, ERROR_SUCCESS, WAIT_FAILED, WAIT_IO_COMPLETION, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::Services::{
    NotifyServiceStatusChangeW, QueryServiceStatusEx, SC_STATUS_PROCESS_INFO, SERVICE_NOTIFY_2W, SERVICE_NOTIFY_PAUSED,
    SERVICE_NOTIFY_RUNNING, SERVICE_NOTIFY_STATUS_CHANGE, SERVICE_NOTIFY_STOPPED, SERVICE_STATUS_PROCESS,
    SERVICE_STOPPED,
};
use windows_sys::Win32::System::Threading::{INFINITE, SleepEx, WaitForMultipleObjectsEx};

/// What a waiting is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The service has stopped.
    Stopped,
    /// It has stopped, or can be told to.
    Settled,
}

impl Goal {
    fn is_reached(self, state: ServiceState) -> bool {
        match state {
            ServiceState::Stopped => true,
            ServiceState::Running | ServiceState::Paused => self == Self::Settled,
            ServiceState::StartPending
            | ServiceState::StopPending
            | ServiceState::ContinuePending
            | ServiceState::PausePending => false,
        }
    }

    const fn mask(self) -> u32 {
        match self {
            Self::Stopped => SERVICE_NOTIFY_STOPPED,
            Self::Settled => SERVICE_NOTIFY_STOPPED | SERVICE_NOTIFY_RUNNING | SERVICE_NOTIFY_PAUSED,
        }
    }
}

/// Why a waiting is over.
pub enum Woken {
    /// The service is where it was to be.
    Reached(ServiceStatus),
    /// The object of that number is signalled.
    Object(usize),
    /// The time has come.
    TimedOut,
}

/// Waits for a service, on the thread that it was made on: the system's word comes as a call on that.
pub struct Waiter {
    service: Option<Service>,
    goal: Goal,
    /// Ours, but for the time of a notification the system's too: freed once the service's handle is closed.
    block: *mut Block,
    armed: bool,
}

struct Block {
    notify: SERVICE_NOTIFY_2W,
    fired: Cell<bool>,
}

impl Waiter {
    /// Waits for nothing yet. The handle must be for nobody else's notifications.
    pub fn new(service: Service, goal: Goal) -> Self {
        let block = Block { notify: SERVICE_NOTIFY_2W::default(), fired: Cell::new(false) };
        Self { service: Some(service), goal, block: Box::into_raw(Box::new(block)), armed: false }
    }

    /// Waits until the service has reached its state, one of these objects is signalled, or the time has come.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self, objects: &[RawHandle], until: Option<Instant>) -> io::Result<Woken> {
        if let Some(status) = self.reached()? {
            return Ok(Woken::Reached(status));
        }
        loop {
            // First this, then the look: what happens between the two is not missed.
            self.arm()?;
            if let Some(status) = self.reached()? {
                return Ok(Woken::Reached(status));
            }
            let time = until.map_or(INFINITE, |until| {
                // Rounded up, so that it is over then.
                let left = until.saturating_duration_since(Instant::now()).as_millis().saturating_add(1);
                u32::try_from(left).unwrap_or(INFINITE - 1)
            });
            if until.is_some_and(|until| until <= Instant::now()) {
                return Ok(Woken::TimedOut);
            }
            match wait_alertably(objects, time) {
                WAIT_IO_COMPLETION => {
                    // SAFETY: the block lives, and the system's call on this thread is over.
                    let fired = unsafe { (*self.block).fired.replace(false) };
                    if fired {
                        self.armed = false;
                        // Somebody may have started it again already.
                        if let Some(status) = self.told() {
                            return Ok(Woken::Reached(status));
                        }
                    }
                }
                WAIT_TIMEOUT => {}
                WAIT_FAILED => return Err(io::Error::last_os_error()),
                index => return Ok(Woken::Object((index - WAIT_OBJECT_0) as usize)),
            }
        }
    }

    fn arm(&mut self) -> io::Result<()> {
        let Some(service) = self.service.as_ref().filter(|_| !self.armed) else { return Ok(()) };
        // SAFETY: the block lives, and no notification is under way that would use it. No reference to it is made: the
        // system and the callback have pointers.
        let code = unsafe {
            (*self.block).notify.dwVersion = SERVICE_NOTIFY_STATUS_CHANGE;
            (*self.block).notify.pfnNotifyCallback = Some(fired);
            (*self.block).notify.pContext = (&raw mut (*self.block).fired).cast();
            NotifyServiceStatusChangeW(service.raw_handle().cast(), self.goal.mask(), &raw const (*self.block).notify)
        };
        if code != ERROR_SUCCESS {
            return Err(io::Error::from_raw_os_error(code.cast_signed()));
        }
        self.armed = true;
        Ok(())
    }

    /// What the system said, where that is that the service has stopped.
    fn told(&self) -> Option<ServiceStatus> {
        // SAFETY: the block lives, and the system's call, which came with this, is over.
        let (result, status) =
            unsafe { ((*self.block).notify.dwNotificationStatus, (*self.block).notify.ServiceStatus) };
        if result != ERROR_SUCCESS || status.dwCurrentState != SERVICE_STOPPED {
            return None;
        }
        let exit_code = match status.dwWin32ExitCode {
            ERROR_SERVICE_SPECIFIC_ERROR => ServiceExitCode::ServiceSpecific(status.dwServiceSpecificExitCode),
            code => ServiceExitCode::Win32(code),
        };
        Some(ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: ServiceState::Stopped,
            controls_accepted: ServiceControlAccept::empty(),
            exit_code,
            checkpoint: 0,
            wait_hint: Duration::ZERO,
            process_id: None,
        })
    }

    /// The service's process; 0 where it has none, or none yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn process(&self) -> io::Result<u32> {
        let Some(service) = &self.service else { return Ok(0) };
        let mut status = SERVICE_STATUS_PROCESS::default();
        let mut needed = 0;
        // SAFETY: the structure is that of this level, and has the size that is given.
        let done = unsafe {
            QueryServiceStatusEx(
                service.raw_handle().cast(),
                SC_STATUS_PROCESS_INFO,
                (&raw mut status).cast(),
                size_of_u32::<SERVICE_STATUS_PROCESS>(),
                &raw mut needed,
            )
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(status.dwProcessId) }
    }

    fn reached(&self) -> io::Result<Option<ServiceStatus>> {
        Ok(Some(self.query()?).filter(|status| self.goal.is_reached(status.current_state)))
    }

    /// The service's status.
    ///
    /// # Errors
    /// What the system says.
    pub fn query(&self) -> io::Result<ServiceStatus> {
        match &self.service {
            Some(service) => service.query_status().map_err(into_io),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // This ends the notification; a call that is on its way comes to this thread now, or never.
        drop(self.service.take());
        // SAFETY: waits for no time at all.
        unsafe { SleepEx(0, 1) };
        // SAFETY: the block lives.
        let fired = unsafe { (*self.block).fired.get() };
        if !self.armed || fired {
            // SAFETY: it was made by `Box`, and nobody uses it any more.
            drop(unsafe { Box::from_raw(self.block) });
        }
        // Else a notification may be on its way still: Wine's is. A hundred bytes are the price of not being sure.
    }
}

/// The system's word. `parameter` is the structure that was given.
unsafe extern "system" fn fired(parameter: *const c_void) {
    let notify = parameter.cast::<SERVICE_NOTIFY_2W>();
    // SAFETY: the structure is the one that was given, in a block that lives until its notifications have ended, and its
    // context is the flag in the same block; this runs on the one thread that uses it.
    unsafe { (*(*notify).pContext.cast::<Cell<bool>>()).set(true) };
}

/// Waits until one of these objects is signalled, whatever the service does.
///
/// # Errors
/// What the system says.
pub fn wait_for_objects(objects: &[RawHandle]) -> io::Result<Woken> {
    loop {
        match wait_alertably(objects, INFINITE) {
            WAIT_IO_COMPLETION | WAIT_TIMEOUT => {}
            WAIT_FAILED => return Err(io::Error::last_os_error()),
            index => return Ok(Woken::Object((index - WAIT_OBJECT_0) as usize)),
        }
    }
}

fn wait_alertably(objects: &[RawHandle], time: u32) -> u32 {
    if objects.is_empty() {
        // SAFETY: takes a time.
        return match unsafe { SleepEx(time, 1) } {
            0 => WAIT_TIMEOUT,
            other => other,
        };
    }
    let count = u32::try_from(objects.len()).unwrap_or(u32::MAX);
    // SAFETY: there are as many handles as said, and the caller keeps them open.
    unsafe { WaitForMultipleObjectsEx(count, objects.as_ptr(), 0, time, 1) }
}

/// The system's own error, where the crate wraps one.
pub fn into_io(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}
