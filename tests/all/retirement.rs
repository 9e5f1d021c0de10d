//! What becomes of a machine after its run, and that none is ever forgotten.

use crate::support::{Fixture, PATIENCE, Running, Signal, is_private};
use serde_json::{Value, json};
use simulator::{CloudKind, Fault};
use std::fs;
use std::time::Duration;

fn removals(fixture: &Fixture) -> usize {
    fixture.simulator.world(|world| world.taskcluster.removals)
}

fn refuse_removal(fixture: &Fixture) {
    fixture.simulator.fault("DELETE", usize::MAX, Fault::error(403, "InsufficientScopes", "no"));
}

/// A worker that ends as it is told.
fn obedient() -> Value {
    json!(["hello", {"await": "graceful-termination"}, {"exit": 71}])
}

#[test]
fn a_machine_that_is_not_removed_is_shut_down() {
    for exit in [0, 69] {
        let fixture = Fixture::new(CloudKind::Google).script(json!(["hello", {"exit": exit}]));
        refuse_removal(&fixture);
        fixture.boot().assert_code(exit).assert_logged("answered 403 InsufficientScopes: no");
        assert_eq!(fixture.machine.shutdowns(), ["-h now"]);
        assert_eq!(fixture.simulator.count("DELETE"), 1, "a refusal ends the asking");
    }
}

#[cfg(unix)]
#[test]
fn a_machine_that_cannot_be_shut_down_tries_for_ever_and_says_so() {
    let mut fixture = Fixture::new(CloudKind::Google);
    fixture.machine.config["retirement"]["shutdownRetry"] = json!("30ms");
    fixture.machine.shutdown_ends_with(1).unwrap();
    refuse_removal(&fixture);
    let mut running = fixture.start();
    for _ in 0..3 {
        running.wait_for_next("GOES ON COSTING MONEY: shutdown ended with exit status: 1");
    }
    fixture.machine.shutdown_ends_with(0).unwrap();
    running.finish().assert_code(0).assert_logged("this machine is shutting down");
    assert!(fixture.machine.shutdowns().len() >= 4);
}

#[test]
fn removal_is_tried_again_for_its_time_and_then_the_machine_shuts_down() {
    let mut fixture = Fixture::new(CloudKind::Aws);
    fixture.machine.config["retirement"]["removalTimeout"] = json!("6s");
    fixture.simulator.fault("DELETE", usize::MAX, Fault::status(503));
    fixture.boot().assert_code(0);
    assert!(fixture.simulator.count("DELETE") > 1);
    assert_eq!(fixture.machine.shutdowns(), ["-h now"]);

    let fixture = Fixture::new(CloudKind::Aws);
    fixture.simulator.fault("DELETE", 3, Fault::status(503));
    fixture.boot().assert_code(0);
    assert_eq!((removals(&fixture), fixture.machine.shutdowns().len()), (1, 0));
}

#[test]
fn a_machine_that_is_killed_while_it_retires_goes_on_with_that_at_the_next_start() {
    for cached in [true, false] {
        let mut fixture = if cached { Fixture::with_cache(CloudKind::Azure) } else { Fixture::new(CloudKind::Azure) };
        fixture.machine.config["retirement"]["shutdownAfter"] = json!("1s");
        fixture.machine.script = json!(["hello", {"exit": 1}]);
        fixture.simulator.fault("DELETE", 1, Fault::Delay(Duration::from_secs(3600)));
        let mut running = fixture.start();
        assert!(fixture.simulator.wait_for("DELETE", 1, PATIENCE));
        running.signal(Signal::SIGKILL);
        running.finish();
        let file = fixture.path(if cached { "cache.json" } else { "start-worker-retiring.json" });
        let mut tombstone: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert!(tombstone["retiring"]["since"].is_string(), "{tombstone}");
        assert!(is_private(&file));

        // However long it takes to get here, it has just begun.
        tombstone["retiring"]["since"] = json!("2999-01-01T00:00:00Z");
        fs::write(&file, tombstone.to_string()).unwrap();
        let finished = fixture.boot();
        finished.assert_code(0).assert_logged("has been retiring since").assert_not_logged("started the worker");
        assert_eq!(fixture.simulator.count("/worker/register"), 1, "it never registers again");
        assert_eq!(removals(&fixture), 1);
        // worker-manager has answered 200, and yet the machine is still there.
        assert_eq!(fixture.machine.shutdowns(), ["-h now"]);
        fixture.assert_no_violation();
    }
}

