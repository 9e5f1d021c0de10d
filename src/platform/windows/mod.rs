//! Windows.

mod account;
mod privilege;
mod security;
mod service_status;
mod text;

pub use account::Sid;
pub use security::{Descriptor, inherit as inherit_access, let_read, let_write};
pub use service_status::{Goal, Waiter, Woken, into_io, wait_for_objects};
pub use text::wide;

use super::{Looseness, Privacy, Shutdown};
use security::Access;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;
use std::thread;
use std::time::Duration;
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION, ERROR_SHUTDOWN_IN_PROGRESS,
    ERROR_SHUTDOWN_IS_SCHEDULED, GENERIC_WRITE, INVALID_HANDLE_VALUE, MAX_PATH,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_DELETE_ON_CLOSE, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_TYPE_DISK, GetFileType,
    GetVolumeNameForVolumeMountPointW, GetVolumePathNameW, MOVEFILE_REPLACE_EXISTING, MOVEFILE_WRITE_THROUGH,
    MoveFileExW, READ_CONTROL, ReOpenFile, WRITE_DAC,
};
use windows_sys::Win32::System::RemoteDesktop::ProcessIdToSessionId;
use windows_sys::Win32::System::Shutdown::{
    AbortSystemShutdownW, InitiateSystemShutdownExW, SHTDN_REASON_FLAG_PLANNED, SHTDN_REASON_MAJOR_APPLICATION,
    SHTDN_REASON_MINOR_MAINTENANCE,
};
use windows_sys::Win32::System::SystemInformation::GetTickCount64;
use windows_sys::Win32::System::WindowsProgramming::GetComputerNameW;

/// What a private file is, in a few words.
pub const PRIVATE: &str = "private";

/// Virus scanners and backups hold a new file open for moments: what is refused for that is tried again after these
/// pauses, about two seconds in all.
const SHARING_PAUSES: [u64; 7] = [10, 30, 100, 200, 400, 600, 700];

/// What the system says of a file that somebody holds open; access is denied also to one that is being deleted.
const HELD: [u32; 3] = [ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION, ERROR_ACCESS_DENIED];

/// Opens a regular file for reading: no link, no pipe, no device.
///
/// # Errors
/// What opening answers, or that the file is of another kind.
pub fn open_regular_file(path: &Path) -> io::Result<File> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Err(io::Error::other("it is a symbolic link: name the file itself"));
    }
    // The system's word for opening a folder is that access is denied.
    if kind.is_dir() {
        return Err(io::Error::other("it is no regular file"));
    }
    let file = patiently(&[ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION], || File::open(path))?;
    // SAFETY: the handle is open.
    let is_disk = unsafe { GetFileType(file.as_raw_handle()) } == FILE_TYPE_DISK;
    if is_disk && file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Whether others than its owner, SYSTEM and the administrators may read or change the file.
///
/// # Errors
/// What asking for it answers.
pub fn looseness(file: &File) -> io::Result<Option<Looseness>> {
    let Holders { is_ours, others, .. } = Holders::of(file)?;
    Ok((!others.is_empty()).then(|| Looseness { ours: is_ours, access: format!("access for {}", names(&others)) }))
}

/// Who may do something with a file, beside us, SYSTEM and the administrators.
struct Holders {
    /// Whether it belongs to one of those.
    is_ours: bool,
    /// Single accounts that may read it and no more, for which somebody must have said so: such as that of a service.
    readers: Vec<Sid>,
    /// Everybody else.
    others: Vec<Sid>,
}

impl Holders {
    fn of(file: &File) -> io::Result<Self> {
        let Access { is_ours, others: changing } = Access::of(file.as_handle(), security::CHANGING, &[])?;
        let telling = Access::of(file.as_handle(), security::TELLING, &[])?.others;
        let is_reader = |sid: &Sid| !changing.contains(sid) && sid.is_one_account();
        let (readers, others) = telling.into_iter().partition(is_reader);
        Ok(Self { is_ours, readers, others })
    }
}

