//! The log: our own lines and the worker's, in order, to standard error, as the Go program writes them:
//! `2026/11/20 20:38:28 message`.
//!
//! A thread of its own does the writing, so that a slow reader slows down the worker's lines ([`LogStream::room`])
//! and never the rest of us, and a reader that went away is no more than that.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The worker's lines wait while this many bytes have not been written.
const ROOM: usize = 256 * 1024;

/// Our own lines are dropped, and counted, while this many bytes have not been written.
const MOST: usize = 2 * 1024 * 1024;

/// The targets that may be logged: ours. What HTTP libraries log at trace level holds signed headers.
const OUR_TARGETS: [&str; 4] = ["start_worker", "worker_runner", "taskcluster_api", "worker_protocol"];

/// How long the end of the process waits for a reader of the log that doesn't read.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// How long it waits for one that does.
const LONGEST_FLUSH: Duration = Duration::from_secs(60);

/// At most this many bytes are written at once, so that progress shows.
const CHUNK: usize = 64 * 1024;

/// Between two tries to write to a stream that somebody made non-blocking.
const NOT_READY: Duration = Duration::from_millis(5);

/// Where log lines go. Cheap to clone.
#[derive(Clone)]
pub struct LogStream {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
    drained: Notify,
    zone: TimeZone,
    /// How many bytes have been written so far.
    progress: AtomicU64,
}

#[derive(Default)]
struct State {
    /// What has not been handed to the writing thread.
    waiting: Vec<u8>,
    /// How many bytes the thread is writing now.
    writing: usize,
    /// How many of our own lines found no room since the last that did.
    dropped: usize,
    stamp: Stamp,
}

/// The text of the current second: most lines share it with the one before.
#[derive(Default)]
struct Stamp {
    second: Option<i64>,
    text: String,
}

impl Stamp {
    fn at(&mut self, now: Timestamp, zone: &TimeZone) -> &str {
        if self.second != Some(now.as_second()) {
            self.second = Some(now.as_second());
            let local = now.to_zoned(zone.clone());
            self.text.clear();
            let _ = write!(
                self.text,
                "{:04}/{:02}/{:02} {:02}:{:02}:{:02} ",
                local.year(),
                local.month(),
                local.day(),
                local.hour(),
                local.minute(),
                local.second()
            );
        }
        &self.text
    }
}

impl LogStream {
    /// A log that is written to `sink` by a thread of its own.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            drained: Notify::new(),
            zone: TimeZone::system(),
            progress: AtomicU64::new(0),
        });
        let stream = Self { shared: Arc::clone(&shared) };
        thread::Builder::new().name("log".into()).stack_size(64 * 1024).spawn(move || write_out(&shared, sink))?;
        Ok(stream)
    }

    /// Adds a line with its time. `line` writes it, without a newline. Whether there is [room](Self::room) for more.
    pub fn line(&self, line: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.shared.lock();
        state.stamp_line(&self.shared.zone);
        line(&mut state.waiting);
        state.waiting.push(b'\n');
        let room = state.has_room();
        drop(state);
        self.shared.filled.notify_one();
        room
    }

    /// Adds text as it is, unless nobody has read for too long.
    fn own_text(&self, text: &str) {
        let mut state = self.shared.lock();
        if state.waiting.len() + state.writing > MOST {
            state.dropped += 1;
            return;
        }
        if state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            state.stamp_line(&self.shared.zone);
            state.waiting.extend_from_slice(format!("{dropped} log lines found no reader and are lost\n").as_bytes());
        }
        state.stamp_line(&self.shared.zone);
        state.waiting.extend_from_slice(text.as_bytes());
        if !text.ends_with('\n') {
            state.waiting.push(b'\n');
        }
        drop(state);
        self.shared.filled.notify_one();
    }

    /// Waits until the reader has caught up enough for more of the worker's lines.
    pub async fn room(&self) {
        loop {
            let drained = self.shared.drained.notified();
            if self.shared.lock().has_room() {
                return;
            }
            drained.await;
        }
    }

    /// Adds a line without waiting for anything, not even for the lock: for a panic, which may hold it.
    pub fn emergency(&self, text: &str) {
        match self.shared.state.try_lock() {
            Ok(mut state) => {
                state.stamp_line(&self.shared.zone);
                state.waiting.extend_from_slice(text.as_bytes());
                state.waiting.push(b'\n');
                self.shared.filled.notify_one();
            }
            Err(_) => eprintln!("{text}"),
        }
    }

    /// How many bytes have been written so far: a reader is slow while this grows, and gone while it doesn't.
    pub fn progress(&self) -> u64 {
        self.shared.progress.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, for as long as the reader gets on: at most a few seconds without any progress,
    /// and a minute in all.
    pub fn flush(&self) {
        let began = Instant::now();
        let mut progress = self.progress();
        while began.elapsed() < LONGEST_FLUSH {
            let state = self.shared.lock();
            let pending = |state: &mut State| !state.waiting.is_empty() || state.writing > 0;
            let waited = self.shared.written.wait_timeout_while(state, LAST_FLUSH, pending);
            let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
            drop(state);
            let before = std::mem::replace(&mut progress, self.progress());
            if !result.timed_out() || before == progress {
                return;
            }
        }
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.waiting.len() + self.writing < ROOM
    }

    fn stamp_line(&mut self, zone: &TimeZone) {
        let stamp = self.stamp.at(Timestamp::now(), zone);
        self.waiting.extend_from_slice(stamp.as_bytes());
    }
}

