//! A worker that does as its script says: `run --config FILE --with-worker-runner` like generic-worker, or
//! `--host worker-runner production` like docker-worker.
//!
//! The script is a JSON list in `SIMULATED_WORKER_SCRIPT`; each step is a word or an object with one member:
//!
//! | step | does |
//! | --- | --- |
//! | `"hello"`, `{"hello": [names]}` | waits for `welcome` and takes all of the offer, or these |
//! | `{"print": text}`, `{"printError": text}` | a line of standard output or error |
//! | `{"raw": text}` | the text as it is, no newline |
//! | `{"bytes": [numbers]}` | these bytes as they are |
//! | `{"log": object}`, `{"message": object}` | a log record, any message |
//! | `{"lines": [count, length]}`, `{"longLine": length}` | many lines; one without newline |
//! | `{"logs": [count, length]}` | many log records |
//! | `{"ticks": [count, ms]}` | the time, in nanoseconds of the epoch, that often, with such pauses |
//! | `{"await": type}` | waits for a message and prints `received …` |
//! | `{"saveCredentials": file}` | waits for `new-credentials` and writes them there |
//! | `{"describe": file}` | writes what the process was given there |
//! | `{"copyConfig": file}` | copies the configuration there |
//! | `{"leaveBehind": "quiet"}`, `"loud"` | leaves a process behind in a session of its own; `loud` keeps the output |
//! | `{"onTerminate": code}` | from now on SIGTERM ends it with this code; negative: SIGTERM is ignored |
//! | `{"onInterrupt": code}` | the same of SIGINT |
//! | `{"waitFor": file}` | waits until that is there, five minutes at most |
//! | `{"sleep": ms}`, `"hang"` | waits; for ever |
//! | `"closeInput"`, `"closeOutput"` | closes a stream |
//! | `{"handle": number}` | prints which file that handle is, or `none` (Windows) |
//! | `{"exit": code}`, `{"signal": number}` | ends |

use serde_json::{Value, json};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use worker_protocol::{Capabilities, Capability, Incoming, Message, MessageReader};

/// The script, or `@` and the name of its file.
pub const SCRIPT: &str = "SIMULATED_WORKER_SCRIPT";

/// The name of the two pipes that a worker talks over instead of its standard streams (Windows).
pub const PIPE: &str = "SIMULATED_WORKER_PIPE";

/// How often a file that is waited for is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// Whoever has not made it by then is gone.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a worker does that has no script.
const DEFAULT_SCRIPT: &str = r#"["hello", {"log": {"textPayload": "nothing to do", "tasks": 0}}, {"exit": 0}]"#;

/// Whether these arguments start a worker.
pub fn is_worker(arguments: &[String]) -> bool {
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    matches!(
        words.as_slice(),
        ["run", "--config", _, "--with-worker-runner"] | ["--host", "worker-runner", "production"]
    ) || words == ["linger"]
}

/// Runs the script. The answer is the exit code.
///
/// # Errors
/// Where the script is wrong or a stream fails.
pub fn main(arguments: &[String]) -> io::Result<i32> {
    if arguments.get(1).map(String::as_str) == Some("linger") {
        std::thread::sleep(Duration::from_secs(600));
        return Ok(0);
    }
    let config = match arguments.get(3) {
        Some(config) if arguments[1] == "run" => PathBuf::from(config),
        _ => PathBuf::from(env::var_os("DOCKER_WORKER_CONFIG").unwrap_or_default()),
    };
    let script = env::var(SCRIPT).unwrap_or_else(|_| DEFAULT_SCRIPT.to_owned());
    let script = match script.strip_prefix('@') {
        Some(file) => fs::read_to_string(file)?,
        None => script,
    };
    let steps: Vec<Value> = serde_json::from_str(&script)?;
    #[cfg(windows)]
    if let Some(pipe) = env::var_os(PIPE) {
        crate::windows::talk_over(&pipe.to_string_lossy())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let mut worker = Worker { config, messages: None };
        for step in steps {
            if let Some(code) = worker.step(&step).await? {
                return Ok(code);
            }
        }
        Ok::<i32, io::Error>(0)
    });
    // The reader of standard input is a thread that may never come back.
    runtime.shutdown_background();
    code
}

struct Worker {
    config: PathBuf,
    /// What was read; reading begins with the first step that needs it.
    messages: Option<mpsc::UnboundedReceiver<Message>>,
}

/// A signal that asks a worker to end.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Terminate,
    Interrupt,
}

