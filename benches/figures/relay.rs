//! What it costs to pass on what a worker writes, beside `cat` from the same pipe to the same kind of file.

use crate::measure::{Programs, cpu_time, median, status_of, wait_until};
use crate::table::{Limit, Row, Table};
use serde_json::{Value, json};
use simulator::machine::Machine;
use simulator::{CloudKind, Setup, Simulator, worker};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

const RUNS: usize = 5;

/// What the worker ends its lines with.
const LAST: &str = "that was all";

pub fn measure(programs: &Programs, table: &mut Table) {
    let lines = json!({"lines": [1_000_000, 99]});
    let name = "relay: 1,000,000 lines of 100 bytes";
    if table.wants(name) {
        let stamped = median((0..RUNS).map(|_| relay(programs, &lines, &[])).collect());
        table.row(&Row { name, unit: "s CPU", go: Some(0.91), limit: Limit::AtMost(0.18), ours: stamped });
        let pairs = (0..RUNS).map(|_| relay(programs, &lines, &["--no-timestamps"]) / cat(programs, &lines));
        let ratio = median(pairs.collect());
        let name = "relay: the same without times, against `cat`";
        table.row(&Row { name, unit: "ratio", go: None, limit: Limit::AtMost(1.5), ours: ratio });
    }
    let name = "relay: 200,000 log messages";
    if table.wants(name) {
        let logs = json!({"logs": [200_000, 80]});
        let ours = median((0..RUNS).map(|_| relay(programs, &logs, &[])).collect());
        table.row(&Row { name, unit: "s CPU", go: Some(0.54), limit: Limit::AtMost(0.108), ours });
    }
    let name = "relay: one line, worker to reader";
    if table.wants(name) {
        table.row(&Row { name, unit: "ms", go: None, limit: Limit::AtMost(1.0), ours: latency(programs) });
    }
    if table.wants("relay: a line of 20 MB") {
        let (time, memory) = long_line(programs);
        let name = "relay: a line of 20 MB";
        table.row(&Row { name, unit: "s CPU", go: Some(1.7), limit: Limit::AtMost(0.34), ours: time });
        let name = "relay: a line of 20 MB, peak memory";
        table.row(&Row { name, unit: "MiB", go: Some(206.0), limit: Limit::AtMost(41.0), ours: memory });
    }
}

/// How long a line takes from the worker to whoever reads the log, where nothing else happens, in milliseconds.
fn latency(programs: &Programs) -> f64 {
    let (machine, _simulator, _folder) = machine(programs, &json!([{"ticks": [100, 20]}, {"exit": 0}]));
    let mut command = machine.command().expect("a command");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start-worker");
    let mut taken = Vec::new();
    for line in BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_nanos();
        let said = line.split_once("tick ").and_then(|(_, time)| time.parse::<u128>().ok());
        taken.extend(
            said.map(|said| Duration::from_nanos(u64::try_from(now - said).unwrap_or(0)).as_secs_f64() * 1000.0),
        );
    }
    let _ = child.wait();
    median(taken)
}

/// What a line of twenty megabytes takes: processor time in seconds, peak memory in MiB.
fn long_line(programs: &Programs) -> (f64, f64) {
    let script = json!([{"longLine": 20 << 20}, {"raw": "\n"}, {"print": LAST}, "hang"]);
    let (machine, _simulator, folder) = machine(programs, &script);
    let log = folder.path().join("log");
    let mut command = machine.command().expect("a command");
    command.stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
    let mut child = command.spawn().expect("start-worker");
    wait_until("the long line", || has_line(&log, LAST));
    let taken = cpu_time(child.id()).as_secs_f64();
    let memory = status_of(child.id(), "VmHWM").unwrap_or(0.0) / 1024.0;
    end(&mut child);
    (taken, memory)
}

fn machine(programs: &Programs, script: &Value) -> (Machine, Simulator, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup { kind: CloudKind::Standalone, latency: Duration::ZERO };
    let simulator = Simulator::start(&setup).expect("a simulator");
    let mut machine =
        Machine::new(&simulator, folder.path(), &programs.start_worker, &programs.simulator).expect("a machine");
    machine.config["getSecrets"] = json!(false);
    machine.script = script.clone();
    (machine, simulator, folder)
}

/// The processor time that start-worker takes for these lines, in seconds.
fn relay(programs: &Programs, lines: &Value, options: &[&str]) -> f64 {
    let script = json!(["hello", {"print": "here"}, {"sleep": 200}, lines, {"print": LAST}, "hang"]);
    let (machine, _simulator, folder) = machine(programs, &script);
    let log = folder.path().join("log");
    let mut command = machine.command().expect("a command");
    command.args(options).stdout(Stdio::null()).stderr(File::create(&log).expect("a log"));
    let mut child = command.spawn().expect("start-worker");
    wait_until("the worker is there", || has_line(&log, "here"));
    let before = cpu_time(child.id());
    wait_until("the worker's lines", || has_line(&log, LAST));
    let taken = cpu_time(child.id()).saturating_sub(before);
    end(&mut child);
    taken.as_secs_f64()
}

/// What `cat` takes for them.
fn cat(programs: &Programs, lines: &Value) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log");
    let mut source = Command::new(&programs.simulator)
        .args(["run", "--config", "none", "--with-worker-runner"])
        .env(worker::SCRIPT, json!([lines, {"print": LAST}, "hang"]).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the simulator");
    let mut cat = Command::new("cat")
        .stdin(source.stdout.take().expect("a pipe"))
        .stdout(File::create(&log).expect("a file"))
        .spawn()
        .expect("cat");
    wait_until("cat's lines", || has_line(&log, LAST));
    let taken = cpu_time(cat.id());
    end(&mut source);
    end(&mut cat);
    taken.as_secs_f64()
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Whether one of the last lines of a file ends so.
fn has_line(file: &Path, words: &str) -> bool {
    let Ok(mut file) = fs::File::open(file) else { return false };
    let end = file.seek(SeekFrom::End(0)).unwrap_or(0);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(end.saturating_sub(1000))).is_ok()
        && file.read_to_end(&mut tail).is_ok()
        && String::from_utf8_lossy(&tail).lines().any(|line| line.ends_with(words))
}
