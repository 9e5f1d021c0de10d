//! Who started whom.
//!
//! Source: learn.microsoft.com, "Tool Help Library". A process keeps its parent's id when that has ended, and ids are used
//! again: so a parent that began after its child is none.

use crate::platform::{checked, size_of_u32};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::Arc;
use std::time::Duration;
use windows_sys::Win32::Foundation::{FILETIME, INVALID_HANDLE_VALUE, WAIT_TIMEOUT};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE,
    PROCESS_TERMINATE, TerminateProcess, WaitForSingleObject,
};

/// A process is at most so far below another one.
const DEEPEST: usize = 64;

/// How long a process may take to end that is about to.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// A process whose number is nobody else's while this lives, where we may look at it.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// Its number.
    pub id: u32,
    process: Option<Arc<OwnedHandle>>,
}

impl Pinned {
    /// That process.
    pub fn of(id: u32) -> Self {
        let process = open(id, PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION);
        if let Err(error) = &process {
            tracing::debug!("cannot look at the process {id}: {error}");
        }
        Self { id, process: process.ok().map(Arc::new) }
    }

    /// Its handle, to be waited for and asked for its exit code.
    pub fn handle(&self) -> Option<&OwnedHandle> {
        self.process.as_deref()
    }

    /// Whether it runs; where that can't be asked, it doesn't.
    pub fn runs(&self) -> bool {
        self.runs_after(Duration::ZERO)
    }

    /// Whether it still runs after that time: the end of a process that was ended takes a moment.
    fn runs_after(&self, patience: Duration) -> bool {
        let Some(process) = self.handle() else { return false };
        let patience = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(process.as_raw_handle(), patience) == WAIT_TIMEOUT }
    }

    /// When it began, in the system's units; also once it has ended.
    fn began(&self) -> Option<u64> {
        began(self.handle()?).ok()
    }

    /// Ends it. That it has ended already is as well.
    fn end(&self) {
        let ended = open(self.id, PROCESS_TERMINATE).and_then(|process| {
            // SAFETY: the handle is open.
            checked(unsafe { TerminateProcess(process.as_raw_handle(), super::KILLED) })
        });
        // One that is about to end can't be ended.
        if let Err(error) = ended
            && self.runs_after(LAST_MOMENT)
        {
            tracing::warn!("cannot end the process {}: {error}", self.id);
        }
    }

    /// Ends a worker whose service has ended.
    pub fn end_left_behind(&self) {
        if self.runs() {
            tracing::warn!("the service left its worker (process {}) behind: ending it", self.id);
            Tree::of(self.clone()).end();
        }
    }
}

/// A process and all that it, and what it started, has started. Whoever has been found stays pinned: so what one starts in its
/// last moment is found after its end as well, and nobody is taken for it who is given its number.
#[derive(Debug)]
pub struct Tree {
    root: Pinned,
    below: BTreeMap<u32, Pinned>,
    /// Who has been told to end.
    told: BTreeSet<u32>,
}