#[test]
fn an_old_tombstone_shuts_the_machine_down_without_asking_anybody() {
    let mut fixture = Fixture::with_cache(CloudKind::Google);
    fixture.boot().assert_code(0);
    fixture.machine.config["retirement"]["shutdownAfter"] = json!(0);
    fixture.boot().assert_code(0).assert_not_logged("asking worker-manager");
    assert_eq!((removals(&fixture), fixture.machine.shutdowns().len()), (1, 1));
}

#[test]
fn a_tombstone_lies_in_the_units_state_folder_where_there_is_one() {
    let fixture = Fixture::new(CloudKind::Google);
    let folder = fixture.path("state");
    let boot = || {
        let mut command = fixture.machine.command().unwrap();
        Running::spawn(command.env("STATE_DIRECTORY", &folder)).finish()
    };
    boot().assert_code(0);
    assert!(folder.join("start-worker-retiring.json").is_file());
    assert!(!fixture.path("start-worker-retiring.json").exists());
}

#[test]
fn another_machines_tombstone_ends_nobody() {
    for cached in [true, false] {
        let fixture =
            if cached { Fixture::with_cache(CloudKind::Google) } else { Fixture::new(CloudKind::Google) }.rebooting();
        let file = fixture.path(if cached { "cache.json" } else { "start-worker-retiring.json" });
        // An image that was made from the disk of a machine that had been retired.
        let other = Fixture::with_cache(CloudKind::Google);
        other.boot().assert_code(0);
        let mut tombstone: Value = serde_json::from_slice(&fs::read(other.path("cache.json")).unwrap()).unwrap();
        tombstone["identity"]["workerId"] = json!("baked-into-the-image");
        fs::write(&file, tombstone.to_string()).unwrap();
        let finished = fixture.boot();
        finished.assert_code(67).assert_logged("belongs to baked-into-the-image").assert_logged("started the worker");
        assert_eq!(fixture.simulator.count("/worker/register"), 1);
    }
}

#[cfg(unix)]
#[test]
fn a_machine_that_ran_under_anothers_name_does_not_remove_that() {
    let fixture = Fixture::with_cache(CloudKind::Azure).rebooting();
    fixture.boot().assert_code(67);
    // An image made from that disk, on a machine whose metadata service is slow to come up.
    let mut fixture = fixture.script(json!(["hello", {"await": "graceful-termination"}, {"exit": 1}]));
    fixture.machine.config["retirement"]["shutdownRetry"] = json!("20ms");
    fixture.simulator.fault("/metadata/instance", 1, Fault::Delay(Duration::from_secs(3600)));
    let mut running = fixture.start();
    running.wait_for("said hello");
    fixture.simulator.world(|world| world.cloud.machine_id = "the-copy".into());
    running.signal(Signal::SIGUSR1);
    let finished = running.finish();
    finished.assert_code(1).assert_logged("this machine is the-copy, and ran as vm-simulated-0001");
    assert_eq!(fixture.simulator.count("DELETE"), 0);
    assert_eq!(fixture.machine.shutdowns(), ["-r now", "-h now"]);
}

