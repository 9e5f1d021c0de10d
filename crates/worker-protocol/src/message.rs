//! The messages, and their form on the wire: `~`, a JSON object with a string `type`, a newline.

use crate::capability::{Capabilities, Capability};
use crate::line::MESSAGE_PREFIX;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

/// One message of either side.
#[derive(Debug, Clone)]
pub enum Message {
    /// Runner to worker, first of all: what the runner can do.
    Welcome {
        /// What the runner offers.
        capabilities: Capabilities,
    },
    /// Worker to runner, the answer to `welcome`: the part of the offer that the worker takes.
    Hello {
        /// What the worker takes. Names that this version doesn't know are left out.
        capabilities: Capabilities,
    },
    /// Worker to runner: a structured log record.
    Log {
        /// The record; `textPayload` is its main text.
        body: Map<String, Value>,
    },
    /// Runner to worker: end.
    GracefulTermination {
        /// Whether running tasks may finish first, or are to be resolved as `worker-shutdown` now.
        finish_tasks: bool,
    },
    /// Runner to worker: from now on use these credentials.
    NewCredentials {
        /// Taskcluster client id.
        client_id: String,
        /// Its access token.
        access_token: SecretString,
        /// For temporary credentials, the certificate: a string that holds JSON.
        certificate: Option<SecretString>,
    },
    /// Worker to runner: tell worker-manager of this error. What is in it becomes public.
    ErrorReport(ErrorReport),
    /// Worker to runner: retire this machine.
    Shutdown,
}

/// What a worker says of an error of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorReport {
    /// A longer text, possibly of many lines.
    pub description: String,
    /// What kind of error, for grouping.
    pub kind: String,
    /// One line.
    pub title: String,
    /// Anything more.
    pub extra: Map<String, Value>,
}

/// The kind of a [`Message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// `welcome`
    Welcome,
    /// `hello`
    Hello,
    /// `log`
    Log,
    /// `graceful-termination`
    GracefulTermination,
    /// `new-credentials`
    NewCredentials,
    /// `error-report`
    ErrorReport,
    /// `shutdown`
    Shutdown,
}

impl MessageKind {
    const ALL: [Self; 7] = [
        Self::Welcome,
        Self::Hello,
        Self::Log,
        Self::GracefulTermination,
        Self::NewCredentials,
        Self::ErrorReport,
        Self::Shutdown,
    ];

