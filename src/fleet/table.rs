//! Rows for people and for pipes, and texts that others wrote.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::io::{self, IsTerminal, Write};
use tabwriter::TabWriter;

/// Rows of cells, the first of which is the header.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self(vec![header.iter().map(|&cell| cell.to_owned()).collect()])
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    /// Aligned where a terminal reads, tab-separated otherwise.
    pub(super) fn text(&self) -> String {
        let lines: String = self.0.iter().map(|cells| cells.join("\t") + "\n").collect();
        if io::stdout().is_terminal() { aligned(&lines) } else { lines }
    }
}

fn aligned(lines: &str) -> String {
    let mut writer = TabWriter::new(Vec::new()).padding(2);
    let written = writer.write_all(lines.as_bytes()).and_then(|()| writer.flush());
    let text = written.ok().and_then(|()| writer.into_inner().ok()).and_then(|bytes| String::from_utf8(bytes).ok());
    text.unwrap_or_else(|| lines.to_owned())
}

/// One line without what moves a terminal's cursor, or turns its text around: others wrote it.
pub(super) fn line(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect()
}

/// A time of this machine's zone, to the second.
pub(super) fn time(time: Timestamp) -> String {
    let time = Timestamp::from_second(time.as_second()).unwrap_or(time).to_zoned(TimeZone::system());
    format!("{} {}", time.date(), time.time())
}

/// How long ago, or until when, in its two largest units: `3d 4h`.
pub(super) fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(units.len() - 1);
    let (size, unit) = units[first];
    let begin = format!("{}{unit}", seconds / size);
    match units.get(first + 1) {
        Some((next, unit)) if seconds % size >= *next => format!("{begin} {}{unit}", seconds % size / next),
        Some(_) | None => begin,
    }
}

#[cfg(test)]
mod tests {
    use super::{aligned, line, span};
    use jiff::SignedDuration;

    #[test]
    fn columns_are_aligned_and_texts_are_harmless() {
        assert_eq!(aligned("A\tLONG\nbbb\tc\n"), "A    LONG\nbbb  c\n");
        assert_eq!(line("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e"), "a [2Jb c d e");
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in
            [(-5, "0s"), (59, "59s"), (60, "1m"), (3599, "59m 59s"), (3600, "1h"), (90_000, "1d 1h"), (86_401, "1d")]
        {
            assert_eq!(span(SignedDuration::from_secs(seconds)), text);
        }
    }
}
