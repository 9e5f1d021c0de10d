//! Whole lives of machines, with everything going wrong that can: services that drop, delay, garble, refuse and die,
//! clocks that jump, workers that crash, hang and flood, notices, signals, `kill -9` and reboots. What must hold then is
//! in [`Life::assert_sound`]. Each life follows from its seed, which a failure names: `CHAOS_SEED=17 cargo test --test
//! chaos` lives that one again, `CHAOS=2000` lives as many.
#![cfg(unix)]

#[path = "all/support.rs"]
mod support;

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use simulator::{CloudKind, Fault, Rule};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{Finished, Fixture, contains};

/// How many lives are lived where nobody says otherwise.
const LIVES: u64 = 24;

/// How many lives are lived side by side.
const SIDE_BY_SIDE: usize = 4;

/// What a deployment may well refuse here: a second registration, a secret whose successor got lost, credentials that a
/// jump of its clock has ended, a proof that was garbled on its way.
const EXPECTED: [&str; 4] = [
    "is already running",
    "could not generate credentials for this secret",
    "ext.certificate.expiry < now",
    "the proof proves nothing",
];

/// A machine is started this often at most.
const STARTS: usize = 5;

#[test]
fn whatever_happens_no_machine_is_lost() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("CHAOS_SEED") {
        Life::of(seed).live(true);
        return;
    }
    let (lives, first) = (number("CHAOS").unwrap_or(LIVES), fastrand::u64(..1 << 32));
    let next = AtomicU64::new(0);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let live = || {
            let mut failed = Vec::new();
            loop {
                let life = next.fetch_add(1, Ordering::Relaxed);
                if life >= lives {
                    return failed;
                }
                let seed = first + life;
                if catch_unwind(AssertUnwindSafe(|| Life::of(seed).live(false))).is_err() {
                    eprintln!("that was the life of the seed {seed}: CHAOS_SEED={seed} cargo test --test chaos");
                    failed.push(seed);
                }
            }
        };
        let threads: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(live)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{lives} lives from the seed {first} on");
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

/// How one start of the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By itself.
    Itself,
    /// After we told it to, as init and operators do.
    Told,
    /// We killed it.
    Killed,
}

/// A machine, and what happens to it.
struct Life {
    seed: u64,
    random: Rng,
    fixture: Fixture,
    kind: CloudKind,
    /// Whether an answer that carries credentials may get lost: then nobody can go on.
    loses_credentials: bool,
}

impl Life {
    fn of(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let kind = random.choice(CloudKind::ALL).unwrap();
        let mut fixture = if random.bool() { Fixture::with_cache(kind) } else { Fixture::new(kind) };
        let config = &mut fixture.machine.config;
        let quick = json!({
            "stop": {"grace": "400ms", "terminateBefore": "100ms"},
            "interruption": {"poll": "20ms", "slowPoll": "30ms", "askInterval": "50ms", "drainAhead": "1s",
                "abortBefore": "100ms", "rebalance": random.choice(["log", "drain", "stop"]).unwrap()},
            "credentials": {"firstPause": "10ms", "longestPause": "50ms"},
            "protocol": {"helloTimeout": "150ms", "outputGrace": "100ms"},
            "report": {"timeout": "200ms", "workerLogLines": random.usize(..20)},
            "progress": {"timeout": "700ms", "action": random.choice(["warn", "report", "stop"]).unwrap()},
            "restart": {"policy": random.choice(["never", "on-failure", "always"]).unwrap(), "firstPause": "10ms",
                "longestPause": "30ms", "starts": 3},
            "retirement": {"removalTimeout": "300ms", "rebootGrace": "20ms", "signalGrace": "60ms",
                "shutdownRetry": "20ms", "shutdownAfter": "400ms",
                "onBootFailure": random.choice(["leave", "shutdown"]).unwrap()},
        });
        config.as_object_mut().unwrap().extend(quick.as_object().unwrap().clone());
        if random.u8(..10) == 0 {
            config["workerConfig"]["disableReboots"] = json!(true);
        }
        if random.u8(..5) == 0 {
            fixture.machine.use_docker_worker(&support::simulated_worker()).unwrap();
        }
        if random.u8(..5) == 0 {
            fixture.machine.shutdown_ends_with(1).unwrap();
        }
        let mut life = Self { seed, random, fixture, kind, loses_credentials: false };
        life.furnish();
        (0..life.random.usize(..6)).for_each(|_| life.add_fault());
        life
    }