#[test]
fn credentials_that_have_ended_by_a_wrong_clock_are_renewed_before_a_machine_is_given_up() {
    let fixture = Fixture::with_cache(CloudKind::Google).rebooting();
    fixture.boot().assert_code(67);
    let cache = fixture.path("cache.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&cache).unwrap()).unwrap();
    kept["lease"]["expires"] = json!("2001-01-01T00:00:00Z");
    fs::write(&cache, kept.to_string()).unwrap();
    fixture.simulator.fault("/reregister", 1, Fault::status(503));
    fixture.boot().assert_code(67).assert_logged("is the clock right?").assert_logged("started the worker");
    assert_eq!((removals(&fixture), fixture.simulator.world(|world| world.taskcluster.renewals)), (0, 1));
}

#[test]
fn a_worker_that_asks_for_retirement_does_not_overrule_the_operator() {
    let mut fixture = Fixture::with_cache(CloudKind::Google);
    fixture.machine.script = json!(["hello", {"message": {"type": "shutdown"}}, {"exit": 69}]);
    fixture.machine.config["retirement"]["onFailure"] = json!("leave");
    fixture.boot().assert_code(69).assert_logged("`retirement` in the runner config decides that");
    assert!(removals(&fixture) == 0 && fixture.machine.shutdowns().is_empty());
}

#[test]
fn a_worker_that_asks_for_retirement_with_its_last_words_gets_it() {
    // Whether that or its end is seen first: a reboot would bring the machine back for nothing.
    let script = json!(["hello", {"message": {"type": "shutdown"}}, {"exit": 67}]);
    let fixture = Fixture::with_cache(CloudKind::Google).script(script);
    fixture.boot().assert_code(67).assert_logged("the worker asks for this machine to be retired");
    assert_eq!((removals(&fixture), fixture.machine.shutdowns().len()), (1, 0));
}

#[test]
fn a_cloud_machine_whose_worker_was_started_too_often_is_retired() {
    let mut fixture = Fixture::with_cache(CloudKind::Google).script(json!(["hello", {"exit": 1}]));
    fixture.machine.config["retirement"]["onFailure"] = json!("restart");
    fixture.machine.config["restart"] = json!({"firstPause": "10ms", "starts": 2});
    fixture.boot().assert_code(1).assert_logged("too often lately");
    assert_eq!(removals(&fixture), 1);
}

#[test]
fn a_registration_that_is_under_way_when_init_stops_us_is_not_lost() {
    for cached in [true, false] {
        let fixture = if cached { Fixture::with_cache(CloudKind::Google) } else { Fixture::new(CloudKind::Google) };
        let mut fixture = fixture.rebooting();
        fixture.simulator.fault("/worker/register", 1, Fault::Hold);
        let mut running = fixture.start();
        assert!(fixture.simulator.wait_for("/worker/register", 1, PATIENCE));
        running.signal(Signal::SIGTERM);
        running.wait_for("told to stop before there was a worker");
        fixture.simulator.world(|world| world.released = true);
        running.finish().assert_code(143);
        if cached {
            fixture.boot().assert_code(67).assert_logged("going on with the run of an earlier boot");
        } else {
            fixture.machine_is_retired_by_its_next_start();
        }
        assert_eq!(fixture.simulator.count("/worker/register"), 1);
        assert_eq!(removals(&fixture), usize::from(!cached));
    }
}

#[test]
fn who_is_told_again_waits_for_no_registration() {
    let fixture = Fixture::with_cache(CloudKind::Google);
    fixture.simulator.fault("/worker/register", 1, Fault::Hold);
    let mut running = fixture.start();
    assert!(fixture.simulator.wait_for("/worker/register", 1, PATIENCE));
    running.signal(Signal::SIGTERM);
    running.wait_for("waiting up to 80 s for the answer of worker-manager");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(143);
}

#[test]
fn a_cloud_machine_whose_run_is_not_kept_is_retired_by_the_start_after_a_signal() {
    let mut fixture = Fixture::new(CloudKind::Aws).script(obedient());
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(71).assert_logged("left as it is, and the next start retires it");
    assert!(removals(&fixture) == 0 && fixture.machine.shutdowns().is_empty());
    fixture.machine_is_retired_by_its_next_start();
    assert_eq!((fixture.simulator.count("/worker/register"), removals(&fixture)), (1, 1));

    // The same before there is a worker.
    let mut fixture = Fixture::new(CloudKind::Aws);
    fixture.simulator.fault("/secrets/", usize::MAX, Fault::Hold);
    let mut running = fixture.start();
    assert!(fixture.simulator.wait_for("/secrets/", 1, PATIENCE));
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(143).assert_logged("told to stop before the worker was started");
    fixture.machine_is_retired_by_its_next_start();
}

#[cfg(unix)]
#[test]
fn a_drained_worker_that_makes_a_reboot_is_drained_all_the_same() {
    // generic-worker reboots between two tasks before it looks whether it is to end.
    let script = json!(["hello", {"await": "graceful-termination"}, {"exit": 67}]);
    let fixture = Fixture::with_cache(CloudKind::Google).script(script);
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGUSR1);
    running.finish().assert_code(67).assert_logged("the worker was drained; this machine is to be removed");
    assert_eq!((removals(&fixture), fixture.machine.shutdowns().len()), (1, 0));
}

