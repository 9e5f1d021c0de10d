//! The log: our own lines and the worker's, in order, to standard error, as the Go program writes them:
//! `2026/11/20 20:38:28 message`.
//!
//! A thread of its own does the writing, so that a slow reader slows down the worker's lines ([`LogStream::room`])
//! and never the rest of us, and a reader that went away is no more than that. To make it takes as long as some
//! answers of a near service, so it is made when there is time ([`LogStream::begin_writing`]).

use crate::VERSION;
use crate::platform;
use crate::timeline::Timeline;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{SetGlobalDefaultError, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};

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

/// Who is told of errors, beside the log. Must not wait for anything.
pub type TellError = Box<dyn Fn(&str) + Send + Sync>;

/// Where log lines go. Cheap to clone.
#[derive(Clone)]
pub struct LogStream {
    shared: Arc<Shared>,
}

/// How a log is written.
pub struct LogOptions {
    /// Whether each line begins with its time.
    pub times: bool,
    /// Who else is told of our errors.
    pub tell_error: Option<TellError>,
}

/// Lines of one moment on their way into the log: put together without its lock, and handed over at once.
#[derive(Default)]
pub struct Batch {
    text: Vec<u8>,
    /// What each line begins with.
    stamp: Vec<u8>,
}

impl Batch {
    /// Whether it holds much of what the log has room for: time to hand it over.
    pub fn is_full(&self) -> bool {
        self.text.len() >= ROOM / 2
    }

    /// Adds a line, given without its newline.
    pub fn line(&mut self, line: &[u8]) {
        self.text.extend_from_slice(&self.stamp);
        self.text.extend_from_slice(line);
        self.text.push(b'\n');
    }

    /// Adds whole lines, each with its newline. A carriage return before it is left out.
    pub fn lines(&mut self, lines: &[u8]) {
        let ends = || memchr::memchr_iter(b'\n', lines);
        let mut begin = 0;
        if memchr::memchr(b'\r', lines).is_some() {
            for end in ends() {
                let line = &lines[begin..end];
                self.line(line.strip_suffix(b"\r").unwrap_or(line));
                begin = end + 1;
            }
            return;
        }
        if self.stamp.is_empty() {
            self.text.extend_from_slice(lines);
            return;
        }
        for end in ends() {
            self.text.extend_from_slice(&self.stamp);
            self.text.extend_from_slice(&lines[begin..=end]);
            begin = end + 1;
        }
    }
}

struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
    drained: Notify,
    /// In which the times are; none where lines have none.
    zone: Option<TimeZone>,
    /// How many bytes have been written so far.
    progress: AtomicU64,
    /// Whether there is a thread that writes.
    has_writer: AtomicBool,
    tell_error: Option<TellError>,
}

