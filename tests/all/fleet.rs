//! The commands for people who look after fleets, on a simulated deployment.

use crate::support::{PATIENCE, Running, simulated_worker, start_worker};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use simulator::taskcluster::{OPERATOR, WorkerRow};
use simulator::{CloudKind, Fault, Setup, Simulator};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use taskcluster_api::worker_manager::Quarantine;
use taskcluster_api::{WorkerName, WorkerState};
use tempfile::TempDir;

const POOL: &str = "proj-simulated/ci";

/// A deployment, and an operator's folder.
struct Office {
    simulator: Simulator,
    folder: TempDir,
}

impl Office {
    fn new() -> Self {
        let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO }).unwrap();
        Self { simulator, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Everything in the folder, hidden or not.
    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(start_worker());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("TASKCLUSTER_ROOT_URL", self.simulator.url())
            .env("TASKCLUSTER_CLIENT_ID", OPERATOR.0)
            .env("TASKCLUSTER_ACCESS_TOKEN", OPERATOR.1)
            .env_remove("TASKCLUSTER_CERTIFICATE")
            .env_remove("TASKCLUSTER_PROXY_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(&self.command(arguments).output().unwrap())
    }

    fn enroll(&self, more: &[&str]) -> Done {
        let mut arguments = vec!["enroll", "--pool", POOL, "--group", "rack-1", "--id", "m-1"];
        arguments.extend(more);
        self.run(&arguments)
    }

    /// The secret that worker-manager knows the worker by.
    fn secret(&self) -> Option<String> {
        self.simulator.world(|world| world.taskcluster.workers.get(&worker("m-1"))?.static_secret.clone())
    }
}

struct Done {
    code: Option<i32>,
    output: String,
    errors: String,
}

impl Done {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), output: text(&output.stdout), errors: text(&output.stderr) }
    }

    #[track_caller]
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.errors);
        self.output
    }

    #[track_caller]
    fn failed(self, words: &str) {
        self.failed_with(22, words);
    }

    #[track_caller]
    fn failed_with(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}{}", self.output, self.errors);
        assert!(self.errors.contains(words) && self.errors.contains("hint: "), "{words:?} is not in {}", self.errors);
    }
}

fn worker(id: &str) -> WorkerName {
    WorkerName {
        worker_pool_id: POOL.parse().unwrap(),
        worker_group: "rack-1".parse().unwrap(),
        worker_id: id.parse().unwrap(),
    }
}

