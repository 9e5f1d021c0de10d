//! A worker's process, behind the same names on every system.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::Process;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::Process;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};

/// What is started.
#[derive(Debug)]
pub struct ProcessSpec {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What is added to its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// What its `oom_score_adj` is set to: ours may be another by now.
    pub oom_score_adj: Option<String>,
}

/// The standard streams of a process, or what stands in for them.
pub struct Streams {
    /// What it reads.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    /// What it writes of errors.
    pub errors: Box<dyn AsyncRead + Send + Unpin>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerExit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl WorkerExit {
    /// The exit code that tells the same of us: the worker's own, or 128 and the signal's number.
    pub fn exit_code(self) -> u8 {
        match self {
            // A code of more than 8 bits (Windows) that happens to have none in the low ones is no success.
            Self::Code(code) => u8::try_from(code).unwrap_or(1),
            Self::Signal(signal) => 128_u8.wrapping_add(u8::try_from(signal).unwrap_or(0)),
        }
    }
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