impl Shared {
    /// A panic elsewhere while the lock was held leaves nothing half done that would matter to a log.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_out(shared: &Shared, mut sink: impl Write) {
    let mut batch = Vec::new();
    // A reader that went away (EPIPE) or a full disk: the lines are lost, the run goes on.
    loop {
        {
            let state = shared.lock();
            let mut state = shared
                .filled
                .wait_while(state, |state| state.waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut batch, &mut state.waiting);
            state.writing = batch.len();
        }
        write_batch(&mut sink, &batch, &shared.progress);
        batch.clear();
        batch.shrink_to(ROOM);
        shared.lock().writing = 0;
        shared.written.notify_all();
        shared.drained.notify_waiters();
    }
}

fn write_batch(sink: &mut impl Write, batch: &[u8], progress: &AtomicU64) {
    let mut rest = batch;
    while !rest.is_empty() {
        match sink.write(&rest[..rest.len().min(CHUNK)]) {
            Ok(0) => return,
            Ok(written) => {
                rest = &rest[written..];
                progress.fetch_add(written as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Others share the stream, and one of them may have made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(NOT_READY),
            Err(_) => return,
        }
    }
    let _ = sink.flush();
}

/// Makes `stream` the place where `tracing` events go, at this level.
///
/// # Errors
/// Where the level is no level, or another subscriber is there.
pub fn install(stream: &LogStream, level: Level) -> Result<(), tracing_subscriber::util::TryInitError> {
    let targets: Targets = OUR_TARGETS.into_iter().map(|target| (target, level)).collect();
    let lines = tracing_subscriber::fmt::layer().event_format(GoFormat).with_ansi(false).with_writer(stream.clone());
    tracing_subscriber::registry().with(targets).with(lines).try_init()
}

/// An event as one line: a word for what is no plain information, the message, then `key=value`.
struct GoFormat;

impl<S, N> FormatEvent<S, N> for GoFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        })?;
        context.format_fields(writer, event)
    }
}

/// One formatted event on its way into the stream.
pub struct EventWriter(LogStream);

impl Write for EventWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One event is one write; what has several lines (an error with its causes) gets a time on each.
        for line in String::from_utf8_lossy(bytes).trim_end_matches('\n').split('\n') {
            self.0.own_text(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogStream {
    type Writer = EventWriter;

    fn make_writer(&self) -> EventWriter {
        EventWriter(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Channel(mpsc::Sender<Vec<u8>>, mpsc::Receiver<()>);
    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.recv().ok();
            self.0.send(bytes.to_vec()).ok();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_reader_that_stalls_takes_the_workers_room_and_gives_it_back() {
        let (lines, read) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let stream = LogStream::start(Channel(lines, wait)).unwrap();
        while stream.shared.lock().has_room() {
            stream.line(|out| out.extend_from_slice(&[b'x'; 1000]));
        }
        assert!(futures_pending(stream.room()));
        drop(go);
        stream.room().await;
        stream.flush();
        let all: Vec<u8> = read.try_iter().flatten().collect();
        let text = String::from_utf8(all).unwrap();
        assert!(text.lines().all(|line| line.len() == "2026/11/20 20:38:28 ".len() + 1000));
    }

    fn futures_pending(future: impl Future<Output = ()>) -> bool {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_pending()
    }

    #[test]
    fn a_sink_that_fails_is_no_failure_of_ours() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let stream = LogStream::start(Broken).unwrap();
        for _ in 0..3 {
            stream.line(|out| out.push(b'x'));
            stream.flush();
        }
    }
}
