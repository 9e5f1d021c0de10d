//! Attending to a worker's service, on a thread of its own: it is started, its worker and nobody else gets at the pipes, its
//! end is heard of, and it is left stopped.

use super::listening::Listening;
use super::pipe::{self, Direction};
use super::process_tree::{self, Pinned, Tree};
use super::service::{LAST_WORD, RIGHTS, STOPPED_FOR_GOOD, ServiceError, ServiceSpec, exit_of, find};
use crate::platform::{Descriptor, Goal, Sid, Waiter, Woken, into_io, says, wait_for_objects};
use std::cell::Cell;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle, RawHandle};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use windows_service::service::{Service as Handle, ServiceAccess, ServiceExitCode, ServiceState};
use windows_sys::Win32::Foundation::{
    ERROR_INVALID_SERVICE_CONTROL, ERROR_PROCESS_ABORTED, ERROR_SERVICE_CANNOT_ACCEPT_CTRL, ERROR_SERVICE_NOT_ACTIVE,
    WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Threading::WaitForSingleObject;

/// What the thread hands over once the worker has connected.
pub struct Connected {
    /// What the worker writes to.
    pub output: OwnedHandle,
    /// What it reads from.
    pub input: OwnedHandle,
    /// The worker's process.
    pub worker: Pinned,
    /// The service's.
    pub service: Pinned,
}

/// The thread's work: from a stopped service to one that has stopped, or that nobody waits for any more and is stopped.
pub fn attend(
    spec: &ServiceSpec,
    leave: &OwnedHandle,
    connected: oneshot::Sender<Result<Connected, ServiceError>>,
    ended: oneshot::Sender<ServiceExitCode>,
) {
    // Whether the service has ended, or was never started.
    let over = Cell::new(true);
    match connect(spec, leave, &over) {
        Ok(Some((parts, mut waiter))) => {
            let process = parts.service.clone();
            // Whoever waits for it no more has said so by `leave`.
            let _ = connected.send(Ok(parts));
            match wait_for_end(&mut waiter, leave, &process) {
                Ok(Some(exit)) => {
                    over.set(true);
                    let _ = ended.send(exit);
                }
                Ok(None) => {}
                Err(error) => tracing::error!("cannot wait for the end of the service `{}`: {error}", spec.name),
            }
        }
        Ok(None) => {}
        Err(error) => {
            stop_for_good(&spec.name, &over);
            let _ = connected.send(Err(error));
        }
    }
    stop_for_good(&spec.name, &over);
}

/// Leaves a service that was started and has not ended stopped: it may have to begin before it can be told to.
fn stop_for_good(name: &str, over: &Cell<bool>) {
    if over.replace(true) {
        return;
    }
    tracing::info!("stopping the service `{name}`");
    let deadline = Instant::now() + STOPPED_FOR_GOOD / 2;
    let wait = |goal| {
        let mut waiter = Waiter::new(find(name, ServiceAccess::QUERY_STATUS)?, goal);
        waiter.wait(&[], Some(deadline)).map_err(|source| ServiceError::System { name: name.to_owned(), source })
    };
    let stopped = (|| {
        // Where that can't be heard it is asked all the same.
        if let Ok(Woken::Reached(status)) = wait(Goal::Settled)
            && status.current_state == ServiceState::Stopped
        {
            return Ok(());
        }
        request_stop(name);
        if let Ok(Woken::Reached(_)) = wait(Goal::Stopped) {
            return Ok(());
        }
        end_processes(name)
    })();
    if let Err(error) = stopped {
        tracing::error!("{}", taskcluster_api::Chain(&error));
    }
}

/// Ends the processes of a service that does not stop.
///
/// # Errors
/// Where they can't be asked for.
pub fn end_processes(name: &str) -> Result<(), ServiceError> {
    let waiter = Waiter::new(find(name, ServiceAccess::QUERY_STATUS)?, Goal::Stopped);
    let process = waiter.process().map_err(|source| ServiceError::System { name: name.to_owned(), source })?;
    if process != 0 {
        tracing::warn!("the service `{name}` does not stop: ending its processes");
        Tree::of(Pinned::of(process)).end();
    }
    Ok(())
}

/// Asks once; where it has stopped meanwhile that is as well.
pub fn request_stop(name: &str) {
    let result = find(name, ServiceAccess::STOP).and_then(|service| stop(&service, name));
    if let Err(error) = result {
        tracing::error!("{}", taskcluster_api::Chain(&error));
    }
}

fn stop(service: &Handle, name: &str) -> Result<(), ServiceError> {
    match service.stop().map_err(into_io) {
        Ok(_) => Ok(()),
        Err(error) if says(&error, ERROR_SERVICE_NOT_ACTIVE) => Ok(()),
        Err(error)
            if [ERROR_SERVICE_CANNOT_ACCEPT_CTRL, ERROR_INVALID_SERVICE_CONTROL]
                .iter()
                .any(|code| says(&error, *code)) =>
        {
            tracing::warn!("the service `{name}` takes no stop now: is it starting, or stopping?");
            Ok(())
        }
        Err(source) => {
            Err(ServiceError::Control { name: name.to_owned(), action: "stop", right: "SERVICE_STOP", source })
        }
    }
}

/// Waits until the service has stopped, or its process has ended and the service manager says nothing of it.
fn wait_for_end(waiter: &mut Waiter, leave: &OwnedHandle, process: &Pinned) -> io::Result<Option<ServiceExitCode>> {
    let process = process.handle();
    let mut objects = vec![leave.as_raw_handle()];
    objects.extend(process.map(AsRawHandle::as_raw_handle));
    let woken = match (waiter.wait(&objects, None), process) {
        // Somebody deletes it, or the manager lost sight of us: its process is still there to be waited for.
        (Err(error), Some(_)) => {
            tracing::warn!("the service manager no longer says how the service does: {error}");
            wait_for_objects(&objects)?
        }
        (woken, _) => woken?,
    };
    match (woken, process) {
        (Woken::Reached(status), _) => Ok(Some(status.exit_code)),
        (Woken::Object(1), Some(process)) => {
            let last_word = waiter.wait(&objects[..1], Some(Instant::now() + LAST_WORD));
            match last_word {
                Ok(Woken::Reached(status)) => Ok(Some(status.exit_code)),
                Ok(Woken::Object(_)) => Ok(None),
                // A service that says nothing of its end has not ended in order.
                Ok(Woken::TimedOut) | Err(_) => {
                    Ok(Some(ServiceExitCode::Win32(match process_tree::exit_code(process)? {
                        0 => ERROR_PROCESS_ABORTED,
                        code => code,
                    })))
                }
            }
        }
        (Woken::Object(_) | Woken::TimedOut, _) => Ok(None),
    }
}

/// Starts the service and lets its worker connect; none where nobody waits for it any more.
fn connect(
    spec: &ServiceSpec,
    leave: &OwnedHandle,
    over: &Cell<bool>,
) -> Result<Option<(Connected, Waiter)>, ServiceError> {
    let ServiceSpec { name, protocol_pipe, stops_within, connects_within } = spec;
    let system = |source| ServiceError::System { name: name.clone(), source };
    let service = find(name, RIGHTS)?;
    if !make_stopped(&service, name, leave, *stops_within)? {
        return Ok(None);
    }
    let readers = account(&service).map_err(system)?;
    let access = Descriptor::of_pipe(&readers).map_err(system)?;
    let make = |suffix: &str, direction| {
        let name = format!("{protocol_pipe}{suffix}");
        let pipe = pipe::create(&name, direction, &access).and_then(Listening::begin);
        pipe.map_err(|source| ServiceError::Pipe { name, source })
    };
    // Named from the worker's side of the runner's Go program: it writes to `-input`.
    let (mut output, mut input) = (make("-input", Direction::ToUs)?, make("-output", Direction::FromUs)?);
    // SAFETY: the handle is that of an event, and open.
    if unsafe { WaitForSingleObject(leave.as_raw_handle(), 0) } == WAIT_OBJECT_0 {
        return Ok(None);
    }
    over.set(false);
    service.start::<&str>(&[]).map_err(|error| {
        over.set(true);
        let source = into_io(error);
        ServiceError::Control { name: name.clone(), action: "start", right: "SERVICE_START", source }
    })?;
    tracing::info!("started the service `{name}`: waiting for its worker at {protocol_pipe}-input and -output");
    let deadline = Instant::now() + *connects_within;
    let mut waiter = Waiter::new(find(name, ServiceAccess::QUERY_STATUS)?, Goal::Stopped);
    let mut process = None;
    while !(output.is_accepted() && input.is_accepted()) {
        let waiting: Vec<&mut Listening> =
            [&mut output, &mut input].into_iter().filter(|pipe| !pipe.is_accepted()).collect();
        let mut objects: Vec<RawHandle> = waiting.iter().map(|pipe| pipe.event.as_raw_handle()).collect();
        objects.push(leave.as_raw_handle());
        match waiter.wait(&objects, Some(deadline)).map_err(system)? {
            Woken::Reached(status) => {
                over.set(true);
                [&output, &input].into_iter().filter_map(|pipe| pipe.client.as_ref()).for_each(Pinned::end_left_behind);
                let (pipe, exit) = (protocol_pipe.clone(), exit_of(status.exit_code));
                return Err(ServiceError::Ended { name: name.clone(), pipe, exit });
            }
            Woken::TimedOut => {
                let (name, pipe) = (name.clone(), protocol_pipe.clone());
                return Err(ServiceError::Silent { name, pipe, patience: *connects_within });
            }
            Woken::Object(index) => {
                let Some(pipe) = waiting.into_iter().nth(index) else { return Ok(None) };
                // A wrapper may say only later that it runs, but has a process as soon as its child has.
                process = Some(waiter.process().map_err(system)?).filter(|id| *id != 0).map(Pinned::of);
                pipe.look(process.as_ref()).map_err(system)?;
            }
        }
    }
    // Whoever was accepted was found below the service's process.
    let (Some(worker), Some(service)) = (output.client.clone(), process) else { return Ok(None) };
    let (output, input) = (output.into_pipe().map_err(system)?, input.into_pipe().map_err(system)?);
    Ok(Some((Connected { output, input, worker, service }, waiter)))
}

/// Stops a service that runs; whether somebody still waits for it.
fn make_stopped(service: &Handle, name: &str, leave: &OwnedHandle, patience: Duration) -> Result<bool, ServiceError> {
    let system = |source| ServiceError::System { name: name.to_owned(), source };
    let deadline = Instant::now() + patience;
    let status = service.query_status().map_err(|error| system(into_io(error)))?;
    if status.current_state == ServiceState::Stopped {
        return Ok(true);
    }
    tracing::warn!("the service `{name}` runs already: stopping it first");
    for goal in [Goal::Settled, Goal::Stopped] {
        let mut waiter = Waiter::new(find(name, ServiceAccess::QUERY_STATUS)?, goal);
        match waiter.wait(&[leave.as_raw_handle()], Some(deadline)).map_err(system)? {
            Woken::Reached(status) if status.current_state == ServiceState::Stopped => return Ok(true),
            Woken::Reached(_) => stop(service, name)?,
            Woken::Object(_) => return Ok(false),
            Woken::TimedOut => return Err(ServiceError::Runs { name: name.to_owned(), patience }),
        }
    }
    Ok(true)
}

/// The account of a service that is not SYSTEM, which may use our pipes and read its configuration anyway.
///
/// # Errors
/// Where the configuration can't be read, or names an account that is not there.
pub fn account(service: &Handle) -> io::Result<Vec<Sid>> {
    let account = service.query_config().map_err(into_io)?.account_name.unwrap_or_default();
    match account.to_str() {
        Some("") => Ok(Vec::new()),
        Some(name) if name.eq_ignore_ascii_case("LocalSystem") => Ok(Vec::new()),
        Some(name) => Ok(vec![Sid::of_account(name)?]),
        None => Err(io::Error::other("its account's name is no Unicode")),
    }
}
