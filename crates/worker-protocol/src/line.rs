//! Cuts a byte stream into lines. Linear in time, bounded in memory, and no byte is ever refused.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A message may be this long, in bytes, without its newline. A longer one is log text.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// A line of log text longer than this, in bytes, is passed on in pieces of at most this size.
pub const MAX_PIECE: usize = 64 * 1024;

/// How much is read at once, in bytes: at first, and from a source that has always had that much.
const SMALLEST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 256 * 1024;

/// How a message begins.
pub const MESSAGE_PREFIX: &[u8] = b"~{";

/// What [`LineReader::next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The bytes, without the newline and without a carriage return before it.
    pub bytes: &'a [u8],
    /// Whether this is a piece of a line that was too long to hold: never a message.
    pub fragment: bool,
}

/// Reads lines from a stream.
///
/// Holds at most [`MAX_MESSAGE`] and one read beyond it. Every future it returns may be dropped at any time
/// without losing a byte.
#[derive(Debug)]
pub struct LineReader<R> {
    source: R,
    held: Held,
}

/// What was read and not yet passed on. No part of the generic type, so that it is compiled here, with speed in mind.
#[derive(Debug)]
struct Held {
    buffer: Vec<u8>,
    /// `buffer[start..end]` is it.
    start: usize,
    end: usize,
    /// `buffer[start..start + scanned]` holds no newline.
    scanned: usize,
    /// The bytes at `start` go on with a line whose beginning was passed on already.
    continuing: bool,
    at_end: bool,
    /// How much is read at once: little from a source that says little.
    reads: usize,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// A reader at the beginning of a line.
    pub fn new(source: R) -> Self {
        let held = Held {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            scanned: 0,
            continuing: false,
            at_end: false,
            reads: SMALLEST_READ,
        };
        Self { source, held }
    }

    /// The next line, or piece of one; `None` at the end of the stream. A last line without newline counts.
    ///
    /// # Errors
    /// What reading from the stream answers.
    pub async fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            match self.held.find() {
                Some(found) => return Ok(Some(self.held.take(found))),
                None if self.held.at_end => return Ok(None),
                None => self.fill().await?,
            }
        }
    }

    /// The next line, or piece of one, of what has been read already. Waits for nothing.
    pub fn next_held(&mut self) -> Option<Line<'_>> {
        let found = self.held.find()?;
        Some(self.held.take(found))
    }

    /// As many whole lines as have been read already and are no message, each with its newline, and none longer than
    /// [`MAX_PIECE`]. They are done with then. None where the next thing is something else: [`Self::next_held`].
    pub fn plain_lines(&mut self) -> Option<&[u8]> {
        self.held.plain_lines()
    }

    /// Whether the stream has ended and all of it was passed on.
    pub const fn is_done(&self) -> bool {
        self.held.at_end && self.held.start == self.held.end
    }

    /// Reads on, once, for [`Self::next_held`] and [`Self::plain_lines`], which have nothing left.
    ///
    /// # Errors
    /// What reading from the stream answers.
    pub async fn fill(&mut self) -> io::Result<()> {
        let room = self.held.room();
        let all = room.len();
        let read = self.source.read(room).await?;
        self.held.filled(read, all);
        Ok(())
    }
}

impl Held {
    fn plain_lines(&mut self) -> Option<&[u8]> {
        if self.continuing {
            return None;
        }
        let held = &self.buffer[self.start..self.end];
        if held.starts_with(MESSAGE_PREFIX) {
            return None;
        }
        // A line that fits is longer than that by its newline.
        let held = &held[..held.len().min(MAX_PIECE + 1)];
        // What holds no newline is not looked at again.
        let scanned = self.scanned.min(held.len());
        let mut lines = &held[..=scanned + memchr::memrchr(b'\n', &held[scanned..])?];
        if let Some(message) = memchr::memmem::find(lines, b"\n~{") {
            lines = &lines[..=message];
        }
        let (begin, length) = (self.start, lines.len());
        self.start += length;
        self.scanned = self.scanned.saturating_sub(length);
        Some(&self.buffer[begin..begin + length])
    }

    /// Looks for the end of the next line, or of the next piece.
    fn find(&mut self) -> Option<Found> {
        let held = &self.buffer[self.start..self.end];
        let limit = if !self.continuing && held.starts_with(MESSAGE_PREFIX) { MAX_MESSAGE } else { MAX_PIECE };
        let newline = memchr::memchr(b'\n', &held[self.scanned..]).map(|at| self.scanned + at);
        match newline {
            Some(at) if at <= limit => {
                Some(Found { length: at, consumed: at + 1, fragment: self.continuing, ends: true })
            }
            None if held.len() <= limit => {
                self.scanned = held.len();
                (self.at_end && !held.is_empty()).then_some(Found {
                    length: held.len(),
                    consumed: held.len(),
                    fragment: self.continuing,
                    ends: true,
                })
            }
            Some(_) | None => {
                let length = character_boundary(held, MAX_PIECE);
                Some(Found { length, consumed: length, fragment: true, ends: false })
            }
        }
    }

    fn take(&mut self, found: Found) -> Line<'_> {
        let begin = self.start;
        self.start += found.consumed;
        self.scanned = self.scanned.saturating_sub(found.consumed);
        self.continuing = !found.ends;
        let mut bytes = &self.buffer[begin..begin + found.length];
        if found.consumed > found.length {
            bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        }
        Line { bytes, fragment: found.fragment }
    }

    /// Where to read to.
    fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // A long message made the buffer grow: let go of that once it has been passed on.
        let wanted = self.end + self.reads;
        if self.buffer.len() < wanted || (self.buffer.len() > 2 * LARGEST_READ && wanted <= 2 * LARGEST_READ) {
            self.buffer.resize(wanted.next_power_of_two(), 0);
            self.buffer.shrink_to_fit();
        }
        &mut self.buffer[self.end..wanted]
    }

    /// So much was read there, where there was room for `all`.
    fn filled(&mut self, read: usize, all: usize) {
        self.end += read;
        self.at_end = read == 0;
        if read == all {
            self.reads = (self.reads * 2).min(LARGEST_READ);
        }
    }
}

