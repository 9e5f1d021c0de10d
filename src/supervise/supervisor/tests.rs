//! What the supervisor does about what, time passed in.

use super::*;
use crate::driver::process::WorkerExit;
use crate::outcome::{OutcomeClass, Retirement};
use proptest::prelude::*;
use taskcluster_api::Credentials;

fn cloud() -> Terms {
    let habits = Habits {
        drains_on_interrupt: true,
        heeds_termination: true,
        ends_with_its_output: false,
        asks_whether_wanted: true,
        leaves_reboots_to_others: false,
    };
    Terms {
        is_cloud: true,
        registers_again: false,
        habits,
        settings: Settings::default(),
        report_extra: Map::new(),
        seed: 7,
    }
}

fn host() -> Terms {
    Terms { is_cloud: false, registers_again: true, ..cloud() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn lease(expires: i64) -> Lease {
    Lease { expires: at(expires), secret: "secret".into() }
}

fn renewed(expires: i64) -> Event {
    let credentials =
        Credentials { client_id: format!("until-{expires}"), access_token: "token".into(), certificate: None };
    let renewal = Renewal { credentials, expires: at(expires), secret: "next".into() };
    Event::Renewed(Ok(Renewed { renewal, cached: true }))
}

fn refused() -> Event {
    Event::Renewed(Err(NotRenewed::Refused("no".into())))
}

fn failed() -> Event {
    Event::Renewed(Err(NotRenewed::failed("not now")))
}

fn hello(capabilities: &[Capability]) -> Event {
    Event::Message(Message::Hello { capabilities: capabilities.iter().copied().collect() })
}

fn notice_of(kind: NoticeKind, deadline: Option<i64>) -> Notice {
    let deadline = deadline.map(at);
    Notice { id: "n".into(), kind, deadline, finish_tasks: false, source: "it".into(), acknowledge: None }
}

/// A notice with that deadline.
fn notice(deadline: i64) -> Event {
    Event::Word(Word::Notice(notice_of(NoticeKind::Reclaim, Some(deadline))))
}

fn elapsed(deadline: Deadline) -> Event {
    Event::Elapsed(deadline)
}

/// The actions as words, without the log.
fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Send(Message::GracefulTermination { finish_tasks }) => Some(format!("stop finish={finish_tasks}")),
        Action::Send(Message::NewCredentials { client_id, .. }) => Some(format!("credentials {client_id}")),
        Action::Send(message) => Some(format!("send {}", message.kind().name())),
        Action::Agree(_) => Some("agree".to_owned()),
        Action::Renew => Some("renew".to_owned()),
        Action::Register => Some("register".to_owned()),
        Action::Adopt(_) => Some("adopt".to_owned()),
        Action::WriteCache => Some("write cache".to_owned()),
        Action::Report(_) => Some("report".to_owned()),
        Action::AskManager => Some("ask".to_owned()),
        Action::Retire => Some("retire".to_owned()),
        Action::Interrupt => Some("interrupt".to_owned()),
        Action::Terminate => Some("terminate".to_owned()),
        Action::Kill => Some("kill".to_owned()),
        Action::Arm(deadline, time) => Some(format!("{deadline:?} at {}", time.as_second())),
        Action::Disarm(deadline) => Some(format!("no {deadline:?}")),
        Action::Log(_) | Action::Stopping { .. } => None,
        Action::Finish(exit) => Some(format!("finish {exit}")),
    };
    actions.iter().filter_map(word).collect()
}

/// Those of these words that are done, not armed.
fn deeds(words: Vec<String>) -> Vec<String> {
    words.into_iter().filter(|word| !word.contains(" at ") && !word.starts_with("no ")).collect()
}

/// Runs events, each at its second, and returns what was done about the last.
fn last(terms: Terms, lease: impl Into<Option<Lease>>, events: Vec<(i64, Event)>) -> Vec<String> {
    let (mut supervisor, first) = Supervisor::begin(terms, lease.into(), at(0));
    events.into_iter().fold(words(&first), |_, (second, event)| words(&supervisor.handle(event, at(second))))
}

const ALL: [Capability; 5] = Capability::ALL;
const STOPPABLE: [Capability; 1] = [Capability::GracefulTermination];

