//! What start-worker takes while its worker does nothing.

use crate::measure::{Programs, cpu_time, status_of, wait_until, waits_of};
use crate::table::{Limit, Row, Table};
use serde_json::json;
use simulator::machine::Machine;
use simulator::{CloudKind, Setup, Simulator};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// How long the boot's own traces fade.
const SETTLED: Duration = Duration::from_secs(20);

/// How long is looked.
const LOOK: Duration = Duration::from_secs(30);

/// The providers, with their limits of wake-ups a second.
const PROVIDERS: [(CloudKind, f64); 4] =
    [(CloudKind::Static, 0.3), (CloudKind::Aws, 2.5), (CloudKind::Azure, 2.5), (CloudKind::Google, 2.5)];

pub fn measure(programs: &Programs, table: &mut Table) {
    if !table.wants("idle") {
        return;
    }
    // All at once: the waiting is the same.
    let machines: Vec<Idle> = PROVIDERS.iter().map(|(kind, _)| Idle::boot(programs, *kind)).collect();
    thread::sleep(SETTLED);
    let before: Vec<(f64, Duration)> = machines.iter().map(Idle::so_far).collect();
    thread::sleep(LOOK);
    for (machine, ((kind, limit), (wake_ups, cpu))) in machines.iter().zip(PROVIDERS.iter().zip(before)) {
        let (wake_ups_now, cpu_now) = machine.so_far();
        let seconds = LOOK.as_secs_f64();
        let name = |what: &str| format!("idle: {}, {what}", kind.name());
        let process = machine.child.id();
        let resident = status_of(process, "VmRSS").unwrap_or(0.0) / 1024.0;
        let own = status_of(process, "RssAnon").unwrap_or(0.0) / 1024.0;
        let limit_of_memory = if *kind == CloudKind::Static { Limit::AtMost(5.0) } else { Limit::None };
        table.row(&Row { name: &name("RSS"), unit: "MiB", go: Some(8.4), limit: limit_of_memory, ours: resident });
        table.row(&Row {
            name: &name("of it our own (anonymous)"),
            unit: "MiB",
            go: None,
            limit: Limit::None,
            ours: own,
        });
        let rate = (wake_ups_now - wake_ups) / seconds;
        table.row(&Row { name: &name("wake-ups"), unit: "/s", go: None, limit: Limit::AtMost(*limit), ours: rate });
        let share = cpu_now.saturating_sub(cpu).as_secs_f64() / seconds * 100.0;
        table.row(&Row { name: &name("CPU"), unit: "%", go: None, limit: Limit::AtMost(0.1), ours: share });
    }
}

/// A machine whose worker does nothing.
struct Idle {
    child: Child,
    _simulator: Simulator,
    _folder: tempfile::TempDir,
}

impl Idle {
    fn boot(programs: &Programs, kind: CloudKind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let simulator = Simulator::start(&Setup { kind, latency: Duration::ZERO }).expect("a simulator");
        let mut machine =
            Machine::new(&simulator, folder.path(), &programs.start_worker, &programs.simulator).expect("a machine");
        machine.script = json!(["hello", "hang"]);
        let log = folder.path().join("log");
        let mut command: Command = machine.command().expect("a command");
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a log"));
        let child = command.spawn().expect("start-worker");
        wait_until("hello", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("said hello")));
        Self { child, _simulator: simulator, _folder: folder }
    }

    /// How often it has waited so far, and how long it has worked.
    fn so_far(&self) -> (f64, Duration) {
        let process = self.child.id();
        (waits_of(process), cpu_time(process))
    }
}
