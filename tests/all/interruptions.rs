//! Every word that a machine will go away, and every way to bring a worker to its end.

#[cfg(unix)]
use crate::support::Running;
use crate::support::{Fixture, PATIENCE, Signal};
use jiff::Timestamp;
use serde_json::{Value, json};
use simulator::{CloudKind, Fault};
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// A worker that ends as it is told.
fn obedient() -> Value {
    json!(["hello", {"await": "graceful-termination"}, {"exit": 71}])
}

/// A worker that hears everything and ends at nothing but SIGKILL.
#[cfg(unix)]
fn stubborn() -> Value {
    json!(["hello", {"onTerminate": -1}, {"onInterrupt": -1}, {"await": "graceful-termination"}, {"await": "graceful-termination"}, "hang"])
}

/// A time that many seconds ahead, in the way of Azure.
fn ahead(seconds: i64) -> String {
    let time = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap()
}

fn azure_event(id: &str, kind: &str, resources: &[&str], not_before: &str) -> Value {
    json!({"EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": resources,
        "EventStatus": "Scheduled", "NotBefore": not_before})
}

fn removals(fixture: &Fixture) -> usize {
    fixture.simulator.world(|world| world.taskcluster.removals)
}

#[test]
fn spot_notices_stop_the_worker_once() {
    let fixture = Fixture::new(CloudKind::Aws)
        .script(json!(["hello", {"await": "graceful-termination"}, {"sleep": 2500}, {"exit": 71}]));
    let mut running = fixture.start();
    running.wait_for("said hello");
    let time = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(120)).unwrap();
    fixture.simulator.world(|world| {
        world.cloud.termination_time = Some(format!("{time:.0}"));
        world.cloud.spot_action = Some(json!({"action": "terminate", "time": format!("{time:.0}")}).to_string());
    });
    let finished = running.finish();
    finished.assert_code(71).assert_logged("notice: AWS is about to terminate this spot instance, at 2");
    finished.assert_logged("received graceful-termination finish-tasks=false");
    assert_eq!(finished.log.matches("notice:").count(), 1, "{}", finished.log);
    assert_eq!(removals(&fixture), 1);
}

#[test]
fn an_on_demand_instance_is_not_asked_for_spot_notices() {
    let mut fixture = Fixture::new(CloudKind::Aws).script(obedient());
    fixture.machine.config["interruption"] = json!({"poll": "20ms", "slowPoll": "20ms"});
    fixture.simulator.world(|world| world.cloud.life_cycle = "on-demand".into());
    let mut running = fixture.start();
    running.wait_for("said hello");
    assert!(fixture.simulator.wait_for("/autoscaling/target-lifecycle-state", 4, PATIENCE));
    fixture.simulator.world(|world| world.cloud.lifecycle_target = Some("Terminated".into()));
    running.finish().assert_code(71);
    // One look at the boot, for a machine that is going already.
    assert_eq!(fixture.simulator.count("/spot/instance-action"), 1);
}

#[test]
fn aws_says_in_four_more_ways_that_an_instance_goes() {
    type Change = fn(&mut simulator::Cloud);
    let table: [(Change, &str, &str); 4] = [
        (
            |cloud| cloud.rebalance = Some(json!({"noticeTime": "2026-11-21T00:00:00Z"}).to_string()),
            "recommends to rebalance",
            "finish-tasks=true",
        ),
        (|cloud| cloud.lifecycle_target = Some("Terminated".into()), "auto scaling group", "finish-tasks=false"),
        (
            |cloud| {
                let event =
                    json!({"Code": "instance-retirement", "EventId": "e", "State": "active", "NotBefore": ahead(7200)});
                cloud.maintenance = vec![event];
            },
            "scheduled maintenance (instance-retirement)",
            "finish-tasks=true",
        ),
        (
            |cloud| cloud.termination_time = Some(Timestamp::now().to_string()),
            "is about to terminate this spot instance",
            "finish-tasks=false",
        ),
    ];
    for (change, notice, told) in table {
        let mut fixture = Fixture::new(CloudKind::Aws).script(obedient());
        fixture.machine.config["interruption"] = json!({"slowPoll": "20ms", "rebalance": "drain"});
        let mut running = fixture.start();
        running.wait_for("said hello");
        fixture.simulator.world(|world| change(&mut world.cloud));
        let finished = running.finish();
        finished.assert_code(71).assert_logged(notice).assert_logged(told);
        assert_eq!(removals(&fixture), 1);
    }
}

