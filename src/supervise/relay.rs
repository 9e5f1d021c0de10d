//! Passes the worker's lines on to the log, in order, and its other messages to the event loop. Never waits for
//! anything but the log's reader and the event loop, which waits for nobody.

use crate::logging::{Batch, LogStream};
use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use worker_protocol::line::LineReader;
use worker_protocol::message::Parsed;
use worker_protocol::record::LogRecord;
use worker_protocol::{Message, record};

/// Of types that nobody knows so many are told of.
const MOST_UNKNOWN: usize = 100;

/// A longer line is none for a report: what is secret is taken out of whole lines, and half a secret would not be known for one.
const LONGEST_KEPT: usize = 4096;

/// What the relay tells others of what it relays. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Grows with whatever comes: what it was before tells whether anything did.
    count: Arc<AtomicU64>,
    /// The worker's last lines, where they may be part of a report.
    last: Arc<Mutex<VecDeque<String>>>,
    /// How many of them are kept.
    most: usize,
}

impl Traffic {
    /// Keeps that many of the last lines.
    pub fn keeping(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// A number that grows with whatever comes.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The last lines.
    pub fn last_lines(&self) -> Vec<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn note(&self, more: usize) {
        self.count.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// Keeps the last of these lines.
    fn keep(&self, lines: &[u8]) {
        if self.most == 0 {
            return;
        }
        let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
        // Where the first of those that are kept begins.
        let begin = memchr::memrchr_iter(b'\n', lines).nth(self.most - 1).map_or(0, |newline| newline + 1);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines[begin..].split(|byte| *byte == b'\n') {
            if last.len() == self.most {
                last.pop_front();
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            last.push_back(if line.len() > LONGEST_KEPT {
                format!("[a line of {} bytes]", line.len())
            } else {
                String::from_utf8_lossy(line).into_owned()
            });
        }
    }

    /// Keeps that there was a piece of a line.
    fn keep_piece(&self) {
        const PIECE: &str = "[a line too long to be read as one]";
        if self.last.lock().unwrap_or_else(PoisonError::into_inner).back().is_none_or(|last| last != PIECE) {
            self.keep(PIECE.as_bytes());
        }
    }
}

/// Relays what the worker writes, until it writes no more. What is read at once is handed to the log at once, and
/// nothing waits for more to come.
///
/// # Errors
/// Where the stream can't be read.
pub async fn output(
    stream: impl AsyncRead + Unpin,
    log: LogStream,
    messages: mpsc::Sender<Message>,
    traffic: Traffic,
) -> io::Result<()> {
    let mut reader = LineReader::new(stream);
    let mut lines = Lines { log, traffic, batch: Batch::default(), scratch: Vec::new() };
    let mut warned = BTreeSet::new();
    while !reader.is_done() {
        reader.fill().await?;
        lines.begin();
        while let Some(word) = lines.pass_on(&mut reader) {
            // What came before is in the log before anything that this brings about.
            lines.hand_over().await;
            match word {
                Word::Full => {}
                // The event loop is gone once the run is over; the worker's lines still count.
                Word::Message(message) => drop(messages.send(message).await),
                Word::Malformed(kind, problem) => {
                    if warned.insert(kind.to_owned()) {
                        tracing::warn!("the worker sent a malformed message, ignored (said once a kind): {problem}");
                    }
                }
                Word::Unknown(name) => {
                    if warned.len() < MOST_UNKNOWN && warned.insert(name.clone()) {
                        tracing::warn!(
                            "the worker sent a message of the unknown type {name:?}, ignored (said once a type)"
                        );
                    }
                }
            }
            lines.begin();
        }
        lines.hand_over().await;
        // Everybody else has a turn: a worker that floods must not keep a stop from being heard.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Relays what the worker writes to its standard error, byte for byte, until it writes no more.
///
/// # Errors
/// Where the stream can't be read.
pub async fn errors(stream: impl AsyncRead + Unpin, log: LogStream, traffic: Traffic) -> io::Result<()> {
    let mut reader = LineReader::new(stream);
    let mut lines = Lines { log, traffic, batch: Batch::default(), scratch: Vec::new() };
    while !reader.is_done() {
        reader.fill().await?;
        lines.begin();
        while let Some(line) = reader.next_held() {
            lines.add_line(line.bytes, line.fragment);
            if lines.batch.is_full() {
                lines.hand_over().await;
                lines.begin();
            }
        }
        lines.hand_over().await;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// What of the worker's output is no line for the log.
enum Word {
    /// Nothing: the lines so far are to be handed over first.
    Full,
    Message(Message),
    /// Of which kind, and what is wrong.
    Malformed(&'static str, String),
    Unknown(String),
}

/// The worker's lines on their way into the log.
struct Lines {
    log: LogStream,
    traffic: Traffic,
    batch: Batch,
    /// A record as text.
    scratch: Vec<u8>,
}

/// The same bytes where they are UTF-8, which is found out much faster than what to replace.
fn as_utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    // Most of what workers write is ASCII, which is found out faster still.
    if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
        return Cow::Borrowed(bytes);
    }
    Cow::Owned(String::from_utf8_lossy(bytes).into_owned().into_bytes())
}

impl Lines {
    fn begin(&mut self) {
        self.log.begin(&mut self.batch);
    }

    /// Hands over what there is, and waits for the log's reader where that is too much.
    async fn hand_over(&mut self) {
        if !self.log.add(&mut self.batch) {
            self.log.room().await;
        }
    }

    /// Passes on what was read, up to the next word that is none of the log's; none where nothing is left.
    fn pass_on<R: AsyncRead + Unpin>(&mut self, reader: &mut LineReader<R>) -> Option<Word> {
        loop {
            if self.batch.is_full() {
                return Some(Word::Full);
            }
            if let Some(run) = reader.plain_lines() {
                self.add_lines(run);
                continue;
            }
            let line = reader.next_held()?;
            if line.fragment {
                self.add_text(line.bytes, true);
                continue;
            }
            if let Some(record) = LogRecord::parse(line.bytes) {
                record.render(self.scratch());
                self.add_record();
                continue;
            }
            match Message::parse(line.bytes) {
                Parsed::Text => self.add_text(line.bytes, false),
                Parsed::Message(Message::Log { body }) => {
                    // Writing to memory doesn't fail.
                    let _ = record::render(&body, self.scratch());
                    self.add_record();
                }
                Parsed::Message(message) => {
                    self.traffic.note(1);
                    return Some(Word::Message(message));
                }
                Parsed::Malformed(malformed) => {
                    self.traffic.note(1);
                    return Some(Word::Malformed(malformed.kind.name(), malformed.to_string()));
                }
                Parsed::Unknown(name) => {
                    self.traffic.note(1);
                    return Some(Word::Unknown(name));
                }
            }
        }
    }

    /// Whole lines, each with its newline. What is no UTF-8 is made so.
    fn add_lines(&mut self, lines: &[u8]) {
        let text = as_utf8(lines);
        self.traffic.note(lines.len());
        self.traffic.keep(&text);
        self.batch.lines(&text);
    }

    /// A line or a piece of one, without its newline. What is no UTF-8 is made so.
    fn add_text(&mut self, line: &[u8], is_piece: bool) {
        self.add_line(&as_utf8(line), is_piece);
    }

    /// The same, byte for byte.
    fn add_line(&mut self, line: &[u8], is_piece: bool) {
        self.traffic.note(1);
        match is_piece {
            true => self.traffic.keep_piece(),
            false => self.traffic.keep(line),
        }
        self.batch.line(line);
    }

    /// Where a record is written as text.
    fn scratch(&mut self) -> &mut Vec<u8> {
        self.scratch.clear();
        &mut self.scratch
    }

    fn add_record(&mut self) {
        self.traffic.note(1);
        self.traffic.keep(&self.scratch);
        // A record of several lines can't pass for lines of ours: each has its time, as plain text has.
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', &self.scratch) {
            self.batch.line(&self.scratch[begin..end]);
            begin = end + 1;
        }
        self.batch.line(&self.scratch[begin..]);
    }
}
