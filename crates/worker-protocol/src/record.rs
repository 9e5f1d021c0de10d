//! How a structured log record reads as text: `textPayload` first, then `key: value` by sorted key, joined by
//! `; `. Strings stand bare, everything else as JSON, and an empty record is `{}`.

use crate::line::MESSAGE_PREFIX;
use crate::message::{MessageKind, is_bloated};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io::{self, Write};

/// The member that holds a record's main text.
pub const TEXT_PAYLOAD: &str = "textPayload";

/// Writes the record as one text, without a newline at its end.
///
/// # Errors
/// What writing answers; none for a `Vec<u8>`.
pub fn render(record: &Map<String, Value>, out: &mut impl Write) -> io::Result<()> {
    if record.is_empty() {
        return out.write_all(b"{}");
    }
    // `serde_json::Map` is ordered by key unless a crate in the build asks for insertion order: don't rely on it.
    let mut members: Vec<_> = record.iter().map(|(key, value)| (key.as_str(), value)).collect();
    members.sort_unstable_by_key(|(key, _)| rank(key));
    write_members(members, out, |value, out| match value {
        Value::String(text) => out.write_all(text.as_bytes()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => write_json(value, out),
    })
}

/// The main text first, then by key.
fn rank(key: &str) -> (bool, &str) {
    (key != TEXT_PAYLOAD, key)
}

fn write_members<'a, V, W: Write>(
    members: impl IntoIterator<Item = (&'a str, V)>,
    out: &mut W,
    write_value: impl Fn(V, &mut W) -> io::Result<()>,
) -> io::Result<()> {
    for (at, (key, value)) in members.into_iter().enumerate() {
        if at > 0 {
            out.write_all(b"; ")?;
        }
        if key != TEXT_PAYLOAD {
            out.write_all(key.as_bytes())?;
            out.write_all(b": ")?;
        }
        write_value(value, out)?;
    }
    Ok(())
}

fn write_json(value: &Value, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(out, value).map_err(io::Error::from)
}

/// The record of a `log` message, as it stands in its line: what [`render`] makes of it, without a tree in between.
#[derive(Debug)]
pub struct LogRecord<'a>(Vec<(Cow<'a, str>, Member<'a>)>);

/// A member's value.
#[derive(Debug)]
enum Member<'a> {
    Text(Cow<'a, str>),
    /// `true`, `false`, `null` or a whole number: it reads as it is written.
    Literal(&'a str),
}

impl<'a> LogRecord<'a> {
    /// Reads a line, given without its newline, if it is a `log` message and as most of them are: texts, whole numbers
    /// and truth values, and no member twice. `None` for any other, right or wrong:
    /// [`Message::parse`](crate::Message::parse) says what it is.
    #[inline(never)] // It would be made small, as its caller is, and not fast.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        if !line.starts_with(MESSAGE_PREFIX) || is_bloated(line) {
            return None;
        }
        // No text may hold a control character.
        if has_control_characters(line) {
            return None;
        }
        let text = std::str::from_utf8(line.get(1..)?).ok()?;
        // What is around a record is nearly always one of these, to the letter: that is a fifth of the work less.
        for (before, after) in [(r#"{"type":"log","body":"#, "}"), (r#"{"body":"#, r#","type":"log"}"#)] {
            let mut scanner = Scanner { text, at: before.len() };
            if text.starts_with(before)
                && let Some(record) = scanner.record()
                && text[scanner.at..] == *after
            {
                return Some(record);
            }
        }
        let mut scanner = Scanner { text, at: 0 };
        let (mut is_log, mut record) = (false, None);
        scanner.members(|scanner, name| match &*name {
            "type" if !is_log => {
                is_log = scanner.text()? == MessageKind::Log.name();
                is_log.then_some(())
            }
            "body" if record.is_none() => {
                record = Some(scanner.record()?);
                Some(())
            }
            _ => None,
        })?;
        record.filter(|_| is_log && scanner.at == scanner.text.len())
    }

    /// Writes the record as one text, without a newline at its end.
    #[inline(never)] // As above.
    pub fn render(&self, out: &mut Vec<u8>) {
        if self.0.is_empty() {
            out.extend_from_slice(b"{}");
            return;
        }
        // Writing to memory doesn't fail.
        let _ = write_members(self.0.iter().map(|(key, value)| (&**key, value)), out, |value, out| match value {
            Member::Text(text) => out.write_all(text.as_bytes()),
            Member::Literal(text) => out.write_all(text.as_bytes()),
        });
    }
}

/// Whether a byte is less than a space, eight bytes at a time.
fn has_control_characters(bytes: &[u8]) -> bool {
    const SPACES: u64 = u64::from_ne_bytes([b' '; 8]);
    const HIGHEST: u64 = u64::from_ne_bytes([0x80; 8]);
    // The highest bit of a byte is set where a space was more than it, and it was not set before.
    let has = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        word.wrapping_sub(SPACES) & !word & HIGHEST != 0
    };
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().any(has) || rest.iter().any(|byte| *byte < b' ')
}