impl Tree {
    /// What is there of a process, and what will be.
    pub const fn of(root: Pinned) -> Self {
        Self { root, below: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// What is below the process, and runs.
    ///
    /// # Errors
    /// What the system says.
    pub fn running(&mut self) -> io::Result<Vec<u32>> {
        self.grow()?;
        Ok(self.below.values().filter(|process| process.runs()).map(|process| process.id).collect())
    }

    /// Looks for processes that those which are known have started, and those.
    fn grow(&mut self) -> io::Result<()> {
        let parents = parents()?;
        let mut found = BTreeMap::new();
        loop {
            let known = |id: &u32| match id {
                id if *id == self.root.id => Some(&self.root),
                id => self.below.get(id).or_else(|| found.get(id)),
            };
            let began_after =
                |child: &Pinned, parent: &Pinned| child.began() >= parent.began() && parent.began().is_some();
            let new: Vec<Pinned> = parents
                .iter()
                .filter(|(id, _)| known(id).is_none())
                .filter_map(|(id, parent)| Some((*id, known(parent)?)))
                .map(|(id, parent)| (Pinned::of(id), parent))
                .filter(|(child, parent)| began_after(child, parent))
                .map(|(child, _)| child)
                .collect();
            if new.is_empty() {
                break;
            }
            found.extend(new.into_iter().map(|process| (process.id, process)));
        }
        // A number may have become another process's before it was pinned.
        if !found.is_empty() {
            let again = self::parents()?;
            found.retain(|id, _| again.get(id).is_none_or(|parent| parents.get(id) == Some(parent)));
        }
        self.below.extend(found);
        Ok(())
    }

    /// Ends the process and all that is below it, the process first: so it starts no others.
    pub fn end(&mut self) {
        if self.root.runs() {
            self.root.end();
        }
        self.end_below();
    }

    /// Ends what is below the process, and what that starts meanwhile.
    pub fn end_below(&mut self) {
        const ROUNDS: u32 = 20;
        for _ in 0..ROUNDS {
            let untold: Vec<u32> = match self.running() {
                Ok(running) => running.into_iter().filter(|id| !self.told.contains(id)).collect(),
                Err(error) => return tracing::error!("cannot ask which processes there are: {error}"),
            };
            if untold.is_empty() {
                return;
            }
            for id in untold {
                self.below[&id].end();
                self.told.insert(id);
            }
        }
    }
}

/// Whether a process is another one, or was started by it or by a descendant of it.
///
/// # Errors
/// What the system says.
pub fn is_within(id: u32, ancestor: u32) -> io::Result<bool> {
    if id == ancestor {
        return Ok(true);
    }
    let parents = parents()?;
    Ok(climbs_to(id, ancestor, |id| parents.get(&id).copied().filter(|parent| began_before(*parent, id))))
}

fn climbs_to(id: u32, ancestor: u32, parent_of: impl Fn(u32) -> Option<u32>) -> bool {
    std::iter::successors(Some(id), |id| parent_of(*id)).take(DEEPEST).any(|id| id == ancestor)
}

/// A process's program, for the log.
pub fn name(id: u32) -> Option<String> {
    entries().ok()?.into_iter().find(|entry| entry.th32ProcessID == id).map(|entry| {
        let length = entry.szExeFile.iter().position(|unit| *unit == 0).unwrap_or(entry.szExeFile.len());
        String::from_utf16_lossy(&entry.szExeFile[..length]).escape_debug().to_string()
    })
}

fn parents() -> io::Result<HashMap<u32, u32>> {
    Ok(entries()?.into_iter().map(|entry| (entry.th32ProcessID, entry.th32ParentProcessID)).collect())
}

fn entries() -> io::Result<Vec<PROCESSENTRY32W>> {
    // SAFETY: takes two numbers; what comes back is a handle or an error.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    if snapshot == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the handle is open and ours alone.
    let snapshot = unsafe { OwnedHandle::from_raw_handle(snapshot) };
    let mut entry = PROCESSENTRY32W { dwSize: size_of_u32::<PROCESSENTRY32W>(), ..PROCESSENTRY32W::default() };
    let mut entries = Vec::new();
    // SAFETY: the handle is that of a snapshot, and the structure says its size.
    let mut more = unsafe { Process32FirstW(snapshot.as_raw_handle(), &raw mut entry) };
    while more != 0 {
        entries.push(entry);
        // SAFETY: the same.
        more = unsafe { Process32NextW(snapshot.as_raw_handle(), &raw mut entry) };
    }
    Ok(entries)
}

/// Whether one process began no later than another. Where that can't be asked, it didn't: whoever may start services may ask.
fn began_before(parent: u32, child: u32) -> bool {
    let began = |id| open(id, PROCESS_QUERY_LIMITED_INFORMATION).and_then(|process| began(&process));
    began(parent).is_ok_and(|parent| began(child).is_ok_and(|child| parent <= child))
}

fn began(process: &OwnedHandle) -> io::Result<u64> {
    let [mut creation, mut exit, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the handle is open; what is written are four times.
    let done = unsafe {
        GetProcessTimes(process.as_raw_handle(), &raw mut creation, &raw mut exit, &raw mut kernel, &raw mut user)
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(creation.dwHighDateTime) << 32 | u64::from(creation.dwLowDateTime))
}

/// A process that has ended says how.
///
/// # Errors
/// What the system says.
pub fn exit_code(process: &OwnedHandle) -> io::Result<u32> {
    let mut code = 0;
    // SAFETY: the handle is open; what is written is a number.
    match unsafe { GetExitCodeProcess(process.as_raw_handle(), &raw mut code) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(code),
    }
}

/// A process.
///
/// # Errors
/// What the system says.
pub fn open(id: u32, access: u32) -> io::Result<OwnedHandle> {
    // SAFETY: takes numbers; what comes back is a handle, which nobody inherits, or null.
    let handle = unsafe { OpenProcess(access, 0, id) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the handle is open and ours alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descent_is_followed_and_loops_end() {
        let parents = HashMap::from([(4, 3), (3, 2), (2, 1), (9, 8), (8, 9)]);
        let parent = |id: u32| parents.get(&id).copied();
        assert!(climbs_to(4, 2, parent));
        assert!(!climbs_to(2, 4, parent));
        assert!(!climbs_to(9, 2, parent));
        assert!(is_within(std::process::id(), std::process::id()).unwrap());
        assert!(name(std::process::id()).is_some_and(|name| name.contains("worker_runner")));
    }

    #[test]
    fn what_a_process_started_is_found_after_its_end() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut tree = Tree::of(Pinned::of(std::process::id()));
        let mut shell =
            Command::new("cmd.exe").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let first = shell.id();
        assert!(tree.running().unwrap().contains(&first));
        // Another one, which reads the same input.
        let mut input = shell.stdin.take().unwrap();
        input.write_all(b"cmd.exe\r\n").unwrap();
        // Its console may be its child as well.
        let is_shell = |id: u32| name(id).is_some_and(|name| name.eq_ignore_ascii_case("cmd.exe"));
        let started =
            || parents().unwrap().into_iter().find(|(id, parent)| *parent == first && is_shell(*id)).map(|(id, _)| id);
        let second = loop {
            match started() {
                Some(id) => break id,
                None => std::thread::yield_now(),
            }
        };
        shell.kill().unwrap();
        shell.wait().unwrap();
        drop(shell);
        let running = tree.running().unwrap();
        assert!(!running.contains(&first) && running.contains(&second), "{first}, {second}: {running:?}");
        let mut rest = Tree::of(Pinned::of(second));
        rest.end();
        assert!(!rest.root.runs_after(Duration::from_secs(60)));
    }
}
