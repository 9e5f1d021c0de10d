//! The keys that change how start-worker behaves beside a worker and after it: what each means, its default, and how
//! it is read. The Go program has none of them.

use super::problem::Problem;
use super::table::Table;
use crate::outcome::{OutcomeClass, Retirement};
use std::collections::BTreeMap;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// What is repeated is repeated no faster than this.
const TICK: Duration = Duration::from_millis(10);

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `restart:`
    pub restart: RestartSettings,
    /// `retirement:`
    pub retirement: RetirementSettings,
    /// `stop:`
    pub stop: StopSettings,
    /// `interruption:`
    pub interruption: InterruptionSettings,
    /// `credentials:`
    pub credentials: CredentialsSettings,
    /// `protocol:`
    pub protocol: ProtocolSettings,
    /// `progress:`
    pub progress: ProgressSettings,
    /// `report:`
    pub report: ReportSettings,
}

/// When a worker on a machine of one's own is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never: whoever started start-worker decides.
    Never,
    /// When it failed.
    OnFailure,
    /// Whenever it ended by itself.
    Always,
}

/// `restart:`, the policy alone or with these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartSettings {
    /// When.
    pub policy: RestartPolicy,
    /// The pause before the first restart; each next one is twice as long, all with jitter.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// At most this many starts…
    pub starts: u32,
    /// …within this time.
    pub window: Duration,
}

impl Default for RestartSettings {
    fn default() -> Self {
        Self { policy: RestartPolicy::Never, first_pause: SECOND, longest_pause: 5 * MINUTE, starts: 10, window: HOUR }
    }
}

/// What becomes of a machine that could not be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBootFailure {
    /// It is left as it is: whoever started start-worker tries again.
    Leave,
    /// It is shut down.
    Shutdown,
}

/// `retirement:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetirementSettings {
    /// What is done otherwise than usual, by how the run ended.
    pub choices: BTreeMap<OutcomeClass, Retirement>,
    /// Before a machine is registered.
    pub on_boot_failure: OnBootFailure,
    /// How long worker-manager is asked to remove the worker.
    pub removal: Duration,
    /// How long a worker's own reboot is waited for.
    pub reboot_grace: Duration,
    /// How long after a worker's end that looks like init's a signal may still reach us.
    pub signal_grace: Duration,
    /// Between two tries to shut the host down.
    pub shutdown_retry: Duration,
    /// A machine that is still there this long after its removal is shut down.
    pub shutdown_after: Duration,
}

impl Default for RetirementSettings {
    fn default() -> Self {
        Self {
            choices: BTreeMap::new(),
            on_boot_failure: OnBootFailure::Leave,
            removal: 2 * MINUTE,
            reboot_grace: 2 * MINUTE,
            signal_grace: 5 * SECOND,
            shutdown_retry: MINUTE,
            shutdown_after: 10 * MINUTE,
        }
    }
}

/// `stop:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSettings {
    /// How long a worker has that is asked to end at once.
    pub grace: Duration,
    /// SIGTERM comes this long before SIGKILL.
    pub terminate_before: Duration,
}

impl Default for StopSettings {
    fn default() -> Self {
        Self { grace: 80 * SECOND, terminate_before: 5 * SECOND }
    }
}

/// What is done about mere advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAdvice {
    /// It is logged.
    Log,
    /// The worker finishes its tasks and ends.
    Drain,
    /// The worker ends at once.
    Stop,
}

/// Whether worker-manager is asked if the worker is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskManager {
    /// Where a cloud made the machine and the worker doesn't ask itself.
    Auto,
    /// Where a cloud made the machine.
    Always,
    /// Never.
    Never,
}

/// `interruption:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterruptionSettings {
    /// A notice that is farther ahead than this lets tasks finish.
    pub drain_ahead: Duration,
    /// A worker that is still finishing its tasks is told to end at once this long before the deadline.
    pub abort_before: Duration,
    /// A notice that is farther ahead than this is acted on later.
    pub heed_within: Duration,
    /// What is done about a rebalance recommendation.
    pub rebalance: OnAdvice,
    /// Between two looks at what comes at short notice.
    pub poll: Duration,
    /// Between two looks at what comes long before.
    pub slow_poll: Duration,
    /// Whether worker-manager is asked.
    pub ask_worker_manager: AskManager,
    /// Between two such questions.
    pub ask_interval: Duration,
}

