//! The program that people run.

use std::process::Command;

#[test]
fn an_unknown_provider_is_refused_with_the_known_ones() {
    let output = Command::new(env!("CARGO_BIN_EXE_simulator")).args(["boot", "moon"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("aws, azure, google, static, standalone"));
}
