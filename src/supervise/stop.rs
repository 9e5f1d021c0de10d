//! How a worker is brought to its end: asked to finish its tasks, asked to end at once, SIGTERM, SIGKILL; each once,
//! each no later than the nearest deadline asks for. Pure.
//!
//! generic-worker heeds only the first graceful termination that it gets and no later message or SIGTERM, so what it is
//! told first must fit the time that there is.

use crate::outcome::StopCause;
use crate::runner_config::settings::{InterruptionSettings, StopSettings};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// How far a worker has been brought towards its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Not at all.
    None,
    /// Asked to finish its tasks and end.
    Drain,
    /// Asked to end at once, in order.
    Abort,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Why.
    pub cause: StopCause,
    /// Whether the worker may finish its tasks first.
    pub finish_tasks: bool,
    /// When it must have ended, if at all.
    pub deadline: Option<Timestamp>,
}

/// How a worker can be told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// By a message.
    Messages,
    /// Perhaps by a message, once it has said hello.
    NotYet,
    /// By signals alone.
    Signals,
}

/// The way to the end.
#[derive(Debug)]
pub struct StopLadder {
    abort_before: SignedDuration,
    terminate_before: SignedDuration,
    step: Step,
    cause: Option<StopCause>,
    /// Whether a drain is wanted.
    drain: bool,
    /// When the worker is asked to end at once.
    abort_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    /// Whether the last step was a message.
    by_message: bool,
}

impl StopLadder {
    /// Nobody wants anything yet.
    pub fn new(stop: &StopSettings, interruption: &InterruptionSettings) -> Self {
        Self {
            abort_before: signed(interruption.abort_before),
            terminate_before: signed(stop.terminate_before),
            step: Step::None,
            cause: None,
            drain: false,
            abort_at: None,
            deadline: None,
            by_message: false,
        }
    }

    /// Why the worker was first asked to end.
    pub const fn cause(&self) -> Option<StopCause> {
        self.cause
    }

    /// When the worker must have ended.
    pub const fn deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// How far the worker has been brought.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// Whether a drain is wanted that the worker has not been told of.
    pub const fn drain_is_untold(&self) -> bool {
        self.drain && matches!(self.step, Step::None)
    }

    /// Takes an order; what is wanted already, or sooner, stays as it is. Whether anything is new.
    pub fn order(&mut self, order: Order, now: Timestamp) -> bool {
        let Order { cause, finish_tasks, deadline } = order;
        self.cause.get_or_insert(cause);
        let before = (self.drain, self.abort_at, self.deadline);
        let abort_at = match (finish_tasks, deadline) {
            (false, _) => Some(now),
            (true, Some(deadline)) => Some(earlier(deadline, self.abort_before)),
            (true, None) => None,
        };
        self.drain |= finish_tasks;
        self.abort_at = soonest(self.abort_at, abort_at);
        self.deadline = soonest(self.deadline, deadline);
        before != (self.drain, self.abort_at, self.deadline)
    }

    /// Kills at once.
    pub fn kill(&mut self, now: Timestamp) {
        self.deadline = Some(now);
    }

    /// What was said last may not have been heard: it is said again, otherwise.
    pub fn unheard(&mut self) {
        if self.by_message && self.step <= Step::Abort {
            self.step = if self.step == Step::Abort && self.drain { Step::Drain } else { Step::None };
            self.by_message = false;
        }
    }

    /// What has to be done now, if anything. To be asked until there is nothing more.
    pub fn due(&mut self, now: Timestamp, hearing: Hearing, drains_on_interrupt: bool) -> Option<Push> {
        let wanted =
            [(Step::Kill, self.deadline), (Step::Terminate, self.terminate_at()), (Step::Abort, self.abort_at)]
                .into_iter()
                .find(|(_, time)| time.is_some_and(|time| time <= now))
                .map_or(if self.drain { Step::Drain } else { Step::None }, |(step, _)| step);
        if wanted <= self.step {
            return None;
        }
        // Where there is time, it is told once it has said hello.
        let waits = hearing == Hearing::NotYet && self.deadline.is_none();
        let push = match (wanted, hearing) {
            (Step::Drain, Hearing::Messages) => Push::Message { finish_tasks: true },
            (Step::Drain, Hearing::NotYet | Hearing::Signals) if drains_on_interrupt && !waits => Push::Interrupt,
            // Or there is no gentle way to tell it: it hears when the deadline comes.
            (Step::None, _) | (Step::Drain, Hearing::NotYet | Hearing::Signals) => return None,
            (Step::Abort, Hearing::Messages) => Push::Message { finish_tasks: false },
            (Step::Abort, Hearing::NotYet | Hearing::Signals) => {
                self.step = Step::Terminate;
                self.by_message = false;
                return Some(Push::Terminate);
            }
            (Step::Terminate, _) => Push::Terminate,
            (Step::Kill, _) => Push::Kill,
        };
        self.step = wanted;
        self.by_message = matches!(push, Push::Message { .. });
        Some(push)
    }

    /// When something has to be done next.
    pub fn next(&self) -> Option<Timestamp> {
        let ahead = [(Step::Abort, self.abort_at), (Step::Terminate, self.terminate_at()), (Step::Kill, self.deadline)];
        ahead.into_iter().filter(|(step, _)| *step > self.step).filter_map(|(_, time)| time).min()
    }

