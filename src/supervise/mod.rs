//! Staying beside the worker: `supervisor` decides, purely; `event_loop` listens and acts; `relay` passes the
//! worker's lines on.

mod event_loop;
mod relay;
mod signals;
mod supervisor;

pub use event_loop::{Ended, Surroundings, supervise};
pub use signals::StopSignals;
