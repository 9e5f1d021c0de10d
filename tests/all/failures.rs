//! What goes wrong around a boot, and what becomes of the machine.

#[cfg(unix)]
use crate::support::PATIENCE;
use crate::support::{Fixture, Signal};
#[cfg(unix)]
use base64::Engine;
use serde_json::json;
use simulator::{CloudKind, Fault};
use std::time::Duration;

#[test]
fn a_lost_registration_is_tried_again_whatever_the_reason() {
    let faults = [Fault::status(503), Fault::Drop, Fault::status(500), Fault::status(429)];
    for kind in [CloudKind::Static, CloudKind::Azure] {
        let fixture = Fixture::new(kind);
        for fault in &faults {
            fixture.simulator.fault("/worker/register", 1, fault.clone());
        }
        fixture.boot().assert_code(0);
        // The first try meets the first fault that is left, and so on.
        assert!(fixture.simulator.count("/worker/register") > 1);
        fixture.assert_no_violation();
    }
}

#[test]
fn a_static_worker_that_is_refused_fails_at_once_with_the_services_own_words() {
    let mut fixture = Fixture::new(CloudKind::Static);
    fixture.machine.config["provider"]["staticSecret"] = json!("x".repeat(44));
    let finished = fixture.boot();
    finished.assert_code(13).assert_logged("answered 400 InputError: the proof proves nothing").assert_logged("hint:");
    finished.assert_not_logged("---").assert_not_logged("xxxxxxxx");
    assert_eq!(fixture.simulator.count("/worker/register"), 1);
}

#[test]
fn a_cloud_worker_that_is_refused_shows_a_fresh_proof() {
    for (kind, proof) in [
        (CloudKind::Aws, "/dynamic/instance-identity/signature"),
        (CloudKind::Azure, "/metadata/attested/document"),
        (CloudKind::Google, "/service-accounts/default/identity"),
    ] {
        let fixture = Fixture::new(kind);
        fixture.simulator.fault("/worker/register", 1, Fault::error(404, "ResourceNotFound", "no such worker yet"));
        fixture.boot().assert_code(0).assert_logged("trying again with a fresh proof");
        assert_eq!(fixture.simulator.count(proof), 2);
    }
}

#[test]
fn a_cloud_worker_that_is_registered_already_is_not_tried_again() {
    let fixture = Fixture::new(CloudKind::Google).script(json!(["hello", "hang"]));
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGKILL);
    running.finish();
    fixture.boot().assert_code(13).assert_logged("already running").assert_logged("cacheOverRestarts");
    assert_eq!(fixture.simulator.count("/worker/register"), 2);
    let removals = fixture.simulator.world(|world| world.taskcluster.removals);
    assert_eq!(removals, 0, "nothing is removed before registration");
}