#[derive(Default)]
struct State {
    /// Where it is written, until the writing thread has it.
    sink: Option<Box<dyn Write + Send>>,
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
    /// A log that goes to `sink`, once it [begins](Self::begin_writing).
    pub fn new(sink: impl Write + Send + 'static, options: LogOptions) -> Self {
        let LogOptions { times, tell_error } = options;
        let shared = Shared {
            state: Mutex::new(State { sink: Some(Box::new(sink)), ..State::default() }),
            filled: Condvar::new(),
            written: Condvar::new(),
            drained: Notify::new(),
            zone: times.then(platform::time_zone),
            progress: AtomicU64::new(0),
            has_writer: AtomicBool::new(false),
            tell_error,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has everything written as it comes from now on, by a thread of its own. Where none can be had, what there is so far is
    /// written here, however slow its reader is; the next call tries again.
    pub fn begin_writing(&self) {
        // Looked at whenever this process has nothing to do, and written once.
        let has_writer = &self.shared.has_writer;
        if has_writer.load(Ordering::Relaxed) || has_writer.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let writer = move || {
            let sink = shared.lock().sink.take();
            if let Some(sink) = sink {
                write_out(&shared, sink);
            }
        };
        if thread::Builder::new().name("log".into()).stack_size(64 * 1024).spawn(writer).is_err() {
            self.write_here();
            has_writer.store(false, Ordering::Relaxed);
        }
    }

    /// Begins a batch: its lines have the time of now.
    pub fn begin(&self, batch: &mut Batch) {
        batch.text.clear();
        batch.stamp.clear();
        State::stamp(&mut self.shared.lock().stamp, self.shared.zone.as_ref(), &mut batch.stamp);
    }

    /// Adds the lines of a batch, which is empty then. Whether there is [room](Self::room) for more.
    pub fn add(&self, batch: &mut Batch) -> bool {
        let mut state = self.shared.lock();
        if batch.text.is_empty() {
            return state.has_room();
        }
        if state.waiting.is_empty() {
            std::mem::swap(&mut state.waiting, &mut batch.text);
        } else {
            state.waiting.extend_from_slice(&batch.text);
            batch.text.clear();
        }
        let room = state.has_room();
        drop(state);
        self.shared.filled.notify_one();
        room
    }

    /// Adds a line of our own, unless nobody has read for too long.
    pub fn own_line(&self, text: &str) {
        let mut state = self.shared.lock();
        if state.waiting.len() + state.writing > MOST {
            state.dropped += 1;
            return;
        }
        if state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            state.stamp_line(self.shared.zone.as_ref());
            state.waiting.extend_from_slice(format!("{dropped} log lines found no reader and are lost\n").as_bytes());
        }
        state.stamp_line(self.shared.zone.as_ref());
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
        self.tell_error(text);
        match self.shared.state.try_lock() {
            Ok(mut state) => {
                state.stamp_line(self.shared.zone.as_ref());
                state.waiting.extend_from_slice(text.as_bytes());
                state.waiting.push(b'\n');
                self.shared.filled.notify_one();
            }
            Err(_) => eprintln!("{text}"),
        }
    }

    /// From now on a panic of ours is a line in this log, and nothing else writes to its stream.
    pub fn take_panics(&self) {
        let last_words = self.clone();
        panic::set_hook(Box::new(move |panic| {
            last_words.emergency(&format!("error: BUG in start-worker {VERSION}, please report it: {panic}"));
        }));
    }

    fn tell_error(&self, text: &str) {
        if let Some(tell) = &self.shared.tell_error {
            tell(text);
        }
    }

    /// How many bytes have been written so far: a reader is slow while this grows, and gone while it doesn't.
    pub fn progress(&self) -> u64 {
        self.shared.progress.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, for as long as the reader gets on: at most a few seconds without any progress,
    /// and a minute in all.
    pub fn flush(&self) {
        if !self.shared.lock().is_written() {
            self.begin_writing();
        }
        let began = Instant::now();
        let mut progress = self.progress();
        while began.elapsed() < LONGEST_FLUSH {
            let state = self.shared.lock();
            let pending = |state: &mut State| !state.is_written();
            let waited = self.shared.written.wait_timeout_while(state, LAST_FLUSH, pending);
            let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
            drop(state);
            let before = std::mem::replace(&mut progress, self.progress());
            if !result.timed_out() || before == progress {
                return;
            }
        }
    }

    /// Writes what there is, for want of a thread that does.
    fn write_here(&self) {
        let mut state = self.shared.lock();
        let Some(mut sink) = state.sink.take() else { return };
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        write_batch(&mut sink, &waiting, &self.shared.progress);
        self.shared.lock().sink = Some(sink);
        self.shared.drained.notify_waiters();
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.waiting.len() + self.writing < ROOM
    }

    fn is_written(&self) -> bool {
        self.waiting.is_empty() && self.writing == 0
    }

    /// What a line begins with that is written now.
    fn stamp(stamp: &mut Stamp, zone: Option<&TimeZone>, out: &mut Vec<u8>) {
        if let Some(zone) = zone {
            out.extend_from_slice(stamp.at(Timestamp::now(), zone).as_bytes());
        }
    }

    fn stamp_line(&mut self, zone: Option<&TimeZone>) {
        Self::stamp(&mut self.stamp, zone, &mut self.waiting);
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
        batch.shrink_to(2 * ROOM);
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

/// Makes `log` the place where our `tracing` events of this level and above go, and `timeline` the one where its spans go.
///
/// # Errors
/// Where another subscriber is there.
pub fn install(log: &LogStream, level: Level, timeline: Option<Timeline>) -> Result<(), SetGlobalDefaultError> {
    let lines = OwnLines { log: log.clone(), level };
    match timeline {
        Some(timeline) => {
            let ours = filter_fn(move |metadata| is_ours(metadata, level)).with_max_level_hint(level);
            let spans = timeline.with_filter(Timeline::filter());
            set_global_default(tracing_subscriber::registry().with(lines.with_filter(ours)).with(spans))
        }
        // A registry takes memory for spans, and a layer that isn't there would still have each of them made.
        None => set_global_default(lines),
    }
}

fn is_ours(metadata: &Metadata<'_>, level: Level) -> bool {
    *metadata.level() <= level && OUR_TARGETS.iter().any(|target| metadata.target().starts_with(target))
}

/// Our events, as lines of the log: a word for what is no plain information, the message, then ` key=value`.
struct OwnLines {
    log: LogStream,
    level: Level,
}

impl OwnLines {
    fn write(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let mut text = String::from(match level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        });
        event.record(&mut Fields(&mut text));
        let text = text.trim_end_matches('\n').replace("\r\n", "\n");
        let text = without_control(&text);
        // What has several lines (an error with its causes) gets a time on each.
        for line in text.split('\n') {
            self.log.own_line(line);
        }
        if level == Level::ERROR {
            self.log.tell_error(&text);
        }
    }
}

/// Without what would move a terminal's cursor or change its colours: a name that is quoted may hold anything.
fn without_control(text: &str) -> Cow<'_, str> {
    let is_meant = |character: char| !character.is_control() || matches!(character, '\n' | '\t');
    if text.chars().all(is_meant) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_meant(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_default());
        }
    }
    escaped.into()
}

