//! Names that Windows reads otherwise than they are written. Pure, and asked on Windows only.
//!
//! Source: learn.microsoft.com, "Naming Files, Paths, and Namespaces".

/// Names of devices, in every folder and with every extension.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];

/// Those that have a digit behind them.
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

/// What is wrong with the path of a file, if anything is.
pub fn problem_of_path(path: &str) -> Option<String> {
    let separators = ['/', '\\'];
    let path = path.replace('/', "\\");
    if path.starts_with(r"\\?\") || path.starts_with(r"\\.\") {
        return Some(r"a path that begins with \\?\ or \\.\ is not read as others are: write it without".to_owned());
    }
    if path.starts_with(r"\\") {
        return Some("it is a UNC path: the worker pool's files go to this machine's own drives".to_owned());
    }
    let rest = match path.as_bytes() {
        [letter, b':', rest @ ..] if letter.is_ascii_alphabetic() => {
            if rest.first() != Some(&b'\\') {
                return Some(r"it is relative to a drive: write C:\folder\file".to_owned());
            }
            &path[2..]
        }
        _ => path.as_str(),
    };
    rest.split(separators).find_map(problem_of_name)
}

/// What is wrong with one name of a path, if anything is.
pub fn problem_of_name(name: &str) -> Option<String> {
    if name.is_empty() || name == "." || name == ".." {
        return None;
    }
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let device = DEVICES.iter().any(|device| stem.eq_ignore_ascii_case(device))
        || NUMBERED_DEVICES.iter().any(|device| is_numbered(stem, device));
    if device {
        return Some(format!("`{name}` names a device on Windows"));
    }
    if name.contains(':') {
        return Some(format!("`{name}` names a stream of a file on Windows"));
    }
    if name.ends_with(['.', ' ']) {
        return Some(format!("`{name}` ends with a dot or a space, which Windows takes away"));
    }
    let forbidden = |character: char| character < ' ' || "<>\"|?*".contains(character);
    name.contains(forbidden).then(|| format!("{name:?} has a character that no name has on Windows"))
}

/// `COM1`, also with a digit that stands high.
fn is_numbered(stem: &str, device: &str) -> bool {
    let Some((head, tail)) = stem.split_at_checked(device.len()) else { return false };
    let mut tail = tail.chars();
    let digit = |character: char| character.is_ascii_digit() || ['¹', '²', '³'].contains(&character);
    head.eq_ignore_ascii_case(device) && tail.next().is_some_and(digit) && tail.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_else_are_found() {
        for name in ["NUL", "nul", "Con.txt", "aux .log", "COM1", "lpt9.tar.gz", "COM²", "conin$"] {
            assert!(problem_of_name(name).is_some_and(|problem| problem.contains("device")), "{name}");
        }
        for (name, word) in [("a:b", "stream"), ("a.", "ends with"), ("a ", "ends with"), ("a*b", "character")] {
            assert!(problem_of_name(name).is_some_and(|problem| problem.contains(word)), "{name}");
        }
        for name in ["nullable", "COM", "COM10", "console", "a.b", ".hidden", "comé", "ä", "..", ""] {
            assert_eq!(problem_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_found() {
        for path in [r"C:\folder\file.txt", "C:/folder/file", r"folder\file", r"\folder\file"] {
            assert_eq!(problem_of_path(path), None, "{path}");
        }
        for (path, word) in [
            (r"\\?\C:\file", "not read as others"),
            (r"//./pipe/x", "not read as others"),
            (r"\\server\share\f", "UNC"),
            ("C:file", "relative to a drive"),
            (r"C:\a\NUL\b", "device"),
            (r"C:\a:b\c", "stream"),
        ] {
            assert!(problem_of_path(path).is_some_and(|problem| problem.contains(word)), "{path}");
        }
    }
}
