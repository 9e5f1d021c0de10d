//! A model of worker-manager and the secrets service: so many requests a second, one after another, and none at all
//! while it is down.

use std::ops::Range;
use std::time::Duration;

/// What a service can do.
#[derive(Debug, Clone)]
pub struct ServiceModel {
    /// Requests a second.
    pub capacity: f64,
    /// What the way there and back takes.
    pub latency: Duration,
    /// So long a request may wait for its turn. What would wait longer is refused with a 429.
    pub queue: Duration,
    /// What such an answer says in `Retry-After`.
    pub retry_after: Option<Duration>,
    /// While it is down, connections are refused.
    pub outage: Range<Duration>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What was asked for.
    Done,
    /// A 429.
    Refused(Option<Duration>),
    /// Nothing.
    None,
}

/// A service at work.
#[derive(Debug)]
pub struct Service {
    model: ServiceModel,
    /// When it will have done all that waits.
    idle_at: Duration,
}

impl Service {
    /// One that has nothing to do yet.
    pub fn new(model: ServiceModel) -> Self {
        Self { model, idle_at: Duration::ZERO }
    }

    /// A request that is sent now: what becomes of it, and when that is known.
    pub fn ask(&mut self, now: Duration) -> (Answer, Duration) {
        let arrives = now + self.model.latency / 2;
        let back = self.model.latency / 2;
        if self.model.outage.contains(&arrives) {
            return (Answer::None, arrives + back);
        }
        let begins = self.idle_at.max(arrives);
        if begins.saturating_sub(arrives) > self.model.queue {
            return (Answer::Refused(self.model.retry_after), arrives + back);
        }
        self.idle_at = begins + Duration::from_secs_f64(1.0 / self.model.capacity);
        let outage = &self.model.outage;
        if arrives < outage.start && self.idle_at > outage.start {
            // What still waits when it goes down is not done.
            self.idle_at = outage.end;
            return (Answer::None, outage.start + back);
        }
        (Answer::Done, self.idle_at + back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_served_in_turn_and_refused_when_too_many_wait() {
        let (second, tenth) = (Duration::from_secs(1), Duration::from_millis(100));
        let mut service = Service::new(ServiceModel {
            capacity: 10.0,
            latency: Duration::ZERO,
            queue: second,
            retry_after: Some(second * 5),
            outage: second * 100..second * 200,
        });
        for waiting in 1..=11 {
            assert_eq!(service.ask(Duration::ZERO), (Answer::Done, tenth * waiting));
        }
        assert_eq!(service.ask(Duration::ZERO), (Answer::Refused(Some(second * 5)), Duration::ZERO));
        assert_eq!(service.ask(second * 2), (Answer::Done, second * 2 + tenth));
        assert_eq!(service.ask(second * 150), (Answer::None, second * 150));
    }
}
