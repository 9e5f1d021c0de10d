//! `simulator`: shows a machine boot, and is the worker that it boots.

use clap::{Parser, Subcommand};
use simulator::boot::{self, BootOptions};
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
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if worker::is_worker(&arguments) {
        return match worker::main(&arguments) {
            Ok(code) => u8::try_from(code).unwrap_or(1).into(),
            Err(error) => {
                eprintln!("simulated worker: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match Cli::parse().command {
        Command::Boot(options) => match boot::boot(&options) {
            Ok(code) => code.into(),
            Err(error) => {
                eprintln!("simulator: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
