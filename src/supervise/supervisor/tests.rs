//! What the supervisor does about what, time passed in.

use super::*;
use crate::driver::process::WorkerExit;
use proptest::prelude::*;
use taskcluster_api::Credentials;

const CLOUD: Terms = Terms { is_cloud: true, seed: 7 };
const HOST: Terms = Terms { is_cloud: false, seed: 7 };

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

fn hello(capabilities: &[Capability]) -> Event {
    Event::Message(Message::Hello { capabilities: capabilities.iter().copied().collect() })
}

fn notice() -> Event {
    Event::Notice(Notice { source: "a notice".into(), deadline: None })
}

/// The actions as words, without the log.
fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Send(Message::GracefulTermination { finish_tasks }) => Some(format!("stop finish={finish_tasks}")),
        Action::Send(Message::NewCredentials { client_id, .. }) => Some(format!("credentials {client_id}")),
        Action::Send(message) => Some(format!("send {}", message.kind().name())),
        Action::Agree(_) => Some("agree".to_owned()),
        Action::Renew => Some("renew".to_owned()),
        Action::Adopt(_) => Some("adopt".to_owned()),
        Action::WriteCache => Some("write cache".to_owned()),
        Action::Report(_) => Some("report".to_owned()),
        Action::Retire => Some("retire".to_owned()),
        Action::Terminate => Some("terminate".to_owned()),
        Action::Kill => Some("kill".to_owned()),
        Action::Arm(deadline, time) => Some(format!("{deadline:?} at {}", time.as_second())),
        Action::Disarm(deadline) => Some(format!("no {deadline:?}")),
        Action::Log(_) => None,
        Action::Finish(exit) => Some(format!("finish {exit}")),
    };
    actions.iter().filter_map(word).collect()
}

/// Runs events, each at its second, and returns what was done about the last.
fn last(terms: Terms, lease: impl Into<Option<Lease>>, events: Vec<(i64, Event)>) -> Vec<String> {
    let (mut supervisor, first) = Supervisor::begin(terms, lease.into(), at(0));
    events.into_iter().fold(words(&first), |_, (second, event)| words(&supervisor.handle(event, at(second))))
}

const ALL: [Capability; 5] = Capability::ALL;
const STOPPABLE: [Capability; 1] = [Capability::GracefulTermination];

#[test]
fn renewal_is_armed_at_the_start_and_after_each_renewal() {
    assert_eq!(last(CLOUD, lease(10_000), vec![]), ["Renewal at 8200", "CredentialsEnd at 9985"]);
    assert_eq!(last(CLOUD, None, vec![]), Vec::<String>::new());
    assert_eq!(
        last(CLOUD, lease(10_000), vec![(1, hello(&ALL)), (8200, renewed(20_000))]),
        ["adopt", "Renewal at 18200", "CredentialsEnd at 19985", "credentials until-20000"]
    );
}

#[test]
fn a_renewal_that_fails_is_tried_again_later_and_stops_nobody() {
    let (mut supervisor, _) = Supervisor::begin(CLOUD, Some(lease(10_000)), at(0));
    supervisor.handle(hello(&ALL), at(1));
    for second in 8200..8300 {
        let words = words(&supervisor.handle(Event::Renewed(Err("no".into())), at(second)));
        assert_eq!(words.len(), 1, "{words:?}");
        let next: i64 = words[0].strip_prefix("Renewal at ").unwrap().parse().unwrap();
        assert!((second + 1..=second + 30).contains(&next), "{words:?}");
    }
    assert_eq!(words(&supervisor.handle(Event::Elapsed(Deadline::CredentialsEnd), at(9985))), ["stop finish=false"]);
}

#[test]
fn a_worker_that_cannot_take_credentials_is_drained_and_then_stopped() {
    let events = || vec![(1, hello(&STOPPABLE)), (8200, Event::Elapsed(Deadline::Renewal))];
    assert_eq!(last(CLOUD, lease(10_000), events()), ["stop finish=true"]);
    let mut until_the_end = events();
    until_the_end.push((9985, Event::Elapsed(Deadline::CredentialsEnd)));
    assert_eq!(last(CLOUD, lease(10_000), until_the_end), ["stop finish=false"]);
}

