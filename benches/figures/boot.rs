//! The time from start-worker's start to the worker's first instruction, against what the network alone takes.
//!
//! Of many boots the lower quartile counts: whatever else a machine does makes some of them slower, and none faster.

use crate::measure::{Programs, lower_quartile};
use crate::table::{Limit, Row, Table};
use serde_json::json;
use simulator::machine::Machine;
use simulator::{CloudKind, Setup, Simulator};
use std::cell::LazyCell;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Requests by which a service is measured.
const REQUESTS: usize = 11;

/// How many answers have to wait for one another before the worker starts, ours and the Go program's.
const TRIPS: [(CloudKind, u32, u32); 4] =
    [(CloudKind::Static, 2, 3), (CloudKind::Azure, 3, 5), (CloudKind::Aws, 4, 10), (CloudKind::Google, 4, 14)];

/// After what the simulated services answer, in milliseconds, and how many boots of each machine are measured then: the more,
/// the more of what is measured is the processors' work, which others disturb.
const LATENCIES: [(u64, usize); 4] = [(0, 210), (10, 105), (50, 21), (200, 21)];

/// Boots of a machine that asks nobody.
const BOOTS_ALONE: usize = 210;

pub fn measure(programs: &Programs, table: &mut Table) {
    let boots = LazyCell::new(|| Boots::of(&programs.start_worker));
    for (latency, times) in LATENCIES {
        let name = |kind: CloudKind| format!("boot: {}, {latency} ms an answer", kind.name());
        let wanted: Vec<_> = TRIPS.into_iter().filter(|(kind, ..)| table.wants(&name(*kind))).collect();
        if wanted.is_empty() {
            continue;
        }
        let answer = answer_time(latency);
        // In turns, for what disturbs one of them then disturbs them all.
        let mut taken = vec![Vec::new(); wanted.len()];
        for _ in 0..times {
            for (taken, (kind, ..)) in taken.iter_mut().zip(&wanted) {
                taken.push(boots.whole(*kind, latency));
            }
        }
        for (taken, (kind, trips, go)) in taken.into_iter().zip(wanted) {
            let network = |trips: u32| f64::from(trips) * answer;
            let limit = Limit::AtMost(network(trips) * 1.05 + 5.0);
            let ours = lower_quartile(taken);
            table.row(&Row { name: &name(kind), unit: "ms", go: Some(network(go)), limit, ours });
        }
    }
    let [whole, least] = ["boot: standalone, beyond fork and exec", "boot: `timeout`, beyond fork and exec"];
    if table.wants(whole) || table.wants(least) {
        let [alone, under_timeout, under_us] = boots.standalone();
        let limit = Limit::AtMost(1.5);
        table.row(&Row { name: whole, unit: "ms", go: Some(2.5), limit, ours: under_us - alone });
        // The least that a program in between takes, by one that does nothing else.
        table.row(&Row { name: least, unit: "ms", go: None, limit: Limit::None, ours: under_timeout - alone });
    }
}

/// What an answer of the simulated services takes on this machine, in milliseconds, as the least client there is sees it.
fn answer_time(latency: u64) -> f64 {
    let setup = Setup { kind: CloudKind::Static, latency: Duration::from_millis(latency) };
    let simulator = Simulator::start(&setup).expect("a simulator");
    let url = simulator.url();
    let host = url.trim_start_matches("http://");
    let mut connection = TcpStream::connect(host).expect("a connection");
    connection.set_nodelay(true).expect("a connection");
    let request = format!("GET /nothing HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let mut ask = || {
        let (began, mut answer) = (Instant::now(), [0; 4096]);
        connection.write_all(request.as_bytes()).expect("a question");
        assert_ne!(connection.read(&mut answer).expect("an answer"), 0, "the simulator went away");
        began.elapsed().as_secs_f64() * 1000.0
    };
    lower_quartile((0..REQUESTS).map(|_| ask()).collect())
}

/// What is booted: start-worker, and a worker that says when its first instruction ran.
struct Boots<'a> {
    start_worker: &'a Path,
    worker: PathBuf,
}

impl<'a> Boots<'a> {
    fn of(start_worker: &'a Path) -> Self {
        let worker = start_worker.with_file_name("first-instruction");
        let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/figures/first_instruction.rs"));
        rustc.args(["--edition", "2024", "-O", "-C", "panic=abort", "-o"]).arg(&worker);
        // Where it is in memory stands in its file: nothing has to be put in its place first.
        rustc.args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"]);
        rustc.args(["-C", "link-args=-nostartfiles -nostdlib -static"]);
        assert!(rustc.status().is_ok_and(|status| status.success()), "first_instruction.rs cannot be compiled");
        Self { start_worker, worker }
    }

    /// The time to the worker's first instruction on a new machine of that kind, in milliseconds.
    fn whole(&self, kind: CloudKind, latency: u64) -> f64 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let setup = Setup { kind, latency: Duration::from_millis(latency) };
        let simulator = Simulator::start(&setup).expect("a simulator");
        let machine = Machine::new(&simulator, folder.path(), self.start_worker, &self.worker).expect("a machine");
        time_to_first_instruction(&mut machine.command().expect("a command"), folder.path())
    }

    /// Three ways to start the worker where nobody is asked for anything, in one folder: alone, with `timeout` in between
    /// and with start-worker. The lower quartile of each, in milliseconds, of boots that take turns.
    fn standalone(&self) -> [f64; 3] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let setup = Setup { kind: CloudKind::Standalone, latency: Duration::ZERO };
        let simulator = Simulator::start(&setup).expect("a simulator");
        let machine = Machine::new(&simulator, folder.path(), self.start_worker, &self.worker);
        let mut machine = machine.expect("a machine");
        machine.config["getSecrets"] = json!(false);
        let mut under_timeout = Command::new("timeout");
        under_timeout.arg("60").arg(&self.worker);
        let mut ways = [Command::new(&self.worker), under_timeout, machine.command().expect("a command")];
        let mut taken = [const { Vec::new() }; 3];
        for _ in 0..BOOTS_ALONE {
            for (taken, command) in taken.iter_mut().zip(&mut ways) {
                // A machine is new once: the system writes to the disk at once what replaces an earlier boot's file.
                let _ = fs::remove_file(machine.worker_config());
                let _ = fs::remove_file(folder.path().join("started"));
                taken.push(time_to_first_instruction(command.stdin(Stdio::null()).current_dir(&folder), folder.path()));
            }
        }
        taken.map(lower_quartile)
    }
}

/// From the start of a program in this folder to the first instruction of the worker that it starts, in milliseconds.
fn time_to_first_instruction(command: &mut Command, folder: &Path) -> f64 {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let began = SystemTime::now();
    assert!(command.status().expect("a program").success());
    let started = fs::read(folder.join("started")).expect("the worker's start");
    let (seconds, nanoseconds) = started.split_first_chunk().expect("a time");
    let nanoseconds = u64::from_ne_bytes(nanoseconds.try_into().expect("a time"));
    let first = Duration::from_secs(u64::from_ne_bytes(*seconds)) + Duration::from_nanos(nanoseconds);
    let first = SystemTime::UNIX_EPOCH + first;
    first.duration_since(began).expect("time goes forward").as_secs_f64() * 1000.0
}
