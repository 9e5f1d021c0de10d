//! What is done about what happens while a worker runs. Pure: events in, actions out, time passed in; no files, no
//! clock, no tasks.

use super::notices::{Heed, Notices};
use super::stop::{Hearing, Order, Push, Step, StopLadder, signed};
use crate::driver::Habits;
use crate::driver::process::WorkerExit;
use crate::outcome::{RunFacts, StopCause};
use crate::provider::{Notice, NoticeKind, Word};
use crate::registration::{last_renewal, renewal_time};
use crate::run_state::Lease;
use crate::runner_config::settings::{AskManager, OnSilence, Settings};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use std::fmt;
use std::time::Duration;
use taskcluster_api::{Credentials, Renewal, RetryPolicy};
use worker_protocol::message::ErrorReport;
use worker_protocol::{Capabilities, Capability, Message};

/// A cache that could not be written is tried again after this.
const CACHE_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// After a renewal the next one is at least this far away, however short the new credentials live.
const BETWEEN_RENEWALS: SignedDuration = SignedDuration::from_secs(5);

/// The same where nobody knows how long they live, for they seem to have ended already.
const BETWEEN_BLIND_RENEWALS: SignedDuration = SignedDuration::from_secs(5 * 60);

/// What was said to a worker this long ago, it has heard.
const DELIVERY: SignedDuration = SignedDuration::from_secs(60);

/// A renewal that is under way when the old credentials are about to end may take this much longer.
const LAST_RENEWAL: SignedDuration = SignedDuration::from_secs(10);

/// systemd's `OOMPolicy=stop` sends SIGTERM within moments of the kernel's word that memory ran out. What comes later
/// has another reason.
const OUT_OF_MEMORY: SignedDuration = SignedDuration::from_secs(3);

/// A process that is still there this long after SIGKILL hangs in the kernel, perhaps for ever.
const AFTER_KILL: SignedDuration = SignedDuration::from_secs(10);

/// The signal that asks a process to end.
const SIGTERM: i32 = 15;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The worker said something other than a log line.
    Message(Message),
    /// The worker's input is closed: nothing can be said to it any more.
    InputClosed,
    /// The worker's output is closed: it can say nothing any more.
    OutputClosed,
    /// The worker's output can't be read.
    ContactLost,
    /// The worker ended.
    Exited(WorkerExit),
    /// Word of an interruption.
    Word(Word),
    /// A time that was armed has come.
    Elapsed(Deadline),
    /// How much the worker has written so far, in whatever unit.
    Activity(u64),
    /// A renewal came to this.
    Renewed(Result<Renewed, NotRenewed>),
    /// Another try to write the cache came to this.
    CacheWritten(bool),
    /// worker-manager says whether it wants the worker to end, and why.
    ManagerSays(Result<Option<String>, String>),
    /// Somebody asks us to end.
    StopSignal,
    /// Somebody asks for a drain.
    DrainSignal,
    /// The kernel ended a process of ours because memory ran out.
    OutOfMemory,
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

/// Why there are no new credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRenewed {
    /// Trying again changes nothing.
    Refused(String),
    /// It may go better next time.
    Failed {
        /// Why.
        reason: String,
        /// How long the service asks to be left alone.
        asked: Option<Duration>,
        /// Whether the service does not believe who we are.
        unauthorized: bool,
    },
}

impl NotRenewed {
    /// For this reason, which is not the service's.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::Failed { reason: reason.to_string(), asked: None, unauthorized: false }
    }
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
    /// The worker should have said hello by now.
    Hello,
    /// The worker is to be asked more strongly to end.
    Stop,
    /// A notice that was far ahead has come nearer.
    Notice,
    /// worker-manager is to be asked whether it still wants the worker.
    AskManager,
    /// It is looked whether the worker gets on.
    Progress,
    /// A worker that was killed should have ended by now.
    Killed,
    /// A worker that closed its output should have ended by now.
    Mute,
}

