//! `simulator`: shows a machine boot, and is the worker that it boots.

use clap::{Parser, Subcommand};
use simulator::boot::{self, BootOptions};
use simulator::herd::{self, HerdOptions};
use simulator::serve::{self, ServeOptions};
use simulator::worker;
use std::process::ExitCode;

/// A cloud and a Taskcluster on loopback, to see worker-runner at work.
#[derive(Debug, Parser)]
#[command(name = "simulator", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a machine with a real start-worker and show what happens
    Boot(BootOptions),
    /// Serve worker-manager and secrets on loopback, to be talked to by anything, until it is ended
    Serve(ServeOptions),
    /// Let thousands of machines boot and renew their credentials in a model of time, and show what the service sees
    Herd(HerdOptions),
    /// Press Ctrl-C on the console of a process
    #[cfg(windows)]
    CtrlC {
        /// The process's id
        process: u32,
    },
    /// Be a worker's service: for the service control manager
    #[cfg(windows)]
    WorkerService(simulator::windows::WorkerServiceOptions),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if worker::is_worker(&arguments) {
        return match worker::main(&arguments) {
            // All of its bits, where the system has more than eight.
            Ok(code) => std::process::exit(code),
            Err(error) => {
                eprintln!("simulated worker: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match Cli::parse().command {
        Command::Boot(options) => ended(boot::boot(&options)),
        Command::Serve(options) => ended(serve::serve(&options).map(|()| 0)),
        Command::Herd(options) => ended(herd::herd(&options)),
        #[cfg(windows)]
        Command::CtrlC { process } => ended(simulator::windows::press_ctrl_c(process).map(|()| 0)),
        #[cfg(windows)]
        Command::WorkerService(options) => ended(simulator::windows::be_worker_service(&options).map(|()| 0)),
    }
}

fn ended(result: std::io::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("simulator: {error}");
            ExitCode::FAILURE
        }
    }
}