/// They may have ended indeed, and then worker-manager says so.
#[test]
fn credentials_that_seemed_to_have_ended_and_have_end_the_worker() {
    let unauthorized = NotRenewed::Failed { reason: "no".into(), asked: None, unauthorized: true };
    let events = vec![(1, hello(&ALL)), (300, elapsed(Deadline::Renewal)), (301, Event::Renewed(Err(unauthorized)))];
    assert!(last(cloud(), lease(-7200), events).contains(&"stop finish=true".to_owned()));
}

/// A clock that is hours ahead is no reason to stop a worker, nor to renew all the time.
#[test]
fn credentials_that_seem_to_have_ended_when_they_were_made_end_nobody() {
    assert_eq!(last(host(), lease(-7200), vec![]), ["Hello at 120", "Renewal at 300", "no CredentialsEnd"]);
    for capabilities in [&ALL[..], &STOPPABLE] {
        let heard = last(host(), lease(-7200), vec![(1, hello(capabilities))]);
        assert!(!heard.iter().any(|word| word.contains("CredentialsEnd at")), "{heard:?}");
    }
    let events = vec![(1, hello(&ALL)), (300, elapsed(Deadline::Renewal)), (301, renewed(-6900))];
    assert_eq!(
        last(host(), lease(-7200), events),
        ["adopt", "Renewal at 601", "no CredentialsEnd", "credentials until--6900"]
    );
}

#[test]
fn renewal_is_armed_at_the_start_and_after_each_renewal() {
    for seed in 0..50 {
        let first = last(Terms { seed, ..cloud() }, lease(10_000), vec![]);
        let [hello_at, renewal, end] = first.as_slice() else { panic!("{first:?}") };
        assert_eq!([hello_at, end], ["Hello at 120", "CredentialsEnd at 9975"]);
        // Half an hour before the end, or three quarters, or somewhere in between.
        assert!((7300..=8200).contains(&armed_renewal(renewal)), "{renewal}");
        let events = vec![(1, hello(&ALL)), (8200, renewed(20_000))];
        let next = last(Terms { seed, ..cloud() }, lease(10_000), events);
        let [adopt, renewal, end, told] = next.as_slice() else { panic!("{next:?}") };
        assert_eq!([adopt, end, told], ["adopt", "CredentialsEnd at 19975", "credentials until-20000"]);
        assert!((17_300..=18_200).contains(&armed_renewal(renewal)), "{renewal}");
    }
    assert_eq!(last(cloud(), None, vec![]), ["Hello at 120"]);
}

/// When a renewal is armed for.
fn armed_renewal(word: &str) -> i64 {
    word.strip_prefix("Renewal at ").and_then(|second| second.parse().ok()).unwrap_or_else(|| panic!("{word}"))
}

#[test]
fn a_renewal_that_fails_is_tried_again_until_the_end_and_stops_nobody_before() {
    let (mut supervisor, _) = Supervisor::begin(cloud(), Some(lease(10_000)), at(0));
    supervisor.handle(hello(&ALL), at(1));
    for second in 8200..8300 {
        let words = words(&supervisor.handle(failed(), at(second)));
        assert_eq!(words.len(), 1, "{words:?}");
        let next = armed_renewal(&words[0]);
        assert!((second..=second + 90).contains(&next), "{words:?}");
    }
    let end = words(&supervisor.handle(elapsed(Deadline::CredentialsEnd), at(9975)));
    assert_eq!(end, ["stop finish=false", "Stop at 9995"]);
}

#[test]
fn what_a_service_asks_for_does_not_take_the_last_try_to_renew() {
    let (mut supervisor, _) = Supervisor::begin(cloud(), Some(lease(10_000)), at(0));
    supervisor.handle(hello(&ALL), at(1));
    let mut asked = |seconds, second| {
        let asked = Some(Duration::from_secs(seconds));
        let failed = Event::Renewed(Err(NotRenewed::Failed { reason: "busy".into(), asked, unauthorized: false }));
        armed_renewal(&words(&supervisor.handle(failed, at(second)))[0])
    };
    assert!((8260..=8290).contains(&asked(60, 8200)));
    // The worker would be stopped at 9975.
    assert_eq!(asked(600, 9700), 9970);
    assert!((9971..=10_200).contains(&asked(600, 9971)));
}