#[test]
fn an_answer_that_is_not_as_promised_is_named_by_its_field() {
    let wrong = |body: &str| Fault::Answer { status: 200, headers: Vec::new(), body: body.to_owned() };
    let table = [
        (Fault::garbage(), "it can't be read as JSON (line 1, column 1)"),
        (wrong("{}"), "missing field `expires`"),
        (
            wrong(
                r#"{"expires": "2999-01-01T00:00:00Z", "secret": "canary", "credentials": {"clientId": "c"}, "workerConfig": {}}"#,
            ),
            "at `credentials`: missing field `accessToken`",
        ),
        (
            wrong(
                r#"{"expires": "2999-01-01T00:00:00Z", "secret": "canary", "credentials": {"clientId": "c", "accessToken": "canary"}}"#,
            ),
            "missing field `workerConfig`",
        ),
        (wrong(r#"{"expires": "canary"}"#), "at `expires`"),
    ];
    for (fault, expected) in table {
        let fixture = Fixture::new(CloudKind::Static);
        fixture.simulator.fault("/worker/register", 1, fault);
        fixture.boot().assert_code(13).assert_logged(expected).assert_not_logged("canary");
    }
}

#[test]
fn secrets_that_cannot_be_had_yet_are_asked_for_again() {
    let fixture = Fixture::new(CloudKind::Google);
    fixture.simulator.fault("/secrets/", 2, Fault::status(502));
    fixture.boot().assert_code(0).assert_logged("secrets.get failed (answered 502)");
}

#[test]
fn a_failure_after_registration_is_reported_and_retires_a_cloud_machine() {
    for (kind, removals) in [(CloudKind::Azure, 1), (CloudKind::Static, 0)] {
        let fixture = Fixture::new(kind);
        let secret = format!("worker-pool:{}", fixture.pool());
        fixture.simulator.world(|world| world.taskcluster.denied_scopes.push(format!("secrets:get:{secret}")));
        fixture.boot().assert_code(15).assert_logged("getting the worker pool's secrets");
        let (removed, reports) =
            fixture.simulator.world(|world| (world.taskcluster.removals, world.taskcluster.reports.clone()));
        assert_eq!((removed, reports.len()), (removals, 1));
        assert_eq!(reports[0]["kind"], "start-worker-secrets");
        fixture.assert_no_violation();
    }
}

#[cfg(unix)]
#[test]
fn a_missing_worker_is_a_warning_on_a_cloud_until_the_files_are_there() {
    let mut fixture = Fixture::new(CloudKind::Aws);
    fixture.machine.config["worker"]["path"] = json!(fixture.path("bin/not-there"));
    fixture.boot().assert_code(18).assert_logged("going on, for the worker pool's files may bring it");
    let (removals, reports) =
        fixture.simulator.world(|world| (world.taskcluster.removals, world.taskcluster.reports.len()));
    assert_eq!((removals, reports), (1, 1));

    let mut fixture = Fixture::new(CloudKind::Aws);
    let worker = fixture.path("brought/worker");
    fixture.machine.config["worker"]["path"] = json!(worker);
    let script = format!("#!/bin/sh\nexec '{}' \"$@\"\n", crate::support::simulated_worker().display());
    let content = base64::engine::general_purpose::STANDARD.encode(script);
    let file = json!({"description": "the worker", "path": worker, "content": content, "encoding": "base64", "format": "file"});
    fixture.simulator.world(|world| world.taskcluster.worker_config = json!({"genericWorker": {"files": [file]}}));
    fixture.boot().assert_code(0);
}

#[test]
fn a_clock_that_is_off_is_corrected_and_said_once() {
    for offset in [-7200, 5400] {
        let fixture = Fixture::new(CloudKind::Google);
        fixture.simulator.world(|world| world.taskcluster.clock_offset = offset);
        let finished = fixture.boot();
        finished.assert_code(0);
        assert_eq!(finished.log.matches("clock differs from the service's").count(), 1, "{}", finished.log);
        fixture.assert_no_violation();
    }
}

#[test]
fn a_deployment_that_knows_no_time_of_the_boot_registers_the_machine_without_it() {
    for kind in [CloudKind::Static, CloudKind::Google] {
        let fixture = Fixture::new(kind);
        let refused = Fault::error(400, "InputValidationError", "data must NOT have additional properties");
        fixture.simulator.fault("/worker/register", 1, refused);
        fixture.boot().assert_code(0).assert_logged("started the worker");
        assert_eq!(fixture.simulator.count("/worker/register"), 2);
    }
}

#[test]
fn a_secret_that_only_a_proxy_does_not_know_is_asked_for_again() {
    let fixture = Fixture::new(CloudKind::Google);
    let pool = fixture.pool();
    fixture.simulator.world(|world| {
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), json!({"config": {"fromSecret": 1}}));
    });
    fixture.simulator.fault("/secrets/", 2, Fault::status(404));
    fixture.boot().assert_code(0).assert_logged("does not answer as it does");
    assert_eq!(fixture.worker_config()["fromSecret"], 1);
}