#[test]
fn a_machine_is_enrolled_boots_is_seen_and_is_gone() {
    let office = Office::new();
    let program = simulated_worker();
    let own = office.path("worker.json");
    let paths = ["--worker-path", program.to_str().unwrap(), "--worker-config-path", own.to_str().unwrap()];
    let said = office.enroll(&paths).well();
    assert!(said.contains("is enrolled; its runner config is m-1.yml") && said.contains("start-worker check m-1.yml"));
    assert_eq!(office.files(), ["m-1.yml"]);
    #[cfg(unix)]
    {
        #[cfg(unix)]
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(office.path("m-1.yml")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let row = office.simulator.world(|world| world.taskcluster.workers[&worker("m-1")].worker.clone());
    let days = row.expires.duration_since(Timestamp::now()).as_hours() / 24;
    assert!((364..=366).contains(&days), "{days} days");

    let checked = office.run(&["check", "m-1.yml"]);
    assert!(checked.code == Some(0) && checked.errors.contains("ok"), "{}", checked.errors);
    let script = json!(["hello", {"message": {
        "type": "error-report", "kind": "disk-full", "title": "no room", "description": "not a byte", "extra": {}
    }}, {"exit": 0}]);
    let mut boot = office.command(&["m-1.yml"]);
    boot.env(simulator::worker::SCRIPT, script.to_string());
    Running::spawn(&mut boot).finish().assert_code(0).assert_logged("registered with");

    let workers: Value = serde_json::from_str(&office.run(&["workers", "--pool", POOL, "--json"]).well()).unwrap();
    let found = workers.as_array().unwrap().iter().find(|found| found["workerId"] == "m-1").unwrap();
    assert_eq!((&found["state"], &found["capacity"]), (&json!("running"), &json!(1)));
    assert!(found["lastDateActive"].is_string() && found["quarantineUntil"].is_null());
    let errors = office.run(&["errors", "--pool", POOL, "--since", "1h"]).well();
    assert!(errors.contains("no room, newest on rack-1/m-1:\n  not a byte\n"), "{errors}");

    let gone = office.run(&["unenroll", "--config", "m-1.yml", "--delete"]).well();
    assert!(gone.contains("is unenrolled") && gone.contains("Deleted m-1.yml"), "{gone}");
    assert!(!office.files().contains(&"m-1.yml".to_owned()));
    let workers = office.run(&["workers", "--pool", POOL]).well();
    assert!(!workers.contains("m-1\t"), "{workers}");
    assert!(office.simulator.world(|world| world.taskcluster.violations.is_empty()));
    // Its name is free.
    office.enroll(&[]).well();
}

#[test]
fn enrolling_again_says_so_and_rotation_keeps_what_was_edited() {
    let office = Office::new();
    office.enroll(&[]).well();
    let (first, config) = (office.secret().unwrap(), office.read("m-1.yml"));
    assert!(office.enroll(&[]).well().contains("is enrolled already"));
    assert_eq!((office.secret().unwrap(), office.read("m-1.yml")), (first.clone(), config.clone()));

    let edited = config.replace("workerConfig: {}", "workerConfig:\n  mine: 1 # kept");
    fs::write(office.path("m-1.yml"), &edited).unwrap();
    let expires = office.simulator.world(|world| world.taskcluster.workers[&worker("m-1")].worker.expires);
    assert!(office.enroll(&["--rotate"]).well().contains("has a new secret"));
    let second = office.secret().unwrap();
    assert_ne!(second, first);
    assert_eq!(office.read("m-1.yml"), edited.replace(&first, &second));
    assert_eq!(office.simulator.world(|world| world.taskcluster.workers[&worker("m-1")].worker.expires), expires);
    assert_eq!(office.files(), ["m-1.yml"]);
}

#[test]
fn a_worker_that_was_forgotten_is_known_again_by_the_same_secret() {
    let office = Office::new();
    office.enroll(&[]).well();
    let (secret, config) = (office.secret(), office.read("m-1.yml"));
    office.simulator.world(|world| world.taskcluster.workers.remove(&worker("m-1")));
    assert!(office.enroll(&[]).well().contains("enrolled again"));
    assert_eq!((office.secret(), office.read("m-1.yml")), (secret, config));
}

#[test]
fn what_cannot_be_enrolled_leaves_nothing_behind() {
    let office = Office::new();
    office.run(&["enroll", "--pool", POOL]).failed_with(3, "--pool, --group and --id are needed");
    office.run(&["enroll", "--pool", "proj-x/none", "--group", "g", "--id", "i"]).failed("does not exist");
    office.enroll(&["--rotate"]).failed("worker-manager does not know it");
    office.enroll(&["--expires=-1d"]).failed_with(3, "must be ten minutes ahead at least");
    for (option, words) in [
        ("--expires=0d", "must be ten minutes ahead"),
        ("--config=folder/", "is no file's name"),
        ("--config=.x.yml.enrolling", "a name that start-worker uses itself"),
        ("--worker-path=bin/worker", "must be an absolute path"),
    ] {
        office.enroll(&[option]).failed_with(3, words);
        assert!(office.files().is_empty(), "{option}");
    }
    office.enroll(&["--config", "nowhere/m-1.yml"]).failed("there is no folder nowhere");
    office.enroll(&["--implementation", "dummy", "--worker-path", "/x"]).failed_with(3, "dummy has no worker");
    let deny = |scope: &str| office.simulator.world(|world| world.taskcluster.denied_scopes = vec![scope.to_owned()]);
    deny("worker-manager:create-worker:*");
    office.enroll(&[]).failed("lacks the scope worker-manager:create-worker:proj-simulated/ci/rack-1/m-1");
    deny("nothing");
    assert!(office.files().is_empty(), "{:?}", office.files());

    // A name that is taken: by a worker that is gone, or by one whose secret is elsewhere.
    office.enroll(&[]).well();
    fs::remove_file(office.path("m-1.yml")).unwrap();
    office.enroll(&[]).failed("its secret is not in m-1.yml");
    let stop = |state: WorkerState| {
        office.simulator.world(|world| world.taskcluster.workers.get_mut(&worker("m-1")).unwrap().worker.state = state);
    };
    stop(WorkerState::Stopped);
    let until = office.simulator.world(|world| world.taskcluster.workers[&worker("m-1")].worker.expires);
    office
        .enroll(&[])
        .failed(&format!("a removed worker has this name until its row is deleted, soon after {until:.0}"));
    stop(WorkerState::Running);
    // A file that is something else is not touched.
    for content in ["just: text\n", "provider: {providerType: aws}\nworker: {implementation: dummy}\n"] {
        fs::write(office.path("m-1.yml"), content).unwrap();
        office.enroll(&["--rotate"]).failed("m-1.yml");
        assert_eq!(office.read("m-1.yml"), content);
    }
    assert_eq!(office.files(), ["m-1.yml"]);

    // Unenrolled, and not swept away yet.
    office.simulator.world(|world| world.taskcluster.sweeps = false);
    fs::remove_file(office.path("m-1.yml")).unwrap();
    office.run(&["unenroll", "--pool", POOL, "--group", "rack-1", "--id", "m-1"]).well();
    office.enroll(&[]).failed("until worker-manager has swept its row away");
    assert!(office.files().is_empty());

    let cloud = Simulator::start(&Setup { kind: CloudKind::Google, latency: Duration::ZERO }).unwrap();
    let office = Office { simulator: cloud, folder: tempfile::tempdir().unwrap() };
    office.enroll(&[]).failed("only a static pool's workers are enrolled");
    assert!(office.files().is_empty());
}

/// Killed before worker-manager's answer: the config is there, hidden, and the same command completes it.
#[test]
fn an_enrollment_that_is_interrupted_is_completed() {
    for was_done in [true, false] {
        let office = Office::new();
        let fault = if was_done { Fault::SlowBody(PATIENCE) } else { Fault::Delay(PATIENCE) };
        office.simulator.fault("PUT /api/worker-manager", 1, fault);
        let mut child =
            office.command(&["enroll", "--pool", POOL, "--group", "rack-1", "--id", "m-1"]).spawn().unwrap();
        assert!(office.simulator.wait_for("PUT /api/worker-manager", 1, PATIENCE));
        while was_done && office.secret().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(office.files(), [".m-1.yml.enrolling"]);
        assert!(office.enroll(&[]).well().contains("an enrollment that was interrupted is complete now"));
        assert_eq!(office.files(), ["m-1.yml"]);
        assert!(office.read("m-1.yml").contains(&office.secret().unwrap()));
    }
}

/// The same of a rotation: whichever secret worker-manager has is the one in the config afterwards.
#[test]
fn a_rotation_that_is_interrupted_is_completed() {
    for was_done in [true, false] {
        let office = Office::new();
        office.enroll(&[]).well();
        let first = office.secret();
        let fault = if was_done { Fault::SlowBody(PATIENCE) } else { Fault::Delay(PATIENCE) };
        office.simulator.fault("POST /api/worker-manager", 1, fault);
        let rotate = ["enroll", "--pool", POOL, "--group", "rack-1", "--id", "m-1", "--rotate"];
        let mut child = office.command(&rotate).spawn().unwrap();
        assert!(office.simulator.wait_for("POST /api/worker-manager", 1, PATIENCE));
        while was_done && office.secret() == first {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(office.files(), [".m-1.yml.enrolling", "m-1.yml"]);
        let new = office.read(".m-1.yml.enrolling");
        if was_done {
            office.enroll(&[]).well();
        } else {
            // It may still arrive: nothing is given up, and the same secret is sent again.
            office.enroll(&[]).failed("a rotation was interrupted, and its new secret waits in .m-1.yml.enrolling");
            assert_eq!((office.secret(), office.read(".m-1.yml.enrolling")), (first.clone(), new.clone()));
            office.enroll(&["--rotate"]).well();
        }
        assert_eq!(office.files(), ["m-1.yml"]);
        assert_eq!(office.read("m-1.yml"), new);
        assert!(new.contains(&office.secret().unwrap()));
    }
}

/// A rotation that was interrupted is settled before another one begins, whatever becomes of that.
#[test]
fn a_second_rotation_never_loses_the_secret_of_the_first() {
    for refused in [true, false] {
        let office = Office::new();
        office.enroll(&[]).well();
        let first = office.secret();
        office.simulator.fault("POST /api/worker-manager", 1, Fault::SlowBody(PATIENCE));
        let rotate = ["enroll", "--pool", POOL, "--group", "rack-1", "--id", "m-1", "--rotate"];
        let mut child = office.command(&rotate).spawn().unwrap();
        assert!(office.simulator.wait_for("POST /api/worker-manager", 1, PATIENCE));
        while office.secret() == first {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let second = office.secret();
        if refused {
            let scope = "worker-manager:update-worker:*".to_owned();
            office.simulator.world(|world| world.taskcluster.denied_scopes.push(scope));
            office.run(&rotate).failed("InsufficientScopes");
        } else {
            office.run(&rotate).well();
        }
        assert_eq!(office.secret() == second, refused);
        assert!(office.read("m-1.yml").contains(&office.secret().unwrap()));
        assert_eq!(office.files(), ["m-1.yml"]);
    }
}

/// No answer to any try: the config waits, and the words say so.
#[test]
fn what_is_not_known_is_said_and_settled_by_the_same_command() {
    let office = Office::new();
    office.simulator.fault("PUT /api/worker-manager", usize::MAX, Fault::LoseAnswer);
    office
        .enroll(&[])
        .failed("it is not known whether worker-manager took it; its config is kept in .m-1.yml.enrolling");
    assert_eq!(office.files(), [".m-1.yml.enrolling"]);
    // Whoever may not ask loses nothing.
    office.simulator.world(|world| {
        world.rules.clear();
        world.taskcluster.denied_scopes.push("worker-manager:create-worker:*".to_owned());
    });
    office.enroll(&[]).failed("its config is kept in");
    assert_eq!(office.files(), [".m-1.yml.enrolling"]);
    office.simulator.world(|world| world.taskcluster.denied_scopes.clear());
    office.enroll(&[]).well();
    assert!(office.read("m-1.yml").contains(&office.secret().unwrap()));
}

#[test]
fn a_worker_is_unenrolled_in_two_steps_that_can_be_repeated_and_its_files_go_with_it() {
    let office = Office::new();
    let (program, own) = (simulated_worker(), office.path("worker.json"));
    let paths = ["--worker-path", program.to_str().unwrap(), "--worker-config-path", own.to_str().unwrap()];
    office.enroll(&paths).well();
    let config = office.read("m-1.yml").replace("# cacheOverRestarts: /var/lib/start-worker/", "cacheOverRestarts: ");
    fs::write(office.path("m-1.yml"), &config).unwrap();
    // Its own run, and something that only lies where a tombstone would.
    Running::spawn(&mut office.command(&["m-1.yml"])).finish().assert_code(0);
    fs::write(office.path("start-worker-retiring.json"), "{}").unwrap();
    fs::copy(office.path("m-1.yml"), office.path(".m-1.yml.enrolling")).unwrap();
    assert!(office.path("run.json").is_file());
    let unenroll = ["unenroll", "--config", "m-1.yml", "--delete"];
    office.simulator.world(|world| {
        world.taskcluster.denied_scopes.push("worker-manager:update-worker:*".to_owned());
    });
    // What can't be changed, such as a cloud's machine, is not ended either.
    office.run(&unenroll).failed("update-worker");
    assert_eq!(office.simulator.world(|world| world.taskcluster.removals), 0);
    office.simulator.world(|world| {
        world.taskcluster.denied_scopes = vec!["worker-manager:remove-worker:*".to_owned()];
    });
    office.run(&unenroll).failed("its secret opens nothing any more, but it is not removed yet");
    assert!(office.path("m-1.yml").is_file() && office.path("run.json").is_file(), "nothing is deleted yet");
    office.simulator.world(|world| world.taskcluster.denied_scopes.clear());
    let said = office.run(&unenroll).well();
    assert!(said.contains("Deleted run.json.") && said.contains("Deleted m-1.yml."), "{said}");
    assert_eq!(office.files(), ["start-worker-retiring.json", "worker.json"]);
    let row =
        office.simulator.world(|world| world.taskcluster.workers.get(&worker("m-1")).map(|row| row.worker.expires));
    assert!(row.is_none_or(|ended| ended < Timestamp::now()), "{row:?}");
    // A config of another deployment names nobody here.
    office.enroll(&[]).well();
    let elsewhere = office.read("m-1.yml").replace(&office.simulator.url(), "https://tc.example.com");
    fs::write(office.path("m-1.yml"), elsewhere).unwrap();
    office.run(&unenroll).failed("https://tc.example.com");
    office.run(&["unenroll", "--pool", POOL]).failed_with(3, "or --config alone");
}

/// A balancer that finds no service says 404, too.
#[test]
fn only_worker_manager_says_that_it_does_not_know_a_worker() {
    let office = Office::new();
    office.enroll(&[]).well();
    office.simulator.fault("/api/worker-manager", usize::MAX, Fault::status(404));
    office.run(&["unenroll", "--config", "m-1.yml", "--delete"]).failed("answered 404");
    office.enroll(&["--rotate"]).failed("answered 404");
    assert_eq!(office.files(), ["m-1.yml"]);
    // Nor does anything in between say that a call was not done: it may have been.
    office.simulator.world(|world| world.rules.clear());
    office.simulator.fault("POST /api/worker-manager", 1, Fault::status(408));
    office.enroll(&["--rotate"]).failed("it is not known whether worker-manager took it");
    assert_eq!(office.files(), [".m-1.yml.enrolling", "m-1.yml"]);
}

#[test]
fn several_that_enroll_at_once_take_turns() {
    let office = Office::new();
    let rows: Vec<String> = (0..40).map(|number| format!("m-{number}")).collect();
    fs::write(office.path("fleet.csv"), format!("id\n{}\n", rows.join("\n"))).unwrap();
    let list = ["enroll", "--pool", POOL, "--group", "rack-1", "--many", "fleet.csv", "--config", "configs"];
    let children: Vec<_> = (0..4).map(|_| office.command(&list).spawn().unwrap()).collect();
    let done: Vec<Done> = children.into_iter().map(|child| Done::of(&child.wait_with_output().unwrap())).collect();
    let all: String = done.into_iter().map(Done::well).collect();
    assert_eq!(all.lines().filter(|line| line.starts_with("enrolled\t")).count(), 40, "{all}");
    assert_eq!(all.lines().filter(|line| line.starts_with("already enrolled\t")).count(), 120);
    office.simulator.world(|world| {
        for (name, row) in world.taskcluster.workers.iter().filter(|(name, _)| name.worker_id.as_str() != "machine-1") {
            let config = office.read(&format!("configs/rack-1-{}.yml", name.worker_id));
            assert!(config.contains(row.static_secret.as_ref().unwrap()), "{name}");
        }
    });
    assert_eq!(fs::read_dir(office.path("configs")).unwrap().count(), 40);
}

#[test]
fn an_end_or_a_capacity_is_changed_without_a_new_secret() {
    let office = Office::new();
    office.enroll(&[]).well();
    let (secret, config) = (office.secret(), office.read("m-1.yml"));
    let again = office.enroll(&["--expires", "2y", "--capacity", "4"]).well();
    assert!(again.contains("Nothing was changed: --update would give it another end and capacity"), "{again}");
    assert!(office.enroll(&["--update", "--expires", "2y", "--capacity", "4"]).well().contains("are as you say now"));
    let row = office.simulator.world(|world| world.taskcluster.workers[&worker("m-1")].worker.clone());
    assert_eq!(u64::from(row.capacity), 4);
    assert!(row.expires.duration_since(Timestamp::now()).as_hours() / 24 > 700);
    assert_eq!((office.secret(), office.read("m-1.yml")), (secret, config));
    // Not where the config is an old one: that would take the machine's secret away.
    office.simulator.world(|world| {
        world.taskcluster.workers.get_mut(&worker("m-1")).unwrap().static_secret = Some("another".to_owned());
    });
    office.enroll(&["--update"]).failed("its secret is not in m-1.yml");
}

/// A secret that can't be replaced safely is left alone; so is what another machine's enrollment left.
#[test]
fn what_is_not_understood_is_left_alone() {
    let office = Office::new();
    office.enroll(&[]).well();
    let (secret, config) = (office.secret().unwrap(), office.read("m-1.yml"));
    // Two letters of it: the code of a digit ends with that digit, and the secret would stand there after all.
    let [first, second] = [secret.as_bytes()[0], secret.as_bytes()[1]];
    let escaped = format!("\"\\x{first:02x}\\x{second:02x}{}\" # {secret}", &secret[2..]);
    let unusual = config.replace(&format!("\"{secret}\""), &escaped);
    fs::write(office.path("m-1.yml"), &unusual).unwrap();
    office.enroll(&["--rotate"]).failed("spelled in an unusual way");
    assert_eq!((office.secret().unwrap(), office.read("m-1.yml")), (secret, unusual));
    assert_eq!(office.files(), ["m-1.yml"]);

    fs::write(office.path(".shared.yml.enrolling"), &config).unwrap();
    let other = ["enroll", "--pool", POOL, "--group", "rack-1", "--id", "m-2", "--config", "shared.yml"];
    office.run(&other).failed(".shared.yml.enrolling");
    assert_eq!(office.read(".shared.yml.enrolling"), config);
    // A row of a provider that the pool had before.
    let of_provider = |id: &str| {
        office.simulator.world(|world| {
            let row = world.taskcluster.workers.get_mut(&worker("m-1")).unwrap();
            row.worker.provider_id = id.parse().unwrap();
        });
    };
    of_provider("static-2");
    office.enroll(&[]).failed("as one of the provider static-2, and the pool's is static now");
    of_provider("static");
    // A refusal that says nothing of the name doesn't settle whose the secret is.
    office.simulator.fault("PUT /api/worker-manager", 1, Fault::error(400, "InputValidationError", "something else"));
    fs::write(office.path(".m-1.yml.enrolling"), &config).unwrap();
    office.enroll(&[]).failed("its config is kept in .m-1.yml.enrolling");
    assert_eq!(office.read(".m-1.yml.enrolling"), config);
}

#[test]
fn every_implementation_has_a_config_without_mistakes() {
    for (implementation, paths) in [("generic-worker", true), ("docker-worker", true), ("dummy", false)] {
        let office = Office::new();
        let folder = office.path("my 'docker' worker");
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::copy(simulated_worker(), folder.join("bin").join("docker-worker")).unwrap();
        let program = if implementation == "docker-worker" { folder } else { simulated_worker() };
        let own = office.path("own.json");
        let mut arguments = vec!["--implementation", implementation, "--capacity", "3"];
        if paths {
            arguments.extend(["--worker-path", program.to_str().unwrap()]);
            arguments.extend(["--worker-config-path", own.to_str().unwrap()]);
        }
        office.enroll(&arguments).well();
        let checked = office.run(&["check", "m-1.yml"]);
        assert_eq!(checked.code, Some(0), "{implementation}: {}", checked.errors);
        let capacity = office.simulator.world(|world| world.taskcluster.workers[&worker("m-1")].worker.capacity);
        assert_eq!(u64::from(capacity), 3);
        // Without the paths it has the usual ones, and says where they are.
        office.enroll(&["--config", "usual.yml", "--implementation", implementation, "--rotate"]).well();
        let usual = office.run(&["check", "usual.yml"]);
        let mistakes = usual.errors.lines().filter(|line| line.contains("error:") && !line.contains("worker."));
        assert_eq!(mistakes.count(), 0, "{}", usual.errors);
    }
}

/// Within a task the proxy is called, and the machine is told the deployment's own URL.
#[test]
fn a_proxy_is_no_deployment() {
    let office = Office::new();
    office.simulator.world(|world| world.taskcluster.anonymous_scopes.push("*".to_owned()));
    let proxied = |root: Option<&str>| {
        let mut command = office.command(&["enroll", "--pool", POOL, "--group", "rack-1", "--id", "m-1"]);
        command.env("TASKCLUSTER_PROXY_URL", office.simulator.url());
        for name in ["TASKCLUSTER_ROOT_URL", "TASKCLUSTER_CLIENT_ID", "TASKCLUSTER_ACCESS_TOKEN"] {
            command.env_remove(name);
        }
        command.envs(root.map(|root| ("TASKCLUSTER_ROOT_URL", root)));
        Done::of(&command.output().unwrap())
    };
    proxied(None).failed("TASKCLUSTER_ROOT_URL is not");
    proxied(Some("https://tc.example.com")).well();
    assert!(office.read("m-1.yml").contains("rootURL: \"https://tc.example.com\""));
}

/// What people see: aligned columns, a count, and a screen that is drawn anew.
#[cfg(unix)]
#[test]
fn a_terminal_gets_tables() {
    use std::io::Read;
    let office = Office::new();
    office.enroll(&[]).well();
    let on_terminal = |arguments: &[&str], wanted: &str| {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let mut command = office.command(arguments);
        command.stdout(terminal.slave.try_clone().unwrap()).stderr(terminal.slave);
        let mut child = command.spawn().unwrap();
        drop(command);
        let (mut master, mut seen) = (fs::File::from(terminal.master), Vec::new());
        let mut buffer = [0; 4096];
        // A terminal that nobody has open any more is an error, and the end.
        while let Ok(read @ 1..) = master.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..read]);
            if crate::support::contains(&seen, wanted.as_bytes()) {
                break;
            }
        }
        let _ = child.kill();
        child.wait().unwrap();
        String::from_utf8_lossy(&seen).into_owned()
    };
    let workers = on_terminal(&["workers", "--pool", POOL], "2 workers: 2 running");
    assert!(workers.contains("GROUP   ID         STATE    CAPACITY"), "{workers}");
    assert!(workers.contains("rack-1  machine-1  running  1"), "{workers}");
    let watched = on_terminal(&["workers", "--pool", POOL, "--watch", "1"], "2 running\r\n");
    assert!(watched.contains("\u{1b}[2J\u{1b}[H"), "{watched}");
    fs::write(office.path("fleet.csv"), "id\na\nb\n").unwrap();
    let many = on_terminal(&["enroll", "--pool", POOL, "--group", "rack-2", "--many", "fleet.csv"], "nothing");
    assert!(many.contains("of 2") && many.contains("enrolled              proj-simulated/ci rack-2/a"), "{many}");
    assert!(on_terminal(&["errors", "--pool", POOL], "no errors").contains("no errors"));
}

#[test]
fn hundreds_are_enrolled_at_once_and_the_rest_after_an_interruption() {
    let office = Office::new();
    let rows: Vec<String> = (0..200).map(|number| format!("rack-{},m-{number}", number % 7)).collect();
    fs::write(office.path("fleet.csv"), format!("group,id\n# a comment\n{}\n", rows.join("\n"))).unwrap();
    let arguments = ["enroll", "--pool", POOL, "--many", "fleet.csv", "--config", "configs", "--expires", "90d"];
    let mut child = office.command(&arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..20 {
        assert!(lines.next().unwrap().unwrap().starts_with("enrolled\t"));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let said = office.run(&arguments).well();
    assert_eq!(said.lines().count(), 200);
    assert!(said.lines().filter(|line| line.starts_with("already enrolled\t")).count() >= 20);
    let known = office.simulator.world(|world| world.taskcluster.workers.clone());
    assert_eq!(known.len(), 201, "and the machine that was there");
    for (name, row) in known.iter().filter(|(name, _)| name.worker_id.as_str() != "machine-1") {
        let config = office.read(&format!("configs/{}-{}.yml", name.worker_group, name.worker_id));
        assert!(config.contains(row.static_secret.as_ref().unwrap()));
        let days = row.worker.expires.duration_since(Timestamp::now()).as_hours() / 24;
        assert!((89..=90).contains(&days), "{days} days");
    }
    assert_eq!(fs::read_dir(office.path("configs")).unwrap().count(), 200, "nothing is left beside the configs");

    // One that fails is named, and stops nobody.
    office.simulator.world(|world| {
        let refused = "worker-manager:create-worker:proj-simulated/ci/rack-9/bad";
        world.taskcluster.denied_scopes.push(refused.to_owned());
    });
    fs::write(office.path("more.csv"), "id,group,capacity\nbad,rack-9,\ngood,rack-9,4\n").unwrap();
    let more = ["enroll", "--pool", POOL, "--many", "more.csv", "--json"];
    let done = office.run(&more);
    let results: Vec<Value> = done.output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let result = |id: &str| results.iter().find(|result| result["workerId"] == id).unwrap();
    assert_eq!((&result("bad")["result"], &result("good")["result"]), (&json!("failed"), &json!("enrolled")));
    assert!(result("bad")["error"].as_str().unwrap().contains("InsufficientScopes"));
    done.failed("1 of 2 failed");
    // A line each, whatever a service says.
    office.simulator.fault("PUT ", 1, Fault::error(400, "InputError", "two\nlines\u{1b}[31m"));
    let said = office.run(&more[..5]).output;
    assert!(said.lines().count() == 2 && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_list_with_mistakes_is_refused_whole_with_all_of_them() {
    let office = Office::new();
    let list = "group,id,expires,capacity\nrack 1,a,,\n,b,,\nrack-1,c,soon,\nrack-1,d,,0\nrack-1,e,,\nrack-1,e,,\n";
    fs::write(office.path("fleet.csv"), list).unwrap();
    let done = office.run(&["enroll", "--pool", POOL, "--many", "fleet.csv"]);
    for words in ["line 2: group: ", "line 3: group is missing", "line 4: expires: ", "line 5: capacity: ", "line 7: "]
    {
        assert!(done.errors.contains(words), "{words:?} is not in {}", done.errors);
    }
    done.failed("nothing was changed");
    for list in
        ["id,config\na,../a.yml\n", "id,config\na,./a.yml\n", "id,config\na,/a.yml\n", "id,config\na,\"a\tb\"\n"]
    {
        fs::write(office.path("fleet.csv"), list).unwrap();
        office.run(&["enroll", "--pool", POOL, "--group", "g", "--many", "fleet.csv"]).failed("is no file's name");
    }
    fs::write(office.path("fleet.csv"), "id,config\na,one.yml\nb,One.yml\n").unwrap();
    office.run(&["enroll", "--pool", POOL, "--group", "g", "--many", "fleet.csv"]).failed("two workers would have");
    let many: String = (0..200).map(|_| "rack 1,a\n").collect();
    fs::write(office.path("fleet.csv"), format!("group,id\n{many}")).unwrap();
    office.run(&["enroll", "--pool", POOL, "--many", "fleet.csv"]).failed("and perhaps more: only 50 rows were read");
    for (list, words) in [
        ("id,id\nx,y\n", "is there twice"),
        ("name\nx\n", "no column \"name\""),
        ("group\nx\n", "the column id"),
        ("id\n", "no worker"),
    ] {
        fs::write(office.path("fleet.csv"), list).unwrap();
        office.run(&["enroll", "--pool", POOL, "--many", "fleet.csv"]).failed(words);
    }
    assert_eq!(office.files(), ["fleet.csv"]);
    assert_eq!(office.simulator.world(|world| world.taskcluster.workers.len()), 1);
}

#[test]
fn workers_are_shown_with_what_the_queue_knows_of_them() {
    let office = Office::new();
    let now = Timestamp::now();
    let ago = |hours| now.saturating_sub(SignedDuration::from_hours(hours)).unwrap();
    office.simulator.world(|world| {
        let workers = &mut world.taskcluster.workers;
        let mut row: WorkerRow = workers.values().next().unwrap().clone();
        row.worker.worker_id = "old".parse().unwrap();
        row.worker.created = ago(50);
        row.last_active = Some(ago(3));
        row.quarantine.push(Quarantine {
            client_id: "me".to_owned(),
            updated_at: now,
            quarantine_until: now.saturating_add(SignedDuration::from_hours(5)).unwrap(),
            quarantine_info: "noisy".to_owned(),
        });
        workers.insert(worker("old"), row.clone());
        row.worker.worker_id = "gone".parse().unwrap();
        row.worker.state = WorkerState::Stopped;
        workers.insert(worker("gone"), row.clone());
        // Of a kind that nobody knew when this was written.
        row.worker.worker_id = "odd".parse().unwrap();
        row.worker.state = WorkerState::Other("hibernating".to_owned());
        workers.insert(worker("odd"), row);
    });
    let text = office.run(&["workers", "--pool", POOL]).well();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0], ["GROUP", "ID", "STATE", "CAPACITY", "AGE", "LAST ACTIVE", "QUARANTINE"]);
    let old = rows.iter().find(|row| row[1] == "old").unwrap();
    assert_eq!(old[2..6], ["running", "1", "2d 2h", "3h ago"]);
    assert_ne!(old[6], "-");
    assert!(rows.iter().any(|row| row[1] == "odd" && row[2] == "hibernating"));
    let stopped = office.run(&["workers", "--pool", POOL, "--state", "stopped"]).well();
    assert_eq!(stopped.lines().count(), 2, "{stopped}");
    assert_eq!(office.run(&["workers", "--pool", POOL, "--state", "asleep"]).code, Some(3));

    let mut watch = office.command(&["workers", "--pool", POOL, "--watch", "1", "--json"]).spawn().unwrap();
    let mut looks = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(serde_json::from_str::<Value>(&looks.next().unwrap().unwrap()).unwrap().as_array().unwrap().len(), 4);
    office.simulator.world(|world| world.taskcluster.workers.clear());
    while looks.next().unwrap().unwrap() != "[]" {}
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn errors_are_grouped_bounded_in_time_followed_and_harmless_to_a_terminal() {
    let office = Office::new();
    let now = Timestamp::now();
    let put = |hours: i64, title: &str, description: &str| {
        office.simulator.world(|world| {
            let when = now.saturating_sub(SignedDuration::from_hours(hours)).unwrap();
            world.taskcluster.put_error(&worker("m-1"), when, "boot", title, description);
        });
    };
    put(30, "common", "first");
    put(1, "common", "second\n\u{1b}[2Jthird");
    put(2, "rare", "alone");
    for number in 0..1500 {
        put(100 + number, "ancient", "dust");
    }
    let text = office.run(&["errors", "--pool", POOL]).well();
    assert!(
        text.contains("\ncommon, newest on rack-1/m-1:\n  second\n   [2Jthird\n") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert!(text.starts_with("COUNT\tWORKERS\tLAST\tKIND\tTITLE\n1500\t1\t"), "{text}");
    let of = |since: &str| -> Vec<(String, u64)> {
        let found = office.run(&["errors", "--pool", POOL, "--since", since, "--json"]).well();
        let found: Vec<Value> = serde_json::from_str(&found).unwrap();
        found
            .iter()
            .map(|group| (group["title"].as_str().unwrap().to_owned(), group["count"].as_u64().unwrap()))
            .collect()
    };
    let named =
        |groups: &[(&str, u64)]| groups.iter().map(|(title, count)| ((*title).to_owned(), *count)).collect::<Vec<_>>();
    assert_eq!(of("90m"), named(&[("common", 1)]));
    assert_eq!(of("3 days"), named(&[("common", 2), ("rare", 1)]));

    let follow = ["errors", "--pool", POOL, "--since", "90m", "--follow", "1", "--json"];
    let mut child = office.command(&follow).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["title"], "common");
    put(0, "new", "just now");
    assert_eq!(next()["title"], "new");
    put(0, "newer", "right now");
    assert_eq!(next()["title"], "newer", "each comes once");
    child.kill().unwrap();
    child.wait().unwrap();
    // For people what was there comes grouped, and the rest a line each.
    let mut child = office.command(&["errors", "--pool", POOL, "--since", "90m", "--follow", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("COUNT\t"));
    assert!(lines.any(|line| line.unwrap().contains("newest on rack-1/m-1")));
    put(0, "newest of all", "at last\nand more");
    assert!(lines.any(|line| line.unwrap().ends_with("\track-1/m-1\tboot\tnewest of all\tat last")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn credentials_come_from_a_file_too_and_are_named_where_they_are_wrong() {
    let office = Office::new();
    let ask = |content: &str| {
        fs::write(office.path("creds.yml"), content).unwrap();
        let mut command = office.command(&["workers", "--pool", POOL, "--credentials", "creds.yml"]);
        for name in ["TASKCLUSTER_ROOT_URL", "TASKCLUSTER_CLIENT_ID", "TASKCLUSTER_ACCESS_TOKEN"] {
            command.env_remove(name);
        }
        Done::of(&command.output().unwrap())
    };
    let url = office.simulator.url();
    let good = format!("rootUrl: {url}\nclientId: {}\naccessToken: {}\n", OPERATOR.0, OPERATOR.1);
    ask(&good).well();
    ask(&json!({"rootURL": url, "clientID": OPERATOR.0, "accessToken": OPERATOR.1}).to_string()).well();
    ask("rootUrl: [\n").failed("creds.yml: line");
    ask("rootUrl: x\n").failed("at `rootUrl`");
    ask(&good.replace("clientId", "client")).failed("creds.yml");
    ask(&format!("{good}certificate: canary\n")).failed("no certificate of temporary credentials");
    ask(&good.replace(OPERATOR.1, "canary-wrong")).failed("answered 401");
    let mut missing = office.command(&["workers", "--pool", POOL, "--credentials", "nowhere.yml"]);
    Done::of(&missing.output().unwrap()).failed("nowhere.yml");
    let mut half = office.command(&["workers", "--pool", POOL]);
    Done::of(&half.env_remove("TASKCLUSTER_ACCESS_TOKEN").output().unwrap()).failed("TASKCLUSTER_ACCESS_TOKEN is not");
    let mut none = office.command(&["workers", "--pool", POOL]);
    Done::of(&none.env_remove("TASKCLUSTER_ROOT_URL").output().unwrap()).failed("set TASKCLUSTER_ROOT_URL");
}

/// Not even at the finest log level, whatever goes wrong.
#[test]
fn no_secret_is_printed_or_left_where_others_read() {
    let office = Office::new();
    let trace = ["--log-level", "trace"];
    let mut said = Vec::new();
    let mut note = |done: Done| said.push(done.output + &done.errors);
    note(office.enroll(&trace));
    let first = office.secret().unwrap();
    // A refusal echoes what was sent.
    let deny = |scopes: &[&str]| {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        office.simulator.world(|world| world.taskcluster.denied_scopes = scopes);
    };
    deny(&["worker-manager:update-worker:*"]);
    note(office.enroll(&["--rotate", "--log-level", "trace"]));
    deny(&[]);
    note(office.enroll(&["--rotate", "--log-level", "trace"]));
    note(office.run(&["workers", "--pool", POOL, "--json", "--log-level", "trace"]));
    let second = office.secret().unwrap();
    deny(&["worker-manager:update-worker:*"]);
    note(office.run(&["unenroll", "--config", "m-1.yml", "--log-level", "trace"]));
    let said = said.join("\n");
    assert!(said.matches("lacks the scope worker-manager:update-worker").count() >= 2, "{said}");
    for secret in [first.as_str(), second.as_str(), OPERATOR.1] {
        assert!(!said.contains(secret), "{said}");
    }
    #[cfg(unix)]
    for name in office.files() {
        #[cfg(unix)]
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(office.path(&name)).unwrap().permissions().mode() & 0o077, 0, "{name}");
    }
}

#[cfg(windows)]
skip! {
    "it takes a pseudo terminal": a_terminal_gets_tables;
}
