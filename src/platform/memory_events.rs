//! The kernel's word that memory ran out in our control group.
//!
//! Source: <https://docs.kernel.org/admin-guide/cgroup-v2.html>, `memory.events`: `oom_kill` counts the processes of
//! the group and those below it that the kernel ended; changes of the file are events that can be waited for.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The `memory.events` of a control group.
pub struct MemoryEvents {
    file: PathBuf,
    killed: u64,
}

/// Waits for changes of that file.
pub struct MemoryWatch(AsyncFd<OwnedFd>);

impl MemoryEvents {
    /// Those of the control group that we are in, where there is one with version 2 of the interface.
    pub fn ours() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let ours = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Self::at(&Path::new("/sys/fs/cgroup").join(ours).join("memory.events"))
    }

    /// Those in that file.
    pub fn at(file: &Path) -> Option<Self> {
        Some(Self { file: file.to_owned(), killed: killed(file)? })
    }

    /// Whether processes were ended since the last look.
    pub fn look(&mut self) -> bool {
        let Some(killed) = killed(&self.file) else { return false };
        std::mem::replace(&mut self.killed, killed) < killed
    }

    /// A watch on it.
    ///
    /// # Errors
    /// Where the system has none to give.
    pub fn watch(&self) -> io::Result<MemoryWatch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(&self.file, AddWatchFlags::IN_MODIFY)?;
        let descriptor = inotify.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by what it is handed to, and is never replaced there.
        Ok(MemoryWatch(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?))
    }
}

impl MemoryWatch {
    /// Waits for a change. Cancel-safe.
    ///
    /// # Errors
    /// Where the watch is broken.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let mut events = [0; 1024];
            match ready.try_io(|descriptor| Ok(nix::unistd::read(descriptor.get_ref(), &mut events)?)) {
                Ok(read) => return read.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

fn killed(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rise_of_oom_kill_is_heard_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        let write = |text: &str| fs::write(&file, text).unwrap();
        write("low 0\nhigh 3\noom 1\noom_kill 1\noom_group_kill 0\n");
        let mut events = MemoryEvents::at(&file).unwrap();
        let mut watch = events.watch().unwrap();
        assert!(!events.look());
        write("low 0\nhigh 4\noom 1\noom_kill 1\noom_group_kill 0\n");
        watch.changed().await.unwrap();
        assert!(!events.look());
        write("low 0\nhigh 4\noom 2\noom_kill 3\noom_group_kill 0\n");
        watch.changed().await.unwrap();
        assert!(events.look());
        assert!(!events.look());
        fs::remove_file(&file).unwrap();
        assert!(!events.look());
        assert!(MemoryEvents::at(&file).is_none());
    }
}
