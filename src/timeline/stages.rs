//! `ready in 212 ms: metadata 104, register 52, secrets 51, start 5`.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the steps of a boot took, one after another.
#[derive(Debug)]
pub struct Stages(Mutex<State>);

#[derive(Debug, Clone)]
struct State {
    began: Instant,
    /// When the last one ended.
    ended: Instant,
    taken: Vec<(&'static str, Duration)>,
}

impl Stages {
    /// The first one begins at `began`.
    pub fn begin(began: Instant) -> Self {
        Self(Mutex::new(State { began, ended: began, taken: Vec::new() }))
    }

    /// Begins again, for another start of the worker.
    pub fn begin_again(&self) {
        *self.state() = State { began: Instant::now(), ended: Instant::now(), taken: Vec::new() };
    }

    /// A step has ended, and the next one begins.
    pub fn done(&self, name: &'static str) {
        let mut state = self.state();
        let now = Instant::now();
        let taken = now.duration_since(state.ended);
        state.taken.push((name, taken));
        state.ended = now;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { began, ended, taken } = self.state().clone();
        write!(f, "ready in {} ms:", ended.duration_since(began).as_millis())?;
        for (at, (name, taken)) in taken.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { " " })?;
            f.write_str(name)?;
            f.write_char(' ')?;
            // Half a millisecond counts as one.
            write!(f, "{:.0}", taken.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}
