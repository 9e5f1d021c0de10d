//! The protocol that worker-runner and a Taskcluster worker speak, for both sides.
//!
//! One JSON object a line, written `~{...}`, over the worker's standard input and output or over a pair of
//! pipes. A line that is anything else is log text. `protocol.md` in the repository's root is the
//! specification; this crate is its implementation:
//!
//! * [`mod@line`] cuts a byte stream into lines without ever holding more than a bounded part of one;
//! * [`message`] turns a line into a [`Message`] and back;
//! * [`capability`] is what the two sides agree on first;
//! * [`connection`] reads and writes messages over any asynchronous stream, and keeps what may not be sent yet.
//!
//! It knows no process, no pipe by name and no clock: whoever uses it brings the streams.

pub mod capability;
pub mod connection;
pub mod line;
pub mod message;
pub mod record;

pub use capability::{Capabilities, Capability};
pub use connection::{Incoming, MessageReader, MessageWriter, Outbox, WorkerConnection, WorkerConnectionError};
pub use message::{Malformed, Message, MessageKind, Parsed};
