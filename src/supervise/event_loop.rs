//! The one place that listens to everything at once, and the one owner of every task of a run.

use super::relay;
use super::signals::StopSignals;
use super::supervisor::{Action, Deadline, Event, Renewed, Say, Supervisor, Terms};
use crate::cache::{Cache, Kept};
use crate::driver::Worker;
use crate::driver::process::{Process, WorkerExit};
use crate::logging::LogStream;
use crate::provider::{Notice, Provider};
use crate::retirement;
use crate::run_state::{Lease, RunState};
use crate::{registration, report};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};
use taskcluster_api::{Client, Renewal, ReportWorkerError};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use worker_protocol::message::ErrorReport;
use worker_protocol::{Message, MessageWriter, Outbox};

/// The clock is looked at this often at least: a machine that slept has a clock that jumped, and timers that did
/// not see it.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// How long the worker's last lines are waited for once it has ended, while none comes: whatever holds its output open
/// then is not the worker.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How long they are waited for while a slow reader of the log takes them.
const LONGEST_LAST_LINES: Duration = Duration::from_secs(60);

/// How long reports that wait when the worker has ended may take in all.
const LAST_REPORTS: Duration = Duration::from_secs(10);

/// Between two looks at how far the end of a run has come.
const LOOK: Duration = Duration::from_millis(500);

/// How long writing renewed credentials to the cache may keep them from the worker.
const CACHE_PATIENCE: Duration = Duration::from_secs(10);

/// Error reports wait while one is under way; of more than this many the newest are dropped.
const MOST_REPORTS: usize = 8;

/// Messages between the relay and the loop.
const MESSAGES: usize = 4;

/// What a run needs beside its worker.
pub struct Surroundings {
    /// Says when the machine goes away.
    pub provider: Box<dyn Provider>,
    /// worker-manager, with the run's first credentials.
    pub client: Client,
    /// Where renewed credentials are kept.
    pub cache: Cache,
    /// Where the worker's lines go.
    pub log: LogStream,
    /// Requests to end.
    pub signals: StopSignals,
    /// Whether a cloud made the machine.
    pub is_cloud: bool,
}

/// A run that is over.
pub struct Ended {
    /// How the worker ended.
    pub exit: WorkerExit,
    /// worker-manager, with the newest credentials.
    pub client: Client,
    /// Whether the worker was asked to end.
    pub asked: bool,
    /// Whether a signal asked us to end.
    pub signalled: bool,
    /// Whether the machine has been retired already, or at least that has been tried.
    pub retired: bool,
    /// Whether a part of us failed.
    pub lost_part: bool,
    /// Requests to end: they still come.
    pub signals: StopSignals,
}

/// The tasks of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Output,
    Errors,
    Input,
    Watch,
    Renewal,
    CacheWrite,
    Report,
    Retirement,
}

impl Task {
    const fn name(self) -> &'static str {
        match self {
            Self::Output => "relay of the worker's output",
            Self::Errors => "relay of the worker's errors",
            Self::Input => "the worker's input",
            Self::Watch => "watch for notices",
            Self::Renewal => "renewal",
            Self::CacheWrite => "writing the cache",
            Self::Report => "error report",
            Self::Retirement => "retirement",
        }
    }
}

/// What a task of the run came to.
enum Outcome {
    /// The worker writes no more.
    OutputEnded(io::Result<()>),
    /// The worker writes no more errors.
    ErrorsEnded(io::Result<()>),
    /// The worker's input is closed.
    InputClosed(io::Error),
    /// A notice came; the provider is to be asked again.
    Notice(Notice, Box<dyn Provider>),
    /// A renewal came to this.
    Renewed(Result<Renewed, String>),
    /// The cache was written, or not.
    CacheWritten(bool),
    /// A report was sent, or not.
    Reported,
    /// The machine was retired, or not.
    Retired,
}

struct Loop {
    run: RunState,
    client: Client,
    cache: Cache,
    log: LogStream,
    supervisor: Supervisor,
    deadlines: BTreeMap<Deadline, Timestamp>,
    tasks: JoinSet<Outcome>,
    running: HashMap<Id, Task>,
    outbox: Outbox,
    reports: VecDeque<ErrorReport>,
    reporting: bool,
    dropped_reports: usize,
    retired: bool,
    exit: Option<WorkerExit>,
}