#[test]
fn a_rebalance_recommendation_is_only_logged_unless_the_runner_config_says_otherwise() {
    let mut fixture = Fixture::new(CloudKind::Aws).script(obedient());
    fixture.machine.config["interruption"] = json!({"slowPoll": "20ms"});
    let mut running = fixture.start();
    running.wait_for("said hello");
    fixture.simulator.world(|world| world.cloud.rebalance = Some(json!({"noticeTime": "t"}).to_string()));
    running.wait_for("the worker goes on (interruption.rebalance: log)");
    // It is seen again, and said no more.
    let looks = fixture.simulator.count("/recommendations/rebalance");
    assert!(fixture.simulator.wait_for("/recommendations/rebalance", looks + 3, PATIENCE));
    fixture.simulator.world(|world| world.cloud.lifecycle_target = Some("Terminated".into()));
    let finished = running.finish();
    finished.assert_code(71);
    assert_eq!(finished.log.matches("recommends to rebalance").count(), 1);
}

#[test]
fn google_announces_maintenance() {
    let fixture = Fixture::new(CloudKind::Google).script(obedient());
    let mut running = fixture.start();
    running.wait_for("said hello");
    fixture.simulator.world(|world| world.cloud.maintenance_event = "MIGRATE_ON_HOST_MAINTENANCE".into());
    running.wait_for("about to move this instance to another host");
    fixture.simulator.world(|world| world.cloud.maintenance_event = "NONE".into());
    running.wait_for("withdrawn or over:");
    fixture.simulator.world(|world| world.cloud.maintenance_event = "TERMINATE_ON_HOST_MAINTENANCE".into());
    let finished = running.finish();
    finished.assert_code(71).assert_logged("for maintenance of its host").assert_logged("finish-tasks=false");
}

#[test]
fn a_machine_with_gpus_has_an_hour_before_maintenance() {
    let fixture = Fixture::new(CloudKind::Google).script(obedient());
    fixture.simulator.world(|world| world.cloud.machine_type = "g2-standard-4".into());
    let mut running = fixture.start();
    running.wait_for("said hello");
    assert!(fixture.simulator.wait_for("maintenance-event?wait_for_change", 1, PATIENCE));
    fixture.simulator.world(|world| world.cloud.maintenance_event = "TERMINATE_ON_HOST_MAINTENANCE".into());
    running.finish().assert_code(71).assert_logged("received graceful-termination finish-tasks=true");
    // One that begins in the midst of it knows nothing of the time that is left.
    let fixture = Fixture::new(CloudKind::Google).script(obedient());
    fixture.simulator.world(|world| {
        world.cloud.machine_type = "g2-standard-4".into();
        world.cloud.maintenance_event = "TERMINATE_ON_HOST_MAINTENANCE".into();
    });
    fixture.boot().assert_logged("for maintenance of its host").assert_not_logged("finish-tasks=true");
}

#[test]
fn an_event_of_ours_alone_is_acknowledged_once_the_worker_has_gone() {
    let us = "vm-simulated-0001";
    for (resources, acknowledged) in [(vec![us], vec!["e1"]), (vec![us, "another"], vec![])] {
        let mut fixture = Fixture::new(CloudKind::Azure).script(obedient());
        fixture.machine.config["interruption"] = json!({"poll": "20ms"});
        let mut running = fixture.start();
        running.wait_for("said hello");
        fixture.simulator.fault("POST /metadata/scheduledevents", 1, Fault::status(410));
        fixture
            .simulator
            .world(|world| world.cloud.events = vec![azure_event("e1", "Terminate", &resources, &ahead(300))]);
        running.finish().assert_code(71).assert_logged("received graceful-termination finish-tasks=false");
        fixture.simulator.world(|world| assert_eq!(world.cloud.acknowledged, acknowledged));
        assert_eq!(removals(&fixture), 1);
    }
}

#[test]
fn a_vm_that_is_rebooted_by_its_cloud_comes_back() {
    let mut fixture = Fixture::with_cache(CloudKind::Azure).script(obedient());
    fixture.machine.config["interruption"] = json!({"poll": "20ms"});
    let mut running = fixture.start();
    running.wait_for("said hello");
    let event = azure_event("e1", "Reboot", &["vm-simulated-0001"], &ahead(300));
    fixture.simulator.world(|world| world.cloud.events = vec![event]);
    running.finish().assert_code(71);
    fixture.simulator.world(|world| assert_eq!(world.cloud.acknowledged, ["e1"]));
    assert_eq!((removals(&fixture), fixture.machine.shutdowns()), (0, vec!["-r now".to_owned()]));
}