#[test]
fn a_mute_worker_gets_its_credentials_with_its_hello_and_is_stopped_by_signal_without() {
    let renewal = || vec![(8200, renewed(20_000))];
    assert_eq!(
        last(CLOUD, lease(10_000), renewal()),
        ["adopt", "Renewal at 18200", "CredentialsEnd at 19985", "CredentialsEnd at 9985", "credentials until-20000"]
    );
    let mut late_hello = renewal();
    late_hello.push((9000, hello(&ALL)));
    assert_eq!(last(CLOUD, lease(10_000), late_hello), ["agree", "CredentialsEnd at 19985"]);
    let mut mute = renewal();
    mute.push((9985, Event::Elapsed(Deadline::CredentialsEnd)));
    assert_eq!(last(CLOUD, lease(10_000), mute), ["terminate"]);
}

#[test]
fn whatever_asks_for_a_stop_is_passed_on_once_and_a_second_signal_kills() {
    type Row = (Vec<(i64, Event)>, &'static [&'static str]);
    let table: Vec<Row> = vec![
        (vec![(1, hello(&ALL)), (2, notice())], &["stop finish=false"]),
        (vec![(1, hello(&ALL)), (2, notice()), (3, notice())], &[]),
        (vec![(1, hello(&ALL)), (2, notice()), (3, Event::StopSignal)], &[]),
        (vec![(1, hello(&ALL)), (2, Event::StopSignal)], &["stop finish=false"]),
        (vec![(1, hello(&ALL)), (2, Event::StopSignal), (3, Event::StopSignal)], &["kill"]),
        (vec![(1, Event::StopSignal)], &["terminate"]),
        (vec![(1, hello(&[])), (2, Event::StopSignal)], &["terminate"]),
        (vec![(1, notice()), (2, Event::StopSignal), (3, Event::StopSignal)], &["kill"]),
        // What was said last may not have been heard.
        (vec![(1, hello(&ALL)), (2, Event::StopSignal), (3, Event::InputClosed)], &["terminate"]),
        (vec![(1, hello(&ALL)), (2, Event::InputClosed), (3, Event::StopSignal)], &["terminate"]),
        (vec![(1, Event::PartLost("a part"))], &["terminate"]),
    ];
    for (events, expected) in table {
        let shown = format!("{events:?}");
        assert_eq!(last(CLOUD, None, events), expected, "{shown}");
    }
}

#[test]
fn an_end_that_looks_like_inits_is_waited_on_for_a_signal() {
    let ends = [
        (CLOUD, WorkerExit::Signal(15), true),
        (CLOUD, WorkerExit::Code(67), true),
        (CLOUD, WorkerExit::Code(71), true),
        (CLOUD, WorkerExit::Code(72), true),
        (CLOUD, WorkerExit::Code(0), false),
        (CLOUD, WorkerExit::Code(1), false),
        (CLOUD, WorkerExit::Signal(9), false),
        (HOST, WorkerExit::Signal(15), true),
        (HOST, WorkerExit::Code(67), false),
    ];
    let disarmed = ["no Renewal", "no CredentialsEnd", "no CacheRetry"].map(str::to_owned);
    for (terms, exit, waits) in ends {
        let next = if waits { "LateSignal at 15".to_owned() } else { format!("finish {exit}") };
        assert_eq!(last(terms, None, vec![(10, Event::Exited(exit))]), [&disarmed[..], &[next]].concat(), "{exit}");
        if waits {
            let finish = vec![format!("finish {exit}")];
            for then in [Event::StopSignal, Event::Elapsed(Deadline::LateSignal)] {
                let signalled = matches!(then, Event::StopSignal);
                let (mut supervisor, _) = Supervisor::begin(terms, None, at(0));
                supervisor.handle(Event::Exited(exit), at(10));
                assert_eq!(words(&supervisor.handle(then, at(11))), finish);
                assert_eq!(supervisor.was_signalled(), signalled);
            }
        }
    }
    // An end that we asked for is no riddle.
    let asked = vec![(1, hello(&ALL)), (2, notice()), (3, Event::Exited(WorkerExit::Code(71)))];
    assert_eq!(last(CLOUD, None, asked).last().unwrap(), "finish exit code 71");
}

#[test]
fn retirement_is_asked_for_once_and_on_clouds_only() {
    let shutdown = || Event::Message(Message::Shutdown);
    assert_eq!(last(CLOUD, None, vec![(1, hello(&ALL)), (2, shutdown())]), ["retire"]);
    assert_eq!(last(CLOUD, None, vec![(1, hello(&ALL)), (2, shutdown()), (3, shutdown())]), Vec::<String>::new());
    assert_eq!(last(HOST, None, vec![(1, hello(&ALL)), (2, shutdown())]), Vec::<String>::new());
    assert_eq!(last(CLOUD, None, vec![(1, hello(&STOPPABLE)), (2, shutdown())]), Vec::<String>::new());
}