/// The end of a line or piece: `length` bytes belong to it, `consumed` are done with.
#[derive(Clone, Copy)]
struct Found {
    length: usize,
    consumed: usize,
    fragment: bool,
    ends: bool,
}

/// The largest cut at or below `limit` that splits no UTF-8 character; `limit` itself where the bytes are no
/// UTF-8 anyway.
fn character_boundary(bytes: &[u8], limit: usize) -> usize {
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (limit.saturating_sub(3)..=limit).rev().find(|cut| !continues(*cut)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the relay reads: whole runs of plain lines, and the rest one by one.
    async fn read_in_runs(input: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut reader = LineReader::new(input);
        let mut lines = Vec::new();
        while !reader.is_done() {
            reader.fill().await.unwrap();
            loop {
                if let Some(run) = reader.plain_lines() {
                    for line in run.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n') {
                        lines.push((line.strip_suffix(b"\r").unwrap_or(line).to_vec(), false));
                    }
                } else if let Some(line) = reader.next_held() {
                    lines.push((line.bytes.to_vec(), line.fragment));
                } else {
                    break;
                }
            }
        }
        lines
    }

    #[test]
    fn runs_of_lines_are_the_same_lines() {
        let mut input = Vec::new();
        for at in 0..3000 {
            match at % 7 {
                0 => input.extend_from_slice(b"~{\"type\":\"shutdown\"}\n"),
                1 => input.extend(std::iter::repeat_n(b'x', at * 50)),
                2 => input.extend_from_slice(b"~\n{\n\n\r\n"),
                _ => input.extend_from_slice(b"a line\r\n"),
            }
        }
        input.extend(std::iter::repeat_n(b'y', MAX_PIECE));
        input.extend_from_slice(b"\nlast");
        let one_by_one = block_on(read_all(&input));
        assert!(one_by_one.iter().any(|(_, fragment)| *fragment));
        assert_eq!(block_on(read_in_runs(&input)), one_by_one);
    }

    async fn read_all(input: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut reader = LineReader::new(input);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            lines.push((line.bytes.to_vec(), line.fragment));
        }
        lines
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn lines_end_at_newlines_and_at_the_end_of_the_stream() {
        let lines = block_on(read_all(b"one\r\n\ntwo\nlast"));
        let texts: Vec<_> = lines.iter().map(|(bytes, _)| std::str::from_utf8(bytes).unwrap()).collect();
        assert_eq!(texts, ["one", "", "two", "last"]);
        assert!(lines.iter().all(|(_, fragment)| !fragment));
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_one_byte_more_makes_it_text() {
        for (length, whole) in [(MAX_MESSAGE, true), (MAX_MESSAGE + 1, false)] {
            let mut input = vec![b'a'; length];
            input[..2].copy_from_slice(MESSAGE_PREFIX);
            input.push(b'\n');
            let lines = block_on(read_all(&input));
            assert_eq!(lines.len() == 1 && !lines[0].1, whole, "{length} bytes");
            assert_eq!(lines.concat_bytes(), input[..length]);
        }
    }

    #[test]
    fn a_piece_never_ends_inside_a_character() {
        let mut input = "a".repeat(MAX_PIECE - 1).into_bytes();
        input.extend("äöü€".repeat(MAX_PIECE).as_bytes());
        for (bytes, _) in block_on(read_all(&input)) {
            assert!(std::str::from_utf8(&bytes).is_ok());
            assert!(bytes.len() <= MAX_PIECE);
        }
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }
    impl ConcatBytes for Vec<(Vec<u8>, bool)> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(bytes, _)| bytes.clone()).collect()
        }
    }

    proptest! {
        /// However the stream is cut into reads, the lines are the same.
        #[test]
        fn reads_of_any_size_give_the_same_lines(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'~'), Just(b'{'), any::<u8>()], 0..400),
            sizes in proptest::collection::vec(1usize..7, 1..20),
        ) {
            let expected: Vec<Vec<u8>> = {
                let mut parts: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
                if parts.last().is_some_and(|last| last.is_empty()) { parts.pop(); }
                let ended = input.last() == Some(&b'\n');
                let count = parts.len();
                parts.iter().enumerate().map(|(at, part)| {
                    let complete = ended || at + 1 < count;
                    if complete { part.strip_suffix(b"\r").unwrap_or(part).to_vec() } else { part.to_vec() }
                }).collect()
            };
            let actual = block_on(async {
                let (mut write, read) = tokio::io::duplex(8);
                let feed = async {
                    let (mut rest, mut sizes) = (&input[..], sizes.iter().cycle());
                    while !rest.is_empty() {
                        let (now, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                        tokio::io::AsyncWriteExt::write_all(&mut write, now).await.unwrap();
                        rest = later;
                    }
                    drop(write);
                };
                let collect = async {
                    let mut reader = LineReader::new(read);
                    let mut lines = Vec::new();
                    while let Some(line) = reader.next().await.unwrap() { lines.push(line.bytes.to_vec()); }
                    lines
                };
                tokio::join!(feed, collect).1
            });
            prop_assert_eq!(actual, expected);
        }
    }
}
