//! Hashes as text.

use ring::digest::Digest;
use std::fmt::Write;

/// In lower-case hexadecimal digits.
pub fn hex(hash: &Digest) -> String {
    let mut text = String::with_capacity(2 * hash.as_ref().len());
    for byte in hash.as_ref() {
        // Writing to memory doesn't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
