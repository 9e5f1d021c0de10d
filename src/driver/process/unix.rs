//! A worker's process on Linux and its relatives: a process group of its own, clean signals, no descriptor of
//! ours, an end if we end, and every descendant accounted for.

use super::{ProcessSpec, Streams, WorkerExit};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpgrp, getpid, getppid};
use std::collections::BTreeSet;
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

/// A worker's process. Dropping it ends it: whoever loses it by a panic has nothing left to stop it with.
pub struct Process {
    pid: Pid,
    /// Children that we had before: whoever made us their parent, the worker didn't.
    others: BTreeSet<Pid>,
    ends: Stream,
    exit: Option<WorkerExit>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// Starts a process. Must be called on a thread that lives as long as we do: the parent-death signal is bound
    /// to the thread that starts the child.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(spec: &ProcessSpec) -> io::Result<(Self, Streams)> {
        let ends = tokio::signal::unix::signal(SignalKind::child())?;
        keep_descriptors_private();
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
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
        let others = children(false).into_iter().map(|(pid, _)| pid).collect();
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let missing = || io::Error::other("a standard stream is missing");
        let streams = Streams {
            input: Box::new(ChildStdin::from_std(child.stdin.take().ok_or_else(missing)?)?),
            output: Box::new(ChildStdout::from_std(child.stdout.take().ok_or_else(missing)?)?),
            errors: Box::new(ChildStderr::from_std(child.stderr.take().ok_or_else(missing)?)?),
        };
        Ok((Self { pid, others, ends, exit: None }, streams))
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
            self.ends.recv().await;
        }
    }

    /// Asks the process to finish what it does and end: SIGINT.
    pub fn interrupt(&self) {
        // Once it has ended its number may be somebody else's.
        if self.exit.is_none() {
            self.deliver(kill(self.pid, Signal::SIGINT), "SIGINT");
        }
    }

    /// Asks the process to end, and its group where it is a wrapper: SIGTERM.
    pub fn terminate(&self) {
        if self.exit.is_none() {
            self.deliver_to_group(Signal::SIGTERM, "SIGTERM");
        }
    }

    /// Ends the process and its group: SIGKILL.
    pub fn kill(&self) {
        if self.exit.is_none() {
            self.deliver_to_group(Signal::SIGKILL, "SIGKILL");
        }
    }

    /// The group, and the process by itself where it has left that.
    fn deliver_to_group(&self, signal: Signal, name: &str) {
        match killpg(self.pid, signal) {
            Err(Errno::ESRCH) => self.deliver(kill(self.pid, signal), name),
            result => self.deliver(result, name),
        }
    }

    fn deliver(&self, result: nix::Result<()>, signal: &str) {
        match result {
            // It is gone already, and we hear of that next.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::error!("cannot send {signal} to the worker (process {}): {error}", self.pid),
        }
    }

    /// Once the process has ended: ends every descendant that is left, and says which. Where a command of our own may
    /// be running, `spare_our_group` keeps it.
    pub async fn end_descendants(&mut self, spare_our_group: bool) {
        let mut named = BTreeSet::new();
        for _ in 0..REAP_ROUNDS {
            self.reap();
            let mut left = children(spare_our_group);
            left.retain(|(pid, _)| *pid != self.pid && !self.others.contains(pid));
            if left.is_empty() {
                return;
            }
            for (pid, name) in left {
                if named.insert(pid) {
                    tracing::warn!("the worker left the process {pid} ({name}) behind: ending it");
                }
                let _ = kill(pid, Signal::SIGKILL);
            }
            tokio::time::sleep(REAP_PAUSE).await;
        }
        tracing::error!("processes that the worker left behind do not end: {named:?}");
    }

    /// Takes note of the worker's end, and takes the remains of its orphaned descendants away.
    fn reap(&mut self) {
        if self.exit.is_none() {
            self.exit = wait_for(self.pid);
        }
        while let Some(pid) = ended_child() {
            let exit = wait_for(pid);
            if pid == self.pid {
                self.exit = self.exit.or(exit);
            } else {
                tracing::debug!("the orphaned process {pid} has ended");
            }
        }
    }
}

/// How a child ended, taking its remains away; `None` while it runs.
///
/// The system call itself, for its wrapper doesn't know real-time signals.
fn wait_for(pid: Pid) -> Option<WorkerExit> {
    let mut status = 0;
    // SAFETY: writes one integer, which is ours.
    match unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::WNOHANG) } {
        0 => None,
        // Somebody took the status away: that it has ended is all we know.
        -1 => (Errno::last() == Errno::ECHILD).then_some(WorkerExit::Code(1)),
        _ if libc::WIFEXITED(status) => Some(WorkerExit::Code(libc::WEXITSTATUS(status))),
        _ if libc::WIFSIGNALED(status) => Some(WorkerExit::Signal(libc::WTERMSIG(status))),
        _ => None,
    }
}

/// A child that has ended and whose remains nobody has taken away.
#[cfg(target_os = "linux")]
fn ended_child() -> Option<Pid> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a valid value, and what the call leaves where there is no such child.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes that structure, which is ours.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, options) };
    // SAFETY: the call succeeded, so the structure is that of a child's end.
    let pid = if result == 0 { unsafe { found.si_pid() } } else { 0 };
    (pid > 0).then(|| Pid::from_raw(pid))
}

/// Only Linux hands orphans to us.
#[cfg(not(target_os = "linux"))]
fn ended_child() -> Option<Pid> {
    None
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
    for number in (1..=64).filter(|number| ![libc::SIGKILL, libc::SIGSTOP].contains(number)) {
        // SAFETY: sets the default action, which is no handler of ours. Those that the C library keeps for itself are
        // refused, which changes nothing.
        unsafe { libc::signal(number, libc::SIG_DFL) };
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

/// Our children, such as descendants of the worker whose parents have ended.
fn children(spare_our_group: bool) -> Vec<(Pid, String)> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let (us, our_group) = (getpid(), getpgrp());
    let read = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
        let stat = fs::read(entry.path().join("stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        // `pid (name) state ppid pgrp …`: the name may hold anything, so it ends at the last parenthesis.
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.escape_debug().to_string();
        let mut fields = after.split_ascii_whitespace().skip(1);
        let parent: i32 = fields.next()?.parse().ok()?;
        let group: i32 = fields.next()?.parse().ok()?;
        let spared = spare_our_group && group == our_group.as_raw();
        (parent == us.as_raw() && !spared).then_some((pid, name))
    };
    processes.flatten().filter_map(read).collect()
}