    /// The `type` on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Welcome => "welcome",
            Self::Hello => "hello",
            Self::Log => "log",
            Self::GracefulTermination => "graceful-termination",
            Self::NewCredentials => "new-credentials",
            Self::ErrorReport => "error-report",
            Self::Shutdown => "shutdown",
        }
    }

    /// The capability that both sides must have agreed on before this kind is sent; the handshake needs none.
    pub const fn needs(self) -> Option<Capability> {
        match self {
            Self::Welcome | Self::Hello => None,
            Self::Log => Some(Capability::Log),
            Self::GracefulTermination => Some(Capability::GracefulTermination),
            Self::NewCredentials => Some(Capability::NewCredentials),
            Self::ErrorReport => Some(Capability::ErrorReport),
            Self::Shutdown => Some(Capability::Shutdown),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a line turned out to be.
#[derive(Debug)]
pub enum Parsed {
    /// A message of this version of the protocol.
    Message(Message),
    /// A message of a known type whose members are not as the protocol says.
    Malformed(Malformed),
    /// A well-formed message of a type that this version doesn't know. Holds at most the first 64 characters.
    Unknown(String),
    /// No message: log text.
    Text,
}

/// A message of a known type that breaks the protocol. Its text names members and types, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}`: {reason}", kind.name())]
pub struct Malformed {
    /// The type that the message claims.
    pub kind: MessageKind,
    /// What is wrong with it.
    pub reason: String,
}

impl Message {
    /// Which message this is.
    pub const fn kind(&self) -> MessageKind {
        match self {
            Self::Welcome { .. } => MessageKind::Welcome,
            Self::Hello { .. } => MessageKind::Hello,
            Self::Log { .. } => MessageKind::Log,
            Self::GracefulTermination { .. } => MessageKind::GracefulTermination,
            Self::NewCredentials { .. } => MessageKind::NewCredentials,
            Self::ErrorReport(_) => MessageKind::ErrorReport,
            Self::Shutdown => MessageKind::Shutdown,
        }
    }

    /// The message as a line, newline included. Holds secrets in plain where the message does.
    pub fn to_line(&self) -> Vec<u8> {
        let names = |capabilities: &Capabilities| capabilities.iter().map(Capability::name).collect::<Vec<_>>();
        let mut object = match self {
            Self::Welcome { capabilities } | Self::Hello { capabilities } => {
                json!({"capabilities": names(capabilities)})
            }
            Self::Log { body } => json!({"body": body}),
            Self::GracefulTermination { finish_tasks } => json!({"finish-tasks": finish_tasks}),
            Self::NewCredentials { client_id, access_token, certificate } => {
                let mut object = json!({"client-id": client_id, "access-token": access_token.expose_secret()});
                if let Some(certificate) = certificate {
                    object["certificate"] = certificate.expose_secret().into();
                }
                object
            }
            Self::ErrorReport(report) => json!({
                "description": report.description,
                "kind": report.kind,
                "title": report.title,
                "extra": report.extra,
            }),
            Self::Shutdown => json!({}),
        };
        object["type"] = self.kind().name().into();
        format!("~{object}\n").into_bytes()
    }

    /// Reads a line, given without its newline. Never fails: what is no message is text.
    pub fn parse(line: &[u8]) -> Parsed {
        if !line.starts_with(MESSAGE_PREFIX) {
            return Parsed::Text;
        }
        if is_bloated(line) {
            return Parsed::Text;
        }
        let Ok(object) = serde_json::from_slice::<Map<String, Value>>(&line[1..]) else {
            return Parsed::Text;
        };
        let Some(Value::String(name)) = object.get("type") else {
            return Parsed::Text;
        };
        let Some(kind) = MessageKind::from_name(name) else {
            return Parsed::Unknown(name.chars().take(64).collect());
        };
        match Self::from_members(kind, Members(object)) {
            Ok(message) => Parsed::Message(message),
            Err(reason) => Parsed::Malformed(Malformed { kind, reason }),
        }
    }

    fn from_members(kind: MessageKind, mut members: Members) -> Result<Self, String> {
        Ok(match kind {
            MessageKind::Welcome => Self::Welcome { capabilities: members.capabilities()? },
            MessageKind::Hello => Self::Hello { capabilities: members.capabilities()? },
            MessageKind::Log => Self::Log { body: members.object("body")? },
            MessageKind::GracefulTermination => {
                Self::GracefulTermination { finish_tasks: members.boolean("finish-tasks")? }
            }
            MessageKind::NewCredentials => Self::NewCredentials {
                client_id: members.string("client-id")?,
                access_token: members.string("access-token")?.into(),
                certificate: members.optional_string("certificate")?.map(Into::into),
            },
            MessageKind::ErrorReport => Self::ErrorReport(ErrorReport {
                description: members.string("description")?,
                kind: members.string("kind")?,
                title: members.string("title")?,
                extra: members.object("extra")?,
            }),
            MessageKind::Shutdown => Self::Shutdown,
        })
    }
}

/// A message may hold this many objects and lists, and this many values.
pub const MAX_CONTAINERS: usize = 4096;
/// See [`MAX_CONTAINERS`].
pub const MAX_VALUES: usize = 65_536;

/// Whether a line would take far more memory read than it has bytes. Counts brackets and commas wherever they stand.
pub(crate) fn is_bloated(line: &[u8]) -> bool {
    line.len() > MAX_CONTAINERS
        && (memchr::memchr2_iter(b'{', b'[', line).count() > MAX_CONTAINERS
            || memchr::memchr_iter(b',', line).count() > MAX_VALUES)
}

/// The members of a message's object, taken out one by one.
struct Members(Map<String, Value>);

impl Members {
    fn string(&mut self, name: &str) -> Result<String, String> {
        match self.0.remove(name) {
            Some(Value::String(text)) => Ok(text),
            other => Err(mismatch(name, "a string", other.as_ref())),
        }
    }

    /// Absent, null and empty are all "none": the Go program sends an empty certificate.
    fn optional_string(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            other => Err(mismatch(name, "a string", other.as_ref())),
        }
    }

    fn boolean(&mut self, name: &str) -> Result<bool, String> {
        match self.0.remove(name) {
            Some(Value::Bool(value)) => Ok(value),
            other => Err(mismatch(name, "true or false", other.as_ref())),
        }
    }

    fn object(&mut self, name: &str) -> Result<Map<String, Value>, String> {
        match self.0.remove(name) {
            Some(Value::Object(object)) => Ok(object),
            other => Err(mismatch(name, "an object", other.as_ref())),
        }
    }

    fn capabilities(&mut self) -> Result<Capabilities, String> {
        let Some(Value::Array(names)) = self.0.get("capabilities") else {
            return Err(mismatch("capabilities", "a list of strings", self.0.get("capabilities")));
        };
        let mut known = Vec::new();
        for name in names {
            let Value::String(name) = name else {
                return Err(format!("`capabilities` must hold strings only, found {}", type_name(name)));
            };
            known.extend(Capability::from_name(name));
        }
        Ok(known.into_iter().collect())
    }
}

fn mismatch(name: &str, expected: &str, found: Option<&Value>) -> String {
    format!("`{name}` must be {expected}, found {}", found.map_or("nothing", type_name))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reparse(message: &Message) -> Message {
        let line = message.to_line();
        match Message::parse(line.strip_suffix(b"\n").unwrap()) {
            Parsed::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_message_survives_its_own_line() {
        let report = ErrorReport {
            description: "d\nd".into(),
            kind: "k".into(),
            title: "t".into(),
            extra: json!({"a": 18_446_744_073_709_551_615_u64}).as_object().unwrap().clone(),
        };
        let messages = [
            Message::Welcome { capabilities: Capabilities::all() },
            Message::Hello { capabilities: [Capability::Log].into_iter().collect() },
            Message::Log { body: Map::new() },
            Message::GracefulTermination { finish_tasks: true },
            Message::NewCredentials { client_id: "c".into(), access_token: "a".into(), certificate: Some("{}".into()) },
            Message::NewCredentials { client_id: "c".into(), access_token: "a".into(), certificate: None },
            Message::ErrorReport(report),
            Message::Shutdown,
        ];
        for message in messages {
            assert_eq!(reparse(&message).to_line(), message.to_line());
        }
    }

    #[test]
    fn what_is_no_well_formed_message_is_text() {
        for line in [
            "",
            "~",
            "hello",
            "~{",
            "~[]",
            "~{}",
            "{\"type\":\"shutdown\"}",
            "~{\"type\":1}",
            "~{\"type\":null}",
            " ~{\"type\":\"shutdown\"}",
            "~{\"type\":\"shutdown\"} x",
            "~{\"type\":\"shut\u{0}",
        ] {
            assert!(matches!(Message::parse(line.as_bytes()), Parsed::Text), "{line}");
        }
        assert!(matches!(Message::parse(b"~{\"type\":\"\xff\"}"), Parsed::Text));
        let nested = format!("~{{\"type\":\"log\",\"body\":{}", "[".repeat(100_000));
        assert!(matches!(Message::parse(nested.as_bytes()), Parsed::Text));
    }

    #[test]
    fn members_of_the_wrong_type_are_named() {
        let table = [
            (r#"~{"type":"hello"}"#, "`hello`: `capabilities` must be a list of strings, found nothing"),
            (
                r#"~{"type":"hello","capabilities":[1]}"#,
                "`hello`: `capabilities` must hold strings only, found a number",
            ),
            (r#"~{"type":"log","body":"x"}"#, "`log`: `body` must be an object, found a string"),
            (
                r#"~{"type":"error-report","description":"d","kind":"k","title":"t","extra":null}"#,
                "`error-report`: `extra` must be an object, found null",
            ),
            (
                r#"~{"type":"graceful-termination","finish-tasks":"yes"}"#,
                "`graceful-termination`: `finish-tasks` must be true or false, found a string",
            ),
            (
                r#"~{"type":"new-credentials","client-id":"c","access-token":["canary"]}"#,
                "`new-credentials`: `access-token` must be a string, found a list",
            ),
        ];
        for (line, expected) in table {
            match Message::parse(line.as_bytes()) {
                Parsed::Malformed(malformed) => assert_eq!(malformed.to_string(), expected),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn unknown_types_and_capabilities_are_no_error() {
        assert!(matches!(Message::parse(br#"~{"type":"later"}"#), Parsed::Unknown(name) if name == "later"));
        match Message::parse(br#"~{"type":"hello","capabilities":["later","log"]}"#) {
            Parsed::Message(Message::Hello { capabilities }) => {
                assert_eq!(capabilities, [Capability::Log].into_iter().collect());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_that_would_bloat_is_text() {
        let line = format!(r#"~{{"type":"log","body":{{"a":[{}0]}}}}"#, r#"{"":0},"#.repeat(5000));
        assert!(matches!(Message::parse(line.as_bytes()), Parsed::Text));
        let long = format!(r#"~{{"type":"log","body":{{"textPayload":"{}"}}}}"#, "x".repeat(900_000));
        assert!(matches!(Message::parse(long.as_bytes()), Parsed::Message(_)));
    }

    #[test]
    fn debug_output_holds_no_token() {
        let message = Message::NewCredentials {
            client_id: "c".into(),
            access_token: "canary-token".into(),
            certificate: Some("canary-certificate".into()),
        };
        assert!(!format!("{message:?}").contains("canary"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_valid_line(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&bytes);
            let mut prefixed = b"~{\"type\":\"".to_vec();
            prefixed.extend(bytes);
            let _ = Message::parse(&prefixed);
        }
    }
}
