//! When to try again: pauses that double at first and later grow with the time that it has taken, each with jitter.
//!
//! A service that comes back after ten minutes is asked by everybody who waits for it. Whoever has waited long can wait a
//! little longer: that spreads them over the time that the service needs, without a word from it
//! (`cargo run --release -p simulator -- herd` shows it).

use std::time::{Duration, Instant};

/// Doubling ends here: soon the pauses grow with the time.
const DOUBLED: Duration = Duration::from_secs(15);

/// A pause is this part of the time that it has taken so far, if that is longer.
const PART: u32 = 6;

/// What a service asks for is honoured up to this.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// A service that asks for less is still given longer and longer pauses, up to this.
const BRIEF: Duration = Duration::from_secs(30);

/// How often and for how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause, before jitter; the next ones double, up to fifteen seconds.
    pub first: Duration,
    /// No pause is longer than this before jitter, but for one that the service asks for.
    pub longest: Duration,
    /// No try begins later than this after the first one.
    pub total: Duration,
    /// How many tries there are at most, the first included.
    pub tries: usize,
    /// Which calls may be sent again although the service may have done them already.
    pub repeat: Repeat,
}

/// Which calls may be sent again although the service may have done them already. One that has certainly not been done
/// (no connection, or 429) is sent again in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Those that do and answer the same the second time: all but `createWorkerPool`, `registerWorker`,
    /// `reregisterWorker` and `reportWorkerError`.
    Idempotent,
    /// Those four too: whoever asks knows what becomes of it.
    Any,
}

impl RetryPolicy {
    /// One try.
    pub const NONE: Self = Self {
        first: Duration::ZERO,
        longest: Duration::ZERO,
        total: Duration::ZERO,
        tries: 1,
        repeat: Repeat::Idempotent,
    };

    /// Five more tries, within seconds where the service answers and within five minutes where it doesn't.
    pub const DEFAULT: Self = Self {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(10),
        total: Duration::from_secs(300),
        tries: 6,
        repeat: Repeat::Idempotent,
    };

    /// As often as it takes within `total`, quickly at first, later one to three minutes apart, whatever the call does.
    pub const fn persistent(total: Duration) -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(120),
            total,
            tries: usize::MAX,
            repeat: Repeat::Any,
        }
    }

    /// How long to wait before the next try; `None` where there is none. Knows no clock and no chance: it is the `tried`th
    /// try (from 1) that has failed, `elapsed` after the first one began; the service asked for a pause of `asked`, if
    /// it did; and `luck` is a random number from 0 to 1.
    ///
    /// Half of the pause is certain, and up to once more is luck. What a service asks for is the least, with up to half
    /// more, for it says the same to everybody, and three times that is the most, if that is no moment: it knows better
    /// than we how it does. Whatever is asked, there is a last try at the end of the time: what is given up without one may
    /// be a machine.
    pub fn pause(&self, tried: usize, elapsed: Duration, asked: Option<Duration>, luck: f64) -> Option<Duration> {
        let left = self.total.checked_sub(elapsed).filter(|left| !left.is_zero())?;
        if tried >= self.tries {
            return None;
        }
        let doublings = u32::try_from(tried.saturating_sub(1)).unwrap_or(u32::MAX).min(20);
        let doubled = self.first.saturating_mul(1 << doublings).min(DOUBLED.max(self.first));
        let pause = doubled.max(elapsed / PART).min(self.longest).mul_f64(0.5 + luck);
        // "At once" says nothing: it is what a broken clock makes of a date, too.
        let asked = asked.filter(|asked| !asked.is_zero()).map(|asked| asked.min(LONGEST_ASKED).min(left));
        let pause = match asked {
            None => pause,
            Some(asked) => {
                let most = asked.mul_f64(2.0 + luck).max(BRIEF.mul_f64(0.5 + luck));
                pause.min(most).max(asked.mul_f64(1.0 + luck / 2.0))
            }
        };
        Some(pause.min(left))
    }
}

/// A call's tries, as they go on.
#[derive(Debug)]
pub struct Tries {
    policy: RetryPolicy,
    failed: usize,
    began: Instant,
}

impl Tries {
    /// The first try begins now.
    pub fn begin(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0, began: Instant::now() }
    }

    /// A try has failed: how long to wait before the next one, as [`RetryPolicy::pause`] says.
    pub fn next_pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failed = self.failed.saturating_add(1);
        self.policy.pause(self.failed, self.began.elapsed(), asked, fastrand::f64())
    }

    /// How long it has been tried.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_and_then_grow_with_the_time_up_to_the_longest() {
        let policy = RetryPolicy::persistent(900 * SECOND);
        let table = [
            (1, 0, 0.1),
            (2, 0, 0.2),
            (7, 12, 6.4),
            (8, 25, 12.8),
            (9, 40, 15.0),
            (12, 90, 15.0),
            (13, 120, 20.0),
            (20, 600, 100.0),
            (30, 800, 120.0),
        ];
        for (tried, elapsed, expected) in table {
            for luck in [0.0, 0.5, 1.0] {
                let pause = policy.pause(tried, elapsed * SECOND, None, luck).unwrap().as_secs_f64();
                let expected = f64::min(expected * (0.5 + luck), f64::from(900 - elapsed));
                assert!((pause - expected).abs() < 1e-6, "try {tried} after {elapsed} s: {pause}, not {expected}");
            }
        }
    }

    #[test]
    fn what_a_service_asks_for_is_the_least_and_spread() {
        let policy = RetryPolicy::DEFAULT;
        let asked = Some(20 * SECOND);
        assert_eq!(policy.pause(1, SECOND, asked, 0.0), Some(20 * SECOND));
        assert_eq!(policy.pause(1, SECOND, asked, 1.0), Some(30 * SECOND));
        let policy = RetryPolicy::persistent(900 * SECOND);
        assert_eq!(policy.pause(20, 600 * SECOND, asked, 0.0), Some(40 * SECOND));
        assert_eq!(policy.pause(20, 600 * SECOND, asked, 1.0), Some(60 * SECOND));
        assert_eq!(policy.pause(20, 600 * SECOND, Some(SECOND), 0.5), Some(30 * SECOND));
        // What can't be meant is not done: neither in a tight loop nor in a century.
        assert_eq!(policy.pause(3, SECOND, Some(Duration::ZERO), 0.5), policy.pause(3, SECOND, None, 0.5));
        assert_eq!(policy.pause(1, SECOND, Some(Duration::MAX), 1.0), Some(899 * SECOND));
        assert_eq!(policy.pause(1, SECOND, Some(Duration::MAX), 0.0), Some(600 * SECOND));
    }

    #[test]
    fn the_tries_end_and_the_last_one_is_at_the_end_of_the_time() {
        let policy = RetryPolicy { tries: 3, ..RetryPolicy::DEFAULT };
        assert!(policy.pause(2, SECOND, None, 0.5).is_some());
        assert_eq!(policy.pause(3, SECOND, None, 0.5), None);
        let policy = RetryPolicy::persistent(60 * SECOND);
        assert_eq!(policy.pause(1, 59 * SECOND, Some(600 * SECOND), 0.5), Some(SECOND));
        assert_eq!(policy.pause(1, 60 * SECOND, None, 0.5), None);
        assert_eq!(Tries::begin(RetryPolicy { total: Duration::ZERO, ..RetryPolicy::DEFAULT }).next_pause(None), None);
        assert_eq!(Tries::begin(RetryPolicy::NONE).next_pause(None), None);
    }
}