#[test]
fn a_renewal_that_is_refused_for_good_registers_anew_or_drains() {
    let events = || vec![(1, hello(&ALL)), (8200, elapsed(Deadline::Renewal)), (8201, refused())];
    assert_eq!(last(host(), lease(10_000), events()), ["register"]);
    assert_eq!(last(cloud(), lease(10_000), events()), ["no Renewal", "stop finish=true", "no Stop"]);
    let mut again = events();
    again.push((8202, renewed(20_000)));
    assert_eq!(deeds(last(host(), lease(10_000), again)), ["adopt", "credentials until-20000"]);
}

#[test]
fn a_worker_that_cannot_take_credentials_is_drained_and_then_stopped_while_ours_are_renewed() {
    let events = || vec![(1, hello(&STOPPABLE)), (8200, elapsed(Deadline::Renewal))];
    assert_eq!(deeds(last(cloud(), lease(10_000), events())), ["renew", "stop finish=true"]);
    let mut until_the_end = events();
    until_the_end.push((8201, renewed(20_000)));
    let armed = last(cloud(), lease(10_000), events().into_iter().chain([(8201, renewed(20_000))]).collect());
    assert_eq!(armed.last().unwrap(), "CredentialsEnd at 9975");
    until_the_end.push((9975, elapsed(Deadline::CredentialsEnd)));
    assert_eq!(last(cloud(), lease(10_000), until_the_end), ["stop finish=false", "Stop at 9995"]);
}

#[test]
fn a_mute_worker_gets_the_newest_credentials_with_its_hello_and_is_stopped_by_signal_without() {
    let renewals = || vec![(8200, renewed(20_000)), (8300, renewed(30_000))];
    assert_eq!(deeds(last(cloud(), lease(10_000), renewals())), ["adopt"]);
    let mut late_hello = renewals();
    late_hello.push((9000, hello(&ALL)));
    assert_eq!(
        last(cloud(), lease(10_000), late_hello),
        ["agree", "no Hello", "credentials until-30000", "CredentialsEnd at 29975"]
    );
    let mut mute = renewals();
    mute.push((9975, elapsed(Deadline::CredentialsEnd)));
    assert_eq!(last(cloud(), lease(10_000), mute), ["terminate", "Stop at 10000"]);
}

#[test]
fn a_worker_that_did_not_hear_of_its_credentials_is_drained_at_once_and_one_that_did_is_not() {
    let renewal = || vec![(1, hello(&ALL)), (8200, renewed(100_000))];
    let mut closed = renewal();
    closed.push((8201, Event::InputClosed));
    assert_eq!(last(cloud(), lease(10_000), closed), ["CredentialsEnd at 9975", "interrupt", "no Stop"]);
    let mut later = renewal();
    later.push((9000, Event::InputClosed));
    assert_eq!(last(cloud(), lease(10_000), later), ["CredentialsEnd at 99975"]);
    let deaf = vec![(100, renewed(100_000)), (120, elapsed(Deadline::Hello))];
    assert_eq!(deeds(last(cloud(), lease(10_000), deaf)), ["interrupt"]);
}

#[test]
fn new_credentials_that_seem_to_have_ended_stop_nobody() {
    let events = vec![(1, hello(&ALL)), (8200, renewed(8000))];
    let words = last(cloud(), lease(10_000), events);
    assert!(words.contains(&"no CredentialsEnd".to_owned()), "{words:?}");
}

#[test]
fn a_static_machine_whose_credentials_have_ended_registers_anew_whatever_the_answer() {
    let events = |second| vec![(1, hello(&ALL)), (second, elapsed(Deadline::Renewal)), (second, failed())];
    assert_eq!(last(host(), lease(10_000), events(30_000)), ["register"]);
    assert!(last(host(), lease(10_000), events(9000))[0].starts_with("Renewal at"));
}

#[test]
fn a_machine_that_slept_tries_to_renew_before_it_gives_up() {
    let (mut supervisor, _) = Supervisor::begin(cloud(), Some(lease(10_000)), at(0));
    supervisor.handle(hello(&ALL), at(1));
    // Everything is due at once, hours later.
    let now = at(30_000);
    assert_eq!(words(&supervisor.handle(elapsed(Deadline::Renewal), now)), ["renew"]);
    assert_eq!(words(&supervisor.handle(elapsed(Deadline::CredentialsEnd), now)), ["CredentialsEnd at 30010"]);
    assert_eq!(deeds(words(&supervisor.handle(renewed(50_000), now))), ["adopt", "credentials until-50000"]);
    // Where that comes to nothing the worker has some time, not none.
    supervisor.handle(elapsed(Deadline::Renewal), at(90_000));
    supervisor.handle(elapsed(Deadline::CredentialsEnd), at(90_000));
    supervisor.handle(failed(), at(90_001));
    let end = words(&supervisor.handle(elapsed(Deadline::CredentialsEnd), at(90_010)));
    assert_eq!(end, ["stop finish=false", "Stop at 90030"]);
}

