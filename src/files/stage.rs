//! Staging files beside their targets and moving them into place.

use super::archive::{self, FolderModes, Limits};
use super::{ContentError, FileSpec, FilesError, Format};
use crate::hash::hex;
use crate::platform::{self, Privacy};
use ring::digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// Something that is ready to be moved into place. Dropped before that, it takes its temporary files with it.
struct Staged<'f> {
    spec: &'f FileSpec,
    from: PathBuf,
    to: PathBuf,
    /// The modes of an archive's folders, given to them last: a folder may be one that nobody may write to.
    folders: FolderModes,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        discard(&self.from);
    }
}

/// Writes all of these files, or none of them, for the machine of that name: another one on this host may have the same.
///
/// # Errors
/// Names the file. Up to the first move nothing has changed but for folders that were missing.
pub fn place(files: &[FileSpec], machine: &str) -> Result<(), FilesError> {
    let whose = &hex(&digest::digest(&digest::SHA256, machine.as_bytes()))[..8];
    let staged =
        files.iter().enumerate().map(|(index, spec)| stage((index, whose), spec)).collect::<Result<Vec<_>, _>>()?;
    let mut planned = BTreeMap::new();
    for item in &staged {
        refuse_conflict(&item.from, &item.to).map_err(|(path, source)| item.error("replace", path, source))?;
        item.plan(&mut planned).map_err(|(path, source)| item.error("write", path, source))?;
    }
    for item in &staged {
        // The folders of others keep their modes.
        let ours: Vec<_> = item.folders.iter().filter(|(folder, _)| !item.to.join(folder).exists()).collect();
        item.move_in(&item.from, &item.to).map_err(|(path, source)| item.error("move into place", path, source))?;
        for (folder, mode) in ours.into_iter().rev() {
            let path = item.to.join(folder);
            platform::set_folder_mode(&path, *mode).map_err(|source| item.error("set the mode of", path, source))?;
        }
        tracing::info!("wrote the file {}", item.spec);
    }
    Ok(())
}

/// Makes what [`place`] wrote last over a power cut: once for each filesystem, not once for each file.
pub fn sync(files: &[FileSpec]) {
    let mut done = BTreeSet::new();
    for spec in files {
        let folder = if spec.path.is_dir() { &spec.path } else { platform::folder_of(&spec.path) };
        let synced = platform::filesystem_of(folder).and_then(|filesystem| match done.insert(filesystem) {
            true => platform::sync_filesystem(folder),
            false => Ok(()),
        });
        if let Err(error) = synced {
            tracing::warn!("cannot sync the filesystem of {}: {error}", folder.display());
        }
    }
}

impl Staged<'_> {
    fn error(&self, action: &'static str, path: PathBuf, source: io::Error) -> FilesError {
        FilesError::Write { file: self.spec.to_string(), action, path, source }
    }

    /// Notes every path that this will put in place, refusing one that is to be a file and a folder at once.
    fn plan(&self, planned: &mut BTreeMap<PathBuf, Kind>) -> Result<(), (PathBuf, io::Error)> {
        for folder in self.to.ancestors().skip(1) {
            note(planned, folder, Kind::Folder)?;
        }
        plan_below(&self.from, &self.to, planned)
    }

    /// Moves what is staged; whether it was moved as a whole, and not into a folder that is there. A folder that is left empty goes
    /// with the rest.
    fn move_in(&self, from: &Path, to: &Path) -> Result<bool, (PathBuf, io::Error)> {
        let failed = |error| (to.to_owned(), error);
        let is_folder = |path| look(path).map(|there| there.is_some_and(|there| there.is_dir())).map_err(failed);
        if !(is_folder(from)? && is_folder(to)?) {
            return platform::replace(from, to).map(|()| true).map_err(failed);
        }
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let place = to.join(entry.file_name());
            // It was staged in a folder that may give other access than the one it has come to.
            if self.move_in(&entry.path(), &place)?
                && self.spec.privacy() == Privacy::AsItsFolder
                && self.spec.owner.is_none()
                && let Err(error) = platform::inherit_access(&place)
            {
                tracing::warn!("cannot give {} the access of its folder: {error}", place.display());
            }
        }
        Ok(false)
    }
}

fn plan_below(from: &Path, to: &Path, planned: &mut BTreeMap<PathBuf, Kind>) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (to.to_owned(), error);
    if !fs::symlink_metadata(from).map_err(failed)?.is_dir() {
        return note(planned, to, Kind::File);
    }
    note(planned, to, Kind::Folder)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        plan_below(&entry.path(), &to.join(entry.file_name()), planned)?;
    }
    Ok(())
}

/// What will be at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

