//! One machine of a herd: start-worker's own policy, moved through time by hand.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use taskcluster_api::{Credentials, Renewal, RetryPolicy};
use worker_protocol::{Capabilities, Message};
use worker_runner::driver::Habits;
use worker_runner::run_state::Lease;
use worker_runner::runner_config::Settings;
use worker_runner::supervise::{Action, Deadline, Event, NotRenewed, Renewed, Supervisor, Terms};
use worker_runner::{registration, secrets};

use super::service::Answer;

/// The secrets that a machine asks for, both at once.
const SECRETS: usize = 2;

/// How many requests a boot takes.
pub const REQUESTS_OF_A_BOOT: usize = 1 + SECRETS;

/// Where the herd's clock begins: 2026-11-21, for what prints times.
const EPOCH: i64 = 1_795_219_200;

/// What a machine asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To be registered.
    Register,
    /// A secret.
    Secret,
    /// New credentials.
    Renew,
}

/// What a machine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It sends a request at this time, the so many'th of its call.
    Ask(Duration, Request, usize),
    /// It looks at its deadlines at this time.
    Look(Duration),
    /// Its worker runs.
    Booted,
    /// It is of no use any more.
    Lost,
}

/// How machines behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// As start-worker does: its own code.
    Ours,
    /// As it did before: pauses that double up to fifteen seconds and have as much again of jitter, renewals half an hour
    /// before the end, tried again with full jitter up to a minute.
    Doubling,
}

/// A machine.
pub struct Machine {
    policy: Policy,
    /// How long its credentials last.
    lease: Duration,
    luck: fastrand::Rng,
    seed: u64,
    /// When the call began that is under way, a boot's one after another.
    began: Duration,
    secrets_left: usize,
    life: Life,
}

enum Life {
    Booting,
    /// The supervisor of its worker, and what it waits for.
    Ours(Box<Supervisor>, Vec<(Deadline, Timestamp)>),
    /// The same, before: when the credentials end, when they are renewed, and how many tries have failed.
    Doubling {
        end: Duration,
        due: Duration,
        failed: u32,
    },
    Lost,
}

impl Machine {
    /// One that begins to boot at `now`.
    pub fn boot(policy: Policy, lease: Duration, seed: u64, now: Duration) -> (Self, Step) {
        let luck = fastrand::Rng::with_seed(seed);
        let machine = Self { policy, lease, luck, seed, began: now, secrets_left: SECRETS, life: Life::Booting };
        (machine, Step::Ask(now, Request::Register, 1))
    }

    /// One whose worker runs, with credentials of `now`.
    pub fn running(policy: Policy, lease: Duration, seed: u64, now: Duration) -> (Self, Vec<Step>) {
        let (mut machine, _) = Self::boot(policy, lease, seed, now);
        let steps = machine.start(now);
        (machine, steps)
    }

    /// A request of this machine came to that.
    pub fn answered(&mut self, request: Request, tried: usize, answer: Answer, now: Duration) -> Vec<Step> {
        match (request, answer) {
            (Request::Renew, answer) => self.renewed(answer, now),
            (Request::Register, Answer::Done) => {
                self.began = now;
                vec![Step::Ask(now, Request::Secret, 1); SECRETS]
            }
            (Request::Secret, Answer::Done) => {
                self.secrets_left -= 1;
                if self.secrets_left > 0 {
                    return Vec::new();
                }
                let mut steps = vec![Step::Booted];
                steps.extend(self.start(now));
                steps
            }
            (Request::Register | Request::Secret, Answer::Refused(_) | Answer::None) => {
                let asked = if let Answer::Refused(asked) = answer { asked } else { None };
                match self.pause(request, tried, now, asked) {
                    Some(pause) => vec![Step::Ask(now + pause, request, tried + 1)],
                    None => self.lose(),
                }
            }
        }
    }

    fn pause(&mut self, request: Request, tried: usize, now: Duration, asked: Option<Duration>) -> Option<Duration> {
        let patience = if request == Request::Register { registration::PATIENCE } else { secrets::PATIENCE };
        let (policy, elapsed, luck) =
            (RetryPolicy::persistent(patience), now.saturating_sub(self.began), self.luck.f64());
        match self.policy {
            Policy::Ours => policy.pause(tried, elapsed, asked, luck),
            Policy::Doubling => {
                let base = Duration::from_millis(100).saturating_mul(1 << tried.min(12)) / 2;
                let pause = base.min(Duration::from_secs(15)).mul_f64(1.0 + luck).max(asked.unwrap_or_default());
                let left = patience.checked_sub(elapsed).filter(|left| !left.is_zero())?;
                Some(pause.min(left))
            }
        }
    }

    /// A deadline may have come.
    pub fn look(&mut self, now: Duration) -> Vec<Step> {
        let time = timestamp(now);
        match &mut self.life {
            Life::Ours(supervisor, armed) => {
                let mut actions = Vec::new();
                while let Some(at) = armed.iter().position(|(_, due)| *due <= time) {
                    let (deadline, _) = armed.swap_remove(at);
                    actions.extend(supervisor.handle(Event::Elapsed(deadline), time));
                }
                self.act(actions, now)
            }
            Life::Doubling { end, .. } if now >= *end => self.lose(),
            Life::Doubling { due, .. } if now >= *due => {
                *due = Duration::MAX;
                vec![Step::Ask(now, Request::Renew, 1)]
            }
            Life::Doubling { .. } | Life::Booting | Life::Lost => Vec::new(),
        }
    }