    fn furnish(&mut self) {
        let (pool, life) = (self.fixture.pool(), 30_000 + self.random.u64(100..1500));
        let file = json!({"description": "d", "path": self.fixture.path("a-file"), "content": "aGk=",
            "encoding": "base64", "format": "file"});
        let latency = self.random.u64(..8);
        self.fixture.simulator.world(|world| {
            world.latency = Duration::from_millis(latency);
            world.taskcluster.credentials_life = Duration::from_millis(life);
            world.taskcluster.renewed_life = Duration::from_millis(life);
            let secret = json!({"config": {"key": "canary-value-of-a-secret"}, "files": [file]});
            world.taskcluster.put_secret(format!("worker-pool:{pool}"), secret);
        });
    }

    fn add_fault(&mut self) {
        let random = &mut self.random;
        let places = [
            "/worker/register",
            "/reregister",
            "/secrets/",
            "worker-pool-errors",
            "DELETE",
            "should-terminate",
            "GET /latest",
            "GET /metadata",
            "GET /computeMetadata",
            " /api/",
            "",
        ];
        let place = random.choice(places).unwrap();
        let fault = match random.u8(..9) {
            0 => Fault::status(500),
            1 => Fault::status(503),
            2 => Fault::Answer { status: 429, headers: vec![("retry-after", "0".into())], body: String::new() },
            3 => Fault::Drop,
            4 => Fault::LoseAnswer,
            5 => Fault::Delay(Duration::from_millis(random.u64(..400))),
            6 => Fault::SlowBody(Duration::from_micros(100)),
            7 if place != "/worker/register" => Fault::error(403, "InsufficientScopes", "no"),
            _ => Fault::garbage(),
        };
        // A machine gets its credentials by one answer.
        self.loses_credentials |= ["/worker/register", " /api/", "", "/reregister"].contains(&place)
            && !matches!(fault, Fault::Delay(_) | Fault::SlowBody(_));
        let (after, times) = (random.usize(..4), random.usize(1..3));
        let rule = Rule { matches: place.to_owned(), fault, after, times };
        self.fixture.simulator.world(|world| world.rules.push(rule));
    }

    /// What the worker does in one run.
    fn script(&mut self) -> Value {
        let random = &mut self.random;
        let mut steps = Vec::new();
        if random.u8(..6) > 0 {
            steps.push(json!("hello"));
        }
        match random.u8(..4) {
            0 => steps.push(json!({"onTerminate": -1})),
            1 => steps.push(json!({"onTerminate": 71})),
            _ => {}
        }
        for _ in 0..random.usize(..6) {
            steps.push(match random.u8(..11) {
                0 => json!({"print": "at work"}),
                1 => json!({"log": {"textPayload": "a record", "n": 1}}),
                2 => json!({"lines": [random.usize(..3000), 100]}),
                3 => json!({"bytes": (0..200).map(|_| random.u8(..)).collect::<Vec<u8>>()}),
                4 => json!({"leaveBehind": if random.bool() { "quiet" } else { "loud" }}),
                5 => json!({"message": {"type": "error-report", "kind": "k", "title": "t", "description": "d", "extra": {}}}),
                6 => json!({"message": {"type": "shutdown"}}),
                7 if random.u8(..4) == 0 => json!("closeInput"),
                8 if random.u8(..4) == 0 => json!("closeOutput"),
                9 => json!({"printError": "an error of the worker"}),
                _ => json!({"sleep": random.u64(..300)}),
            });
        }
        steps.push(match random.u8(..8) {
            0 => json!("hang"),
            1 => json!({"signal": random.choice([6, 9, 15]).unwrap()}),
            2..=4 => json!({"await": "graceful-termination"}),
            _ => json!({"sleep": random.u64(..200)}),
        });
        steps.push(json!({"exit": random.choice([0, 0, 1, 64, 67, 67, 68, 69, 70, 71, 72, 84]).unwrap()}));
        steps.into()
    }

