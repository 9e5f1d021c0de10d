//! How far a long answer is: a line on a terminal, which is gone when the answer is there.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How long a line stands before another one takes its place.
const STANDS: Duration = Duration::from_millis(100);

/// The line. It is gone when this is dropped; where no terminal reads, nobody sees it.
pub(super) struct Progress {
    is_seen: bool,
    began: Instant,
    /// When the line was written that stands there now, and how long it is.
    stands: Cell<Option<(Instant, usize)>>,
}

impl Progress {
    pub(super) fn begin() -> Self {
        Self { is_seen: io::stderr().is_terminal(), began: Instant::now(), stands: Cell::new(None) }
    }

    /// So many were found, and nobody knows how many there are.
    pub(super) fn so_far(&self, found: usize) {
        self.write(|| format!("{found} so far"));
    }

    /// So many of all are done.
    pub(super) fn done(&self, done: usize, all: usize) {
        self.write(|| {
            let each = self.began.elapsed().checked_div(u32::try_from(done).unwrap_or(u32::MAX)).unwrap_or_default();
            let left = each.saturating_mul(u32::try_from(all - done).unwrap_or(u32::MAX));
            format!("{done} of {all}, {} s left", left.as_secs())
        });
    }

    fn write(&self, text: impl FnOnce() -> String) {
        if self.is_seen && self.stands.get().is_none_or(|(since, _)| since.elapsed() >= STANDS) {
            self.clear();
            let text = text();
            let _ = write!(io::stderr(), "{text}");
            self.stands.set(Some((Instant::now(), text.len())));
        }
    }

    /// Takes the line away, so that something else can be printed: with spaces, which every terminal knows.
    pub(super) fn clear(&self) {
        if let Some((_, length)) = self.stands.take() {
            let _ = write!(io::stderr(), "\r{:length$}\r", "");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
