//! A machine of every provider boots into every worker, with everything that it must be told.

use crate::support::{Fixture, Running, Signal, is_private};
use serde_json::{Value, json};
use simulator::CloudKind;
use std::fs;

#[cfg(unix)]
fn file(path: &std::path::Path, content: &str, more: &Value) -> Value {
    use base64::Engine;
    let mut file = json!({
        "description": "a test file", "path": path, "encoding": "base64", "format": "file",
        "content": base64::engine::general_purpose::STANDARD.encode(content),
    });
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    file
}

/// What a generic-worker of each provider is told of its machine.
fn expected_config(kind: CloudKind, fixture: &Fixture) -> Value {
    let (token, certificate, client) = fixture.simulator.world(|world| {
        let (client, token, certificate) = world.taskcluster.newest_credentials().unwrap();
        (token, certificate, client)
    });
    let mut config = json!({
        "rootURL": fixture.simulator.url(), "clientId": client, "accessToken": token,
        "provisionerId": "proj-simulated", "workerType": "ci", "fromRunnerConfig": true,
    });
    if let Some(certificate) = certificate {
        config["certificate"] = certificate.into();
    }
    let own = match kind {
        CloudKind::Aws => json!({
            "workerGroup": "us-west-2b", "workerId": "i-0123456789abcdef0",
            "workerLocation": "{\"availabilityZone\":\"us-west-2b\",\"cloud\":\"aws\",\"region\":\"us-west-2\"}",
            "publicIP": "1.2.3.4", "privateIP": "10.1.2.3", "instanceType": "c5.large",
            "instanceID": "i-0123456789abcdef0", "region": "us-west-2", "availabilityZone": "us-west-2b",
            "workerTypeMetadata": {
                "instance-id": "i-0123456789abcdef0", "image": "ami-0abc", "instance-type": "c5.large",
                "region": "us-west-2", "availability-zone": "us-west-2b", "local-ipv4": "10.1.2.3",
                "public-hostname": "ec2-1-2-3-4.example.com", "public-ipv4": "1.2.3.4",
            },
        }),
        CloudKind::Google => json!({
            "workerGroup": "us-west1-a", "workerId": "1234567890123456789",
            "workerLocation": "{\"cloud\":\"google\",\"region\":\"us-west1\",\"zone\":\"us-west1-a\"}",
            "publicIP": "1.2.3.4", "privateIP": "10.1.2.3",
            "instanceType": "projects/98765/machineTypes/n1-standard-4", "instanceID": "1234567890123456789",
            "region": "us-west1",
            "workerTypeMetadata": {
                "instance-id": "1234567890123456789", "project-id": "proj-1234",
                "image": "projects/proj-1234/global/images/worker-image",
                "instance-type": "projects/98765/machineTypes/n1-standard-4", "zone": "us-west1-a",
                "region": "us-west1", "public-hostname": "machine.c.proj-1234.internal",
                "public-ipv4": "1.2.3.4", "local-ipv4": "10.1.2.3",
            },
        }),
        CloudKind::Azure => json!({
            "workerGroup": "uswest", "workerId": "vm-simulated-0001",
            "workerLocation": "{\"cloud\":\"azure\",\"region\":\"uswest\"}",
            "publicIP": "1.2.3.4", "privateIP": "10.1.2.3", "instanceType": "Standard_D2s_v3", "region": "uswest",
            "workerTypeMetadata": {
                "vm-id": "df09142e-c0dd-43d9-a515-489f19829dfd", "instance-type": "Standard_D2s_v3",
                "region": "uswest", "local-ipv4": "10.1.2.3", "public-ipv4": "1.2.3.4",
            },
        }),
        CloudKind::Static | CloudKind::Standalone => json!({
            "workerGroup": "rack-1", "workerId": "machine-1",
            "workerLocation": format!("{{\"cloud\":\"{}\",\"room\":\"basement\"}}", kind.name()),
            "workerTypeMetadata": {"rack": "r1", "slot": 7},
        }),
    };
    config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    config
}

