//! Files of the worker pool: whole or not at all, and nowhere else.

use crate::support::{Finished, Fixture};
use base64::Engine;
use serde_json::{Value, json};
use simulator::CloudKind;
use std::fs;
use std::io::{Cursor, Write};
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn encode(content: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(content)
}

fn spec(path: &Path, content: &[u8], format: &str) -> Value {
    json!({"description": format!("a {format}"), "path": path, "content": encode(content), "encoding": "base64", "format": format})
}

fn boot_with(fixture: &Fixture, files: &[Value]) -> Finished {
    fixture.simulator.world(|world| world.taskcluster.worker_config = json!({"genericWorker": {"files": files}}));
    fixture.boot()
}

#[test]
fn two_machines_of_one_host_place_the_same_files_side_by_side() {
    let shared = tempfile::tempdir().unwrap();
    let path = shared.path().join("one");
    let content = vec![b'x'; 2_000_000];
    for _ in 0..3 {
        let fixtures = ["vm-1", "vm-2"].map(|name| {
            let fixture = Fixture::new(CloudKind::Google);
            fixture.simulator.world(|world| {
                world.cloud.machine_id = name.to_owned();
                let files = [spec(&path, &content, "file"), spec(&shared.path().join("two"), &content, "file")];
                world.taskcluster.worker_config = json!({"genericWorker": {"files": files}});
            });
            fixture
        });
        for running in fixtures.each_ref().map(Fixture::start) {
            running.finish().assert_code(0);
        }
        assert_eq!(fs::read(&path).unwrap().len(), content.len());
    }
    let left = fs::read_dir(shared.path()).unwrap().count();
    assert_eq!(left, 2, "nothing but the files is left");
}

enum Entry<'a> {
    File(&'a str, &'a [u8], u32),
    Folder(&'a str),
    Link(&'a str, &'a str),
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        match entry {
            Entry::File(name, content, mode) => {
                zip.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
                zip.write_all(content).unwrap();
            }
            Entry::Folder(name) => zip.add_directory(*name, SimpleFileOptions::default()).unwrap(),
            Entry::Link(name, target) => zip.add_symlink(*name, *target, SimpleFileOptions::default()).unwrap(),
        }
    }
    zip.finish().unwrap().into_inner()
}

fn leftovers(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".new")).collect()
}

#[cfg(unix)]
#[test]
fn a_zip_is_unpacked_with_its_modes_and_links_beside_what_is_there() {
    let fixture = Fixture::new(CloudKind::Static);
    let target = fixture.path("target");
    fs::create_dir_all(target.join("sub")).unwrap();
    fs::write(target.join("sub/theirs"), "theirs").unwrap();
    fs::write(target.join("sub/replaced"), "old").unwrap();
    let zip = archive(&[
        Entry::Folder("empty"),
        Entry::File("sub/program", b"#!", 0o750),
        Entry::File("sub/replaced", b"new", 0o600),
        Entry::File("win\\dows", b"w", 0o644),
        Entry::Link("sub/link", "../sub/program"),
    ]);
    boot_with(&fixture, &[spec(&target, &zip, "zip")]).assert_code(0);
    assert_eq!(fs::read_to_string(target.join("sub/theirs")).unwrap(), "theirs");
    assert_eq!(fs::read_to_string(target.join("sub/replaced")).unwrap(), "new");
    assert_eq!(fs::read_to_string(target.join("sub/link")).unwrap(), "#!");
    assert_eq!(fs::read_to_string(target.join("win/dows")).unwrap(), "w");
    assert!(target.join("empty").is_dir());
    let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("sub/program"), mode("sub/replaced"), mode("win/dows")), (0o750, 0o600, 0o644));
    assert_eq!(leftovers(&fixture.path("")), Vec::<String>::new());
}

