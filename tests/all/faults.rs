//! The faults of the program that this one replaces, by the numbers under which they are known. Each test fails on
//! the behaviour described. Number 20 is about Windows services: here it is that a service is refused before anything else.

use crate::support::{Fixture, PATIENCE, Signal, contains};
use serde_json::{Value, json};
use simulator::{CloudKind, Fault};
use std::fs;
use std::io::Read;
use std::time::Duration;

const HELLO_AND_OBEY: &str = r#"["hello", {"print": "at work"}, {"await": "graceful-termination"}, {"exit": 72}]"#;

fn obedient() -> Value {
    serde_json::from_str(HELLO_AND_OBEY).unwrap()
}

#[test]
fn fault_01_sigterm_asks_the_worker_to_end_and_orphans_nobody() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let fixture = Fixture::new(CloudKind::Static).script(obedient());
        let mut running = fixture.start();
        running.wait_for("at work");
        running.wait_for("said hello");
        running.signal(signal);
        let finished = running.finish();
        finished.assert_code(72).assert_logged("received graceful-termination finish-tasks=false");
    }
}

#[test]
fn fault_02_private_instances_boot() {
    for kind in [CloudKind::Aws, CloudKind::Google, CloudKind::Azure] {
        let fixture = Fixture::new(kind);
        fixture.simulator.world(|world| world.cloud.public = false);
        fixture.boot().assert_code(0);
        let config = fixture.worker_config();
        assert!(config.get("publicIP").is_none() && config["workerTypeMetadata"].get("public-ipv4").is_none());
        assert_eq!(config["privateIP"], "10.1.2.3");
    }
}

#[test]
fn fault_03_malformed_messages_are_said_once_a_kind_and_crash_nothing() {
    let report =
        json!({"message": {"type": "error-report", "kind": "k", "title": "t", "description": "d", "extra": null}});
    let log = json!({"message": {"type": "log", "body": "no object"}});
    let fixture = Fixture::new(CloudKind::Static).script(json!([
        {"message": {"type": "hello"}}, log, log, report, {"message": {"type": "hello", "capabilities": null}},
        {"message": {"type": "later"}}, {"message": {"no": "type"}}, {"print": "still here"}, {"exit": 3},
    ]));
    let finished = fixture.boot();
    finished.assert_code(3).assert_logged("still here").assert_logged("~{\"no\":\"type\"}");
    for kind in ["hello", "log", "error-report"] {
        assert_eq!(finished.log.matches(&format!("(said once a kind): `{kind}`")).count(), 1, "{}", finished.log);
    }
    assert_eq!(fixture.simulator.count("worker-pool-errors"), 1, "only the worker's failure is reported");
}

#[cfg(unix)]
#[test]
fn fault_04_a_worker_that_never_says_hello_blocks_neither_renewal_nor_termination() {
    let fixture =
        Fixture::with_cache(CloudKind::Static).script(json!([{"onTerminate": 71}, {"print": "mute"}, "hang"]));
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    let mut running = fixture.start();
    running.wait_for("mute");
    running.wait_for("credentials renewed");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(71).assert_logged("received SIGTERM");
}

#[test]
fn fault_05_a_cached_run_does_not_merge_the_runner_config_again() {
    let mut fixture = Fixture::with_cache(CloudKind::Static);
    fixture.machine.config["workerConfig"] = json!({"list": [1], "who": "runner"});
    let pool = fixture.pool();
    fixture.simulator.world(|world| {
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), json!({"list": [2], "who": "secret"}));
    });
    fixture.boot().assert_code(0);
    let first = fs::read(fixture.machine.worker_config()).unwrap();
    fixture.machine.config["workerConfig"] = json!({"list": [3], "who": "changed"});
    fixture.boot().assert_code(0).assert_logged("going on with the run of an earlier boot");
    assert_eq!(fs::read(fixture.machine.worker_config()).unwrap(), first);
    assert_eq!(fixture.worker_config()["list"], json!([1, 2]));
}

#[test]
fn fault_06_after_a_renewal_and_a_reboot_the_worker_gets_the_new_credentials() {
    let mut fixture = Fixture::with_cache(CloudKind::Static);
    let saved = fixture.path("saved");
    fixture.machine.script = json!(["hello", {"saveCredentials": saved}, {"exit": 0}]);
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    fixture.boot().assert_code(0);
    let (_, token, certificate) = fixture.simulator.world(|world| world.taskcluster.newest_credentials().unwrap());
    let told = fs::read(saved).unwrap();
    assert!(contains(&told, token.as_bytes()), "the worker was told the newest credentials");
    assert_eq!(fixture.worker_config()["accessToken"], json!("canary-access-token-1-0123456789abcdef"));
    fixture.machine.script = json!([{"exit": 0}]);
    fixture.boot().assert_code(0);
    assert_eq!(fixture.worker_config()["accessToken"], json!(token));
    assert_eq!(fixture.worker_config()["certificate"], json!(certificate));
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.registrations), 1);
}