#[cfg(unix)]
#[test]
fn a_far_deadline_lets_tasks_finish_and_then_each_strength_comes_in_its_time() {
    let mut fixture = Fixture::new(CloudKind::Azure).script(stubborn());
    fixture.machine.config["interruption"] = json!({"poll": "20ms", "drainAhead": "1s", "abortBefore": "8s"});
    fixture.machine.config["stop"] = json!({"terminateBefore": "4s"});
    let mut running = fixture.start();
    running.wait_for("said hello");
    let event = azure_event("e", "Redeploy", &["vm-simulated-0001"], &ahead(13));
    fixture.simulator.world(|world| world.cloud.events = vec![event]);
    for line in [
        "notice: Azure has scheduled a Redeploy of this VM",
        "received graceful-termination finish-tasks=true",
        "received graceful-termination finish-tasks=false",
        "received SIGTERM",
        "killing the worker",
    ] {
        running.wait_for_next(line);
    }
    let finished = running.finish();
    finished.assert_code(137);
    assert_eq!(finished.log.matches("received").count(), 3, "{}", finished.log);
}

#[cfg(unix)]
#[test]
fn a_withdrawn_event_is_said_and_a_nearer_one_moves_everything_forward() {
    let mut fixture = Fixture::new(CloudKind::Azure).script(stubborn());
    fixture.machine.config["interruption"] = json!({"poll": "20ms"});
    fixture.machine.config["stop"] = json!({"grace": "10s"});
    let mut running = fixture.start();
    running.wait_for("said hello");
    let event = |not_before: &str| vec![azure_event("e", "Terminate", &["vm-simulated-0001"], not_before)];
    fixture.simulator.world(|world| world.cloud.events = event(&ahead(7200)));
    running.wait_for("received graceful-termination finish-tasks=true");
    fixture.simulator.world(|world| world.cloud.events.clear());
    running.wait_for("withdrawn or over: Azure has scheduled a Terminate of this VM");
    // It has started.
    fixture.simulator.world(|world| world.cloud.events = event(""));
    running.wait_for("received graceful-termination finish-tasks=false");
    running.finish().assert_code(137).assert_logged("received SIGTERM");
}

#[test]
fn a_reboot_that_has_happened_brings_about_no_other_one() {
    let mut fixture = Fixture::with_cache(CloudKind::Azure);
    let over = fixture.path("over");
    fixture.machine.script = json!(["hello", {"waitFor": over}, {"exit": 0}]);
    fixture.machine.config["interruption"] = json!({"poll": "20ms"});
    let event = |status: &str| {
        let mut event = azure_event("e", "Reboot", &["vm-simulated-0001"], "");
        event["EventStatus"] = json!(status);
        vec![event]
    };
    // Azure lists it for minutes.
    fixture.simulator.world(|world| world.cloud.events = event("Started"));
    let mut running = fixture.start();
    running.wait_for("a Reboot of this VM that had begun before start-worker did");
    let looks = fixture.simulator.count("scheduledevents");
    assert!(fixture.simulator.wait_for("scheduledevents", looks + 3, PATIENCE));
    std::fs::write(over, "").unwrap();
    running.finish().assert_code(0).assert_not_logged("notice:");
    assert!(fixture.machine.shutdowns().is_empty());
    // One that begins while we look is one.
    let fixture = Fixture::with_cache(CloudKind::Azure).script(obedient());
    let mut running = fixture.start();
    running.wait_for("said hello");
    assert!(fixture.simulator.wait_for("scheduledevents", 1, PATIENCE));
    fixture.simulator.world(|world| world.cloud.events = event("Started"));
    running.finish().assert_code(71).assert_logged("notice: Azure has scheduled a Reboot of this VM");
}

