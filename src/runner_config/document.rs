//! A YAML or JSON text as a tree that knows where each value stood.
//!
//! JSON is read as the part of YAML that it is. Scalars mean what the Go program's YAML library takes them for:
//! YAML 1.2's core schema, with `0x`, `0o`, `0b` and leading-zero octal integers and `_` between digits.

use crate::json::object;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde::de::IgnoredAny;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

/// Values may be nested this deep.
const MAX_DEPTH: usize = 100;

/// Aliases may copy this much in all, in values and in bytes of text: more is a bomb.
const MAX_COPIES: usize = 1_000_000;
const MAX_COPIED_BYTES: usize = 64 * 1024 * 1024;

/// A place in the text. Both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where.
    pub at: Position,
    /// What.
    pub content: Content,
}

/// What a [`Node`] is.
#[derive(Debug, Clone)]
pub enum Content {
    /// A scalar; `plain` is its text as it stands there, where it was not quoted.
    Scalar {
        /// What it means.
        value: Value,
        /// How it was written.
        plain: Option<Box<str>>,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the text, merge keys resolved, each key once.
    Mapping(Vec<Entry>),
}

/// One member of a mapping.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub at: Position,
    /// The value.
    pub node: Node,
}

/// Why a text is no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where.
    pub at: Position,
    /// What is wrong.
    pub problem: String,
}

impl Node {
    /// The value without its positions.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar { value, .. } => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Mapping(entries) => Value::Object(to_map(entries)),
        }
    }

    /// What kind of value it is, for messages. Never the value itself: it may be a secret.
    pub fn describe(&self) -> &'static str {
        match &self.content {
            Content::Scalar { value: Value::Null, .. } => "nothing",
            Content::Scalar { value: Value::Bool(_), .. } => "a boolean",
            Content::Scalar { value: Value::Number(_), .. } => "a number",
            Content::Scalar { .. } => "a string",
            Content::List(_) => "a list",
            Content::Mapping(_) => "a mapping",
        }
    }

    /// A member of a mapping.
    pub fn member(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            Content::Scalar { .. } | Content::List(_) => None,
        }
    }

    fn size(&self) -> Size {
        match &self.content {
            Content::Scalar { value, .. } => Size { values: 1, bytes: value.as_str().map_or(8, str::len), depth: 0 },
            Content::List(items) => items.iter().map(Self::size).fold(Size::ONE, Size::around),
            Content::Mapping(entries) => entries
                .iter()
                .map(|entry| Size { bytes: entry.key.len(), ..Size::default() }.plus(entry.node.size()))
                .fold(Size::ONE, Size::around),
        }
    }
}

/// How much a node holds.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    values: usize,
    bytes: usize,
    depth: usize,
}

impl Size {
    const ONE: Self = Self { values: 1, bytes: 0, depth: 0 };

    fn plus(self, other: Self) -> Self {
        Self { values: self.values + other.values, bytes: self.bytes + other.bytes, depth: self.depth.max(other.depth) }
    }

    fn around(self, inner: Self) -> Self {
        self.plus(Self { depth: inner.depth + 1, ..inner })
    }
}

/// A document, and what is wrong with it that doesn't keep it from being read.
#[derive(Debug)]
pub struct Document {
    /// The document.
    pub root: Node,
    /// Keys that stand twice, tags that are not known, numbers that JSON has no word for: with the path of each.
    pub mistakes: Vec<(String, SyntaxError)>,
}

/// The members of a mapping as JSON.
pub fn to_map(entries: &[Entry]) -> Map<String, Value> {
    object(entries.iter().map(|entry| (&entry.key, entry.node.to_value())))
}

/// Reads a text that is one mapping without mistakes; or what is wrong with it, and where.
///
/// # Errors
/// The first mistake, or that it is no mapping.
pub fn parse_mapping(text: &str) -> Result<Map<String, Value>, String> {
    let at = |error: &SyntaxError| format!("line {}, column {}: {}", error.at.line, error.at.column, error.problem);
    let document = parse(text.trim_start_matches('\u{feff}')).map_err(|error| at(&error))?;
    if let Some((_, mistake)) = document.mistakes.first() {
        return Err(at(mistake));
    }
    match document.root.to_value() {
        Value::Object(document) => Ok(document),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err("it holds no mapping".to_owned())
        }
    }
}

/// Reads the one document of a text.
///
/// # Errors
/// What is no YAML, and a second document.
pub fn parse(text: &str) -> Result<Document, SyntaxError> {
    let text = join_surrogates(text);
    let mut builder = Builder {
        parser: Parser::new_from_str(&text),
        anchors: HashMap::new(),
        copied: Size::default(),
        path: Vec::new(),
        mistakes: Vec::new(),
    };
    let root = builder.document()?;
    Ok(Document { root, mistakes: builder.mistakes })
}

