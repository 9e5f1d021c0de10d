//! What differs between operating systems, what is read from the environment, and whoever started us, behind one set of
//! names.
//! Starting and ending processes is `driver::process`'s part of the same.

#[cfg_attr(not(target_os = "linux"), path = "no_alarm.rs")]
mod alarm;
#[cfg(target_os = "linux")]
mod memory;
#[cfg_attr(not(target_os = "linux"), path = "no_memory_events.rs")]
mod memory_events;
mod service_manager;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as system;

pub use alarm::Alarm;
#[cfg(target_os = "linux")]
pub use memory::let_go;
pub use memory_events::{MemoryEvents, MemoryWatch};
#[cfg(windows)]
pub use service_manager::{Controls, LastWord, Scm};
pub use service_manager::{KeepAlive, ServiceManager, Word};
pub use system::{
    Lock, PRIVATE, Sid, access, become_subreaper, chown, create_file, create_for, device_of, filesystem_of,
    inherit_access, is_session_of_services, lock_folder, looseness, make_folder, make_link, make_private,
    open_regular_file, prefer_to_survive, remove_file, replace, require_trusted_owner, set_folder_mode, set_mode,
    shut_down, sync_filesystem, sync_folder, try_lock_file, up_time,
};
#[cfg(windows)]
pub use windows::{
    Descriptor, Goal, Waiter, Woken, checked, into_io, is_batch_file, let_read, let_write, make_private_folder, says,
    size_of_u32, wait_for_objects, who_else_may_change, wide,
};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The clock is looked at this often at least where nobody rings: a machine that slept has one that jumped, and timers that
/// did not see it.
pub const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

/// The machine's time zone. Where its rules lie in the usual place they are read from there: to find out the zone's name
/// means to look through all zones that there are, which takes as long as all the rest before the first request.
pub fn time_zone() -> TimeZone {
    #[cfg(unix)]
    if env::var_os("TZ").is_none()
        && let Ok(rules) = fs::read("/etc/localtime")
        && let Ok(zone) = TimeZone::tzif("local", &rules)
    {
        return zone;
    }
    TimeZone::system()
}

/// Lets go of memory that only the boot needed: where nobody knows how, nobody does.
#[cfg(not(target_os = "linux"))]
pub fn let_go() {}

/// Has the system read a file, or a folder's names, so that it need not be waited for later. What can't be read is not.
pub fn read_ahead(path: &Path) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        let _ = fs::read_dir(path).map(Iterator::count);
    } else if let Ok(file) = fs::File::open(path) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = io::copy(&mut &file, &mut io::sink());
    }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looseness {
    /// Whether it is ours to change that.
    pub ours: bool,
    /// What they have: `mode 644`, or `access for BUILTIN\Users`.
    pub access: String,
}

/// Who may read a new file or folder. On Unix each begins private, and gets its mode when it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// Its owner, and whoever may do everything.
    Private,
    /// Whoever may read what is in its folder.
    AsItsFolder,
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

/// Our environment, for a process that is to have it too: without what a service manager tells us alone.
pub fn environment() -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    env::vars_os().filter(|(name, _)| !service_manager::FOR_US_ALONE.iter().any(|ours| name == ours))
}

/// The folder for what is all the machine's. Source: learn.microsoft.com, "Recognized Environment Variables".
#[cfg(windows)]
pub fn program_data() -> std::ffi::OsString {
    env::var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into())
}

/// The folder for what must outlive us: the unit's (`StateDirectory=`), or that of this file where it names none.
///
/// Source: systemd.exec(5), `$STATE_DIRECTORY`: absolute paths, several of them separated by colons.
pub fn state_folder_or_beside(file: &Path) -> PathBuf {
    let folders = env::var_os("STATE_DIRECTORY").unwrap_or_default();
    let folder = env::split_paths(&folders).find(|folder| folder.is_absolute());
    folder.unwrap_or_else(|| folder_of(file).to_owned())
}

/// When the operating system came up: as the kernel keeps it, where it does.
pub fn system_boot_time() -> Option<Timestamp> {
    #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
    return system::boot_time();
    #[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
    Timestamp::now().checked_sub(jiff::SignedDuration::try_from(up_time()?).ok()?).ok()
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
            Ok(()) => set_folder_mode(folder, 0o755)?,
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
        .map(|file| with_extension(&file).unwrap_or(file))
        .find(|file| access(file, Access::Execute).is_ok())
}

/// The program that a path means where it leaves the extension out, as Windows' own shells allow.
pub fn with_extension(path: &Path) -> Option<PathBuf> {
    let missing = |path: &Path| cfg!(windows) && path.extension().is_none() && !path.is_file();
    let candidates = ["exe", "com", "bat", "cmd"].map(|extension| path.with_extension(extension));
    candidates.into_iter().find(|file| missing(path) && file.is_file())
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
