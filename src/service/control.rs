//! Starting, stopping and looking at the service.

use super::{ServiceError, require, require_ours};
use crate::platform::{Goal, Waiter, Woken, into_io, says};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use windows_service::service::{
    Service, ServiceAccess, ServiceExitCode, ServiceStartType, ServiceState, ServiceStatus,
};
use windows_sys::Win32::Foundation::{ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_NOT_ACTIVE};

/// The service runs from its first moment on, so this is for its process to begin.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong at once is wrong within this.
const FIRST_MOMENTS: Duration = Duration::from_millis(1500);

/// As long as its worker may take to end and more: whoever loses patience presses Ctrl-C, and it stops all the same.
const STOP_PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Starts the service; one that runs is as well.
///
/// # Errors
/// Why not, and that it has ended at once.
pub fn start(name: &str) -> Result<(), ServiceError> {
    let access = ServiceAccess::START | ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG;
    let service = require(name, access, "SERVICE_START")?;
    require_ours(&service, name)?;
    let failed = |source| control("starting", name, "SERVICE_START", source);
    match service.start::<&str>(&[]).map_err(into_io) {
        Ok(()) => {}
        Err(error) if says(&error, ERROR_SERVICE_ALREADY_RUNNING) => {
            return say(&format!("the service `{name}` runs already"));
        }
        Err(source) => return Err(failed(source)),
    }
    let wait = |goal, patience| {
        let service = require(name, ServiceAccess::QUERY_STATUS, "SERVICE_QUERY_STATUS")?;
        Waiter::new(service, goal).wait(&[], Some(Instant::now() + patience)).map_err(failed)
    };
    let mut woken = wait(Goal::Settled, START_PATIENCE)?;
    // It runs from its first moment on; what is wrong with its config or its machine shows soon.
    if let Woken::Reached(running) = &woken
        && running.current_state != ServiceState::Stopped
        && let ended @ Woken::Reached(_) = wait(Goal::Stopped, FIRST_MOMENTS)?
    {
        woken = ended;
    }
    match woken {
        Woken::Reached(status) if status.current_state == ServiceState::Stopped => {
            Err(ServiceError::Ended { name: name.to_owned(), exit: exit(status.exit_code) })
        }
        Woken::Reached(status) => say(&format!("the service `{name}` runs{}", process(&status))),
        Woken::Object(_) | Woken::TimedOut => {
            let seconds = START_PATIENCE.as_secs();
            Err(ServiceError::Slow { name: name.to_owned(), what: "has not begun", seconds })
        }
    }
}

/// Stops the service and waits until it has stopped; one that has is as well.
///
/// # Errors
/// Why not.
pub fn stop(name: &str) -> Result<(), ServiceError> {
    let access = ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG;
    let service = require(name, access, "SERVICE_STOP")?;
    require_ours(&service, name)?;
    stop_and_wait(&service, name)?;
    say(&format!("the service `{name}` has stopped"))
}

/// The same, for a service that is open.
///
/// # Errors
/// The same.
pub fn stop_and_wait(service: &Service, name: &str) -> Result<(), ServiceError> {
    let failed = |source| control("stopping", name, "SERVICE_STOP", source);
    let status = service.query_status().map_err(|error| failed(into_io(error)))?;
    if status.current_state == ServiceState::Stopped {
        return Ok(());
    }
    if status.current_state != ServiceState::StopPending {
        match service.stop().map_err(into_io) {
            Ok(_) => tracing::info!("the service `{name}` is stopping: its worker ends first"),
            Err(error) if says(&error, ERROR_SERVICE_NOT_ACTIVE) => return Ok(()),
            Err(source) => return Err(failed(source)),
        }
    }
    let mut waiter = Waiter::new(require(name, ServiceAccess::QUERY_STATUS, "SERVICE_QUERY_STATUS")?, Goal::Stopped);
    match waiter.wait(&[], Some(Instant::now() + STOP_PATIENCE)).map_err(failed)? {
        Woken::Reached(_) => Ok(()),
        Woken::Object(_) | Woken::TimedOut => {
            let seconds = STOP_PATIENCE.as_secs();
            Err(ServiceError::Slow { name: name.to_owned(), what: "does not stop", seconds })
        }
    }
}

/// Shows how the service does.
///
/// # Errors
/// Why that can't be asked.
pub fn status(name: &str) -> Result<(), ServiceError> {
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG;
    let service = require(name, access, "SERVICE_QUERY_STATUS")?;
    let failed = |error| control("looking at", name, "SERVICE_QUERY_STATUS", into_io(error));
    let (status, config) = (service.query_status().map_err(failed)?, service.query_config().map_err(failed)?);
    let state = match status.current_state {
        ServiceState::Stopped => format!("has stopped: {}", exit(status.exit_code)),
        ServiceState::Running => format!("runs{}", process(&status)),
        ServiceState::StopPending => format!("is stopping{}", process(&status)),
        ServiceState::StartPending | ServiceState::ContinuePending => format!("is starting{}", process(&status)),
        ServiceState::PausePending | ServiceState::Paused => "is paused".to_owned(),
    };
    let starts = match config.start_type {
        ServiceStartType::AutoStart => "with the machine",
        ServiceStartType::OnDemand => "when it is told to",
        ServiceStartType::Disabled => "not at all: it is disabled",
        ServiceStartType::SystemStart | ServiceStartType::BootStart => "as a driver does",
    };
    let account = config.account_name.map(|name| name.to_string_lossy().into_owned());
    let mut text = format!("the service `{name}` {state}\n");
    let _ = writeln!(text, "  starts   {starts}");
    let _ = writeln!(text, "  account  {}", account.as_deref().unwrap_or("LocalSystem"));
    let _ = write!(text, "  command  {}", config.executable_path.display());
    say(&text)
}

fn say(text: &str) -> Result<(), ServiceError> {
    writeln!(io::stdout(), "{text}").map_err(ServiceError::Output)
}

fn process(status: &ServiceStatus) -> String {
    status.process_id.map(|id| format!(" (process {id})")).unwrap_or_default()
}

/// How a service ended, for people.
fn exit(code: ServiceExitCode) -> String {
    /// The service has not been started since the machine came up.
    const NEVER_STARTED: u32 = 1077;
    match code {
        ServiceExitCode::Win32(0) => "told to, or with nothing to do about it; the log says which".to_owned(),
        ServiceExitCode::Win32(NEVER_STARTED) => "it has not been started since the machine came up".to_owned(),
        ServiceExitCode::Win32(code) => io::Error::from_raw_os_error(code.cast_signed()).to_string(),
        ServiceExitCode::ServiceSpecific(code) => format!("exit code {code} (README, \"Exit status\")"),
    }
}

fn control(action: &'static str, name: &str, right: &'static str, source: io::Error) -> ServiceError {
    ServiceError::Control { action, name: name.to_owned(), right, source }
}
