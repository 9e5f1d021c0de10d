//! Staying beside the worker: `supervisor` decides, purely, with `stop` (how a worker is brought to its end) and
//! `notices` (what is made of words that the machine goes away); `event_loop` listens and acts, by `clock`'s time, and
//! owns the `tasks`; `relay` passes the worker's lines on.

mod clock;
mod event_loop;
mod notices;
mod relay;
mod signals;
mod stop;
mod supervisor;
mod tasks;

pub use event_loop::{Ended, Surroundings, supervise};
pub use signals::{Request, StopSignals};
pub use supervisor::{Action, Deadline, Event, NotRenewed, Renewed, Supervisor, Terms};