impl Default for InterruptionSettings {
    fn default() -> Self {
        Self {
            drain_ahead: 30 * MINUTE,
            abort_before: 25 * SECOND,
            heed_within: 24 * HOUR,
            rebalance: OnAdvice::Log,
            poll: SECOND,
            slow_poll: 30 * SECOND,
            ask_worker_manager: AskManager::Auto,
            ask_interval: 5 * MINUTE,
        }
    }
}

/// `credentials:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsSettings {
    /// They are renewed this long before they end, or up to half of that sooner.
    pub renew_before: Duration,
    /// The first pause after a renewal that failed, before jitter.
    pub first_pause: Duration,
    /// The longest.
    pub longest_pause: Duration,
}

impl Default for CredentialsSettings {
    fn default() -> Self {
        Self { renew_before: 30 * MINUTE, first_pause: SECOND, longest_pause: MINUTE }
    }
}

/// `protocol:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolSettings {
    /// A worker that has not said hello after this is taken for deaf.
    pub hello_timeout: Duration,
    /// How long the output of what a worker left behind is still relayed.
    pub output_grace: Duration,
}

impl Default for ProtocolSettings {
    fn default() -> Self {
        Self { hello_timeout: 2 * MINUTE, output_grace: 5 * SECOND }
    }
}

/// What is done about a worker that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSilence {
    /// It is logged.
    Warn,
    /// It is logged and reported.
    Report,
    /// It is logged and reported, and the worker stopped.
    Stop,
}

/// `progress:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressSettings {
    /// How long a worker may say nothing; none: for ever.
    pub timeout: Option<Duration>,
    /// What happens then.
    pub action: OnSilence,
}

impl Default for ProgressSettings {
    fn default() -> Self {
        Self { timeout: None, action: OnSilence::Warn }
    }
}

/// `report:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportSettings {
    /// How many of the worker's last lines are part of a report of its failure. Reports are public.
    pub worker_log_lines: usize,
    /// The same failure is reported once in this time.
    pub repeat_after: Duration,
    /// A report may hold nothing up for longer than this.
    pub timeout: Duration,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self { worker_log_lines: 0, repeat_after: HOUR, timeout: 10 * SECOND }
    }
}

/// The most lines that a report may hold.
const MOST_LOG_LINES: u64 = 100;

/// Reads all of them from the runner config's top level.
pub fn decode(root: &mut Table<'_, '_>) -> Settings {
    let mut settings = Settings { restart: decode_restart(root), ..Settings::default() };
    section(root, "retirement", |table| decode_retirement(table, &mut settings.retirement));
    section(root, "stop", |table| {
        let Settings { stop, .. } = &mut settings;
        duration(table, "grace", Duration::ZERO, &mut stop.grace);
        duration(table, "terminateBefore", Duration::ZERO, &mut stop.terminate_before);
    });
    section(root, "interruption", |table| decode_interruption(table, &mut settings.interruption));
    section(root, "credentials", |table| {
        let Settings { credentials, .. } = &mut settings;
        duration(table, "renewBefore", Duration::ZERO, &mut credentials.renew_before);
        duration(table, "firstPause", TICK, &mut credentials.first_pause);
        duration(table, "longestPause", TICK, &mut credentials.longest_pause);
    });
    section(root, "protocol", |table| {
        let Settings { protocol, .. } = &mut settings;
        duration(table, "helloTimeout", Duration::ZERO, &mut protocol.hello_timeout);
        duration(table, "outputGrace", Duration::ZERO, &mut protocol.output_grace);
    });
    section(root, "progress", |table| {
        let Settings { progress, .. } = &mut settings;
        let mut timeout = Duration::ZERO;
        duration(table, "timeout", TICK, &mut timeout);
        progress.timeout = (!timeout.is_zero()).then_some(timeout);
        let words = [("warn", OnSilence::Warn), ("report", OnSilence::Report), ("stop", OnSilence::Stop)];
        choice(table, "action", &words, &mut progress.action);
    });
    section(root, "report", |table| {
        let Settings { report, .. } = &mut settings;
        if let Some(lines) = table.number("workerLogLines", MOST_LOG_LINES) {
            report.worker_log_lines = usize::try_from(lines).unwrap_or(0);
        }
        duration(table, "repeatAfter", Duration::ZERO, &mut report.repeat_after);
        duration(table, "timeout", Duration::ZERO, &mut report.timeout);
    });
    settings
}

