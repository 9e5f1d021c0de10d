//! `start-worker`: arguments in, exit code out. The library does the rest.

use clap::error::ErrorKind;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;
use tracing::Level;
#[cfg(windows)]
use worker_runner::cli::ServiceCommand;
use worker_runner::cli::{Cli, Command, TimelineArguments};
use worker_runner::error::{RunError, Stage, report};
use worker_runner::fleet::{self, FleetError};
use worker_runner::logging::{self, LogOptions, LogStream};
use worker_runner::platform::ServiceManager;
use worker_runner::run::{self, RunOptions};
#[cfg(windows)]
use worker_runner::service;
use worker_runner::timeline::{self, Timeline};
use worker_runner::{VERSION, check, platform, show_config};

fn main() -> ExitCode {
    let began = Instant::now();
    let cli = match Cli::of_this_process() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => Stage::CommandLine.exit_code().into(),
            };
        }
    };
    #[cfg(windows)]
    if let Some(Command::Service(ServiceCommand::Run(arguments))) = &cli.command {
        // It has a log of its own.
        return service::serve(&arguments.service.name).into();
    }
    let log = LogStream::new(io::stderr(), LogOptions { times: !cli.no_timestamps, tell_error: None });
    // A panic of ours is a line in the log, and an exit code of its own.
    log.take_panics();
    let code = panic::catch_unwind(AssertUnwindSafe(|| dispatch(cli, &log, began))).unwrap_or(Stage::Bug.exit_code());
    log.flush();
    code.into()
}

fn dispatch(cli: Cli, log: &LogStream, began: Instant) -> u8 {
    let from_environment = platform::log_level_from_environment();
    let level = cli.log_level.or_else(|| from_environment.as_deref()?.parse().ok());
    if cli.timeline.is_some() && cli.command.is_some() {
        log.own_line("error: --timeline records a run: start-worker --timeline FILE runner.yml");
        return Stage::CommandLine.exit_code();
    }
    if let (Some(timeline), Some(config)) = (&cli.timeline, &cli.runner_config)
        && platform::resolve(timeline) == platform::resolve(config)
    {
        log.own_line("error: --timeline would replace the runner config: name another file");
        return Stage::CommandLine.exit_code();
    }
    if cli.command.is_some() {
        log.begin_writing();
    }
    let timeline = cli.timeline.map(|path| Timeline::begin(path, began));
    if let Err(error) = logging::install(log, level.unwrap_or(Level::INFO), timeline.clone()) {
        log.own_line(&format!("cannot install the log: {error}"));
    }
    if let (None, Some(wrong)) = (level, &from_environment) {
        tracing::warn!("START_WORKER_LOG={wrong:?} is no level; error, warn, info, debug and trace are");
    }
    if cli.short_version {
        let written = writeln!(io::stdout(), "{VERSION}");
        return if written.is_ok() { 0 } else { Stage::CommandLine.exit_code() };
    }
    let result = match (cli.command, cli.runner_config) {
        (Some(_), Some(stray)) => {
            tracing::error!("{} stands before the command: name the runner config behind it", stray.display());
            return Stage::CommandLine.exit_code();
        }
        (Some(Command::Check(arguments)), None) => check::check(&arguments).map_err(RunError::from),
        (Some(Command::ShowConfig(arguments)), None) => show_config::show(&arguments).map(|()| 0),
        (Some(Command::Enroll(arguments)), None) => ask(fleet::enroll(&arguments)),
        (Some(Command::Unenroll(arguments)), None) => ask(fleet::unenroll(&arguments)),
        (Some(Command::Workers(arguments)), None) => ask(fleet::workers(&arguments)),
        (Some(Command::Errors(arguments)), None) => ask(fleet::errors(&arguments)),
        (Some(Command::Timeline(arguments)), None) => Ok(draw(&arguments)),
        #[cfg(windows)]
        (Some(Command::Service(command)), None) => {
            let defaults = service::Defaults { log_level: level, metadata_service: cli.metadata_service };
            Ok(match service::command(&command, &defaults) {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!("{}", report(&error, &error.hint()));
                    error.stage().exit_code()
                }
            })
        }
        (None, Some(runner_config)) => {
            let metadata_service = cli.metadata_service.unwrap_or_default();
            let manager = ServiceManager::of_this_process();
            let result = run::boot(RunOptions { runner_config, metadata_service, manager, began }, log);
            if let Some(timeline) = timeline {
                timeline.finish();
            }
            result
        }
        (None, None) => {
            tracing::error!("which runner config? start-worker runner.yml (start-worker --help says more)");
            return Stage::CommandLine.exit_code();
        }
    };
    result.unwrap_or_else(|error| {
        tracing::error!("{}", error.report());
        error.stage().exit_code()
    })
}

/// Draws a recorded boot, and says where.
fn draw(arguments: &TimelineArguments) -> u8 {
    match timeline::draw(arguments) {
        Ok(pictures) => {
            let mut out = io::stdout();
            let shown = pictures.iter().try_for_each(|path| writeln!(out, "{}", path.display()));
            if shown.is_ok() { 0 } else { Stage::CommandLine.exit_code() }
        }
        Err(error) => {
            tracing::error!("{}", report(&error, error.hint()));
            Stage::CommandLine.exit_code()
        }
    }
}

/// What people ask a deployment.
fn ask(question: impl Future<Output = Result<(), FleetError>>) -> Result<u8, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::System)?;
    Ok(match runtime.block_on(question) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{}", report(&error, error.hint()));
            error.stage().exit_code()
        }
    })
}
