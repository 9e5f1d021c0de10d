//! The one place that listens to everything at once, and the one owner of every task of a run.

use super::clock::Clock;
use super::relay::{self, Traffic};
use super::signals::{Request, StopSignals};
use super::supervisor::{Action, Deadline, Event, NotRenewed, Renewed, Say, Supervisor, Terms};
use super::tasks::{Outcome, Task};
use crate::cache::{Cache, Kept, Tombstone};
use crate::driver::process::{Process, WorkerExit};
use crate::driver::{Habits, Worker};
use crate::logging::LogStream;
use crate::outcome::RunFacts;
use crate::platform::{self, Alarm, MemoryEvents, MemoryWatch, ServiceManager, Word};
use crate::provider::{Found, Provider, Watch};
use crate::registration::{self, RenewalError};
use crate::report::{Redactor, Reporter};
use crate::retirement;
use crate::run_state::{Lease, RunState};
use crate::timeline;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use taskcluster_api::{Client, Renewal, ReportWorkerError, WorkerManager};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::Span;
use worker_protocol::message::ErrorReport;
use worker_protocol::{Message, MessageWriter, Outbox};

/// So long after the worker's start, connections that nobody needs are closed and threads that nobody needs have ended:
/// what they leave is given back.
const AFTER_BOOT: Duration = Duration::from_secs(20);

/// How long the worker's last lines are waited for while a slow reader of the log takes them.
const LONGEST_LAST_LINES: Duration = Duration::from_secs(60);

/// How long a renewal that is under way when the worker has ended is waited for: its predecessor is dead already, and
/// the next boot needs it.
const LAST_RENEWAL: Duration = Duration::from_secs(30);

/// The same when a signal told us to end.
const LAST_RENEWAL_TOLD: Duration = Duration::from_secs(5);

/// Between two looks at how far the end of a run has come.
const LOOK: Duration = Duration::from_millis(100);

/// When the worker has ended, so many times what one error report may take is given to those that are still to be sent.
const LAST_REPORTS: u32 = 3;

/// Error reports wait while one is under way; of more than this many the newest are dropped.
const MOST_REPORTS: usize = 8;

/// Messages between the relay and the loop: each may be large.
const MESSAGES: usize = 1;

/// What the service manager is given beyond the worker's time: ours.
const OUR_TIME: Duration = Duration::from_secs(15);

/// What a run needs beside its worker.
pub struct Surroundings {
    /// What holds for the whole run.
    pub terms: Terms,
    /// Says when the machine goes away, and proves anew who it is.
    pub provider: Arc<dyn Provider>,
    /// worker-manager, with the run's first credentials.
    pub client: Client,
    /// Where renewed credentials are kept.
    pub cache: Cache,
    /// Sends error reports.
    pub reporter: Reporter,
    /// Knows the secrets of the run.
    pub redactor: Redactor,
    /// Where the worker's lines go.
    pub log: LogStream,
    /// Who started us.
    pub manager: ServiceManager,
    /// Requests to end.
    pub signals: StopSignals,
}

/// A run that is over.
pub struct Ended {
    /// What is known of its end.
    pub facts: RunFacts,
    /// The run, with the newest credentials.
    pub run: RunState,
    /// What its worker does by itself.
    pub habits: Habits,
    /// worker-manager, with the same.
    pub client: Client,
    /// Knows the secrets of the run.
    pub redactor: Redactor,
    /// The worker's last lines, where they may be reported.
    pub last_lines: Vec<String>,
    /// What the cloud may be told to go on with.
    pub to_acknowledge: Vec<String>,
    /// Whether the worker asked for the machine to be retired.
    pub asks_for_retirement: bool,
    /// Whether the machine has been retired already.
    pub retired: bool,
    /// Requests to end: they still come.
    pub signals: StopSignals,
}

struct Loop {
    terms: Terms,
    run: RunState,
    client: Client,
    clock: Clock,
    cache: Cache,
    provider: Arc<dyn Provider>,
    reporter: Reporter,
    redactor: Redactor,
    log: LogStream,
    manager: ServiceManager,
    traffic: Traffic,
    memory: Option<MemoryEvents>,
    supervisor: Supervisor,
    deadlines: BTreeMap<Deadline, Timestamp>,
    tasks: JoinSet<Outcome>,
    running: HashMap<Id, Task>,
    outbox: Outbox,
    reports: VecDeque<ReportWorkerError>,
    reporting: bool,
    dropped_reports: usize,
    retired: bool,
    /// Since when the machine is to go, if the worker asked for that.
    retiring: Option<Timestamp>,
    exit: Option<WorkerExit>,
    /// The time until the worker says hello, or is not waited for any more.
    hello: Option<Span>,
}

