//! What can go wrong in a call, and whether trying again makes sense.

use crate::endpoint::Endpoint;
use crate::json_path::{path_at_end, read_before};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

/// A call that failed. Printed it says which; [`Chain`] adds what happened.
pub struct ApiError {
    /// The call.
    pub endpoint: &'static Endpoint,
    /// Where it was sent, with its query.
    pub url: String,
    /// What happened, to the last try where there were more.
    pub failure: Failure,
    /// Whether an earlier try may have done what was asked for.
    pub(crate) earlier_may_be_done: bool,
}

/// What happened to a call.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection: name resolution, TCP, TLS. The service has seen nothing of the call.
    #[error("no connection")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// A connection that broke. The service may have done what it was asked for.
    #[error("no answer")]
    Transport(#[source] Box<dyn Error + Send + Sync>),
    /// No whole answer within this time.
    #[error("no whole answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// An answer with a status that is no success.
    #[error("{0}")]
    Status(Refusal),
    /// An answer of more bytes than this.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// A success whose body isn't what the API promises.
    #[error("the answer is not as the API promises: {0}")]
    Decode(Decode),
    /// The request could not be made.
    #[error("the request cannot be made: {0}")]
    Request(String),
}

/// An answer with a status that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Taskcluster's own code, such as `InputError`.
    pub code: Option<String>,
    /// The service's message, without the block that echoes the request.
    pub message: String,
    /// What the service says of the request.
    pub request_info: Option<RequestInfo>,
    /// When the service asks to be tried again.
    pub retry_after: Option<Duration>,
    /// The service's clock.
    pub date: Option<SystemTime>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

/// `requestInfo` of a Taskcluster error, without the payload that it echoes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// The API's name of the call.
    pub method: String,
    /// The arguments of its path.
    pub params: BTreeMap<String, String>,
    /// When the service took it.
    pub time: Option<Timestamp>,
}

/// What is wrong with a body. Names fields and types, never values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decode {
    /// The path to the field, such as `credentials.accessToken`; `.` is the whole document.
    pub path: String,
    /// What is missing there, or what was expected.
    pub problem: String,
}

impl fmt::Display for Decode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path == "." { f.write_str(&self.problem) } else { write!(f, "at `{}`: {}", self.path, self.problem) }
    }
}

/// What to do about a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may work later: no answer, 429, 5xx.
    Retry,
    /// The service won't: any other status, an answer that makes no sense.
    Refused,
    /// There is no such thing: 404.
    Absent,
    /// The service says that our clock is off.
    Clock,
}

impl Failure {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Connect(_) | Self::Transport(_) | Self::Timeout(_) => ErrorClass::Retry,
            Self::Status(refusal) => match refusal.status {
                429 | 500..=599 => ErrorClass::Retry,
                404 => ErrorClass::Absent,
                401 if refusal.message.contains("Stale timestamp") => ErrorClass::Clock,
                _ => ErrorClass::Refused,
            },
            Self::TooLarge(_) | Self::Decode(_) | Self::Request(_) => ErrorClass::Refused,
        }
    }

    /// Whether the service has certainly not done what this try asked for.
    pub(crate) fn is_certainly_undone(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Request(_) => true,
            Self::Status(refusal) => (400..500).contains(&refusal.status),
            Self::Transport(_) | Self::Timeout(_) | Self::TooLarge(_) | Self::Decode(_) => false,
        }
    }
}

impl ApiError {
    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        self.failure.class()
    }

    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        self.class() == ErrorClass::Retry
    }

    /// Whether the service has certainly not done what it was asked for, by no try, so that even a call that must not be
    /// made twice can be made again.
    pub fn is_certainly_undone(&self) -> bool {
        !self.earlier_may_be_done && self.failure.is_certainly_undone()
    }

    /// What the service said, where it answered with a status that is no success.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.failure {
            Failure::Status(refusal) => Some(refusal),
            Failure::Connect(_)
            | Failure::Transport(_)
            | Failure::Timeout(_)
            | Failure::TooLarge(_)
            | Failure::Decode(_)
            | Failure::Request(_) => None,
        }
    }

    /// The HTTP status, where there was an answer that is no success.
    pub fn status(&self) -> Option<u16> {
        Some(self.refusal()?.status)
    }

    /// Taskcluster's own code, such as `ResourceNotFound`, where the answer has one.
    pub fn code(&self) -> Option<&str> {
        self.refusal()?.code.as_deref()
    }

    /// When the service asks to be tried again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }
}

