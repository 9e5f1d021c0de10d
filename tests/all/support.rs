//! A simulated machine, and `start-worker` run on it.

// Not every system's tests use every helper.
#![allow(dead_code)]

use serde_json::{Value, json};
use simulator::machine::Machine;
use simulator::{CloudKind, Setup, Simulator};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

#[cfg(unix)]
pub use nix::sys::signal::Signal;

/// What is done to a `start-worker` from outside.
#[cfg(windows)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::upper_case_acronyms)] // as on Unix
pub enum Signal {
    /// As Ctrl-C on its console: a request to end, as SIGTERM is elsewhere.
    SIGTERM,
    /// The same.
    SIGINT,
    /// Its end, without a word.
    SIGKILL,
}

/// Nothing here takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub fn start_worker() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_start-worker"))
}

/// The simulator, which is the worker too.
pub fn simulated_worker() -> PathBuf {
    let path = start_worker().with_file_name(format!("simulator{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "{} is missing: run the tests with `cargo test --workspace`", path.display());
    path
}

/// A machine and all around it.
pub struct Fixture {
    pub simulator: Simulator,
    pub machine: Machine,
    folder: TempDir,
}

impl Fixture {
    /// A machine of that kind with a generic-worker that says hello and is done.
    pub fn new(kind: CloudKind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let simulator = Simulator::start(&Setup { kind, latency: Duration::ZERO }).unwrap();
        let mut machine = Machine::new(&simulator, folder.path(), start_worker(), &simulated_worker()).unwrap();
        // Nobody reboots a simulated machine, and nobody signals it unless a test does.
        machine.config["retirement"] = json!({"rebootGrace": "10ms", "signalGrace": "50ms"});
        Self { simulator, machine, folder }
    }

    /// A worker that wants a reboot: the machine stays, and the next boot goes on.
    pub fn rebooting(self) -> Self {
        self.script(json!(["hello", {"exit": 67}]))
    }

    /// A machine whose run is kept over reboots.
    pub fn with_cache(kind: CloudKind) -> Self {
        let mut fixture = Self::new(kind);
        fixture.machine.config["cacheOverRestarts"] = fixture.path("cache.json").to_str().unwrap().into();
        fixture
    }

    /// What the worker does.
    pub fn script(mut self, script: Value) -> Self {
        self.machine.script = script;
        self
    }

    /// A path in the machine's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The pool that the machine works for.
    pub fn pool(&self) -> String {
        self.simulator.world(|world| world.cloud.launch.worker_pool_id.clone())
    }

    /// The worker's configuration as it was written.
    pub fn worker_config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.machine.worker_config()).unwrap()).unwrap()
    }

    /// Boots the machine and waits until it is done.
    pub fn boot(&self) -> Finished {
        self.start().finish()
    }

    /// Boots the machine.
    pub fn start(&self) -> Running {
        let mut running = Running::spawn(&mut self.machine.command().unwrap());
        running.shutdown_calls = cfg!(windows).then(|| self.path("shutdown-calls"));
        running
    }

    /// Boots the machine from a shell that does this first.
    #[cfg(unix)]
    pub fn start_after(&self, first: &str) -> Running {
        let command = self.machine.command().unwrap();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{first}; exec \"$0\" \"$@\""));
        shell.arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.current_dir(command.get_current_dir().unwrap());
        Running::spawn(shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()))
    }

    /// A file in the machine's folder that may be executed.
    #[cfg(unix)]
    pub fn program(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// A tombstone lies on the machine, and what starts there goes on with its retirement.
    #[track_caller]
    pub fn machine_is_retired_by_its_next_start(&mut self) {
        self.machine.config["retirement"]["shutdownAfter"] = json!("1s");
        self.boot().assert_code(0).assert_logged("has been retiring since").assert_not_logged("started the worker");
    }

    /// What a deployment would not have taken, and doesn't have to be there.
    pub fn assert_no_violation(&self) {
        let violations = self.simulator.world(|world| world.taskcluster.violations.clone());
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// A `start-worker` that runs.
pub struct Running {
    child: Child,
    errors: Receiver<Vec<u8>>,
    /// Where it is noted that the machine was to be shut down, where that is a call of the system's and no program's.
    shutdown_calls: Option<PathBuf>,
    log: Vec<u8>,
    /// How much of it has been looked at.
    seen: usize,
    output: Receiver<Vec<u8>>,
    /// Whether it was ended without a word.
    was_killed: bool,
}

/// What a stream gives, as it comes.
fn read_all(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if send.send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}

/// What is left of a stream whose process has ended: all of it, but Wine's console may keep it open for ever where its
/// process was killed.
fn rest_of(stream: &Receiver<Vec<u8>>, was_killed: bool) -> Vec<u8> {
    let mut all = Vec::new();
    let may_stay_open = cfg!(windows) && was_killed;
    let patience = if may_stay_open { Duration::from_secs(3) } else { PATIENCE };
    loop {
        match stream.recv_timeout(patience) {
            Ok(bytes) => all.extend(bytes),
            Err(mpsc::RecvTimeoutError::Disconnected) => return all,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                assert!(may_stay_open, "somebody holds a stream of start-worker's open");
                return all;
            }
        }
    }
}

/// A `start-worker` that has ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub log: String,
    pub output: String,
}

