//! Any bytes are unpacked or refused, and nothing is written outside the target.
#![no_main]

use base64::Engine;
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use worker_runner::files::{FileSpec, place};

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let content = base64::engine::general_purpose::STANDARD.encode(bytes);
    let target = folder.path().join("target");
    let list = json!([{"description": "fuzz", "path": target, "content": content, "encoding": "base64", "format": "zip"}]);
    if let Ok(files) = FileSpec::read_list(list, false) {
        let _ = place(&files, "fuzz");
    }
    let Ok(beside) = std::fs::read_dir(folder.path()) else { return };
    assert!(beside.flatten().all(|entry| entry.file_name() == "target"));
});
