//! How often, and how soon, a worker is started again on a machine of one's own. Pure.

use crate::runner_config::settings::RestartSettings;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The starts of a worker.
#[derive(Debug)]
pub struct Restarts {
    settings: RestartSettings,
    /// Those that count.
    starts: VecDeque<Instant>,
}

impl Restarts {
    /// The first start is now.
    pub fn begin(settings: &RestartSettings, now: Instant) -> Self {
        Self { settings: settings.clone(), starts: VecDeque::from([now]) }
    }

    /// How long to wait before the next start, which is taken note of; none where there were too many. `luck`, from 0
    /// to 1, is the jitter.
    pub fn next(&mut self, now: Instant, luck: f64) -> Option<Duration> {
        while self.starts.front().is_some_and(|start| now.duration_since(*start) >= self.settings.window) {
            self.starts.pop_front();
        }
        let recent = u32::try_from(self.starts.len()).unwrap_or(u32::MAX);
        if recent >= self.settings.starts {
            return None;
        }
        let doubled = self.settings.first_pause.saturating_mul(2_u32.saturating_pow(recent.saturating_sub(1)));
        let pause = doubled.min(self.settings.longest_pause).mul_f64(0.5 + luck / 2.0);
        self.starts.push_back(now + pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit_and_starts_are_counted_in_a_window() {
        let settings =
            RestartSettings { starts: 6, longest_pause: Duration::from_secs(6), ..RestartSettings::default() };
        let begin = Instant::now();
        let mut restarts = Restarts::begin(&settings, begin);
        let pauses: Vec<_> = (0..6).map(|_| restarts.next(begin, 1.0).map(|pause| pause.as_secs())).collect();
        assert_eq!(pauses, [Some(1), Some(2), Some(4), Some(6), Some(6), None]);
        let later = begin + settings.window + Duration::from_secs(10);
        assert_eq!(restarts.next(later, 0.0), Some(Duration::from_millis(500)));
    }
}