#[test]
fn every_provider_boots_generic_worker_with_exactly_its_configuration() {
    for kind in CloudKind::ALL {
        let mut fixture = Fixture::new(kind);
        let description = fixture.path("description.json");
        fixture.machine.script = json!(["hello", {"describe": description}, {"exit": 0}]);
        let finished = fixture.boot();
        finished.assert_code(0);
        fixture.assert_no_violation();
        assert_eq!(fixture.worker_config(), expected_config(kind, &fixture), "{}", kind.name());
        let description: Value = serde_json::from_slice(&fs::read(description).unwrap()).unwrap();
        let config = fixture.machine.worker_config();
        assert_eq!(
            description["arguments"].as_array().unwrap()[1..],
            [json!("run"), json!("--config"), json!(config), json!("--with-worker-runner")]
        );
        let removals = usize::from(kind.is_cloud());
        assert_eq!(fixture.simulator.world(|world| world.taskcluster.removals), removals, "{}", kind.name());
        assert!(fixture.machine.shutdowns().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn every_provider_boots_docker_worker() {
    for kind in CloudKind::ALL {
        let mut fixture = Fixture::new(kind);
        fixture.machine.use_docker_worker(&crate::support::simulated_worker()).unwrap();
        let description = fixture.path("description.json");
        fixture.machine.script = json!(["hello", {"describe": description}, {"exit": 0}]);
        fixture.boot().assert_code(0);
        fixture.assert_no_violation();
        let description: Value = serde_json::from_slice(&fs::read(description).unwrap()).unwrap();
        assert_eq!(
            description["arguments"].as_array().unwrap()[1..],
            [json!("--host"), json!("worker-runner"), json!("production")]
        );
        assert_eq!(description["environment"]["DOCKER_WORKER_CONFIG"], json!(fixture.machine.worker_config()));
        let config = fixture.worker_config();
        let (client, token, certificate) =
            fixture.simulator.world(|world| world.taskcluster.newest_credentials().unwrap());
        let mut credentials = json!({"clientId": client, "accessToken": token});
        if let Some(certificate) = certificate {
            credentials["certificate"] = certificate.into();
        }
        assert_eq!(config["taskcluster"], credentials);
        assert_eq!(config["rootUrl"], json!(fixture.simulator.url()));
        assert_eq!((&config["provisionerId"], &config["workerType"]), (&json!("proj-simulated"), &json!("ci")));
        if kind == CloudKind::Aws {
            assert_eq!(
                (&config["host"], &config["workerNodeType"], &config["instanceType"], &config["publicIp"]),
                (&json!("ec2-1-2-3-4.example.com"), &json!("c5.large"), &json!("c5.large"), &json!("1.2.3.4"))
            );
        }
    }
}

#[cfg(unix)]
#[test]
fn a_docker_worker_without_launcher_is_run_by_node() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let worker = fixture.path("checkout");
    fs::create_dir_all(worker.join("src/bin")).unwrap();
    fs::write(worker.join("src/bin/worker.js"), "").unwrap();
    let called = fixture.path("called");
    fixture.program("bin/node", &format!("#!/bin/sh\necho \"$@\" >'{}'\n", called.display()));
    fixture.machine.config["worker"] =
        json!({"implementation": "docker-worker", "path": worker, "configPath": fixture.machine.worker_config()});
    fixture.boot().assert_code(0);
    let script = worker.join("src/bin/worker.js");
    assert_eq!(fs::read_to_string(called).unwrap(), format!("{} --host worker-runner production\n", script.display()));
}

#[test]
fn a_dummy_worker_prints_the_state_without_secrets() {
    for kind in [CloudKind::Static, CloudKind::Google] {
        let mut fixture = Fixture::new(kind);
        fixture.machine.config["worker"] = json!({"implementation": "dummy"});
        let pool = fixture.pool();
        fixture.simulator.world(|world| {
            world.taskcluster.put_secret(format!("worker-pool:{pool}"), json!({"key": "canary-secret"}));
        });
        let finished = fixture.boot();
        finished.assert_code(0);
        let state: Value = serde_json::from_str(&finished.output).unwrap();
        assert_eq!(state["workerConfig"], json!({"fromRunnerConfig": true, "key": "[redacted]"}));
        assert_eq!(state["identity"]["workerPoolId"], json!(pool));
        assert!(!finished.output.contains("canary"), "{}", finished.output);
    }
}

#[test]
fn layers_merge_in_order_in_both_forms_of_registration_and_secrets() {
    let pool_config = json!({"who": "pool", "list": [2], "pool": 1, "deep": {"a": "pool", "b": "pool"}});
    let legacy_secret = json!({"who": "worker-type", "list": [3], "deep": {"b": "type"}});
    let secret_config = json!({"who": "worker-pool", "list": [4], "deep": {"c": 12_345_678_901_234_567_890_u64}});
    let forms = [
        (json!({"genericWorker": {"config": pool_config, "files": []}}), json!({"config": secret_config, "files": []})),
        (pool_config.clone(), secret_config.clone()),
    ];
    for (registration, secret) in forms {
        let mut fixture = Fixture::new(CloudKind::Static);
        fixture.machine.config["workerConfig"] =
            json!({"who": "runner", "list": [1], "runner": 1.0, "deep": {"a": "runner"}, "workerId": "ignored"});
        let pool = fixture.pool();
        fixture.simulator.world(|world| {
            world.taskcluster.worker_config = registration;
            world.taskcluster.put_secret(format!("worker-type:{pool}"), legacy_secret.clone());
            world.taskcluster.put_secret(format!("worker-pool:{pool}"), secret);
        });
        fixture.boot().assert_code(0);
        let config = fixture.worker_config();
        assert_eq!(config["who"], "worker-pool");
        assert_eq!(config["list"], json!([1, 2, 3, 4]));
        assert_eq!(config["deep"], json!({"a": "pool", "b": "type", "c": 12_345_678_901_234_567_890_u64}));
        assert_eq!((&config["runner"], &config["pool"]), (&json!(1), &json!(1)));
        assert_eq!(config["workerId"], "machine-1");
    }
}

#[cfg(unix)]
#[test]
fn files_come_from_the_pool_and_from_secrets() {
    let fixture = Fixture::new(CloudKind::Google);
    let (plain, private, mode) = (fixture.path("new/plain"), fixture.path("private"), fixture.path("mode"));
    let pool = fixture.pool();
    fixture.simulator.world(|world| {
        world.taskcluster.worker_config = json!({"genericWorker": {"files": [
            file(&plain, "#!/bin/sh\n", &json!({})), file(&mode, "x", &json!({"mode": "0640"})),
        ]}});
        let secret = json!({"config": {}, "files": [file(&private, "canary", &json!({}))]});
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), secret);
    });
    fixture.boot().assert_code(0);
    for (path, content, expected) in [(plain, "#!/bin/sh\n", 0o755), (private, "canary", 0o600), (mode, "x", 0o640)] {
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o7777;
        assert_eq!(mode, expected, "{}", path.display());
    }
}

