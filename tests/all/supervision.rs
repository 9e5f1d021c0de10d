//! Beside a running worker: its lines, its messages, its end.

use crate::support::{Fixture, PATIENCE, Signal};
#[cfg(unix)]
use serde_json::Value;
use serde_json::json;
use simulator::CloudKind;
#[cfg(unix)]
use std::fs;

#[cfg(unix)]
/// What start-worker may use at its peak, in MiB.
const MEMORY: f64 = 32.0;

#[test]
fn lines_and_records_come_in_order_with_a_time_each() {
    let fixture = Fixture::new(CloudKind::Static).script(json!([
        "hello", {"print": "one"}, {"log": {"textPayload": "two", "b": true, "a": [1]}}, {"log": {"textPayload": "a\nb"}}, {"print": ""}, {"log": {}},
        {"print": "three\ttabs ~{ not a message"}, {"bytes": [0xff, 0x41, 0x0a]}, {"exit": 0},
    ]));
    let finished = fixture.boot();
    let relayed: Vec<&str> = finished
        .log
        .lines()
        .skip_while(|line| !line.ends_with("one"))
        .filter(|line| !line.contains("hello") && !line.contains("has ended") && !line.contains("the run is over"))
        .map(|line| &line[20..])
        .collect();
    assert_eq!(
        relayed,
        ["one", "two; a: [1]; b: true", "a", "b", "", "{}", "three\ttabs ~{ not a message", "\u{fffd}A"]
    );
    for line in finished.log.lines() {
        let stamp = &line[..20];
        let shape: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000/00/00 00:00:00 ");
    }
}

#[test]
fn the_workers_standard_error_is_relayed_too() {
    let fixture =
        Fixture::new(CloudKind::Static).script(json!([{"printError": "an error of the worker"}, {"exit": 0}]));
    fixture.boot().assert_logged(" an error of the worker\n");
}

#[cfg(unix)]
#[test]
fn a_line_of_64_mib_is_passed_on_whole_in_bounded_memory() {
    let length: usize = 64 << 20;
    let fixture = Fixture::new(CloudKind::Static)
        .script(json!([{"longLine": length}, {"raw": "\n"}, {"print": "after"}, "hang"]));
    let mut running = fixture.start();
    running.wait_for("after");
    let memory = running.peak_memory();
    running.signal(Signal::SIGKILL);
    let finished = running.finish();
    assert!(memory < MEMORY, "{memory} MiB");
    let long: usize =
        finished.log.lines().map(|line| &line[20..]).filter(|text| text.starts_with("yy")).map(str::len).sum();
    assert_eq!(long, length);
}

#[cfg(unix)]
#[test]
fn a_flood_of_lines_loses_none_in_bounded_memory() {
    // Ten million on request; enough here to go through every buffer many times.
    let count: usize = std::env::var("LINES").ok().and_then(|text| text.parse().ok()).unwrap_or(300_000);
    let fixture = Fixture::new(CloudKind::Static).script(json!([{"lines": [count, 40]}, {"print": "after"}, "hang"]));
    let mut running = fixture.start();
    running.wait_for(" after\n");
    let memory = running.peak_memory();
    running.signal(Signal::SIGKILL);
    let finished = running.finish();
    assert!(memory < MEMORY, "{memory} MiB");
    let mut next = 0;
    for line in finished.log.lines() {
        if let Some(rest) = line[20..].strip_prefix("line ") {
            assert_eq!(rest.trim_end_matches('x').trim().parse(), Ok(next));
            next += 1;
        }
    }
    assert_eq!(next, count);
}

#[test]
fn a_worker_that_speaks_garbage_is_relayed() {
    let garbage: Vec<u8> = (0..=255).cycle().take(20_000).chain(*b"\n~{\n~{\"type\":\"log\"\n").collect();
    let fixture = Fixture::new(CloudKind::Static).script(json!([
        {"bytes": garbage}, {"print": "after"}, "hello", {"await": "graceful-termination"}, {"exit": 4},
    ]));
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(4).assert_logged(" after\n");
}

#[cfg(unix)]
#[test]
fn a_worker_that_never_reads_is_supervised_all_the_same() {
    let fixture = Fixture::new(CloudKind::Google).script(json!([
        {"message": {"type": "hello", "capabilities": ["log", "graceful-termination", "new-credentials"]}},
        {"print": "deaf"}, {"onTerminate": 9}, "hang",
    ]));
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    running.wait_for("told to stop");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(137).assert_logged("killing the worker");
}

