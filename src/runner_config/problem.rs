//! What is wrong with a runner config: where, what was found, what was expected.

use super::document::Position;
use serde::Serialize;
use std::fmt;

/// Whether a problem stops a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// It doesn't.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// The line, from 1; none for what has no place in the file.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// The key's path, such as `provider.providerType`; empty for the whole file.
    pub path: String,
    /// What was found there. Never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What is expected there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The nearest word that would be valid.
    #[serde(rename = "didYouMean", skip_serializing_if = "Option::is_none")]
    pub did_you_mean: Option<String>,
    /// What it means, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Problem {
    /// An error at a key.
    pub fn error(at: Position, path: impl Into<String>) -> Self {
        Self::at(Severity::Error, at, path)
    }

    /// A warning at a key.
    pub fn warning(at: Position, path: impl Into<String>) -> Self {
        Self::at(Severity::Warning, at, path)
    }

    /// A problem that is in no place of the file.
    pub fn of_file(severity: Severity, note: impl Into<String>) -> Self {
        let at = Position { line: 1, column: 1 };
        Self { line: None, column: None, note: Some(note.into()), ..Self::at(severity, at, "") }
    }

    fn at(severity: Severity, at: Position, path: impl Into<String>) -> Self {
        Self {
            severity,
            line: Some(at.line),
            column: Some(at.column),
            path: path.into(),
            found: None,
            expected: None,
            did_you_mean: None,
            note: None,
        }
    }

    /// Adds what was found.
    #[must_use]
    pub fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }

    /// Adds what is expected.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Adds the nearest of these words, where one is near.
    #[must_use]
    pub fn nearest<'a>(mut self, word: &str, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.did_you_mean = words
            .into_iter()
            .map(|candidate| (strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
            .filter(|(likeness, _)| *likeness > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, candidate)| candidate.to_owned());
        self
    }

    /// By their places; those without one first.
    pub fn sort(problems: &mut [Self]) {
        problems.sort_by_key(|problem| (problem.line, problem.column));
    }

    /// Whether it stops a boot.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Without file, place and severity: `provider.providerType: found `awss`, expected …`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match (&self.found, &self.expected) {
            (Some(found), Some(expected)) => parts.push(format!("found {found}, expected {expected}")),
            (Some(found), None) => parts.push(format!("found {found}")),
            (None, Some(expected)) => parts.push(format!("expected {expected}")),
            (None, None) => {}
        }
        parts.extend(self.note.clone());
        parts.extend(self.did_you_mean.as_ref().map(|word| format!("did you mean `{word}`?")));
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&parts.join("; "))
    }
}
