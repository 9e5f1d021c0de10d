//! Two hundred start-workers on one machine, against one server.

use crate::measure::{Programs, cpu_time, pss_of, wait_until};
use crate::table::{Limit, Row, Table};
use serde_json::json;
use simulator::machine::Machine;
use simulator::{CloudKind, Setup, Simulator};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

const MACHINES: usize = 200;

/// When the boots' own traces have faded.
const SETTLED: Duration = Duration::from_secs(25);

pub fn measure(programs: &Programs, table: &mut Table) {
    if !table.wants("herd") {
        return;
    }
    let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::from_millis(50) });
    let simulator = simulator.expect("a simulator");
    let mut herd = Vec::new();
    for _ in 0..MACHINES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let machine = Machine::new(&simulator, folder.path(), &programs.start_worker, Path::new("/bin/sleep"));
        let mut machine = machine.expect("a machine");
        // The worker is no part of what is measured: it is as small as can be.
        let worker = folder.path().join("worker");
        fs::write(&worker, "#!/bin/sh\nexec sleep 600\n").expect("a worker");
        #[cfg(unix)]
        fs::set_permissions(&worker, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a program");
        machine.config["worker"]["path"] = json!(worker);
        let log = folder.path().join("log");
        let mut command = machine.command().expect("a command");
        let child = command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a log")).spawn();
        herd.push((child.expect("start-worker"), log, folder));
    }
    let ready = |log: &Path| {
        let text = fs::read_to_string(log).unwrap_or_default();
        let (_, rest) = text.split_once("ready in ")?;
        rest.split(' ').next()?.parse::<f64>().ok()
    };
    wait_until("all are ready", || herd.iter().all(|(_, log, _)| ready(log).is_some()));
    let mut boots: Vec<f64> = herd.iter().filter_map(|(_, log, _)| ready(log)).collect();
    boots.sort_by(f64::total_cmp);
    thread::sleep(SETTLED);
    let memory: f64 = herd.iter().filter_map(|(child, ..)| pss_of(child.id())).sum();
    let cpu: Duration = herd.iter().map(|(child, ..)| cpu_time(child.id())).sum();
    for (child, ..) in &mut herd {
        let _ = child.kill();
        let _ = child.wait();
    }
    #[expect(clippy::cast_precision_loss, reason = "two hundred")]
    let machines = MACHINES as f64;
    let mut row = |name, unit, ours| table.row(&Row { name, unit, go: None, limit: Limit::None, ours });
    row("herd: 200 at once, half ready within", "ms", boots[MACHINES / 2]);
    row("herd: 99 of 100 ready within", "ms", boots[MACHINES * 99 / 100]);
    row("herd: memory of all (PSS)", "MiB", memory / 1024.0);
    row("herd: memory of each (PSS)", "MiB", memory / 1024.0 / machines);
    row("herd: CPU of each, boot and 25 s", "ms", cpu.as_secs_f64() * 1000.0 / machines);
}
