//! What large inputs cost: an archive of many files, beside `unzip`, and a runner config of fifty megabytes.

use crate::measure::{Programs, median, peak_memory_of};
use crate::table::{Limit, Row, Table};
use base64::Engine;
use serde_json::json;
use simulator::machine::Machine;
use simulator::{CloudKind, Setup, Simulator};
use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 3;
const ENTRIES: u32 = 10_000;
const UNPACKED: usize = 200 << 20;
const MIB: f64 = 1024.0 * 1024.0;

pub fn measure(programs: &Programs, table: &mut Table) {
    if table.wants("zip") {
        zip(programs, table);
    }
    if table.wants("config") {
        config(programs, table);
    }
}

/// Two hundred megabytes in ten thousand files, which come in a secret: as much as a secret can bring.
fn zip(programs: &Programs, table: &mut Table) {
    let archive = archive();
    let text = base64::engine::general_purpose::STANDARD.encode(&archive);
    #[expect(clippy::cast_precision_loss, reason = "mebibytes")]
    let content = text.len() as f64 / MIB;
    let mut times = Vec::new();
    let mut peak = 0.0_f64;
    for _ in 0..RUNS {
        let (ours, memory) = place(programs, &text);
        let theirs = unzip(&archive);
        times.push(ours / theirs);
        peak = peak.max(memory);
    }
    let name = "zip: 200 MB in 10,000 files, against `unzip`";
    table.row(&Row { name, unit: "ratio", go: None, limit: Limit::AtMost(1.2), ours: median(times) });
    let name = "zip: peak memory beyond the answer and its content";
    // The answer is held as it came until it is read.
    table.row(&Row { name, unit: "MiB", go: None, limit: Limit::AtMost(16.0), ours: peak - 2.0 * content });
}

fn archive() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..ENTRIES {
        zip.start_file(format!("folder{}/file{number}", number % 100), options).expect("an entry");
        // Text of a kind that deflate makes a sixth of.
        let mut text = String::new();
        while text.len() < UNPACKED / ENTRIES as usize {
            let _ = writeln!(text, "line {} of the file: setting = value number {}", text.len(), random.u8(..));
        }
        zip.write_all(text.as_bytes()).expect("its content");
    }
    zip.finish().expect("an archive").into_inner()
}

/// How long the files take to be placed, in seconds, and start-worker's peak memory in MiB.
fn place(programs: &Programs, text: &str) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO }).expect("a simulator");
    let file = json!({
        "description": "many files", "path": folder.path().join("unpacked"), "content": text, "encoding": "base64",
        "format": "zip",
    });
    simulator.world(|world| {
        let secret = json!({"config": {}, "files": [file]});
        world.taskcluster.put_secret(format!("worker-pool:{}", world.cloud.launch.worker_pool_id), secret);
    });
    let mut machine =
        Machine::new(&simulator, folder.path(), &programs.start_worker, &programs.simulator).expect("a machine");
    machine.script = json!(["hello", {"exit": 0}]);
    let log = folder.path().join("log");
    let mut command = machine.command().expect("a command");
    let mut child =
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a log")).spawn().expect("start-worker");
    let peak = peak_memory_of(&mut child);
    let text = fs::read_to_string(&log).expect("the log");
    let (_, taken) = text.split_once(" files ").unwrap_or_else(|| panic!("no files were placed:\n{text}"));
    let milliseconds: f64 = taken.split([',', '\n']).next().and_then(|number| number.parse().ok()).expect("a number");
    (milliseconds / 1000.0, peak)
}

fn unzip(archive: &[u8]) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("archive.zip");
    fs::write(&file, archive).expect("the archive");
    let began = Instant::now();
    let status = Command::new("unzip").arg("-q").arg(&file).arg("-d").arg(folder.path().join("unpacked")).status();
    assert!(status.expect("unzip").success());
    began.elapsed().as_secs_f64()
}

/// Ten times the config takes ten times as long.
fn config(programs: &Programs, table: &mut Table) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |megabytes: usize| {
        let path = folder.path().join(format!("{megabytes}.yml"));
        write_config(&path, megabytes << 20);
        let mut command = Command::new(&programs.start_worker);
        command.arg("check").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let began = Instant::now();
        let mut child = command.spawn().expect("start-worker");
        let peak = peak_memory_of(&mut child);
        (began.elapsed().as_secs_f64(), peak)
    };
    let (small, _) = check(5);
    let (large, peak) = check(50);
    let name = "config: 50 MB, against ten times 5 MB";
    table.row(&Row { name, unit: "ratio", go: None, limit: Limit::AtMost(1.5), ours: large / (small * 10.0) });
    let name = "config: 50 MB, time";
    table.row(&Row { name, unit: "s", go: None, limit: Limit::None, ours: large });
    table.row(&Row {
        name: "config: 50 MB, peak memory by its size",
        unit: "times",
        go: None,
        limit: Limit::None,
        ours: peak / 50.0,
    });
}

fn write_config(path: &Path, size: usize) {
    let mut text = "provider: {providerType: standalone, rootURL: 'https://tc.example.com', clientID: c, accessToken: t, workerPoolID: a/b, workerGroup: g, workerID: w}\nworker: {implementation: dummy}\nworkerConfig:\n".to_owned();
    let mut number = 0;
    while text.len() < size {
        let _ = writeln!(text, "  key{number:08}: 'some value of a setting, number {number}'");
        number += 1;
    }
    fs::write(path, text).expect("a config");
}