#[cfg(unix)]
#[test]
fn a_machine_that_is_drained_while_its_worker_waits_to_be_started_again_is_retired() {
    for (kind, removed) in [(CloudKind::Google, 1), (CloudKind::Static, 0)] {
        let mut fixture = Fixture::with_cache(kind).script(json!(["hello", {"exit": 1}]));
        fixture.machine.config["retirement"]["onFailure"] = json!("restart");
        fixture.machine.config["restart"] = json!({"firstPause": "5m"});
        let mut running = fixture.start();
        running.wait_for("starting the worker again in");
        running.signal(Signal::SIGUSR1);
        running.finish().assert_code(0).assert_logged("told to drain: the worker is not started again");
        assert_eq!(removals(&fixture), removed);
    }
    // What the runner config says of a drain holds.
    let mut fixture = Fixture::with_cache(CloudKind::Google).script(json!(["hello", {"exit": 1}]));
    fixture.machine.config["retirement"] = json!({"onFailure": "restart", "onDrained": "leave"});
    fixture.machine.config["restart"] = json!({"firstPause": "5m"});
    let mut running = fixture.start();
    running.wait_for("starting the worker again in");
    running.signal(Signal::SIGUSR1);
    running.finish().assert_code(0);
    assert_eq!(removals(&fixture), 0);
}

#[test]
fn a_signal_before_the_worker_is_started_again_leaves_no_machine_that_can_only_fail() {
    let mut fixture = Fixture::new(CloudKind::Google).script(json!(["hello", {"exit": 1}]));
    fixture.machine.config["retirement"]["onFailure"] = json!("restart");
    fixture.machine.config["restart"] = json!({"firstPause": "5m"});
    let mut running = fixture.start();
    running.wait_for("starting the worker again in");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(1).assert_logged("the next start retires this machine");
    assert_eq!(removals(&fixture), 0);
    fixture.machine_is_retired_by_its_next_start();
    assert_eq!(removals(&fixture), 1);
}

#[cfg(unix)]
#[test]
fn init_waits_for_nothing_that_a_drained_workers_reboot_leaves_to_do() {
    // The worker reboots the machine, and init ends us in the midst of that.
    let mut fixture = Fixture::with_cache(CloudKind::Google);
    let goes = fixture.path("goes");
    fixture.machine.script =
        json!(["hello", {"onTerminate": -1}, {"await": "graceful-termination"}, {"waitFor": goes}, {"exit": 67}]);
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGUSR1);
    running.wait_for("received graceful-termination finish-tasks=true");
    running.signal(Signal::SIGTERM);
    running.wait_for("told to stop");
    fs::write(goes, "").unwrap();
    running
        .finish()
        .assert_code(67)
        .assert_logged("the worker was drained; this machine is left as it is, and the next start");
    assert!(removals(&fixture) == 0 && fixture.machine.shutdowns().is_empty());
    fixture.machine_is_retired_by_its_next_start();
    assert_eq!(removals(&fixture), 1);
}