#[test]
fn secrets_are_not_asked_for_where_they_are_not_wanted() {
    let mut fixture = Fixture::new(CloudKind::Static);
    fixture.machine.config["getSecrets"] = json!(false);
    fixture.boot().assert_code(0);
    assert_eq!(fixture.simulator.count("/api/secrets"), 0);
}

#[test]
fn a_forbidden_legacy_secret_is_no_fault_and_a_forbidden_other_one_is() {
    for (name, code) in [("worker-type", 0), ("worker-pool", 15)] {
        let fixture = Fixture::new(CloudKind::Static);
        let secret = format!("{name}:{}", fixture.pool());
        fixture.simulator.world(|world| world.taskcluster.denied_scopes.push(format!("secrets:get:{secret}")));
        fixture.boot().assert_code(code);
    }
}

#[test]
fn no_more_round_trips_than_the_data_allow() {
    let expected = [
        (CloudKind::Static, 2),
        (CloudKind::Azure, 3),
        (CloudKind::Aws, 4),
        (CloudKind::Google, 4),
        (CloudKind::Standalone, 1),
    ];
    for (kind, trips) in expected {
        let fixture = Fixture::new(kind).script(json!(["hello", "hang"]));
        // Slow enough that what goes on side by side does so in the records too.
        fixture.simulator.world(|world| world.latency = std::time::Duration::from_secs(1));
        let mut running = fixture.start();
        running.wait_for("started the worker");
        let records: Vec<_> =
            fixture.simulator.records().into_iter().filter(|record| record.status.is_some()).collect();
        running.signal(Signal::SIGKILL);
        running.finish();
        assert_eq!(simulator::sequential_round_trips(&records), trips, "{}: {records:#?}", kind.name());
    }
}

