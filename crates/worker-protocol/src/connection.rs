//! Messages over any stream: standard input and output, a pipe, or memory.

use crate::capability::{Capabilities, Capability};
use crate::line::LineReader;
use crate::message::{Malformed, Message, MessageKind, Parsed};
use std::collections::VecDeque;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// What came from the other side.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A message.
    Message(Message),
    /// A line, or a piece of a long one, that is log text. Any bytes, without the newline.
    Text(&'a [u8]),
    /// A message of a known type that breaks the protocol.
    Malformed(Malformed),
    /// A message of a type that this version doesn't know.
    Unknown(String),
}

/// Reads messages and text from a stream.
#[derive(Debug)]
pub struct MessageReader<R>(LineReader<R>);

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// A reader at the beginning of the stream.
    pub fn new(source: R) -> Self {
        Self(LineReader::new(source))
    }

    /// The next thing; `None` at the end of the stream. May be dropped without losing a byte.
    ///
    /// # Errors
    /// What reading from the stream answers.
    pub async fn next(&mut self) -> io::Result<Option<Incoming<'_>>> {
        let Some(line) = self.0.next().await? else { return Ok(None) };
        if line.fragment {
            return Ok(Some(Incoming::Text(line.bytes)));
        }
        Ok(Some(match Message::parse(line.bytes) {
            Parsed::Message(message) => Incoming::Message(message),
            Parsed::Malformed(malformed) => Incoming::Malformed(malformed),
            Parsed::Unknown(name) => Incoming::Unknown(name),
            Parsed::Text => Incoming::Text(line.bytes),
        }))
    }
}

/// Writes messages to a stream, each in one write and flushed.
#[derive(Debug)]
pub struct MessageWriter<W>(W);

impl<W: AsyncWrite + Unpin> MessageWriter<W> {
    /// A writer.
    pub fn new(sink: W) -> Self {
        Self(sink)
    }

    /// Writes one message. Waits for as long as the other side doesn't read, so a side that must go on in the
    /// meantime gives this a task of its own.
    ///
    /// # Errors
    /// What writing to the stream answers.
    pub async fn send(&mut self, message: &Message) -> io::Result<()> {
        self.0.write_all(&message.to_line()).await?;
        self.0.flush().await
    }
}

/// What the runner has to say and may not have been able to say yet.
///
/// Pure: no stream, no task. `welcome` may go at once; everything else waits for `hello` and is dropped where
/// the worker can't take it. Of each kind only the newest message is kept, which bounds what a worker that
/// never reads can cost.
#[derive(Debug)]
pub struct Outbox {
    offered: Capabilities,
    agreed: Option<Capabilities>,
    waiting: VecDeque<Message>,
}

impl Outbox {
    /// An outbox that begins with a `welcome` offering these capabilities.
    pub fn new(offered: Capabilities) -> Self {
        let welcome = Message::Welcome { capabilities: offered };
        Self { offered, agreed: None, waiting: VecDeque::from([welcome]) }
    }

    /// Notes the worker's `hello`, which can only narrow what was offered, and returns what holds from now on.
    /// A second `hello` changes nothing.
    pub fn hello(&mut self, capabilities: Capabilities) -> Capabilities {
        *self.agreed.get_or_insert(self.offered.intersection(capabilities))
    }

    /// What was agreed on; `None` before `hello`.
    pub const fn agreed(&self) -> Option<Capabilities> {
        self.agreed
    }

    /// Whether the worker has said hello and can do this.
    pub fn can(&self, capability: Capability) -> bool {
        self.agreed.is_some_and(|agreed| agreed.has(capability))
    }

    /// Puts a message in the queue, in the place of an older one of its kind.
    pub fn push(&mut self, message: Message) {
        self.waiting.retain(|waiting| waiting.kind() != message.kind());
        self.waiting.push_back(message);
    }

    /// Whether [`Outbox::pop`] would return something.
    pub fn is_ready(&self) -> bool {
        self.waiting.iter().any(|message| self.may_send(message.kind()))
    }

    /// The next message that may be sent now. What the worker turned out not to take is dropped.
    pub fn pop(&mut self) -> Option<Message> {
        if self.agreed.is_some() {
            let keep: VecDeque<_> = self
                .waiting
                .drain(..)
                .collect::<Vec<_>>()
                .into_iter()
                .filter(|message| self.may_send(message.kind()))
                .collect();
            self.waiting = keep;
        }
        let at = self.waiting.iter().position(|message| self.may_send(message.kind()))?;
        self.waiting.remove(at)
    }

    fn may_send(&self, kind: MessageKind) -> bool {
        kind.needs().is_none_or(|capability| self.can(capability))
    }
}

/// A worker's end of the protocol: the handshake, then messages both ways.
#[derive(Debug)]
pub struct WorkerConnection<R, W> {
    reader: MessageReader<R>,
    writer: MessageWriter<W>,
    agreed: Capabilities,
}