impl Deadline {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::Renewal,
        Self::CredentialsEnd,
        Self::CacheRetry,
        Self::LateSignal,
        Self::Hello,
        Self::Stop,
        Self::Notice,
        Self::AskManager,
        Self::Progress,
        Self::Killed,
        Self::Mute,
    ];
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Tell the worker.
    Send(Message),
    /// The worker has said hello: this holds from now on.
    Agree(Capabilities),
    /// Ask for new credentials and put them into the cache.
    Renew,
    /// Register anew for new credentials and put them into the cache.
    Register,
    /// From now on these are the credentials.
    Adopt(Renewal),
    /// Write the cache again.
    WriteCache,
    /// Tell worker-manager of an error.
    Report(ErrorReport),
    /// Ask worker-manager whether it still wants the worker.
    AskManager,
    /// Retire the machine, while the worker still runs.
    Retire,
    /// Ask the worker to finish its tasks, otherwise than by a message: SIGINT, or `CTRL_BREAK`.
    Interrupt,
    /// Ask the worker to end, otherwise than by a message: SIGTERM to it and its group, or the service manager's stop.
    Terminate,
    /// End the worker and all that is its: SIGKILL, or the end of its job.
    Kill,
    /// Wake up at this time.
    Arm(Deadline, Timestamp),
    /// Don't.
    Disarm(Deadline),
    /// Say this in the log.
    Log(Say),
    /// Tell the service manager that the worker is being stopped, and how long that may take.
    Stopping {
        /// How long.
        left: Option<SignedDuration>,
        /// Whether that is the end of us, for a signal asked for it.
        told: bool,
    },
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

/// What holds for the whole run.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Whether a cloud made the machine: only then the worker may retire it.
    pub is_cloud: bool,
    /// Whether the machine may register again.
    pub registers_again: bool,
    /// What this kind of worker does by itself.
    pub habits: Habits,
    /// How start-worker behaves.
    pub settings: Settings,
    /// What every report of ours says beside its text.
    pub report_extra: Map<String, Value>,
    /// The seed of the jitter.
    pub seed: u64,
}

/// How much a worker has written.
#[derive(Debug, Clone, Copy)]
struct Activity {
    count: u64,
    /// Since when that has not changed.
    since: Timestamp,
    /// When it was last looked at.
    looked: Timestamp,
}

/// The state of a run.
pub struct Supervisor {
    terms: Terms,
    agreed: Option<Capabilities>,
    /// The worker has not said hello in its time.
    deaf: bool,
    input_closed: bool,
    stop: StopLadder,
    /// Whether it has been said that the worker can't be drained.
    said_untold: bool,
    notices: Notices,
    signalled: bool,
    out_of_memory: Option<Timestamp>,
    /// Whether memory ran out just before what ended the run.
    ended_by_memory: bool,
    retiring: bool,
    lease: Option<Lease>,
    /// The credentials that the worker has not been sent yet.
    unsent: Option<Credentials>,
    /// The end of the credentials that the worker has for sure, once newer ones are on their way to it.
    heard_end: Option<Timestamp>,
    /// When the worker was last sent credentials.
    sent_at: Option<Timestamp>,
    /// Whether the end of the credentials says nothing, for it had passed by our clock when they were made.
    is_blind: bool,
    /// How many tries to renew have failed in a row, and since when.
    failing: Option<(usize, Timestamp)>,
    renewing: bool,
    waited_for_renewal: bool,
    activity: Option<Activity>,
    silent: bool,
    ended: Option<WorkerExit>,
    finished: bool,
    jitter: fastrand::Rng,
}

impl Supervisor {
    /// A run whose worker has just been started, and what to do first.
    pub fn begin(terms: Terms, lease: Option<Lease>, now: Timestamp) -> (Self, Vec<Action>) {
        let settings = &terms.settings;
        let mut supervisor = Self {
            agreed: None,
            deaf: false,
            input_closed: false,
            stop: StopLadder::new(&settings.stop, &settings.interruption, terms.habits),
            said_untold: false,
            notices: Notices::new(&settings.interruption, settings.stop.grace),
            signalled: false,
            out_of_memory: None,
            ended_by_memory: false,
            retiring: false,
            lease,
            unsent: None,
            heard_end: None,
            sent_at: None,
            is_blind: false,
            failing: None,
            renewing: false,
            waited_for_renewal: false,
            activity: None,
            silent: false,
            ended: None,
            finished: false,
            jitter: fastrand::Rng::with_seed(terms.seed),
            terms,
        };
        let mut actions = Vec::new();
        let hello = signed(supervisor.terms.settings.protocol.hello_timeout);
        actions.push(Action::Arm(Deadline::Hello, later(now, hello)));
        supervisor.arm_renewal(now, now, &mut actions);
        supervisor.arm_question(now, &mut actions);
        supervisor.arm_progress(now, &mut actions);
        (supervisor, actions)
    }