#[test]
fn the_deployment_is_connected_to_while_the_cloud_is_still_asked() {
    for kind in [CloudKind::Aws, CloudKind::Azure, CloudKind::Google] {
        let fixture = Fixture::new(kind);
        // What doesn't say where the deployment is takes longer than what does.
        for slow in ["/attested/", "/instance-identity/signature", "/identity?audience"] {
            fixture.simulator.fault(slow, 1, simulator::Fault::Delay(std::time::Duration::from_secs(1)));
        }
        fixture.boot().assert_code(0);
        let records = fixture.simulator.records();
        let register = records.iter().find(|record| record.path.contains("/worker/register")).unwrap();
        let slow =
            records.iter().filter(|record| record.began < register.began).filter_map(|record| record.ended).max();
        assert!(register.connected < slow.unwrap(), "{}: {records:#?}", kind.name());
        // One connection for all that is asked there one after another, and one more for what is asked beside it.
        let connections: std::collections::BTreeSet<_> =
            records.iter().filter(|record| record.path.starts_with("/api/")).map(|record| record.connected).collect();
        assert!(connections.len() <= 2, "{connections:?}");
    }
}

#[test]
fn a_boot_says_what_its_time_went_into_and_draws_it_where_that_is_asked() {
    let fixture = Fixture::new(CloudKind::Google);
    let recording = fixture.path("boot.json");
    let mut command = fixture.machine.command().unwrap();
    let finished = Running::spawn(command.arg("--timeline").arg(&recording)).finish();
    finished.assert_code(0);
    let line = finished.log.lines().find(|line| line.contains("ready in ")).unwrap();
    let (_, parts) = line.split_once(" ms: ").unwrap();
    let names: Vec<&str> = parts.split(", ").map(|part| part.split_once(' ').unwrap().0).collect();
    assert_eq!(names, ["metadata", "register", "secrets", "start"]);

    assert!(is_private(&recording));
    assert!(!fs::read_to_string(&recording).unwrap().contains("canary"));
    let spans: Value = serde_json::from_slice(&fs::read(&recording).unwrap()).unwrap();
    let spans = spans["spans"].as_array().unwrap();
    let stages: Vec<&str> =
        spans.iter().filter(|span| span["kind"] == "stage").map(|span| span["what"].as_str().unwrap()).collect();
    assert_eq!(stages, ["metadata", "register", "secrets", "start", "hello"]);
    // Every request of the boot, each part of its step.
    let asked = fixture.simulator.records().iter().filter(|record| !record.is_poll).count();
    let requests = spans.iter().filter(|span| span["kind"] == "request").count();
    assert!(requests >= 6 && requests <= asked, "{requests} of {asked}");
    let register = spans.iter().find(|span| span["what"].as_str().is_some_and(|what| what.contains("/register")));
    assert_eq!(
        register.unwrap()["parent"].as_u64(),
        spans.iter().position(|span| span["what"] == "register").map(|at| at as u64)
    );
    assert!(spans.iter().any(|span| span["kind"] == "connect" && span["ahead"] == true));

    let drawn =
        std::process::Command::new(crate::support::start_worker()).arg("timeline").arg(&recording).output().unwrap();
    assert!(drawn.status.success(), "{drawn:?}");
    for (line, extension) in String::from_utf8(drawn.stdout).unwrap().lines().zip(["html", "trace.json"]) {
        assert_eq!(fs::canonicalize(line).unwrap(), fs::canonicalize(recording.with_extension(extension)).unwrap());
    }
    let page = fs::read_to_string(recording.with_extension("html")).unwrap();
    assert!(page.contains("/api/worker-manager/v1/worker/register"));
}

#[test]
fn a_log_that_adds_its_own_times_gets_none_of_ours() {
    let fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"print": "plain"}, {"exit": 0}]));
    let mut command = fixture.machine.command().unwrap();
    let finished = Running::spawn(command.arg("--no-timestamps")).finish();
    finished.assert_code(0).assert_logged("\nplain\n").assert_logged("\nthe worker has ended: exit code 0\n");
    assert!(finished.log.starts_with("start-worker "));
}

#[test]
fn azure_is_asked_for_events_only_once_the_worker_has_started() {
    let fixture = Fixture::new(CloudKind::Azure).script(json!(["hello", {"await": "graceful-termination"}]));
    let mut running = fixture.start();
    running.wait_for("started the worker");
    assert!(fixture.simulator.wait_for("scheduledevents", 1, crate::support::PATIENCE));
    let records = fixture.simulator.records();
    let first = records.iter().position(|record| record.path.contains("scheduledevents")).unwrap();
    let secrets = records.iter().rposition(|record| record.path.contains("/secrets/")).unwrap();
    assert!(first > secrets);
    running.signal(Signal::SIGTERM);
    running.finish();
}