    fn start(&mut self, now: Duration) -> Vec<Step> {
        match self.policy {
            Policy::Ours => {
                let (mut supervisor, mut actions) =
                    Supervisor::begin(terms(self.seed), Some(self.new_lease(now)), timestamp(now));
                let hello = Message::Hello { capabilities: Capabilities::all() };
                actions.extend(supervisor.handle(Event::Message(hello), timestamp(now)));
                self.life = Life::Ours(Box::new(supervisor), Vec::new());
                self.act(actions, now)
            }
            Policy::Doubling => {
                let end = now + self.lease;
                let seconds = Duration::from_secs;
                let due = (now + seconds(300)).max(end.saturating_sub(seconds(1800)));
                let due = due.min(end.saturating_sub(seconds(30)));
                self.life = Life::Doubling { end, due, failed: 0 };
                vec![Step::Look(due), Step::Look(end)]
            }
        }
    }

    fn renewed(&mut self, answer: Answer, now: Duration) -> Vec<Step> {
        let lease = self.new_lease(now);
        match &mut self.life {
            Life::Booting | Life::Lost => Vec::new(),
            Life::Ours(supervisor, _) => {
                let credentials =
                    Credentials { client_id: "herd".to_owned(), access_token: "herd".into(), certificate: None };
                let renewal = Renewal { credentials, expires: lease.expires, secret: lease.secret };
                let failed =
                    |reason: &str, asked| NotRenewed::Failed { reason: reason.to_owned(), asked, unauthorized: false };
                let event = Event::Renewed(match answer {
                    Answer::Done => Ok(Renewed { renewal, cached: true }),
                    Answer::Refused(asked) => Err(failed("too many requests", asked)),
                    Answer::None => Err(failed("no answer", None)),
                });
                let actions = supervisor.handle(event, timestamp(now));
                self.act(actions, now)
            }
            Life::Doubling { .. } if answer == Answer::Done => self.start(now),
            Life::Doubling { failed, due, .. } => {
                *failed += 1;
                let longest = Duration::from_secs(1).saturating_mul(1 << (*failed - 1).min(6));
                let pause = longest.min(Duration::from_secs(60)).mul_f64(self.luck.f64()).max(Duration::from_secs(1));
                *due = now + pause;
                vec![Step::Look(*due)]
            }
        }
    }

    /// Does what the supervisor says, as far as there is anything to do it to.
    fn act(&mut self, actions: Vec<Action>, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        let Life::Ours(_, armed) = &mut self.life else { return steps };
        let mut is_lost = false;
        for action in actions {
            match action {
                Action::Arm(deadline, time) => {
                    armed.retain(|(known, _)| *known != deadline);
                    armed.push((deadline, time));
                    steps.push(Step::Look(since_epoch(time)));
                }
                Action::Disarm(deadline) => armed.retain(|(known, _)| *known != deadline),
                Action::Renew => steps.push(Step::Ask(now, Request::Renew, 1)),
                // Nothing else than credentials that end stops a worker here.
                Action::Stopping { .. } => is_lost = true,
                Action::Send(_)
                | Action::Agree(_)
                | Action::Register
                | Action::Adopt(_)
                | Action::WriteCache
                | Action::Report(_)
                | Action::AskManager
                | Action::Retire
                | Action::Interrupt
                | Action::Terminate
                | Action::Kill
                | Action::Log(_)
                | Action::Finish(_) => {}
            }
        }
        if is_lost { self.lose() } else { steps }
    }

    fn lose(&mut self) -> Vec<Step> {
        match std::mem::replace(&mut self.life, Life::Lost) {
            // Both of its secrets may be given up.
            Life::Lost => Vec::new(),
            Life::Booting | Life::Ours(..) | Life::Doubling { .. } => vec![Step::Lost],
        }
    }

    fn new_lease(&self, now: Duration) -> Lease {
        Lease { expires: timestamp(now + self.lease), secret: "herd".into() }
    }
}

fn terms(seed: u64) -> Terms {
    let habits = Habits {
        drains_on_interrupt: true,
        heeds_termination: true,
        ends_with_its_output: false,
        asks_whether_wanted: true,
        leaves_reboots_to_others: false,
    };
    let (settings, report_extra) = (Settings::default(), serde_json::Map::new());
    Terms { is_cloud: true, registers_again: false, habits, settings, report_extra, seed }
}

fn timestamp(time: Duration) -> Timestamp {
    let epoch = Timestamp::from_second(EPOCH).unwrap_or_default();
    epoch.saturating_add(SignedDuration::try_from(time).unwrap_or_default()).unwrap_or(epoch)
}

fn since_epoch(time: Timestamp) -> Duration {
    let epoch = Timestamp::from_second(EPOCH).unwrap_or_default();
    Duration::try_from(time.duration_since(epoch)).unwrap_or_default()
}