#[test]
fn a_cache_that_could_not_be_written_is_written_later() {
    let Event::Renewed(Ok(renewed)) = renewed(20_000) else { unreachable!() };
    let uncached = Event::Renewed(Ok(Renewed { cached: false, ..renewed }));
    let words = last(CLOUD, lease(10_000), vec![(1, hello(&ALL)), (8200, uncached)]);
    assert!(words.contains(&"CacheRetry at 8260".to_owned()) && words.contains(&"credentials until-20000".to_owned()));
    let retry = vec![(1, Event::Elapsed(Deadline::CacheRetry))];
    assert_eq!(last(CLOUD, lease(10_000), retry), ["write cache"]);
    assert_eq!(last(CLOUD, lease(10_000), vec![(1, Event::CacheWritten(false))]), ["CacheRetry at 61"]);
}

#[derive(Debug, Clone)]
enum Step {
    Hello(u8),
    Notice,
    Signal,
    Renewed,
    NotRenewed,
    Elapsed(u8),
    InputClosed,
    Shutdown,
    PartLost,
    Exited(i32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..32).prop_map(Step::Hello),
        Just(Step::Notice),
        Just(Step::Signal),
        Just(Step::Renewed),
        Just(Step::NotRenewed),
        (0u8..4).prop_map(Step::Elapsed),
        Just(Step::InputClosed),
        Just(Step::Shutdown),
        Just(Step::PartLost),
        (0i32..90).prop_map(Step::Exited),
    ]
}

fn event(step: &Step, now: i64) -> Event {
    match step {
        Step::Hello(bits) => {
            let chosen = Capability::ALL.into_iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0);
            Event::Message(Message::Hello { capabilities: chosen.map(|(_, capability)| capability).collect() })
        }
        Step::Notice => notice(),
        Step::Signal => Event::StopSignal,
        Step::Renewed => renewed(now + 10_000),
        Step::NotRenewed => Event::Renewed(Err("no".into())),
        Step::Elapsed(which) => Event::Elapsed(
            [Deadline::Renewal, Deadline::CredentialsEnd, Deadline::CacheRetry, Deadline::LateSignal]
                [usize::from(*which)],
        ),
        Step::InputClosed => Event::InputClosed,
        Step::Shutdown => Event::Message(Message::Shutdown),
        Step::PartLost => Event::PartLost("a part"),
        Step::Exited(code) => Event::Exited(WorkerExit::Code(*code)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens_the_rules_hold(steps in proptest::collection::vec(step(), 0..40)) {
        let (mut supervisor, _) = Supervisor::begin(CLOUD, Some(lease(10_000)), at(0));
        let (mut drains, mut stops, mut retirements, mut finished, mut ended) = (0, 0, 0, 0, false);
        for (second, step) in steps.iter().enumerate() {
            let second = i64::try_from(second).unwrap();
            // A process ends once.
            if ended && matches!(step, Step::Exited(_)) {
                continue;
            }
            let actions = supervisor.handle(event(step, second), at(second));
            prop_assert!(finished == 0 || actions.is_empty(), "something is done after the end");
            for action in &actions {
                match action {
                    Action::Send(Message::GracefulTermination { finish_tasks: true }) => drains += 1,
                    Action::Send(Message::GracefulTermination { finish_tasks: false }) => stops += 1,
                    Action::Retire => retirements += 1,
                    Action::Finish(_) => finished += 1,
                    Action::Arm(_, time) => prop_assert!(*time >= at(second) - SignedDuration::from_hours(3)),
                    _ => {}
                }
                let touches_worker = matches!(action, Action::Send(_) | Action::Terminate | Action::Kill | Action::Renew);
                prop_assert!(!(ended && touches_worker), "{action:?} after the worker's end");
            }
            ended |= matches!(step, Step::Exited(_));
        }
        prop_assert!(drains <= 1 && stops <= 1 && retirements <= 1 && finished <= 1);
        if ended && finished == 0 {
            let actions = supervisor.handle(Event::Elapsed(Deadline::LateSignal), at(1000));
            prop_assert!(actions.iter().any(|action| matches!(action, Action::Finish(_))), "the run never ends");
        }
    }
}
