//! A worker as our child: in a job of its own from its first instruction on, with no handle of ours but its streams.
//!
//! Source: learn.microsoft.com, "`CreateProcessW` function", "`UpdateProcThreadAttribute` function".

use super::job::Job;
use super::pipe::{self, Direction};
use super::process_tree::{self, Pinned, Tree};
use super::{KILLED, ProcessSpec, Streams, WorkerExit, can_interrupt, command_line, when_ended};
use crate::platform::{self, size_of_u32, wide};
use std::collections::BTreeSet;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;
use tokio::sync::oneshot;
use windows_sys::Win32::Foundation::{HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
use windows_sys::Win32::System::SystemInformation::GetSystemDirectoryW;
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, CREATE_SUSPENDED, CREATE_UNICODE_ENVIRONMENT, CreateProcessW,
    DeleteProcThreadAttributeList, EXTENDED_STARTUPINFO_PRESENT, InitializeProcThreadAttributeList,
    LPPROC_THREAD_ATTRIBUTE_LIST, PROC_THREAD_ATTRIBUTE_HANDLE_LIST, PROCESS_INFORMATION, ResumeThread,
    STARTF_USESTDHANDLES, STARTUPINFOEXW, TerminateProcess, UpdateProcThreadAttribute,
};

/// How long the end of left-over descendants is waited for, in all.
const END_ROUNDS: u32 = 40;
const END_PAUSE: Duration = Duration::from_millis(50);

/// Our child. Dropping it ends its job.
pub struct Child {
    job: Job,
    /// Where what it starts is not in the job.
    tree: Option<Tree>,
    /// For as long as this is open its number is nobody else's.
    process: OwnedHandle,
    id: u32,
    ended: oneshot::Receiver<()>,
    exit: Option<WorkerExit>,
}

impl Child {
    /// Starts a process.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(spec: &ProcessSpec) -> io::Result<(Self, Streams)> {
        let job = Job::new(spec.crosses_sessions)?;
        let (input, their_input) = pipe::pair(Direction::FromUs)?;
        let (output, their_output) = pipe::pair(Direction::ToUs)?;
        let (errors, their_errors) = pipe::pair(Direction::ToUs)?;
        let theirs = [their_input.as_handle(), their_output.as_handle(), their_errors.as_handle()];
        let suspended = create_suspended(spec, theirs)?;
        // It has not begun, so nothing that it starts escapes.
        job.assign(suspended.process.as_handle())?;
        let (process, id) = suspended.resume()?;
        let ended = when_ended(process.try_clone()?)?;
        let streams = Streams { input: Box::new(input), output: Box::new(output), errors: Box::new(errors) };
        let tree = spec.crosses_sessions.then(|| Tree::of(Pinned::of(id)));
        Ok((Self { job, tree, process, id, ended, exit: None }, streams))
    }

    /// The process id.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Waits for the end. Cancel-safe.
    pub async fn exited(&mut self) -> WorkerExit {
        if let Some(exit) = self.exit {
            return exit;
        }
        let _ = (&mut self.ended).await;
        let code = process_tree::exit_code(&self.process).unwrap_or_else(|error| {
            tracing::error!("cannot ask for the worker's exit code: {error}");
            1
        });
        let exit = WorkerExit::Code(code.cast_signed());
        self.exit = Some(exit);
        exit
    }

    /// Asks the process to finish what it does, where it shares a console with us: its group, which nobody else is in.
    pub fn interrupt(&self) {
        if self.exit.is_some() {
            return;
        }
        tracing::info!("the worker hears no messages: CTRL_BREAK asks it to finish its tasks");
        // SAFETY: takes two numbers.
        if unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, self.id) } == 0 {
            tracing::error!("cannot send CTRL_BREAK to the worker: {}", io::Error::last_os_error());
        }
    }

    /// Ends the process and all that it has started.
    pub fn kill(&mut self) {
        if let Err(error) = self.job.terminate(KILLED) {
            tracing::error!("cannot end the worker (process {}): {error}", self.id);
        }
        if let Some(tree) = &mut self.tree {
            tree.end_below();
        }
    }

    /// What there still is of what it has started.
    fn left(&mut self) -> io::Result<BTreeSet<u32>> {
        let mut left = BTreeSet::from_iter(self.job.processes()?);
        if let Some(tree) = &mut self.tree {
            left.extend(tree.running()?);
        }
        left.remove(&self.id);
        Ok(left)
    }

    /// Once the process has ended: ends what is left of its job, and says what that is.
    pub async fn end_descendants(&mut self) {
        let mut named = BTreeSet::new();
        for _ in 0..END_ROUNDS {
            let left = match self.left() {
                Ok(left) => left,
                Err(error) => {
                    tracing::error!("cannot ask which processes the worker left behind: {error}");
                    self.kill();
                    return;
                }
            };
            if left.is_empty() {
                return;
            }
            for id in left {
                let name = process_tree::name(id).unwrap_or_else(|| "?".to_owned());
                // A console's own process ends by itself.
                if named.insert(id) && !name.eq_ignore_ascii_case("conhost.exe") {
                    tracing::warn!("the worker left the process {id} ({name}) behind: ending it");
                }
            }
            self.kill();
            tokio::time::sleep(END_PAUSE).await;
        }
        tracing::error!("processes that the worker left behind do not end: {named:?}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // What is in the job ends with its handle.
        if self.tree.is_some() && self.exit.is_none() {
            self.kill();
        }
    }
}