#[test]
fn a_second_start_worker_leaves_the_first_ones_machine_alone() {
    let fixture = Fixture::with_cache(CloudKind::Google).script(obedient());
    let mut running = fixture.start();
    running.wait_for("said hello");
    let config = fs::read(fixture.machine.worker_config()).unwrap();
    fixture.boot().assert_code(10).assert_logged("another start-worker runs with").assert_logged("hint:");
    assert_eq!(fs::read(fixture.machine.worker_config()).unwrap(), config);
    assert_eq!((removals(&fixture), fixture.simulator.count("/worker/register")), (0, 1));
    // Whatever became of the first one.
    running.signal(Signal::SIGKILL);
    running.finish();
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(71);
}

#[test]
fn a_machine_of_ones_own_has_no_tombstone() {
    for exit in [0, 1] {
        let mut fixture = Fixture::with_cache(CloudKind::Static).script(json!(["hello", {"exit": exit}]));
        fixture.machine.config["retirement"]["onFailure"] = json!("remove");
        fixture.boot().assert_code(exit);
        assert_eq!(removals(&fixture), usize::try_from(exit).unwrap());
        // Its owner starts it again.
        fixture.boot().assert_code(exit).assert_logged("started the worker");
        assert!(fixture.machine.shutdowns().is_empty());
    }
}

#[test]
fn init_stops_the_machine_ten_times_and_it_goes_on_each_time() {
    let fixture = Fixture::with_cache(CloudKind::Aws).script(obedient());
    for boot in 0..10 {
        let mut running = fixture.start();
        running.wait_for("said hello");
        running.signal(Signal::SIGTERM);
        if boot % 2 == 0 {
            running.finish().assert_code(71).assert_logged("this machine is left as it is");
        } else {
            // Init waits for nobody for ever.
            running.signal(Signal::SIGKILL);
            running.finish();
        }
    }
    assert_eq!(removals(&fixture) + fixture.simulator.count("worker-pool-errors"), 0);
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.registrations), 1);
    assert!(fixture.machine.shutdowns().is_empty());
    fixture.assert_no_violation();
}

#[test]
fn a_reboot_that_nobody_makes_is_made() {
    for kind in [CloudKind::Aws, CloudKind::Static] {
        let fixture = Fixture::with_cache(kind).rebooting();
        fixture.boot().assert_code(67);
        assert_eq!(fixture.machine.shutdowns(), ["-r now"]);
        assert_eq!(removals(&fixture) + fixture.simulator.count("worker-pool-errors"), 0);
    }
}

#[test]
fn a_reboot_that_init_makes_is_waited_for() {
    let mut fixture = Fixture::with_cache(CloudKind::Aws).rebooting();
    fixture.machine.config["retirement"]["rebootGrace"] = json!("1h");
    let mut running = fixture.start();
    running.wait_for("waiting 3600 s for the machine to be rebooted");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(67);
    assert!(removals(&fixture) == 0 && fixture.machine.shutdowns().is_empty());
}

#[cfg(unix)]
#[test]
fn a_reboot_that_others_make_is_left_to_them_and_one_that_cannot_come_back_is_none() {
    let mut fixture = Fixture::with_cache(CloudKind::Aws).rebooting();
    fixture.machine.config["workerConfig"]["disableReboots"] = json!(true);
    fixture.boot().assert_code(67);
    assert!(removals(&fixture) == 0 && fixture.machine.shutdowns().is_empty());

    let fixture = Fixture::new(CloudKind::Aws).rebooting();
    fixture.boot().assert_code(67);
    assert!(removals(&fixture) == 1 && fixture.machine.shutdowns().is_empty());

    // A machine that cannot reboot is no use either.
    let fixture = Fixture::with_cache(CloudKind::Aws).rebooting();
    fixture.machine.shutdown_ends_with(1).unwrap();
    fixture.boot().assert_code(67).assert_logged("this machine cannot be rebooted");
    assert_eq!((removals(&fixture), fixture.machine.shutdowns()), (1, vec!["-r now".to_owned()]));
}