    /// What the runner offers to do in this run.
    pub fn offer(terms: &Terms, lease: Option<&Lease>) -> Capabilities {
        let offered = |capability: &Capability| match capability {
            Capability::Log | Capability::GracefulTermination | Capability::ErrorReport => true,
            Capability::NewCredentials => lease.is_some(),
            Capability::Shutdown => terms.is_cloud,
        };
        Capability::ALL.into_iter().filter(offered).collect()
    }

    /// What to do about a message that was on its way when the worker ended: a report still counts, and so does the wish to
    /// be retired, which is carried out with all else that follows the run.
    pub fn last_message(&mut self, message: Message, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        self.message(message, now, &mut actions);
        actions
    }

    /// What is known of the run, once its worker has ended like this.
    pub fn facts(&self, exit: WorkerExit) -> RunFacts {
        RunFacts { exit, asked: self.stop.cause(), signalled: self.signalled, out_of_memory: self.ended_by_memory }
    }

    /// Whether the worker asked for the machine to be retired, where that is the worker's to ask.
    pub fn asks_for_retirement(&self) -> bool {
        self.retiring && self.terms.settings.retirement.choices.is_empty()
    }

    /// Whether the worker has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// What its cloud may be told to go on with, now that the worker has gone.
    pub fn to_acknowledge(&self) -> Vec<String> {
        self.notices.to_acknowledge()
    }

