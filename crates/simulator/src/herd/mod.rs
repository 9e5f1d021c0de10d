//! `simulator herd`: thousands of machines and one service, event by event, in a model of time.
//!
//! The machines decide by start-worker's own code: when a call is tried again ([`taskcluster_api::RetryPolicy`]), when
//! credentials are renewed and when a worker is given up
//! ([`worker_runner::supervise::Supervisor`]). Only the service, the network and the time are models.

mod machine;
mod plot;
mod service;

use clap::{Args, value_parser};
use machine::{Machine, REQUESTS_OF_A_BOOT, Request, Step};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

pub use machine::Policy;
pub use service::{Answer, Service, ServiceModel};

/// What `herd` takes.
#[derive(Debug, Args)]
pub struct HerdOptions {
    /// How many machines
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub machines: u32,

    /// How many requests a second the service can do
    #[arg(long, value_name = "REQUESTS", default_value_t = 250, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub capacity: u32,

    /// What the way to the service and back takes, in milliseconds
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(0..=10_000))]
    pub latency: u64,

    /// Within how many seconds the machines begin to boot
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(0..=600))]
    pub within: u64,

    /// How long credentials last, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 180, value_parser = value_parser!(u32).range(60..=10_000))]
    pub lease: u32,

    /// What a 429 says in Retry-After, in seconds; 0: nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub retry_after: u64,

    /// Another seed is another herd
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Draw the requests of each second there, as a page to be opened in a browser
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// What a scenario is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScenarioKind {
    /// All machines boot.
    Boots,
    /// They boot into an outage, a long one where that says so.
    BootsIntoOutage {
        /// Whether its goals are those of ten minutes.
        long: bool,
    },
    /// They run, and renew their credentials.
    Renewals,
    /// The same into an outage.
    RenewalsIntoOutage,
}

impl ScenarioKind {
    fn boots(self) -> bool {
        matches!(self, Self::Boots | Self::BootsIntoOutage { .. })
    }
}

/// What a herd lives through.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// How many machines.
    pub machines: u32,
    /// What is expected of them.
    pub kind: ScenarioKind,
    /// Within how long they begin.
    pub within: Duration,
    /// How long credentials last.
    pub lease: Duration,
    /// The service.
    pub service: ServiceModel,
    /// How long is looked.
    pub until: Duration,
    /// From when on its load counts.
    pub counts_from: Duration,
    /// The seed.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How many requests came in each second.
    pub asked: Vec<u32>,
    /// How long each machine took to boot, in order.
    pub boots: Vec<Duration>,
    /// Machines of no more use.
    pub lost: usize,
    /// When the last machine had booted.
    pub last: Duration,
}

/// The time over which machines that booted together are to renew their credentials: half of `credentials.renewBefore`.
const RENEWALS: Duration = Duration::from_secs(15 * 60);

/// The peak is that of a stretch of so many seconds.
const STRETCH: usize = 10;

impl Scenario {
    /// Lives through it.
    pub fn run(&self, policy: Policy) -> Outcome {
        let mut service = Service::new(self.service.clone());
        let seconds = usize::try_from(self.until.as_secs()).unwrap_or(usize::MAX) + 1;
        let mut outcome = Outcome { asked: vec![0; seconds], ..Outcome::default() };
        let mut queue = Queue::default();
        let mut luck = fastrand::Rng::with_seed(self.seed);
        let mut machines = Vec::new();
        let mut began = Vec::new();
        for index in 0..self.machines as usize {
            let now = self.within.mul_f64(luck.f64());
            let (machine, steps) = match self.kind.boots() {
                false => Machine::running(policy, self.lease, luck.u64(..), now),
                true => {
                    let (machine, step) = Machine::boot(policy, self.lease, luck.u64(..), now);
                    (machine, vec![step])
                }
            };
            machines.push(machine);
            began.push(now);
            queue.push_steps(index, now, steps);
        }
        while let Some((now, index, what)) = queue.pop() {
            if now > self.until {
                break;
            }
            let steps = match what {
                What::Look => machines[index].look(now),
                What::Ask(request, tried) => {
                    outcome.asked[usize::try_from(now.as_secs()).unwrap_or(usize::MAX)] += 1;
                    let (answer, at) = service.ask(now);
                    queue.push(at, index, What::Answered(request, tried, answer));
                    continue;
                }
                What::Answered(request, tried, answer) => machines[index].answered(request, tried, answer, now),
            };
            for step in &steps {
                match step {
                    Step::Booted => {
                        outcome.last = now;
                        outcome.boots.push(now.saturating_sub(began[index]));
                    }
                    Step::Lost => outcome.lost += 1,
                    Step::Ask(..) | Step::Look(_) => {}
                }
            }
            queue.push_steps(index, now, steps);
        }
        outcome.boots.sort_unstable();
        outcome
    }

