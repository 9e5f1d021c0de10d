//! The time by which deadlines are kept: it goes on while the machine sleeps, goes ahead where the clock or the service
//! does, and never goes back.

use crate::platform;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use taskcluster_api::Client;

/// A clock that never goes back.
#[derive(Debug)]
pub struct Clock {
    time: Timestamp,
    /// How long the machine had been up then, its sleep included.
    up: Option<Duration>,
}

impl Clock {
    /// Begins now.
    pub fn begin(client: &Client) -> Self {
        Self { time: client.latest_now(), up: platform::up_time() }
    }

    /// The time. A machine whose clock is set back by hours keeps its deadlines; one whose clock was behind, or that
    /// slept, finds those due that have passed.
    pub fn now(&mut self, client: &Client) -> Timestamp {
        self.advance(client.latest_now(), platform::up_time())
    }

    fn advance(&mut self, wall: Timestamp, up: Option<Duration>) -> Timestamp {
        let passed = up.zip(self.up).and_then(|(now, then)| SignedDuration::try_from(now.checked_sub(then)?).ok());
        let steady = passed.and_then(|passed| self.time.checked_add(passed).ok()).unwrap_or(self.time);
        (self.time, self.up) = (steady.max(wall), up);
        self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_moves_deadlines_forward_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let up = |second| Some(Duration::from_secs(second));
        let mut clock = Clock { time: at(100_000), up: up(10) };
        assert_eq!(clock.advance(at(100_005), up(15)), at(100_005));
        // Set back by hours: time goes on.
        assert_eq!(clock.advance(at(80_000), up(20)), at(100_010));
        // Asleep for hours: the time that the machine was up counts its sleep.
        assert_eq!(clock.advance(at(80_000), up(20_000)), at(119_990));
        // Set forward by hours.
        assert_eq!(clock.advance(at(200_000), up(20_001)), at(200_000));
        // Where nobody knows how long the machine is up, the clock alone counts, forward.
        assert_eq!(clock.advance(at(200_001), None), at(200_001));
        assert_eq!(clock.advance(at(100), None), at(200_001));
    }
}