#[cfg(unix)]
#[test]
fn worker_manager_is_asked_for_a_docker_worker_and_not_for_a_generic_worker() {
    let interruption = json!({"askInterval": "30ms"});
    let mut fixture = Fixture::new(CloudKind::Google).script(obedient());
    fixture.machine.use_docker_worker(&crate::support::simulated_worker()).unwrap();
    fixture.machine.config["interruption"] = interruption.clone();
    let mut running = fixture.start();
    assert!(fixture.simulator.wait_for("should-terminate", 2, PATIENCE));
    running.wait_for("said hello");
    fixture.simulator.world(|world| world.taskcluster.unwanted = Some("too many of them".into()));
    let finished = running.finish();
    finished.assert_code(71).assert_logged("does not want this worker any more (too many of them)");
    finished.assert_logged("received graceful-termination finish-tasks=true");
    assert_eq!(removals(&fixture), 1);

    let mut fixture = Fixture::new(CloudKind::Google).script(json!(["hello", {"sleep": 300}, {"exit": 0}]));
    fixture.machine.config["interruption"] = interruption;
    fixture.boot().assert_code(0);
    assert_eq!(fixture.simulator.count("should-terminate"), 0);
}

#[cfg(unix)]
#[test]
fn an_operator_drains_a_machine_which_is_then_retired_where_a_cloud_made_it() {
    for (kind, removed) in [(CloudKind::Google, 1), (CloudKind::Static, 0)] {
        let mut fixture = Fixture::new(kind).script(obedient());
        fixture.machine.config["restart"] = json!("always");
        let mut running = fixture.start();
        running.wait_for("said hello");
        running.signal(Signal::SIGUSR1);
        let finished = running.finish();
        finished.assert_code(71).assert_logged("received graceful-termination finish-tasks=true");
        assert_eq!(removals(&fixture), removed);
    }
}

#[cfg(unix)]
#[test]
fn a_machine_that_is_drained_before_it_has_a_worker_is_retired() {
    let fixture = Fixture::new(CloudKind::Google);
    fixture.simulator.fault("/secrets/", usize::MAX, Fault::Delay(Duration::from_secs(3600)));
    let mut running = fixture.start();
    assert!(fixture.simulator.wait_for("/secrets/", 1, PATIENCE));
    running.signal(Signal::SIGUSR1);
    running.finish().assert_code(0).assert_logged("the worker was drained").assert_not_logged("started the worker");
    assert_eq!(removals(&fixture), 1);
}

#[cfg(unix)]
#[test]
fn a_drain_changes_nothing_about_a_retirement_that_is_under_way() {
    let fixture = Fixture::new(CloudKind::Google);
    fixture.simulator.fault("DELETE", 1, Fault::Hold);
    let mut running = fixture.start();
    assert!(fixture.simulator.wait_for("DELETE", 1, PATIENCE));
    running.signal(Signal::SIGUSR1);
    running.wait_for("told to drain, but there is no worker");
    fixture.simulator.world(|world| world.released = true);
    running.finish().assert_code(0);
    assert_eq!(removals(&fixture), 1);
}

#[cfg(unix)]
#[test]
fn a_worker_that_ignores_a_stop_is_killed_in_its_time() {
    let mut fixture = Fixture::new(CloudKind::Static).script(stubborn());
    fixture.machine.config["stop"] = json!({"grace": "10s"});
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    for line in ["received graceful-termination finish-tasks=false", "received SIGTERM", "killing the worker"] {
        running.wait_for_next(line);
    }
    running.finish().assert_code(137);
}

#[cfg(unix)]
#[test]
fn a_wrapper_passes_the_stop_on_for_the_whole_group_hears_it() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let worker = crate::support::simulated_worker();
    let wrapper = format!("#!/bin/sh\ntrap 'exit 5' TERM\n'{}' \"$@\"\nexit 6\n", worker.display());
    fixture.machine.config["worker"]["path"] = json!(fixture.program("wrapper.sh", &wrapper));
    fixture.machine.script = json!([{"onTerminate": 3}, {"print": "at work"}, "hang"]);
    let mut running = fixture.start();
    running.wait_for("at work");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(5).assert_logged("received SIGTERM");
}