/// Without a timeline. No span is enabled, so none is ever made, entered or ended.
impl Subscriber for OwnLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && is_ours(metadata, self.level)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        self.write(event);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Beside a timeline.
impl<S: Subscriber> Layer<S> for OwnLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.write(event);
    }
}

/// What an event says, as text.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A string takes all that is written to it.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
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
        let stream = LogStream::new(Channel(lines, wait), LogOptions { times: true, tell_error: None });
        stream.begin_writing();
        let mut batch = Batch::default();
        let mut has_room = true;
        while has_room {
            stream.begin(&mut batch);
            batch.line(&[b'x'; 1000]);
            has_room = stream.add(&mut batch);
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
    fn lines_have_a_time_each_or_none_at_all() {
        for times in [true, false] {
            let (lines, read) = mpsc::channel();
            let (go, wait) = mpsc::channel();
            drop(go);
            let stream = LogStream::new(Channel(lines, wait), LogOptions { times, tell_error: None });
            let mut batch = Batch::default();
            stream.begin(&mut batch);
            batch.lines(b"one\r\n\n");
            batch.lines(b"two\n");
            batch.line(b"three");
            stream.add(&mut batch);
            stream.own_line("four");
            assert_eq!(stream.progress(), 0, "nobody has begun to write");
            stream.flush();
            let text = String::from_utf8(read.try_iter().flatten().collect()).unwrap();
            let stamp = if times { "2026/11/20 20:38:28 ".len() } else { 0 };
            let texts: Vec<&str> = text.lines().map(|line| &line[stamp..]).collect();
            assert_eq!(texts, ["one", "", "two", "three", "four"]);
        }
    }

    #[test]
    fn without_a_thread_lines_are_written_by_whoever_asks_for_it() {
        let (lines, read) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        drop(go);
        let stream = LogStream::new(Channel(lines, wait), LogOptions { times: false, tell_error: None });
        for line in ["one", "two"] {
            stream.own_line(line);
            stream.write_here();
            assert_eq!(read.try_iter().flatten().collect::<Vec<u8>>(), format!("{line}\n").into_bytes());
        }
        stream.own_line("three");
        stream.begin_writing();
        stream.flush();
        assert_eq!(read.try_iter().flatten().collect::<Vec<u8>>(), b"three\n", "a thread could be had after all");
    }

    #[test]
    fn an_event_is_a_line_and_never_more_than_text() {
        let (lines, read) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        drop(go);
        let stream = LogStream::new(Channel(lines, wait), LogOptions { times: false, tell_error: None });
        tracing::subscriber::with_default(OwnLines { log: stream.clone(), level: Level::DEBUG }, || {
            tracing::info!("a machine named {:?} and {}", "a", "b\u{1b}[2Jc\rd\te\r\nf");
            tracing::error!("one\n  two\n");
            tracing::warn!(count = 3, "counted");
            tracing::debug!("{}", "x");
            tracing::trace!("too much");
            tracing::info!(target: "hyper::client", "not ours");
            tracing::info_span!("a span").in_scope(|| tracing::info!("inside"));
        });
        stream.flush();
        let text = String::from_utf8(read.try_iter().flatten().collect()).unwrap();
        let expected = "a machine named \"a\" and b\\u{1b}[2Jc\\rd\te\nf\nerror: one\n  two\nwarning: counted count=3\ndebug: x\ninside\n";
        assert_eq!(text, expected);
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
        let stream = LogStream::new(Broken, LogOptions { times: true, tell_error: None });
        for _ in 0..3 {
            stream.own_line("x");
            stream.flush();
        }
    }
}
