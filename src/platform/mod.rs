//! What differs between operating systems and what is read from the environment, behind one set of names.
//! Starting and ending processes is `driver::process`'s part of the same.

#[cfg_attr(not(target_os = "linux"), path = "no_memory_events.rs")]
mod memory_events;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as system;

pub use memory_events::{MemoryEvents, MemoryWatch};
pub use system::{
    FolderLock, NO_CHILD, access, become_subreaper, chown, create_private, device_of, lock_folder, looseness,
    make_link, make_private, make_private_folder, open_regular_file, prefer_to_survive, set_mode, shutdown_command,
    sync_filesystem, sync_folder, tell_init, up_time, watchdog_interval,
};

use jiff::{SignedDuration, Timestamp};
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Something that the init system is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitWord<'a> {
    /// The worker has been started.
    Ready,
    /// What we are doing.
    Status(&'a str),
    /// We are ending.
    Stopping,
    /// What we are doing takes this much longer.
    Extend(Duration),
    /// We are alive.
    Alive,
}

/// What follows the end of the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Nothing.
    Halt,
    /// It comes up again.
    Reboot,
}

/// A file that others than its owner may read or change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looseness {
    /// Whether it is ours to change that.
    pub ours: bool,
    /// Its permission bits.
    pub mode: u32,
}

/// What [`access`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To execute a file.
    Execute,
    /// To make and replace files in a folder.
    Write,
}

/// The deployment and the credentials that Taskcluster's own variables name.
///
/// # Errors
/// Which variable is missing or wrong.
pub fn taskcluster_environment() -> Result<taskcluster_api::Environment, taskcluster_api::EnvironmentError> {
    taskcluster_api::Environment::read()
}

/// The value of `START_WORKER_LOG`.
pub fn log_level_from_environment() -> Option<String> {
    env::var("START_WORKER_LOG").ok().filter(|value| !value.is_empty())
}

/// The folder for what must outlive us: the unit's (`StateDirectory=`), or that of this file where it names none.
///
/// Source: systemd.exec(5), `$STATE_DIRECTORY`: absolute paths, several of them separated by colons.
pub fn state_folder_or_beside(file: &Path) -> PathBuf {
    let folders = env::var_os("STATE_DIRECTORY").unwrap_or_default();
    let folder = env::split_paths(&folders).find(|folder| folder.is_absolute());
    folder.unwrap_or_else(|| folder_of(file).to_owned())
}

/// When the operating system came up.
pub fn system_boot_time() -> Option<Timestamp> {
    Timestamp::now().checked_sub(SignedDuration::try_from(up_time()?).ok()?).ok()
}

/// Makes a folder and those above it that are missing, each 0755 whatever the umask.
///
/// # Errors
/// What making one answers.
pub fn make_folders(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Ok(()) => set_mode(folder, 0o755)?,
            // Somebody else made it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    if path.as_os_str().is_empty() || path.is_dir() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} is no folder", path.display())))
    }
}

/// A program in a folder of `PATH`, or in the folders where such programs usually are.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(usual)
        .map(|folder| folder.join(name))
        .find(|file| access(file, Access::Execute).is_ok())
}

/// The one spelling of a path whose last part need not exist.
pub fn resolve(path: &Path) -> PathBuf {
    let folder = fs::canonicalize(folder_of(path)).unwrap_or_else(|_| folder_of(path).to_owned());
    path.file_name().map_or(folder.clone(), |name| folder.join(name))
}

/// The folder that a path's last part is in; the working folder for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("."),
    }
}
