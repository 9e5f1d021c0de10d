//! A worker's process on Windows.

use super::{ProcessSpec, Streams, WorkerExit};
use std::io;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A worker's process. Dropping it ends it.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a process.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(spec: &ProcessSpec) -> io::Result<(Self, Streams)> {
        let mut child = Command::new(&spec.program)
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let missing = || io::Error::other("a standard stream is missing");
        let streams = Streams {
            input: Box::new(child.stdin.take().ok_or_else(missing)?),
            output: Box::new(child.stdout.take().ok_or_else(missing)?),
            errors: Box::new(child.stderr.take().ok_or_else(missing)?),
        };
        Ok((Self { child }, streams))
    }

    /// The process id, for the log.
    pub fn id(&self) -> i32 {
        self.child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0)
    }

    /// Waits for the end. Cancel-safe.
    pub async fn exited(&mut self) -> WorkerExit {
        match self.child.wait().await {
            Ok(status) => WorkerExit::Code(status.code().unwrap_or(1)),
            Err(error) => {
                tracing::error!("cannot ask for the worker's status: {error}");
                WorkerExit::Code(1)
            }
        }
    }

    /// There is no such thing here: the worker hears when its time is up.
    pub fn interrupt(&mut self) {}

    /// Ends the process: there is no gentler way.
    pub fn terminate(&mut self) {
        self.kill();
    }

    /// Ends the process.
    pub fn kill(&mut self) {
        if let Err(error) = self.child.start_kill() {
            tracing::error!("cannot end the worker: {error}");
        }
    }

    /// Descendants are not accounted for here yet.
    pub fn end_descendants(&mut self, _spare_our_group: bool) -> std::future::Ready<()> {
        std::future::ready(())
    }
}
