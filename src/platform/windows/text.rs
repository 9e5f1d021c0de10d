//! Texts as Windows takes and gives them: UTF-16, ended by a zero.

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::path::Path;

/// From this length on, in UTF-16 units, a path is written in the form that has no limit: some calls refuse a folder of
/// 248 and a file of 260 without it.
///
/// Source: learn.microsoft.com, "Maximum Path Length Limitation".
const LONG: usize = 240;

/// A text for Windows.
pub fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}

/// A path for Windows, of any length.
///
/// # Errors
/// Where it can't be made absolute.
pub fn wide_path(path: &Path) -> io::Result<Vec<u16>> {
    let absolute = std::path::absolute(path)?;
    let text = wide(&absolute);
    let starts = |prefix: &str| prefix.encode_utf16().zip(&text).all(|(wanted, unit)| wanted == *unit);
    if text.len() < LONG || starts(r"\\?\") || starts(r"\\.\") {
        return Ok(text);
    }
    let (prefix, skipped) = if starts(r"\\") { (r"\\?\UNC\", 2) } else { (r"\\?\", 0) };
    Ok(prefix.encode_utf16().chain(text[skipped..].iter().copied()).collect())
}

/// The text that Windows put at `start`, up to its zero.
///
/// # Safety
/// `start` must point to a readable text that ends with a zero.
pub unsafe fn text_at(start: *const u16) -> String {
    let mut length = 0;
    // SAFETY: the caller promises that there is a zero, and the search doesn't go beyond it.
    while unsafe { *start.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: these units have just been read.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(start, length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(path: &str) -> String {
        let wide = wide_path(Path::new(path)).unwrap();
        String::from_utf16(&wide[..wide.len() - 1]).unwrap()
    }

    #[test]
    fn long_paths_get_the_form_without_a_limit() {
        let long = "x".repeat(300);
        assert_eq!(back(r"C:\a/b"), r"C:\a\b");
        assert_eq!(back(&format!(r"C:\{long}")), format!(r"\\?\C:\{long}"));
        assert_eq!(back(&format!(r"\\server\share\{long}")), format!(r"\\?\UNC\server\share\{long}"));
        assert_eq!(back(&format!(r"\\?\C:\{long}")), format!(r"\\?\C:\{long}"));
    }
}
