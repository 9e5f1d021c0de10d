//! Any bytes are a runner config or a list of problems.
#![no_main]

use libfuzzer_sys::fuzz_target;
use worker_runner::runner_config;

fuzz_target!(|bytes: &[u8]| {
    let reading = runner_config::read(bytes);
    assert!(reading.sections.config.is_some() || !reading.problems.is_empty());
});
