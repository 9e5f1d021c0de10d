//! A worker's process on Linux and its relatives: a process group of its own, clean signals, no descriptor of
//! ours, an end if we end, and every descendant accounted for.

use super::{ProcessSpec, Streams, WorkerExit};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, killpg, signal};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getppid};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::signal::unix::{Signal as Stream, SignalKind};

/// How long the end of left-over descendants is waited for, in all.
const REAP_ROUNDS: u32 = 40;
const REAP_PAUSE: Duration = Duration::from_millis(50);

/// A worker's process. Dropping it doesn't end it.
pub struct Process {
    pid: Pid,
    children: Stream,
    exit: Option<WorkerExit>,
}

impl Process {
    /// Starts a process. Must be called on a thread that lives as long as we do: the parent-death signal is bound
    /// to the thread that starts the child.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(spec: &ProcessSpec) -> io::Result<(Self, Streams)> {
        let children = tokio::signal::unix::signal(SignalKind::child())?;
        keep_descriptors_private();
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let (parent, oom_score_adj) = (getpid(), spec.oom_score_adj.clone());
        // SAFETY: between fork and exec `prepare_child` makes system calls only; it allocates nothing and takes no
        // lock.
        unsafe {
            command.pre_exec(move || prepare_child(parent, oom_score_adj.as_deref()));
        }
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let missing = || io::Error::other("a standard stream is missing");
        let streams = Streams {
            input: Box::new(ChildStdin::from_std(child.stdin.take().ok_or_else(missing)?)?),
            output: Box::new(ChildStdout::from_std(child.stdout.take().ok_or_else(missing)?)?),
            errors: Box::new(ChildStderr::from_std(child.stderr.take().ok_or_else(missing)?)?),
        };
        Ok((Self { pid, children, exit: None }, streams))
    }

    /// The process id, for the log.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits for the end, and meanwhile for that of every descendant that became our child. Cancel-safe.
    pub async fn exited(&mut self) -> WorkerExit {
        loop {
            self.reap();
            if let Some(exit) = self.exit {
                return exit;
            }
            self.children.recv().await;
        }
    }

    /// Asks the process to end: SIGTERM.
    pub fn terminate(&self) {
        self.deliver(kill(self.pid, Signal::SIGTERM), "SIGTERM");
    }

    /// Ends the process and its group: SIGKILL.
    pub fn kill(&self) {
        self.deliver(killpg(self.pid, Signal::SIGKILL), "SIGKILL");
    }

    fn deliver(&self, result: nix::Result<()>, signal: &str) {
        match result {
            // It is gone already, and we hear of that next.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::error!("cannot send {signal} to the worker (process {}): {error}", self.pid),
        }
    }

    /// Once the process has ended: ends every descendant that is left, and says which.
    pub async fn end_descendants(&mut self) {
        for _ in 0..REAP_ROUNDS {
            self.reap();
            let left = adopted(self.pid);
            if left.is_empty() {
                return;
            }
            for (pid, name) in left {
                tracing::warn!("the worker left the process {pid} ({name}) behind: ending it");
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
            tokio::time::sleep(REAP_PAUSE).await;
        }
        tracing::error!("processes that the worker left behind do not end");
    }

    /// Takes note of ended children. Those of our own group are commands of ours, which somebody else waits for.
    #[cfg(target_os = "linux")]
    fn reap(&mut self) {
        use nix::sys::wait::{Id, waitid};
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(status) = waitid(Id::All, look) {
            match status.pid() {
                Some(pid) if pid == self.pid => self.note_exit(),
                Some(pid) if getpgid(Some(pid)) == Ok(getpgrp()) => return,
                Some(pid) => {
                    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                    tracing::debug!("the orphaned process {pid} has ended");
                }
                None => return,
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn reap(&mut self) {
        if self.exit.is_none() {
            self.note_exit();
        }
    }

    fn note_exit(&mut self) {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => self.exit = Some(WorkerExit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => self.exit = Some(WorkerExit::Signal(signal as i32)),
            Ok(_) => {}
            // Somebody took the status away: that it has ended is all we know.
            Err(Errno::ECHILD) => self.exit = self.exit.or(Some(WorkerExit::Code(1))),
            Err(error) => tracing::error!("cannot ask for the worker's status: {error}"),
        }
    }
}

/// Makes sure that a child inherits none of the descriptors that we were started with.
fn keep_descriptors_private() {
    let Ok(entries) = fs::read_dir("/proc/self/fd").or_else(|_| fs::read_dir("/dev/fd")) else { return };
    let numbers: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    for number in numbers {
        // SAFETY: the descriptor was open a moment ago. Where it has been closed since, this fails; where another
        // one took its number, that one is ours too and is to be private as well.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

/// Runs in the child, before the worker's program.
fn prepare_child(parent: Pid, oom_score_adj: Option<&str>) -> io::Result<()> {
    for number in 1..32 {
        if let Ok(number) = Signal::try_from(number)
            && number != Signal::SIGKILL
            && number != Signal::SIGSTOP
        {
            // SAFETY: sets the default action, which is no handler of ours.
            unsafe { signal(number, SigHandler::SigDfl) }?;
        }
    }
    SigSet::empty().thread_set_mask()?;
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        // We may have ended before the kernel was told.
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        if let Some(value) = oom_score_adj {
            let file =
                nix::fcntl::open(c"/proc/self/oom_score_adj", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            nix::unistd::write(file, value.as_bytes())?;
        }
    }
    let _ = (parent, oom_score_adj);
    Ok(())
}

/// Our children other than the worker and our own commands: descendants of the worker whose parents have ended.
fn adopted(worker: Pid) -> Vec<(Pid, String)> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let (us, our_group) = (getpid(), getpgrp());
    let read = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // `pid (name) state ppid pgrp …`: the name may hold anything, so it ends at the last parenthesis.
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let mut fields = after.split_ascii_whitespace().skip(1);
        let parent: i32 = fields.next()?.parse().ok()?;
        let group: i32 = fields.next()?.parse().ok()?;
        (parent == us.as_raw() && group != our_group.as_raw() && pid != worker).then_some((pid, name))
    };
    processes.flatten().filter_map(read).collect()
}
