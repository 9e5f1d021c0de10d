//! What README.md and SECURITY.md promise and no other test is about.

use crate::support::{Finished, Fixture, Signal, contains, is_private};
use serde_json::{Value, json};
use simulator::{CloudKind, Fault};
use std::fs;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every secret of the simulator holds this word.
const CANARY: &str = "canary";

fn assert_no_canary(fixture: &Fixture, finished: &Finished, what: &str) {
    assert!(!finished.log.contains(CANARY), "{what}: the log:\n{}", finished.log);
    assert!(!finished.output.contains(CANARY), "{what}: the output:\n{}", finished.output);
    let reports = fixture.simulator.world(|world| Value::from(world.taskcluster.reports.clone())).to_string();
    assert!(!reports.contains(CANARY), "{what}: the reports:\n{reports}");
    for path in files_below(&fixture.path("")) {
        if !is_private(&path) {
            assert!(!contains(&fs::read(&path).unwrap(), CANARY.as_bytes()), "{what}: {}", path.display());
        }
    }
    if let Ok(description) = fs::read_to_string(fixture.path("description.json")) {
        assert!(!description.contains(CANARY), "{what}: the worker's arguments or environment:\n{description}");
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            files.extend(files_below(&path));
        } else if kind.is_file() {
            files.push(path);
        }
    }
    files
}