#[test]
fn the_runner_config_chooses_what_becomes_of_a_machine() {
    let table = [
        ("onFinished", 0, "shutdown", 0, vec!["-h now"]),
        ("onFinished", 0, "leave", 0, vec![]),
        ("onFailure", 1, "leave", 0, vec![]),
        ("onFailure", 1, "reboot", 0, vec!["-r now"]),
        ("onIdle", 68, "remove", 1, vec![]),
        ("onToldToStop", 70, "leave", 0, vec![]),
    ];
    for (key, exit, choice, removed, shutdowns) in table {
        let mut fixture = Fixture::with_cache(CloudKind::Google).script(json!(["hello", {"exit": exit}]));
        fixture.machine.config["retirement"][key] = json!(choice);
        fixture.boot().assert_code(exit);
        assert_eq!(
            (removals(&fixture), fixture.machine.shutdowns()),
            (removed, shutdowns.iter().map(ToString::to_string).collect()),
            "{key} {choice}"
        );
    }
}

#[test]
fn a_machine_that_cannot_be_registered_is_left_or_shut_down_as_configured() {
    for (choice, shutdowns) in [("leave", vec![]), ("shutdown", vec!["-h now"])] {
        let mut fixture = Fixture::new(CloudKind::Static);
        fixture.machine.config["retirement"]["onBootFailure"] = json!(choice);
        fixture.machine.config["provider"]["staticSecret"] = json!("x".repeat(44));
        let finished = fixture.boot();
        finished.assert_code(13).assert_logged("the proof proves nothing");
        assert_eq!(fixture.machine.shutdowns(), shutdowns);
        assert_eq!(finished.log.matches("failed while").count(), 1, "{}", finished.log);
    }
}

#[test]
fn a_worker_is_started_again_as_often_as_it_may() {
    let mut fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"exit": 3}]));
    fixture.machine.config["restart"] = json!({"policy": "on-failure", "firstPause": "20ms", "starts": 3});
    let finished = fixture.boot();
    finished.assert_code(3).assert_logged("the worker was started too often lately");
    assert_eq!(finished.log.matches("started the worker").count(), 3, "{}", finished.log);
    // The same failure is not reported again and again.
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.reports.len()), 1);
    assert_eq!(fixture.simulator.count("/worker/register"), 1);

    let mut fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"exit": 0}]));
    fixture.machine.config["restart"] = json!("on-failure");
    let finished = fixture.boot();
    finished.assert_code(0);
    assert_eq!(finished.log.matches("started the worker").count(), 1);
}

#[test]
fn a_restarted_worker_has_current_credentials_and_a_signal_ends_the_waiting() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let saved = fixture.path("saved");
    fixture.machine.script = json!(["hello", {"saveCredentials": saved}, {"exit": 0}]);
    fixture.machine.config["restart"] =
        json!({"policy": "always", "firstPause": "10ms", "longestPause": "1h", "starts": 3});
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    let mut running = fixture.start();
    running.wait_for_next("starting the worker again");
    running.wait_for_next("said hello");
    let newest = fixture.simulator.world(|world| world.taskcluster.newest_credentials().unwrap());
    assert_eq!(fixture.worker_config()["accessToken"], json!(newest.1));

    let mut fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"exit": 5}]));
    fixture.machine.config["restart"] = json!({"policy": "always", "firstPause": "1h", "longestPause": "1h"});
    running.signal(Signal::SIGKILL);
    running.finish();
    let mut running = fixture.start();
    running.wait_for("starting the worker again");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(5).assert_logged("the worker is not started again");
}

#[test]
fn a_restart_registers_anew_where_the_credentials_have_ended() {
    let mut fixture = Fixture::new(CloudKind::Static).script(obedient());
    fixture.machine.config["restart"] = json!({"policy": "on-failure", "firstPause": "10ms", "starts": 2});
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(1));
    fixture.simulator.fault("/reregister", usize::MAX, Fault::status(503));
    let finished = fixture.boot();
    finished.assert_logged("the worker is started again").assert_logged("registering anew");
    // Those of a second life may end too before it does.
    assert!(fixture.simulator.world(|world| world.taskcluster.registrations) >= 2);
}