    fn something_happens(&mut self) {
        let what = self.random.u8(..6);
        let offset = self.random.i64(-7200..7200);
        // Credentials that live for half a minute may have ended by the new time.
        self.loses_credentials |= what == 0;
        let time = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(self.random.i64(-1000..4000));
        self.fixture.simulator.world(|world| {
            let event = json!({"EventId": "e", "EventType": "Terminate", "Resources": [world.cloud.machine_id.clone()],
                "NotBefore": time.to_string()});
            match what {
                0 => world.taskcluster.clock_offset = offset,
                1 => world.taskcluster.unwanted = Some("too many".into()),
                2 => world.cloud.events = vec![event],
                3 => world.cloud.events.clear(),
                4 => world.cloud.preempted = true,
                _ => world.cloud.rebalance = Some(json!({"noticeTime": time.to_string()}).to_string()),
            }
        });
    }

    /// One start of the program, to its end.
    fn start(&mut self) -> (End, Finished) {
        self.fixture.machine.script = self.script();
        let mut running = self.fixture.start();
        let mut end = End::Itself;
        for _ in 0..self.random.usize(..4) {
            // Not a wait for something: a random instant is what is asked for.
            std::thread::sleep(Duration::from_millis(self.random.u64(..250)));
            match self.random.u8(..8) {
                0 => {
                    running.signal(Signal::SIGTERM);
                    end = End::Told;
                }
                1 => running.signal(Signal::SIGUSR1),
                2 => running.signal(Signal::SIGHUP),
                3 => {
                    running.signal(Signal::SIGKILL);
                    end = End::Killed;
                    break;
                }
                _ => self.something_happens(),
            }
        }
        if end != End::Killed {
            // An operator who wants to go home.
            running.finish_within(Duration::from_millis(1500), |running| {
                end = End::Told;
                running.signal(Signal::SIGTERM);
            });
        }
        // A renewal may have been answered to nobody, or not have been kept yet.
        self.loses_credentials |= end == End::Killed;
        (end, running.finish())
    }