/// A process that has not begun. Dropped like that, it never does.
struct Suspended {
    process: OwnedHandle,
    thread: OwnedHandle,
    id: u32,
    resumed: bool,
}

impl Suspended {
    fn resume(mut self) -> io::Result<(OwnedHandle, u32)> {
        // SAFETY: the handle is open.
        if unsafe { ResumeThread(self.thread.as_raw_handle()) } == u32::MAX {
            return Err(io::Error::last_os_error());
        }
        self.resumed = true;
        Ok((self.process.try_clone()?, self.id))
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        if !self.resumed {
            // SAFETY: the handle is open.
            unsafe { TerminateProcess(self.process.as_raw_handle(), KILLED) };
        }
    }
}

/// Creates a process that inherits these three handles and no other.
fn create_suspended(spec: &ProcessSpec, streams: [BorrowedHandle<'_>; 3]) -> io::Result<Suspended> {
    let (application, mut line) = command(spec)?;
    let environment = command_line::environment(platform::environment(), &spec.environment);
    let handles = streams.map(|stream| stream.as_raw_handle());
    for handle in handles {
        // They are named in the list below; this alone would give them to whatever else is started meanwhile, but nothing
        // else of ours starts processes.
        // SAFETY: the handle is open.
        if unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) } == 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let attributes = Attributes::with_handles(&handles)?;
    let mut startup = STARTUPINFOEXW::default();
    startup.StartupInfo.cb = size_of_u32::<STARTUPINFOEXW>();
    startup.StartupInfo.dwFlags = STARTF_USESTDHANDLES;
    [startup.StartupInfo.hStdInput, startup.StartupInfo.hStdOutput, startup.StartupInfo.hStdError] = handles;
    startup.lpAttributeList = attributes.list;
    // Without a console of ours it would get a window of its own.
    let window = if can_interrupt() { 0 } else { CREATE_NO_WINDOW };
    let how = CREATE_SUSPENDED
        | CREATE_NEW_PROCESS_GROUP
        | CREATE_UNICODE_ENVIRONMENT
        | EXTENDED_STARTUPINFO_PRESENT
        | window;
    let mut created = PROCESS_INFORMATION::default();
    // SAFETY: texts end with zeros, the command line is ours to be changed, the startup structure says its size and lives,
    // and so do the handles and the list that it names.
    let done = unsafe {
        CreateProcessW(
            application.as_ptr(),
            line.as_mut_ptr(),
            ptr::null(),
            ptr::null(),
            1,
            how,
            environment.as_ptr().cast(),
            ptr::null(),
            (&raw const startup).cast(),
            &raw mut created,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so both handles are open and ours alone.
    let (process, thread) =
        unsafe { (OwnedHandle::from_raw_handle(created.hProcess), OwnedHandle::from_raw_handle(created.hThread)) };
    Ok(Suspended { process, thread, id: created.dwProcessId, resumed: false })
}

/// The program to run, and its command line: a batch file is the shell's.
fn command(spec: &ProcessSpec) -> io::Result<(Vec<u16>, Vec<u16>)> {
    let program = spec.program.as_os_str();
    if !platform::is_batch_file(&spec.program) {
        return Ok((wide(program), command_line::of_program(program, &spec.arguments)));
    }
    let shell = system_folder()?.join("cmd.exe");
    let line = command_line::of_batch_file(shell.as_os_str(), program, &spec.arguments);
    let line = line.ok_or_else(|| {
        io::Error::other("a batch file's path and arguments may hold no quotes, percent signs and line breaks")
    })?;
    Ok((wide(shell), line))
}

fn system_folder() -> io::Result<PathBuf> {
    let mut buffer = [0_u16; 260];
    // SAFETY: the buffer has the size that is given.
    let length = unsafe { GetSystemDirectoryW(buffer.as_mut_ptr(), 260) } as usize;
    match buffer.get(..length) {
        Some(text @ [_, ..]) => Ok(Path::new(&String::from_utf16_lossy(text)).to_owned()),
        Some([]) | None => Err(io::Error::last_os_error()),
    }
}

/// What a new process gets beside the usual: the list of the handles that it inherits.
struct Attributes {
    /// In `memory`.
    list: LPPROC_THREAD_ATTRIBUTE_LIST,
    _memory: Vec<u64>,
}

impl Attributes {
    fn with_handles(handles: &[RawHandle; 3]) -> io::Result<Self> {
        let mut size = 0;
        // SAFETY: no list is given, so nothing but the size is written.
        unsafe { InitializeProcThreadAttributeList(ptr::null_mut(), 1, 0, &raw mut size) };
        let mut memory = vec![0_u64; size.div_ceil(8)];
        let list = memory.as_mut_ptr().cast();
        // SAFETY: the memory has the size that was asked for.
        if unsafe { InitializeProcThreadAttributeList(list, 1, 0, &raw mut size) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let attributes = Self { list, _memory: memory };
        // SAFETY: the list is whole. It keeps a pointer to the handles, which the caller keeps for as long as the list.
        let done = unsafe {
            UpdateProcThreadAttribute(
                list,
                0,
                PROC_THREAD_ATTRIBUTE_HANDLE_LIST as usize,
                handles.as_ptr().cast(),
                size_of_val(handles),
                ptr::null_mut(),
                ptr::null(),
            )
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the list was initialised, and nobody uses it any more.
        unsafe { DeleteProcThreadAttributeList(self.list) };
    }
}