/// JSON writes a character outside the basic plane as two escapes (`\ud83d\ude00`), YAML as one (`\U0001f600`). Only
/// where the text is JSON: elsewhere a backslash may be no escape.
fn join_surrogates(text: &str) -> Cow<'_, str> {
    let looks_like_json = text.trim_start().starts_with('{') && (text.contains("\\ud") || text.contains("\\uD"));
    if !looks_like_json || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return text.into();
    }
    let (mut joined, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        joined.push_str(before);
        let unit = |at: usize| {
            let escape = escape.get(at..at + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(escape, 16).ok()
        };
        let pair = unit(0).zip(unit(6)).and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok());
        rest = match pair.filter(|character| u32::from(*character) > 0xffff) {
            Some(character) => {
                let _ = write!(joined, "\\U{:08x}", u32::from(character));
                &escape[12..]
            }
            // The backslash and what it escapes: the second of two is no escape of its own.
            None => {
                let end = escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end);
                joined.push_str(&escape[..end]);
                &escape[end..]
            }
        };
    }
    joined.push_str(rest);
    joined.into()
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    copied: Size,
    path: Vec<String>,
    mistakes: Vec<(String, SyntaxError)>,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Position), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, position(&span))),
            Some(Err(error)) => Err(syntax_error(&error)),
            None => Ok((Event::StreamEnd, Position { line: 1, column: 1 })),
        }
    }

    fn document(&mut self) -> Result<Node, SyntaxError> {
        let mut root = None;
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentEnd | Event::Nothing, _) => {}
                (Event::DocumentStart(_), at) => {
                    if root.is_some() {
                        return Err(error(at, "a second document begins here: the file must hold one"));
                    }
                }
                (Event::StreamEnd, at) => {
                    return Ok(
                        root.unwrap_or(Node { at, content: Content::Scalar { value: Value::Null, plain: None } })
                    );
                }
                (event, at) => root = Some(self.node(event, at, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, at: Position, depth: usize) -> Result<Node, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(error(at, format!("values are nested more than {MAX_DEPTH} deep")));
        }
        let (anchor, content) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, self.scalar(text, style, tag.as_deref(), at)),
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_ref(), "seq", at);
                (anchor, self.list(depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_ref(), "map", at);
                (anchor, self.mapping(depth)?)
            }
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(error(at, "a value is missing here")),
        };
        let node = Node { at, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, at: Position, depth: usize) -> Result<Node, SyntaxError> {
        let node = self.anchors.get(&anchor).ok_or_else(|| error(at, "this alias names no anchor before it"))?;
        let size = node.size();
        self.copied = self.copied.plus(size);
        if self.copied.values > MAX_COPIES || self.copied.bytes > MAX_COPIED_BYTES {
            return Err(error(at, format!("aliases copy more than {MAX_COPIES} values or 64 MiB")));
        }
        if depth + size.depth > MAX_DEPTH {
            return Err(error(at, format!("values are nested more than {MAX_DEPTH} deep")));
        }
        Ok(Node { at, ..node.clone() })
    }

    /// Notes a mistake that doesn't keep the rest from being read.
    fn mistake(&mut self, at: Position, problem: impl Into<String>) {
        self.mistakes.push((self.path.join("."), error(at, problem)));
    }

    fn refuse_tag(&mut self, tag: Option<&Cow<'_, Tag>>, own: &str, at: Position) {
        if tag.is_some_and(|tag| !(tag.is_yaml_core_schema() && tag.suffix == own)) {
            self.mistake(at, UNKNOWN_TAG);
        }
    }

    fn scalar(&mut self, text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Content {
        let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
        let plain = match (tag, core) {
            (Some(_), Some("int" | "float" | "bool" | "null")) => true,
            (None, _) => style == ScalarStyle::Plain,
            (Some(_), Some("str")) => false,
            (Some(_), _) => {
                self.mistake(at, UNKNOWN_TAG);
                false
            }
        };
        if !plain {
            return string(text);
        }
        let Some(value) = plain_scalar(&text) else {
            self.mistake(at, "JSON has no word for this number");
            return string(text);
        };
        let value = match (core, value.as_f64().and_then(number)) {
            (Some("float"), Some(number)) => Value::Number(number),
            (_, _) => value,
        };
        let plain = (!value.is_string()).then(|| text.into_owned().into_boxed_str());
        Content::Scalar { value, plain }
    }

    fn list(&mut self, depth: usize) -> Result<Content, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::List(items)),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Content, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        loop {
            let (event, at) = self.next()?;
            let Some((key, is_merge)) = self.key(event, at)? else { break };
            self.path.push(presentable(&key).to_owned());
            let again = !seen.insert(key.clone());
            if again {
                self.mistake(at, "this key stands here for the second time");
            }
            let (event, value_at) = self.next()?;
            let node = self.node(event, value_at, depth + 1)?;
            self.path.pop();
            match (is_merge, again) {
                (true, _) => merged.push(node),
                (false, false) => entries.push(Entry { key, at, node }),
                (false, true) => {}
            }
        }
        for node in merged {
            merge_into(&mut entries, &mut seen, node)?;
        }
        Ok(Content::Mapping(entries))
    }

    /// A key, and whether it is a merge key; `None` at the end of the mapping.
    fn key(&mut self, event: Event<'t>, at: Position) -> Result<Option<(String, bool)>, SyntaxError> {
        match event {
            Event::MappingEnd => Ok(None),
            Event::Scalar(text, style, anchor, tag) => {
                let merge_tag = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "merge");
                if !merge_tag {
                    self.refuse_tag(tag.as_ref(), "str", at);
                }
                if anchor != 0 {
                    self.anchors.insert(anchor, Node { at, content: string(text.clone()) });
                }
                let is_merge = text == "<<" && (merge_tag || style == ScalarStyle::Plain);
                Ok(Some((text.into_owned(), is_merge)))
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).map(|node| &node.content) {
                Some(Content::Scalar { value: Value::String(text), .. }) => Ok(Some((text.clone(), false))),
                Some(Content::Scalar { plain: Some(text), .. }) => Ok(Some((text.to_string(), false))),
                Some(_) | None => Err(error(at, "a key must be a string")),
            },
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..) => Err(error(at, "a key must be a string")),
        }
    }
}

