//! What is done about what happens while a worker runs. Pure: events in, actions out, time passed in; no files, no
//! clock, no tasks.

use crate::driver::process::WorkerExit;
use crate::provider::Notice;
use crate::registration::renewal_time;
use crate::run_state::Lease;
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::time::Duration;
use taskcluster_api::{Renewal, RetryPolicy};
use worker_protocol::message::ErrorReport;
use worker_protocol::{Capabilities, Capability, Message};

/// A worker whose credentials can't be renewed is stopped this long before they end: it needs them to resolve its
/// tasks.
const BEFORE_THE_END: SignedDuration = SignedDuration::from_secs(15);

/// Init signals the worker as well as us, and the worker's end may reach us first: for this long after an end that
/// looks like that we wait for a signal of our own.
const LATE_SIGNAL: SignedDuration = SignedDuration::from_secs(5);

/// A cache that could not be written is tried again after this.
const CACHE_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// After a renewal the next one is at least this far away, however short the new credentials live.
const BETWEEN_RENEWALS: SignedDuration = SignedDuration::from_secs(5);

/// The signal that asks a process to end.
const SIGTERM: i32 = 15;

/// How a failed renewal is tried again.
const RENEWAL_RETRY: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    total: Duration::MAX,
    tries: usize::MAX,
};

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The worker said something other than a log line.
    Message(Message),
    /// The worker's input is closed: nothing can be said to it any more.
    InputClosed,
    /// The worker ended.
    Exited(WorkerExit),
    /// The machine will be interrupted.
    Notice(Notice),
    /// A time that was armed has come.
    Elapsed(Deadline),
    /// A renewal came to this.
    Renewed(Result<Renewed, String>),
    /// Another try to write the cache came to this.
    CacheWritten(bool),
    /// Somebody asks us to end.
    StopSignal,
    /// A part of us failed that the run can't do without.
    PartLost(&'static str),
}

/// New credentials.
#[derive(Debug)]
pub struct Renewed {
    /// They, their end, and what renews them.
    pub renewal: Renewal,
    /// Whether they are in the cache.
    pub cached: bool,
}

/// A time that the supervisor waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// The credentials are to be renewed.
    Renewal,
    /// The credentials that the worker has are about to end.
    CredentialsEnd,
    /// The cache is to be written again.
    CacheRetry,
    /// A signal that belongs to the worker's end would have reached us by now.
    LateSignal,
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Tell the worker, as soon as it can be told.
    Send(Message),
    /// The worker has said hello: this holds from now on.
    Agree(Capabilities),
    /// Ask for new credentials and put them into the cache.
    Renew,
    /// From now on these are the credentials.
    Adopt(Renewal),
    /// Write the cache again.
    WriteCache,
    /// Tell worker-manager of an error.
    Report(ErrorReport),
    /// Retire the machine, while the worker still runs.
    Retire,
    /// SIGTERM to the worker.
    Terminate,
    /// SIGKILL to the worker and its group.
    Kill,
    /// Wake up at this time.
    Arm(Deadline, Timestamp),
    /// Don't.
    Disarm(Deadline),
    /// Say this in the log.
    Log(Say),
    /// The run is over.
    Finish(WorkerExit),
}

/// A line of ours in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    /// As information.
    Info(String),
    /// As a warning.
    Warning(String),
    /// As an error.
    Error(String),
}

/// How strongly the worker has been asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    NotAsked,
    /// After its tasks.
    Drain,
    /// At once, in order.
    Now,
    /// It was killed.
    Kill,
}

/// What holds for the whole run.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Whether a cloud made the machine: only then the worker may retire it.
    pub is_cloud: bool,
    /// The seed of the jitter.
    pub seed: u64,
}

/// The state of a run.
pub struct Supervisor {
    terms: Terms,
    agreed: Option<Capabilities>,
    input_closed: bool,
    stop: Stop,
    signalled: bool,
    retiring: bool,
    lost_part: bool,
    lease: Option<Lease>,
    /// The end of the credentials that the worker has for sure, once newer ones are on their way to it.
    heard_end: Option<Timestamp>,
    renewal_tries: u32,
    ended: Option<WorkerExit>,
    finished: bool,
    jitter: fastrand::Rng,
}