    /// The requests of each second since they count.
    fn counted<'a>(&self, asked: &'a [u32]) -> &'a [u32] {
        let from = usize::try_from(self.counts_from.as_secs()).unwrap_or(usize::MAX);
        asked.get(from..).unwrap_or_default()
    }

    /// The highest load over some seconds, by what the service can do.
    pub fn peak(&self, outcome: &Outcome) -> f64 {
        let most = self.counted(&outcome.asked).windows(STRETCH).map(|stretch| stretch.iter().sum::<u32>()).max();
        f64::from(most.unwrap_or(0)) / number(STRETCH) / self.service.capacity
    }

    /// How long it took until all machines had booted, by how long the service needs for that; for ever where some have
    /// not.
    pub fn over_ideal(&self, outcome: &Outcome) -> f64 {
        if outcome.boots.len() < self.machines as usize {
            return f64::INFINITY;
        }
        let ideal = f64::from(self.machines) * number(REQUESTS_OF_A_BOOT) / self.service.capacity;
        // Before they begin nothing can be done for them.
        let ideal = if self.kind == ScenarioKind::Boots { ideal.max(self.within.as_secs_f64()) } else { ideal };
        outcome.last.saturating_sub(self.counts_from).as_secs_f64() / ideal
    }

    /// The load of the highest minute over the mean one, were all renewals spread over their whole time.
    pub fn peak_to_mean(&self, outcome: &Outcome) -> f64 {
        // By the minute: by the second chance alone makes peaks.
        let minutes = self.counted(&outcome.asked).windows(60).map(|minute| minute.iter().sum::<u32>());
        let mean = f64::from(self.machines) * 60.0 / RENEWALS.as_secs_f64();
        f64::from(minutes.max().unwrap_or(0)) / mean
    }
}

/// What happens.
#[derive(Debug, Clone, Copy)]
enum What {
    Look,
    Ask(Request, usize),
    Answered(Request, usize, Answer),
}

/// What will happen, in order; at the same time, in the order in which it was said.
#[derive(Default)]
struct Queue {
    waiting: BTreeMap<(Duration, u64), (usize, What)>,
    said: u64,
}

impl Queue {
    fn push(&mut self, at: Duration, machine: usize, what: What) {
        self.waiting.insert((at, self.said), (machine, what));
        self.said += 1;
    }

    fn push_steps(&mut self, machine: usize, now: Duration, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Ask(at, request, tried) => self.push(at.max(now), machine, What::Ask(request, tried)),
                Step::Look(at) => self.push(at.max(now), machine, What::Look),
                Step::Booted | Step::Lost => {}
            }
        }
    }

    fn pop(&mut self) -> Option<(Duration, usize, What)> {
        let ((at, _), (machine, what)) = self.waiting.pop_first()?;
        Some((at, machine, what))
    }
}

/// A figure, and what it must not exceed, if anything.
#[derive(Debug)]
struct Figure {
    what: &'static str,
    limit: Option<f64>,
    before: f64,
    ours: f64,
}

impl Figure {
    fn is_met(&self) -> bool {
        self.limit.is_none_or(|limit| self.ours <= limit)
    }
}

/// What all herds are put through.
fn scenarios(options: &HerdOptions) -> Vec<Scenario> {
    let minute = Duration::from_secs(60);
    let model = |outage| ServiceModel {
        capacity: f64::from(options.capacity),
        latency: Duration::from_millis(options.latency),
        queue: Duration::from_secs(10),
        retry_after: Some(Duration::from_secs(options.retry_after)).filter(|asked| !asked.is_zero()),
        outage,
    };
    let none = Duration::MAX..Duration::MAX;
    let (lease, within) = (minute * options.lease, Duration::from_secs(options.within));
    // The first of them; the last is half an hour before the end.
    let renewals = lease.saturating_sub(30 * minute + RENEWALS);
    let boots = Scenario {
        name: "boots of all machines",
        kind: ScenarioKind::Boots,
        machines: options.machines,
        within,
        lease,
        service: model(none.clone()),
        until: 40 * minute,
        counts_from: Duration::ZERO,
        seed: options.seed,
    };
    let outage = |name, length: Duration, long| Scenario {
        name,
        kind: ScenarioKind::BootsIntoOutage { long },
        service: model(Duration::ZERO..length),
        counts_from: length,
        until: length + 40 * minute,
        ..boots.clone()
    };
    let renewals_into = |name, kind, outage: std::ops::Range<Duration>, counts_from| Scenario {
        name,
        kind,
        service: model(outage),
        counts_from,
        // The renewals after these are others.
        until: lease + within,
        ..boots.clone()
    };
    let end = renewals + 10 * minute;
    vec![
        boots.clone(),
        outage("boots into an outage of 30 s", minute / 2, false),
        outage("boots into an outage of 10 min", 10 * minute, true),
        renewals_into("renewals of machines that booted together", ScenarioKind::Renewals, none, within),
        renewals_into("renewals into an outage of 10 min", ScenarioKind::RenewalsIntoOutage, renewals..end, end),
    ]
}