/// What can go wrong where secrets are about: the services answer with what they were sent, and with secrets of the
/// wrong type.
fn faults() -> Vec<(&'static str, Fault)> {
    let answer = |body: &str| Fault::Answer { status: 200, headers: Vec::new(), body: body.to_owned() };
    vec![
        ("/worker/register", Fault::error(500, "InternalServerError", "an error")),
        ("/worker/register", answer(r#"{"expires": "canary", "credentials": "canary", "secret": ["canary"]}"#)),
        (
            "/worker/register",
            answer(
                r#"{"expires": "2999-01-01T00:00:00Z", "credentials": {"clientId": "c", "accessToken": {"canary": 1}}}"#,
            ),
        ),
        ("/worker/register", Fault::error(400, "InputError", "refused")),
        ("/worker/reregister", answer(r#"{"expires": "2999-01-01T00:00:00Z", "credentials": "canary"}"#)),
        ("/secret/worker-pool", answer(r#"{"secret": "canary", "expires": "2999-01-01T00:00:00Z"}"#)),
        ("/secret/worker-pool", answer(r#"{"secret": {"config": "canary"}, "expires": "2999-01-01T00:00:00Z"}"#)),
        (
            "/secret/worker-pool",
            answer(
                r#"{"secret": {"files": [{"path": "/x", "content": "canary", "encoding": "canary"}]}, "expires": "2999-01-01T00:00:00Z"}"#,
            ),
        ),
        ("DELETE", Fault::error(500, "InternalServerError", "an error")),
        ("/latest/dynamic", Fault::garbage()),
        ("/latest/api/token", Fault::Drop),
        ("/metadata/attested", answer(r#"{"encoding": "canary", "signature": 1}"#)),
        ("/instance/service-accounts", Fault::status(503)),
    ]
}

#[test]
fn no_secret_reaches_a_log_an_error_an_argument_an_environment_or_a_readable_file() {
    std::thread::scope(|scope| {
        for kind in CloudKind::ALL {
            scope.spawn(move || {
                faults().into_iter().map(Some).chain([None]).for_each(|case| boot_with_canaries(kind, case));
            });
        }
    });
}

fn boot_with_canaries(kind: CloudKind, case: Option<(&str, Fault)>) {
    let mut fixture = Fixture::with_cache(kind);
    let pool = fixture.pool();
    let file = json!({"description": "d", "path": fixture.path("secret-file"), "content": "Y2FuYXJ5", "encoding": "base64", "format": "file"});
    fixture.simulator.world(|world| {
        world.taskcluster.credentials_life = Duration::from_secs(31);
        let secret = json!({"config": {"key": "canary-value"}, "files": [file]});
        world.taskcluster.put_secret(format!("worker-pool:{pool}"), secret);
    });
    let what = format!("{} {case:?}", kind.name());
    if let Some((matches, fault)) = case {
        // Twice: retried at first, then in the way of what follows.
        fixture.simulator.fault(matches, 2, fault);
    }
    fixture.machine.script =
        json!(["hello", {"describe": fixture.path("description.json")}, {"sleep": 1200}, {"exit": 70}]);
    let mut command = fixture.machine.command().unwrap();
    command.args(["--log-level", "trace"]);
    let finished = crate::support::Running::spawn(&mut command).finish();
    assert_no_canary(&fixture, &finished, &what);
}

#[cfg(unix)]
#[test]
fn a_loose_runner_config_is_tightened_with_a_warning_and_boots() {
    let fixture = Fixture::new(CloudKind::Static);
    let mut command = fixture.machine.command().unwrap();
    fs::set_permissions(fixture.machine.runner_config(), fs::Permissions::from_mode(0o644)).unwrap();
    let finished = crate::support::Running::spawn(&mut command).finish();
    finished.assert_code(0).assert_logged("it is 0600 now");
    let mode = fs::metadata(fixture.machine.runner_config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mode = fs::metadata(fixture.machine.worker_config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn metadata_is_never_asked_through_a_proxy_and_taskcluster_is() {
    let fixture = Fixture::new(CloudKind::Aws);
    let mut command = fixture.machine.command().unwrap();
    // Nobody listens there.
    command.env("http_proxy", "http://127.0.0.1:1").env_remove("no_proxy").env_remove("NO_PROXY");
    let mut running = crate::support::Running::spawn(&mut command);
    running.wait_for("registerWorker failed (no connection");
    assert!(fixture.simulator.count("/latest/user-data") > 0 && fixture.simulator.count("/worker/register") == 0);
    running.signal(Signal::SIGKILL);
    running.finish();

    let fixture = Fixture::new(CloudKind::Aws);
    let mut command = fixture.machine.command().unwrap();
    command.env("http_proxy", "http://127.0.0.1:1").env("NO_PROXY", "127.0.0.1");
    crate::support::Running::spawn(&mut command).finish().assert_code(0);
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    files_below(&root).into_iter().filter(rust).map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The part of a source that is not its tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

#[test]
fn secrets_leave_their_type_in_known_places_only() {
    let mut places = Vec::new();
    for folder in ["src", "crates/taskcluster-api/src", "crates/worker-protocol/src"] {
        for (path, text) in sources(folder) {
            let count = production(&text).matches("expose_secret").count();
            if count > 0 {
                places.push((path.file_name().unwrap().to_str().unwrap().to_owned(), count));
            }
        }
    }
    places.sort();
    let expected = [
        ("cache.rs", 3),          // written to the private cache
        ("client.rs", 4),         // hidden in what a service quotes
        ("credentials.rs", 8),    // credentials as JSON; their certificate; the codes of temporary ones
        ("docker_worker.rs", 2),  // the worker's own configuration
        ("enroll.rs", 3),         // the secret in a config that was enrolled before, told to worker-manager again
        ("generic_worker.rs", 2), // the worker's own configuration
        ("message.rs", 2),        // told to the worker
        ("registration.rs", 1),   // proofs, sent to worker-manager
        ("report.rs", 6),         // taken out of what becomes public
        ("runner_config.rs", 3),  // a machine's secret, written into its private config
        ("sign.rs", 2),           // signing
    ];
    assert_eq!(places, expected.map(|(file, count)| (file.to_owned(), count)));
}

#[test]
fn the_environment_is_read_in_one_place_and_nothing_is_static() {
    let all = ["src", "crates/taskcluster-api/src", "crates/worker-protocol/src"].map(sources);
    for (path, text) in all.into_iter().flatten() {
        let text = production(&text);
        let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string().replace('\\', "/");
        if !name.starts_with("src/platform/") && name != "crates/taskcluster-api/src/environment.rs" {
            assert!(!text.contains("env::var"), "{name} reads the environment");
        }
        for line in text.lines() {
            let line = line.trim_start();
            assert!(!line.starts_with("static ") && !line.starts_with("pub static "), "{name}: {line}");
            assert!(!line.contains("todo!") && !line.contains("unimplemented!"), "{name}: {line}");
        }
    }
}

#[test]
fn what_decides_is_pure() {
    let supervise = ["supervisor.rs", "stop.rs", "notices.rs"].map(|file| format!("src/supervise/{file}"));
    let others = ["src/layer.rs", "src/outcome.rs"].map(str::to_owned);
    for file in supervise.into_iter().chain(others) {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
        for word in ["tokio::", "std::fs", "Timestamp::now", "SystemTime::now", "Instant::now", "tracing::"] {
            assert!(!production(&text).contains(word), "{file} uses {word}");
        }
    }
}

#[test]
fn there_is_one_select_over_the_run() {
    let count: usize = sources("src/supervise")
        .iter()
        .filter(|(path, _)| !path.components().any(|part| part.as_os_str() == "signals"))
        .map(|(_, text)| production(text).matches("select!").count())
        .sum();
    assert_eq!(count, 2, "the loop, and the end of the run");
}

#[cfg(windows)]
skip! {
    "modes are Unix' own; access lists are looked at in windows.rs": a_loose_runner_config_is_tightened_with_a_warning_and_boots;
}