impl Running {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let errors = read_all(child.stderr.take().unwrap());
        let output = read_all(child.stdout.take().unwrap());
        Self { child, errors, shutdown_calls: None, log: Vec::new(), seen: 0, output, was_killed: false }
    }

    /// Waits until the log holds this.
    pub fn wait_for(&mut self, text: &str) {
        self.seen = 0;
        self.wait_for_next(text);
    }

    /// Waits until the log holds this after what was waited for last.
    pub fn wait_for_next(&mut self, text: &str) {
        let mut from = self.seen;
        loop {
            if let Some(at) = memchr::memmem::find(&self.log[from..], text.as_bytes()) {
                self.seen = from + at + text.len();
                return;
            }
            from = self.log.len().saturating_sub(text.len()).max(from);
            match self.errors.recv_timeout(PATIENCE) {
                Ok(bytes) => self.log.extend(bytes),
                Err(error) => panic!("the log never held {text:?} ({error}):\n{}", String::from_utf8_lossy(&self.log)),
            }
        }
    }

    #[cfg(unix)]
    pub fn signal(&mut self, signal: Signal) {
        self.was_killed |= signal == Signal::SIGKILL;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Each simulated machine has a console of its own.
    #[cfg(windows)]
    pub fn signal(&mut self, signal: Signal) {
        self.was_killed |= signal == Signal::SIGKILL;
        match signal {
            Signal::SIGKILL => self.child.kill().unwrap(),
            Signal::SIGTERM | Signal::SIGINT => {
                let id = self.child.id().to_string();
                let pressed = Command::new(simulated_worker()).arg("ctrl-c").arg(id).status().unwrap();
                assert!(pressed.success(), "Ctrl-C could not be pressed");
            }
        }
    }

    /// The most memory that it has used so far, in MiB.
    #[cfg(unix)]
    pub fn peak_memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1024.0
    }

    /// Gives it this long to end by itself, and then does this.
    pub fn finish_within(&mut self, patience: Duration, otherwise: impl FnOnce(&mut Self)) {
        let began = std::time::Instant::now();
        while began.elapsed() < patience {
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        otherwise(self);
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let (done, wait) = mpsc::channel::<()>();
        let id = self.child.id();
        // A hang is a failure with a log, not a test that never ends.
        let watchdog = thread::spawn(move || {
            if wait.recv_timeout(PATIENCE * 3) == Err(mpsc::RecvTimeoutError::Timeout) {
                #[cfg(unix)]
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(i32::try_from(id).unwrap()),
                    nix::sys::signal::Signal::SIGKILL,
                );
                #[cfg(not(unix))]
                let _ = id;
            }
        });
        let status = self.child.wait().unwrap();
        drop(done);
        watchdog.join().unwrap();
        self.log.extend(rest_of(&self.errors, self.was_killed));
        let output = rest_of(&self.output, self.was_killed);
        let log = String::from_utf8_lossy(&self.log).into_owned();
        if let Some(file) = self.shutdown_calls {
            note_shutdowns(&file, &log);
        }
        Finished { code: status.code(), log, output: String::from_utf8_lossy(&output).into_owned() }
    }
}

/// Wine shuts nothing down and keeps no record of it, so the log has to do.
fn note_shutdowns(file: &Path, log: &str) {
    let call = |line: &str| match line {
        line if line.ends_with("shutting this machine down") => Some("-h now\n"),
        line if line.ends_with("rebooting this machine") => Some("-r now\n"),
        _ => None,
    };
    let calls: String = log.lines().filter_map(call).collect();
    let mut noted = fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
    std::io::Write::write_all(&mut noted, calls.as_bytes()).unwrap();
}

impl Finished {
    /// The log has this.
    #[track_caller]
    pub fn assert_logged(&self, text: &str) -> &Self {
        assert!(self.log.contains(text), "the log lacks {text:?}:\n{}", self.log);
        self
    }

    /// The log hasn't this.
    #[track_caller]
    pub fn assert_not_logged(&self, text: &str) -> &Self {
        assert!(!self.log.contains(text), "the log holds {text:?}:\n{}", self.log);
        self
    }

    /// It ended with this code.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "the log:\n{}", self.log);
        self
    }
}

/// Whether nobody may read a file but its owner, and whoever may do everything.
pub fn is_private(path: &Path) -> bool {
    worker_runner::platform::looseness(&fs::File::open(path).unwrap()).unwrap().is_none()
}

/// Whether bytes hold bytes.
pub fn contains(all: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(all, part).is_some()
}
