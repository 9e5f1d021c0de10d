//! `start-worker` as a user sees it: the real program, on simulated machines.

mod support;

mod boot;
#[cfg(unix)]
mod cache;
mod commands;
#[cfg(unix)]
mod failures;
#[cfg(unix)]
mod faults;
#[cfg(unix)]
mod files;
mod fleet;
#[cfg(unix)]
mod interruptions;
#[cfg(unix)]
mod promises;
#[cfg(unix)]
mod retirement;
#[cfg(unix)]
mod supervision;
#[cfg(unix)]
mod tls;
