//! Passes the worker's lines on to the log, in order, and its other messages to the event loop. Never waits for
//! anything but the log's reader and the event loop, which waits for nobody.

use crate::logging::LogStream;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use worker_protocol::line::LineReader;
use worker_protocol::record;
use worker_protocol::{Incoming, Message, MessageReader};

/// After so many lines everybody else has a turn: a worker that floods must not keep a stop from being heard.
const TURN: u32 = 512;

/// How much of a line is kept for a report: more than is shown of it, for secrets are taken out before it is cut.
const LONGEST_KEPT: usize = 4096;

/// What the relay tells others of what it relays. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// How many lines and messages came.
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

    /// How many lines and messages have come.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The last lines.
    pub fn last_lines(&self) -> Vec<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn note(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn keep(&self, line: &[u8]) {
        if self.most == 0 {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == self.most {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line[..line.len().min(LONGEST_KEPT)]).into_owned());
    }
}

/// Relays what the worker writes, until it writes no more.
///
/// # Errors
/// Where the stream can't be read.
pub async fn output(
    stream: impl AsyncRead + Unpin,
    log: LogStream,
    messages: mpsc::Sender<Message>,
    traffic: Traffic,
) -> io::Result<()> {
    let mut reader = MessageReader::new(stream);
    let mut warned = BTreeSet::new();
    let mut scratch = Vec::new();
    let mut lines: u32 = 0;
    while let Some(incoming) = reader.next().await? {
        traffic.note();
        lines = lines.wrapping_add(1);
        let has_room = match incoming {
            Incoming::Text(bytes) => {
                traffic.keep(bytes);
                log.line(|out| push_lossy(out, bytes))
            }
            Incoming::Message(Message::Log { body }) => {
                scratch.clear();
                // Writing to memory doesn't fail.
                let _ = record::render(&body, &mut scratch);
                traffic.keep(&scratch);
                // A record of several lines can't pass for lines of ours: each has its time, as plain text has.
                scratch.split(|byte| *byte == b'\n').fold(true, |_, line| log.line(|out| out.extend_from_slice(line)))
            }
            Incoming::Message(message) => {
                // The event loop is gone once the run is over; the worker's lines still count.
                let _ = messages.send(message).await;
                true
            }
            Incoming::Malformed(malformed) => {
                if warned.insert(malformed.kind.name().to_owned()) {
                    tracing::warn!("the worker sent a malformed message, ignored (said once a kind): {malformed}");
                }
                true
            }
            Incoming::Unknown(name) => {
                if warned.len() < 100 && warned.insert(name.clone()) {
                    tracing::warn!(
                        "the worker sent a message of the unknown type {name:?}, ignored (said once a type)"
                    );
                }
                true
            }
        };
        if !has_room {
            log.room().await;
        } else if lines.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Relays what the worker writes to its standard error, byte for byte, until it writes no more.
///
/// # Errors
/// Where the stream can't be read.
pub async fn errors(stream: impl AsyncRead + Unpin, log: LogStream, traffic: Traffic) -> io::Result<()> {
    let mut reader = LineReader::new(stream);
    let mut lines: u32 = 0;
    while let Some(line) = reader.next().await? {
        traffic.note();
        traffic.keep(line.bytes);
        lines = lines.wrapping_add(1);
        if !log.line(|out| out.extend_from_slice(line.bytes)) {
            log.room().await;
        } else if lines.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

fn push_lossy(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(_) => out.extend_from_slice(bytes),
        Err(_) => out.extend_from_slice(String::from_utf8_lossy(bytes).as_bytes()),
    }
}
