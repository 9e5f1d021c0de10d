//! Control events of a console, and the service control manager's controls.

use super::Request;
use crate::platform::Controls;
use std::io;
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown};
use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
use tokio::sync::watch;

/// A stream of requests. From its making on, none of them ends us by itself; but where a console closes, or its user
/// logs off, the system gives us five seconds.
///
/// Source: learn.microsoft.com, "`HandlerRoutine` callback function".
pub enum StopSignals {
    /// Those of the console that we run on.
    Console(Box<Console>),
    /// Those of the service control manager.
    Service(Service),
}

/// The events of a console.
pub struct Console {
    interrupt: CtrlC,
    drain: CtrlBreak,
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
}

/// The controls of a service.
pub struct Service {
    controls: watch::Receiver<Controls>,
    seen: Controls,
}

impl StopSignals {
    /// Begins to listen to the console.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn of_console() -> io::Result<Self> {
        Ok(Self::Console(Box::new(Console {
            interrupt: ctrl_c()?,
            drain: ctrl_break()?,
            close: ctrl_close()?,
            logoff: ctrl_logoff()?,
            shutdown: ctrl_shutdown()?,
        })))
    }

    /// Those of a service: also those that came before. A service is told to stop once, and that must not be lost.
    pub fn of_service(controls: watch::Receiver<Controls>) -> Self {
        Self::Service(Service { controls, seen: Controls::default() })
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Request {
        match self {
            Self::Console(console) => console.next().await,
            Self::Service(service) => service.next().await,
        }
    }
}

impl Console {
    async fn next(&mut self) -> Request {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Request::Stop,
            // As we ask a worker: generic-worker finishes its tasks at it, too.
            Some(()) = self.drain.recv() => Request::Drain,
            Some(()) = self.close.recv() => Request::Stop,
            Some(()) = self.logoff.recv() => Request::Stop,
            Some(()) = self.shutdown.recv() => Request::Stop,
        }
    }
}

impl Service {
    async fn next(&mut self) -> Request {
        loop {
            let now = *self.controls.borrow_and_update();
            if now.stops > self.seen.stops {
                self.seen.stops += 1;
                return Request::Stop;
            }
            if now.drains > self.seen.drains {
                self.seen.drains += 1;
                return Request::Drain;
            }
            if self.controls.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