    /// SIGTERM comes some time before the end, but never before half of the time has passed.
    fn terminate_at(&self) -> Option<Timestamp> {
        let deadline = self.deadline?;
        let time = self.abort_at.map_or(self.terminate_before, |abort| deadline.duration_since(abort));
        let half = SignedDuration::from_nanos_i128((time.as_nanos() / 2).max(0));
        Some(earlier(deadline, self.terminate_before.min(half)))
    }
}

/// What is done to bring a worker to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// `graceful-termination`.
    Message {
        /// Whether it may finish its tasks first.
        finish_tasks: bool,
    },
    /// SIGINT.
    Interrupt,
    /// SIGTERM to its group.
    Terminate,
    /// SIGKILL to its group.
    Kill,
}

fn soonest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    [a, b].into_iter().flatten().min()
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_sub(by).unwrap_or(time)
}

/// A time of the settings; none is longer than a year.
pub fn signed(time: Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ladder() -> StopLadder {
        StopLadder::new(&StopSettings::default(), &InterruptionSettings::default())
    }

    fn order(finish_tasks: bool, deadline: Option<i64>) -> Order {
        Order { cause: StopCause::Signal, finish_tasks, deadline: deadline.map(at) }
    }

    /// What is done at which second, from 0 to 10,000.
    fn story(ladder: &mut StopLadder, hearing: Hearing) -> Vec<(i64, Push)> {
        let mut done = Vec::new();
        let mut now = at(0);
        loop {
            while let Some(push) = ladder.due(now, hearing, true) {
                done.push((now.as_second(), push));
            }
            match ladder.next() {
                Some(next) => now = next.max(now),
                None => return done,
            }
        }
    }

    type Row = (bool, Option<i64>, Hearing, &'static [(i64, Push)]);

    const DRAIN: Push = Push::Message { finish_tasks: true };
    const ABORT: Push = Push::Message { finish_tasks: false };

    #[test]
    fn each_strength_comes_in_its_time() {
        use Hearing::{Messages, NotYet, Signals};
        use Push::{Interrupt, Kill, Terminate};
        let table: [Row; 9] = [
            (false, Some(80), Messages, &[(0, ABORT), (75, Terminate), (80, Kill)]),
            (false, Some(80), NotYet, &[(0, Terminate), (80, Kill)]),
            (false, Some(80), Signals, &[(0, Terminate), (80, Kill)]),
            (false, Some(2), Messages, &[(0, ABORT), (1, Terminate), (2, Kill)]),
            (true, None, Messages, &[(0, DRAIN)]),
            (true, None, NotYet, &[]),
            (true, None, Signals, &[(0, Interrupt)]),
            (true, Some(4000), Messages, &[(0, DRAIN), (3975, ABORT), (3995, Terminate), (4000, Kill)]),
            (true, Some(4000), NotYet, &[(0, Interrupt), (3975, Terminate), (4000, Kill)]),
        ];
        for (finish_tasks, deadline, hearing, expected) in table {
            let mut ladder = ladder();
            ladder.order(order(finish_tasks, deadline), at(0));
            assert_eq!(story(&mut ladder, hearing), expected, "{finish_tasks} {deadline:?} {hearing:?}");
        }
    }

    #[test]
    fn a_nearer_deadline_moves_everything_forward_and_a_farther_one_nothing_back() {
        let mut ladder = ladder();
        ladder.order(order(true, Some(4000)), at(0));
        assert!(ladder.order(order(true, Some(2000)), at(0)));
        assert!(!ladder.order(order(true, Some(3000)), at(0)));
        assert_eq!(
            story(&mut ladder, Hearing::Messages),
            [(0, DRAIN), (1975, ABORT), (1995, Push::Terminate), (2000, Push::Kill)]
        );
    }

    #[test]
    fn what_a_worker_did_not_hear_is_said_by_a_signal() {
        for (finish_tasks, expected) in [(true, Push::Interrupt), (false, Push::Terminate)] {
            let mut ladder = ladder();
            ladder.order(order(finish_tasks, Some(5000)), at(0));
            assert_eq!(ladder.due(at(0), Hearing::Messages, true), Some(Push::Message { finish_tasks }));
            ladder.unheard();
            assert_eq!(ladder.due(at(1), Hearing::Signals, true), Some(expected));
            ladder.unheard();
            assert_eq!(ladder.due(at(1), Hearing::Signals, true), None);
        }
    }

    proptest! {
        /// However orders come: nothing is done twice, everything is done by its deadline, and nothing weaker follows.
        #[test]
        fn the_ladder_only_goes_up(orders in proptest::collection::vec((any::<bool>(), proptest::option::of(0i64..9000)), 1..8)) {
            let mut ladder = ladder();
            for (finish_tasks, deadline) in &orders {
                ladder.order(order(*finish_tasks, *deadline), at(0));
            }
            let done = story(&mut ladder, Hearing::Messages);
            let rank = |push: &Push| match push {
                Push::Message { finish_tasks: true } | Push::Interrupt => 1,
                Push::Message { finish_tasks: false } => 2,
                Push::Terminate => 3,
                Push::Kill => 4,
            };
            prop_assert!(done.windows(2).all(|pair| pair[0].0 <= pair[1].0 && rank(&pair[0].1) < rank(&pair[1].1)));
            if let Some(deadline) = orders.iter().filter_map(|(_, deadline)| *deadline).min() {
                prop_assert_eq!(done.last(), Some(&(deadline, Push::Kill)));
            }
        }
    }
}