#[test]
fn whatever_asks_for_a_stop_is_passed_on_once_and_a_second_signal_kills() {
    type Row = (Vec<(i64, Event)>, &'static [&'static str]);
    let said = || (1, hello(&ALL));
    let table: Vec<Row> = vec![
        (vec![said(), (2, notice(100))], &["stop finish=false"]),
        (vec![said(), (2, notice(100)), (3, notice(100))], &[]),
        (vec![said(), (2, notice(100)), (3, notice(50))], &[]),
        (vec![said(), (2, notice(5000))], &["stop finish=true"]),
        (vec![said(), (2, notice(5000)), (3, notice(100))], &["stop finish=false"]),
        (vec![said(), (2, notice(5000)), (4975, elapsed(Deadline::Stop))], &["stop finish=false"]),
        (vec![said(), (2, notice(5000)), (4995, elapsed(Deadline::Stop))], &["terminate"]),
        (vec![said(), (2, notice(5000)), (5000, elapsed(Deadline::Stop))], &["kill"]),
        (vec![said(), (2, notice(100)), (3, Event::StopSignal)], &[]),
        (vec![said(), (2, Event::StopSignal)], &["stop finish=false"]),
        (vec![said(), (2, Event::StopSignal), (77, elapsed(Deadline::Stop))], &["terminate"]),
        (vec![said(), (2, Event::StopSignal), (82, elapsed(Deadline::Stop))], &["kill"]),
        (vec![said(), (2, Event::StopSignal), (3, Event::StopSignal)], &["kill"]),
        (vec![said(), (2, Event::DrainSignal)], &["stop finish=true"]),
        (vec![said(), (2, Event::DrainSignal), (3, Event::DrainSignal)], &[]),
        (vec![said(), (2, Event::DrainSignal), (3, Event::StopSignal)], &["stop finish=false"]),
        // Nothing has been said yet: what is urgent goes by signal, what is not waits for hello, or for the end of it.
        (vec![(1, Event::StopSignal)], &["terminate"]),
        (vec![(1, Event::DrainSignal)], &[]),
        (vec![(1, Event::DrainSignal), (2, hello(&ALL))], &["agree", "stop finish=true"]),
        (vec![(1, Event::DrainSignal), (120, elapsed(Deadline::Hello))], &["interrupt"]),
        (vec![(1, Event::DrainSignal), (120, elapsed(Deadline::Hello)), (130, hello(&ALL))], &["agree"]),
        (vec![(1, notice(5000))], &["interrupt"]),
        (vec![(1, hello(&[])), (2, Event::StopSignal)], &["terminate"]),
        (vec![(1, hello(&[])), (2, Event::DrainSignal)], &["interrupt"]),
        (vec![(1, notice(100)), (2, Event::StopSignal), (3, Event::StopSignal)], &["kill"]),
        // What was said last may not have been heard.
        (vec![said(), (2, Event::StopSignal), (3, Event::InputClosed)], &["terminate"]),
        (vec![said(), (2, Event::DrainSignal), (3, Event::InputClosed)], &["interrupt"]),
        (vec![said(), (2, Event::InputClosed), (3, Event::StopSignal)], &["terminate"]),
        (vec![(1, Event::PartLost("a part"))], &["terminate"]),
        (vec![said(), (2, Event::ContactLost)], &["terminate"]),
        (vec![said(), (2, Event::OutputClosed)], &[]),
    ];
    for (events, expected) in table {
        let shown = format!("{events:?}");
        assert_eq!(deeds(last(cloud(), None, events)), expected, "{shown}");
    }
}

#[test]
fn a_worker_that_knows_no_interrupt_is_not_drained_by_signal() {
    let habits = Habits { drains_on_interrupt: false, ..cloud().habits };
    let events = vec![(1, hello(&[])), (2, Event::DrainSignal)];
    let terms = Terms { habits, ..cloud() };
    assert_eq!(deeds(last(terms.clone(), None, events)), Vec::<String>::new());
    let (mut supervisor, _) = Supervisor::begin(terms, None, at(0));
    supervisor.handle(hello(&[]), at(1));
    let said = format!("{:?}", supervisor.handle(Event::DrainSignal, at(2)));
    assert!(said.contains("cannot be told to finish its tasks"), "{said}");
}

