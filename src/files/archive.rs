//! Unpacking a zip archive into a new folder: no entry leaves it, and no archive fills the disk.
//!
//! The folder is new and ours, its names are checked before anything is written, and links are made last and then
//! resolved by the operating system: so nothing is ever written through a link.

use super::names;
use crate::platform::{self, Privacy};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};
use zip::ZipArchive;
use zip::read::ZipFile;

/// What an archive may hold at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries.
    pub entries: usize,
    /// Bytes, unpacked.
    pub unpacked: u64,
}

impl Limits {
    /// What a worker pool's archive may hold.
    pub const POOL: Self = Self { entries: 100_000, unpacked: 4 * 1024 * 1024 * 1024 };
}

/// A link's target is at most this long, in bytes.
const MAX_LINK: u64 = 4096;

/// The folders of an archive, outermost first, with their modes.
pub type FolderModes = Vec<(PathBuf, u32)>;

/// A bomb, by what it claims or by what it holds.
const TOO_LARGE: &str = "it unpacks to more than an archive may";

/// The mode of a folder that names none.
const FOLDER_MODE: u32 = 0o755;

/// The file type bits of a Unix mode, and their value for a link.
const TYPE_BITS: u32 = 0o170_000;
const TYPE_LINK: u32 = 0o120_000;

/// Unpacks an archive into `folder`, which must not exist. `mode` is for entries that name none, and `privacy` is that
/// of all that it holds, where modes mean nothing.
///
/// # Errors
/// What is wrong, with the entry's name. The caller takes away what was written.
pub fn unpack(
    content: impl Read + Seek,
    folder: &Path,
    (mode, privacy): (u32, Privacy),
    limits: Limits,
) -> Result<FolderModes, String> {
    let mut archive = ZipArchive::new(content).map_err(|error| format!("it is no zip archive: {error}"))?;
    let Plan { entries, links } = plan(&mut archive, limits)?;
    platform::make_folder(folder, privacy).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let mut budget = limits.unpacked;
    let mut folders = FolderModes::new();
    for (index, path, kind) in entries {
        let mut entry = archive.by_index(index).map_err(|error| unreadable(&path, &error))?;
        let target = folder.join(&path);
        let failed = |error: io::Error| format!("its entry {}: {error}", path.display());
        match kind {
            Kind::Folder => {
                platform::make_folders(&target).map_err(failed)?;
                if let Some(mode) = mode_of(&entry) {
                    folders.push((path, mode));
                }
            }
            Kind::File => {
                platform::make_folders(platform::folder_of(&target)).map_err(failed)?;
                let mode = mode_of(&entry).unwrap_or(mode);
                budget -= copy(&mut entry, &target, budget, (mode, privacy)).map_err(failed)?;
            }
            Kind::Link => {}
        }
    }
    make_links(folder, &links)?;
    // The folder itself is private while it is being filled.
    folders.insert(0, (PathBuf::new(), FOLDER_MODE));
    folders.sort_by_key(|(path, _)| path.components().count());
    Ok(folders)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
}

/// What an archive holds.
struct Plan {
    entries: Vec<(usize, PathBuf, Kind)>,
    /// The links, with their targets.
    links: Vec<(PathBuf, String)>,
}