#[test]
fn an_instance_that_is_being_reclaimed_is_not_registered() {
    for kind in [CloudKind::Aws, CloudKind::Google] {
        let fixture = Fixture::new(kind);
        fixture.simulator.world(|world| {
            world.cloud.preempted = true;
            world.cloud.spot_action = Some(json!({"action": "terminate", "time": "2026-11-20T08:22:00Z"}).to_string());
        });
        fixture.boot().assert_code(12).assert_logged("this machine is not registered");
        assert_eq!(fixture.simulator.count("register"), 0);
    }
}

#[cfg(unix)]
#[test]
fn the_exit_code_is_the_workers_own() {
    for (step, code) in
        [(json!({"exit": 0}), 0), (json!({"exit": 42}), 42), (json!({"signal": 9}), 137), (json!({"exit": 255}), 255)]
    {
        let fixture = Fixture::new(CloudKind::Static).script(json!(["hello", step]));
        fixture.boot().assert_code(code);
    }
}

#[test]
fn the_config_may_have_crlf_and_a_byte_order_mark_and_be_yaml() {
    let fixture = Fixture::new(CloudKind::Aws);
    fixture.machine.command().unwrap();
    let text = format!(
        "\u{feff}provider: {{providerType: aws, workerNodeType: ignored}}\r\nworker:\r\n  implementation: generic-worker\r\n  path: {}\r\n  configPath: {}\r\ngetSecrets: no\r\nworkerConfig:\r\n  base: &base {{a: 1}}\r\n  more:\r\n    <<: *base\r\n    b: 9007199254740993\r\n",
        crate::support::simulated_worker().display(),
        fixture.machine.worker_config().display()
    );
    let config = fixture.path("yaml.yml");
    fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new(crate::support::start_worker());
    command
        .arg(config)
        .args(["--metadata-service", &fixture.simulator.url()])
        .env("PATH", fixture.path("bin"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    crate::support::Running::spawn(&mut command)
        .finish()
        .assert_code(0)
        .assert_logged("provider.workerNodeType: this key is not known");
    assert_eq!(fixture.worker_config()["more"], json!({"a": 1, "b": 9_007_199_254_740_993_u64}));
}

#[test]
fn the_example_worker_shakes_hands_and_ends_when_told() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let folder = crate::support::start_worker().parent().unwrap();
    let worker = folder.join("examples").join(format!("worker{}", std::env::consts::EXE_SUFFIX));
    fixture.machine.config["worker"]["path"] = json!(worker);
    let mut running = fixture.start();
    running.wait_for("ready for tasks; agreed: log, graceful-termination, new-credentials");
    running.wait_for("said hello");
    fixture.simulator.world(|world| {
        world.cloud.preempted = true;
    });
    running.finish().assert_code(72).assert_logged("ending; tasks may finish: false");
}

#[cfg(unix)]
#[test]
fn each_worker_takes_its_own_form_of_registration_and_goes_on_from_the_cache() {
    for (form, dummy) in [("dockerWorker", false), ("dummy", true)] {
        let mut fixture = Fixture::with_cache(CloudKind::Azure);
        if dummy {
            fixture.machine.config["worker"] = json!({"implementation": "dummy"});
            fixture.machine.config["retirement"]["onFinished"] = json!("leave");
        } else {
            fixture.machine.use_docker_worker(&crate::support::simulated_worker()).unwrap();
            fixture.machine.script = json!([{"exit": 67}]);
        }
        fixture.simulator.world(|world| world.taskcluster.worker_config = json!({form: {"config": {"own": form}}}));
        let mut boots = Vec::new();
        for _ in 0..2 {
            let finished = fixture.boot();
            finished.assert_code(if dummy { 0 } else { 67 });
            boots.push(if dummy {
                let state: Value = serde_json::from_str(&finished.output).unwrap();
                state["workerConfig"].clone()
            } else {
                fixture.worker_config()
            });
        }
        assert_eq!((&boots[0], &boots[0]["own"]), (&boots[1], &json!(form)));
        assert_eq!(fixture.simulator.count("/worker/register"), 1);
    }
}

#[cfg(windows)]
skip! {
    "docker-worker's launcher is a link here": every_provider_boots_docker_worker, each_worker_takes_its_own_form_of_registration_and_goes_on_from_the_cache;
    "it needs a shell": a_docker_worker_without_launcher_is_run_by_node, files_come_from_the_pool_and_from_secrets;
    "no signal ends a process": the_exit_code_is_the_workers_own;
}