#[test]
fn a_worker_whose_pipes_break_while_it_runs_is_lost() {
    let events = || vec![(1, hello(&[Capability::GracefulTermination])), (2, Event::OutputClosed)];
    assert_eq!(last(cloud(), None, events()), ["Mute at 7"]);
    let later = || events().into_iter().chain([(7, elapsed(Deadline::Mute))]).collect();
    assert_eq!(deeds(last(cloud(), None, later())), Vec::<String>::new());
    let habits = Habits { ends_with_its_output: true, ..cloud().habits };
    let terms = Terms { habits, ..cloud() };
    assert_eq!(deeds(last(terms.clone(), None, later())), ["terminate"]);
    // Its end is what usually breaks them.
    let mut ended = events();
    ended.push((3, Event::Exited(WorkerExit::Code(0))));
    assert_eq!(last(terms, None, ended).last().map(String::as_str), Some("finish exit code 0"));
}

#[test]
fn a_worker_that_survives_its_killing_is_left_behind() {
    let events = || vec![(1, Event::StopSignal), (2, Event::StopSignal)];
    assert_eq!(last(cloud(), None, events()), ["kill", "Killed at 12", "no Stop"]);
    let mut after = events();
    after.push((12, elapsed(Deadline::Killed)));
    assert_eq!(last(cloud(), None, after), ["finish signal 9"]);
}

#[test]
fn an_end_that_looks_like_inits_is_waited_on_for_a_signal() {
    let ends = [
        (cloud(), WorkerExit::Signal(15), true),
        (cloud(), WorkerExit::Code(67), true),
        (cloud(), WorkerExit::Code(71), true),
        (cloud(), WorkerExit::Code(72), true),
        (cloud(), WorkerExit::Code(0), false),
        (cloud(), WorkerExit::Code(1), false),
        (cloud(), WorkerExit::Signal(9), false),
        (host(), WorkerExit::Signal(15), true),
        (host(), WorkerExit::Code(67), false),
    ];
    for (terms, exit, waits) in ends {
        let next = if waits { "LateSignal at 15".to_owned() } else { format!("finish {exit}") };
        assert_eq!(last(terms.clone(), None, vec![(10, Event::Exited(exit))]).last(), Some(&next), "{exit}");
        if waits {
            let finish = vec![format!("finish {exit}")];
            for then in [Event::StopSignal, elapsed(Deadline::LateSignal)] {
                let signalled = matches!(then, Event::StopSignal);
                let (mut supervisor, _) = Supervisor::begin(terms.clone(), None, at(0));
                supervisor.handle(Event::Exited(exit), at(10));
                assert_eq!(words(&supervisor.handle(then, at(11))), finish);
                assert_eq!(supervisor.facts(exit).signalled, signalled);
            }
        }
    }
    // An end that we asked for is no riddle.
    let asked = vec![(1, hello(&ALL)), (2, notice(100)), (3, Event::Exited(WorkerExit::Code(71)))];
    assert_eq!(last(cloud(), None, asked).last().unwrap(), "finish exit code 71");
}

#[test]
fn memory_that_ran_out_explains_what_follows_within_moments_and_nothing_later() {
    let kill = WorkerExit::Signal(9);
    let facts = |events: Vec<(i64, Event)>| {
        let (mut supervisor, _) = Supervisor::begin(cloud(), None, at(0));
        for (second, event) in events {
            supervisor.handle(event, at(second));
        }
        supervisor.facts(kill).out_of_memory
    };
    assert!(facts(vec![(100, Event::OutOfMemory), (101, Event::Exited(kill))]));
    assert!(facts(vec![(100, Event::OutOfMemory), (101, Event::StopSignal), (170, Event::Exited(kill))]));
    assert!(facts(vec![
        (100, Event::OutOfMemory),
        (101, Event::Exited(WorkerExit::Code(71))),
        (103, Event::StopSignal)
    ]));
    assert!(!facts(vec![(100, Event::OutOfMemory), (200, Event::Exited(kill))]));
    assert!(!facts(vec![(100, Event::OutOfMemory), (200, Event::StopSignal), (201, Event::Exited(kill))]));
    assert!(!facts(vec![(100, Event::StopSignal), (101, Event::OutOfMemory), (102, Event::Exited(kill))]));
}