#[test]
fn what_is_empty_is_not_there() {
    let mut fixture = Fixture::new(CloudKind::Google);
    fixture.machine.config["worker"]["service"] = json!("");
    fixture.machine.config["worker"]["protocolPipe"] = json!("");
    fixture.simulator.world(|world| world.taskcluster.worker_config = json!({"genericWorker": null}));
    fixture.boot().assert_code(0).assert_not_logged("is there too");
    let mut fixture = Fixture::new(CloudKind::Standalone);
    fixture.machine.config["provider"]["certificate"] = json!("");
    fixture.boot().assert_code(0);
}

#[test]
fn a_clock_that_is_ahead_of_the_credentials_end_stops_no_worker() {
    let script = json!(["hello", {"sleep": 300}, {"print": "at work"}, {"exit": 0}]);
    for (kind, get_secrets) in [(CloudKind::Static, true), (CloudKind::Google, true), (CloudKind::Google, false)] {
        let mut fixture = Fixture::new(kind).script(script.clone());
        // Without it nothing that is signed tells us how far our clock is off.
        fixture.machine.config["getSecrets"] = json!(get_secrets);
        fixture.simulator.world(|world| {
            world.taskcluster.clock_offset = -7200;
            world.taskcluster.credentials_life = Duration::from_secs(3600);
        });
        let finished = fixture.boot();
        finished.assert_code(0).assert_logged("at work").assert_logged("is the clock right?");
        finished.assert_not_logged("credentials are about to end");
        fixture.assert_no_violation();
    }
}

#[test]
fn what_may_be_absent_is_tried_a_few_times_and_what_must_be_there_for_a_while() {
    let fixture = Fixture::new(CloudKind::Aws);
    fixture.simulator.fault("/meta-data/public-ipv4", usize::MAX, Fault::status(500));
    fixture.boot().assert_code(0).assert_logged("public-ipv4: answered 500, 3 times: going on without it");
    assert_eq!(fixture.simulator.count("/meta-data/public-ipv4"), 3);

    let fixture = Fixture::new(CloudKind::Aws);
    fixture.simulator.fault("/latest/user-data", usize::MAX, Fault::status(404));
    fixture.boot().assert_code(11).assert_logged("/latest/user-data: answered 404 (tried for 1").assert_logged("hint:");
}

#[test]
fn a_metadata_answer_that_makes_no_sense_names_the_url_and_the_field() {
    let wrong = |body: &str| Fault::Answer { status: 200, headers: Vec::new(), body: body.to_owned() };
    let fixture = Fixture::new(CloudKind::Aws);
    let user_data = json!({"workerPoolId": "no-slash", "providerId": "p", "workerGroup": "g", "rootUrl": "https://tc"});
    fixture.simulator.fault("/latest/user-data", usize::MAX, wrong(&user_data.to_string()));
    fixture.boot().assert_code(11).assert_logged("/latest/user-data: `workerPoolId`: found \"no-slash\"");

    let fixture = Fixture::new(CloudKind::Azure);
    let attested = json!({"encoding": "der", "signature": "s"}).to_string();
    fixture.simulator.fault("/metadata/attested", usize::MAX, wrong(&attested));
    fixture.boot().assert_code(11).assert_logged("`encoding`: expected `pkcs7`");
}

#[test]
fn a_metadata_service_that_is_not_googles_is_not_believed() {
    let fixture = Fixture::new(CloudKind::Google).script(json!(["hello", {"exit": 0}]));
    // Whatever answers on this network while it comes up.
    fixture.simulator.fault("/instance/", 2, Fault::garbage());
    fixture.boot().assert_code(0).assert_logged("the answer lacks the header that a genuine one carries");
}