impl fmt::Debug for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = format_args!("{}", self.endpoint);
        f.debug_struct("ApiError")
            .field("call", &call)
            .field("url", &self.url)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.endpoint, self.url)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.failure)
    }
}

/// An error and what caused it, in one line.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Reads JSON; what is wrong is described without any value.
///
/// # Errors
/// What is missing or of the wrong type, and where.
pub fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Decode> {
    serde_json::from_slice(bytes).map_err(|error| decode_error(&error, bytes))
}

/// Turns what serde says into what may be printed: serde's own words quote the value that was found, which may
/// be a secret.
fn decode_error(error: &serde_json::Error, json: &[u8]) -> Decode {
    let words = error.to_string();
    let mut read = read_before(error, json);
    let problem = if error.is_syntax() || error.is_eof() {
        format!("it can't be read as JSON (line {}, column {})", error.line(), error.column())
    } else if let Some((_, expected)) = words.rsplit_once(", expected ").filter(|_| is_of_serde(&words)) {
        let expected = expected.rsplit_once(" at line ").map_or(expected, |(expected, _)| expected);
        let expected = format!("expected {expected}");
        let expected = if expected.starts_with("expected struct ") { "expected an object" } else { &expected };
        format!("found {}, {expected}", wrong_type(&words))
    } else if words.starts_with("missing field `") || words.starts_with("duplicate field `") {
        words.split(" at line ").next().unwrap_or_default().to_owned()
    } else {
        // A text that its type refused. serde_json says so when it has read on to what comes next in a list or an object.
        if let [before @ .., b'}' | b']' | b','] = read.trim_ascii_end()
            && before.trim_ascii_end().ends_with(b"\"")
        {
            read = before;
        }
        "its value is not valid".to_owned()
    };
    Decode { path: path_at_end(read), problem }
}

/// Whether these are words of serde's own, and not of a type that refuses a value.
fn is_of_serde(words: &str) -> bool {
    let kinds = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant `", "unknown field `"];
    kinds.into_iter().any(|kind| words.starts_with(kind))
}

/// The type that serde found, out of `invalid type: string "…", expected …`.
fn wrong_type(words: &str) -> &'static str {
    const TYPES: [(&str, &str); 8] = [
        ("string", "a string"),
        ("integer", "an integer"),
        ("floating point", "a number"),
        ("boolean", "a boolean"),
        ("null", "null"),
        ("unit", "null"),
        ("map", "an object"),
        ("sequence", "a list"),
    ];
    let after = words.strip_prefix("invalid type: ").unwrap_or("");
    TYPES.into_iter().find(|(name, _)| after.starts_with(name)).map_or("something else", |(_, shown)| shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        inner: Inner,
    }
    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        number: u32,
        ids: Option<Vec<crate::WorkerPoolId>>,
        id: Option<crate::WorkerPoolId>,
    }

    fn problem(text: &str) -> String {
        from_json::<Outer>(text.as_bytes()).err().unwrap().to_string()
    }

    #[test]
    fn a_wrong_answer_is_described_by_field_and_type_and_never_by_value() {
        assert_eq!(problem("{}"), "missing field `inner`");
        assert_eq!(problem(r#"{"inner":{}}"#), "at `inner`: missing field `number`");
        assert_eq!(problem(r#"{"inner":{"number":"canary"}}"#), "at `inner.number`: found a string, expected u32");
        assert_eq!(problem(r#"{"inner":"canary"}"#), "at `inner`: found a string, expected an object");
        assert_eq!(problem(r#"{"inner":"canary, expected canary"}"#), "at `inner`: found a string, expected an object");
        assert_eq!(problem(r#"{"inner":{"number":1,"number":2}}"#), "at `inner.number`: duplicate field `number`");
        for inner in [r#"{"number":1,"id":"canary"}"#, "{ \"id\" : \"canary\"\n, \"number\":1}"] {
            assert_eq!(problem(&format!("{{\"inner\":{inner}}}")), "at `inner.id`: its value is not valid");
        }
        for ids in [r#"["a/b","canary"]"#, "[ \"a/b\", \"canary\"\n]", r#"["a/b","canary", "a/c"]"#] {
            assert_eq!(
                problem(&format!("{{\"inner\":{{\"ids\":{ids}}}}}")),
                "at `inner.ids[1]`: its value is not valid"
            );
        }
        assert_eq!(problem("<html>canary"), "it can't be read as JSON (line 1, column 1)");
        assert_eq!(problem(r#"{"inner":{"number":1}} canary"#), "it can't be read as JSON (line 1, column 24)");
    }
}