#[test]
fn retirement_is_asked_for_once_and_on_clouds_only() {
    let shutdown = || Event::Message(Message::Shutdown);
    let said = || (1, hello(&ALL));
    assert_eq!(last(cloud(), None, vec![said(), (2, shutdown())]), ["retire"]);
    assert_eq!(last(cloud(), None, vec![said(), (2, shutdown()), (3, shutdown())]), Vec::<String>::new());
    assert_eq!(last(host(), None, vec![said(), (2, shutdown())]), Vec::<String>::new());
    assert_eq!(last(cloud(), None, vec![(1, hello(&STOPPABLE)), (2, shutdown())]), Vec::<String>::new());
    // Where the operator chose, the outcome decides.
    let mut chosen = cloud();
    chosen.settings.retirement.choices.insert(OutcomeClass::Idle, Retirement::LeaveRunning);
    assert_eq!(last(chosen, None, vec![said(), (2, shutdown())]), Vec::<String>::new());
}

#[test]
fn what_comes_with_the_workers_end_counts_and_what_follows_is_left_to_that() {
    let after_the_end = |terms: Terms, message: Message| {
        let (mut supervisor, _) = Supervisor::begin(terms, None, at(0));
        supervisor.handle(hello(&ALL), at(1));
        supervisor.handle(Event::Exited(WorkerExit::Code(67)), at(2));
        let actions = supervisor.last_message(message, at(2));
        (words(&actions), supervisor.asks_for_retirement())
    };
    let nothing = Vec::<String>::new;
    assert_eq!(after_the_end(cloud(), Message::Shutdown), (nothing(), true));
    assert_eq!(after_the_end(host(), Message::Shutdown), (nothing(), false));
    let mut chosen = cloud();
    chosen.settings.retirement.choices.insert(OutcomeClass::Idle, Retirement::LeaveRunning);
    assert_eq!(after_the_end(chosen, Message::Shutdown), (nothing(), false));
    let report =
        ErrorReport { description: "d".into(), kind: "k".into(), title: "t".into(), extra: serde_json::Map::new() };
    assert_eq!(after_the_end(cloud(), Message::ErrorReport(report)), (vec!["report".to_owned()], false));
    assert_eq!(after_the_end(cloud(), Message::Hello { capabilities: ALL.into_iter().collect() }), (nothing(), false));
}

#[test]
fn a_cache_that_could_not_be_written_is_written_later() {
    let Event::Renewed(Ok(renewed)) = renewed(20_000) else { unreachable!() };
    let uncached = Event::Renewed(Ok(Renewed { cached: false, ..renewed }));
    let words = last(cloud(), lease(10_000), vec![(1, hello(&ALL)), (8200, uncached)]);
    assert!(words.contains(&"CacheRetry at 8260".to_owned()) && words.contains(&"credentials until-20000".to_owned()));
    let retry = vec![(1, elapsed(Deadline::CacheRetry))];
    assert_eq!(last(cloud(), lease(10_000), retry), ["write cache"]);
    assert_eq!(last(cloud(), lease(10_000), vec![(1, Event::CacheWritten(false))]), ["CacheRetry at 61"]);
}

#[test]
fn worker_manager_is_asked_on_behalf_of_a_worker_that_does_not_ask_itself() {
    let asks = |terms: Terms| last(terms, None, vec![]).iter().any(|word| word.starts_with("AskManager at"));
    let docker = |terms: Terms| {
        let habits = Habits { asks_whether_wanted: false, drains_on_interrupt: false, ..terms.habits };
        Terms { habits, ..terms }
    };
    let with = |mut terms: Terms, setting| {
        terms.settings.interruption.ask_worker_manager = setting;
        terms
    };
    assert!(!asks(cloud()) && asks(docker(cloud())) && !asks(docker(host())));
    assert!(asks(with(cloud(), AskManager::Always)) && !asks(with(docker(cloud()), AskManager::Never)));
    let events =
        |answer| vec![(1, hello(&ALL)), (300, elapsed(Deadline::AskManager)), (301, Event::ManagerSays(answer))];
    assert_eq!(deeds(last(docker(cloud()), None, events(Ok(Some("too many".into()))))), ["stop finish=true"]);
    for answer in [Ok(None), Err("no answer".to_owned())] {
        let next = last(docker(cloud()), None, events(answer));
        let time: i64 = next[0].strip_prefix("AskManager at ").unwrap().parse().unwrap();
        assert!(next.len() == 1 && (301 + 240..=301 + 360).contains(&time), "{next:?}");
    }
}