/// Stays beside the worker until it has ended.
pub async fn supervise(worker: Worker, run: RunState, surroundings: Surroundings) -> Ended {
    let Surroundings { provider, client, cache, log, mut signals, is_cloud } = surroundings;
    let Worker { mut process, streams } = worker;
    let terms = Terms { is_cloud, seed: fastrand::u64(..) };
    let outbox = Outbox::new(Supervisor::offer(terms, run.admitted.lease.as_ref()));
    let (supervisor, first) = Supervisor::begin(terms, run.admitted.lease.clone(), client.latest_now());
    // One message at a time is on its way to the worker; the others wait in the outbox, where newer ones replace them.
    let (input, to_write) = mpsc::channel(1);
    let (messages, mut received) = mpsc::channel(MESSAGES);
    let mut state = Loop {
        run,
        client,
        cache,
        log: log.clone(),
        supervisor,
        deadlines: BTreeMap::new(),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        outbox,
        reports: VecDeque::new(),
        reporting: false,
        dropped_reports: 0,
        retired: false,
        exit: None,
    };
    let output = relay::output(streams.output, log.clone(), messages);
    state.spawn(Task::Output, async { Outcome::OutputEnded(output.await) });
    let errors = relay::errors(streams.errors, log);
    state.spawn(Task::Errors, async { Outcome::ErrorsEnded(errors.await) });
    state.spawn(Task::Input, async { Outcome::InputClosed(write_input(streams.input, to_write).await) });
    state.watch(provider);
    state.act(first, &mut process);

    while state.exit.is_none() {
        let event = tokio::select! {
            exit = process.exited(), if state.is_running() => Some(Event::Exited(exit)),
            () = signals.next() => Some(Event::StopSignal),
            Some(message) = received.recv() => Some(Event::Message(message)),
            Some(joined) = state.tasks.join_next_with_id() => state.joined(joined),
            deadline = next_deadline(&state.deadlines, &state.client) => state.elapse(deadline),
            Ok(permit) = input.reserve(), if state.outbox.is_ready() => {
                if let Some(message) = state.outbox.pop() {
                    permit.send(message);
                }
                None
            }
        };
        if let Some(event) = event {
            state.dispatch(event, &mut process);
        }
    }
    state.wind_down(process, received, signals).await
}

impl Loop {
    fn spawn(&mut self, task: Task, work: impl Future<Output = Outcome> + Send + 'static) {
        let id = self.tasks.spawn(work).id();
        self.running.insert(id, task);
    }

    fn runs(&self, task: Task) -> bool {
        self.running.values().any(|running| *running == task)
    }

    fn watch(&mut self, mut provider: Box<dyn Provider>) {
        self.spawn(Task::Watch, async move {
            let notice = provider.next_notice().await;
            Outcome::Notice(notice, provider)
        });
    }

    fn is_running(&self) -> bool {
        !self.supervisor.has_ended()
    }

    fn dispatch(&mut self, event: Event, process: &mut Process) {
        let actions = self.supervisor.handle(event, self.client.latest_now());
        self.act(actions, process);
    }

    /// What a task came to, as an event where the supervisor is to know of it.
    fn joined(&mut self, joined: Result<(Id, Outcome), JoinError>) -> Option<Event> {
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let task = self.running.remove(&id);
        match (joined, task) {
            (Ok((_, outcome)), _) => self.outcome(outcome),
            (Err(error), Some(task)) => {
                tracing::error!("our own task `{}` failed: {error}", task.name());
                self.failed(task)
            }
            (Err(error), None) => {
                tracing::error!("a task of ours that nobody knows failed: {error}");
                None
            }
        }
    }

    /// What the failure of a task means for the run: only some of them are indispensable.
    fn failed(&mut self, task: Task) -> Option<Event> {
        match task {
            Task::Output | Task::Errors | Task::Watch => Some(Event::PartLost(task.name())),
            Task::Input => Some(Event::InputClosed),
            Task::Renewal => Some(Event::Renewed(Err("our own task failed".to_owned()))),
            Task::CacheWrite => Some(Event::CacheWritten(false)),
            Task::Report => {
                self.reporting = false;
                self.send_next_report();
                None
            }
            // It is tried again when the run is over.
            Task::Retirement => None,
        }
    }

