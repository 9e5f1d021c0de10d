//! `simulator`: shows a machine boot, and is the worker that it boots.

use clap::{Parser, Subcommand};
use simulator::boot::{self, BootOptions};
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
        Command::Boot(options) => ended(boot::boot(&options)),
        Command::Serve(options) => ended(serve::serve(&options).map(|()| 0)),
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
