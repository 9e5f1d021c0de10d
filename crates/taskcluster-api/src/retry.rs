//! When to try again: capped exponential back-off with jitter.

use backon::{BackoffBuilder, ExponentialBuilder};
use std::time::{Duration, Instant};

/// How often and for how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The shortest pause: the first is between once and twice this.
    pub first: Duration,
    /// No pause is longer than twice this, but for one that the service asks for.
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

    /// As often as it takes within `total`, quickly at first, later up to 30 s apart, whatever the call does.
    pub const fn persistent(total: Duration) -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(15),
            total,
            tries: usize::MAX,
            repeat: Repeat::Any,
        }
    }

    /// The pauses, without end but for `tries`: each twice the one before, each with jitter of its own size.
    pub fn pauses(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::default()
            .with_factor(2.0)
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_jitter()
            .without_max_times()
            .build()
            .take(self.tries.saturating_sub(1))
    }
}

/// A call's tries, as they go on.
pub struct Tries {
    policy: RetryPolicy,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    began: Instant,
}

impl Tries {
    /// The first try begins now.
    pub fn begin(policy: RetryPolicy) -> Self {
        Self { policy, pauses: Box::new(policy.pauses()), began: Instant::now() }
    }

    /// How long to wait before the next try, at least `asked`; `None` where there is none. Whatever is asked, there
    /// is a last try at the end of the time: what is given up without one may be a machine.
    pub fn next_pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let pause = self.pauses.next()?.max(asked.unwrap_or_default());
        let left = self.policy.total.checked_sub(self.began.elapsed())?;
        (!left.is_zero()).then(|| pause.min(left))
    }

    /// How long it has been tried.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_first_to_longest_with_jitter_and_end_with_the_tries() {
        let policy = RetryPolicy { tries: 12, ..RetryPolicy::persistent(Duration::from_secs(900)) };
        let pauses: Vec<_> = policy.pauses().collect();
        assert_eq!(pauses.len(), 11);
        for (at, pause) in pauses.iter().enumerate() {
            let base = policy.first.saturating_mul(1 << at).min(policy.longest);
            assert!((base..=base * 2).contains(pause), "pause {at} is {pause:?}");
        }
    }

    #[test]
    fn no_pause_goes_beyond_the_total_and_the_last_try_is_at_its_end() {
        let mut tries = Tries::begin(RetryPolicy::persistent(Duration::from_secs(60)));
        assert_eq!(tries.next_pause(Some(Duration::from_secs(30))), Some(Duration::from_secs(30)));
        let last = tries.next_pause(Some(Duration::from_secs(600))).unwrap();
        assert!(last <= Duration::from_secs(60));
        assert_eq!(Tries::begin(RetryPolicy { total: Duration::ZERO, ..RetryPolicy::DEFAULT }).next_pause(None), None);
        assert_eq!(Tries::begin(RetryPolicy::NONE).next_pause(None), None);
    }
}
