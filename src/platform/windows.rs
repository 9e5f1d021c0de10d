//! Windows. Who may read a file is not decided here yet: files get what their folder gives them.

use super::{Access, InitWord, Looseness, Shutdown};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// There is no such error on Windows.
pub const NO_CHILD: i32 = -1;

/// Opens a regular file for reading.
pub fn open_regular_file(path: &Path) -> io::Result<File> {
    if path.symlink_metadata()?.file_type().is_symlink() {
        return Err(io::Error::other("it is a symbolic link: name the file itself"));
    }
    let file = File::open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Whether others than its owner may read or change the file: not looked at here.
pub fn looseness(_file: &File) -> io::Result<Option<Looseness>> {
    Ok(None)
}

/// Takes the file away from everybody but its owner: the folder's access list decides here.
pub fn make_private(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Makes a file that must not exist.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Makes a folder that must not exist.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

/// A folder that one process at a time works in: until it is dropped, or the process is gone.
pub struct FolderLock(#[allow(dead_code)] File); // held, never looked at

/// Takes a folder for itself; waits while another process has it, and says so. A folder can't be locked itself: a file
/// in it that nobody else may open is, and is deleted with its last handle.
pub fn lock_folder(folder: &Path) -> io::Result<FolderLock> {
    const FILE_FLAG_DELETE_ON_CLOSE: u32 = 0x0400_0000;
    const ERROR_SHARING_VIOLATION: i32 = 32;
    const ERROR_ACCESS_DENIED: i32 = 5;
    const LOOK: Duration = Duration::from_millis(100);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).share_mode(0).custom_flags(FILE_FLAG_DELETE_ON_CLOSE);
    let path = folder.join(".start-worker-lock");
    let (mut waits, mut denials) = (false, 0);
    loop {
        match options.open(&path) {
            Ok(file) => return Ok(FolderLock(file)),
            Err(error) if error.raw_os_error() == Some(ERROR_SHARING_VIOLATION) => {
                if !waits {
                    tracing::info!("waiting for another process that works in {}", folder.display());
                }
                waits = true;
            }
            // So it is while the file is being deleted, which takes a moment.
            Err(error) if error.raw_os_error() == Some(ERROR_ACCESS_DENIED) && denials < 50 => denials += 1,
            Err(error) => return Err(error),
        }
        std::thread::sleep(LOOK);
    }
}

/// Links in archives are made on Unix only.
pub fn make_link(_target: &str, _link: &Path) -> io::Result<()> {
    Err(io::Error::other("links in archives are made on Unix only"))
}

/// Filesystems are not told apart here: a rename across two of them fails by itself.
pub fn device_of(_metadata: &Metadata) -> u64 {
    0
}

/// Unix permission bits mean nothing here.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    tracing::debug!("mode {mode:o} of {} means nothing on Windows", path.display());
    Ok(())
}

/// Gives a file to a user: not done here.
pub fn chown(_path: &Path, _owner: Option<&str>, _group: Option<&str>) -> io::Result<()> {
    Err(io::Error::other("owners cannot be set on Windows"))
}

/// Whether this may be done to a path, without doing it.
pub fn access(path: &Path, access: Access) -> io::Result<()> {
    let metadata = path.metadata()?;
    match access {
        Access::Execute if !metadata.is_file() => Err(io::Error::other("it is no file")),
        Access::Write if !metadata.is_dir() => Err(io::Error::other("it is no folder")),
        Access::Execute | Access::Write => Ok(()),
    }
}

/// Renames last by themselves here as far as the filesystem keeps its journal.
pub fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// There is no call for a whole filesystem without administrator's rights.
pub fn sync_filesystem(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// How long the operating system has been up, its sleep included.
pub fn up_time() -> Option<Duration> {
    // SAFETY: takes no argument and only reads a counter.
    let up = unsafe { windows_sys::Win32::System::SystemInformation::GetTickCount64() };
    Some(Duration::from_millis(up))
}

/// Job objects do this on Windows.
pub fn become_subreaper() {}

/// There is nothing to ask for on Windows.
pub fn prefer_to_survive() -> Option<String> {
    None
}

/// The command that shuts this host down, or reboots it.
pub fn shutdown_command(then: Shutdown) -> io::Result<Command> {
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
    let mut command = Command::new(PathBuf::from(root).join(r"System32\shutdown.exe"));
    let what = match then {
        Shutdown::Halt => "/s",
        Shutdown::Reboot => "/r",
    };
    command.args([what, "/t", "0", "/f"]);
    Ok(command)
}

/// Nobody listens here.
pub fn tell_init(_word: InitWord<'_>) {}

/// Nobody wants to hear that we are alive.
pub fn watchdog_interval() -> Option<Duration> {
    None
}