/// What came of it, and what was expected.
fn figures(scenario: &Scenario, before: &Outcome, ours: &Outcome) -> Vec<Figure> {
    let figure = |what, limit, of: &dyn Fn(&Outcome) -> f64| Figure { what, limit, before: of(before), ours: of(ours) };
    let after_long_outage =
        matches!(scenario.kind, ScenarioKind::BootsIntoOutage { long: true } | ScenarioKind::RenewalsIntoOutage);
    let peak_limit = after_long_outage.then_some(1.5);
    let mut figures = vec![
        figure("machines lost", Some(0.0), &|outcome| number(outcome.lost)),
        figure("peak load, by what the service can do", peak_limit, &|outcome| scenario.peak(outcome)),
    ];
    if scenario.kind.boots() {
        figures.push(figure("all booted, by the ideal time", Some(1.5), &|outcome| scenario.over_ideal(outcome)));
        for (what, part) in [
            ("half have booted within, s", 0.5),
            ("90 of 100 within, s", 0.9),
            ("99 of 100 within, s", 0.99),
            ("all within, s", 1.0),
        ] {
            figures.push(figure(what, None, &|outcome| percentile(&outcome.boots, part).as_secs_f64()));
        }
    } else if scenario.kind == ScenarioKind::Renewals {
        let what = "the highest minute, by the mean over 15";
        figures.push(figure(what, Some(2.0), &|outcome| scenario.peak_to_mean(outcome)));
    }
    figures
}

/// Runs all of it and prints what came of it. The answer is 1 where a goal was missed.
///
/// # Errors
/// Where the picture can't be written.
pub fn herd(options: &HerdOptions) -> io::Result<u8> {
    let mut out = anstream::stdout();
    let HerdOptions { machines, capacity, within, latency, .. } = options;
    let work = *machines as usize * REQUESTS_OF_A_BOOT;
    writeln!(
        out,
        "machines: {machines}, all within {within} s; {work} requests boot them\nservice: {capacity} requests a second, {latency} ms away\n"
    )?;
    let (mut missed, mut panels) = (0, Vec::new());
    for scenario in scenarios(options) {
        let (before, ours) = (scenario.run(Policy::Doubling), scenario.run(Policy::Ours));
        writeln!(out, "{:<46} {:>9} {:>9} {:>6}", scenario.name, "before", "ours", "goal")?;
        for figure in figures(&scenario, &before, &ours) {
            let limit = figure.limit.map_or_else(String::new, |limit| limit.to_string());
            let verdict = if figure.is_met() { "" } else { "  MISSED" };
            missed += u8::from(!figure.is_met());
            writeln!(out, "  {:<44} {:>9.2} {:>9.2} {limit:>6}{verdict}", figure.what, figure.before, figure.ours)?;
        }
        writeln!(out)?;
        panels.push(plot::Panel { scenario, before, ours });
    }
    if let Some(file) = &options.plot {
        let written = fs::write(file, plot::page(&panels));
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
        writeln!(out, "drawn in {}", file.display())?;
    }
    match missed {
        0 => writeln!(out, "every goal is met")?,
        1 => writeln!(out, "1 goal missed")?,
        missed => writeln!(out, "{missed} goals missed")?,
    }
    Ok(missed.min(1))
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The one of a sorted list which that part of it does not exceed.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let at = (number(sorted.len()) * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_herd_meets_its_goals_whatever_its_seed_where_the_service_needs_two_minutes_for_all() {
        for (seed, capacity) in [(1, 45), (2, 50), (3, 55), (4, 60)] {
            let options = HerdOptions {
                machines: 2000,
                capacity,
                latency: 50,
                within: 60,
                lease: 180,
                retry_after: 10,
                seed,
                plot: None,
            };
            for scenario in scenarios(&options) {
                let (before, ours) = (scenario.run(Policy::Doubling), scenario.run(Policy::Ours));
                for figure in figures(&scenario, &before, &ours) {
                    assert!(figure.is_met(), "seed {seed}, {capacity}/s, {}: {figure:?}", scenario.name);
                }
            }
        }
    }

    #[test]
    fn a_percentile_is_one_of_the_list() {
        let list: Vec<Duration> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| percentile(&list, part).as_secs()), [50, 99, 100]);
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
