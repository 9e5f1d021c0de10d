//! The service itself: what the SCM starts, from its first moment to its last word.

use super::event_log::EventLog;
use super::log_file::LogFile;
use crate::cli::{Cli, Command, ServiceCommand, ServiceRunArguments};
use crate::error::Stage;
use crate::logging::{self, LogOptions, LogStream, TellError};
use crate::platform::{LastWord, Scm, ServiceManager, Word, says};
use crate::run::{self, RunOptions};
use crate::runner_config;
use clap::Parser;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::Instant;
use tracing::Level;
use windows_service::{define_windows_service, service_dispatcher};
use windows_sys::Win32::Foundation::ERROR_FAILED_SERVICE_CONTROLLER_CONNECT;

define_windows_service!(service_entry, service_main);

/// Hands this process's first thread to the SCM, which has another one run the service. Returns its exit code when the
/// service has stopped.
pub fn serve(name: &str) -> u8 {
    match service_dispatcher::start(name, service_entry) {
        Ok(()) => 0,
        Err(windows_service::Error::Winapi(error)) if says(&error, ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) => {
            eprintln!("`start-worker service run` is for the service control manager: start-worker service start");
            Stage::CommandLine.exit_code()
        }
        Err(error) => {
            eprintln!("cannot become the service `{name}`: {error}");
            Stage::Service.exit_code()
        }
    }
}

/// Nothing of this process can be handed to this thread but its arguments, which are read again. Nothing may unwind out
/// of it.
fn service_main(_start_arguments: Vec<OsString>) {
    let Ok(Cli {
        command: Some(Command::Service(ServiceCommand::Run(arguments))), log_level, metadata_service, ..
    }) = Cli::try_parse()
    else {
        return;
    };
    let served = panic::catch_unwind(AssertUnwindSafe(|| {
        let name = &arguments.service.name;
        let event_log = EventLog::open(name);
        let scm = match Scm::register(name) {
            Ok(scm) => scm,
            Err(error) => {
                event_log.tell(&format!("cannot become the service `{name}`: {error}"));
                event_log.flush();
                return;
            }
        };
        let manager = ServiceManager::Scm(scm.clone());
        let options = RunOptions {
            began: Instant::now(),
            runner_config: arguments.config.clone(),
            metadata_service: metadata_service.unwrap_or_default(),
            manager: manager.clone(),
        };
        let level = log_level.unwrap_or(Level::INFO);
        let code = panic::catch_unwind(AssertUnwindSafe(|| run_logged(&arguments, options, level, &event_log)));
        let code = code.unwrap_or(Stage::Bug.exit_code());
        // Reading the config again may fail as it did before.
        let cloud = panic::catch_unwind(|| is_cloud(&arguments.config)).unwrap_or(true);
        let last_word = last_word(code, scm.told_to_stop(), cloud);
        manager.tell(Word::Alive);
        event_log.flush();
        if let Err(error) = scm.stopped(last_word) {
            event_log.tell(&format!("cannot tell the service control manager of the end: {error}"));
            event_log.flush();
        }
    }));
    if served.is_err() {
        // Rather a process that is gone, and started again, than a service that seems to run.
        std::process::exit(Stage::Bug.exit_code().into());
    }
}

/// A run with its log in a file, and errors in the event log too.
fn run_logged(arguments: &ServiceRunArguments, options: RunOptions, level: Level, event_log: &EventLog) -> u8 {
    let sink: Box<dyn Write + Send> = match LogFile::open(&arguments.log_folder, &arguments.service.name) {
        Ok(file) => Box::new(file),
        Err(error) => {
            // A worker without a log is better than none.
            let folder = arguments.log_folder.display();
            event_log.tell(&format!("there is no log, for {folder} cannot be written: {error}"));
            Box::new(io::sink())
        }
    };
    let errors = event_log.clone();
    let tell: TellError = Box::new(move |text| errors.tell(text));
    let log = LogStream::new(sink, LogOptions { times: true, tell_error: Some(tell) });
    log.begin_writing();
    log.take_panics();
    if let Err(error) = logging::install(&log, level, None) {
        log.own_line(&format!("cannot install the log: {error}"));
    }
    // A service begins in the system's folder. Relative paths in the runner config mean its own.
    let folder = arguments.config.parent().unwrap_or(Path::new(r"C:\"));
    if let Err(error) = env::set_current_dir(folder) {
        tracing::warn!("cannot go to {}: {error}", folder.display());
    }
    let code = run::boot(options, &log).unwrap_or_else(|error| {
        tracing::error!("{}", error.report());
        error.stage().exit_code()
    });
    tracing::info!("start-worker ends with {code}");
    log.flush();
    code
}

/// Whether the machine is a cloud's; where that can't be read it may be one.
fn is_cloud(config: &Path) -> bool {
    let sections = runner_config::load(config).map(|loaded| loaded.sections);
    sections.ok().and_then(|sections| sections.is_cloud).unwrap_or(true)
}

/// What the SCM is told at the end: nothing but an error has it start the service again.
///
/// As with systemd (deploy/start-worker.service), a cloud's machine that is still there is to go, and the next start sees
/// to that; but no second try changes a wrong command line, and a worker that has ended in order on a machine of one's own
/// has a reason for it.
fn last_word(code: u8, told: bool, is_cloud: bool) -> LastWord {
    let is_final = code == Stage::CommandLine.exit_code() || (!is_cloud && matches!(code, 0 | 64 | 67 | 68 | 70..=73));
    if told || is_final { LastWord::Done } else { LastWord::Failed(code.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_started_again_unless_somebody_wanted_its_end() {
        let again = |code: u8| LastWord::Failed(code.into());
        let table = [
            (0, true, true, LastWord::Done),
            (71, true, true, LastWord::Done),
            (0, false, true, again(0)),
            (67, false, true, again(67)),
            (13, false, true, again(13)),
            (3, false, true, LastWord::Done),
            (0, false, false, LastWord::Done),
            (67, false, false, LastWord::Done),
            (1, false, false, again(1)),
            (13, false, false, again(13)),
            (21, false, false, again(21)),
        ];
        for (code, told, is_cloud, expected) in table {
            assert_eq!(last_word(code, told, is_cloud), expected, "{code} {told} {is_cloud}");
        }
    }
}