/// Looks at every entry's name, kind and claimed size, and at every link's target, before anything is written.
fn plan(archive: &mut ZipArchive<impl Read + Seek>, limits: Limits) -> Result<Plan, String> {
    if archive.len() > limits.entries {
        return Err(format!("it has {} entries, more than {}", archive.len(), limits.entries));
    }
    let mut entries = Vec::with_capacity(archive.len());
    let mut link_paths = HashSet::new();
    let mut seen = HashSet::new();
    let mut claimed: u64 = 0;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| format!("its entry number {index}: {error}"))?;
        let name = entry.name().map_err(|error| format!("its entry number {index}: {error}"))?.into_owned();
        if let Some(problem) = name.split(['/', '\\']).find_map(names::problem_of_name).filter(|_| cfg!(windows)) {
            return Err(format!("its entry {name:?} cannot be used: {problem}"));
        }
        let path = inside(&name).ok_or_else(|| format!("its entry {name:?} would leave the folder"))?;
        if entry.encrypted() {
            return Err(format!("its entry {name:?} is encrypted"));
        }
        let kind = match entry.unix_mode() {
            Some(mode) if mode & TYPE_BITS == TYPE_LINK => Kind::Link,
            _ if entry.is_dir() || name.ends_with(['/', '\\']) => Kind::Folder,
            Some(_) | None => Kind::File,
        };
        claimed = claimed.saturating_add(entry.size());
        if claimed > limits.unpacked {
            return Err(TOO_LARGE.to_owned());
        }
        if kind != Kind::Folder && !seen.insert(path.clone()) {
            return Err(format!("its entry {name:?} stands there twice"));
        }
        if kind == Kind::Link {
            link_paths.insert(path.clone());
        }
        entries.push((index, path, kind));
    }
    let mut links = Vec::new();
    for (index, path, kind) in &entries {
        if path.ancestors().skip(1).any(|ancestor| link_paths.contains(ancestor)) {
            return Err(format!("its entry {} lies behind a link", path.display()));
        }
        if *kind == Kind::Link {
            let target =
                link_target(archive, *index).map_err(|error| format!("its link {}: {error}", path.display()))?;
            if !stays_inside(path, &target) {
                return Err(format!("its link {} leads out of the folder", path.display()));
            }
            links.push((path.clone(), target));
        }
    }
    Ok(Plan { entries, links })
}

/// An entry's permission bits, where its archive has any: those made on Windows have none.
fn mode_of(entry: &ZipFile<'_, impl Read>) -> Option<u32> {
    Some((entry.external_attributes() >> 16) & 0o7777).filter(|mode| *mode != 0)
}

/// A link's content is its target.
fn link_target(archive: &mut ZipArchive<impl Read + Seek>, index: usize) -> io::Result<String> {
    let mut target = String::new();
    archive.by_index(index)?.take(MAX_LINK).read_to_string(&mut target)?;
    Ok(target)
}