#[cfg(unix)]
#[test]
fn a_second_signal_kills_the_workers_group() {
    let fixture = Fixture::new(CloudKind::Static).script(json!([{"onTerminate": -1}, {"print": "stubborn"}, "hang"]));
    let mut running = fixture.start();
    running.wait_for("stubborn");
    running.signal(Signal::SIGTERM);
    running.wait_for("received SIGTERM");
    running.signal(Signal::SIGINT);
    running.finish().assert_code(137);
}

#[test]
fn a_signal_leaves_a_cloud_machine_alone() {
    let fixture =
        Fixture::new(CloudKind::Aws).script(json!(["hello", {"await": "graceful-termination"}, {"exit": 71}]));
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(71);
    assert_eq!(fixture.simulator.count("DELETE"), 0);
    assert!(fixture.machine.shutdowns().is_empty());
}

#[cfg(unix)]
#[test]
fn a_worker_that_init_ended_first_leaves_its_machine_alone() {
    let mut fixture = Fixture::new(CloudKind::Aws).script(json!(["hello", {"signal": 15}]));
    fixture.machine.config["retirement"]["signalGrace"] = json!("1m");
    let mut running = fixture.start();
    running.wait_for("the worker has ended: signal 15");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(143);
    assert_eq!(fixture.simulator.count("DELETE") + fixture.simulator.count("worker-pool-errors"), 0);
}

#[test]
fn a_worker_that_asks_for_retirement_gets_it_once() {
    let ask = json!({"message": {"type": "shutdown"}});
    let fixture = Fixture::new(CloudKind::Google)
        .script(json!(["hello", ask, ask, {"await": "graceful-termination"}, {"exit": 68}]));
    let mut running = fixture.start();
    running.wait_for("asks for this machine to be retired");
    running.wait_for("worker-manager removes this machine");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(68);
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.removals), 1);
    assert!(fixture.machine.shutdowns().is_empty());
}

#[test]
fn error_reports_go_to_worker_manager_with_the_workers_name_and_clipped() {
    let long = "ä".repeat(20_000);
    let report = json!({"message": {"type": "error-report", "kind": "Bad Kind", "title": long, "description": long, "extra": {"a": 1}}});
    let fixture = Fixture::new(CloudKind::Azure).script(json!(["hello", report, {"exit": 0}]));
    fixture.boot().assert_code(0);
    fixture.assert_no_violation();
    let reports = fixture.simulator.world(|world| world.taskcluster.reports.clone());
    assert_eq!(reports.len(), 1);
    assert_eq!((&reports[0]["workerId"], &reports[0]["kind"]), (&json!("vm-simulated-0001"), &json!("bad-kind")));
    assert_eq!(reports[0]["title"].as_str().unwrap().chars().count(), 128);
}

#[cfg(unix)]
#[test]
fn which_ends_are_reported() {
    let table = [
        (json!({"exit": 0}), 0),
        (json!({"exit": 68}), 0),
        (json!({"exit": 70}), 0),
        (json!({"exit": 65}), 1),
        (json!({"signal": 6}), 1),
        (json!({"exit": 90}), 1),
    ];
    for (step, count) in table {
        let fixture = Fixture::new(CloudKind::Static).script(json!(["hello", step]));
        fixture.boot();
        assert_eq!(fixture.simulator.world(|world| world.taskcluster.reports.len()), count, "{step}");
    }
}

#[cfg(unix)]
#[test]
fn the_worker_gets_a_clean_process() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let description = fixture.path("description.json");
    fixture.machine.script = json!([{"describe": description}, {"exit": 0}]);
    // A descriptor that we are started with, an ignored signal: none of it is the worker's.
    fixture.start_after("trap '' HUP USR1; exec 7</etc/passwd").finish().assert_code(0);
    let description: Value = serde_json::from_slice(&fs::read(description).unwrap()).unwrap();
    let descriptors = description["descriptors"].as_array().unwrap();
    assert!(!descriptors.iter().any(|fd| fd.as_str().unwrap().contains("passwd")), "{descriptors:?}");
    assert_eq!(description["group"], description["process"]);
    assert_eq!(description["blockedSignals"], "0000000000000000");
    let ignored = u64::from_str_radix(description["ignoredSignals"].as_str().unwrap(), 16).unwrap();
    // 13 (SIGPIPE) is ignored by the worker's own runtime; 32 and 33 are the C library's.
    assert_eq!(ignored & !(1 << 12 | 1 << 31 | 1 << 32), 0, "{ignored:x}");
}