#[test]
fn a_worker_that_says_nothing_is_noticed_once_and_treated_as_configured() {
    let expected: [(OnSilence, &[&str]); 3] =
        [(OnSilence::Warn, &[]), (OnSilence::Report, &["report"]), (OnSilence::Stop, &["report", "stop finish=false"])];
    for (action, expected) in expected {
        let mut terms = cloud();
        terms.settings.progress.timeout = Some(Duration::from_secs(400));
        terms.settings.progress.action = action;
        let (mut supervisor, first) = Supervisor::begin(terms, None, at(0));
        assert!(words(&first).contains(&"Progress at 100".to_owned()));
        supervisor.handle(hello(&ALL), at(1));
        let mut look = |second, count| deeds(words(&supervisor.handle(Event::Activity(count), at(second))));
        for (second, count) in [(100, 5), (200, 5), (300, 6), (400, 6), (500, 6), (600, 6)] {
            assert_eq!(look(second, count), Vec::<String>::new(), "{second}");
        }
        assert_eq!(look(700, 6), expected);
        assert_eq!(look(800, 6), Vec::<String>::new());
        // It spoke, and then the machine slept.
        assert_eq!(look(900, 7), Vec::<String>::new());
        assert_eq!(look(9000, 7), Vec::<String>::new());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Hello(u8),
    Notice(i64),
    Withdrawn,
    Unwanted,
    Signal,
    Drain,
    OutOfMemory,
    Renewed,
    Refused,
    NotRenewed,
    Due,
    Elapsed(u8),
    Activity(u64),
    InputClosed,
    OutputClosed,
    ContactLost,
    Shutdown,
    PartLost,
    Exited(i32),
    Time(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0u8..32).prop_map(Step::Hello),
        1 => (-100i64..200_000).prop_map(Step::Notice),
        1 => Just(Step::Withdrawn),
        1 => Just(Step::Unwanted),
        1 => Just(Step::Signal),
        1 => Just(Step::Drain),
        1 => Just(Step::OutOfMemory),
        3 => Just(Step::Renewed),
        1 => Just(Step::Refused),
        1 => Just(Step::NotRenewed),
        6 => Just(Step::Due),
        2 => (0u8..11).prop_map(Step::Elapsed),
        1 => (0u64..3).prop_map(Step::Activity),
        1 => Just(Step::InputClosed),
        1 => Just(Step::OutputClosed),
        1 => Just(Step::ContactLost),
        1 => Just(Step::Shutdown),
        1 => Just(Step::PartLost),
        1 => (0i32..90).prop_map(Step::Exited),
        // Hours pass, or the clock goes back by some.
        3 => (-20_000i64..20_000).prop_map(Step::Time),
    ]
}

/// What a whole run must not do, whatever happens.
#[derive(Default)]
struct Model {
    armed: std::collections::BTreeMap<Deadline, Timestamp>,
    drains: usize,
    stops: usize,
    interrupts: usize,
    retirements: usize,
    finished: usize,
    said_hello: bool,
    ended: bool,
    killed: bool,
    newest: Option<String>,
}

impl Model {
    fn note(&mut self, actions: &[Action]) -> Result<(), TestCaseError> {
        prop_assert!(self.finished == 0 || actions.is_empty(), "something is done after the end");
        for action in actions {
            let touches_worker = matches!(
                action,
                Action::Send(_)
                    | Action::Interrupt
                    | Action::Terminate
                    | Action::Kill
                    | Action::Renew
                    | Action::Register
            );
            prop_assert!(!(self.ended && touches_worker), "{action:?} after the worker's end");
            match action {
                Action::Agree(_) => self.said_hello = true,
                Action::Send(message) => {
                    prop_assert!(self.said_hello, "{message:?} before hello");
                    prop_assert!(!self.killed, "{message:?} to a killed worker");
                    match message {
                        Message::GracefulTermination { finish_tasks: true } => self.drains += 1,
                        Message::GracefulTermination { finish_tasks: false } => self.stops += 1,
                        Message::NewCredentials { client_id, .. } => {
                            prop_assert_eq!(Some(client_id), self.newest.as_ref(), "old credentials");
                        }
                        _ => prop_assert!(false, "{message:?} is not ours to send"),
                    }
                }
                Action::Adopt(renewal) => self.newest = Some(renewal.credentials.client_id.clone()),
                Action::Interrupt => self.interrupts += 1,
                Action::Kill => self.killed = true,
                Action::Retire => self.retirements += 1,
                Action::Finish(_) => self.finished += 1,
                Action::Arm(deadline, time) => drop(self.armed.insert(*deadline, *time)),
                Action::Disarm(deadline) => drop(self.armed.remove(deadline)),
                _ => {}
            }
        }
        let once = [self.drains, self.stops, self.interrupts, self.retirements, self.finished];
        prop_assert!(once.iter().all(|count| *count <= 1), "drains, stops, interrupts, retirements, ends: {once:?}");
        Ok(())
    }
}