fn decode_restart(root: &mut Table<'_, '_>) -> RestartSettings {
    let words =
        [("never", RestartPolicy::Never), ("on-failure", RestartPolicy::OnFailure), ("always", RestartPolicy::Always)];
    let mut restart = RestartSettings::default();
    if root.is_scalar("restart") {
        choice(root, "restart", &words, &mut restart.policy);
        return restart;
    }
    section(root, "restart", |table| {
        choice(table, "policy", &words, &mut restart.policy);
        duration(table, "firstPause", TICK, &mut restart.first_pause);
        duration(table, "longestPause", TICK, &mut restart.longest_pause);
        if let Some(starts) = table.number("starts", 1_000_000) {
            restart.starts = u32::try_from(starts).unwrap_or(u32::MAX);
        }
        duration(table, "window", Duration::ZERO, &mut restart.window);
    });
    restart
}

fn decode_retirement(table: &mut Table<'_, '_>, retirement: &mut RetirementSettings) {
    let words = Retirement::ALL.map(|retirement| (retirement.word(), retirement));
    for class in OutcomeClass::ALL {
        if let Some(choice) = table.optional_word(class.key(), &words) {
            retirement.choices.insert(class, choice);
        }
    }
    let words = [("leave", OnBootFailure::Leave), ("shutdown", OnBootFailure::Shutdown)];
    choice(table, "onBootFailure", &words, &mut retirement.on_boot_failure);
    duration(table, "removalTimeout", Duration::ZERO, &mut retirement.removal);
    duration(table, "rebootGrace", Duration::ZERO, &mut retirement.reboot_grace);
    duration(table, "signalGrace", Duration::ZERO, &mut retirement.signal_grace);
    duration(table, "shutdownRetry", TICK, &mut retirement.shutdown_retry);
    duration(table, "shutdownAfter", Duration::ZERO, &mut retirement.shutdown_after);
}

fn decode_interruption(table: &mut Table<'_, '_>, interruption: &mut InterruptionSettings) {
    duration(table, "drainAhead", Duration::ZERO, &mut interruption.drain_ahead);
    duration(table, "abortBefore", Duration::ZERO, &mut interruption.abort_before);
    duration(table, "heedWithin", Duration::ZERO, &mut interruption.heed_within);
    let words = [("log", OnAdvice::Log), ("drain", OnAdvice::Drain), ("stop", OnAdvice::Stop)];
    choice(table, "rebalance", &words, &mut interruption.rebalance);
    duration(table, "poll", TICK, &mut interruption.poll);
    duration(table, "slowPoll", TICK, &mut interruption.slow_poll);
    let words = [("auto", AskManager::Auto), ("always", AskManager::Always), ("never", AskManager::Never)];
    choice(table, "askWorkerManager", &words, &mut interruption.ask_worker_manager);
    duration(table, "askInterval", TICK, &mut interruption.ask_interval);
}

/// A mapping of the top level, if it is there.
fn section(root: &mut Table<'_, '_>, name: &'static str, read: impl FnOnce(&mut Table<'_, '_>)) {
    if let Some(mut table) = root.table(&[name]) {
        read(&mut table);
        table.finish();
    }
}

fn choice<T: Copy>(table: &mut Table<'_, '_>, name: &'static str, words: &[(&'static str, T)], into: &mut T) {
    if let Some(value) = table.optional_word(name, words) {
        *into = value;
    }
}

