//! Runs that go on over reboots.

use crate::support::{Fixture, PATIENCE, Running, Signal, is_private};
use serde_json::{Value, json};
use simulator::{CloudKind, Fault};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn registrations(fixture: &Fixture) -> usize {
    fixture.simulator.world(|world| world.taskcluster.registrations)
}

#[test]
fn a_second_boot_asks_nobody_and_gives_the_worker_the_same_bytes() {
    for kind in CloudKind::ALL {
        let fixture = Fixture::with_cache(kind).script(json!([{"exit": 67}]));
        let (pool, file) = (fixture.pool(), fixture.path("a-file"));
        fixture.simulator.world(|world| {
            let file =
                json!({"description": "d", "path": file, "content": "aGk=", "encoding": "base64", "format": "file"});
            world.taskcluster.put_secret(format!("worker-pool:{pool}"), json!({"config": {"a": 1}, "files": [file]}));
        });
        fixture.boot().assert_code(67);
        let first = fs::read(fixture.machine.worker_config()).unwrap();
        fs::write(&file, "changed since").unwrap();
        let before = fixture.simulator.records().len();
        fixture.boot().assert_code(67).assert_logged("going on with the run of an earlier boot");
        assert_eq!(fs::read(fixture.machine.worker_config()).unwrap(), first, "{}", kind.name());
        assert_eq!(fs::read_to_string(&file).unwrap(), "changed since", "files are not written again");
        let asked: Vec<String> = fixture.simulator.records()[before..].iter().map(simulator::Record::what).collect();
        assert!(
            !asked.iter().any(|what| what.contains("/api/worker-manager") || what.contains("/api/secrets")),
            "{asked:?}"
        );
        fixture.assert_no_violation();
        assert!(is_private(&fixture.path("cache.json")));
    }
}

#[test]
fn a_boot_that_was_killed_while_waiting_for_secrets_goes_on_from_its_registration() {
    let fixture = Fixture::with_cache(CloudKind::Google);
    fixture.simulator.fault("/secrets/", 2, Fault::Delay(Duration::from_secs(3600)));
    let mut running = fixture.start();
    let (began, cache) = (Instant::now(), fixture.path("cache.json"));
    while !cache.exists() {
        assert!(began.elapsed() < PATIENCE, "the registration is not kept");
        std::thread::yield_now();
    }
    assert!(fixture.simulator.wait_for("/secrets/", 2, PATIENCE));
    running.signal(Signal::SIGKILL);
    running.finish();
    fixture.boot().assert_code(0).assert_logged("going on with the run of an earlier boot");
    assert_eq!(registrations(&fixture), 1);
}

