//! `start-worker`: arguments in, exit code out. The library does the rest.

use clap::Parser;
use clap::error::ErrorKind;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use tracing::Level;
use worker_runner::cli::{Cli, Command};
use worker_runner::error::{RunError, Stage, report};
use worker_runner::fleet::{self, FleetError};
use worker_runner::logging::{self, LogStream};
use worker_runner::run::{RunOptions, run};
use worker_runner::{VERSION, check, platform, show_config};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => Stage::CommandLine.exit_code().into(),
            };
        }
    };
    let log = match LogStream::start(io::stderr()) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("start-worker: cannot start its log: {error}");
            return Stage::Supervision.exit_code().into();
        }
    };
    // A panic of ours is a line in the log and an exit code of its own, and nothing else writes to the log's stream.
    let last_words = log.clone();
    panic::set_hook(Box::new(move |panic| {
        last_words.emergency(&format!("error: BUG in start-worker {VERSION}, please report it: {panic}"));
    }));
    let code = panic::catch_unwind(AssertUnwindSafe(|| dispatch(cli, &log))).unwrap_or(Stage::Bug.exit_code());
    log.flush();
    code.into()
}

fn dispatch(cli: Cli, log: &LogStream) -> u8 {
    let from_environment = platform::log_level_from_environment();
    let level = cli.log_level.or_else(|| from_environment.as_deref()?.parse().ok());
    if let Err(error) = logging::install(log, level.unwrap_or(Level::INFO)) {
        log.line(|out| out.extend_from_slice(format!("cannot install the log: {error}").as_bytes()));
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
        (None, Some(runner_config)) => {
            let metadata_service = cli.metadata_service.unwrap_or_default();
            boot(RunOptions { runner_config, metadata_service }, log)
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

/// One thread is enough, and it is this one: what is bound to the thread that starts the worker lives as long as we
/// do.
fn boot(options: RunOptions, log: &LogStream) -> Result<u8, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::System)?;
    let result = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(options, log.clone()))));
    // A thread that hangs on a disk or a name server doesn't keep us.
    runtime.shutdown_background();
    result.unwrap_or(Err(RunError::Bug))
}