#[cfg(unix)]
#[test]
fn a_deaf_worker_is_told_by_signals_and_a_late_hello_is_welcome() {
    let script = json!([{"onInterrupt": 72}, {"print": "deaf"}, "hang"]);
    let mut fixture = Fixture::new(CloudKind::Google).script(script);
    fixture.machine.config["protocol"] = json!({"helloTimeout": "100ms"});
    let mut running = fixture.start();
    running.wait_for("has not said hello within 0.1 s");
    running.wait_for("deaf");
    running.signal(Signal::SIGUSR1);
    running.finish().assert_code(72).assert_logged("received SIGINT");

    let mut fixture = Fixture::new(CloudKind::Google);
    let late = fixture.path("late");
    fixture.machine.script = json!([{"waitFor": late}, "hello", {"await": "graceful-termination"}, {"exit": 72}]);
    fixture.machine.config["protocol"] = json!({"helloTimeout": "100ms"});
    let mut running = fixture.start();
    running.wait_for("has not said hello within 0.1 s");
    std::fs::write(late, "").unwrap();
    running.wait_for("late but welcome");
    running.signal(Signal::SIGUSR1);
    running.finish().assert_code(72);
}

#[cfg(unix)]
#[test]
fn a_drain_waits_for_a_hello_that_is_still_to_come() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let late = fixture.path("late");
    fixture.machine.script = json!([{"waitFor": late}, "hello", {"await": "graceful-termination"}, {"exit": 72}]);
    let mut running = fixture.start();
    running.wait_for("started the worker");
    running.signal(Signal::SIGUSR1);
    running.wait_for("told to drain: asking");
    std::fs::write(late, "").unwrap();
    running.finish().assert_code(72).assert_logged("received graceful-termination finish-tasks=true");
}

#[cfg(unix)]
#[test]
fn a_deaf_worker_is_drained_when_its_credentials_have_to_be_renewed() {
    let script = json!([{"onInterrupt": 72}, {"print": "deaf"}, "hang"]);
    let mut fixture = Fixture::new(CloudKind::Static).script(script);
    fixture.machine.config["protocol"] = json!({"helloTimeout": "100ms"});
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    fixture.boot().assert_code(72).assert_logged("received SIGINT").assert_logged("cannot take new credentials");
}

#[test]
fn a_lost_renewal_registers_a_static_worker_anew_and_drains_a_cloud_one() {
    let script = json!(["hello", {"await": "new-credentials"}, {"exit": 0}]);
    let fixture = Fixture::with_cache(CloudKind::Static).script(script);
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    // The service has done it, and killed the old secret; we never hear of it.
    fixture.simulator.fault("/reregister", 1, Fault::LoseAnswer);
    let finished = fixture.boot();
    finished.assert_code(0).assert_logged("registering anew").assert_logged("received new-credentials");
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.registrations), 2);

    let fixture = Fixture::with_cache(CloudKind::Google).script(obedient());
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    fixture.simulator.fault("/reregister", 1, Fault::LoseAnswer);
    let finished = fixture.boot();
    finished.assert_code(71).assert_logged("refuses to renew the credentials, for good");
    finished.assert_logged("received graceful-termination finish-tasks=true");
    assert_eq!((removals(&fixture), fixture.simulator.count("/worker/register")), (1, 1));
    let reports = fixture.simulator.world(|world| world.taskcluster.reports.clone());
    assert_eq!(reports[0]["kind"], "credentials-ended");
}

#[test]
fn a_worker_that_says_nothing_is_reported_or_stopped() {
    let mut fixture = Fixture::new(CloudKind::Google).script(obedient());
    fixture.machine.config["progress"] = json!({"timeout": "3s", "action": "stop"});
    fixture.boot().assert_code(71).assert_logged("does it hang?");
    let reports = fixture.simulator.world(|world| world.taskcluster.reports.clone());
    assert_eq!((removals(&fixture), &reports[0]["kind"]), (1, &json!("worker-silent")));

    // One that says something now and then does not hang.
    let talks: Vec<Value> = (0..80).flat_map(|_| [json!({"print": "."}), json!({"sleep": 100})]).collect();
    let script = [vec![json!("hello")], talks, vec![json!({"exit": 0})]].concat();
    let mut fixture = Fixture::new(CloudKind::Google).script(script.into());
    fixture.machine.config["progress"] = json!({"timeout": "3s", "action": "stop"});
    fixture.boot().assert_code(0).assert_not_logged("does it hang?");
}

#[test]
fn a_worker_that_closes_its_output_and_runs_on_is_said_and_can_be_stopped() {
    let script = json!(["hello", "closeOutput", {"await": "graceful-termination"}, {"exit": 7}]);
    let mut fixture = Fixture::new(CloudKind::Static).script(script);
    fixture.machine.config["protocol"] = json!({"outputGrace": "50ms"});
    let mut running = fixture.start();
    running.wait_for("closed its output, but runs");
    running.signal(Signal::SIGTERM);
    let finished = running.finish();
    assert!(matches!(finished.code, Some(7 | 1 | 101)), "{}", finished.log);
}