#[test]
fn no_entry_of_a_zip_leaves_its_folder() {
    let evil: [(&str, Vec<u8>); 9] = [
        ("../evil", archive(&[Entry::File("../evil", b"x", 0o644)])),
        ("/evil", archive(&[Entry::File("/evil-absolute", b"x", 0o644)])),
        ("a/../../evil", archive(&[Entry::File("a/../../evil", b"x", 0o644)])),
        ("..\\evil", archive(&[Entry::File("..\\evil", b"x", 0o644)])),
        ("C:\\evil", archive(&[Entry::File("C:\\evil", b"x", 0o644)])),
        ("link", archive(&[Entry::Link("link", "/etc")])),
        ("up", archive(&[Entry::Link("d/up", "../..")])),
        ("behind", archive(&[Entry::Link("behind", "."), Entry::File("behind/x", b"x", 0o644)])),
        ("chain", archive(&[Entry::Link("d/root", ".."), Entry::Link("d/chain", "root/../..")])),
    ];
    for (name, zip) in evil {
        let fixture = Fixture::new(CloudKind::Static);
        let innocent = fixture.path("innocent");
        let target = fixture.path("target");
        let finished = boot_with(&fixture, &[spec(&innocent, b"x", "file"), spec(&target, &zip, "zip")]);
        finished.assert_code(17).assert_logged("\"a zip\"");
        assert!(!fixture.path("evil").exists() && !target.exists(), "{name}");
        assert!(!innocent.exists(), "{name}: whole or not at all");
        assert_eq!(leftovers(&fixture.path("")), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn links_that_stay_inside_only_on_paper_are_refused() {
    // `d/a` leads to the root of the archive, so `d/b` leads out of it, although its text does not.
    let zip = archive(&[Entry::Folder("d"), Entry::Link("d/a", ".."), Entry::Link("d/b", "a/..")]);
    let refusal = if cfg!(unix) { "leads out of the folder" } else { "links in archives are made on Unix only" };
    let fixture = Fixture::new(CloudKind::Static);
    let target = fixture.path("target");
    boot_with(&fixture, &[spec(&target, &zip, "zip")]).assert_code(17).assert_logged(refusal);
    assert!(!target.exists());
}

#[test]
fn a_bomb_is_refused_by_what_it_claims_and_by_what_it_holds() {
    let zeros = vec![0; 1 << 20];
    let mut zip = archive(&[Entry::File("bomb", &zeros, 0o644), Entry::File("another", &zeros, 0o644)]);
    let honest = zip.clone();
    // The central directory claims nearly 4 GiB for each.
    let entries: Vec<usize> = memchr::memmem::find_iter(&honest, b"PK\x01\x02").collect();
    for at in entries {
        zip[at + 24..at + 28].copy_from_slice(&0xffff_fffe_u32.to_le_bytes());
    }
    for (content, code) in [(zip, 17), (honest, 0)] {
        let fixture = Fixture::new(CloudKind::Static);
        let target = fixture.path("target");
        boot_with(&fixture, &[spec(&target, &content, "zip")]).assert_code(code);
        assert_eq!(target.exists(), code == 0);
    }
}

#[test]
fn a_file_that_is_wrong_leaves_everything_as_it_was() {
    let zip = archive(&[Entry::File("there", b"x", 0o644)]);
    let fixture = Fixture::new(CloudKind::Static);
    let (good, there) = (fixture.path("good"), fixture.path("folder/there"));
    fs::write(&good, "old").unwrap();
    fs::create_dir_all(&there).unwrap();
    let bad_hash = {
        let mut file = spec(&fixture.path("x"), b"x", "file");
        file["sha256"] = json!("0".repeat(64));
        file
    };
    let bad_base64 = {
        let mut file = spec(&fixture.path("x"), b"x", "file");
        file["content"] = json!("!canary!");
        file
    };
    let bad: [(Value, &str); 5] = [
        (bad_hash, "its SHA-256 is"),
        (bad_base64, "its content is no base64"),
        (spec(&fixture.path("folder"), &zip, "zip"), "it is a folder"),
        (spec(&fixture.path("folder"), b"x", "file"), "it is a folder"),
        (spec(&fixture.path("x"), b"no zip", "zip"), "it is no zip archive"),
    ];
    for (bad, expected) in bad {
        let finished = boot_with(&fixture, &[spec(&good, b"new", "file"), bad]);
        finished.assert_code(17).assert_logged(expected).assert_not_logged("canary");
        assert_eq!(fs::read_to_string(&good).unwrap(), "old", "{expected}");
        assert_eq!(leftovers(&fixture.path("")), Vec::<String>::new());
    }
}

#[cfg(unix)]
#[test]
fn modes_do_not_depend_on_the_umask_and_owners_are_named() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let (program, owned) = (fixture.path("program"), fixture.path("owned"));
    let mut with_owner = spec(&owned, b"x", "file");
    with_owner["owner"] = json!(nix::unistd::Uid::current().to_string());
    with_owner["mode"] = json!("4711");
    let mut nobody = spec(&fixture.path("nobody"), b"x", "file");
    nobody["owner"] = json!("there-is-no-such-user");
    fixture.machine.script = json!([{"exit": 0}]);
    let files = json!({"genericWorker": {"files": [spec(&program, b"#!/bin/sh", "file"), with_owner]}});
    fixture.simulator.world(|world| world.taskcluster.worker_config = files);
    fixture.start_after("umask 0077").finish().assert_code(0);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&program), mode(&owned)), (0o755, 0o4711));
    boot_with(&fixture, &[nobody]).assert_code(17).assert_logged("there is no user `there-is-no-such-user`");
}