fn names(accounts: &[Sid]) -> String {
    accounts.iter().map(Sid::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether a file is that of somebody who may decide what we do: ours, SYSTEM's, or the administrators'.
///
/// # Errors
/// That it is not.
pub fn require_trusted_owner(file: &File) -> io::Result<()> {
    let Access { is_ours, others } = Access::of(file.as_handle(), security::CHANGING, &[])?;
    if is_ours {
        if !others.is_empty() {
            // As the Go program left its own.
            tracing::warn!("what is kept of an earlier boot may have been changed by {}", names(&others));
        }
        Ok(())
    } else {
        Err(io::Error::other("it belongs to an account that is neither ours nor an administrator's"))
    }
}

/// Who else than us, SYSTEM and the administrators may change a file, or what is in a folder; none where nobody may.
///
/// # Errors
/// What asking for it answers.
pub fn who_else_may_change(path: &Path) -> io::Result<Option<String>> {
    let file = OpenOptions::new().access_mode(READ_CONTROL).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)?;
    let others = Access::of(file.as_handle(), security::CHANGING, &[])?.others;
    Ok((!others.is_empty()).then(|| names(&others)))
}

/// Takes the file away from everybody but its owner, SYSTEM, the administrators, and single accounts that may only read it.
///
/// # Errors
/// What the system answers; and where the filesystem keeps no access lists.
pub fn make_private(file: &File) -> io::Result<()> {
    // It was opened for reading. The same file again, whatever its name means by now.
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    // SAFETY: the handle is open; what comes back is a handle or an error.
    let again = unsafe { ReOpenFile(file.as_raw_handle(), READ_CONTROL | WRITE_DAC, share, 0) };
    if again == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the handle is open and ours alone.
    let again = unsafe { OwnedHandle::from_raw_handle(again) };
    let readers = Holders::of(file)?.readers;
    Descriptor::private_file(&readers)?.apply(again.as_handle())?;
    require_private(&again, &readers)
}

/// Makes a file that only its owner, SYSTEM, the administrators and these accounts may read, from its first byte on. It
/// must not exist.
///
/// # Errors
/// What the system answers; and where the filesystem keeps no access lists.
pub fn create_for(path: &Path, readers: &[Sid]) -> io::Result<File> {
    let (name, descriptor) = (text::wide_path(path)?, Descriptor::private_file(readers)?);
    let attributes = descriptor.attributes();
    // SAFETY: the name ends with a zero, the attributes and their descriptor live; what comes back is a handle or an error.
    let handle = unsafe {
        CreateFileW(
            name.as_ptr(),
            GENERIC_WRITE | READ_CONTROL,
            FILE_SHARE_READ | FILE_SHARE_DELETE,
            &raw const attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            ptr::null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the handle is open and ours alone.
    let handle = unsafe { OwnedHandle::from_raw_handle(handle) };
    if let Err(error) = require_private(&handle, readers) {
        drop(handle);
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(handle.into())
}

/// What was set is read back: FAT keeps no access lists, and says so to nobody.
fn require_private(file: &OwnedHandle, readers: &[Sid]) -> io::Result<()> {
    let access = Access::of(file.as_handle(), security::TELLING, readers)?;
    match access.others.first() {
        None => Ok(()),
        Some(other) => Err(io::Error::other(format!(
            "it would not be private, for {other} may read or change it: is it on a filesystem without access lists?"
        ))),
    }
}

/// Makes a file, which must not exist: private, or with the access that its folder gives.
///
/// # Errors
/// What the system answers.
pub fn create_file(path: &Path, privacy: Privacy) -> io::Result<File> {
    match privacy {
        Privacy::Private => create_for(path, &[]),
        Privacy::AsItsFolder => OpenOptions::new().write(true).create_new(true).open(path),
    }
}

/// Makes a folder, which must not exist: private, also for what is made in it, or with the access that its own folder
/// gives.
///
/// # Errors
/// What the system answers.
pub fn make_folder(path: &Path, privacy: Privacy) -> io::Result<()> {
    if privacy == Privacy::AsItsFolder {
        return fs::create_dir(path);
    }
    make_private_folder(path)
}

/// Makes a folder, which must not exist, that only its owner, SYSTEM and the administrators may look into, and so for all
/// that is made in it.
///
/// # Errors
/// What the system answers.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    let (name, descriptor) = (text::wide_path(path)?, Descriptor::private_folder()?);
    let attributes = descriptor.attributes();
    // SAFETY: the name ends with a zero, the attributes and their descriptor live.
    checked(unsafe { CreateDirectoryW(name.as_ptr(), &raw const attributes) })
}

/// Deletes a file.
///
/// # Errors
/// What the system answers, when others have held it open for too long.
pub fn remove_file(path: &Path) -> io::Result<()> {
    patiently(&HELD, || fs::remove_file(path))
}

/// Puts a file in the place of another one, or a file or folder where nothing is.
///
/// # Errors
/// What the system answers, when others have held it open for too long.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    // A folder replaces nothing.
    let how = if from.is_dir() { MOVEFILE_WRITE_THROUGH } else { MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH };
    let (from, to) = (text::wide_path(from)?, text::wide_path(to)?);
    patiently(&HELD, || {
        // SAFETY: both names end with a zero.
        checked(unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), how) })
    })
}

