//! Who started whom.
//!
//! Source: learn.microsoft.com, "Tool Help Library". A process keeps its parent's id when that has ended, and ids are used
//! again: so a parent that began after its child is none.

use crate::platform::{checked, size_of_u32};
use std::collections::HashMap;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
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

/// A process whose number is nobody else's while this lives, where we may look at it.
pub struct Pinned {
    /// Its number.
    pub id: u32,
    process: Option<OwnedHandle>,
}

impl Pinned {
    /// That process.
    pub fn of(id: u32) -> Self {
        let process = open(id, PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION);
        if let Err(error) = &process {
            tracing::debug!("cannot look at the process {id}: {error}");
        }
        Self { id, process: process.ok() }
    }

    /// Whether it runs; where that can't be asked, it doesn't.
    pub fn runs(&self) -> bool {
        let Some(process) = &self.process else { return false };
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(process.as_raw_handle(), 0) == WAIT_TIMEOUT }
    }

    /// Ends a worker whose service has ended.
    pub fn end_left_behind(&self) {
        if self.runs() {
            tracing::warn!("the service left its worker (process {}) behind: ending it", self.id);
            kill(self);
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

/// All that a process, and what it started, has started: also where it has ended, if somebody keeps its number.
///
/// # Errors
/// What the system says.
pub fn descendants(id: u32) -> io::Result<Vec<u32>> {
    let parents = parents()?;
    let parent_of = |id: u32| parents.get(&id).copied().filter(|parent| began_before(*parent, id));
    Ok(parents.keys().copied().filter(|other| *other != id && climbs_to(*other, id, parent_of)).collect())
}

/// Ends a process and all of its descendants, the process first: so it starts no others. What a descendant starts
/// meanwhile is found in another round.
pub fn kill(process: &Pinned) {
    const ROUNDS: u32 = 5;
    if process.runs() {
        kill_one(process.id);
    }
    for _ in 0..ROUNDS {
        match descendants(process.id) {
            Ok(below) if below.is_empty() => return,
            Ok(below) => below.into_iter().for_each(kill_one),
            Err(error) => return tracing::error!("cannot ask which processes there are: {error}"),
        }
    }
}

/// Ends one process. That it has ended already is as well.
pub fn kill_one(id: u32) {
    let killed = open(id, PROCESS_TERMINATE).and_then(|process| {
        // SAFETY: the handle is open.
        checked(unsafe { TerminateProcess(process.as_raw_handle(), super::KILLED) })
    });
    if let Err(error) = killed
        && is_there(id)
    {
        tracing::warn!("cannot end the process {id}: {error}");
    }
}

fn is_there(id: u32) -> bool {
    entries().is_ok_and(|entries| entries.iter().any(|entry| entry.th32ProcessID == id))
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
    began(parent).is_ok_and(|parent| began(child).is_ok_and(|child| parent <= child))
}

fn began(id: u32) -> io::Result<u64> {
    let process = open(id, PROCESS_QUERY_LIMITED_INFORMATION)?;
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
}
