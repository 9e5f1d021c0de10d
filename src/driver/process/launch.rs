//! How a worker's process is made on Unix.
//!
//! A fork copies what is mapped here, and then every page that either side writes to. On Linux the child borrows our memory
//! instead until it runs its program, as that of `posix_spawn` does, which knows no parent-death signal.

use super::ProcessSpec;
use crate::platform;
use nix::libc;
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, getpid};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

/// Ours, and what is added to it.
fn environment(spec: &ProcessSpec) -> BTreeMap<OsString, OsString> {
    platform::environment().chain(spec.environment.iter().cloned()).collect()
}

/// Runs in the child, before its program: system calls only, for what else is in memory is not the child's alone.
fn prepare(parent: Pid, oom_score_adj: Option<&str>) -> io::Result<()> {
    // For SIGABRT the C library takes a lock, and we have no handler of it.
    for number in (1..=64).filter(|number| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGABRT].contains(number)) {
        // SAFETY: sets the default action, which is no handler of ours. Those that the C library keeps for itself are
        // refused, which changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    SigSet::empty().thread_set_mask()?;
    #[cfg(target_os = "linux")]
    {
        use nix::errno::Errno;
        use nix::fcntl::OFlag;
        use nix::sys::signal::Signal;
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        // We may have ended before the kernel was told.
        if nix::unistd::getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        if let Some(value) = oom_score_adj {
            let file = nix::fcntl::open(
                c"/proc/self/oom_score_adj",
                OFlag::O_WRONLY | OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )?;
            nix::unistd::write(file, value.as_bytes())?;
        }
    }
    let _ = (parent, oom_score_adj);
    Ok(())
}

/// Starts a program with clean signals, in a process group of its own, with these three as its standard streams.
///
/// # Errors
/// What the system says, to us or to the child. (Not to the child where an emulator makes a copy of us after all, such as
/// Valgrind: its exit code is 127 then.)
#[cfg(target_os = "linux")]
pub fn launch(spec: &ProcessSpec, [input, output, errors]: [OwnedFd; 3]) -> io::Result<Pid> {
    use nix::sched::{CloneFlags, clone};
    use nix::sys::signal::SigmaskHow;
    use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setpgid};
    use std::convert::Infallible;
    use std::ffi::{CString, OsStr};
    use std::iter::once;
    use std::os::unix::ffi::OsStrExt;
    use std::ptr;

    /// Of the child, until it runs its program. What isn't touched isn't there.
    const STACK: usize = 256 * 1024;

    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let words = once(spec.program.as_os_str()).chain(spec.arguments.iter().map(OsString::as_os_str)).map(text);
    let words = words.collect::<io::Result<Vec<CString>>>()?;
    let variables = environment(spec).into_iter().map(|(variable, value)| {
        // With room for all of it, and for the zero at its end.
        let mut pair = Vec::with_capacity(variable.len() + value.len() + 2);
        pair.extend_from_slice(variable.as_bytes());
        pair.push(b'=');
        pair.extend_from_slice(value.as_bytes());
        CString::new(pair).map_err(io::Error::from)
    });
    let variables = variables.collect::<io::Result<Vec<CString>>>()?;
    let pointers =
        |texts: &[CString]| -> Vec<_> { texts.iter().map(|text| text.as_ptr()).chain(once(ptr::null())).collect() };
    let (argv, envp) = (pointers(&words), pointers(&variables));

    let (parent, mut failure) = (getpid(), None);
    let run = || -> io::Result<Infallible> {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        dup2_stdin(&input)?;
        dup2_stdout(&output)?;
        dup2_stderr(&errors)?;
        prepare(parent, spec.oom_score_adj.as_deref())?;
        // SAFETY: both lists end with a null pointer, and what they point to outlives this call.
        unsafe { libc::execvpe(argv[0], argv.as_ptr(), envp.as_ptr()) };
        Err(io::Error::last_os_error())
    };
    let child = Box::new(|| {
        failure = run().err();
        127
    });
    let mut stack = vec![0; STACK];
    // A signal that the child gets must not run a handler of ours in memory of ours.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: this thread waits until the child has left our memory, so what it borrows is there and nobody else changes it. On
    // its own stack it makes system calls only, allocates nothing and takes no lock: an error of the system's is a number.
    let made = unsafe { clone(child, &mut stack, CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK, Some(libc::SIGCHLD)) };
    mask.thread_set_mask()?;
    let pid = made?;
    match failure {
        None => Ok(pid),
        Some(error) => {
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(error)
        }
    }
}

/// The same by the standard library, where nothing better is known.
///
/// # Errors
/// What the system says, to us or to the child.
#[cfg(not(target_os = "linux"))]
pub fn launch(spec: &ProcessSpec, [input, output, errors]: [OwnedFd; 3]) -> io::Result<Pid> {
    use std::os::unix::process::CommandExt;

    let mut command = std::process::Command::new(&spec.program);
    command.args(&spec.arguments).env_clear().envs(environment(spec)).process_group(0);
    command.stdin(input).stdout(output).stderr(errors);
    let (parent, oom_score_adj) = (getpid(), spec.oom_score_adj.clone());
    // SAFETY: it makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || prepare(parent, oom_score_adj.as_deref())) };
    let child = command.spawn()?;
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use super::{ProcessSpec, launch};
    use std::io::{self, ErrorKind, Read};

    fn start(program: &str, variable: &str) -> io::Result<String> {
        let ((stdin, _), (mut said, stdout), (_, stderr)) = (io::pipe()?, io::pipe()?, io::pipe()?);
        let spec = ProcessSpec {
            program: program.into(),
            arguments: vec!["-c".into(), r#"printf %s "$GIVEN""#.into()],
            environment: vec![("GIVEN".into(), variable.into())],
            oom_score_adj: None,
            crosses_sessions: false,
        };
        launch(&spec, [stdin.into(), stdout.try_clone()?.into(), stderr.into()])?;
        drop(stdout);
        let mut text = String::new();
        said.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        for program in ["sh", "/bin/sh"] {
            assert_eq!(start(program, "a=b").unwrap(), "a=b");
        }
    }

    #[test]
    fn what_cannot_be_run_is_an_error_and_no_exit_code() {
        for (program, kind) in [
            ("/nowhere/worker", ErrorKind::NotFound),
            ("no-such-worker", ErrorKind::NotFound),
            ("/", ErrorKind::PermissionDenied),
        ] {
            assert_eq!(start(program, "").unwrap_err().kind(), kind, "{program}");
        }
        assert_eq!(start("sh", "\0").unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