impl Supervisor {
    /// A run whose worker has just been started, and what to do first.
    pub fn begin(terms: Terms, lease: Option<Lease>, now: Timestamp) -> (Self, Vec<Action>) {
        let supervisor = Self {
            terms,
            agreed: None,
            input_closed: false,
            stop: Stop::NotAsked,
            signalled: false,
            retiring: false,
            lost_part: false,
            lease,
            heard_end: None,
            renewal_tries: 0,
            ended: None,
            finished: false,
            jitter: fastrand::Rng::with_seed(terms.seed),
        };
        let mut actions = Vec::new();
        supervisor.arm_renewal(now, now, &mut actions);
        (supervisor, actions)
    }

    /// What the runner offers to do in this run.
    pub fn offer(terms: Terms, lease: Option<&Lease>) -> Capabilities {
        let offered = |capability: &Capability| match capability {
            Capability::Log | Capability::GracefulTermination | Capability::ErrorReport => true,
            Capability::NewCredentials => lease.is_some(),
            Capability::Shutdown => terms.is_cloud,
        };
        Capability::ALL.into_iter().filter(offered).collect()
    }

    /// Whether a signal told us to end.
    pub fn was_signalled(&self) -> bool {
        self.signalled
    }

    /// Whether the worker was asked to end at all.
    pub fn asked_to_stop(&self) -> bool {
        self.stop != Stop::NotAsked
    }

    /// Whether the worker has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether a part of us failed.
    pub fn lost_part(&self) -> bool {
        self.lost_part
    }

