//! How a worker is brought to its end: asked to finish its tasks, asked to end at once, terminated, killed; each once,
//! each no later than the nearest deadline asks for. Pure.
//!
//! generic-worker heeds only the first graceful termination that it gets and no later message or SIGTERM, so what it is
//! told first must fit the time that there is.

use crate::driver::Habits;
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
    /// SIGTERM, or the service manager's stop.
    Terminate,
    /// SIGKILL, or its likes.
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
    habits: Habits,
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
    pub fn new(stop: &StopSettings, interruption: &InterruptionSettings, habits: Habits) -> Self {
        Self {
            habits,
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

    /// Whether the worker is to end and has not been told in any way.
    pub const fn is_untold(&self) -> bool {
        self.cause.is_some() && matches!(self.step, Step::None)
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
    pub fn due(&mut self, now: Timestamp, hearing: Hearing) -> Option<Push> {
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
        let interrupts = self.habits.drains_on_interrupt;
        let push = match (wanted, hearing) {
            (Step::Drain, Hearing::Messages) => Push::Message { finish_tasks: true },
            (Step::Drain, Hearing::NotYet | Hearing::Signals) if interrupts && !waits => Push::Interrupt,
            (Step::Abort, Hearing::NotYet | Hearing::Signals) if self.habits.heeds_termination => {
                self.step = Step::Terminate;
                self.by_message = false;
                return Some(Push::Terminate);
            }
            // There is no gentle way to tell it: it hears when it says hello, of which generic-worker heeds the first word
            // only, or when the deadline comes.
            (Step::None, _) | (Step::Drain, Hearing::NotYet | Hearing::Signals) | (Step::Abort, Hearing::NotYet) => {
                return None;
            }
            (Step::Abort, Hearing::Messages) => Push::Message { finish_tasks: false },
            // Only killing it is left, and that can wait until it must be: meanwhile it is drained at least.
            (Step::Abort, Hearing::Signals) => {
                let drains = interrupts && self.step < Step::Drain;
                if drains {
                    (self.step, self.by_message) = (Step::Drain, false);
                }
                return drains.then_some(Push::Interrupt);
            }
            (Step::Terminate, _) => Push::Terminate,
            (Step::Kill, _) => Push::Kill,
        };
        self.step = wanted;
        self.by_message = matches!(push, Push::Message { .. });
        Some(push)
    }

    /// When something has to be done next.
    pub fn next(&self, hearing: Hearing) -> Option<Timestamp> {
        // What can't be told now is told once it can be.
        let abort_at = self.abort_at.filter(|_| hearing == Hearing::Messages || self.habits.heeds_termination);
        let ahead = [(Step::Abort, abort_at), (Step::Terminate, self.terminate_at()), (Step::Kill, self.deadline)];
        ahead.into_iter().filter(|(step, _)| *step > self.step).filter_map(|(_, time)| time).min()
    }

    /// A termination comes some time before the end, but never before half of the time has passed; where it is as hard
    /// as a kill there is none.
    fn terminate_at(&self) -> Option<Timestamp> {
        let deadline = self.deadline.filter(|_| self.habits.heeds_termination)?;
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
    /// SIGINT, or `CTRL_BREAK`.
    Interrupt,
    /// SIGTERM to its group, or the service manager's stop.
    Terminate,
    /// SIGKILL to its group, or its likes.
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

    const HABITS: Habits = Habits {
        drains_on_interrupt: true,
        heeds_termination: true,
        ends_with_its_output: false,
        asks_whether_wanted: true,
        leaves_reboots_to_others: false,
    };

    fn ladder() -> StopLadder {
        ladder_of(HABITS)
    }

    fn ladder_of(habits: Habits) -> StopLadder {
        StopLadder::new(&StopSettings::default(), &InterruptionSettings::default(), habits)
    }

    fn order(finish_tasks: bool, deadline: Option<i64>) -> Order {
        Order { cause: StopCause::Signal, finish_tasks, deadline: deadline.map(at) }
    }

    /// What is done at which second, from 0 to 10,000.
    fn story(ladder: &mut StopLadder, hearing: Hearing) -> Vec<(i64, Push)> {
        let mut done = Vec::new();
        let mut now = at(0);
        loop {
            while let Some(push) = ladder.due(now, hearing) {
                done.push((now.as_second(), push));
            }
            match ladder.next(hearing) {
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
    fn a_worker_that_heeds_no_termination_has_all_its_time() {
        use Hearing::{Messages, NotYet, Signals};
        use Push::{Interrupt, Kill};
        let table: [Row; 6] = [
            (false, Some(80), Messages, &[(0, ABORT), (80, Kill)]),
            (false, Some(80), NotYet, &[(80, Kill)]),
            (false, Some(80), Signals, &[(80, Kill)]),
            (true, None, Signals, &[]),
            (true, Some(4000), Messages, &[(0, DRAIN), (3975, ABORT), (4000, Kill)]),
            (true, Some(4000), Signals, &[(4000, Kill)]),
        ];
        let deaf = Habits { heeds_termination: false, drains_on_interrupt: false, ..HABITS };
        for (finish_tasks, deadline, hearing, expected) in table {
            let mut ladder = ladder_of(deaf);
            ladder.order(order(finish_tasks, deadline), at(0));
            assert_eq!(story(&mut ladder, hearing), expected, "{finish_tasks} {deadline:?} {hearing:?}");
        }
        // It is told once it can be, and on a console drained where it can't.
        let mut ladder = ladder_of(Habits { heeds_termination: false, ..HABITS });
        ladder.order(order(false, Some(80)), at(0));
        assert_eq!((ladder.due(at(0), NotYet), ladder.next(NotYet)), (None, Some(at(80))));
        assert_eq!((ladder.due(at(1), Messages), ladder.due(at(1), Messages)), (Some(ABORT), None));
        let mut ladder = ladder_of(Habits { heeds_termination: false, ..HABITS });
        ladder.order(order(false, Some(80)), at(0));
        assert_eq!((ladder.due(at(0), Signals), ladder.due(at(0), Signals)), (Some(Interrupt), None));
        assert_eq!(ladder.next(Signals), Some(at(80)));
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
            assert_eq!(ladder.due(at(0), Hearing::Messages), Some(Push::Message { finish_tasks }));
            ladder.unheard();
            assert_eq!(ladder.due(at(1), Hearing::Signals), Some(expected));
            ladder.unheard();
            assert_eq!(ladder.due(at(1), Hearing::Signals), None);
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
