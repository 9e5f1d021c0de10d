//! Linux and its relatives. macOS and FreeBSD are compiled, and nobody has tried them: launchd and rc hear nothing of how
//! we do, a worker that outlives us ends at its closed input, and descendants that leave its group are not found.

use super::{Access, Looseness, Privacy, Shutdown, find_program, folder_of};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::{AccessFlags, Gid, Group, Uid, User};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What a private file is, in a few words.
pub const PRIVATE: &str = "0600";

/// An account that a private file may be readable by: here nobody asks for that.
#[derive(Debug, Clone)]
pub enum Sid {}

/// Opens a regular file for reading: no link, no pipe, no device.
///
/// # Errors
/// What opening answers, or that the file is of another kind.
pub fn open_regular_file(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path)?.file_type().is_symlink() {
        return Err(io::Error::other("it is a symbolic link: name the file itself"));
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Whether others than its owner may read or change the file.
///
/// # Errors
/// What asking for it answers.
pub fn looseness(file: &File) -> io::Result<Option<Looseness>> {
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o7777;
    let ours = metadata.uid() == Uid::effective().as_raw();
    Ok((mode & 0o077 != 0).then(|| Looseness { ours, access: format!("mode {mode:03o}") }))
}

/// Whether a file is that of somebody who may decide what we do: not asked here, where folders of a system's own are its
/// own.
///
/// # Errors
/// Never.
pub fn require_trusted_owner(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Takes the file away from everybody but its owner.
///
/// # Errors
/// What changing the mode answers.
pub fn make_private(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Makes a file that only its owner may read, from its first byte on. It must not exist.
///
/// # Errors
/// What opening answers.
pub fn create_for(path: &Path, _readers: &[Sid]) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The same for a file that gets its mode when it is whole.
///
/// # Errors
/// The same.
pub fn create_file(path: &Path, _privacy: Privacy) -> io::Result<File> {
    create_for(path, &[])
}

/// Makes a folder that only its owner may enter until it gets its mode. It must not exist.
///
/// # Errors
/// What making it answers.
pub fn make_folder(path: &Path, _privacy: Privacy) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Deletes a file.
///
/// # Errors
/// What the filesystem answers.
pub fn remove_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Puts a file in the place of another one, or a file or folder where nothing is.
///
/// # Errors
/// What renaming answers.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// A file or folder that is one process's at a time: until it is dropped, or the process is gone.
pub struct Lock(#[allow(dead_code)] Flock<File>); // held, never looked at

/// Takes a file for this process; none where another has it.
///
/// # Errors
/// What opening it or taking it answers.
pub fn try_lock_file(path: &Path) -> io::Result<Option<Lock>> {
    match Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Takes a folder for itself; waits while another process has it, and says so.
///
/// # Errors
/// What opening it or taking it answers.
pub fn lock_folder(folder: &Path) -> io::Result<Lock> {
    match Flock::lock(File::open(folder)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Lock(lock)),
        Err((file, Errno::EWOULDBLOCK)) => {
            tracing::info!("waiting for another process that works in {}", folder.display());
            let mut file = file;
            loop {
                match Flock::lock(file, FlockArg::LockExclusive) {
                    Ok(lock) => return Ok(Lock(lock)),
                    Err((again, Errno::EINTR)) => file = again,
                    Err((_, error)) => return Err(error.into()),
                }
            }
        }
        Err((_, error)) => Err(error.into()),
    }
}

/// Makes a symbolic link.
///
/// # Errors
/// What making it answers.
pub fn make_link(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// The filesystem that a file is on.
pub fn device_of(metadata: &Metadata) -> u64 {
    metadata.dev()
}

/// The filesystem that a path is on.
///
/// # Errors
/// What looking at it answers.
pub fn filesystem_of(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| device_of(&metadata))
}

/// A file has no access of its folder's here.
///
/// # Errors
/// Never.
pub fn inherit_access(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Gives a file these permission bits, whatever the umask.
///
/// # Errors
/// What changing them answers.
pub fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

/// The same for a folder, and not for what a link in its place leads to: it may be in a folder of somebody else's.
///
/// # Errors
/// What opening it or changing them answers.
pub fn set_folder_mode(path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    set_mode(&OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?, mode)
}

/// Gives a file or folder to a user and a group, each by name or number.
///
/// # Errors
/// Where there is no such user or group, or it may not be given to them.
pub fn chown(path: &Path, owner: Option<&str>, group: Option<&str>, _privacy: Privacy) -> io::Result<()> {
    let unknown = |what: &str, name: &str| io::Error::other(format!("there is no {what} `{name}` on this machine"));
    let uid = owner.map(|name| match name.parse() {
        Ok(number) => Ok(Uid::from_raw(number)),
        Err(_) => User::from_name(name)?.map(|user| user.uid).ok_or_else(|| unknown("user", name)),
    });
    let gid = group.map(|name| match name.parse() {
        Ok(number) => Ok(Gid::from_raw(number)),
        Err(_) => Group::from_name(name)?.map(|group| group.gid).ok_or_else(|| unknown("group", name)),
    });
    let (uid, gid) = (uid.transpose()?, gid.transpose()?);
    std::os::unix::fs::lchown(path, uid.map(Uid::as_raw), gid.map(Gid::as_raw))
}

/// Whether this may be done to a path, without doing it.
///
/// # Errors
/// Why not.
pub fn access(path: &Path, access: Access) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    let flags = match access {
        Access::Execute if !metadata.is_file() => return Err(io::Error::other("it is no file")),
        // A shell would take it for a script that does nothing, and succeed.
        Access::Execute if metadata.len() == 0 => return Err(io::Error::other("it is empty")),
        Access::Execute => AccessFlags::X_OK,
        Access::Write if !metadata.is_dir() => return Err(io::Error::other("it is no folder")),
        Access::Write => AccessFlags::W_OK | AccessFlags::X_OK,
    };
    Ok(nix::unistd::access(path, flags)?)
}

/// Makes a rename in a folder last over a power cut.
///
/// # Errors
/// What opening or syncing the folder answers.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Makes everything written to the filesystem of this path last over a power cut.
///
/// # Errors
/// What opening or syncing answers.
pub fn sync_filesystem(path: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::unistd::syncfs(File::open(path)?)?;
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        nix::unistd::sync();
    }
    Ok(())
}

/// How long the operating system has been up, its sleep included.
pub fn up_time() -> Option<Duration> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    Some(nix::time::clock_gettime(clock).ok()?.into())
}

/// Makes descendants whose parents end our children, so that none is lost. Linux only; harmless elsewhere.
pub fn become_subreaper() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::debug!("cannot become a child subreaper: {error}");
    }
}

