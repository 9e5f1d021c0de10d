//! `simulator boot`: a machine boots before your eyes, and a table says what took how long.

use crate::cloud::CloudKind;
use crate::machine::Machine;
use crate::record::{Record, sequential_round_trips};
use crate::server::{Setup, Simulator};
use anstyle::{AnsiColor, Style};
use clap::Args;
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What `boot` takes.
#[derive(Debug, Args)]
pub struct BootOptions {
    /// Where the machine stands: aws, azure, google, static or standalone
    pub provider: CloudKind,

    /// How long every answer of the cloud and of Taskcluster takes, in milliseconds
    #[arg(long, default_value_t = 50)]
    pub latency: u64,

    /// Record the boot there, and draw it beside that
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<PathBuf>,

    /// The start-worker to boot with [default: this build's]
    #[arg(long, value_name = "FILE")]
    pub start_worker: Option<PathBuf>,
}

/// Between two looks for new requests.
const LOOK: Duration = Duration::from_millis(2);

const FAINT: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

/// Boots a machine and shows it. The answer is start-worker's exit code.
///
/// # Errors
/// Where something that it needs is missing.
pub fn boot(options: &BootOptions) -> io::Result<u8> {
    let own = std::env::current_exe()?;
    let start_worker = match &options.start_worker {
        // The machine boots in a folder of its own.
        Some(path) => {
            path.canonicalize().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?
        }
        None => build_start_worker(&own)?,
    };
    let setup = Setup { kind: options.provider, latency: Duration::from_millis(options.latency) };
    let simulator = Simulator::start(&setup)?;
    furnish(&simulator);
    let folder = tempfile::tempdir()?;
    let mut machine = Machine::new(&simulator, folder.path(), &start_worker, &own)?;
    machine.config["workerConfig"] = json!({"idleTimeoutSecs": 900, "cachesDir": "/var/cache/worker"});
    let before_stop = if options.provider.is_cloud() { "await" } else { "sleep" };
    let wait = if options.provider.is_cloud() { json!("graceful-termination") } else { json!(200) };
    machine.script = json!([
        "hello",
        {"log": {"textPayload": "the worker is up and claims its first task", "tasks": 1}},
        {"print": "a plain line of the worker's output"},
        {"sleep": 200},
        {before_stop: wait},
        {"log": {"textPayload": "tasks resolved, good-bye"}},
        {"exit": 0},
    ]);
    let mut command = machine.command()?;
    if let Some(recording) = &options.timeline {
        command.arg("--timeline").arg(std::path::absolute(recording)?);
    }
    let show = Show { simulator, kind: options.provider, began: Instant::now(), shown: 0, latency: setup.latency };
    let code = show.run(command)?;
    if let Some(recording) = &options.timeline {
        println!("\nthe boot is drawn in");
        Command::new(&start_worker).arg("timeline").arg(recording).status()?;
    }
    Ok(code)
}

/// Gives the deployment something to hand out.
fn furnish(simulator: &Simulator) {
    simulator.world(|world| {
        let file = json!({
            "description": "a licence for the compiler", "path": "licence.txt", "content": "c2ltdWxhdGVk",
            "encoding": "base64", "format": "file",
        });
        world.taskcluster.worker_config =
            json!({"genericWorker": {"config": {"idleTimeoutSecs": 300}, "files": [file]}});
        let secret = json!({"config": {"signingKey": "canary-secret-value"}});
        world.taskcluster.put_secret(format!("worker-pool:{}", world.cloud.launch.worker_pool_id), secret);
    });
}

/// The `start-worker` beside this program, brought up to date where cargo runs us.
fn build_start_worker(own: &Path) -> io::Result<PathBuf> {
    let path = own.with_file_name(format!("start-worker{}", std::env::consts::EXE_SUFFIX));
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "worker-runner", "--bin", "start-worker"]);
        // What cargo says of the program that it runs is not for what it builds: a build script that looks at that would be run
        // again, and half of everything built again, at every boot.
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for name in names.filter(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            build.env_remove(name);
        }
        if own.components().any(|part| part.as_os_str() == "release") {
            build.arg("--release");
        }
        if !build.status()?.success() {
            return Err(io::Error::other("start-worker cannot be built"));
        }
    }
    match path.is_file() {
        true => Ok(path),
        false => {
            Err(io::Error::other(format!("there is no {}: build it, or name one with --start-worker", path.display())))
        }
    }
}

/// One boot, as it is shown.
struct Show {
    simulator: Simulator,
    kind: CloudKind,
    began: Instant,
    shown: usize,
    latency: Duration,
}

/// The moments of a boot, in milliseconds since its begin.
#[derive(Default)]
struct Moments {
    started: Option<f64>,
    hello: Option<f64>,
    notice: Option<f64>,
    worker_ended: Option<f64>,
    ended: f64,
}