/// Does something to a file that others may hold open for a moment, which these errors say.
fn patiently<T>(held: &[u32], mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut pauses = SHARING_PAUSES.into_iter();
    loop {
        match action() {
            Err(error) if error.raw_os_error().is_some_and(|code| held.contains(&code.cast_unsigned())) => {
                match pauses.next() {
                    Some(pause) => thread::sleep(Duration::from_millis(pause)),
                    None => return Err(error),
                }
            }
            result => return result,
        }
    }
}

/// A file or folder that is one process's at a time: until it is dropped, or the process is gone.
pub struct Lock(#[allow(dead_code)] File); // held, never looked at

/// Takes a file for this process; none where another has it. The file itself is to be read and replaced by others, so another
/// one beside it is what is taken, which is deleted with its last handle.
///
/// # Errors
/// What opening that answers.
pub fn try_lock_file(path: &Path) -> io::Result<Option<Lock>> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".start-worker-lock");
    let path = path.with_file_name(name);
    match patiently(&[ERROR_ACCESS_DENIED], || open_lock(&path)) {
        Ok(file) => Ok(Some(Lock(file))),
        Err(error) if says(&error, ERROR_SHARING_VIOLATION) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Access is denied for a moment while it is being deleted.
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).share_mode(0).custom_flags(FILE_FLAG_DELETE_ON_CLOSE);
    options.open(path)
}

/// Takes a folder for itself; waits while another process has it, and says so. A folder can't be locked itself: a file
/// in it that nobody else may open is, and is deleted with its last handle.
///
/// # Errors
/// What opening it answers.
pub fn lock_folder(folder: &Path) -> io::Result<Lock> {
    const LOOK: Duration = Duration::from_millis(100);
    let path = folder.join(".start-worker-lock");
    let (mut waits, mut denials) = (false, 0);
    loop {
        let error = match open_lock(&path) {
            Ok(file) => return Ok(Lock(file)),
            Err(error) => error,
        };
        match error.raw_os_error().map(i32::cast_unsigned) {
            Some(ERROR_SHARING_VIOLATION) => {
                if !waits {
                    tracing::info!("waiting for another process that works in {}", folder.display());
                }
                waits = true;
            }
            Some(ERROR_ACCESS_DENIED) if denials < 50 => denials += 1,
            _ => return Err(error),
        }
        thread::sleep(LOOK);
    }
}

/// Links in archives are made on Unix only: here they take a privilege, and nobody packs them.
///
/// # Errors
/// Always.
pub fn make_link(_target: &str, _link: &Path) -> io::Result<()> {
    Err(io::Error::other("links in archives are made on Unix only"))
}

/// Filesystems are not told apart here: a rename across two of them fails by itself.
pub fn device_of(_metadata: &Metadata) -> u64 {
    0
}

