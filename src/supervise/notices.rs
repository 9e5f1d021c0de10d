//! What is made of the words that the machine will go away: which of them count, when, and how much time they leave.
//! Pure.

use super::stop::{Order, signed};
use crate::outcome::StopCause;
use crate::provider::{Notice, NoticeKind, Word};
use crate::runner_config::settings::{InterruptionSettings, OnAdvice};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// What a word comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Heed {
    /// It was known.
    Nothing,
    /// It is worth a line in the log, and no more.
    Note(String),
    /// It is worth a line, and the worker is to end.
    Order(String, Order),
    /// It is worth a line, and another look later.
    Later(String),
}

/// The notices of a run.
#[derive(Debug)]
pub struct Notices {
    settings: InterruptionSettings,
    /// What a worker has that must end at once, where nobody says how long there is.
    grace: SignedDuration,
    heard: Vec<Notice>,
    /// Those that the worker was told to end for, and by when if it may finish its tasks first.
    ordered: Vec<(String, Option<Timestamp>)>,
}

impl Notices {
    /// None was heard yet.
    pub fn new(settings: &InterruptionSettings, grace: Duration) -> Self {
        Self { settings: settings.clone(), grace: signed(grace), heard: Vec::new(), ordered: Vec::new() }
    }

    /// Takes a word.
    pub fn hear(&mut self, word: Word, now: Timestamp) -> Heed {
        match word {
            Word::Notice(notice) => {
                if self.heard.contains(&notice) {
                    return Heed::Nothing;
                }
                self.heard.retain(|heard| heard.id != notice.id);
                self.heard.push(notice.clone());
                self.heed(&notice, now)
            }
            Word::Withdrawn(notice) => {
                let known = self.heard.len();
                self.heard.retain(|heard| heard.id != notice.id);
                if self.heard.len() == known {
                    return Heed::Nothing;
                }
                Heed::Note(format!("withdrawn or over: {notice}; what the worker was told cannot be taken back"))
            }
        }
    }

    /// Looks again at what was too far ahead.
    pub fn look_again(&mut self, now: Timestamp) -> Vec<Heed> {
        let waiting: Vec<Notice> = self.heard.iter().filter(|notice| !self.is_ordered(&notice.id)).cloned().collect();
        waiting.iter().map(|notice| self.heed(notice, now)).collect()
    }