#[test]
fn a_boot_that_was_killed_before_its_files_were_written_writes_them() {
    let fixture = Fixture::with_cache(CloudKind::Google).rebooting();
    let file = fixture.path("a-file");
    let spec = json!({"description": "d", "path": file, "content": "aGk=", "encoding": "base64", "format": "file"});
    fixture.simulator.world(|world| world.taskcluster.worker_config = json!({"genericWorker": {"files": [spec]}}));
    fixture.boot().assert_code(67);
    let cache = fixture.path("cache.json");
    let mut kept = read(&cache);
    assert_eq!(kept["configured"]["files"], json!([]), "written files are not carried along");
    kept["configured"]["files"] = json!([{"description": "d", "path": file, "content": "bG8=", "format": "file",
        "mode": null, "owner": null, "group": null, "sha256": null, "secret": false}]);
    fs::write(&cache, kept.to_string()).unwrap();
    fixture.boot().assert_code(67).assert_logged("wrote the file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "lo");
    assert_eq!(read(&cache)["configured"]["files"], json!([]));
}

#[test]
fn the_go_programs_cache_is_gone_on_with() {
    let fixture = Fixture::with_cache(CloudKind::Aws).rebooting();
    fixture.boot().assert_code(67);
    let ours = read(&fixture.path("cache.json"));
    let go = json!({
        "RootURL": ours["identity"]["rootUrl"],
        "Credentials": ours["credentials"],
        "CredentialsExpire": ours["lease"]["expires"],
        "RegistrationSecret": ours["lease"]["secret"],
        "WorkerPoolID": ours["identity"]["workerPoolId"],
        "WorkerGroup": ours["identity"]["workerGroup"],
        "WorkerID": ours["identity"]["workerId"],
        "ProviderID": ours["identity"]["providerId"],
        "ProviderMetadata": ours["identity"]["metadata"],
        "WorkerConfig": {"fromGo": [1, 2]},
        "Files": null,
        "WorkerLocation": ours["identity"]["location"],
    });
    fs::write(fixture.path("cache.json"), go.to_string()).unwrap();
    fixture.boot().assert_code(67).assert_logged("going on with the run of an earlier boot");
    let config = fixture.worker_config();
    assert_eq!(config["fromGo"], json!([1, 2]));
    assert!(config.get("fromRunnerConfig").is_none(), "the runner config is not merged again");
    assert_eq!(registrations(&fixture), 1);
}

#[test]
fn another_machines_cache_is_not_gone_on_with() {
    for kind in CloudKind::ALL {
        let fixture = Fixture::with_cache(kind).rebooting();
        fixture.boot().assert_code(67);
        let cache = fixture.path("cache.json");
        let mut kept = read(&cache);
        kept["identity"]["workerId"] = json!("baked-into-the-image");
        fs::write(&cache, kept.to_string()).unwrap();
        let finished = fixture.boot();
        finished.assert_logged("belongs to baked-into-the-image").assert_logged("booting anew");
        // A cloud's second registration is refused, and then both reasons are named.
        if kind.is_cloud() {
            finished
                .assert_code(13)
                .assert_logged("registering this machine (anew, for the cache")
                .assert_logged("already running");
        } else {
            finished.assert_code(67);
            assert_eq!(read(&cache)["identity"]["workerId"], "machine-1");
        }
    }
}

#[test]
fn a_metadata_service_that_does_not_answer_does_not_keep_a_cached_run_from_going_on() {
    let fixture = Fixture::with_cache(CloudKind::Azure).rebooting();
    fixture.boot().assert_code(67);
    fixture.simulator.fault("/metadata/instance", usize::MAX, Fault::Delay(Duration::from_secs(3600)));
    fixture.boot().assert_code(67).assert_logged("going on with the run of an earlier boot");
}

#[test]
fn another_version_is_said_and_booted_anew() {
    let fixture = Fixture::with_cache(CloudKind::Static);
    fs::write(fixture.path("cache.json"), r#"{"version": 99}"#).unwrap();
    fixture.boot().assert_code(0).assert_logged("is of version 99");
    assert_eq!(read(&fixture.path("cache.json"))["version"], 1);
}

#[test]
fn ended_credentials_are_replaced_on_static_and_retire_a_cloud_machine() {
    for (kind, code) in [(CloudKind::Static, 67), (CloudKind::Google, 14)] {
        let fixture = Fixture::with_cache(kind).rebooting();
        fixture.boot().assert_code(67);
        let cache = fixture.path("cache.json");
        let mut kept = read(&cache);
        kept["lease"]["expires"] = json!("2001-01-01T00:00:00Z");
        kept["credentials"]["accessToken"] = json!("dead");
        fs::write(&cache, kept.to_string()).unwrap();
        let finished = fixture.boot();
        finished.assert_code(code);
        if kind.is_cloud() {
            finished.assert_logged("a cloud machine registers only once");
            // worker-manager's clock says the same as ours, and the machine costs money.
            finished.assert_not_logged("trying again");
            assert_eq!(fixture.machine.shutdowns(), ["-r now", "-h now"]);
        } else {
            assert_eq!(registrations(&fixture), 2);
        }
    }
}

#[test]
fn the_word_true_is_a_file_in_the_working_folder() {
    let mut fixture = Fixture::new(CloudKind::Aws).rebooting();
    fixture.machine.config["cacheOverRestarts"] = json!(true);
    fixture.boot().assert_code(67).assert_logged("cacheOverRestarts");
    assert!(fixture.path("true").is_file());
    fixture.boot().assert_code(67).assert_logged("going on with the run of an earlier boot");
}

#[test]
fn a_cache_that_cannot_be_written_is_said_and_stops_nobody() {
    let mut fixture = Fixture::new(CloudKind::Static);
    fs::write(fixture.path("a-file"), "").unwrap();
    fixture.machine.config["cacheOverRestarts"] = json!(fixture.path("a-file/cache.json"));
    fixture.machine.script = json!(["hello", {"await": "new-credentials"}, {"exit": 0}]);
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    let finished = fixture.boot();
    finished
        .assert_code(0)
        .assert_logged("cannot write")
        .assert_logged("cache.json")
        .assert_logged("received new-credentials");
}

/// A kill at any instant leaves no cache or a whole one, and what had been registered goes on. The number of kills is
/// in `KILLS` for a longer run.
#[test]
fn a_kill_at_any_instant_leaves_a_whole_cache_or_none() {
    let kills: u64 = std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(25);
    let mut went_on = 0;
    for kill in 0..kills {
        let fixture = Fixture::with_cache(CloudKind::Google).rebooting();
        let file = fixture.path("a-file");
        let spec = json!({"description": "d", "path": file, "content": "aGk=", "encoding": "base64", "format": "file"});
        fixture.simulator.world(|world| {
            world.latency = Duration::from_millis(4);
            world.taskcluster.worker_config = json!({"genericWorker": {"files": [spec]}});
        });
        let mut running: Running = fixture.start();
        // Not a wait for something: a random instant is what is asked for.
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..60_000)));
        running.signal(Signal::SIGKILL);
        running.finish();
        let cache = fixture.path("cache.json");
        let kept = cache.exists().then(|| read(&cache));
        let registered = registrations(&fixture);
        let finished = fixture.boot();
        match kept {
            Some(_) => {
                finished.assert_code(67).assert_logged("going on with the run of an earlier boot");
                assert_eq!(registrations(&fixture), 1, "kill {kill}");
                assert_eq!(fs::read_to_string(&file).unwrap(), "hi");
                went_on += 1;
            }
            // Registered, and the answer was on its way or had just arrived.
            None if registered == 1 => drop(finished.assert_code(13)),
            // So may it have been when that was looked at: what the dead had asked for is still done.
            None => assert!(matches!(finished.code, Some(67 | 13)), "kill {kill}:\n{}", finished.log),
        }
    }
    println!("{went_on} of {kills} went on from the cache");
}
