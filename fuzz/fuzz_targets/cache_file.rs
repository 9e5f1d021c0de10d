//! Any bytes are a kept run or a problem.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use worker_runner::cache::Cache;

fuzz_target!(|bytes: &[u8]| {
    let _ = Cache::new(None, Path::new("."), "aws").read(Path::new("cache"), bytes).map_err(|problem| problem.to_string());
});