#[test]
fn a_report_tells_what_helps_and_holds_nothing_up() {
    let mut fixture = Fixture::new(CloudKind::Google).script(json!(["hello", {"exit": 69}]));
    fixture.boot().assert_code(69);
    let report = fixture.simulator.world(|world| world.taskcluster.reports[0].clone());
    assert_eq!(report["kind"], "worker-failed");
    let extra = &report["extra"];
    assert_eq!(
        (&extra["provider"], &extra["stage"], &extra["exitCode"]),
        (&json!("google"), &json!("worker"), &json!(69))
    );
    assert!(extra["startWorkerVersion"].is_string() && extra["uptimeSeconds"].is_u64(), "{extra}");
    assert!(!report["description"].as_str().unwrap().contains("last lines"), "{report}");

    fixture = Fixture::new(CloudKind::Google).script(json!(["hello", {"exit": 69}]));
    fixture.machine.config["report"] = json!({"timeout": "100ms"});
    fixture.simulator.fault("worker-pool-errors", usize::MAX, Fault::Delay(Duration::from_secs(3600)));
    fixture.boot().assert_code(69);
    assert_eq!(removals(&fixture), 1);
}

#[test]
fn the_workers_last_lines_are_reported_where_that_is_wanted_without_secrets() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let pool = fixture.pool();
    fixture.machine.config["report"] = json!({"workerLogLines": 3});
    fixture.simulator.world(|world| {
        let secret = json!({"config": {"deep": [{"key": "canary-value"}]}});
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), secret);
    });
    let token = "canary-access-token-1-0123456789abcdef";
    fixture.machine.script = json!([
        "hello", {"print": "too long ago"}, {"print": "the key is canary-value"}, {"print": format!("token={token};")},
        {"print": "the last words"}, {"exit": 1},
    ]);
    fixture.boot().assert_code(1);
    let report = fixture.simulator.world(|world| world.taskcluster.reports[0].clone());
    let description = report["description"].as_str().unwrap();
    assert!(!description.contains("canary") && !description.contains("too long ago"), "{description}");
    for part in ["the key is [redacted]", "token=[redacted];", "the last words"] {
        assert!(description.contains(part), "{description}");
    }

    // What it says on its other stream is among them.
    let mut fixture =
        Fixture::new(CloudKind::Google).script(json!(["hello", {"printError": "a complaint"}, {"exit": 1}]));
    fixture.machine.config["report"] = json!({"workerLogLines": 3});
    fixture.boot().assert_code(1);
    let report = fixture.simulator.world(|world| world.taskcluster.reports[0].clone());
    assert!(report["description"].as_str().unwrap().contains("a complaint"), "{report}");
}

/// The lines of the worker that the report has.
fn reported_lines(fixture: &Fixture) -> Vec<String> {
    let report = fixture.simulator.world(|world| world.taskcluster.reports[0].clone());
    let (_, lines) = report["description"].as_str().unwrap().split_once("\n\n").unwrap();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn what_a_secrets_file_holds_is_taken_out_of_reports_after_a_reboot_too() {
    use base64::Engine;
    let mut fixture = Fixture::with_cache(CloudKind::Google).rebooting();
    let (pool, path) = (fixture.pool(), fixture.path("key"));
    fixture.machine.config["report"] = json!({"workerLogLines": 3});
    let content = base64::engine::general_purpose::STANDARD.encode("first line\ncanary-second-line\n");
    let file = json!({"description": "d", "path": path, "content": content, "encoding": "base64", "format": "file"});
    fixture.simulator.world(|world| {
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), json!({"config": {}, "files": [file]}));
    });
    fixture.boot().assert_code(67);
    fixture.machine.script = json!(["hello", {"print": "it is canary-second-line!"}, {"exit": 1}]);
    fixture.boot().assert_code(1).assert_not_logged("wrote the file");
    assert_eq!(reported_lines(&fixture), ["it is [redacted]!"]);
}