#[cfg(unix)]
#[test]
fn what_the_worker_leaves_behind_is_ended_and_named() {
    for noise in ["quiet", "loud"] {
        let fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"leaveBehind": noise}, {"exit": 0}]));
        let finished = fixture.boot();
        finished.assert_code(0).assert_logged("behind: ending it");
        let id = finished.log.lines().find_map(|line| line[20..].strip_prefix("left ")?.split(' ').next()).unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "{noise}: process {id} is still there");
    }
}

#[test]
fn a_worker_that_closes_its_streams_is_supervised_to_its_end() {
    let fixture = Fixture::new(CloudKind::Google)
        .script(json!(["hello", "closeInput", "closeOutput", {"sleep": 300}, {"exit": 6}]));
    fixture.boot().assert_code(6);
    assert_eq!(fixture.simulator.count("DELETE"), 1);
}

#[test]
fn a_worker_that_cannot_take_credentials_is_stopped_before_its_own_end() {
    let fixture = Fixture::new(CloudKind::Static).script(json!([
        {"hello": ["log", "graceful-termination"]}, {"await": "graceful-termination"}, {"exit": 72},
    ]));
    fixture.simulator.world(|world| world.taskcluster.credentials_life = std::time::Duration::from_secs(31));
    fixture.boot().assert_code(72).assert_logged("received graceful-termination finish-tasks=true");
    // What we need ourselves is renewed all the same.
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.renewals), 1);
}

#[test]
fn a_slow_reader_of_the_log_slows_the_worker_and_not_us() {
    use std::io::Read;
    let fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"lines": [100_000, 100]}, {"exit": 0}]));
    fixture.simulator.world(|world| world.taskcluster.credentials_life = std::time::Duration::from_secs(31));
    let mut child = fixture.machine.command().unwrap().spawn().unwrap();
    // Nobody reads, and yet the credentials are renewed.
    assert!(fixture.simulator.wait_for("/reregister", 1, PATIENCE));
    let mut log = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut log).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(String::from_utf8(log).unwrap().lines().filter(|line| line.contains(" line ")).count(), 100_000);
}

#[test]
fn what_lies_in_the_pipe_at_the_workers_end_is_read_whatever_the_grace() {
    let script = json!(["hello", {"lines": [2000, 100]}, {"message": {"type": "shutdown"}}, {"exit": 67}]);
    let mut fixture = Fixture::with_cache(CloudKind::Google).script(script);
    fixture.machine.config["protocol"] = json!({"outputGrace": 0});
    let finished = fixture.boot();
    finished.assert_code(67).assert_logged("the worker asks for this machine to be retired");
    assert_eq!(finished.log.lines().filter(|line| line.contains(" line ")).count(), 2000);
}

#[cfg(unix)]
#[test]
fn a_child_that_we_had_before_the_worker_is_left_alone() {
    let fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"exit": 0}]));
    let finished = fixture.start_after("sleep 600 >/dev/null 2>&1 & echo sidecar $!").finish();
    finished.assert_code(0).assert_not_logged("ending it");
    let sidecar: i32 = finished.output.trim().strip_prefix("sidecar ").unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sidecar), Signal::SIGKILL).expect("the sidecar is still there");
}

#[cfg(unix)]
#[test]
fn a_worker_ended_by_a_real_time_signal_has_ended() {
    let mut fixture = Fixture::new(CloudKind::Static);
    fixture.machine.config["worker"]["path"] = json!(fixture.program("worker.sh", "#!/bin/sh\nkill -40 $$\n"));
    fixture.boot().assert_code(168).assert_logged("the worker has ended: signal 40");
}

#[cfg(windows)]
skip! {
    "it looks at Linux' own files": a_line_of_64_mib_is_passed_on_whole_in_bounded_memory, a_flood_of_lines_loses_none_in_bounded_memory, what_the_worker_leaves_behind_is_ended_and_named, a_child_that_we_had_before_the_worker_is_left_alone;
    "there is no SIGTERM: a worker that hears no message has until it is ended": a_worker_that_never_reads_is_supervised_all_the_same, a_second_signal_kills_the_workers_group;
    "no signal ends a process": a_worker_that_init_ended_first_leaves_its_machine_alone, which_ends_are_reported;
    "it needs a shell": the_worker_gets_a_clean_process, a_worker_ended_by_a_real_time_signal_has_ended;
}