fn note(planned: &mut BTreeMap<PathBuf, Kind>, path: &Path, kind: Kind) -> Result<(), (PathBuf, io::Error)> {
    match planned.insert(path.to_owned(), kind) {
        Some(before) if before != kind => {
            Err((path.to_owned(), io::Error::other("another file of the pool makes it both a file and a folder")))
        }
        Some(_) | None => Ok(()),
    }
}

fn stage<'f>((index, whose): (usize, &str), spec: &'f FileSpec) -> Result<Staged<'f>, FilesError> {
    let fail = |action, path: &Path| {
        let path = path.to_owned();
        move |source| FilesError::Write { file: spec.to_string(), action, path, source }
    };
    // A target that is a link to a folder means that folder.
    let to = match spec.format {
        Format::Zip if spec.path.is_dir() => fs::canonicalize(&spec.path).map_err(fail("resolve", &spec.path))?,
        Format::Zip | Format::File => spec.path.clone(),
    };
    let names_folder = spec.path.to_string_lossy().ends_with(std::path::is_separator);
    if spec.format == Format::File && (names_folder || to.file_name().is_none()) {
        return Err(FilesError::Content { file: spec.to_string(), problem: "its path names a folder".into() });
    }
    // Beside a new target; within a folder that is there, for that may be a mount point, or `/`.
    let folder = if spec.format == Format::Zip && to.is_dir() { &to } else { platform::folder_of(&to) };
    platform::make_folders(folder).map_err(fail("make the folder", folder))?;
    let from = folder.join(format!(".start-worker-{whose}-{index}.new"));
    discard(&from);
    let unwritten = |error| match error {
        ContentError::Wrong(problem) => spec.wrong(problem),
        ContentError::Write(error) => fail("write", &spec.path)(error),
    };
    let mut staged = Staged { spec, from, to, folders: FolderModes::new() };
    match spec.format {
        Format::File => {
            let file = write_file(&staged.from, spec).map_err(unwritten)?;
            finish_file(&file, &staged.from, spec).map_err(fail("write", &spec.path))?;
        }
        Format::Zip => {
            // Nothing of an archive is unpacked that is not what it should be.
            spec.write_content(&mut io::sink()).map_err(unwritten)?;
            let unpacked = archive::unpack(spec.content(), &staged.from, (spec.mode(), spec.privacy()), Limits::POOL);
            staged.folders = unpacked.map_err(|problem| spec.wrong(problem))?;
            if spec.owner.is_some() || spec.group.is_some() {
                chown_all(&staged.from, spec).map_err(fail("change the owner of", &spec.path))?;
            }
        }
    }
    Ok(staged)
}

fn write_file(path: &Path, spec: &FileSpec) -> Result<File, ContentError> {
    let mut file = platform::create_file(path, spec.privacy()).map_err(ContentError::Write)?;
    spec.write_content(&mut file)?;
    Ok(file)
}

fn finish_file(file: &File, path: &Path, spec: &FileSpec) -> io::Result<()> {
    if spec.owner.is_some() || spec.group.is_some() {
        platform::chown(path, spec.owner.as_deref(), spec.group.as_deref(), spec.privacy())?;
    }
    // After the owner: changing that takes the set-user-id bit away.
    platform::set_mode(file, spec.mode())
}

/// A folder after what is in it: whoever has it may put a link in the place of that.
fn chown_all(path: &Path, spec: &FileSpec) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_all(&entry?.path(), spec)?;
        }
    }
    platform::chown(path, spec.owner.as_deref(), spec.group.as_deref(), spec.privacy())
}

/// Where moving would put a folder over something else, or something else over a folder, nothing is moved.
fn refuse_conflict(from: &Path, to: &Path) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error| (to.to_owned(), error);
    let Some(there) = look(to).map_err(failed)? else { return Ok(()) };
    let ours = fs::symlink_metadata(from).map_err(failed)?;
    match (ours.is_dir(), there.is_dir()) {
        (true, true) => {
            if platform::device_of(&ours) != platform::device_of(&there) {
                return Err(failed(io::Error::other("another filesystem is mounted there")));
            }
            for entry in fs::read_dir(from).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                refuse_conflict(&entry.path(), &to.join(entry.file_name()))?;
            }
            Ok(())
        }
        (false, false) => Ok(()),
        (true, false) => Err(failed(io::Error::other("a folder is to be there, and something else is"))),
        (false, true) => Err(failed(io::Error::other("it is a folder"))),
    }
}

/// What is there, not following a link.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a temporary file or folder away, whichever it is, if it is there.
fn discard(path: &Path) {
    let result = match look(path) {
        Ok(Some(metadata)) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(Some(_)) => fs::remove_file(path),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::warn!("cannot take {} away: {error}", path.display());
    }
}
