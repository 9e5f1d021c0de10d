//! The service's log: a file that is put aside when it is full, and of those only so many.

use crate::platform;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use windows_sys::Win32::Storage::FileSystem::{FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE};

/// A file of that many bytes is full.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// So many full ones are kept.
const MOST_FILES: u32 = 9;

/// A file that can't be put aside now is tried again after this many more bytes.
const PATIENCE: u64 = 1024 * 1024;

/// `<name>.log`, and before it `<name>.1.log` and so on.
#[derive(Debug)]
pub struct LogFile {
    folder: PathBuf,
    name: String,
    file: File,
    size: u64,
    /// The size from which on it is full.
    full_at: u64,
    most_bytes: u64,
    ends_line: bool,
}

impl LogFile {
    /// Opens the file, to write after what is in it. Its folder is made where it is missing.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(folder: &Path, name: &str) -> io::Result<Self> {
        Self::open_with(folder, name, MOST_BYTES)
    }

    fn open_with(folder: &Path, name: &str, most_bytes: u64) -> io::Result<Self> {
        make_folder(folder)?;
        let file = append(&path(folder, name, 0))?;
        let size = file.metadata()?.len();
        let (folder, name) = (folder.to_owned(), name.to_owned());
        Ok(Self { folder, name, file, size, full_at: most_bytes, most_bytes, ends_line: true })
    }

    /// Puts the full file aside. While somebody holds it open so that it can't be, it goes on.
    fn rotate(&mut self) {
        let path = |number| path(&self.folder, &self.name, number);
        // Up to the first gap: so none is lost by trying again.
        let free = (1..MOST_FILES).find(|number| !path(*number).exists()).unwrap_or(MOST_FILES);
        for number in (1..free).rev() {
            let _ = fs::rename(path(number), path(number + 1));
        }
        let put_aside = match fs::rename(path(0), path(1)) {
            // It has been, and then no new one could be made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        match put_aside.and_then(|()| append(&path(0))) {
            Ok(file) => (self.file, self.size, self.full_at) = (file, 0, self.most_bytes),
            Err(_) => self.full_at = self.size + PATIENCE,
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size >= self.full_at && self.ends_line {
            self.rotate();
        }
        // Up to the last end of a line, so that no line is in two files.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
        let written = self.file.write(&bytes[..end])?;
        self.size += written as u64;
        self.ends_line = bytes[..written].last() == Some(&b'\n');
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a folder, and those above it that are missing, for nobody but us, the system and the administrators.
///
/// # Errors
/// What the system answers.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent)?;
    }
    match platform::make_private_folder(folder) {
        Err(_) if folder.is_dir() => Ok(()),
        result => result,
    }
}

fn path(folder: &Path, name: &str, number: u32) -> PathBuf {
    match number {
        0 => folder.join(format!("{name}.log")),
        number => folder.join(format!("{name}.{number}.log")),
    }
}

/// Others may read it, and put it aside or delete it.
fn append(path: &Path) -> io::Result<File> {
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    OpenOptions::new().append(true).create(true).share_mode(share).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_lost_while_somebody_holds_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open_with(folder.path(), "w", 20).unwrap();
        let mut write = |text: &str| {
            log.write_all(format!("{text}, and as much again\n").as_bytes()).unwrap();
            log.full_at = log.full_at.min(log.size);
        };
        let read = |number| fs::read_to_string(path(folder.path(), "w", number)).unwrap_or_default();
        (1..=3).for_each(|number| write(&format!("old {number}")));
        // As a reader does that knows of no renaming.
        let mut options = OpenOptions::new();
        options.read(true).share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE);
        let held = options.open(path(folder.path(), "w", 0)).unwrap();
        (1..=20).for_each(|number| write(&format!("new {number}")));
        assert!(read(0).starts_with("old 3") && read(0).contains("new 20"), "{}", read(0));
        assert!(read(2).starts_with("old 2") && read(3).starts_with("old 1"), "{}{}", read(2), read(3));
        drop(held);
        write("newest");
        assert!(read(0).starts_with("newest") && read(1).starts_with("old 3") && read(2).starts_with("old 2"));
    }

    #[test]
    fn a_full_file_is_put_aside_between_lines_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("a").join("logs");
        let mut log = LogFile::open_with(&logs, "w", 20).unwrap();
        for number in 0..30 {
            // Cut where nobody would.
            log.write_all(format!("line {number:02}, its first").as_bytes()).unwrap();
            log.write_all(b" part and second\n").unwrap();
        }
        drop(log);
        let read = |number| fs::read_to_string(path(&logs, "w", number)).unwrap();
        assert_eq!(read(0), "line 29, its first part and second\n");
        assert_eq!(read(MOST_FILES), "line 20, its first part and second\n");
        assert!(!path(&logs, "w", MOST_FILES + 1).exists());
        // The next run goes on where this one ended.
        let mut log = LogFile::open_with(&logs, "w", 1000).unwrap();
        log.write_all(b"next\n").unwrap();
        assert_eq!(read(0), "line 29, its first part and second\nnext\n");
    }
}
