//! Whether this machine is fit for what its runner config asks: the worker's program, the folders that are written
//! to. Changes nothing.

use crate::driver::{self, Driver, DriverError};
use crate::outcome::Retirement;
use crate::platform::{self, Access};
use crate::private_file;
use crate::runner_config::settings::RestartPolicy;
use crate::runner_config::{
    GenericWorkerStart, Loaded, Position, Problem, ProviderConfig, RunnerConfig, Severity, WorkerConfig,
};
use std::io;
use std::path::Path;

/// Looks at the worker before the machine registers. On a cloud a worker that isn't there is no error yet: one of the
/// worker pool's files may bring it, and a cloud machine that stops before it has registered can neither report nor
/// be removed. Nor is it one while files of a kept run are still to be written. That its configuration can't be written is found
/// on a machine of one's own, for the same reason.
///
/// # Errors
/// Why the worker can't be started.
pub fn before_registration(
    driver: &dyn Driver,
    config: &RunnerConfig,
    files_may_bring_it: bool,
) -> Result<(), DriverError> {
    let is_cloud = config.provider.is_cloud();
    match driver.preflight() {
        Err(error) if is_cloud || files_may_bring_it => {
            tracing::warn!("{}; going on, for the worker pool's files may bring it", crate::error::Chain(&error));
        }
        result => result?,
    }
    match config.worker.config_path().filter(|_| !is_cloud) {
        Some(path) => can_be_written(path).map_err(|source| DriverError::Config { path: path.to_owned(), source }),
        None => Ok(()),
    }
}

/// Everything that `check` finds on this machine, each with its key's place in the file.
pub fn problems(loaded: &Loaded) -> Vec<Problem> {
    let mut problems = Vec::new();
    let sections = &loaded.sections;
    if let Some(worker) = &sections.program
        && let Err(error) = driver::build(worker).preflight()
    {
        // On a cloud, or on who knows what, a file of the worker pool may bring it.
        let severity = if sections.is_cloud == Some(false) { Severity::Error } else { Severity::Warning };
        let key = match worker {
            WorkerConfig::GenericWorker { start: GenericWorkerStart::Service { .. }, .. } => ["worker", "service"],
            WorkerConfig::GenericWorker { start: GenericWorkerStart::Path(_), .. }
            | WorkerConfig::DockerWorker { .. } => ["worker", "path"],
            WorkerConfig::Dummy => ["worker", "implementation"],
        };
        let mut problem = at(loaded, &key).note(crate::error::Chain(&error).to_string());
        problem.severity = severity;
        problems.push(problem);
    }
    let config_path = sections.config_path.as_ref().map(|path| (["worker", "configPath"].as_slice(), path));
    let cache = sections.cache_over_restarts.as_ref().map(|path| (["cacheOverRestarts"].as_slice(), path));
    for (keys, path) in config_path.into_iter().chain(cache) {
        if let Err(error) = can_be_written(path) {
            problems.push(at(loaded, keys).note(format!("{} cannot be written: {error}", path.display())));
        }
    }
    problems.extend(loaded.config.iter().flat_map(|config| surprises(loaded, config)));
    problems
}

/// What a config may mean although nobody means it.
fn surprises(loaded: &Loaded, config: &RunnerConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    let choices = &config.settings.retirement.choices;
    let chosen =
        |wanted: Retirement| choices.iter().find(|(_, choice)| **choice == wanted).map(|(class, _)| class.key());
    let warning = |keys: &[&str], note: &str| {
        let mut problem = at(loaded, keys).note(note);
        problem.severity = Severity::Warning;
        problem
    };
    if !config.provider.is_cloud() {
        if let (ProviderConfig::Standalone(_), Some(key)) = (&config.provider, chosen(Retirement::RemoveWorker)) {
            let note = "worker-manager knows no standalone machine, so this shuts the host down";
            problems.push(warning(&["retirement", key], note));
        }
        return problems;
    }
    if config.cache_over_restarts.is_none() {
        if let WorkerConfig::GenericWorker { .. } = &config.worker {
            let note = "without cacheOverRestarts a machine that generic-worker wants to reboot is retired instead: a cloud machine registers only once";
            problems.push(Problem::of_file(Severity::Warning, note));
        }
        if let Some(key) = chosen(Retirement::Reboot) {
            let note = "without cacheOverRestarts a cloud machine cannot come back, and is removed instead";
            problems.push(warning(&["retirement", key], note));
        }
    }
    if config.settings.restart.policy != RestartPolicy::Never {
        let note =
            "a cloud machine is retired when its run is over: this changes nothing unless `retirement` says `restart`";
        problems.push(warning(&["restart"], note));
    }
    problems
}

fn at(loaded: &Loaded, keys: &[&str]) -> Problem {
    let position = loaded.position_of(keys).unwrap_or(Position { line: 1, column: 1 });
    Problem::error(position, keys.join("."))
}

/// Whether a file could be made or replaced: its folder is there and writable, or could be made.
fn can_be_written(path: &Path) -> io::Result<()> {
    private_file::refuse_other_kind(path)?;
    let mut folder = platform::folder_of(path);
    loop {
        match platform::access(folder, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != platform::folder_of(folder) => {
                folder = platform::folder_of(folder);
            }
            Ok(()) => return Ok(()),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
        }
    }
}