impl Show {
    fn run(mut self, mut command: Command) -> io::Result<u8> {
        let mut out = anstream::stdout();
        writeln!(out, "{BOLD}A machine of the provider {} boots.{BOLD:#}", self.kind.name())?;
        let latency = self.latency.as_millis();
        writeln!(
            out,
            "{FAINT}Every answer of the cloud and of Taskcluster takes {latency} ms. ► is a request, │ a line of start-worker's log, ▲ what the cloud does.{FAINT:#}\n"
        )?;
        self.began = Instant::now();
        let mut child = command.spawn()?;
        let lines = read_lines(&mut child)?;
        let mut moments = Moments::default();
        loop {
            self.show_requests(&mut out)?;
            match lines.recv_timeout(LOOK) {
                Ok(line) => self.show_line(&mut out, &line, &mut moments)?,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait()?;
        moments.ended = self.now();
        self.show_requests(&mut out)?;
        self.table(&mut out, &moments)?;
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        let violations = self.simulator.world(|world| world.taskcluster.violations.clone());
        for violation in &violations {
            writeln!(out, "the deployment would not have taken this: {violation}")?;
        }
        Ok(if violations.is_empty() { code } else { 1 })
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64() * 1000.0
    }

    fn at(&self, time: Instant) -> f64 {
        time.duration_since(self.began).as_secs_f64() * 1000.0
    }

    fn show_requests(&mut self, out: &mut impl Write) -> io::Result<()> {
        let records = self.simulator.records();
        // In the order in which they came, each once its answer is there.
        while let Some(record) = records.get(self.shown) {
            let waits = record.ended.is_none() && !record.is_poll;
            if waits && self.at(Instant::now()) - self.at(record.began) < 5000.0 {
                return Ok(());
            }
            self.shown += 1;
            self.show_request(out, record)?;
        }
        Ok(())
    }

    fn show_request(&self, out: &mut impl Write, record: &Record) -> io::Result<()> {
        let style = match record.status {
            Some(200..=299) => AnsiColor::Green.on_default(),
            Some(404) => FAINT,
            Some(_) => AnsiColor::Red.on_default(),
            None => AnsiColor::Blue.on_default(),
        };
        let status = record.status.map_or_else(|| "…".to_owned(), |status| status.to_string());
        let mut path: String = record.path.chars().take(88).collect();
        if path.len() < record.path.len() {
            path.push('…');
        }
        writeln!(out, "{:>7.0} ms {style}► {status:>3}{style:#} {} {path}", self.at(record.began), record.method)
    }

    fn show_line(&self, out: &mut impl Write, line: &str, moments: &mut Moments) -> io::Result<()> {
        let now = self.now();
        if line.contains("started the worker") {
            moments.started = Some(now);
        } else if line.contains("said hello") {
            moments.hello = Some(now);
        } else if line.contains("claims its first task") && self.kind.is_cloud() {
            self.reclaim();
            moments.notice = Some(now);
        } else if line.contains("the worker has ended") {
            moments.worker_ended = Some(now);
        }
        writeln!(out, "{now:>7.0} ms {FAINT}│{FAINT:#} {line}")?;
        if moments.notice == Some(now) {
            let style = AnsiColor::Yellow.on_default().bold();
            writeln!(out, "{now:>7.0} ms {style}▲ the cloud announces that it takes the machine away{style:#}")?;
        }
        Ok(())
    }

    /// The cloud wants its machine back.
    fn reclaim(&self) {
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(120);
        self.simulator.world(|world| {
            let cloud = &mut world.cloud;
            cloud.spot_action = Some(json!({"action": "terminate", "time": format!("{soon:.0}")}).to_string());
            cloud.preempted = true;
            cloud.events = vec![json!({
                "EventId": "simulated", "EventType": "Preempt", "ResourceType": "VirtualMachine",
                "Resources": [cloud.machine_id], "EventStatus": "Scheduled", "NotBefore": "",
            })];
        });
    }

    fn table(&self, out: &mut impl Write, moments: &Moments) -> io::Result<()> {
        let records = self.simulator.records();
        let before_start: Vec<Record> = records
            .iter()
            .filter(|record| !record.is_poll && moments.started.is_none_or(|started| self.at(record.began) <= started))
            .cloned()
            .collect();
        let trips = sequential_round_trips(&before_start);
        let requests = before_start.len();
        writeln!(out, "\n{BOLD}what took how long{BOLD:#}")?;
        let mut row = |name: &str, value: Option<f64>, note: &str| match value {
            Some(value) => writeln!(out, "  {name:<40} {value:>8.0} ms  {FAINT}{note}{FAINT:#}"),
            None => Ok(()),
        };
        let network = self.latency.as_secs_f64() * 1000.0 * f64::from(u32::try_from(trips).unwrap_or(u32::MAX));
        let note = format!("{requests} requests, {trips} of them one after another: {network:.0} ms of waiting");
        row("boot to the worker's start", moments.started, &note)?;
        let span = |from: Option<f64>, to: Option<f64>| from.zip(to).map(|(from, to)| to - from);
        row("the worker's start to its hello", span(moments.started, moments.hello), "")?;
        row("the cloud's notice to the worker's end", span(moments.notice, moments.worker_ended), "")?;
        let retirement = if self.kind.is_cloud() { "the machine is removed" } else { "the machine is left as it is" };
        row("the worker's end to ours", span(moments.worker_ended, Some(moments.ended)), retirement)?;
        row("all", Some(moments.ended), "")
    }
}

/// start-worker's lines, of both streams, without the time that they begin with.
fn read_lines(child: &mut Child) -> io::Result<mpsc::Receiver<String>> {
    let (send, lines) = mpsc::channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    ];
    for stream in streams.into_iter().flatten() {
        let send = send.clone();
        thread::Builder::new().spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let text = line.get(20..).filter(|_| is_stamped(&line)).unwrap_or(&line);
                if send.send(text.to_owned()).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(lines)
}

/// Whether a line begins as the log's lines do.
fn is_stamped(line: &str) -> bool {
    let digits =
        |range: std::ops::Range<usize>| line.get(range).is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit()));
    digits(0..4) && digits(5..7) && digits(17..19) && line.as_bytes().get(4) == Some(&b'/')
}
