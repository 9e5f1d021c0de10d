//! Any bytes are an answer to `registerWorker` or an error without values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskcluster_api::{Registration, from_json};

fuzz_target!(|bytes: &[u8]| {
    let _ = from_json::<Registration>(bytes).map_err(|error| error.to_string());
});