/// A tag may be a secret behind a slipped exclamation mark, so it is not shown.
const UNKNOWN_TAG: &str = "this tag is not known here";

/// A key as it may be shown: one of another shape may be a secret that lacks the space before it.
pub fn presentable(key: &str) -> &str {
    let shape = |key: &str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_<.".contains(&byte));
    if (1..=40).contains(&key.len()) && shape(key) { key } else { "(a key of another shape)" }
}

/// Merge keys: <https://yaml.org/type/merge.html>. Keys that are there win, and so does the earlier mapping.
fn merge_into(entries: &mut Vec<Entry>, seen: &mut HashSet<String>, node: Node) -> Result<(), SyntaxError> {
    match node.content {
        Content::Mapping(others) => {
            for entry in others {
                if seen.insert(entry.key.clone()) {
                    entries.push(entry);
                }
            }
            Ok(())
        }
        Content::List(nodes) if nodes.iter().all(|node| matches!(node.content, Content::Mapping(_))) => {
            nodes.into_iter().try_for_each(|node| merge_into(entries, seen, node))
        }
        Content::List(_) | Content::Scalar { .. } => {
            Err(error(node.at, "a merge key `<<` takes a mapping or a list of mappings"))
        }
    }
}

/// What an unquoted scalar means; `None` for infinity and the like.
fn plain_scalar(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf" | "-.INF" | ".nan" | ".NaN"
        | ".NAN" => return None,
        _ => {}
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return Some(Value::from(text));
    }
    match integer(text).or_else(|| float(text)) {
        Some(number) => Some(Value::Number(number)),
        None => Some(Value::from(text)),
    }
}

fn integer(text: &str) -> Option<Number> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative { Some(0_i64.checked_sub_unsigned(magnitude)?.into()) } else { Some(magnitude.into()) }
}

fn float(text: &str) -> Option<Number> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    let valid = digits.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && digits.bytes().any(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().ok()).flatten().and_then(number)
}

/// A whole one is an integer, as it is in JSON that Go writes: its programs take no `3600.0` for one.
fn number(float: f64) -> Option<Number> {
    /// From here on not every integer is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if float.fract() == 0.0 && float.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole, and below that")]
        return Some(Number::from(float as i64));
    }
    Number::from_f64(float)
}