impl Worker {
    async fn step(&mut self, step: &Value) -> io::Result<Option<i32>> {
        let (word, argument) = match step {
            Value::String(word) => (word.as_str(), &Value::Null),
            Value::Object(members) => match members.iter().next() {
                Some((word, argument)) => (word.as_str(), argument),
                None => return Ok(None),
            },
            _ => return Err(wrong(step)),
        };
        let text = argument.as_str().unwrap_or_default();
        let number = argument.as_i64().unwrap_or_default();
        match word {
            "hello" => self.hello(argument).await?,
            "print" => print(format!("{text}\n").as_bytes())?,
            "printError" => eprintln!("{text}"),
            "raw" => print(text.as_bytes())?,
            "bytes" => print(&bytes(argument))?,
            "log" => print(&Message::Log { body: argument.as_object().cloned().unwrap_or_default() }.to_line())?,
            "message" => print(format!("~{argument}\n").as_bytes())?,
            "lines" => {
                lines(argument, |out, index, length| writeln!(out, "{}", padded(format!("line {index} "), length)))?;
            }
            "logs" => lines(argument, |out, index, length| {
                let text = padded(format!("record {index} "), length);
                writeln!(out, r#"~{{"type":"log","body":{{"textPayload":"{text}","task":{index}}}}}"#)
            })?,
            "longLine" => long_line(number)?,
            "ticks" => {
                for _ in 0..argument[0].as_u64().unwrap_or_default() {
                    tokio::time::sleep(Duration::from_millis(argument[1].as_u64().unwrap_or_default())).await;
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    print(format!("tick {}\n", now.as_nanos()).as_bytes())?;
                }
            }
            "await" => self.receive(text).await?,
            "saveCredentials" => self.save_credentials(Path::new(text)).await?,
            "describe" => describe(Path::new(text))?,
            "copyConfig" => write_private(Path::new(text), &fs::read(&self.config)?)?,
            "leaveBehind" => leave_behind(text == "loud")?,
            "onTerminate" => on_signal(Ask::Terminate, i32::try_from(number).unwrap_or(1))?,
            "onInterrupt" => on_signal(Ask::Interrupt, i32::try_from(number).unwrap_or(1))?,
            "sleep" => tokio::time::sleep(Duration::from_millis(number.unsigned_abs())).await,
            "waitFor" => {
                let appears = async {
                    while !Path::new(text).exists() {
                        tokio::time::sleep(LOOK).await;
                    }
                };
                tokio::time::timeout(LONGEST_WAIT, appears).await?;
            }
            "hang" => std::future::pending().await,
            #[cfg(windows)]
            "handle" => print(format!("handle {number}: {}\n", crate::windows::path_of(number)).as_bytes())?,
            "closeInput" => close(0),
            "closeOutput" => close(1),
            "exit" => return Ok(Some(i32::try_from(number).unwrap_or(1))),
            "signal" => end_by_signal(number),
            _ => return Err(wrong(step)),
        }
        Ok(None)
    }

    fn reader(&mut self) -> &mut mpsc::UnboundedReceiver<Message> {
        self.messages.get_or_insert_with(|| {
            let (send, receive) = mpsc::unbounded_channel();
            tokio::spawn(read_messages(tokio_stdin(), send));
            receive
        })
    }

    async fn hello(&mut self, wanted: &Value) -> io::Result<()> {
        while let Some(message) = self.reader().recv().await {
            if let Message::Welcome { capabilities } = message {
                let capabilities = match wanted {
                    Value::Array(names) => {
                        let known = |name: &Value| Capability::from_name(name.as_str().unwrap_or_default());
                        capabilities.intersection(names.iter().filter_map(known).collect::<Capabilities>())
                    }
                    _ => capabilities,
                };
                return print(&Message::Hello { capabilities }.to_line());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    async fn receive(&mut self, kind: &str) -> io::Result<()> {
        while let Some(message) = self.next_message().await {
            let told = match &message {
                Message::GracefulTermination { finish_tasks } => format!(" finish-tasks={finish_tasks}"),
                Message::NewCredentials { client_id, .. } => format!(" for {client_id}"),
                _ => String::new(),
            };
            print(format!("received {}{told}\n", message.kind().name()).as_bytes())?;
            if message.kind().name() == kind {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    async fn save_credentials(&mut self, file: &Path) -> io::Result<()> {
        while let Some(message) = self.next_message().await {
            if let Message::NewCredentials { .. } = message {
                write_private(file, &message.to_line())?;
                return print(b"saved new credentials\n");
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    async fn next_message(&mut self) -> Option<Message> {
        self.reader().recv().await
    }
}

async fn read_messages(input: impl AsyncRead + Unpin, send: mpsc::UnboundedSender<Message>) {
    let mut reader = MessageReader::new(input);
    while let Ok(Some(incoming)) = reader.next().await {
        if let Incoming::Message(message) = incoming
            && send.send(message).is_err()
        {
            return;
        }
    }
}

fn wrong(step: &Value) -> io::Error {
    io::Error::other(format!("the script has a step that is not known: {step}"))
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn bytes(list: &Value) -> Vec<u8> {
    let byte = |value: &Value| u8::try_from(value.as_u64()?).ok();
    list.as_array().into_iter().flatten().filter_map(byte).collect()
}

/// Writes many lines. Each is given its number, and how long its text is to be.
fn lines(argument: &Value, write_line: impl Fn(&mut dyn Write, usize, usize) -> io::Result<()>) -> io::Result<()> {
    let number = |at: usize| usize::try_from(argument[at].as_u64().unwrap_or_default()).unwrap_or(0);
    let (count, length) = (number(0), number(1));
    let mut out = io::BufWriter::with_capacity(256 * 1024, io::stdout().lock());
    for index in 0..count {
        write_line(&mut out, index, length)?;
    }
    out.flush()
}

/// The text, made so long.
fn padded(mut text: String, length: usize) -> String {
    text.extend(std::iter::repeat_n('x', length.saturating_sub(text.len())));
    text
}

fn long_line(length: i64) -> io::Result<()> {
    let chunk = vec![b'y'; 64 * 1024];
    let mut left = usize::try_from(length).unwrap_or(0);
    let mut out = io::stdout().lock();
    while left > 0 {
        let now = left.min(chunk.len());
        out.write_all(&chunk[..now])?;
        left -= now;
    }
    out.flush()
}

/// What the process was given: arguments, environment, descriptors, group, signals.
fn describe(file: &Path) -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim().to_owned()
    };
    let descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some(format!("{} {}", entry.file_name().to_str()?, fs::read_link(entry.path()).ok()?.display()))
        })
        .collect();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let group = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(2)).map(str::to_owned);
    let description = json!({
        "arguments": env::args().collect::<Vec<_>>(),
        "environment": env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        "descriptors": descriptors,
        "process": std::process::id().to_string(),
        "group": group,
        "ignoredSignals": field("SigIgn"),
        "blockedSignals": field("SigBlk"),
        "oomScoreAdj": fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default().trim(),
    });
    write_private(file, description.to_string().as_bytes())
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file: File = options.open(path)?;
    file.write_all(content)
}

/// Leaves a process behind, as a task would: in a session of its own, its parent gone.
fn leave_behind(loud: bool) -> io::Result<()> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("linger").stdin(Stdio::null());
    if !loud {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn()?;
    print(format!("left {} behind\n", child.id()).as_bytes())
}

#[cfg(unix)]
fn close(number: i32) {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: nothing in this process uses the stream after this step.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

#[cfg(windows)]
fn close(number: i32) {
    crate::windows::close_stream(number == 0);
}

#[cfg(unix)]
fn end_by_signal(number: i64) {
    let signal = nix::sys::signal::Signal::try_from(i32::try_from(number).unwrap_or(9));
    let _ = nix::sys::signal::raise(signal.unwrap_or(nix::sys::signal::Signal::SIGKILL));
}

#[cfg(not(unix))]
fn end_by_signal(_number: i64) {
    std::process::abort();
}

/// From now on the signal no longer ends the process by itself.
#[cfg(unix)]
fn on_signal(ask: Ask, code: i32) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (kind, name) = match ask {
        Ask::Terminate => (SignalKind::terminate(), "SIGTERM"),
        Ask::Interrupt => (SignalKind::interrupt(), "SIGINT"),
    };
    let mut signals = signal(kind)?;
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            let _ = print(format!("received {name}\n").as_bytes());
            if code >= 0 {
                std::process::exit(code);
            }
        }
    });
    Ok(())
}

/// There is no SIGTERM here; `CTRL_BREAK` is what interrupts.
#[cfg(not(unix))]
fn on_signal(ask: Ask, code: i32) -> io::Result<()> {
    let Ask::Interrupt = ask else { return Ok(()) };
    let mut breaks = tokio::signal::windows::ctrl_break()?;
    tokio::spawn(async move {
        while breaks.recv().await.is_some() {
            let _ = print(b"received CTRL_BREAK\n");
            if code >= 0 {
                std::process::exit(code);
            }
        }
    });
    Ok(())
}

fn tokio_stdin() -> impl AsyncRead + Unpin {
    tokio::io::stdin()
}