    /// What to do about an event.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.finished {
            return actions;
        }
        match event {
            Event::Message(message) => self.message(message, &mut actions),
            Event::InputClosed => self.input_closed(&mut actions),
            Event::Exited(exit) => self.exited(exit, now, &mut actions),
            Event::Notice(notice) => {
                info(&mut actions, format_args!("notice: {notice}"));
                self.request(Stop::Now, &mut actions);
            }
            Event::Elapsed(deadline) => self.elapsed(deadline, &mut actions),
            Event::Renewed(Ok(renewed)) => self.renewed(renewed, now, &mut actions),
            Event::Renewed(Err(error)) => self.renewal_failed(&error, now, &mut actions),
            Event::CacheWritten(true) => {}
            Event::CacheWritten(false) => actions.push(Action::Arm(Deadline::CacheRetry, later(now, CACHE_RETRY))),
            Event::StopSignal => self.stop_signal(&mut actions),
            Event::PartLost(name) => {
                self.lost_part = true;
                error(&mut actions, format_args!("our own part `{name}` failed: stopping the worker"));
                if self.ended.is_none() {
                    self.stop = self.stop.max(Stop::Now);
                    actions.push(Action::Terminate);
                }
            }
        }
        actions
    }

    /// What was said last may not have been heard, so what depends on it is done otherwise.
    fn input_closed(&mut self, actions: &mut Vec<Action>) {
        self.input_closed = true;
        if self.ended.is_some() {
            return;
        }
        if self.stop == Stop::Now {
            actions.push(Action::Terminate);
        }
        if let Some(heard) = self.heard_end {
            actions.push(Action::Arm(Deadline::CredentialsEnd, earlier(heard, BEFORE_THE_END)));
        }
    }

    fn message(&mut self, message: Message, actions: &mut Vec<Action>) {
        let kind = message.kind();
        if let (Some(agreed), Some(needed)) = (self.agreed, kind.needs())
            && !agreed.has(needed)
        {
            warning(actions, format_args!("the worker sent `{}` without having agreed to it: ignored", kind.name()));
            return;
        }
        match message {
            Message::Hello { capabilities } => {
                if self.agreed.is_none() {
                    let agreed = Self::offer(self.terms, self.lease.as_ref()).intersection(capabilities);
                    self.agreed = Some(agreed);
                    info(actions, format_args!("the worker said hello; both sides can: {agreed}"));
                    actions.push(Action::Agree(capabilities));
                    if let Some(lease) = self.lease.as_ref().filter(|_| agreed.has(Capability::NewCredentials)) {
                        // What was renewed before reaches the worker now.
                        actions.push(Action::Arm(Deadline::CredentialsEnd, earlier(lease.expires, BEFORE_THE_END)));
                    }
                }
            }
            Message::ErrorReport(report) => actions.push(Action::Report(report)),
            Message::Shutdown => {
                if self.terms.is_cloud && !self.retiring {
                    self.retiring = true;
                    info(actions, format_args!("the worker asks for this machine to be retired"));
                    actions.push(Action::Retire);
                }
            }
            // Log lines never come this far, and the others are ours to send.
            Message::Log { .. }
            | Message::Welcome { .. }
            | Message::GracefulTermination { .. }
            | Message::NewCredentials { .. } => {
                warning(actions, format_args!("the worker sent `{}`, which only we send: ignored", kind.name()));
            }
        }
    }

    fn exited(&mut self, exit: WorkerExit, now: Timestamp, actions: &mut Vec<Action>) {
        info(actions, format_args!("the worker has ended: {exit}"));
        self.ended = Some(exit);
        for deadline in [Deadline::Renewal, Deadline::CredentialsEnd, Deadline::CacheRetry] {
            actions.push(Action::Disarm(deadline));
        }
        let may_be_init = match exit {
            // It would be reported.
            WorkerExit::Signal(SIGTERM) => true,
            // The machine would be removed.
            WorkerExit::Code(67 | 71 | 72) => self.terms.is_cloud,
            WorkerExit::Code(_) | WorkerExit::Signal(_) => false,
        };
        if may_be_init && !self.asked_to_stop() {
            actions.push(Action::Arm(Deadline::LateSignal, later(now, LATE_SIGNAL)));
        } else {
            self.finish(exit, actions);
        }
    }

    fn finish(&mut self, exit: WorkerExit, actions: &mut Vec<Action>) {
        self.finished = true;
        actions.push(Action::Finish(exit));
    }

    fn elapsed(&mut self, deadline: Deadline, actions: &mut Vec<Action>) {
        match (deadline, self.ended) {
            (Deadline::LateSignal, Some(exit)) => self.finish(exit, actions),
            (Deadline::LateSignal, None) | (_, Some(_)) => {}
            (Deadline::Renewal, None) if self.takes_credentials() == Some(false) => {
                warning(
                    actions,
                    format_args!(
                        "the worker cannot take new credentials and must end before its own do: asking it to finish"
                    ),
                );
                self.request(Stop::Drain, actions);
            }
            (Deadline::Renewal, None) => actions.push(Action::Renew),
            (Deadline::CredentialsEnd, None) => {
                error(actions, format_args!("the worker's credentials are about to end: stopping it"));
                self.request(Stop::Now, actions);
            }
            (Deadline::CacheRetry, None) => actions.push(Action::WriteCache),
        }
    }

    /// Whether the worker can take new credentials; not known before hello.
    fn takes_credentials(&self) -> Option<bool> {
        if self.input_closed { Some(false) } else { self.agreed.map(|agreed| agreed.has(Capability::NewCredentials)) }
    }

    fn renewed(&mut self, renewed: Renewed, now: Timestamp, actions: &mut Vec<Action>) {
        let Renewed { renewal, cached } = renewed;
        if !cached {
            actions.push(Action::Arm(Deadline::CacheRetry, later(now, CACHE_RETRY)));
        }
        info(actions, format_args!("credentials renewed; they end at {:.0}", renewal.expires));
        self.renewal_tries = 0;
        let old_end = self.lease.as_ref().map(|lease| lease.expires);
        self.heard_end = if self.takes_credentials() == Some(true) { old_end } else { self.heard_end.or(old_end) };
        self.lease = Some(Lease { expires: renewal.expires, secret: renewal.secret.clone() });
        let credentials = renewal.credentials.clone();
        actions.push(Action::Adopt(renewal));
        if self.ended.is_some() {
            return;
        }
        self.arm_renewal(later(now, BETWEEN_RENEWALS), now, actions);
        if self.takes_credentials() != Some(true)
            && let Some(heard) = self.heard_end
        {
            // It has not said hello: what it has now is what it will have if it never does.
            actions.push(Action::Arm(Deadline::CredentialsEnd, earlier(heard, BEFORE_THE_END)));
        }
        actions.push(Action::Send(Message::NewCredentials {
            client_id: credentials.client_id,
            access_token: credentials.access_token,
            certificate: credentials.certificate,
        }));
    }

    fn renewal_failed(&mut self, reason: &str, now: Timestamp, actions: &mut Vec<Action>) {
        if self.ended.is_some() {
            return;
        }
        // Full jitter between the policy's first and longest pause, doubling in between.
        let longest = RENEWAL_RETRY.first * 2_u32.saturating_pow(self.renewal_tries.min(16));
        let longest = longest.min(RENEWAL_RETRY.longest);
        let pause = RENEWAL_RETRY.first.max(longest.mul_f64(self.jitter.f64()));
        self.renewal_tries += 1;
        warning(
            actions,
            format_args!("cannot renew the credentials: {reason}; trying again in {:.1} s", pause.as_secs_f32()),
        );
        let next = SignedDuration::try_from(pause).unwrap_or(SignedDuration::from_secs(1));
        actions.push(Action::Arm(Deadline::Renewal, later(now, next)));
    }

    fn stop_signal(&mut self, actions: &mut Vec<Action>) {
        let again = self.signalled;
        self.signalled = true;
        if let Some(exit) = self.ended {
            info(actions, format_args!("told to stop; the worker has ended already"));
            self.finish(exit, actions);
        } else if again {
            warning(actions, format_args!("told to stop again: killing the worker"));
            self.request(Stop::Kill, actions);
        } else {
            info(actions, format_args!("told to stop: asking the worker to end"));
            self.request(Stop::Now, actions);
        }
    }

    /// Asks the worker to end, unless it has been asked as strongly before.
    fn request(&mut self, wanted: Stop, actions: &mut Vec<Action>) {
        let hears = !self.input_closed && self.agreed.is_some_and(|agreed| agreed.has(Capability::GracefulTermination));
        // There is no gentler way to tell it: it is stopped when its credentials end.
        let unheard = wanted == Stop::Drain && !hears;
        if wanted <= self.stop || self.ended.is_some() || unheard {
            return;
        }
        self.stop = wanted;
        match wanted {
            Stop::NotAsked => {}
            Stop::Drain => actions.push(Action::Send(Message::GracefulTermination { finish_tasks: true })),
            Stop::Now if hears => actions.push(Action::Send(Message::GracefulTermination { finish_tasks: false })),
            Stop::Now => actions.push(Action::Terminate),
            Stop::Kill => actions.push(Action::Kill),
        }
    }

    fn arm_renewal(&self, soonest: Timestamp, now: Timestamp, actions: &mut Vec<Action>) {
        if let Some(lease) = &self.lease {
            let time = renewal_time(now, lease.expires).max(soonest);
            actions.push(Action::Arm(Deadline::Renewal, time));
            actions.push(Action::Arm(Deadline::CredentialsEnd, earlier(lease.expires, BEFORE_THE_END)));
        }
    }
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(time)
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_sub(by).unwrap_or(time)
}

fn info(actions: &mut Vec<Action>, text: fmt::Arguments<'_>) {
    actions.push(Action::Log(Say::Info(text.to_string())));
}

fn warning(actions: &mut Vec<Action>, text: fmt::Arguments<'_>) {
    actions.push(Action::Log(Say::Warning(text.to_string())));
}

fn error(actions: &mut Vec<Action>, text: fmt::Arguments<'_>) {
    actions.push(Action::Log(Say::Error(text.to_string())));
}

#[cfg(test)]
mod tests;