/// The path that an entry's name means within the folder, with the separators of either system; `None` where it
/// would leave it.
fn inside(name: &str) -> Option<PathBuf> {
    let name = name.replace('\\', "/");
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    if name.is_empty() || name.starts_with('/') || drive || name.contains('\0') || (cfg!(windows) && name.contains(':'))
    {
        return None;
    }
    let parts = name.split('/').filter(|part| !part.is_empty() && *part != ".");
    let mut path = PathBuf::new();
    for part in parts {
        if part == ".." {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

fn copy(
    entry: &mut ZipFile<'_, impl Read>,
    target: &Path,
    budget: u64,
    (mode, privacy): (u32, Privacy),
) -> io::Result<u64> {
    // Private until it has its mode: the archive may be a secret's.
    let mut file: File = platform::create_file(target, privacy)?;
    let copied = io::copy(&mut entry.take(budget.saturating_add(1)), &mut file)?;
    if copied > budget {
        return Err(io::Error::other(TOO_LARGE));
    }
    platform::set_mode(&file, mode)?;
    Ok(copied)
}

/// Makes the links. None climbs out as it is written; here none may lead out as the operating system resolves it.
fn make_links(folder: &Path, links: &[(PathBuf, String)]) -> Result<(), String> {
    for (path, target) in links {
        let link = folder.join(path);
        let made = platform::make_folders(platform::folder_of(&link)).and_then(|()| platform::make_link(target, &link));
        made.map_err(|error| format!("its link {}: {error}", path.display()))?;
    }
    let root = fs::canonicalize(folder).map_err(|error| format!("cannot resolve {}: {error}", folder.display()))?;
    for (path, _) in links {
        match fs::canonicalize(folder.join(path)) {
            Ok(resolved) if resolved.starts_with(&root) => {}
            Ok(_) => return Err(format!("its link {} leads out of the folder", path.display())),
            Err(error) => return Err(format!("its link {} leads nowhere: {error}", path.display())),
        }
    }
    Ok(())
}

/// Whether a link's target, read as text, stays in the folder.
fn stays_inside(link: &Path, target: &str) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    let target = target.replace('\\', "/");
    if target.as_bytes().get(1) == Some(&b':') {
        return false;
    }
    for part in Path::new(&target).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

fn unreadable(path: &Path, error: &zip::result::ZipError) -> String {
    format!("its entry {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::{Limits, inside, stays_inside, unpack};
    use crate::platform::Privacy;
    use proptest::prelude::*;
    use std::io::{Cursor, Write};
    use std::path::{Path, PathBuf};
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn archive() -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("folder/file", SimpleFileOptions::default().unix_permissions(0o640)).unwrap();
        zip.write_all(b"some content, some content").unwrap();
        zip.add_symlink("folder/link", "file", SimpleFileOptions::default()).unwrap();
        zip.finish().unwrap().into_inner()
    }

    /// Unpacks within these limits and says what went wrong.
    fn within(content: &[u8], entries: usize, unpacked: u64) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        unpack(
            Cursor::new(content),
            &folder.path().join("target"),
            (0o644, Privacy::AsItsFolder),
            Limits { entries, unpacked },
        )
        .map(drop)
    }

    #[test]
    fn an_archive_holds_no_more_than_it_may_whatever_it_claims() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for name in ["one", "another"] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(&[b'x'; 40]).unwrap();
        }
        let content = zip.finish().unwrap().into_inner();
        assert_eq!(within(&content, 2, 100), Ok(()));
        assert!(within(&content, 1, 100).unwrap_err().contains("2 entries, more than 1"));
        assert!(within(&content, 2, 10).unwrap_err().contains("unpacks to more"));
        // It claims one byte and holds more.
        let mut liar = content;
        let entry = memchr::memmem::find(&liar, b"PK\x01\x02").unwrap();
        liar[entry + 24..entry + 28].copy_from_slice(&1_u32.to_le_bytes());
        assert!(within(&liar, 2, 10).is_err());
    }

    #[test]
    fn zip64_is_unpacked() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("large", SimpleFileOptions::default().large_file(true)).unwrap();
        zip.write_all(b"not so large").unwrap();
        let content = zip.finish().unwrap().into_inner();
        let folder = tempfile::tempdir().unwrap();
        unpack(Cursor::new(&content), &folder.path().join("target"), (0o644, Privacy::AsItsFolder), Limits::POOL)
            .unwrap();
        assert_eq!(std::fs::read(folder.path().join("target/large")).unwrap(), b"not so large");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// Whatever became of an archive on its way: it is unpacked or refused, and nothing is written elsewhere.
        #[test]
        fn a_damaged_archive_is_unpacked_or_refused(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6)) {
            let mut content = archive();
            let length = content.len();
            for (at, byte) in changes {
                content[at % length] = byte;
            }
            let folder = tempfile::tempdir().unwrap();
            let _ = unpack(Cursor::new(&content), &folder.path().join("target"), (0o644, Privacy::AsItsFolder), Limits::POOL);
            let beside: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            prop_assert!(beside.iter().all(|name| name == "target"));
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_none() {
        for name in ["/a", "\\a", "..", "a/../b", "a\\..\\..\\b", "C:\\a", "c:a", "a\0b", "", "//host/share"] {
            assert_eq!(inside(name), None, "{name:?}");
        }
        for (name, path) in [("a/b", "a/b"), ("a\\b", "a/b"), ("./a//b/", "a/b"), ("a..b/...", "a..b/..."), ("./", "")]
        {
            assert_eq!(inside(name), Some(PathBuf::from(path)), "{name:?}");
        }
    }

    #[test]
    fn link_targets_are_read_from_where_the_link_is() {
        assert!(stays_inside(Path::new("a/b"), "../c"));
        assert!(!stays_inside(Path::new("a/b"), "../../c"));
        assert!(!stays_inside(Path::new("a/b"), "c/../../../d"));
        assert!(!stays_inside(Path::new("a"), "/etc/passwd"));
    }
}