#[test]
fn fault_07_a_torn_cache_leads_to_a_fresh_boot() {
    let fixture = Fixture::with_cache(CloudKind::Static);
    fixture.boot().assert_code(0);
    let cache = fixture.path("cache.json");
    let whole = fs::read(&cache).unwrap();
    fs::write(&cache, &whole[..whole.len() / 2]).unwrap();
    fixture.boot().assert_code(0).assert_logged("is damaged").assert_logged("booting anew");
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.registrations), 2);
    assert!(serde_json::from_slice::<Value>(&fs::read(&cache).unwrap()).is_ok());
}

#[test]
fn fault_08_a_failing_renewal_is_tried_again_and_stops_nobody() {
    let mut fixture = Fixture::with_cache(CloudKind::Static);
    fixture.machine.script = json!(["hello", {"await": "new-credentials"}, {"exit": 0}]);
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(34));
    fixture.simulator.fault("/reregister", 1, Fault::status(500));
    fixture.simulator.fault("/reregister", 1, Fault::Drop);
    let finished = fixture.boot();
    finished.assert_code(0).assert_logged("cannot renew the credentials").assert_logged("received new-credentials");
    finished.assert_not_logged("graceful-termination finish");
    assert_eq!(fixture.simulator.count("/reregister"), 3);
}

#[test]
fn fault_09_a_worker_that_fails_is_reported_and_its_machine_removed() {
    let fixture = Fixture::new(CloudKind::Google).script(json!(["hello", {"exit": 69}]));
    fixture.boot().assert_code(69);
    let (removals, reports) =
        fixture.simulator.world(|world| (world.taskcluster.removals, world.taskcluster.reports.clone()));
    assert_eq!((removals, reports.len()), (1, 1));
    assert_eq!(reports[0]["title"], "The worker ended with exit code 69");
    fixture.assert_no_violation();
}

#[test]
fn fault_10_google_is_watched_without_haste() {
    // A metadata service without the key is asked at a walking pace.
    let mut fixture = Fixture::new(CloudKind::Google);
    let done = fixture.path("done");
    fixture.machine.script = json!(["hello", {"waitFor": done}, {"exit": 0}]);
    fixture.simulator.fault("/instance/preempted", usize::MAX, Fault::status(404));
    let running = fixture.start();
    assert!(fixture.simulator.wait_for("/instance/preempted", 3, PATIENCE));
    fs::write(done, "").unwrap();
    running.finish().assert_code(0);
    let records = fixture.simulator.records();
    let began: Vec<_> = records
        .iter()
        .filter(|record| record.path.contains("/instance/preempted"))
        .map(|record| record.began)
        .collect();
    for pair in began.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(1), "{began:?}");
    }
}

#[test]
fn fault_11_google_is_watched_without_gap() {
    // A preemption between the first look and the first wait is seen at once: the wait begins from the look's etag.
    let fixture = Fixture::new(CloudKind::Google).script(obedient());
    let mut running = fixture.start();
    running.wait_for("said hello");
    assert!(fixture.simulator.wait_for("/instance/preempted?wait_for_change=true&last_etag=", 1, PATIENCE));
    fixture.simulator.world(|world| {
        world.cloud.preempted = true;
    });
    running.wait_for("Google is preempting this instance");
    running.finish().assert_code(72).assert_logged("received graceful-termination finish-tasks=false");
}

#[test]
fn fault_12_azure_events_for_others_and_far_ones_stop_nobody() {
    let fixture = Fixture::new(CloudKind::Azure).script(obedient());
    let event = |id: &str, kind: &str, resource: &str, not_before: &str| {
        json!({"EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": [resource],
            "EventStatus": "Scheduled", "NotBefore": not_before})
    };
    let us = fixture.simulator.world(|world| world.cloud.machine_id.clone());
    let others = vec![
        event("1", "Preempt", "somebody-else", ""),
        event("2", "Freeze", &us, ""),
        event("3", "Reboot", &us, "Mon, 20 Nov 2999 08:00:00 GMT"),
    ];
    fixture.simulator.world(|world| world.cloud.events = others);
    let mut running = fixture.start();
    running.wait_for("said hello");
    assert!(fixture.simulator.wait_for("scheduledevents", 3, PATIENCE));
    fixture.simulator.world(|world| world.cloud.events.push(event("4", "Terminate", &us, "")));
    running.wait_for("Azure has scheduled a Terminate of this VM");
    let finished = running.finish();
    finished
        .assert_code(72)
        .assert_logged("Freeze of this VM; the worker goes on")
        .assert_logged("it is acted on from 2999");
    assert_eq!(finished.log.matches("notice:").count(), 3, "each is said once:\n{}", finished.log);
}

#[cfg(unix)]
#[test]
fn fault_13_the_worker_does_not_inherit_the_runners_oom_score() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let description = fixture.path("description.json");
    fixture.machine.script = json!([{"describe": description}, {"exit": 0}]);
    fixture.boot().assert_code(0);
    let description: Value = serde_json::from_slice(&fs::read(description).unwrap()).unwrap();
    let ours = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(description["oomScoreAdj"], ours.trim());
}