/// Why a worker's connection failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerConnectionError {
    /// The stream failed.
    #[error("the connection to the runner failed")]
    Stream(#[from] io::Error),
    /// The runner closed the stream before its `welcome`.
    #[error("the runner closed the connection before it said `welcome`")]
    NoWelcome,
    /// The runner doesn't offer what this message needs.
    #[error("the runner did not agree to `{}`", .0.name())]
    NotAgreed(Capability),
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> WorkerConnection<R, W> {
    /// Waits for the runner's `welcome` and answers with the part of its offer that is in `wanted`.
    ///
    /// # Errors
    /// Where the stream fails or ends first.
    pub async fn connect(input: R, output: W, wanted: Capabilities) -> Result<Self, WorkerConnectionError> {
        let (mut reader, mut writer) = (MessageReader::new(input), MessageWriter::new(output));
        let offered = loop {
            match reader.next().await? {
                Some(Incoming::Message(Message::Welcome { capabilities })) => break capabilities,
                Some(Incoming::Message(_) | Incoming::Text(_) | Incoming::Malformed(_) | Incoming::Unknown(_)) => {}
                None => return Err(WorkerConnectionError::NoWelcome),
            }
        };
        let agreed = offered.intersection(wanted);
        writer.send(&Message::Hello { capabilities: agreed }).await?;
        Ok(Self { reader, writer, agreed })
    }

    /// What both sides agreed on.
    pub const fn agreed(&self) -> Capabilities {
        self.agreed
    }

    /// The runner's next message; `None` once it is gone. What is no message is passed over.
    ///
    /// # Errors
    /// Where the stream fails.
    pub async fn receive(&mut self) -> Result<Option<Message>, WorkerConnectionError> {
        loop {
            match self.reader.next().await? {
                Some(Incoming::Message(message)) => return Ok(Some(message)),
                Some(Incoming::Text(_) | Incoming::Malformed(_) | Incoming::Unknown(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Sends a message that was agreed on.
    ///
    /// # Errors
    /// Where it was not, or the stream fails.
    pub async fn send(&mut self, message: &Message) -> Result<(), WorkerConnectionError> {
        match message.kind().needs() {
            Some(needed) if !self.agreed.has(needed) => Err(WorkerConnectionError::NotAgreed(needed)),
            Some(_) | None => Ok(self.writer.send(message).await?),
        }
    }

    /// The two halves, for a worker that reads and writes in different tasks.
    pub fn into_halves(self) -> (MessageReader<R>, MessageWriter<W>) {
        (self.reader, self.writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(capabilities: &[Capability]) -> Capabilities {
        capabilities.iter().copied().collect()
    }

    #[test]
    fn only_the_welcome_goes_before_hello_and_only_the_newest_of_a_kind_after_it() {
        let mut outbox = Outbox::new(Capabilities::all());
        outbox.push(Message::GracefulTermination { finish_tasks: true });
        outbox.push(Message::GracefulTermination { finish_tasks: false });
        assert!(matches!(outbox.pop(), Some(Message::Welcome { .. })));
        assert!(!outbox.is_ready() && outbox.pop().is_none());
        outbox.hello(Capabilities::all());
        assert!(matches!(outbox.pop(), Some(Message::GracefulTermination { finish_tasks: false })));
        assert!(outbox.pop().is_none());
    }

    #[test]
    fn hello_can_only_narrow_and_only_once() {
        let mut outbox = Outbox::new(some(&[Capability::Log, Capability::Shutdown]));
        assert_eq!(outbox.hello(some(&[Capability::Log, Capability::NewCredentials])), some(&[Capability::Log]));
        assert_eq!(outbox.hello(Capabilities::all()), some(&[Capability::Log]));
    }

    #[test]
    fn what_the_worker_cannot_take_is_dropped() {
        let mut outbox = Outbox::new(Capabilities::all());
        outbox.pop();
        outbox.push(Message::GracefulTermination { finish_tasks: true });
        outbox.hello(some(&[Capability::Log]));
        assert!(!outbox.is_ready() && outbox.pop().is_none());
    }

    #[tokio::test]
    async fn both_sides_shake_hands_in_memory() {
        let (runner, worker) = tokio::io::duplex(1024);
        let (worker_in, worker_out) = tokio::io::split(worker);
        let (runner_in, runner_out) = tokio::io::split(runner);
        let wanted = some(&[Capability::Log, Capability::GracefulTermination]);
        let worker = async {
            let mut connection = WorkerConnection::connect(worker_in, worker_out, wanted).await.unwrap();
            assert!(matches!(
                connection.send(&Message::Shutdown).await,
                Err(WorkerConnectionError::NotAgreed(Capability::Shutdown))
            ));
            connection.receive().await.unwrap()
        };
        let runner = async {
            let (mut reader, mut writer) = (MessageReader::new(runner_in), MessageWriter::new(runner_out));
            let mut outbox = Outbox::new(Capabilities::all());
            writer.send(&outbox.pop().unwrap()).await.unwrap();
            let Some(Incoming::Message(Message::Hello { capabilities })) = reader.next().await.unwrap() else {
                panic!("no hello")
            };
            assert_eq!(outbox.hello(capabilities), wanted);
            outbox.push(Message::GracefulTermination { finish_tasks: false });
            writer.send(&outbox.pop().unwrap()).await.unwrap();
        };
        let (received, ()) = tokio::join!(worker, runner);
        assert!(matches!(received, Some(Message::GracefulTermination { finish_tasks: false })));
    }
}
