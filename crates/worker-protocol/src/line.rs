//! Cuts a byte stream into lines. Linear in time, bounded in memory, and no byte is ever refused.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A message may be this long, in bytes, without its newline. A longer one is log text.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// A line of log text longer than this, in bytes, is passed on in pieces of at most this size.
pub const MAX_PIECE: usize = 64 * 1024;

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
    buffer: Vec<u8>,
    /// `buffer[start..end]` is what was read and not yet passed on.
    start: usize,
    end: usize,
    /// `buffer[start..start + scanned]` holds no newline.
    scanned: usize,
    /// The bytes at `start` go on with a line whose beginning was passed on already.
    continuing: bool,
    at_end: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// A reader at the beginning of a line.
    pub fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), start: 0, end: 0, scanned: 0, continuing: false, at_end: false }
    }

    /// The next line, or piece of one; `None` at the end of the stream. A last line without newline counts.
    ///
    /// # Errors
    /// What reading from the stream answers.
    pub async fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            match self.find() {
                Some(found) => return Ok(Some(self.take(found))),
                None if self.at_end => return Ok(None),
                None => self.fill().await?,
            }
        }
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

    async fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // A long message made the buffer grow: let go of that once it has been passed on.
        let wanted = self.end + MAX_PIECE;
        if self.buffer.len() < wanted || (self.buffer.len() > 4 * MAX_PIECE && wanted < 2 * MAX_PIECE) {
            self.buffer.resize(wanted.next_power_of_two(), 0);
            self.buffer.shrink_to_fit();
        }
        let read = self.source.read(&mut self.buffer[self.end..]).await?;
        self.end += read;
        self.at_end = read == 0;
        Ok(())
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
