//! What simulated machines and workers need of Windows: a service that wraps a worker as NSSM does, pipes instead of
//! standard streams, Ctrl-C on somebody else's console, and a shutdown that doesn't happen.

use crate::worker::{PIPE, SCRIPT};
use clap::Args;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::windows::io::IntoRawHandle;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::{define_windows_service, service_dispatcher};
use windows_sys::Win32::Foundation::{CloseHandle, HANDLE};
use windows_sys::Win32::Storage::FileSystem::GetFinalPathNameByHandleW;
use windows_sys::Win32::System::Console::{
    AttachConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, GetStdHandle, STD_INPUT_HANDLE,
    STD_OUTPUT_HANDLE, SetConsoleCtrlHandler, SetStdHandle,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::core::{s, w};

/// Whether this is Wine, which is no machine that could be shut down.
pub fn is_wine() -> bool {
    // SAFETY: the name ends with a zero, and every process has this library.
    let library = unsafe { GetModuleHandleW(w!("ntdll.dll")) };
    // SAFETY: the library stays loaded, and the name ends with a zero.
    !library.is_null() && unsafe { GetProcAddress(library, s!("wine_get_version")) }.is_some()
}

/// What this process reads and writes as its standard streams goes over two pipes from now on.
///
/// # Errors
/// Where they can't be opened.
pub fn talk_over(pipe: &str) -> io::Result<()> {
    let output = OpenOptions::new().write(true).open(format!("{pipe}-input"))?;
    let input = OpenOptions::new().read(true).open(format!("{pipe}-output"))?;
    for (number, file) in [(STD_OUTPUT_HANDLE, output), (STD_INPUT_HANDLE, input)] {
        // SAFETY: the handle is open, and given away.
        if unsafe { SetStdHandle(number, file.into_raw_handle()) } == 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Closes a standard stream of this process.
pub fn close_stream(input: bool) {
    let number = if input { STD_INPUT_HANDLE } else { STD_OUTPUT_HANDLE };
    // SAFETY: nothing in this process uses the stream after this.
    unsafe { CloseHandle(GetStdHandle(number)) };
}

/// The path of the file that a handle of this process is, or `none`.
pub fn path_of(handle: i64) -> String {
    let mut path = [0_u16; 1024];
    let handle = usize::try_from(handle).unwrap_or(0) as HANDLE;
    // SAFETY: the buffer has the size that is given; a handle that is none is refused.
    let length = unsafe { GetFinalPathNameByHandleW(handle, path.as_mut_ptr(), 1024, 0) } as usize;
    match path.get(..length) {
        Some(path @ [_, ..]) => String::from_utf16_lossy(path),
        Some([]) | None => "none".to_owned(),
    }
}

/// Presses Ctrl-C on the console of a process.
///
/// # Errors
/// What the system says.
pub fn press_ctrl_c(process: u32) -> io::Result<()> {
    let done = |result: i32| if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: each takes numbers; this process, which does nothing else, ignores the event itself.
    unsafe {
        FreeConsole();
        done(AttachConsole(process))?;
        done(SetConsoleCtrlHandler(None, 1))?;
        done(GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0))
    }
}

/// How a worker's service behaves.
#[derive(Debug, Clone, Args)]
pub struct WorkerServiceOptions {
    /// The service's name
    #[arg(long)]
    pub name: String,

    /// The worker's script
    #[arg(long)]
    pub script: PathBuf,

    /// The pipes that the worker talks over; none has it talk to nobody
    #[arg(long)]
    pub pipe: Option<String>,

    /// The worker's configuration
    #[arg(long)]
    pub config: PathBuf,

    /// Begin the worker once this file is there
    #[arg(long, value_name = "FILE")]
    pub after: Option<PathBuf>,

    /// Say only this long after the worker's start that it runs
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    pub start_takes: u64,

    /// Take this long to stop
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    pub stop_takes: u64,
}

define_windows_service!(service_entry, service_main);

/// Runs a worker as the service control manager's service does that wraps one.
///
/// # Errors
/// Where this process is no service's.
pub fn be_worker_service(options: &WorkerServiceOptions) -> io::Result<()> {
    service_dispatcher::start(&options.name, service_entry).map_err(io::Error::other)
}

/// Of this process's arguments only, which are read again: nothing else reaches this thread.
fn service_main(_: Vec<OsString>) {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }
    #[derive(clap::Subcommand)]
    enum Command {
        WorkerService(WorkerServiceOptions),
    }
    if let Ok(Cli { command: Command::WorkerService(options) }) = clap::Parser::try_parse() {
        // Whoever waits for the service sees that it ended.
        let _ = wrap(&options);
    }
}

fn wrap(options: &WorkerServiceOptions) -> io::Result<()> {
    let (stop, stops) = mpsc::channel();
    let handler = move |control| match control {
        ServiceControl::Stop => {
            let _ = stop.send(());
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let status = service_control_handler::register(&options.name, handler).map_err(io::Error::other)?;
    let first = if options.start_takes > 0 { ServiceState::StartPending } else { ServiceState::Running };
    report(status, first, ServiceExitCode::NO_ERROR)?;
    while options.after.as_ref().is_some_and(|file| !file.exists()) {
        if stops.recv_timeout(Duration::from_millis(20)).is_ok() {
            return report(status, ServiceState::Stopped, ServiceExitCode::NO_ERROR);
        }
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--config"]).arg(&options.config).arg("--with-worker-runner");
    command.env(SCRIPT, fs::read_to_string(&options.script)?);
    if let Some(pipe) = &options.pipe {
        command.env(PIPE, pipe);
    }
    let mut worker = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    if options.start_takes > 0 {
        std::thread::sleep(Duration::from_millis(options.start_takes));
        report(status, ServiceState::Running, ServiceExitCode::NO_ERROR)?;
    }
    let exit = loop {
        if let Some(exit) = worker.try_wait()? {
            break exit.code().unwrap_or(1);
        }
        match stops.recv_timeout(Duration::from_millis(20)) {
            Ok(()) => {
                report(status, ServiceState::StopPending, ServiceExitCode::NO_ERROR)?;
                std::thread::sleep(Duration::from_millis(options.stop_takes));
                worker.kill()?;
                worker.wait()?;
                break 0;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break 1,
        }
    };
    let exit = match exit {
        0 => ServiceExitCode::NO_ERROR,
        code => ServiceExitCode::ServiceSpecific(code.cast_unsigned()),
    };
    report(status, ServiceState::Stopped, exit)
}

fn report(handle: ServiceStatusHandle, state: ServiceState, exit: ServiceExitCode) -> io::Result<()> {
    let accepts =
        if state == ServiceState::Running { ServiceControlAccept::STOP } else { ServiceControlAccept::empty() };
    handle
        .set_service_status(ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: state,
            controls_accepted: accepts,
            exit_code: exit,
            checkpoint: u32::from(state == ServiceState::StopPending),
            wait_hint: Duration::from_secs(30),
            process_id: None,
        })
        .map_err(io::Error::other)
}
