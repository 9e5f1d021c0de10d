//! The tasks of a run: what each is called, and what it can come to.

use super::supervisor::{NotRenewed, Renewed};
use crate::platform::MemoryWatch;
use crate::provider::{Watch, Word};
use std::io;

/// A task of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Relays what the worker writes.
    Output,
    /// Relays what it writes to its standard error.
    Errors,
    /// Writes messages to the worker.
    Input,
    /// Waits for the next word of an interruption.
    Watch,
    /// Waits for memory to run out.
    Memory,
    /// Gets new credentials for old ones.
    Renewal,
    /// Gets new credentials by registering anew.
    Registration,
    /// Writes the cache.
    CacheWrite,
    /// Sends a report.
    Report,
    /// Asks whether the worker is still wanted.
    Question,
    /// Retires the machine while the worker runs, for it asked for that.
    Retirement,
    /// Lets go of what only the boot needed.
    LettingGo,
}

impl Task {
    /// For the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Output => "relay of the worker's output",
            Self::Errors => "relay of the worker's errors",
            Self::Input => "the worker's input",
            Self::Watch => "watch for notices",
            Self::Memory => "watch for memory that runs out",
            Self::Renewal => "renewal",
            Self::Registration => "registration",
            Self::CacheWrite => "writing the cache",
            Self::Report => "error report",
            Self::Question => "question to worker-manager",
            Self::Retirement => "retirement",
            Self::LettingGo => "letting go of memory",
        }
    }
}

/// What a task of the run came to.
pub enum Outcome {
    /// What only the boot needed is gone.
    LetGo,
    /// The worker writes no more.
    OutputEnded(io::Result<()>),
    /// The worker writes no more errors.
    ErrorsEnded(io::Result<()>),
    /// The worker's input is closed.
    InputClosed(io::Error),
    /// A word came; the watch is to be asked again.
    Word(Word, Box<dyn Watch>),
    /// What the kernel says of memory changed; the watch is to be asked again, where it still works.
    MemoryChanged(io::Result<MemoryWatch>),
    /// A renewal came to this.
    Renewed(Result<Renewed, NotRenewed>),
    /// The cache was written, or not.
    CacheWritten(bool),
    /// A report was sent, or not.
    Reported,
    /// Whether the worker is to end, and why; none where that may not be asked.
    ManagerSays(Option<Result<Option<String>, String>>),
    /// Whether the machine was retired.
    Retired(bool),
}