fn event(step: &Step, now: i64, model: &mut Model) -> Option<Event> {
    Some(match step {
        Step::Hello(bits) => {
            let chosen = Capability::ALL.into_iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0);
            Event::Message(Message::Hello { capabilities: chosen.map(|(_, capability)| capability).collect() })
        }
        Step::Notice(ahead) => notice(now + ahead),
        Step::Withdrawn => Event::Word(Word::Withdrawn(notice_of(NoticeKind::Reclaim, None))),
        Step::Unwanted => Event::ManagerSays(Ok(Some("enough".into()))),
        Step::Signal => Event::StopSignal,
        Step::Drain => Event::DrainSignal,
        Step::OutOfMemory => Event::OutOfMemory,
        Step::Renewed => renewed(now + 10_000),
        Step::Refused => refused(),
        Step::NotRenewed => failed(),
        Step::Due => {
            let (deadline, _) = model.armed.iter().min_by_key(|(_, time)| **time)?;
            let deadline = *deadline;
            model.armed.remove(&deadline);
            if deadline == Deadline::Progress { Event::Activity(1) } else { Event::Elapsed(deadline) }
        }
        Step::Elapsed(which) => Event::Elapsed(Deadline::ALL[usize::from(*which)]),
        Step::Activity(count) => Event::Activity(*count),
        Step::InputClosed => Event::InputClosed,
        Step::OutputClosed => Event::OutputClosed,
        Step::ContactLost => Event::ContactLost,
        Step::Shutdown => Event::Message(Message::Shutdown),
        Step::PartLost => Event::PartLost("a part"),
        Step::Exited(code) => {
            if model.ended {
                return None;
            }
            Event::Exited(WorkerExit::Code(*code))
        }
        Step::Time(_) => return None,
    })
}

proptest! {
    // A million events and more.
    #![proptest_config(ProptestConfig { cases: 40_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_rules_hold(
        steps in proptest::collection::vec(step(), 0..60),
        is_cloud in any::<bool>(),
        progress in any::<bool>(),
    ) {
        let mut terms = if is_cloud { cloud() } else { host() };
        if progress {
            terms.settings.progress.timeout = Some(Duration::from_secs(100));
            terms.settings.progress.action = OnSilence::Stop;
        }
        let mut now = 1_000_000;
        let (mut supervisor, first) = Supervisor::begin(terms, Some(lease(now + 10_000)), at(now));
        let mut model = Model::default();
        model.note(&first)?;
        for step in &steps {
            if let Step::Time(by) = step {
                now += by;
            }
            let exits = matches!(step, Step::Exited(_));
            let Some(event) = event(step, now, &mut model) else { continue };
            model.ended |= exits;
            let actions = supervisor.handle(event, at(now));
            model.note(&actions)?;
        }
        // Told twice, a worker is killed; once it is dead, the run ends.
        if !model.ended {
            for _ in 0..2 {
                let actions = supervisor.handle(Event::StopSignal, at(now));
                model.note(&actions)?;
            }
            prop_assert!(model.killed || model.finished == 1, "told twice, and not killed");
            model.ended = true;
            let actions = supervisor.handle(Event::Exited(WorkerExit::Signal(9)), at(now));
            model.note(&actions)?;
        }
        let actions = supervisor.handle(elapsed(Deadline::LateSignal), at(now));
        model.note(&actions)?;
        prop_assert_eq!(model.finished, 1, "the run never ends");
    }
}