#[cfg(unix)]
#[test]
fn a_worker_that_forks_away_ends_its_run_with_its_children() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let script = "#!/bin/sh\n(setsid sleep 600 &)\nexit 0\n";
    fixture.machine.config["worker"]["path"] = json!(fixture.program("forks.sh", script));
    fixture.boot().assert_code(0).assert_logged("behind: ending it");
}

#[cfg(unix)]
#[test]
fn stop_and_continue_signals_of_a_terminal_are_harmless() {
    let fixture = Fixture::new(CloudKind::Static).script(obedient());
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTSTP);
    running.wait_for("ignoring SIGTSTP");
    running.signal(Signal::SIGCONT);
    running.signal(Signal::SIGHUP);
    running.wait_for("ignoring SIGHUP");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(71);
}

#[cfg(unix)]
#[test]
fn the_init_system_is_told_what_goes_on() {
    let mut fixture = Fixture::new(CloudKind::Static);
    fixture.machine.config["stop"] = json!({"grace": "200s"});
    let description = fixture.path("description.json");
    fixture.machine.script =
        json!(["hello", {"describe": description}, {"await": "graceful-termination"}, {"exit": 71}]);
    let socket = UnixDatagram::bind(fixture.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = fixture.machine.command().unwrap();
    command.env("NOTIFY_SOCKET", fixture.path("notify")).env("WATCHDOG_USEC", "100000");
    let mut running = Running::spawn(&mut command);
    let mut told = Vec::new();
    let mut wait_for = |wanted: &str| {
        let mut buffer = [0; 4096];
        while !told.iter().any(|text: &String| text.contains(wanted)) {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}: {told:?}"));
            told.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    };
    wait_for("READY=1");
    wait_for("STATUS=the worker runs as machine-1 of proj-simulated/ci");
    wait_for("WATCHDOG=1");
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    // The worker's time, and some for us.
    wait_for("EXTEND_TIMEOUT_USEC=21");
    wait_for("STOPPING=1");
    running.finish().assert_code(71);
    // Nobody reads this one, and it is full.
    let _deaf = UnixDatagram::bind(fixture.path("deaf")).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", fixture.path("deaf")).is_ok() {}
    let mut command = fixture.machine.command().unwrap();
    command.env("NOTIFY_SOCKET", fixture.path("deaf")).env("WATCHDOG_USEC", "4000");
    let mut unheard = Running::spawn(&mut command);
    unheard.wait_for("said hello");
    unheard.signal(Signal::SIGTERM);
    unheard.finish().assert_code(71);
    let described = std::fs::read_to_string(description).unwrap();
    assert!(!described.contains("NOTIFY_SOCKET") && !described.contains("WATCHDOG"), "the worker has no say in this");
}

#[cfg(windows)]
skip! {
    "there is no SIGTERM: a worker that hears no message has until it is ended": a_far_deadline_lets_tasks_finish_and_then_each_strength_comes_in_its_time, a_withdrawn_event_is_said_and_a_nearer_one_moves_everything_forward, a_worker_that_ignores_a_stop_is_killed_in_its_time, a_deaf_worker_is_drained_when_its_credentials_have_to_be_renewed;
    "docker-worker's launcher is a link here": worker_manager_is_asked_for_a_docker_worker_and_not_for_a_generic_worker;
    "a drain comes to a service as a control (windows.rs)": an_operator_drains_a_machine_which_is_then_retired_where_a_cloud_made_it, a_machine_that_is_drained_before_it_has_a_worker_is_retired, a_drain_changes_nothing_about_a_retirement_that_is_under_way, a_deaf_worker_is_told_by_signals_and_a_late_hello_is_welcome, a_drain_waits_for_a_hello_that_is_still_to_come;
    "it needs a shell": a_wrapper_passes_the_stop_on_for_the_whole_group_hears_it, a_worker_that_forks_away_ends_its_run_with_its_children;
    "there is no such signal": stop_and_continue_signals_of_a_terminal_are_harmless;
    "systemd's part is the service control manager's (windows.rs)": the_init_system_is_told_what_goes_on;
}