    /// What to do about an event.
    pub fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.finished {
            return actions;
        }
        match event {
            Event::Message(message) => self.message(message, now, &mut actions),
            Event::InputClosed => self.input_closed(now, &mut actions),
            Event::OutputClosed => {
                // It is usually the first sign of the worker's end.
                let grace = signed(self.terms.settings.protocol.output_grace);
                if self.ended.is_none() {
                    actions.push(Action::Arm(Deadline::Mute, later(now, grace)));
                }
            }
            Event::ContactLost => self.contact_lost(now, &mut actions),
            Event::Exited(exit) => self.exited(exit, now, &mut actions),
            Event::Word(word) => {
                let heed = self.notices.hear(word, now);
                self.heed(heed, now, &mut actions);
                self.arm_look(now, &mut actions);
            }
            Event::Elapsed(deadline) => self.elapsed(deadline, now, &mut actions),
            Event::Activity(count) => self.looked(count, now, &mut actions),
            Event::Renewed(Ok(renewed)) => self.renewed(renewed, now, &mut actions),
            Event::Renewed(Err(reason)) => self.not_renewed(reason, now, &mut actions),
            Event::CacheWritten(true) => {}
            Event::CacheWritten(false) if self.ended.is_some() => {}
            Event::CacheWritten(false) => actions.push(Action::Arm(Deadline::CacheRetry, later(now, CACHE_RETRY))),
            Event::ManagerSays(answer) => self.manager_says(answer, now, &mut actions),
            Event::StopSignal => self.stop_signal(now, &mut actions),
            Event::DrainSignal => self.drain_signal(now, &mut actions),
            Event::OutOfMemory => {
                warning(&mut actions, format_args!("memory ran out: the kernel ended a process of this unit"));
                self.out_of_memory = Some(now);
            }
            Event::PartLost(name) => {
                error(&mut actions, format_args!("our own part `{name}` failed: stopping the worker"));
                self.stop_by_signal(StopCause::PartLost, now, &mut actions);
            }
        }
        actions
    }

    /// What was said last may not have been heard, so what depends on it is done otherwise.
    fn input_closed(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        self.input_closed = true;
        if self.ended.is_some() {
            return;
        }
        self.stop.unheard();
        self.push(now, actions);
        let Some(heard) = self.heard_end else { return };
        let delivered = self.sent_at.is_some_and(|at| now.duration_since(at) > DELIVERY);
        let end = self.lease.as_ref().map(|lease| lease.expires).filter(|_| delivered);
        self.arm_credentials_end(end.unwrap_or(heard), now, actions);
        if !delivered {
            self.drain_for_credentials(now, actions);
        }
    }

    fn contact_lost(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.ended.is_none() {
            error(actions, format_args!("the worker's output cannot be read: stopping it"));
            self.stop_by_signal(StopCause::LostContact, now, actions);
        }
    }

    fn message(&mut self, message: Message, now: Timestamp, actions: &mut Vec<Action>) {
        let kind = message.kind();
        if let (Some(agreed), Some(needed)) = (self.agreed, kind.needs())
            && !agreed.has(needed)
        {
            warning(actions, format_args!("the worker sent `{}` without having agreed to it: ignored", kind.name()));
            return;
        }
        match message {
            Message::Hello { capabilities } => self.hello(capabilities, now, actions),
            Message::ErrorReport(report) => actions.push(Action::Report(report)),
            Message::Shutdown => {
                if self.terms.is_cloud && !self.retiring {
                    self.retiring = true;
                    if self.terms.settings.retirement.choices.is_empty() {
                        info(actions, format_args!("the worker asks for this machine to be retired"));
                        if self.ended.is_none() {
                            actions.push(Action::Retire);
                        }
                    } else {
                        let why = "`retirement` in the runner config decides that when it has ended";
                        info(actions, format_args!("the worker asks for this machine to be retired: {why}"));
                    }
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

    fn hello(&mut self, capabilities: Capabilities, now: Timestamp, actions: &mut Vec<Action>) {
        if self.agreed.is_some() || self.ended.is_some() {
            return;
        }
        let agreed = Self::offer(&self.terms, self.lease.as_ref()).intersection(capabilities);
        self.agreed = Some(agreed);
        let late = if std::mem::replace(&mut self.deaf, false) { ", late but welcome" } else { "" };
        info(actions, format_args!("the worker said hello{late}; both sides can: {agreed}"));
        actions.push(Action::Agree(capabilities));
        actions.push(Action::Disarm(Deadline::Hello));
        if self.takes_credentials() == Some(true) {
            if let Some(credentials) = self.unsent.take() {
                self.sent_at = Some(now);
                actions.push(Action::Send(new_credentials(credentials)));
            }
            if let Some(lease) = &self.lease {
                // What was renewed before reaches the worker now.
                self.arm_credentials_end(lease.expires, now, actions);
            }
        } else if self.unsent.is_some() {
            self.drain_for_credentials(now, actions);
        }
        self.push(now, actions);
    }

    fn exited(&mut self, exit: WorkerExit, now: Timestamp, actions: &mut Vec<Action>) {
        info(actions, format_args!("the worker has ended: {exit}"));
        self.ended = Some(exit);
        for deadline in Deadline::ALL {
            actions.push(Action::Disarm(deadline));
        }
        if !self.signalled {
            self.ended_by_memory = self.memory_ran_out(now);
        }
        let may_be_init = match exit {
            // It would be reported.
            WorkerExit::Signal(SIGTERM) => true,
            // The machine would be removed.
            WorkerExit::Code(67 | 71 | 72) => self.terms.is_cloud,
            WorkerExit::Code(_) | WorkerExit::Signal(_) => false,
        };
        if may_be_init && self.stop.cause().is_none() {
            let grace = signed(self.terms.settings.retirement.signal_grace);
            actions.push(Action::Arm(Deadline::LateSignal, later(now, grace)));
        } else {
            self.finish(exit, actions);
        }
    }

    fn memory_ran_out(&self, now: Timestamp) -> bool {
        self.out_of_memory.is_some_and(|at| now.duration_since(at) <= OUT_OF_MEMORY)
    }

    fn finish(&mut self, exit: WorkerExit, actions: &mut Vec<Action>) {
        self.finished = true;
        actions.push(Action::Finish(exit));
    }

    fn elapsed(&mut self, deadline: Deadline, now: Timestamp, actions: &mut Vec<Action>) {
        if let Some(exit) = self.ended {
            if deadline == Deadline::LateSignal {
                self.finish(exit, actions);
            }
            return;
        }
        match deadline {
            // One belongs to the worker's end; to the other the event loop answers with an `Activity`.
            Deadline::LateSignal | Deadline::Progress => {}
            Deadline::Renewal => self.renewal_is_due(now, actions),
            Deadline::CredentialsEnd => self.credentials_end(now, actions),
            Deadline::CacheRetry => actions.push(Action::WriteCache),
            Deadline::Hello => {
                if self.agreed.is_none() {
                    let waited = self.terms.settings.protocol.hello_timeout.as_secs_f64();
                    warning(
                        actions,
                        format_args!(
                            "the worker has not said hello within {waited} s: from now on it is told by signals"
                        ),
                    );
                    self.deaf = true;
                    if self.unsent.is_some() {
                        self.drain_for_credentials(now, actions);
                    }
                    self.push(now, actions);
                }
            }
            Deadline::Stop => self.push(now, actions),
            Deadline::Notice => {
                for heed in self.notices.look_again(now) {
                    self.heed(heed, now, actions);
                }
                self.arm_look(now, actions);
            }
            Deadline::AskManager => actions.push(Action::AskManager),
            Deadline::Mute if self.terms.habits.ends_with_its_output => self.contact_lost(now, actions),
            Deadline::Mute => {
                warning(actions, format_args!("the worker closed its output, but runs: nothing more is heard of it"));
            }
            Deadline::Killed => {
                error(actions, format_args!("the worker was killed and does not end: leaving it behind"));
                self.finish(WorkerExit::Signal(9), actions);
            }
        }
    }

    fn heed(&mut self, heed: Heed, now: Timestamp, actions: &mut Vec<Action>) {
        match heed {
            Heed::Nothing => {}
            Heed::Note(text) | Heed::Later(text) => info(actions, format_args!("{text}")),
            Heed::Order(text, order) => {
                if self.ended.is_none() {
                    warning(actions, format_args!("{text}"));
                    self.order(order, now, actions);
                }
            }
        }
    }

    fn arm_look(&self, now: Timestamp, actions: &mut Vec<Action>) {
        if let Some(time) = self.notices.next_look(now).filter(|_| self.ended.is_none()) {
            actions.push(Action::Arm(Deadline::Notice, time));
        }
    }

    fn manager_says(&mut self, answer: Result<Option<String>, String>, now: Timestamp, actions: &mut Vec<Action>) {
        if self.ended.is_some() {
            return;
        }
        match answer {
            Ok(Some(reason)) => {
                let notice = Notice {
                    id: "should-worker-terminate".to_owned(),
                    kind: NoticeKind::Unwanted,
                    deadline: None,
                    finish_tasks: true,
                    source: format!("worker-manager does not want this worker any more ({reason})"),
                    acknowledge: None,
                };
                let heed = self.notices.hear(Word::Notice(notice), now);
                self.heed(heed, now, actions);
            }
            Ok(None) => self.arm_question(now, actions),
            Err(reason) => {
                actions
                    .push(Action::Log(Say::Info(format!("cannot ask whether this worker is still wanted: {reason}"))));
                self.arm_question(now, actions);
            }
        }
    }

    fn stop_signal(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let again = std::mem::replace(&mut self.signalled, true);
        if !again {
            self.ended_by_memory = self.ended_by_memory || self.memory_ran_out(now);
        }
        if let Some(exit) = self.ended {
            info(actions, format_args!("told to stop; the worker has ended already"));
            self.finish(exit, actions);
        } else if again {
            warning(actions, format_args!("told to stop again"));
            self.stop.kill(now);
            self.push(now, actions);
        } else {
            info(actions, format_args!("told to stop: asking the worker to end"));
            let deadline = Some(later(now, signed(self.terms.settings.stop.grace)));
            self.order(Order { cause: StopCause::Signal, finish_tasks: false, deadline }, now, actions);
        }
    }

    fn drain_signal(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.ended.is_some() {
            return;
        }
        info(actions, format_args!("told to drain: asking the worker to finish its tasks and end"));
        self.order(Order { cause: StopCause::Drain, finish_tasks: true, deadline: None }, now, actions);
    }

    /// How the worker can be told something.
    fn hearing(&self) -> Hearing {
        match self.agreed {
            _ if self.input_closed || self.deaf => Hearing::Signals,
            Some(agreed) if agreed.has(Capability::GracefulTermination) => Hearing::Messages,
            Some(_) => Hearing::Signals,
            None => Hearing::NotYet,
        }
    }

    fn order(&mut self, order: Order, now: Timestamp, actions: &mut Vec<Action>) {
        if self.ended.is_some() {
            return;
        }
        if self.stop.order(order, now) {
            let left = self.stop.deadline().map(|deadline| deadline.duration_since(now));
            actions.push(Action::Stopping { left, told: self.signalled });
        }
        self.push(now, actions);
    }

    /// Stops a worker that can't be spoken with.
    fn stop_by_signal(&mut self, cause: StopCause, now: Timestamp, actions: &mut Vec<Action>) {
        self.input_closed = true;
        self.stop.unheard();
        let deadline = Some(later(now, signed(self.terms.settings.stop.grace)));
        self.order(Order { cause, finish_tasks: false, deadline }, now, actions);
    }

    /// Does what the ladder asks for now, and arms what it asks for next.
    fn push(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.ended.is_some() {
            return;
        }
        let hearing = self.hearing();
        while let Some(push) = self.stop.due(now, hearing) {
            match push {
                Push::Message { finish_tasks } => {
                    actions.push(Action::Send(Message::GracefulTermination { finish_tasks }));
                }
                Push::Interrupt => actions.push(Action::Interrupt),
                Push::Terminate => actions.push(Action::Terminate),
                Push::Kill => {
                    // Whatever it says from now on, there is nobody to answer.
                    self.input_closed = true;
                    warning(actions, format_args!("killing the worker"));
                    actions.push(Action::Kill);
                    actions.push(Action::Arm(Deadline::Killed, later(now, AFTER_KILL)));
                }
            }
        }
        if self.stop.is_untold() && hearing == Hearing::Signals && !std::mem::replace(&mut self.said_untold, true) {
            let why = "it hears no messages, and no signal means that to it";
            warning(
                actions,
                format_args!(
                    "the worker cannot be told to finish its tasks and end: {why}; it goes on until it must end"
                ),
            );
        }
        match self.stop.next(hearing) {
            Some(next) => actions.push(Action::Arm(Deadline::Stop, next)),
            None if self.stop.step() == Step::None => {}
            None => actions.push(Action::Disarm(Deadline::Stop)),
        }
    }

    fn arm_question(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        let settings = &self.terms.settings.interruption;
        let asks = match settings.ask_worker_manager {
            AskManager::Auto => self.terms.is_cloud && !self.terms.habits.asks_whether_wanted,
            AskManager::Always => self.terms.is_cloud,
            AskManager::Never => false,
        };
        if asks {
            // Thousands of machines that booted together do not ask together.
            let interval = settings.ask_interval.mul_f64(0.8 + 0.4 * self.jitter.f64());
            actions.push(Action::Arm(Deadline::AskManager, later(now, signed(interval))));
        }
    }

    /// A look every quarter of the time finds silence out within a quarter of the time.
    fn arm_progress(&self, now: Timestamp, actions: &mut Vec<Action>) {
        if let Some(timeout) = self.terms.settings.progress.timeout {
            actions.push(Action::Arm(Deadline::Progress, later(now, signed(timeout / 4))));
        }
    }

    fn looked(&mut self, count: u64, now: Timestamp, actions: &mut Vec<Action>) {
        let (Some(timeout), None) = (self.terms.settings.progress.timeout, self.ended) else { return };
        self.arm_progress(now, actions);
        let since = match &mut self.activity {
            // A machine that slept, or whose clock was set, has had no time to say anything.
            Some(activity) if activity.count == count && now.duration_since(activity.looked) < signed(timeout / 2) => {
                activity.looked = now;
                activity.since
            }
            Some(_) | None => {
                self.silent = false;
                self.activity = Some(Activity { count, since: now, looked: now });
                return;
            }
        };
        if self.silent || now.duration_since(since) < signed(timeout) {
            return;
        }
        self.silent = true;
        let title = format!("The worker has said nothing for {:#}", signed(timeout));
        warning(actions, format_args!("{title}: does it hang?"));
        let action = self.terms.settings.progress.action;
        match action {
            OnSilence::Warn => {}
            OnSilence::Report | OnSilence::Stop => {
                let description = format!("{title}. The machine's log says more.");
                let kind = "worker-silent".to_owned();
                let extra = self.terms.report_extra.clone();
                actions.push(Action::Report(ErrorReport { kind, title, description, extra }));
            }
        }
        if action == OnSilence::Stop {
            let deadline = Some(later(now, signed(self.terms.settings.stop.grace)));
            self.order(Order { cause: StopCause::Silence, finish_tasks: false, deadline }, now, actions);
        }
    }
}

/// Credentials: renewed in time, for ever, and never the reason why a task is lost without a word.
impl Supervisor {
    /// Whether the worker can take new credentials; not known before hello.
    fn takes_credentials(&self) -> Option<bool> {
        match self.agreed {
            _ if self.input_closed => Some(false),
            Some(agreed) => Some(agreed.has(Capability::NewCredentials)),
            None if self.deaf => Some(false),
            None => None,
        }
    }

    /// We need credentials, whatever the worker can do with them.
    fn renewal_is_due(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if !self.renewing {
            self.renewing = true;
            actions.push(Action::Renew);
        }
        self.drain_for_credentials(now, actions);
    }

    fn drain_for_credentials(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.takes_credentials() == Some(false) && self.stop.cause().is_none() {
            warning(
                actions,
                format_args!(
                    "the worker cannot take new credentials and must end before its own do: asking it to finish"
                ),
            );
            self.order(Order { cause: StopCause::Credentials, finish_tasks: true, deadline: None }, now, actions);
        }
    }

    fn credentials_end(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        // A machine that slept finds everything due at once.
        if self.renewing && !std::mem::replace(&mut self.waited_for_renewal, true) {
            actions.push(Action::Arm(Deadline::CredentialsEnd, later(now, LAST_RENEWAL)));
            return;
        }
        error(actions, format_args!("the worker's credentials are about to end: stopping it"));
        let end = self.heard_end.or(self.lease.as_ref().map(|lease| lease.expires)).unwrap_or(now);
        // It needs some time even where they have ended: to put an end to what it runs.
        let deadline = end.max(later(now, signed(self.terms.settings.interruption.abort_before)));
        let order = Order { cause: StopCause::Credentials, finish_tasks: false, deadline: Some(deadline) };
        self.order(order, now, actions);
    }

    fn renewed(&mut self, renewed: Renewed, now: Timestamp, actions: &mut Vec<Action>) {
        let Renewed { renewal, cached } = renewed;
        (self.renewing, self.waited_for_renewal, self.failing) = (false, false, None);
        if !cached && self.ended.is_none() {
            actions.push(Action::Arm(Deadline::CacheRetry, later(now, CACHE_RETRY)));
        }
        info(actions, format_args!("credentials renewed; they end at {:.0}", renewal.expires));
        let old_end = self.lease.as_ref().map(|lease| lease.expires);
        self.heard_end = if self.takes_credentials() == Some(true) { old_end } else { self.heard_end.or(old_end) };
        self.lease = Some(Lease { expires: renewal.expires, secret: renewal.secret.clone() });
        let credentials = renewal.credentials.clone();
        actions.push(Action::Adopt(renewal));
        if self.ended.is_some() {
            return;
        }
        self.arm_renewal(later(now, BETWEEN_RENEWALS), now, actions);
        match self.takes_credentials() {
            Some(true) => {
                self.sent_at = Some(now);
                actions.push(Action::Send(new_credentials(credentials)));
            }
            Some(false) | None => {
                self.unsent = Some(credentials);
                if let Some(heard) = self.heard_end {
                    // What it has now is what it will have if it never says hello.
                    self.arm_credentials_end(heard, now, actions);
                }
            }
        }
    }

    fn not_renewed(&mut self, reason: NotRenewed, now: Timestamp, actions: &mut Vec<Action>) {
        self.renewing = false;
        if self.ended.is_some() {
            return;
        }
        // Nothing tells us when they end, but for this.
        let reason = match reason {
            NotRenewed::Failed { reason, unauthorized: true, .. } if self.is_blind => NotRenewed::Refused(reason),
            other => other,
        };
        let refused = matches!(reason, NotRenewed::Refused(_));
        match reason {
            NotRenewed::Refused(reason) | NotRenewed::Failed { reason, .. }
                if self.terms.registers_again
                    && (refused || self.lease.as_ref().is_some_and(|lease| lease.expires <= now)) =>
            {
                warning(actions, format_args!("cannot renew the credentials: {reason}; registering anew"));
                self.renewing = true;
                actions.push(Action::Register);
            }
            NotRenewed::Refused(reason) => {
                error(
                    actions,
                    format_args!(
                        "worker-manager refuses to renew the credentials, for good: {reason}; the registration secret works once, so an answer that was lost is lost. The worker finishes its tasks while its credentials last"
                    ),
                );
                actions.push(Action::Disarm(Deadline::Renewal));
                self.order(Order { cause: StopCause::Credentials, finish_tasks: true, deadline: None }, now, actions);
            }
            NotRenewed::Failed { reason, asked, unauthorized: _ } => {
                let pause = self.renewal_pause(now, asked);
                warning(
                    actions,
                    format_args!(
                        "cannot renew the credentials: {reason}; trying again in {:.1} s",
                        pause.as_secs_f32()
                    ),
                );
                actions.push(Action::Arm(Deadline::Renewal, later(now, signed(pause))));
            }
        }
    }

    /// As any call is tried again, for as long as it takes.
    fn renewal_pause(&mut self, now: Timestamp, asked: Option<Duration>) -> Duration {
        let settings = &self.terms.settings.credentials;
        let (first, longest) = (settings.first_pause, settings.longest_pause);
        let (tried, since) = self.failing.map_or((1, now), |(tried, since)| (tried.saturating_add(1), since));
        self.failing = Some((tried, since));
        let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let luck = self.jitter.f64();
        let policy = |total| RetryPolicy { first, longest, ..RetryPolicy::persistent(total) };
        // Whatever is asked for, there is a try before the worker is stopped for want of credentials; and after that, too.
        let left = self.lease.as_ref().map(|lease| {
            last_renewal(lease.expires, self.terms.settings.interruption.abort_before).duration_since(now)
        });
        let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
        policy(elapsed + left)
            .pause(tried, elapsed, asked, luck)
            .or_else(|| policy(Duration::MAX).pause(tried, elapsed, None, luck))
            .unwrap_or(longest)
    }

    fn arm_renewal(&mut self, soonest: Timestamp, now: Timestamp, actions: &mut Vec<Action>) {
        let Some(lease) = &self.lease else { return };
        self.is_blind = lease.expires <= now;
        if self.is_blind {
            // They were made a moment ago: it is our clock that is wrong.
            error(actions, format_args!("by this machine's clock these credentials have ended already: is it right?"));
            actions.push(Action::Arm(Deadline::Renewal, later(now, BETWEEN_BLIND_RENEWALS)));
            actions.push(Action::Disarm(Deadline::CredentialsEnd));
            return;
        }
        let settings = &self.terms.settings;
        let (before, stop) = (settings.credentials.renew_before, settings.interruption.abort_before);
        let time = renewal_time(now, lease.expires, before, stop, self.jitter.f64()).max(soonest);
        actions.push(Action::Arm(Deadline::Renewal, time));
        self.arm_credentials_end(lease.expires, now, actions);
    }

    /// A worker needs its credentials to resolve its tasks, so it ends some time before they do, but not in the first
    /// half of the time that is left.
    fn arm_credentials_end(&self, end: Timestamp, now: Timestamp, actions: &mut Vec<Action>) {
        if self.is_blind {
            return;
        }
        let half = SignedDuration::from_nanos_i128((end.duration_since(now).as_nanos() / 2).max(0));
        let before = signed(self.terms.settings.interruption.abort_before).min(half);
        actions.push(Action::Arm(Deadline::CredentialsEnd, end.saturating_sub(before).unwrap_or(end)));
    }
}

fn new_credentials(credentials: Credentials) -> Message {
    let Credentials { client_id, access_token, certificate } = credentials;
    Message::NewCredentials { client_id, access_token, certificate }
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(time)
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