#[test]
fn fault_14_a_slow_api_call_stalls_no_log_line() {
    let report =
        json!({"message": {"type": "error-report", "kind": "k", "title": "slow", "description": "d", "extra": {}}});
    let fixture = Fixture::new(CloudKind::Static).script(json!(["hello", report, {"print": "and on it goes"}, "hang"]));
    fixture.simulator.fault("worker-pool-errors", 1, Fault::Delay(Duration::from_secs(3600)));
    let mut running = fixture.start();
    assert!(fixture.simulator.wait_for("worker-pool-errors", 1, PATIENCE));
    running.wait_for("and on it goes");
    running.signal(Signal::SIGKILL);
    running.finish();
}

#[test]
fn fault_15_a_last_line_is_kept_long_lines_are_bounded_and_integers_exact() {
    let fixture = Fixture::new(CloudKind::Static).script(json!([
        "hello", {"log": {"textPayload": "exact", "n": 9_007_199_254_740_993_u64}}, {"raw": "the end"}, {"exit": 0},
    ]));
    fixture.boot().assert_code(0).assert_logged("exact; n: 9007199254740993").assert_logged("the end");
}

#[test]
fn fault_16_mistakes_are_found_before_the_machine_is_registered() {
    for (change, code) in [("path", 18), ("implementation", 10)] {
        let mut fixture = Fixture::new(CloudKind::Static);
        fixture.machine.config["worker"][change] = json!("/nowhere/to/be/found");
        fixture.boot().assert_code(code).assert_logged("/nowhere/to/be/found").assert_logged("hint:");
        assert_eq!(fixture.simulator.count("/register"), 0);
    }
}

#[test]
fn fault_17_a_429_is_tried_again_as_asked_and_a_dead_metadata_service_is_given_time_to_come_up() {
    let fixture = Fixture::new(CloudKind::Aws);
    let busy = Fault::Answer { status: 429, headers: vec![("retry-after", "1".to_owned())], body: String::new() };
    fixture.simulator.fault("/worker/register", 1, busy);
    fixture.simulator.fault("/latest/api/token", 2, Fault::Drop);
    fixture.boot().assert_code(0).assert_logged("registerWorker failed (answered 429); trying again in 1.");
    let records = fixture.simulator.records();
    let tries: Vec<_> = records.iter().filter(|record| record.path.ends_with("/worker/register")).collect();
    assert_eq!(tries.len(), 2);
    assert!(tries[1].began - tries[0].began >= Duration::from_secs(1), "Retry-After is honoured");
}

#[test]
fn fault_18_a_reader_of_stderr_that_goes_away_kills_nobody() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let done = fixture.path("done");
    fixture.machine.script = json!(["hello", {"lines": [2000, 100]}, {"sleep": 50}, {"lines": [2000, 100]}, {"describe": done}, {"exit": 5}]);
    let mut child = fixture.machine.command().unwrap().spawn().unwrap();
    let mut errors = child.stderr.take().unwrap();
    errors.read_exact(&mut [0; 10]).unwrap();
    drop(errors);
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(done.exists() && fixture.simulator.world(|world| world.taskcluster.removals) == 1);
}

#[test]
fn fault_19_polls_are_silent_and_failures_show_no_http_exchange() {
    let script = json!(["hello", {"await": "graceful-termination"}, {"exit": 0}]);
    let mut fixture = Fixture::new(CloudKind::Aws).script(script);
    fixture.machine.config["interruption"] = json!({"slowPoll": "20ms"});
    fixture.simulator.fault("DELETE", 1, Fault::error(500, "InternalServerError", "an error"));
    let mut running = fixture.start();
    running.wait_for("said hello");
    assert!(fixture.simulator.wait_for("/spot/instance-action", 3, PATIENCE));
    fixture.simulator.world(|world| world.cloud.lifecycle_target = Some("Terminated".into()));
    let finished = running.finish();
    finished.assert_code(0).assert_not_logged("spot").assert_not_logged("Authorization").assert_not_logged("payload");
}

#[cfg(unix)]
#[test]
fn fault_20_a_worker_that_is_a_service_is_refused_where_there_are_none() {
    let mut fixture = Fixture::new(CloudKind::Google);
    fixture.machine.config["worker"] = json!({"implementation": "generic-worker", "service": "gw", "configPath": "c"});
    fixture.boot().assert_code(10).assert_logged("a worker can be a service on Windows only");
    assert!(fixture.simulator.records().is_empty());
}

#[cfg(windows)]
skip! {
    "there is no SIGTERM: a worker that hears no message has until it is ended": fault_04_a_worker_that_never_says_hello_blocks_neither_renewal_nor_termination;
    "it looks at Linux' own files": fault_13_the_worker_does_not_inherit_the_runners_oom_score;
    "here a worker can be a service (windows.rs)": fault_20_a_worker_that_is_a_service_is_refused_where_there_are_none;
}