#[test]
fn what_google_does_not_say_in_one_answer_is_asked_for_by_itself() {
    let genuine = |status, body: &str| Fault::Answer {
        status,
        headers: vec![("metadata-flavor", "Google".to_owned())],
        body: body.to_owned(),
    };
    for (fault, logged) in [
        (genuine(404, ""), true),
        (genuine(200, "<html>"), true),
        (genuine(200, r#"{"id": 1234567890123456789, "networkInterfaces": {}, "zone": null, "image": ""}"#), false),
    ] {
        let fixture = Fixture::new(CloudKind::Google);
        fixture.simulator.fault("/instance/?recursive=true", 1, fault);
        let booted = fixture.boot();
        booted.assert_code(0).assert_logged("this machine is 1234567890123456789");
        assert_eq!(booted.log.contains("asking for its values one by one"), logged, "{}", booted.log);
        assert_eq!(fixture.simulator.count("/instance/zone"), 1);
    }
}

#[test]
fn a_slow_secrets_service_is_waited_for() {
    let fixture = Fixture::new(CloudKind::Static);
    let pool = fixture.pool();
    fixture.simulator.world(|world| {
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), json!({"a": 1}));
    });
    fixture.simulator.fault("/secrets/", 1, Fault::SlowBody(Duration::from_millis(5)));
    fixture.boot().assert_code(0);
}

#[cfg(unix)]
#[test]
fn a_killed_runner_takes_its_worker_along() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let description = fixture.path("description.json");
    fixture.machine.script = json!(["hello", {"describe": description}, {"print": "described"}, "hang"]);
    let mut running = fixture.start();
    running.wait_for("described");
    let description: serde_json::Value = serde_json::from_slice(&std::fs::read(description).unwrap()).unwrap();
    let worker = description["process"].as_str().unwrap().to_owned();
    running.signal(Signal::SIGKILL);
    running.finish();
    let gone = || !std::path::Path::new(&format!("/proc/{worker}")).exists();
    let began = std::time::Instant::now();
    while !gone() {
        assert!(began.elapsed() < PATIENCE, "the worker outlives its runner");
        std::thread::yield_now();
    }
}

#[cfg(unix)]
#[test]
fn a_failure_is_explained_before_the_machine_goes_and_a_signal_keeps_the_machine() {
    let mut fixture = Fixture::new(CloudKind::Google);
    fixture.machine.config["worker"]["path"] = json!(fixture.program("worker.sh", "#!/nonexistent/interpreter\n"));
    fixture.simulator.fault("DELETE", usize::MAX, Fault::status(503));
    let mut running = fixture.start();
    running.wait_for("asking worker-manager to remove this worker");
    running.signal(Signal::SIGTERM);
    let finished = running.finish();
    finished.assert_code(19).assert_logged("told to stop: leaving the machine as it is");
    let (explained, removed) =
        (finished.log.find("failed while starting the worker"), finished.log.find("asking worker-manager"));
    assert!(explained.is_some() && explained < removed, "{}", finished.log);
    assert_eq!(finished.log.matches("failed while").count(), 1);
    assert!(fixture.machine.shutdowns().is_empty());
}

#[test]
fn files_that_would_be_destroyed_are_refused_before_anything_else() {
    let fixture = Fixture::new(CloudKind::Static);
    let config = fixture.machine.runner_config();
    let worker = fixture.path("worker");
    let spelled = fixture.path("bin/../worker-config.json");
    for (key, value) in [("configPath", &config), ("configPath", &worker), ("cacheOverRestarts", &spelled)] {
        let mut fixture = Fixture::new(CloudKind::Static);
        let inside = |path: &std::path::Path| {
            fixture.path(path.strip_prefix(config.parent().unwrap()).unwrap().to_str().unwrap())
        };
        let value = json!(inside(value));
        fixture.machine.config["worker"]["path"] = json!(inside(&worker));
        match key {
            "configPath" => fixture.machine.config["worker"]["configPath"] = value,
            _ => fixture.machine.config[key] = value,
        }
        fixture.boot().assert_code(10).assert_logged("are one file");
        assert!(fixture.simulator.records().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_replaced_by_a_file() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let pipe = fixture.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fixture.machine.config["cacheOverRestarts"] = json!(pipe);
    fixture.boot().assert_code(0).assert_logged("something other than a regular file is there");
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&std::fs::metadata(&pipe).unwrap().file_type()));
}