fn string(text: Cow<'_, str>) -> Content {
    Content::Scalar { value: text.into_owned().into(), plain: None }
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn syntax_error(scan: &ScanError) -> SyntaxError {
    let at = Position { line: scan.marker().line().max(1), column: scan.marker().col() + 1 };
    error(at, scan.info())
}

fn error(at: Position, problem: impl Into<String>) -> SyntaxError {
    SyntaxError { at, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        let document = parse(text).unwrap();
        assert!(document.mistakes.is_empty(), "{:?}", document.mistakes);
        document.root.to_value()
    }

    #[test]
    fn scalars_mean_what_the_go_program_takes_them_for() {
        let table = [
            ("9223372036854775807", json!(i64::MAX)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("9007199254740993", json!(9_007_199_254_740_993_u64)),
            ("1.0", json!(1)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("0x10", json!(16)),
            ("0o17", json!(15)),
            ("017", json!(15)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("1_000.5", json!(1000.5)),
            ("!!float 1", json!(1)),
            ("089", json!(89)),
            ("yes", json!("yes")),
            ("on", json!("on")),
            ("True", json!(true)),
            ("~", json!(null)),
            ("\"1\"", json!("1")),
            ("'true'", json!("true")),
            ("!!str 1", json!("1")),
            ("2026-11-20", json!("2026-11-20")),
            ("1.2.3", json!("1.2.3")),
            ("-", json!([null])),
            ("+1", json!(1)),
        ];
        for (text, expected) in table {
            assert_eq!(value(text), expected, "{text}");
        }
        assert!(value("1.0").is_u64() && value("1e300").is_f64() && value("-0.0") == json!(0));
    }

    #[test]
    fn json_is_read_as_it_is_with_tabs_escapes_and_crlf() {
        let text = "{\r\n\t\"a\": [1, -2.5, true, null, \"\\u00e4\\n\\/\"],\r\n\t\"b\": {\"c\": \"x: y # z\"}\r\n}\r\n";
        assert_eq!(value(text), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn json_surrogate_pairs_are_one_character() {
        for text in [r#"{"a": "\ud83d\ude00 \u00e4"}"#, r#"{"a": "\\ud83d\\ude00"}"#, r#"{"a": "\\\uD83D\uDE00"}"#] {
            assert_eq!(value(text), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn anchors_and_merge_keys_work_and_explicit_keys_win() {
        let text =
            "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: 4}\nuse:\n  <<: [*base, *other]\n  a: 9\nagain: *base\n";
        assert_eq!(value(text)["use"], json!({"a": 9, "b": 2, "c": 4}));
        assert_eq!(value(text)["again"], json!({"a": 1, "b": 2}));
        assert_eq!(value("a: &a {x: 1}\nb:\n  !!merge <<: *a\n")["b"], json!({"x": 1}));
        assert_eq!(value("&k key: 1\nb: {*k : 2}\n")["b"], json!({"key": 2}));
    }

    #[test]
    fn mistakes_are_collected_with_their_paths() {
        let document = parse("a:\n  b: 1\n  b: 2\nc: !canary x\nd: [.inf]\n").unwrap();
        let found: Vec<_> = document
            .mistakes
            .iter()
            .map(|(path, mistake)| (path.as_str(), mistake.at.line, mistake.problem.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("a.b", 3, "this key stands here for the second time"),
                ("c", 4, "this tag is not known here"),
                ("d", 5, "JSON has no word for this number"),
            ]
        );
        assert_eq!(document.root.to_value()["a"]["b"], 1);
    }

    #[test]
    fn what_is_no_document_is_named_with_its_place() {
        let table = [
            ("a: 1\n---\nb: 2\n", 2, 1, "a second document begins here: the file must hold one"),
            ("a:\n  <<: 1\n", 2, 7, "a merge key `<<` takes a mapping or a list of mappings"),
        ];
        for (text, line, column, problem) in table {
            let error = parse(text).unwrap_err();
            assert_eq!((error.at.line, error.at.column, &*error.problem), (line, column, problem), "{text}");
        }
        for text in ["a: [1", "a: *nothing", "\"x", "a: b: c"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            let _ = writeln!(text, "a{level}: &a{level} [{}]", vec![previous; 10].join(", "));
        }
        assert!(parse(&text).unwrap_err().problem.contains("aliases copy"));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000_000), vec!["*a"; 100].join(", "));
        assert!(parse(&long).unwrap_err().problem.contains("aliases copy"));
        let mut deep = String::from("a0: &a0 [1]\n");
        for level in 1..300 {
            let _ = writeln!(deep, "a{level}: &a{level} [*a{}]", level - 1);
        }
        assert!(parse(&deep).unwrap_err().problem.contains("nested more than"));
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}x", "- ".repeat(10_000))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}:,&*!|>'\"%@`#\\- \n\ta-c0-9<~.]{0,80}") {
            let _ = parse(&text);
        }
    }
}