#[test]
fn the_last_of_many_lines_are_reported_and_of_long_ones_their_length() {
    let mut fixture = Fixture::new(CloudKind::Google);
    fixture.machine.config["report"] = json!({"workerLogLines": 100});
    let lines = (0..60).map(|number| json!({"print": format!("{number} {}", "x".repeat(390))}));
    let long = [5000, 300_000].map(|length| json!({"print": "y".repeat(length)}));
    let script: Vec<Value> = [json!("hello")]
        .into_iter()
        .chain(lines)
        .chain(long)
        .chain([json!({"print": "last"}), json!({"exit": 1})])
        .collect();
    fixture.machine.script = script.into();
    fixture.boot().assert_code(1);
    let reported = reported_lines(&fixture);
    let [.., line, long, longer, last] = reported.as_slice() else { panic!("{reported:?}") };
    assert!(line.starts_with("59 ") && reported.len() > 20, "{reported:?}");
    assert_eq!([long, longer, last], ["[a line of 5000 bytes]", "[a line too long to be read as one]", "last"]);
}

#[test]
fn every_report_that_waits_at_the_workers_end_has_its_time() {
    let report = |title: &str| json!({"message": {"type": "error-report", "kind": "k", "title": title, "description": "d", "extra": {}}});
    let script = json!(["hello", report("one"), report("two"), report("three"), {"exit": 0}]);
    let mut fixture = Fixture::new(CloudKind::Static).script(script);
    fixture.machine.config["report"] = json!({"timeout": "2s"});
    fixture.simulator.fault("worker-pool-errors", 3, Fault::Delay(Duration::from_millis(900)));
    fixture.boot().assert_code(0).assert_not_logged("could not be sent");
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.reports.len()), 3);
}

#[test]
fn the_same_failure_is_reported_once_however_often_we_are_started() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let secret = format!("worker-pool:{}", fixture.pool());
    fixture.simulator.world(|world| world.taskcluster.denied_scopes.push(format!("secrets:get:{secret}")));
    fixture.boot().assert_code(15);
    fixture.boot().assert_code(15);
    let reports = || fixture.simulator.world(|world| world.taskcluster.reports.len());
    assert_eq!(reports(), 1);
    let noted = fs::read_to_string(fixture.path("start-worker-reports.json")).unwrap();
    assert!(!noted.contains("secrets"), "hashes only: {noted}");
    // Another failure is another report, and after its time the same one is told again.
    fixture.simulator.world(|world| world.taskcluster.denied_scopes.clear());
    fixture.machine.script = json!(["hello", {"exit": 3}]);
    fixture.boot().assert_code(3);
    let reports = || fixture.simulator.world(|world| world.taskcluster.reports.len());
    assert_eq!(reports(), 2);
    fixture.machine.config["report"] = json!({"repeatAfter": 0});
    fixture.boot().assert_code(3);
    let reports = || fixture.simulator.world(|world| world.taskcluster.reports.len());
    assert_eq!(reports(), 3);
}

#[test]
fn what_the_worker_reports_is_public_too() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let pool = fixture.pool();
    fixture.simulator.world(|world| {
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), json!({"config": {"key": "canary-value"}}));
    });
    let report = json!({"message": {"type": "error-report", "kind": "k", "title": "canary-value!", "description": "d canary-value",
        "extra": {"canary-value": ["canary-value"]}}});
    fixture.machine.script = json!(["hello", report, report, {"exit": 0}]);
    fixture.boot().assert_code(0);
    let reports = fixture.simulator.world(|world| world.taskcluster.reports.clone());
    assert_eq!(reports.len(), 1, "the same failure is reported once");
    assert!(!Value::from(reports).to_string().contains("canary"));
}

#[cfg(windows)]
skip! {
    "a shutdown is a call of the system's here, which no test can have fail": a_machine_that_cannot_be_shut_down_tries_for_ever_and_says_so, a_reboot_that_others_make_is_left_to_them_and_one_that_cannot_come_back_is_none;
    "a drain comes to a service as a control (windows.rs)": a_machine_that_ran_under_anothers_name_does_not_remove_that, a_drained_worker_that_makes_a_reboot_is_drained_all_the_same, a_machine_that_is_drained_while_its_worker_waits_to_be_started_again_is_retired, init_waits_for_nothing_that_a_drained_workers_reboot_leaves_to_do;
}