#[cfg(unix)]
#[test]
fn an_empty_program_is_no_worker() {
    let mut fixture = Fixture::new(CloudKind::Static);
    fixture.machine.config["worker"]["path"] = json!(fixture.program("worker", ""));
    fixture.boot().assert_code(18).assert_logged("it is empty");
}

#[cfg(unix)]
#[test]
fn what_cannot_work_is_found_before_a_machine_of_ones_own_registers() {
    // The system looks for a name alone on PATH only.
    let mut fixture = Fixture::new(CloudKind::Static);
    fixture.program("worker-of-this-folder", "#!/bin/sh\nexit 0\n");
    fixture.machine.config["worker"]["path"] = json!("worker-of-this-folder");
    fixture.boot().assert_code(18).assert_logged("(one in the working folder is `./worker-of-this-folder`)");
    assert!(fixture.simulator.records().is_empty());
    fixture.machine.config["worker"]["path"] = json!("./worker-of-this-folder");
    fixture.boot().assert_code(0);

    let mut fixture = Fixture::new(CloudKind::Static);
    std::os::unix::fs::symlink("elsewhere", fixture.path("a-link")).unwrap();
    fixture.machine.config["worker"]["configPath"] = json!(fixture.path("a-link"));
    fixture.boot().assert_code(18).assert_logged("cannot write the worker's configuration");
    assert!(fixture.simulator.records().is_empty());
}

#[test]
fn an_end_in_the_year_9999_is_never() {
    let fixture = Fixture::new(CloudKind::Static);
    let answer = |body: &serde_json::Value| Fault::Answer { status: 200, headers: Vec::new(), body: body.to_string() };
    let never = "9999-12-31T23:59:59.999Z";
    fixture.simulator.fault("/secret/", 2, answer(&json!({"secret": {"a": 1}, "expires": never})));
    let registration = json!({"expires": never, "secret": "s", "credentials": {"clientId": "c", "accessToken": "t"}, "workerConfig": {}});
    fixture.simulator.fault("/worker/register", 1, answer(&registration));
    fixture.boot().assert_code(0);
    assert_eq!(fixture.worker_config()["a"], 1);
}

#[cfg(unix)]
#[test]
fn a_signal_before_there_is_a_worker_ends_the_boot_and_leaves_the_machine_alone() {
    for (waits_for, word) in
        [("/worker/register", "before there was a worker"), ("/secrets/", "this machine is left as it is")]
    {
        let mut fixture = Fixture::new(CloudKind::Google);
        fixture.machine.config["stop"] = json!({"grace": "100ms"});
        fixture.simulator.fault(waits_for, usize::MAX, Fault::Delay(Duration::from_secs(3600)));
        let mut running = fixture.start();
        assert!(fixture.simulator.wait_for(waits_for, 1, PATIENCE));
        // A terminal that goes away is no reason to end.
        running.signal(Signal::SIGHUP);
        running.signal(Signal::SIGTERM);
        running.finish().assert_code(143).assert_logged("told to stop").assert_logged(word);
        assert_eq!(fixture.simulator.count("DELETE") + fixture.simulator.count("worker-pool-errors"), 0);
        assert!(fixture.machine.shutdowns().is_empty());
    }
}

#[cfg(windows)]
skip! {
    "it needs a shell": what_cannot_work_is_found_before_a_machine_of_ones_own_registers, a_missing_worker_is_a_warning_on_a_cloud_until_the_files_are_there, a_failure_is_explained_before_the_machine_goes_and_a_signal_keeps_the_machine, an_empty_program_is_no_worker;
    "it looks at Linux' own files": a_killed_runner_takes_its_worker_along;
    "there are no such links and pipes in its file system": a_pipe_is_not_replaced_by_a_file;
    "there is no such signal": a_signal_before_there_is_a_worker_ends_the_boot_and_leaves_the_machine_alone;
}