    fn outcome(&mut self, outcome: Outcome) -> Option<Event> {
        match outcome {
            Outcome::OutputEnded(result) | Outcome::ErrorsEnded(result) => {
                if let Err(error) = result {
                    tracing::error!("cannot read what the worker writes: {error}");
                }
                None
            }
            Outcome::InputClosed(error) => {
                tracing::debug!("the worker's input is closed: {error}");
                Some(Event::InputClosed)
            }
            Outcome::Notice(notice, provider) => {
                self.watch(provider);
                Some(Event::Notice(notice))
            }
            Outcome::Renewed(result) => Some(Event::Renewed(result)),
            Outcome::CacheWritten(written) => Some(Event::CacheWritten(written)),
            Outcome::Reported => {
                self.reporting = false;
                self.send_next_report();
                None
            }
            Outcome::Retired => {
                self.retired = true;
                None
            }
        }
    }

    fn elapse(&mut self, deadline: Option<Deadline>) -> Option<Event> {
        let deadline = deadline?;
        self.deadlines.remove(&deadline);
        Some(Event::Elapsed(deadline))
    }

    fn act(&mut self, actions: Vec<Action>, process: &mut Process) {
        for action in actions {
            match action {
                Action::Send(message) => self.outbox.push(message),
                Action::Agree(capabilities) => {
                    self.outbox.hello(capabilities);
                }
                Action::Renew => self.renew(),
                Action::Adopt(renewal) => {
                    self.client = self.client.with_credentials(renewal.credentials.clone());
                    adopt(&mut self.run, renewal);
                }
                Action::WriteCache => {
                    let (cache, run) = (self.cache.clone(), self.run.clone());
                    self.spawn(Task::CacheWrite, async move { Outcome::CacheWritten(keep(&cache, run).await) });
                }
                Action::Report(report) => self.report(report),
                Action::Retire => {
                    let (client, worker) = (self.client.clone(), self.run.admitted.identity.worker());
                    self.spawn(Task::Retirement, async move {
                        retirement::remove_or_shut_down(&client, &worker).await;
                        Outcome::Retired
                    });
                }
                Action::Terminate => process.terminate(),
                Action::Kill => process.kill(),
                Action::Arm(deadline, time) => {
                    self.deadlines.insert(deadline, time);
                }
                Action::Disarm(deadline) => {
                    self.deadlines.remove(&deadline);
                }
                Action::Log(Say::Info(text)) => tracing::info!("{text}"),
                Action::Log(Say::Warning(text)) => tracing::warn!("{text}"),
                Action::Log(Say::Error(text)) => tracing::error!("{text}"),
                Action::Finish(exit) => self.exit = Some(exit),
            }
        }
    }

    /// New credentials are in the cache before the worker hears of them: their predecessors are dead already.
    fn renew(&mut self) {
        let Some(lease) = self.run.admitted.lease.clone() else { return };
        let (client, cache, mut run) = (self.client.clone(), self.cache.clone(), self.run.clone());
        self.spawn(Task::Renewal, async move {
            let worker = run.admitted.identity.worker();
            let renewal = match registration::renew(&client, &worker, &lease.secret).await {
                Ok(renewal) => renewal,
                Err(error) => return Outcome::Renewed(Err(format!("{error}: {}", error.failure))),
            };
            adopt(&mut run, renewal.clone());
            let cached = keep(&cache, run).await;
            Outcome::Renewed(Ok(Renewed { renewal, cached }))
        });
    }

    fn send_next_report(&mut self) {
        if self.reporting {
            return;
        }
        let Some(ErrorReport { description, kind, title, extra }) = self.reports.pop_front() else { return };
        self.reporting = true;
        let (client, worker) = (self.client.clone(), self.run.admitted.identity.worker());
        self.spawn(Task::Report, async move {
            report::send(&client, &worker, ReportWorkerError { kind, title, description, extra }).await;
            Outcome::Reported
        });
    }