    /// Lives until the machine is gone, or somebody wants it left alone.
    fn live(mut self, loud: bool) {
        for start in 0..STARTS {
            let (before, shutdowns) = (self.removals(), self.fixture.machine.shutdowns().len());
            let (end, finished) = self.start();
            if loud {
                println!("{start}: {end:?}\n{}", finished.log);
            }
            let removed = self.removals() - before;
            let shutdowns: Vec<String> = self.fixture.machine.shutdowns().split_off(shutdowns);
            self.assert_sound(end, &finished, removed, &shutdowns);
            // The unit's control group ends with it.
            let left = self.processes();
            assert!(end == End::Killed || left.is_empty(), "{}: orphans {left:?}:\n{}", self.seed, finished.log);
            for pid in left {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let gone = shutdowns.iter().any(|call| call == "-h now");
            let left_alone = end == End::Told && self.random.bool();
            if removed > 0 || gone || left_alone || (end == End::Itself && shutdowns.is_empty()) {
                return;
            }
        }
    }

    fn removals(&self) -> usize {
        self.fixture.simulator.world(|world| world.taskcluster.removals)
    }

    /// What holds after every start, whatever happened.
    fn assert_sound(&self, end: End, finished: &Finished, removed: usize, shutdowns: &[String]) {
        let what = format!("seed {}, {}, {end:?}, code {:?}", self.seed, self.kind.name(), finished.code);
        let log = &finished.log;
        let has = |text: &str| log.contains(text);
        // A signal in the first millisecond comes before anybody listens.
        let too_early = log.is_empty();
        assert!(end == End::Killed || finished.code.is_some() || too_early, "{what}: it hangs, or died:\n{log}");
        assert!(!has("BUG in start-worker") && finished.code != Some(21), "{what}: a bug:\n{log}");

        // The machine is retired exactly once, or works on, or was never registered.
        // An answer that is lost is asked for again.
        assert!(log.matches("worker-manager removes this machine").count() <= 1, "{what}: removed twice:\n{log}");
        let rebooted = shutdowns.iter().any(|call| call == "-r now");
        let halted = shutdowns.iter().any(|call| call == "-h now");
        if self.kind.is_cloud() {
            let never_registered =
                matches!(finished.code, Some(10..=13)) || too_early || has("before there was a worker");
            let others_reboot = finished.code == Some(67);
            let retired = removed == 1 || halted || has("worker-manager removes this machine") || rebooted;
            if end == End::Itself && !(never_registered || others_reboot) {
                assert!(retired, "{what}: this machine is forgotten:\n{log}");
            }
            if has("the run is over: a signal told start-worker to stop") && !has("asks for this machine to be retired")
            {
                assert!(removed == 0 && shutdowns.is_empty(), "{what}: init's machine was retired:\n{log}");
            }
        } else {
            let boot_failed =
                matches!(finished.code, Some(10..=13)) || (end == End::Killed && has("error: failed while"));
            assert!(removed == 0 && (!halted || boot_failed), "{what}: somebody's own machine was ended:\n{log}");
        }

        // The cache is whole, and belongs to whom it should.
        for name in ["cache.json", "start-worker-retiring.json"] {
            if let Ok(bytes) = fs::read(self.fixture.path(name)) {
                let cache: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{what}: {name} is torn"));
                assert_eq!(cache["version"], 1, "{what}");
            }
        }

        // The worker has credentials that this deployment gave out, and the newest of them if none got lost.
        if let Ok(bytes) = fs::read(self.fixture.machine.worker_config())
            && has("started the worker")
        {
            let config: Value = serde_json::from_slice(&bytes).unwrap();
            let token = config["accessToken"].as_str().or(config["taskcluster"]["accessToken"].as_str()).unwrap();
            assert!(token.starts_with("canary-"), "{what}: {token}");
        }
        let (violations, newest) = self
            .fixture
            .simulator
            .world(|world| (world.taskcluster.violations.clone(), world.taskcluster.newest_credentials()));
        let strange: Vec<_> =
            violations.iter().filter(|text| !EXPECTED.iter().any(|expected| text.contains(expected))).collect();
        assert!(strange.is_empty() && newest.is_some(), "{what}: {strange:?}\n{log}");
        if !self.loses_credentials && end == End::Itself {
            assert!(!has("refuses to renew"), "{what}: credentials were lost:\n{log}");
        }

        self.assert_no_secret(&what, finished);
    }

    fn assert_no_secret(&self, what: &str, finished: &Finished) {
        let reports = self.fixture.simulator.world(|world| Value::from(world.taskcluster.reports.clone())).to_string();
        for text in [&finished.log, &finished.output, &reports] {
            assert!(!text.contains("canary"), "{what}: a secret:\n{text}");
        }
        for path in files_below(&self.fixture.path("")) {
            let mode = fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode());
            if mode & 0o077 != 0 {
                assert!(!contains(&fs::read(&path).unwrap_or_default(), b"canary"), "{what}: {}", path.display());
            }
        }
    }

    /// The processes of this machine: all of them have its folder on their `PATH`.
    fn processes(&self) -> Vec<Pid> {
        let folder = self.fixture.path("bin");
        let ours = |entry: fs::DirEntry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let is_zombie = fs::read_to_string(entry.path().join("stat")).ok()?.contains(") Z ");
            (!is_zombie && contains(&environment, folder.to_str()?.as_bytes())).then_some(Pid::from_raw(pid))
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(ours).collect()
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => files.extend(files_below(&path)),
            Ok(metadata) if metadata.is_file() => files.push(path),
            Ok(_) | Err(_) => {}
        }
    }
    files
}