/// Reads a JSON text without control characters, from a place on. Whatever it doesn't know is `None`.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        while self.text.as_bytes().get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.text.as_bytes().get(self.at).copied()
    }

    fn token(&mut self, token: u8) -> Option<()> {
        (self.peek()? == token).then(|| self.at += 1)
    }

    /// An object's members, each by what reads its value.
    fn members(&mut self, mut value: impl FnMut(&mut Self, Cow<'a, str>) -> Option<()>) -> Option<()> {
        self.token(b'{')?;
        if self.token(b'}').is_some() {
            return Some(());
        }
        loop {
            let name = self.text()?;
            self.token(b':')?;
            value(self, name)?;
            if self.token(b',').is_none() {
                return self.token(b'}');
            }
        }
    }

    fn record(&mut self) -> Option<LogRecord<'a>> {
        let mut members = Vec::with_capacity(4);
        self.members(|scanner, name| {
            let value = match scanner.peek()? {
                b'"' => Member::Text(scanner.text()?),
                _ => Member::Literal(scanner.literal()?),
            };
            members.push((name, value));
            Some(())
        })?;
        members.sort_unstable_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)));
        members.windows(2).all(|pair| pair[0].0 != pair[1].0).then_some(LogRecord(members))
    }

    fn text(&mut self) -> Option<Cow<'a, str>> {
        self.token(b'"')?;
        let (begin, mut has_escapes) = (self.at, false);
        loop {
            self.at += memchr::memchr2(b'"', b'\\', self.text.as_bytes().get(self.at..)?)?;
            if self.text.as_bytes()[self.at] == b'"' {
                break;
            }
            has_escapes = true;
            self.at += 2;
        }
        let end = self.at;
        self.at += 1;
        match has_escapes {
            true => serde_json::from_str(&self.text[begin - 1..self.at]).map(Cow::Owned).ok(),
            false => Some(Cow::Borrowed(&self.text[begin..end])),
        }
    }

    fn literal(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = &self.text[self.at..];
        let literal = &rest[..rest.bytes().position(|byte| matches!(byte, b',' | b'}' | b' '))?];
        self.at += literal.len();
        let digits = literal.strip_prefix('-').unwrap_or(literal);
        let reads_as_it_is_written = match digits.as_bytes() {
            b"0" => digits.len() == literal.len(),
            // It fits into 64 bits.
            [b'1'..=b'9', rest @ ..] => rest.len() < 18 && rest.iter().all(u8::is_ascii_digit),
            _ => matches!(literal, "true" | "false" | "null"),
        };
        reads_as_it_is_written.then_some(literal)
    }
}