/// Unix permission bits mean nothing here.
///
/// # Errors
/// Never.
pub fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// The same.
///
/// # Errors
/// Never.
pub fn set_folder_mode(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Gives a file or folder to an account, and lets that account do what it likes with it. Groups own nothing here.
///
/// # Errors
/// Where there is no such account, or it may not be given to it.
pub fn chown(path: &Path, owner: Option<&str>, group: Option<&str>, privacy: Privacy) -> io::Result<()> {
    if let Some(group) = group {
        tracing::debug!("the group `{group}` of {} means nothing on Windows", path.display());
    }
    let Some(owner) = owner else { return Ok(()) };
    let owner = Sid::of_account(owner)?;
    // Also to another account than ours; where we may not, the system says so next.
    if let Err(error) = privilege::enable(privilege::RESTORE) {
        tracing::debug!("{error}");
    }
    security::give(path, &owner, privacy)
}

/// Whether this may be done to a path, without doing it.
///
/// # Errors
/// Why not.
pub fn access(path: &Path, access: super::Access) -> io::Result<()> {
    use super::Access;
    let metadata = path.metadata()?;
    match access {
        Access::Execute if !metadata.is_file() => Err(io::Error::other("it is no file")),
        Access::Execute if metadata.len() == 0 => Err(io::Error::other("it is empty")),
        Access::Execute => can_be_executed(path),
        Access::Write if !metadata.is_dir() => Err(io::Error::other("it is no folder")),
        Access::Write => Ok(()),
    }
}

/// A batch file is what its name says; everything else begins as programs have since the days of DOS.
fn can_be_executed(path: &Path) -> io::Result<()> {
    let name = path.to_string_lossy();
    let is_batch = is_batch_file(path);
    if is_batch && name.contains(['%', '"']) {
        return Err(io::Error::other("a batch file's path may hold no percent signs and quotes"));
    }
    let mut begin = [0; 2];
    if is_batch || (File::open(path)?.read_exact(&mut begin).is_ok() && begin == *b"MZ") {
        Ok(())
    } else {
        Err(io::Error::other("it is no program: neither an .exe, nor a .cmd or .bat"))
    }
}

/// Whether the system runs this by its shell. It takes dots and spaces at the end of a name away.
pub fn is_batch_file(path: &Path) -> bool {
    let name = path.to_string_lossy();
    let extension = name.trim_end_matches(['.', ' ']).rsplit_once('.').map_or("", |(_, extension)| extension);
    extension.eq_ignore_ascii_case("bat") || extension.eq_ignore_ascii_case("cmd")
}

/// [`replace`] has the system write a rename down before it answers.
///
/// # Errors
/// Never.
pub fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// The filesystem that a path is on: where its volume is mounted.
///
/// # Errors
/// What the system answers.
pub fn filesystem_of(path: &Path) -> io::Result<Vec<u16>> {
    let path = text::wide_path(path)?;
    // No longer than the path, with a backslash and a zero at its end.
    let mut root = vec![0; path.len().max(MAX_PATH as usize) + 1];
    let size = u32::try_from(root.len()).unwrap_or(u32::MAX);
    // SAFETY: the path ends with a zero, and the buffer has the size that is given.
    checked(unsafe { GetVolumePathNameW(path.as_ptr(), root.as_mut_ptr(), size) })?;
    Ok(root.into_iter().take_while(|unit| *unit != 0).chain([0]).collect())
}

/// Makes everything written to the filesystem of this path last over a power cut, which takes an administrator.
///
/// Source: learn.microsoft.com, "`FlushFileBuffers` function", "Naming a Volume".
///
/// # Errors
/// What the system answers.
pub fn sync_filesystem(path: &Path) -> io::Result<()> {
    let root = filesystem_of(path)?;
    let mut name = [0; 64];
    // SAFETY: the path ends with a zero and the backslash before it, and the buffer has the size that is given.
    checked(unsafe { GetVolumeNameForVolumeMountPointW(root.as_ptr(), name.as_mut_ptr(), 64) })?;
    // SAFETY: the call succeeded, so there is a text that ends with a zero.
    let name = unsafe { text::text_at(name.as_ptr()) };
    // With the backslash at its end it would be the volume's root folder.
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE;
    let volume = OpenOptions::new().write(true).share_mode(share).open(name.trim_end_matches('\\'))?;
    volume.sync_all()
}

/// How long the operating system has been up, its sleep included.
pub fn up_time() -> Option<Duration> {
    // SAFETY: takes no argument and only reads a counter.
    let up = unsafe { GetTickCount64() };
    Some(Duration::from_millis(up))
}

/// Job objects do this on Windows.
pub fn become_subreaper() {}

/// There is nothing to ask for on Windows.
pub fn prefer_to_survive() -> Option<String> {
    None
}

/// Whether this is the session of services, in which nobody is logged in.
///
/// Source: learn.microsoft.com, "Service Changes for Windows Vista" (session 0 isolation).
pub fn is_session_of_services() -> bool {
    let mut session = 0;
    // SAFETY: what is written is a number.
    unsafe { ProcessIdToSessionId(std::process::id(), &raw mut session) != 0 && session == 0 }
}

/// This machine's name.
fn computer_name() -> String {
    let mut buffer = [0_u16; 256];
    let mut size = 256;
    // SAFETY: the buffer has the size that is given.
    let done = unsafe { GetComputerNameW(buffer.as_mut_ptr(), &raw mut size) };
    let length = if done == 0 { 0 } else { (size as usize).min(256) };
    String::from_utf16_lossy(&buffer[..length])
}

/// Shuts this host down, or reboots it: nobody is asked, and no program keeps it. Returns when that is under way.
///
/// # Errors
/// Why it is not.
pub fn shut_down(then: Shutdown) -> io::Result<()> {
    privilege::enable(privilege::SHUTDOWN)?;
    let reboots = i32::from(then == Shutdown::Reboot);
    let reason = SHTDN_REASON_MAJOR_APPLICATION | SHTDN_REASON_MINOR_MAINTENANCE | SHTDN_REASON_FLAG_PLANNED;
    let message = wide("start-worker: this machine's work is over");
    let order = || {
        // SAFETY: the message ends with a zero; no other machine is named.
        checked(unsafe { InitiateSystemShutdownExW(ptr::null(), message.as_ptr(), 0, 1, reboots, reason) })
    };
    match order() {
        // The worker, or the cloud, was first.
        Err(error) if says(&error, ERROR_SHUTDOWN_IN_PROGRESS) => Ok(()),
        // Somebody wants one later, which may be never.
        Err(error) if says(&error, ERROR_SHUTDOWN_IS_SCHEDULED) => {
            // SAFETY: no other machine is named.
            unsafe { AbortSystemShutdownW(ptr::null()) };
            order()
        }
        result => result,
    }
}

/// What a call came to that answers 0 where it fails.
///
/// # Errors
/// The thread's last error, which is the call's.
pub fn checked(answer: i32) -> io::Result<()> {
    if answer == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether an error is the system's of that number.
pub fn says(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code.cast_signed())
}

/// The size of a structure, as Windows wants it.
pub const fn size_of_u32<T>() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "no structure has four gigabytes")]
    let size = size_of::<T>() as u32;
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use windows_sys::Win32::Foundation::ERROR_INVALID_FUNCTION;

    #[test]
    fn a_paths_filesystem_is_its_volume_and_can_be_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let root = filesystem_of(folder.path()).unwrap();
        assert_eq!(root, filesystem_of(&folder.path().join("missing")).unwrap());
        assert!(root.ends_with(&[u16::from(b'\\'), 0]), "{root:?}");
        match sync_filesystem(folder.path()) {
            // Wine finds the volume and opens it, but can't flush it.
            Err(error) if says(&error, ERROR_INVALID_FUNCTION) => {}
            result => result.unwrap(),
        }
    }
}
