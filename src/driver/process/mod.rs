//! A worker's process, behind the same names on every system.

#[cfg(unix)]
mod launch;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::{Process, TERMINATION_IS_GENTLE, can_interrupt};
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::{
    Process, SERVICE_RIGHTS, ServiceError, ServiceSpec, TERMINATION_IS_GENTLE, can_interrupt, find_service,
    service_account,
};

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
    /// Whether it starts processes in other people's sessions, which can't be in a job with it (Windows).
    pub crosses_sessions: bool,
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
    /// By itself, with this code: 32 bits on Windows, 8 elsewhere.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl WorkerExit {
    /// What we end with where the worker's own exit code has more than 8 bits: cut off, it might say that all is well.
    pub const LONG_CODE: u8 = 23;

    /// All that there is of it, for a report: as [`Self::exit_code`], but never cut.
    pub const fn full_code(self) -> u32 {
        match self {
            Self::Code(code) => code.cast_unsigned(),
            Self::Signal(signal) => 128_u32.wrapping_add(signal.cast_unsigned()),
        }
    }

    /// The exit code that tells the same of us: the worker's own, or 128 and the signal's number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code).unwrap_or(Self::LONG_CODE),
            Self::Signal(signal) => 128_u8.wrapping_add(u8::try_from(signal).unwrap_or(0)),
        }
    }
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {}", ExitCode(*code)),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A worker's exit code for people: Windows' own, which have the highest bit, are known by their hexadecimal digits.
pub struct ExitCode(pub i32);

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            code @ 0.. => write!(f, "{code}"),
            code => write!(f, "0x{code:08X}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::WorkerExit;

    #[test]
    fn an_exit_code_of_32_bits_is_said_in_full_and_never_cut_to_a_success() {
        let said = |code: u32| {
            let exit = WorkerExit::Code(code.cast_signed());
            (exit.to_string(), exit.exit_code())
        };
        assert_eq!(said(67), ("exit code 67".into(), 67));
        assert_eq!(said(256), ("exit code 256".into(), WorkerExit::LONG_CODE));
        assert_eq!(said(0xC000_013A), ("exit code 0xC000013A".into(), WorkerExit::LONG_CODE));
        assert_eq!(WorkerExit::Signal(9).exit_code(), 137);
    }
}
