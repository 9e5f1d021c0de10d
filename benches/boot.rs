//! The time from start-worker's start to the worker's first instruction, for each provider, against what the network
//! alone takes. Prints a table; judges nothing but the limit that it prints.

use serde_json::json;
use simulator::machine::Machine;
use simulator::{CloudKind, Setup, Simulator, worker};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// What every answer takes.
const LATENCY: Duration = Duration::from_millis(50);

/// Boots of each provider; the median counts.
const BOOTS: usize = 11;

fn main() {
    let start_worker = Path::new(env!("CARGO_BIN_EXE_start-worker"));
    let worker = start_worker.with_file_name(format!("simulator{}", std::env::consts::EXE_SUFFIX));
    let built = Command::new(env!("CARGO")).args(["build", "--release", "--package", "simulator"]).status();
    assert!(built.is_ok_and(|status| status.success()) && worker.is_file(), "the simulator cannot be built");
    println!("{BOOTS} boots each, {} ms an answer; median, in ms", LATENCY.as_millis());
    println!("{:<12} {:>8} {:>8} {:>8}  limit (network + 15 % + 15 ms)", "provider", "network", "median", "ratio");
    for (kind, trips) in [
        (CloudKind::Static, 2),
        (CloudKind::Azure, 3),
        (CloudKind::Aws, 4),
        (CloudKind::Google, 4),
        (CloudKind::Standalone, 0),
    ] {
        let mut times: Vec<f64> = (0..BOOTS).map(|_| boot(kind, start_worker, &worker)).collect();
        times.sort_by(f64::total_cmp);
        let median = times[BOOTS / 2];
        let network = LATENCY.as_secs_f64() * 1000.0 * f64::from(trips);
        let limit = network * 1.15 + 15.0;
        let ratio = if trips == 0 { "-".to_owned() } else { format!("{:.3}", median / network) };
        let verdict = if median <= limit { "" } else { "  OVER" };
        println!("{:<12} {network:>8.0} {median:>8.1} {ratio:>8}  {limit:.0}{verdict}", kind.name());
    }
}

/// One boot, in milliseconds.
fn boot(kind: CloudKind, start_worker: &Path, worker: &Path) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let simulator = Simulator::start(&Setup { kind, latency: LATENCY }).expect("a simulator");
    let mut machine = Machine::new(&simulator, folder.path(), start_worker, worker).expect("a machine");
    machine.script = json!(["hello", {"exit": 0}]);
    if kind == CloudKind::Standalone {
        machine.config["getSecrets"] = json!(false);
    }
    let started = folder.path().join("started");
    let mut command = machine.command().expect("a command");
    command.env(worker::STARTED, &started).stdout(Stdio::null()).stderr(Stdio::null());
    let began = SystemTime::now();
    assert!(command.status().expect("start-worker").success());
    let first: u64 = fs::read_to_string(started).expect("the worker's start").parse().expect("a number");
    let first = SystemTime::UNIX_EPOCH + Duration::from_nanos(first);
    first.duration_since(began).expect("time goes forward").as_secs_f64() * 1000.0
}
