//! `start-worker` as a user sees it: the real program, on simulated machines.

/// Tests that can't run on this system: named, counted, and each with the reason.
#[cfg(windows)]
macro_rules! skip {
    ($($reason:literal: $($name:ident),+;)+) => {
        $($(
            #[test]
            #[ignore = $reason]
            fn $name() {}
        )+)+
    };
}

mod support;

mod boot;
mod cache;
mod commands;
mod failures;
mod faults;
mod files;
mod fleet;
mod interruptions;
mod promises;
mod retirement;
mod supervision;
mod tls;
#[cfg(windows)]
mod windows;

// tests/chaos.rs: whole lives of machines.
#[cfg(windows)]
skip! {
    "it sends every signal and looks for processes in Linux' own files": whatever_happens_no_machine_is_lost;
}