    /// When to look again.
    pub fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let times = self.heard.iter().filter_map(|notice| self.heed_from(notice.deadline?));
        times.filter(|time| *time > now).min()
    }

    /// What can be acknowledged once the worker has gone.
    pub fn to_acknowledge(&self) -> Vec<String> {
        let ordered = self.heard.iter().filter(|notice| self.is_ordered(&notice.id));
        ordered.filter_map(|notice| notice.acknowledge.clone()).collect()
    }

    fn is_ordered(&self, id: &str) -> bool {
        self.ordered.iter().any(|(ordered, _)| ordered == id)
    }

    fn heed_from(&self, deadline: Timestamp) -> Option<Timestamp> {
        deadline.checked_sub(signed(self.settings.heed_within)).ok()
    }

    fn heed(&mut self, notice: &Notice, now: Timestamp) -> Heed {
        let heed = self.judge(notice, now);
        if let Heed::Order(_, order) = &heed {
            self.ordered.push((notice.id.clone(), order.deadline.filter(|_| order.finish_tasks)));
        }
        heed
    }

    fn judge(&self, notice: &Notice, now: Timestamp) -> Heed {
        let at_once = now.saturating_add(self.grace).unwrap_or(now);
        let order = |finish_tasks, deadline| {
            Heed::Order(
                format!("notice: {notice}"),
                Order { cause: StopCause::Notice(notice.kind), finish_tasks, deadline },
            )
        };
        match (notice.kind, self.settings.rebalance) {
            (NoticeKind::Freeze, _) => return Heed::Note(format!("notice: {notice}; the worker goes on")),
            (NoticeKind::Advice, OnAdvice::Log) => {
                return Heed::Note(format!("notice: {notice}; the worker goes on (interruption.rebalance: log)"));
            }
            (NoticeKind::Advice, OnAdvice::Drain) => return order(true, None),
            (NoticeKind::Advice, OnAdvice::Stop) => return order(false, Some(at_once)),
            (NoticeKind::Reclaim | NoticeKind::Reboot | NoticeKind::Unwanted, _) => {}
        }
        let Some(deadline) = notice.deadline else {
            return if notice.finish_tasks { order(true, None) } else { order(false, Some(at_once)) };
        };
        let left = deadline.duration_since(now);
        if let Some(from) = self.heed_from(deadline).filter(|from| *from > now) {
            return Heed::Later(format!("notice: {notice}; it is acted on from {from:.0} on"));
        }
        // Who was told to finish by then is not told to hurry because it is said again.
        if self.ordered.iter().any(|(_, finish_by)| finish_by.is_some_and(|finish_by| finish_by <= deadline)) {
            return Heed::Note(format!("notice: {notice}; the worker is finishing its tasks already"));
        }
        // What should have happened by now may happen at any moment.
        let deadline = if left.is_positive() { deadline } else { at_once };
        order(left > signed(self.settings.drain_ahead), Some(deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn notice(kind: NoticeKind, deadline: Option<i64>) -> Notice {
        Notice {
            id: "n".into(),
            kind,
            deadline: deadline.map(at),
            finish_tasks: false,
            source: "something".into(),
            acknowledge: Some("n".into()),
        }
    }

    fn notices() -> Notices {
        Notices::new(&InterruptionSettings::default(), Duration::from_secs(80))
    }

    fn order(heed: &Heed) -> Option<(bool, Option<i64>)> {
        match heed {
            Heed::Order(_, order) => Some((order.finish_tasks, order.deadline.map(Timestamp::as_second))),
            Heed::Nothing | Heed::Note(_) | Heed::Later(_) => None,
        }
    }

    #[test]
    fn the_time_that_is_left_decides_whether_tasks_may_finish() {
        const DAY: i64 = 24 * 3600;
        let table = [
            (Some(30), Some((false, Some(30)))),
            (Some(1800), Some((false, Some(1800)))),
            (Some(1801), Some((true, Some(1801)))),
            (Some(DAY), Some((true, Some(DAY)))),
            (Some(DAY + 1), None),
            // It has started, or nobody says when it will.
            (None, Some((false, Some(80)))),
            (Some(-5), Some((false, Some(80)))),
        ];
        for (deadline, expected) in table {
            let heed = notices().hear(Word::Notice(notice(NoticeKind::Reclaim, deadline)), at(0));
            assert_eq!(order(&heed), expected, "{deadline:?}");
        }
        let unwanted = Notice { finish_tasks: true, ..notice(NoticeKind::Unwanted, None) };
        assert_eq!(order(&notices().hear(Word::Notice(unwanted), at(0))), Some((true, None)));
    }

    #[test]
    fn what_is_far_ahead_is_looked_at_again() {
        let mut notices = notices();
        let far = notice(NoticeKind::Reclaim, Some(25 * 3600));
        assert!(matches!(notices.hear(Word::Notice(far), at(0)), Heed::Later(_)));
        let farther = Notice { id: "m".into(), ..notice(NoticeKind::Reclaim, Some(72 * 3600)) };
        assert!(matches!(notices.hear(Word::Notice(farther), at(0)), Heed::Later(_)));
        assert_eq!(notices.next_look(at(0)), Some(at(3600)), "the nearest is looked at first");
        assert!(notices.to_acknowledge().is_empty(), "nobody has acted on it");
        assert_eq!(notices.look_again(at(3600)).iter().filter_map(order).collect::<Vec<_>>(), [(true, Some(90_000))]);
        assert_eq!(notices.next_look(at(3600)), Some(at(48 * 3600)));
        assert!(notices.look_again(at(3601)).iter().find_map(order).is_none());
    }

    #[test]
    fn a_notice_counts_once_a_nearer_one_again_and_a_withdrawn_one_is_said() {
        let mut notices = notices();
        let (far, near) = (notice(NoticeKind::Reclaim, Some(5000)), notice(NoticeKind::Reclaim, Some(60)));
        assert!(order(&notices.hear(Word::Notice(far.clone()), at(0))).is_some());
        assert_eq!(notices.hear(Word::Notice(far), at(1)), Heed::Nothing);
        assert_eq!(order(&notices.hear(Word::Notice(near.clone()), at(2))), Some((false, Some(60))));
        assert_eq!(notices.to_acknowledge(), ["n"]);
        assert!(matches!(notices.hear(Word::Withdrawn(near.clone()), at(3)), Heed::Note(_)));
        assert_eq!(notices.hear(Word::Withdrawn(near), at(3)), Heed::Nothing);
        assert!(notices.to_acknowledge().is_empty());
    }

    #[test]
    fn what_is_said_again_hurries_nobody_who_has_time() {
        let mut notices = notices();
        let event = notice(NoticeKind::Reclaim, Some(7200));
        assert_eq!(order(&notices.hear(Word::Notice(event.clone()), at(0))), Some((true, Some(7200))));
        // One look found nothing, the next found it again, 20 minutes before.
        notices.hear(Word::Withdrawn(event.clone()), at(6000));
        assert!(matches!(notices.hear(Word::Notice(event), at(6001)), Heed::Note(_)));
    }

    #[test]
    fn advice_is_heeded_as_the_runner_config_says() {
        let advice = || Word::Notice(notice(NoticeKind::Advice, None));
        let expected =
            [(OnAdvice::Log, None), (OnAdvice::Drain, Some((true, None))), (OnAdvice::Stop, Some((false, Some(80))))];
        for (rebalance, expected) in expected {
            let settings = InterruptionSettings { rebalance, ..InterruptionSettings::default() };
            let mut notices = Notices::new(&settings, Duration::from_secs(80));
            assert_eq!(order(&notices.hear(advice(), at(0))), expected, "{rebalance:?}");
        }
        assert!(matches!(notices().hear(Word::Notice(notice(NoticeKind::Freeze, None)), at(0)), Heed::Note(_)));
    }
}