/// Asks the kernel to end any other process first when memory runs out, where that is permitted. The answer is
/// what the worker must be set back to.
pub fn prefer_to_survive() -> Option<String> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(FILE).ok()?;
    match fs::write(FILE, "-1000") {
        Ok(()) => Some(before.trim().to_owned()),
        Err(error) => {
            tracing::debug!("cannot set {FILE}: {error}");
            None
        }
    }
}

/// Whether this is the session of services, in which nobody is logged in. There is none here.
pub const fn is_session_of_services() -> bool {
    false
}

/// Shuts this host down, or reboots it. Returns when that is under way.
///
/// # Errors
/// Why it is not.
pub fn shut_down(then: Shutdown) -> io::Result<()> {
    let program: PathBuf = find_program("shutdown")
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no `shutdown` on PATH"))?;
    let arguments = match then {
        Shutdown::Halt => ["-h", "now"],
        Shutdown::Reboot => ["-r", "now"],
    };
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(io::Error::other(format!("shutdown ended with {status}"))),
        // Beside a worker every ended child is cleared away.
        Err(error) if error.raw_os_error() == Some(Errno::ECHILD as i32) => {
            Err(io::Error::other("how shutdown ended is not known"))
        }
        Err(error) => Err(error),
    }
}

/// When the operating system came up, as the kernel keeps it.
///
/// Source: `sysctl(3)`, `KERN_BOOTTIME`.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub fn boot_time() -> Option<jiff::Timestamp> {
    let mut time = nix::libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut size = size_of_val(&time);
    // SAFETY: the name ends with a zero, and the structure, which is that of this name, has the size that is given.
    let result = unsafe {
        nix::libc::sysctlbyname(
            c"kern.boottime".as_ptr(),
            (&raw mut time).cast(),
            &raw mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    (result == 0).then(|| jiff::Timestamp::from_second(time.tv_sec).ok()).flatten()
}