/// Stays beside the worker until it has ended.
pub async fn supervise(worker: Worker, run: RunState, surroundings: Surroundings) -> Ended {
    let Surroundings { terms, provider, client, cache, reporter, redactor, log, manager, mut signals } = surroundings;
    let mut awake = manager.clone();
    let Worker { mut process, streams } = worker;
    let alarm = Alarm::unset();
    let outbox = Outbox::new(Supervisor::offer(&terms, run.admitted.lease.as_ref()));
    let mut clock = Clock::begin(&client);
    let (supervisor, first) = Supervisor::begin(terms.clone(), run.admitted.lease.clone(), clock.now(&client));
    // One message at a time is on its way to the worker; the others wait in the outbox, where newer ones replace them.
    let (input, to_write) = mpsc::channel(1);
    let (messages, mut received) = mpsc::channel(MESSAGES);
    let traffic = Traffic::keeping(terms.settings.report.worker_log_lines);
    let mut state = Loop {
        redactor,
        terms,
        run,
        client,
        clock,
        cache,
        provider,
        reporter,
        log: log.clone(),
        manager,
        traffic: traffic.clone(),
        memory: MemoryEvents::ours(),
        supervisor,
        deadlines: BTreeMap::new(),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        outbox,
        reports: VecDeque::new(),
        reporting: false,
        dropped_reports: 0,
        retired: false,
        retiring: None,
        exit: None,
        hello: Some(tracing::info_span!(target: timeline::TARGET, "stage", what = timeline::HELLO)),
    };
    let output = relay::output(streams.output, log.clone(), messages, traffic.clone());
    state.spawn(Task::Output, async { Outcome::OutputEnded(output.await) });
    let errors = relay::errors(streams.errors, log, traffic);
    state.spawn(Task::Errors, async { Outcome::ErrorsEnded(errors.await) });
    state.spawn(Task::Input, async { Outcome::InputClosed(write_input(streams.input, to_write).await) });
    state.spawn(Task::LettingGo, async move {
        tokio::time::sleep(AFTER_BOOT).await;
        platform::let_go();
        Outcome::LetGo
    });
    state.provider.watches().into_iter().for_each(|watch| state.watch(watch));
    match state.memory.as_ref().map(MemoryEvents::watch) {
        Some(Ok(watch)) => state.watch_memory(watch),
        Some(Err(error)) => state.lose_memory_watch(&error),
        None => {}
    }
    state.act(first, &mut process);

    while state.exit.is_none() {
        let bell = Some(&alarm).filter(|_| !state.is_calling());
        let event = tokio::select! {
            exit = process.exited(), if state.is_running() => Some(Event::Exited(exit)),
            request = signals.next() => Some(match request {
                Request::Stop => Event::StopSignal,
                Request::Drain => Event::DrainSignal,
            }),
            // Its clock has jumped: every deadline is looked at anew.
            () = awake.resumed() => None,
            Some(message) = received.recv() => Some(Event::Message(message)),
            Some(joined) = state.tasks.join_next_with_id() => state.joined(joined),
            () = wait_for_deadline(bell, &state.deadlines, &mut state.clock, &state.client) => state.elapse(),
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

    /// Whether a service is being asked something.
    fn is_calling(&self) -> bool {
        [Task::Renewal, Task::Registration, Task::Report, Task::Question, Task::Retirement]
            .into_iter()
            .any(|task| self.runs(task))
    }

    fn watch(&mut self, mut watch: Box<dyn Watch>) {
        self.spawn(Task::Watch, async move {
            let word = watch.next().await;
            Outcome::Word(word, watch)
        });
    }

    fn watch_memory(&mut self, mut watch: MemoryWatch) {
        self.spawn(Task::Memory, async move {
            let changed = watch.changed().await;
            Outcome::MemoryChanged(changed.map(|()| watch))
        });
    }

    /// What can't be heard when it happens can't be told from what happened hours ago.
    fn lose_memory_watch(&mut self, error: &io::Error) {
        tracing::warn!(
            "cannot watch for memory that runs out ({error}): systemd's OOMPolicy=stop will look like a reboot"
        );
        self.memory = None;
    }

    fn is_running(&self) -> bool {
        !self.supervisor.has_ended()
    }

    fn dispatch(&mut self, event: Event, process: &mut Process) {
        // What ended the worker, or made init stop us, may not have been heard yet.
        if matches!(event, Event::Exited(_) | Event::StopSignal) && self.memory_ran_out() {
            self.handle(Event::OutOfMemory, process);
        }
        self.handle(event, process);
    }

    fn handle(&mut self, event: Event, process: &mut Process) {
        let now = self.clock.now(&self.client);
        let actions = self.supervisor.handle(event, now);
        self.act(actions, process);
    }

    fn memory_ran_out(&mut self) -> bool {
        self.memory.as_mut().is_some_and(MemoryEvents::look)
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
            Task::Renewal | Task::Registration => Some(Event::Renewed(Err(NotRenewed::failed("our own task failed")))),
            Task::CacheWrite => Some(Event::CacheWritten(false)),
            Task::Question => Some(Event::ManagerSays(Err("our own task failed".to_owned()))),
            Task::Report => {
                self.reporting = false;
                self.send_next_report();
                None
            }
            // Retirement is tried again when the run is over; memory is looked at when something ends, too.
            Task::Retirement | Task::Memory | Task::LettingGo => None,
        }
    }

    fn outcome(&mut self, outcome: Outcome) -> Option<Event> {
        match outcome {
            Outcome::OutputEnded(Ok(())) => Some(Event::OutputClosed),
            Outcome::OutputEnded(Err(error)) => {
                tracing::error!("cannot read what the worker writes: {error}");
                Some(Event::ContactLost)
            }
            Outcome::ErrorsEnded(result) => {
                if let Err(error) = result {
                    tracing::error!("cannot read what the worker writes to its standard error: {error}");
                }
                None
            }
            Outcome::InputClosed(error) => {
                tracing::debug!("the worker's input is closed: {error}");
                Some(Event::InputClosed)
            }
            Outcome::Word(word, watch) => {
                self.watch(watch);
                Some(Event::Word(word))
            }
            Outcome::MemoryChanged(watch) => {
                match watch {
                    Ok(watch) => self.watch_memory(watch),
                    Err(error) => self.lose_memory_watch(&error),
                }
                self.memory_ran_out().then_some(Event::OutOfMemory)
            }
            Outcome::Renewed(result) => Some(Event::Renewed(result)),
            Outcome::CacheWritten(written) => Some(Event::CacheWritten(written)),
            Outcome::ManagerSays(answer) => answer.map(Event::ManagerSays),
            Outcome::Reported => {
                self.reporting = false;
                self.send_next_report();
                None
            }
            Outcome::LetGo => None,
            Outcome::Retired(retired) => {
                self.retired = retired;
                None
            }
        }
    }

    /// The first deadline that has come, if one has: the clock may have jumped meanwhile.
    fn elapse(&mut self) -> Option<Event> {
        let now = self.clock.now(&self.client);
        let (deadline, time) = self.deadlines.iter().min_by_key(|(_, time)| **time)?;
        if *time > now {
            return None;
        }
        let deadline = *deadline;
        self.deadlines.remove(&deadline);
        if deadline == Deadline::Hello {
            self.hello = None;
        }
        Some(match deadline {
            Deadline::Progress => Event::Activity(self.traffic.count()),
            Deadline::Renewal
            | Deadline::CredentialsEnd
            | Deadline::CacheRetry
            | Deadline::LateSignal
            | Deadline::Hello
            | Deadline::Stop
            | Deadline::Notice
            | Deadline::AskManager
            | Deadline::Killed
            | Deadline::Mute => Event::Elapsed(deadline),
        })
    }

    fn act(&mut self, actions: Vec<Action>, process: &mut Process) {
        for action in actions {
            match action {
                Action::Send(message) => self.outbox.push(message),
                Action::Agree(capabilities) => {
                    self.hello = None;
                    self.outbox.hello(capabilities);
                }
                Action::Renew => self.renew(),
                Action::Register => self.register(),
                Action::Adopt(renewal) => {
                    self.client = self.client.with_credentials(renewal.credentials.clone());
                    self.redactor.learn(&renewal.credentials, Some(&renewal.secret));
                    self.run.admitted.adopt(renewal);
                }
                Action::WriteCache => {
                    let (cache, kept) = (self.cache.clone(), to_keep(self.run.clone(), self.retiring));
                    self.spawn(Task::CacheWrite, async move { Outcome::CacheWritten(cache.keep(&kept).await) });
                }
                Action::Report(report) => self.report(report),
                Action::AskManager => self.ask_manager(),
                Action::Retire => self.retire(),
                Action::Interrupt => process.interrupt(),
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
                Action::Stopping { left, told } => {
                    self.manager.tell(Word::Status("the worker is asked to end"));
                    if told {
                        self.manager.tell(Word::Stopping);
                    }
                    if let Some(left) = left.and_then(|left| Duration::try_from(left).ok()) {
                        self.manager.tell(Word::Extend(left + OUR_TIME));
                    }
                }
                Action::Finish(exit) => self.exit = Some(exit),
            }
        }
    }

    /// New credentials are in the cache before the worker hears of them: their predecessors are dead already.
    fn renew(&mut self) {
        let Some(lease) = self.run.admitted.lease.clone() else { return };
        let (client, worker) = (self.client.clone(), self.run.admitted.identity.worker());
        self.spawn_renewal(Task::Renewal, async move {
            registration::renew(&client, &worker, &lease.secret).await.map_err(|error| match error {
                RenewalError::Refused(_) => NotRenewed::Refused(error.to_string()),
                RenewalError::Failed(ref failed) => {
                    let (asked, unauthorized) = (failed.retry_after(), failed.status() == Some(401));
                    NotRenewed::Failed { asked, unauthorized, reason: error.to_string() }
                }
            })
        });
    }

    /// As at the start; only machines that may register again come here.
    fn register(&mut self) {
        let (client, provider) = (self.client.clone(), Arc::clone(&self.provider));
        let is_cloud = self.terms.is_cloud;
        self.spawn_renewal(Task::Registration, async move {
            let found: Found = provider.identify(&|_| {}).await.map_err(NotRenewed::failed)?;
            let admitted = registration::admit(&client, &*provider, found, is_cloud).await;
            let admitted = admitted.map_err(|error| NotRenewed::failed(taskcluster_api::Chain(&error)))?;
            let Some(Lease { expires, secret }) = admitted.lease else {
                return Err(NotRenewed::failed("these credentials never end"));
            };
            Ok(Renewal { credentials: admitted.credentials, expires, secret })
        });
    }

    fn spawn_renewal(
        &mut self,
        task: Task,
        renewal: impl Future<Output = Result<Renewal, NotRenewed>> + Send + 'static,
    ) {
        let (cache, mut run) = (self.cache.clone(), self.run.clone());
        let retiring = self.retiring;
        self.spawn(task, async move {
            let renewal = match renewal.await {
                Ok(renewal) => renewal,
                Err(reason) => return Outcome::Renewed(Err(reason)),
            };
            run.admitted.adopt(renewal.clone());
            let cached = cache.keep(&to_keep(run, retiring)).await;
            Outcome::Renewed(Ok(Renewed { renewal, cached }))
        });
    }

    fn ask_manager(&mut self) {
        let (client, worker) = (self.client.clone(), self.run.admitted.identity.worker());
        self.spawn(Task::Question, async move {
            let service = WorkerManager::new(client);
            let answer = service.should_worker_terminate(&worker).await;
            Outcome::ManagerSays(match answer {
                Ok(answer) => Some(Ok(answer.terminate.then_some(answer.reason))),
                // Nobody answers that question to this client.
                Err(error) if error.status() == Some(403) => {
                    tracing::info!("may not ask whether this worker is still wanted: {}", error.failure);
                    None
                }
                Err(error) => Some(Err(error.failure.to_string())),
            })
        });
    }

    fn send_next_report(&mut self) {
        if self.reporting {
            return;
        }
        let Some(report) = self.reports.pop_front() else { return };
        self.reporting = true;
        let (reporter, redactor) = (self.reporter.clone(), self.redactor.clone());
        let (client, worker) = (self.client.clone(), self.run.admitted.identity.worker());
        self.spawn(Task::Report, async move {
            reporter.send(&client, &worker, &redactor, report).await;
            Outcome::Reported
        });
    }

    /// The worker asked for it and is about to end. What fails here is done with more patience when it has.
    fn retire(&mut self) {
        self.retiring = Some(Timestamp::now());
        let tombstone = to_keep(self.run.clone(), self.retiring);
        let (cache, client, worker) = (self.cache.clone(), self.client.clone(), self.run.admitted.identity.worker());
        let settings = self.terms.settings.retirement.clone();
        self.spawn(Task::Retirement, async move {
            cache.keep(&tombstone).await;
            let retired = retirement::remove(&client, &worker, &settings).await || retirement::try_to_shut_down().await;
            Outcome::Retired(retired)
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
        let mut facts = self.supervisor.facts(self.exit.unwrap_or(WorkerExit::Code(1)));
        let mut patience = Patience::begin(&self.log, self.terms.settings.protocol.output_grace);
        loop {
            let lines = self.runs(Task::Output) || self.runs(Task::Errors) || !received.is_empty();
            let lines = lines && patience.waits_for_lines(&self.log);
            let times = if facts.signalled { 1 } else { LAST_REPORTS };
            let reports = self.reporting && patience.began.elapsed() < self.terms.settings.report.timeout * times;
            let longest = if facts.signalled { LAST_RENEWAL_TOLD } else { LAST_RENEWAL };
            let renewal =
                (self.runs(Task::Renewal) || self.runs(Task::CacheWrite)) && patience.began.elapsed() < longest;
            // What a tombstone says is gone on with.
            let retirement = self.runs(Task::Retirement) && !facts.signalled;
            if !(lines || reports || renewal || retirement) {
                break;
            }
            tokio::select! {
                Some(joined) = self.tasks.join_next_with_id() => match self.joined(joined) {
                    Some(Event::Renewed(Ok(renewed))) => {
                        self.client = self.client.with_credentials(renewed.renewal.credentials.clone());
                        self.run.admitted.adopt(renewed.renewal);
                    }
                    Some(event) => tracing::debug!("after the end of the run: {event:?}"),
                    None => {}
                },
                Some(message) = received.recv() => {
                    let actions = self.supervisor.last_message(message, self.clock.now(&self.client));
                    self.act(actions, &mut process);
                }
                request = signals.next() => facts.signalled |= request == Request::Stop,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        if self.dropped_reports > 0 {
            tracing::warn!("{} error reports of the worker were dropped", self.dropped_reports);
        }
        let unsent = self.reports.len() + usize::from(self.reporting);
        if unsent > 0 {
            tracing::warn!("{unsent} error reports of the worker could not be sent in time");
        }
        Ended {
            facts,
            client: self.client.clone(),
            redactor: self.redactor,
            last_lines: self.traffic.last_lines(),
            to_acknowledge: self.supervisor.to_acknowledge(),
            asks_for_retirement: self.supervisor.asks_for_retirement(),
            retired: self.retired,
            habits: self.terms.habits,
            run: self.run,
            signals,
        }
    }

    fn report(&mut self, report: ErrorReport) {
        if self.reports.len() < MOST_REPORTS {
            let ErrorReport { description, kind, title, extra } = report;
            // Cut when nothing secret is left in it: half a secret would not be known for one.
            let report = self.redactor.report(ReportWorkerError { kind, title, description, extra }).clipped();
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
    /// While no line comes: whatever holds the output open then is not the worker.
    last_lines: Duration,
    began: Instant,
    progress: u64,
    last_progress: Instant,
    gave_up: bool,
}

impl Patience {
    fn begin(log: &LogStream, last_lines: Duration) -> Self {
        let now = Instant::now();
        // What lies in the pipe already is read in any case.
        let last_lines = last_lines.max(LOOK);
        Self { last_lines, began: now, progress: log.progress(), last_progress: now, gave_up: false }
    }

    /// As long as they get on; a reader that is slow is waited for, one that is gone is not.
    fn waits_for_lines(&mut self, log: &LogStream) -> bool {
        let progress = log.progress();
        if progress != self.progress {
            (self.progress, self.last_progress) = (progress, Instant::now());
        }
        let waits = self.last_progress.elapsed() < self.last_lines && self.began.elapsed() < LONGEST_LAST_LINES;
        if !waits && !self.gave_up {
            self.gave_up = true;
            tracing::warn!("the worker has ended, but its output is still held open or the log is not read: going on");
        }
        waits
    }
}

/// What the next boot goes on with.
fn to_keep(run: RunState, retiring: Option<Timestamp>) -> Kept {
    match retiring {
        Some(since) => Kept::Retiring(Tombstone { admitted: run.admitted, since, remove: true }),
        None => Kept::Configured(run),
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

/// Waits until the first deadline may have come: the clock may be set meanwhile, and the machine may sleep. No alarm rings
/// when a call finds out that the service's clock goes ahead of ours.
async fn wait_for_deadline(
    alarm: Option<&Alarm>,
    deadlines: &BTreeMap<Deadline, Timestamp>,
    clock: &mut Clock,
    client: &Client,
) {
    let Some(time) = deadlines.values().min() else {
        return std::future::pending().await;
    };
    let left = Duration::try_from(time.duration_since(clock.now(client))).unwrap_or_default();
    match alarm {
        Some(alarm) => alarm.ring(left).await,
        // A call is under way: the clock may be found to be another, and no alarm rings at that.
        None => tokio::time::sleep(left.min(platform::LOOK_AT_CLOCK)).await,
    }
}