#[cfg(test)]
mod tests {
    use super::{LogRecord, has_control_characters, render};
    use crate::message::{Message, Parsed};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    proptest! {
        /// Most of these are no JSON.
        #[test]
        fn the_short_way_takes_nothing_that_the_long_way_does_not(
            pieces in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
        ) {
            let whole = ["{", r#""type":"log","#, r#""body":"#, "{", r#""a":"x""#, ",", r#""b":-1"#, ",", r#""\u0061":true"#, "}", "}"];
            let others = [
                "", "{", "}", "[", "]", ":", ",", " ", "\"", "\\", r#""\x""#, r#""\ud800""#, r#""\ud83d\ude00""#, "1", "0", "-", "true",
                "null", r#""a""#, r#""a":"#, r#""type":"log""#, "\t", "é",
            ];
            let mut line: Vec<&str> = whole.to_vec();
            for (at, other) in pieces {
                let place = at.index(line.len() + 1);
                match other.index(3) {
                    0 if place < line.len() => drop(line.remove(place)),
                    1 if place < line.len() => line[place] = *other.get(&others),
                    _ => line.insert(place, *other.get(&others)),
                }
            }
            let line = format!("~{}", line.concat());
            let (short, long) = both_ways(line.as_bytes());
            prop_assert!(short.is_none() || short == long, "{} gives {:?} and {:?}", line, short, long);
        }
    }

    #[test]
    fn control_characters_are_found_wherever_they_are() {
        for byte in 0..=u8::MAX {
            for at in 0..17 {
                for others in [b' ', b'~', 0x7f, 0x80, 0xff] {
                    let mut bytes = [others; 17];
                    bytes[at] = byte;
                    assert_eq!(has_control_characters(&bytes), byte < b' ', "{byte} at {at} of {others}");
                }
            }
        }
    }

    #[test]
    fn records_read_as_the_table_says() {
        let table = [
            (json!({}), "{}"),
            (json!({"textPayload": "hello"}), "hello"),
            (json!({"textPayload": "hello", "b": 1, "a": "x"}), "hello; a: x; b: 1"),
            (json!({"b": [1, null], "a": {"c": true}}), r#"a: {"c":true}; b: [1,null]"#),
            (
                json!({"n": 9_007_199_254_740_993_u64, "m": u64::MAX, "i": i64::MIN}),
                "i: -9223372036854775808; m: 18446744073709551615; n: 9007199254740993",
            ),
            (json!({"textPayload": ""}), ""),
        ];
        for (record, expected) in table {
            let mut text = Vec::new();
            render(record.as_object().unwrap(), &mut text).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c\"\\n]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// What the short way makes of a line, and what the long way makes of it.
    fn both_ways(line: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let short = LogRecord::parse(line).map(|record| {
            let mut text = Vec::new();
            record.render(&mut text);
            text
        });
        let Parsed::Message(Message::Log { body }) = Message::parse(line) else { return (short, None) };
        let mut long = Vec::new();
        render(&body, &mut long).unwrap();
        (short, Some(long))
    }

    proptest! {
        #[test]
        fn the_short_way_and_the_long_way_give_the_same_text(
            members in proptest::collection::vec(("[a-b]|textPayload|\\\\u0061", any_value()), 0..6),
            spaced in any::<bool>(),
            type_first in any::<bool>(),
        ) {
            // By hand, for keys may stand there twice.
            let body: Vec<String> = members.iter().map(|(key, value)| format!(r#""{key}":{value}"#)).collect();
            let body = body.join(if spaced { " , " } else { "," });
            let line = match type_first {
                true => format!(r#"~{{"type":"log","body":{{{body}}}}}"#),
                false => format!(r#"~{{"body":{{{body}}},"type":"log"}}"#),
            };
            let (short, long) = both_ways(line.as_bytes());
            prop_assert!(long.is_some(), "{}", line);
            prop_assert!(short.is_none() || short == long, "{} gives {:?} and {:?}", line, short, long);
        }
    }

    /// What is read the short way reads as the long way says.
    #[test]
    fn what_most_workers_write_is_read_the_short_way() {
        let is_short = |line: &str| {
            let (short, long) = both_ways(line.as_bytes());
            assert!(short.is_none() || short == long, "{line}");
            short.is_some()
        };
        for body in [
            "{}",
            r#"{"textPayload":"hello, {world}: [a]"}"#,
            r#"{"b":true,"a":null,"textPayload":"\u00e9\n\"é\\","c":false,"":""}"#,
            r#"{"\u0061":"", "n" : 0, "m": -7 ,"most":999999999999999999,"least":-999999999999999999 }"#,
        ] {
            assert!(is_short(&format!(r#"~{{"type":"log","body":{body}}}"#)), "{body}");
            assert!(is_short(&format!(r#"~{{ "body": {body}, "type": "lo\u0067" }}"#)), "{body}");
        }
        for body in [
            r#"{"a":1,"a":2}"#,
            "{\"a\":\"\t\"}",
            r#"{"a":"\"}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\x"1}"#,
            r#"{"a":"\x" null,"b":1}"#,
            r#"{"a":"\ud800" true}"#,
            r#"{"a":1.0}"#,
            r#"{"a":-0}"#,
            r#"{"a":01}"#,
            r#"{"a":1e3}"#,
            r#"{"a":18446744073709551616}"#,
            r#"{"a":{}}"#,
            r#"{"a":[]}"#,
            r#"{"a":tru}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a"}"#,
            r#"{"a:1}"#,
            r#"{"a":1}}"#,
            r#"{"a":"x"y}"#,
            r#""x""#,
        ] {
            assert!(!is_short(&format!(r#"~{{"type":"log","body":{body}}}"#)), "{body}");
        }
        for line in [
            r#"~{"type":"shutdown"}"#,
            r#"~{"type":"log"}"#,
            r#"~{"type":"log","body":{}} x"#,
            r#"~{"type":"log","body":{},"body":{"a":1}}"#,
            r#"~{"type":"log","type":"log","body":{}}"#,
            r#"~{"type":"log","body":{},"later":1}"#,
            r#"~{"type":1,"body":{}}"#,
            r#"{"type":"log","body":{}}"#,
            r#"~{"body":{}}"#,
            "~{",
        ] {
            assert!(!is_short(line), "{line}");
        }
    }
}
