//! worker-runner: turns a freshly booted machine into a Taskcluster worker and stays beside it.
//!
//! [`run`] tells the story; the other modules are its parts, in the order in which data flows through them.
//! ARCHITECTURE.md says what lives where and why.

pub mod cli;
pub mod run;

pub mod check;
pub mod fleet;
#[cfg(windows)]
pub mod service;
pub mod show_config;
pub mod timeline;

pub mod boot;
pub mod cache;
pub mod conclusion;
pub mod driver;
pub mod error;
pub mod files;
mod hash;
mod json;
pub mod layer;
pub mod logging;
pub mod outcome;
pub mod platform;
pub mod preflight;
pub mod private_file;
pub mod provider;
pub mod registration;
pub mod report;
pub mod restart;
pub mod retirement;
pub mod run_state;
pub mod runner_config;
pub mod secrets;
pub mod supervise;

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this program calls itself to services.
pub const USER_AGENT: &str = concat!("worker-runner/", env!("CARGO_PKG_VERSION"));
