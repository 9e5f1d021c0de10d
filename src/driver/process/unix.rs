//! A worker's process on Linux and its relatives: a process group of its own, clean signals, no descriptor of
//! ours, an end if we end, and every descendant accounted for.

use super::launch::launch;
use super::{ProcessSpec, Streams, WorkerExit};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, getpid};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, PipeReader};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::signal::unix::{Signal as Stream, SignalKind};

/// How long the end of left-over descendants is waited for, in all.
const REAP_ROUNDS: u32 = 40;
const REAP_PAUSE: Duration = Duration::from_millis(50);

/// Whether a program that is terminated may end in order: SIGTERM can be handled.
pub const TERMINATION_IS_GENTLE: bool = true;

/// Whether a process can be interrupted: SIGINT always reaches it.
pub const fn can_interrupt() -> bool {
    true
}

/// Bytes of output that a worker may be ahead of us: so much less often either has to wait for the other.
#[cfg(target_os = "linux")]
const PIPE: libc::c_int = 256 * 1024;

/// Makes a pipe hold more. Where the system won't, it works as it is.
#[cfg(target_os = "linux")]
fn widen(pipe: &PipeReader) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
}

#[cfg(not(target_os = "linux"))]
fn widen(_: &PipeReader) {}

/// A worker's process. Dropping it ends it: whoever loses it by a panic has nothing left to stop it with.
pub struct Process {
    pid: Pid,
    /// Children that we had before: whoever made us their parent, the worker didn't.
    others: Vec<Pid>,
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
        let others = match look_at_children() {
            Children::None => Vec::new(),
            Children::Running | Children::Ended(_) => children(false).into_iter().map(|(pid, _)| pid).collect(),
        };
        let ((stdin, input), (output, stdout), (errors, stderr)) = (io::pipe()?, io::pipe()?, io::pipe()?);
        widen(&output);
        let streams = Streams {
            input: Box::new(Sender::from_owned_fd(input.into())?),
            output: Box::new(Receiver::from_owned_fd(output.into())?),
            errors: Box::new(Receiver::from_owned_fd(errors.into())?),
        };
        let pid = launch(spec, [stdin.into(), stdout.into(), stderr.into()])?;
        Ok((Self { pid, others, ends, exit: None }, streams))
    }

    /// The process id, for the log.
    pub fn id(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
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
            tracing::info!("the worker hears no messages: SIGINT asks it to finish its tasks");
            self.deliver(kill(self.pid, Signal::SIGINT), "SIGINT");
        }
    }

    /// Asks the process to end, and its group where it is a wrapper: SIGTERM.
    pub fn terminate(&self) {
        if self.exit.is_none() {
            tracing::info!("sending SIGTERM to the worker");
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
            if matches!(self.reap(), Children::None) {
                return;
            }
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

    /// Takes note of the worker's end, and takes the remains of its orphaned descendants away. Says what is left.
    fn reap(&mut self) -> Children {
        if self.exit.is_none() {
            self.exit = wait_for(self.pid);
        }
        loop {
            let pid = match look_at_children() {
                Children::Ended(pid) => pid,
                left @ (Children::None | Children::Running) => return left,
            };
            let exit = wait_for(pid);
            if pid == self.pid {
                self.exit = self.exit.or(exit);
            } else {
                tracing::debug!("the orphaned process {pid} has ended");
            }
        }
    }
}

/// What the system says of our children.
enum Children {
    /// There are none.
    None,
    /// There may be some that run.
    Running,
    /// One has ended, and nobody has taken its remains away.
    Ended(Pid),
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

/// Looks at our children, and takes nothing away.
fn look_at_children() -> Children {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a valid value, and what the call leaves where there is no such child.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes that structure, which is ours.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, options) } != 0 {
        return if Errno::last() == Errno::ECHILD { Children::None } else { Children::Running };
    }
    // SAFETY: the call succeeded, so the structure is that of a child's end.
    match unsafe { found.si_pid() } {
        // Only Linux hands orphans to us; elsewhere a child that is not the worker is whose who started it.
        pid if pid != 0 && cfg!(target_os = "linux") => Children::Ended(Pid::from_raw(pid)),
        _ => Children::Running,
    }
}

/// Makes sure that a child inherits none of the descriptors that we were started with.
fn keep_descriptors_private() {
    // Linux before 5.11, and a sandbox that doesn't know the call, are told one by one.
    #[cfg(target_os = "linux")]
    if keep_all_private() {
        return;
    }
    keep_each_private();
}

/// Whether the system could be told of all at once.
#[cfg(target_os = "linux")]
fn keep_all_private() -> bool {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // SAFETY: sets a flag of descriptors, and closes none.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) == 0 }
}

fn keep_each_private() {
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
        let name = before.split_once('(')?.1;
        let mut fields = after.split_ascii_whitespace().skip(1);
        let parent: i32 = fields.next()?.parse().ok()?;
        let group: i32 = fields.next()?.parse().ok()?;
        let spared = spare_our_group && group == our_group.as_raw();
        (parent == us.as_raw() && !spared).then(|| (pid, name.escape_debug().to_string()))
    };
    processes.flatten().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::dup;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_are_kept_private_all_at_once_or_each_by_itself() {
        let is_private = |descriptor: &std::os::fd::OwnedFd| {
            let flags = fcntl(descriptor, FcntlArg::F_GETFD).unwrap();
            FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
        };
        for keep_private in [keep_descriptors_private, keep_each_private] {
            let inherited = dup(std::io::stdin().as_fd()).unwrap();
            keep_private();
            assert!(is_private(&inherited));
        }
    }
}