/// A time; what is not there leaves the default.
fn duration(table: &mut Table<'_, '_>, name: &'static str, at_least: Duration, into: &mut Duration) {
    let Some((value, at, path)) = table.duration(name) else { return };
    if value < at_least {
        let note = format!("it is {} ms at least", at_least.as_millis());
        table.note(Problem::error(at, path).found(format!("{} ms", value.as_millis())).note(note));
    } else {
        *into = value;
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use std::fmt::Write as _;

    /// The rows of the table in docs/configuration.md: the key's path, and its default where there is one.
    fn documented() -> Vec<(String, Option<String>)> {
        let page = include_str!("../../docs/configuration.md");
        let (_, section) = page.split_once("## Behaviour").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let mut cell = || cells.next().unwrap().trim_matches('`').to_owned();
            let (key, default) = (cell(), cell());
            (key, Some(default).filter(|default| !default.is_empty()))
        })
        .collect()
    }

    fn settings_of(text: &str) -> Result<Settings, Vec<String>> {
        let text = format!("provider: {{providerType: aws}}\nworker: {{implementation: dummy}}\n{text}");
        let reading = read(text.as_bytes());
        let problems: Vec<_> = reading.problems.iter().map(ToString::to_string).collect();
        if problems.is_empty() { Ok(reading.sections.config.unwrap().settings) } else { Err(problems) }
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let mut text = String::new();
        let mut section = String::new();
        for (path, default) in documented() {
            let Some(default) = default else { continue };
            let (own, key) = path.split_once('.').unwrap();
            if section != own {
                let _ = writeln!(text, "{own}:");
                own.clone_into(&mut section);
            }
            let _ = writeln!(text, "  {key}: {default}");
        }
        assert_eq!(settings_of(&text), Ok(Settings::default()), "{text}");
    }

    #[test]
    fn every_key_is_documented() {
        let documented: Vec<_> = documented().into_iter().map(|(path, _)| path).collect();
        let source = include_str!("settings.rs").split("#[cfg(test)]").next().unwrap();
        let read: Vec<_> = source.split("(table, \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let classes = OutcomeClass::ALL.map(OutcomeClass::key);
        assert!(read.len() > 20);
        for key in read.iter().chain(&classes).chain(&["workerLogLines", "starts"]) {
            assert!(documented.iter().any(|path| path.ends_with(&format!(".{key}"))), "{key} is not documented");
        }
        assert_eq!(documented.len(), read.len() + classes.len() + 2);
    }

    #[test]
    fn times_have_units_or_are_seconds() {
        let grace = |text: &str| settings_of(&format!("stop: {{grace: {text}}}")).map(|settings| settings.stop.grace);
        for (text, expected) in [
            ("90", Duration::from_secs(90)),
            ("0.25", Duration::from_millis(250)),
            ("0", Duration::ZERO),
            ("250ms", Duration::from_millis(250)),
            ("1h 30m", Duration::from_secs(5400)),
            ("PT2M", Duration::from_secs(120)),
        ] {
            assert_eq!(grace(text), Ok(expected), "{text}");
        }
        for text in ["-1", "-5s", "soon", "[1]", "true", "400d", "1e300", "5 parsecs"] {
            let problems = grace(text).unwrap_err();
            assert!(problems.len() == 1 && problems[0].starts_with("stop.grace: found"), "{text}: {problems:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("restart: sometimes", "restart: found `sometimes`, expected `never`, `on-failure` or `always`"),
            ("restart: {starts: -1}", "restart.starts: found"),
            ("restart: {firstPause: 0}", "restart.firstPause: found 0 ms; it is 10 ms at least"),
            ("retirement: {onFinish: leave}", "did you mean `onFinished`?"),
            ("retirement: {onFailure: explode}", "retirement.onFailure: found `explode`, expected `remove`"),
            ("report: {workerLogLines: 101}", "expected a whole number from 0 to 100"),
            ("progress: 5m", "progress: found"),
        ] {
            let problems = settings_of(text).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(expected), "{text}: {problems:?}");
        }
        let settings = settings_of("restart: always\nretirement: {onKilled: reboot}").unwrap();
        assert_eq!(settings.restart.policy, RestartPolicy::Always);
        assert_eq!(settings.retirement.choices, BTreeMap::from([(OutcomeClass::Killed, Retirement::Reboot)]));
    }
}