#[cfg(unix)]
#[test]
fn a_zip_from_a_secret_is_private_where_it_says_no_mode() {
    let mut zip = archive(&[Entry::File("key", b"canary", 0o644), Entry::File("tool", b"#!", 0o755)]);
    // As made on Windows: no Unix mode.
    let entry = memchr::memmem::find(&zip, b"PK\x01\x02").unwrap();
    zip[entry + 40..entry + 42].copy_from_slice(&[0, 0]);
    let fixture = Fixture::new(CloudKind::Google);
    let (target, pool) = (fixture.path("target"), fixture.pool());
    let secret = json!({"files": [spec(&target, &zip, "zip")]});
    fixture.simulator.world(|world| world.taskcluster.put_secret(format!("worker-pool:{pool}"), secret));
    fixture.boot().assert_code(0);
    let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("key"), mode("tool")), (0o600, 0o755));
}

#[cfg(unix)]
#[test]
fn a_zip_goes_into_a_folder_whose_parent_is_another_filesystem_and_folders_of_others_keep_their_modes() {
    let fixture = Fixture::new(CloudKind::Static);
    // A mount point: what is beside it is elsewhere.
    let target = tempfile::tempdir_in("/dev/shm").unwrap();
    let theirs = target.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o751)).unwrap();
    let zip = archive(&[
        Entry::Folder("theirs"),
        Entry::File("theirs/file", b"x", 0o644),
        Entry::File("new/file", b"x", 0o644),
    ]);
    boot_with(&fixture, &[spec(target.path(), &zip, "zip")]).assert_code(0);
    let mode = |path: &str| fs::metadata(target.path().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("theirs"), mode("theirs/file"), mode("new")), (0o751, 0o644, 0o755));
    assert_eq!(leftovers(target.path()), Vec::<String>::new());
}

#[test]
fn what_is_a_file_for_one_and_a_folder_for_another_is_refused_before_anything_moves() {
    let fixture = Fixture::new(CloudKind::Static);
    let (first, both) = (fixture.path("first"), fixture.path("both"));
    let zip = archive(&[Entry::File("inner", b"x", 0o644)]);
    let files = [spec(&first, b"x", "file"), spec(&both, b"x", "file"), spec(&both, &zip, "zip")];
    boot_with(&fixture, &files).assert_code(17).assert_logged("both a file and a folder");
    assert!(!first.exists() && !both.exists());
    let slash = format!("{}/", both.display());
    boot_with(&fixture, &[spec(&first, b"x", "file"), spec(Path::new(&slash), b"x", "file")])
        .assert_code(17)
        .assert_logged("names a folder");
    assert!(!first.exists());
}

#[cfg(windows)]
skip! {
    "modes are Unix' own; access lists are looked at in windows.rs": a_zip_is_unpacked_with_its_modes_and_links_beside_what_is_there, a_zip_from_a_secret_is_private_where_it_says_no_mode;
    "it needs a shell": modes_do_not_depend_on_the_umask_and_owners_are_named;
    "it looks at Linux' own files": a_zip_goes_into_a_folder_whose_parent_is_another_filesystem_and_folders_of_others_keep_their_modes;
}
