//! Takes the members out of a mapping one by one, noting everything that is wrong on the way.

use super::document::{Content, Entry, Node, Position, presentable};
use super::problem::Problem;
use jiff::SignedDuration;
use serde_json::Value;
use std::str::FromStr;
use std::time::Duration;

/// No time in a runner config is longer: a year.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A mapping whose members are being taken.
pub struct Table<'n, 'p> {
    path: String,
    at: Position,
    entries: &'n [Entry],
    known: Vec<&'static str>,
    problems: &'p mut Vec<Problem>,
}

/// A value and where it stood.
#[derive(Debug, Clone)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub at: Position,
    /// The key's path.
    pub path: String,
}

impl<'n, 'p> Table<'n, 'p> {
    /// The mapping that a node is; anything else is noted as a problem.
    pub fn of(node: &'n Node, path: &str, problems: &'p mut Vec<Problem>) -> Option<Self> {
        match &node.content {
            Content::Mapping(entries) => {
                Some(Self { path: path.to_owned(), at: node.at, entries, known: Vec::new(), problems })
            }
            Content::Scalar { .. } | Content::List(_) => {
                problems.push(Problem::error(node.at, path).found(node.describe()).expected("a mapping"));
                None
            }
        }
    }

    /// Notes a problem.
    pub fn note(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// The path of one of its keys.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The mapping under a key; problems in it are noted with the others.
    pub fn table(&mut self, names: &[&'static str]) -> Option<Table<'n, '_>> {
        let entry = self.take(names)?;
        let path = self.path_of(&entry.key);
        Table::of(&entry.node, &path, self.problems)
    }

    /// A member of any type. `names` are its spellings, the usual one first.
    pub fn take(&mut self, names: &[&'static str]) -> Option<&'n Entry> {
        self.known.extend(names);
        let mut found = self.entries.iter().filter(|entry| names.contains(&entry.key.as_str()));
        let first = found.next()?;
        if let Some(second) = found.next() {
            let problem = Problem::error(second.at, self.path_of(presentable(&second.key)))
                .note(format!("this is `{}` again, which stands in line {}", first.key, first.at.line));
            self.problems.push(problem);
        }
        let empty = matches!(first.node.content, Content::Scalar { value: Value::Null, .. });
        (!empty).then_some(first)
    }

    /// A string. Numbers and booleans count as the text they were written as, as the Go program has it.
    pub fn string(&mut self, names: &[&'static str]) -> Option<Spanned<String>> {
        let entry = self.take(names)?;
        let path = self.path_of(&entry.key);
        let value = match &entry.node.content {
            Content::Scalar { value: Value::String(text), .. } => text.clone(),
            Content::Scalar { plain: Some(text), .. } => text.to_string(),
            Content::Scalar { .. } | Content::List(_) | Content::Mapping(_) => {
                let problem = Problem::error(entry.node.at, path).found(entry.node.describe()).expected("a string");
                self.problems.push(problem);
                return None;
            }
        };
        Some(Spanned { value, at: entry.node.at, path })
    }

    /// A string that must be there.
    pub fn required_string(&mut self, names: &[&'static str], expected: &str) -> Option<Spanned<String>> {
        if self.is_absent(names) {
            self.known.extend(names);
            self.missing(names, expected);
            return None;
        }
        let text = self.string(names)?;
        if text.value.is_empty() {
            self.problems.push(Problem::error(text.at, text.path).found("an empty string").expected(expected));
            return None;
        }
        Some(text)
    }

    /// A value with a shape of its own, no secret, that must be there.
    pub fn required<T: FromStr>(&mut self, names: &[&'static str], expected: &str) -> Option<T> {
        let text = self.required_string(names, expected)?;
        if let Ok(value) = text.value.parse() {
            Some(value)
        } else {
            // A URL may hold a password.
            let shown = !text.value.contains('@');
            let found = if shown { format!("`{}`", text.value.escape_debug()) } else { "something else".into() };
            self.problems.push(Problem::error(text.at, text.path).found(found).expected(expected));
            None
        }
    }

    /// One of some words.
    pub fn word<T: Copy>(&mut self, names: &[&'static str], words: &[(&'static str, T)]) -> Option<T> {
        let expected = one_of(words.iter().map(|(word, _)| *word));
        let text = self.required_string(names, &expected)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(*value);
        }
        let problem = Problem::error(text.at, text.path)
            .found(format!("`{}`", text.value.escape_debug()))
            .expected(expected)
            .nearest(&text.value, words.iter().map(|(word, _)| *word));
        self.problems.push(problem);
        None
    }

    /// One of some words, if it is there.
    pub fn optional_word<T: Copy>(&mut self, name: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        if self.is_absent(&[name]) {
            self.known.push(name);
            return None;
        }
        self.word(&[name], words)
    }

    /// Whether a member is there and is neither a list nor a mapping.
    pub fn is_scalar(&self, name: &str) -> bool {
        let found = self.entries.iter().find(|entry| entry.key == name);
        found.is_some_and(|entry| matches!(entry.node.content, Content::Scalar { .. }))
    }

    /// A whole number from 0 to `most`, if it is there.
    pub fn number(&mut self, name: &'static str, most: u64) -> Option<u64> {
        let entry = self.take(&[name])?;
        let value = match &entry.node.content {
            Content::Scalar { value, .. } => value.as_u64().filter(|number| *number <= most),
            Content::List(_) | Content::Mapping(_) => None,
        };
        if value.is_none() {
            let problem = Problem::error(entry.node.at, self.path_of(&entry.key))
                .found(entry.node.describe())
                .expected(format!("a whole number from 0 to {most}"));
            self.problems.push(problem);
        }
        value
    }

    /// A time, if it is there: a number of seconds, or with units, such as `1h 30m`, `80s`, `250ms`.
    pub fn duration(&mut self, name: &'static str) -> Option<(Duration, Position, String)> {
        let entry = self.take(&[name])?;
        let path = self.path_of(&entry.key);
        let value = match &entry.node.content {
            Content::Scalar { value: Value::Number(seconds), .. } => {
                seconds.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            }
            Content::Scalar { value: Value::String(text), .. } => {
                text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok())
            }
            Content::Scalar { .. } | Content::List(_) | Content::Mapping(_) => None,
        };
        if let Some(value) = value.filter(|value| *value <= LONGEST) {
            return Some((value, entry.node.at, path));
        }
        let problem = Problem::error(entry.node.at, path).found(entry.node.describe());
        self.problems.push(problem.expected("a time of at most a year, such as `80s`, `5m`, `1h 30m`, or seconds"));
        None
    }

    /// A boolean, in YAML 1.2's words or in 1.1's.
    pub fn boolean(&mut self, names: &[&'static str]) -> Option<bool> {
        let entry = self.take(names)?;
        let (value, plain) = match &entry.node.content {
            Content::Scalar { value, .. } => (value.as_bool(), value.as_str()),
            Content::List(_) | Content::Mapping(_) => (None, None),
        };
        let word = plain.and_then(|text| match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" => Some(true),
            "no" | "off" | "n" => Some(false),
            _ => None,
        });
        let result = value.or(word);
        if result.is_none() {
            let problem = Problem::error(entry.node.at, self.path_of(&entry.key))
                .found(entry.node.describe())
                .expected("true or false");
            self.problems.push(problem);
        }
        result
    }

    /// Notes that a member is missing.
    pub fn missing(&mut self, names: &[&'static str], expected: &str) {
        let path = self.path_of(names[0]);
        let problem = Problem::error(self.at, path).found("nothing").expected(expected);
        // A key of another spelling is most likely what was meant.
        let strangers: Vec<_> =
            self.entries.iter().map(|entry| presentable(&entry.key)).filter(|key| !self.known.contains(key)).collect();
        let problem = match problem.clone().nearest(names[0], strangers).did_you_mean {
            Some(stranger) => problem.note(format!("`{stranger}` is there: is that a slip of the pen?")),
            None => problem,
        };
        self.problems.push(problem);
    }

    /// Warns of the keys that nobody took.
    pub fn finish(self) {
        for entry in self.entries {
            if !self.known.contains(&entry.key.as_str()) {
                let path = self.path_of(presentable(&entry.key));
                let problem = Problem::warning(entry.at, path)
                    .note("this key is not known and changes nothing")
                    .nearest(&entry.key, self.known.iter().copied());
                self.problems.push(problem);
            }
        }
    }

    fn is_absent(&self, names: &[&'static str]) -> bool {
        !self.entries.iter().any(|entry| {
            names.contains(&entry.key.as_str())
                && !matches!(entry.node.content, Content::Scalar { value: Value::Null, .. })
        })
    }
}

fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}
