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
    /// How far the service's clock was found to be ahead of ours, in seconds; 0 where nobody has complained.
    ahead: i64,
    /// How long the machine had been up then, its sleep included.
    up: Option<Duration>,
}

impl Clock {
    /// Begins now: by the service's time, where that is known.
    pub fn begin(client: &Client) -> Self {
        Self::begin_at(Timestamp::now(), client.clock_offset(), platform::up_time())
    }

    fn begin_at(wall: Timestamp, ahead: i64, up: Option<Duration>) -> Self {
        Self { time: wall.checked_add(SignedDuration::from_secs(ahead)).unwrap_or(wall), ahead, up }
    }

    /// The time. A machine whose clock is set back by hours keeps its deadlines; one whose clock was behind, or that
    /// slept, finds those due that have passed.
    pub fn now(&mut self, client: &Client) -> Timestamp {
        self.advance(Timestamp::now(), client.clock_offset(), platform::up_time())
    }

    fn advance(&mut self, wall: Timestamp, ahead: i64, up: Option<Duration>) -> Timestamp {
        let passed = up.zip(self.up).and_then(|(now, then)| SignedDuration::try_from(now.checked_sub(then)?).ok());
        let steady = passed.and_then(|passed| self.time.checked_add(passed).ok()).unwrap_or(self.time);
        self.time = if ahead != self.ahead {
            // The service has just been asked, so this is its time.
            steady.max(wall.checked_add(SignedDuration::from_secs(ahead)).unwrap_or(wall))
        } else if ahead == 0 || up.is_none() {
            steady.max(wall)
        } else {
            // Our own clock is known to be wrong, and may be put right.
            steady
        };
        (self.ahead, self.up) = (ahead, up);
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
        let mut clock = Clock::begin_at(at(100_000), 0, up(10));
        assert_eq!(clock.advance(at(100_005), 0, up(15)), at(100_005));
        // Set back by hours: time goes on.
        assert_eq!(clock.advance(at(80_000), 0, up(20)), at(100_010));
        // Asleep for hours: the time that the machine was up counts its sleep.
        assert_eq!(clock.advance(at(80_000), 0, up(20_000)), at(119_990));
        // Set forward by hours.
        assert_eq!(clock.advance(at(200_000), 0, up(20_001)), at(200_000));
        // Where nobody knows how long the machine is up, the clock alone counts, forward.
        assert_eq!(clock.advance(at(200_001), 0, None), at(200_001));
        assert_eq!(clock.advance(at(100), 0, None), at(200_001));
    }

    #[test]
    fn a_clock_that_the_service_corrected_is_not_corrected_twice() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let up = |second| Some(Duration::from_secs(second));
        let mut clock = Clock { time: at(100_000), ahead: 0, up: up(10) };
        assert_eq!(clock.advance(at(100_001), 7200, up(11)), at(107_201));
        // Then it is put right.
        assert_eq!(clock.advance(at(107_202), 7200, up(12)), at(107_202));
        // One that is ahead stays so: deadlines are kept by it.
        let mut clock = Clock { time: at(100_000), ahead: 0, up: up(10) };
        assert_eq!(clock.advance(at(100_001), -7200, up(11)), at(100_001));
        // But for one that was known to be when there were no deadlines yet.
        let mut clock = Clock::begin_at(at(100_000), -7200, up(10));
        assert_eq!(clock.advance(at(100_001), -7200, up(11)), at(92_801));
    }
}
