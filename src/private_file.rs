//! Files that hold secrets: private from their first byte, and there as a whole or not at all.

use crate::platform::{self, Sid};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Whether a file must be there after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It must: the file and its name are synced.
    Durable,
    /// It is written again at every boot.
    Fleeting,
}

/// Writes a file whole: to a temporary name beside it, then renamed. Its folder is made where it is missing.
///
/// # Errors
/// What the filesystem answers. The old file is still there then, and the temporary one is not.
pub fn write(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    write_for(path, content, durability, &[])
}

/// The same, for these accounts to read too.
///
/// # Errors
/// The same.
pub fn write_for(path: &Path, content: &[u8], durability: Durability, readers: &[Sid]) -> io::Result<()> {
    refuse_other_kind(path)?;
    fs::create_dir_all(platform::folder_of(path))?;
    let temporary = temporary_name(path);
    let result = write_and_rename(path, &temporary, (content, readers), durability);
    if result.is_err() {
        let _ = platform::remove_file(&temporary);
    }
    result
}

/// Only a regular file is replaced: a device, a pipe or a link is there for a reason.
///
/// # Errors
/// What is there instead.
pub fn refuse_other_kind(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(metadata) if metadata.is_dir() => Err(io::Error::other("it is a folder")),
        Ok(_) => Err(io::Error::other("something other than a regular file is there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn write_and_rename(
    path: &Path,
    temporary: &Path,
    (content, readers): (&[u8], &[Sid]),
    durability: Durability,
) -> io::Result<()> {
    // What an earlier process left when it was killed.
    match platform::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = platform::create_for(temporary, readers)?;
    file.write_all(content)?;
    if durability == Durability::Durable {
        file.sync_all()?;
    }
    // Not every system renames a file that is open.
    drop(file);
    platform::replace(temporary, path)?;
    match durability {
        Durability::Durable => platform::sync_folder(path),
        Durability::Fleeting => Ok(()),
    }
}

/// Always the same name for the same file, so that a process that is killed leaves one at most.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(60).collect();
    path.with_file_name(format!(".{name}.start-worker-new"))
}