    /// The worker has ended: ends what it left, relays what it wrote, and lets what is under way come to its end:
    /// reports, a retirement, a renewal whose predecessor is dead already.
    async fn wind_down(
        mut self,
        mut process: Process,
        mut received: mpsc::Receiver<Message>,
        mut signals: StopSignals,
    ) -> Ended {
        process.end_descendants(self.runs(Task::Retirement)).await;
        let mut signalled = self.supervisor.was_signalled();
        let mut patience = Patience::begin(&self.log);
        loop {
            let lines = self.runs(Task::Output) || self.runs(Task::Errors) || !received.is_empty();
            let lines = lines && patience.waits_for_lines(&self.log);
            let reports = self.reporting && patience.waits_for_reports();
            let others = [Task::Retirement, Task::Renewal, Task::CacheWrite].into_iter().any(|task| self.runs(task));
            if !(lines || reports || others) {
                break;
            }
            tokio::select! {
                Some(joined) = self.tasks.join_next_with_id() => match self.joined(joined) {
                    Some(Event::Renewed(Ok(renewed))) => {
                        self.client = self.client.with_credentials(renewed.renewal.credentials);
                    }
                    Some(event) => tracing::debug!("after the end of the run: {event:?}"),
                    None => {}
                },
                Some(message) = received.recv() => self.last_message(message),
                () = signals.next() => signalled = true,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        if self.dropped_reports > 0 {
            tracing::warn!("{} error reports of the worker were dropped", self.dropped_reports);
        }
        Ended {
            exit: self.exit.unwrap_or(WorkerExit::Code(1)),
            client: self.client.clone(),
            asked: self.supervisor.asked_to_stop(),
            signalled,
            retired: self.retired,
            lost_part: self.supervisor.lost_part(),
            signals,
        }
    }

    /// A message that was on its way when the worker ended: a report still counts, and a machine whose worker has
    /// ended is retired as it is.
    fn last_message(&mut self, message: Message) {
        match message {
            Message::ErrorReport(report) => self.report(report),
            Message::Welcome { .. }
            | Message::Hello { .. }
            | Message::Log { .. }
            | Message::GracefulTermination { .. }
            | Message::NewCredentials { .. }
            | Message::Shutdown => {}
        }
    }

    fn report(&mut self, report: ErrorReport) {
        if self.reports.len() < MOST_REPORTS {
            self.reports.push_back(report);
            self.send_next_report();
        } else {
            if self.dropped_reports == 0 {
                tracing::warn!("too many error reports wait: dropping the worker's newest until they are sent");
            }
            self.dropped_reports += 1;
        }
    }
}

/// How long the end of a run is still waited for.
struct Patience {
    began: Instant,
    progress: u64,
    last_progress: Instant,
    gave_up: bool,
}

impl Patience {
    fn begin(log: &LogStream) -> Self {
        let now = Instant::now();
        Self { began: now, progress: log.progress(), last_progress: now, gave_up: false }
    }

    /// As long as they get on; a reader that is slow is waited for, one that is gone is not.
    fn waits_for_lines(&mut self, log: &LogStream) -> bool {
        let progress = log.progress();
        if progress != self.progress {
            (self.progress, self.last_progress) = (progress, Instant::now());
        }
        let waits = self.last_progress.elapsed() < LAST_LINES && self.began.elapsed() < LONGEST_LAST_LINES;
        if !waits && !self.gave_up {
            self.gave_up = true;
            tracing::warn!("the worker has ended, but its output is still held open or the log is not read: going on");
        }
        waits
    }

    fn waits_for_reports(&self) -> bool {
        self.began.elapsed() < LAST_REPORTS
    }
}

fn adopt(run: &mut RunState, renewal: Renewal) {
    run.admitted.credentials = renewal.credentials;
    run.admitted.lease = Some(Lease { expires: renewal.expires, secret: renewal.secret });
}

async fn keep(cache: &Cache, run: RunState) -> bool {
    if let Ok(kept) = tokio::time::timeout(CACHE_PATIENCE, cache.keep(&Kept::Configured(run))).await {
        kept
    } else {
        tracing::error!("the cache could not be written within {} s", CACHE_PATIENCE.as_secs());
        false
    }
}

/// Writes messages to the worker until that fails.
async fn write_input(input: Box<dyn AsyncWrite + Send + Unpin>, mut messages: mpsc::Receiver<Message>) -> io::Error {
    let mut writer = MessageWriter::new(input);
    while let Some(message) = messages.recv().await {
        if let Err(error) = writer.send(&message).await {
            return error;
        }
    }
    io::Error::other("the run is over")
}

/// The first deadline that has come, or none after a while: the clock may have jumped meanwhile.
async fn next_deadline(deadlines: &BTreeMap<Deadline, Timestamp>, client: &Client) -> Option<Deadline> {
    let Some((deadline, time)) = deadlines.iter().min_by_key(|(_, time)| **time) else {
        return std::future::pending().await;
    };
    let left = time.duration_since(client.latest_now());
    match Duration::try_from(left) {
        Ok(left) if left > LONGEST_SLEEP => {
            tokio::time::sleep(LONGEST_SLEEP).await;
            None
        }
        Ok(left) if !left.is_zero() => {
            tokio::time::sleep(left).await;
            (*time <= client.latest_now()).then_some(*deadline)
        }
        Ok(_) | Err(_) => Some(*deadline),
    }
}
