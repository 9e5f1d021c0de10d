//! How a program's arguments and environment are written for Windows. Pure.
//!
//! Source: learn.microsoft.com, "Parsing C command-line arguments", "`CreateProcessW` function".

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::windows::ffi::OsStrExt;

const QUOTE: u16 = b'"' as u16;
const BACKSLASH: u16 = b'\\' as u16;

/// The program and its arguments as one text that programs take apart again as they were, ended by a zero. A zero within
/// would end it early, so there is none: paths can't hold any.
pub fn of_program(program: &OsStr, arguments: &[OsString]) -> Vec<u16> {
    let mut line = Vec::new();
    for part in std::iter::once(program).chain(arguments.iter().map(OsString::as_os_str)) {
        if !line.is_empty() {
            line.push(u16::from(b' '));
        }
        quote(part, &mut line);
    }
    line.push(0);
    line
}

/// For a batch file, as an argument list of `cmd.exe`; none where a part would mean something to that.
pub fn of_batch_file(shell: &OsStr, program: &OsStr, arguments: &[OsString]) -> Option<Vec<u16>> {
    let parts: Vec<&OsStr> = std::iter::once(program).chain(arguments.iter().map(OsString::as_os_str)).collect();
    let means_something =
        |unit: u16| ['"', '%', '\r', '\n'].iter().any(|special| u32::from(unit) == u32::from(*special));
    if parts.iter().any(|part| part.encode_wide().any(means_something)) {
        return None;
    }
    let mut line = Vec::new();
    quote(shell, &mut line);
    // Nothing from the registry, no delayed expansion; what stands between the outermost quotes is taken as it is.
    line.extend(" /d /v:off /s /c \"".encode_utf16());
    for (index, part) in parts.into_iter().enumerate() {
        line.extend((index > 0).then_some(u16::from(b' ')));
        line.push(QUOTE);
        line.extend(part.encode_wide());
        line.push(QUOTE);
    }
    line.extend([QUOTE, 0]);
    Some(line)
}

fn quote(part: &OsStr, line: &mut Vec<u16>) {
    let units: Vec<u16> = part.encode_wide().collect();
    let is_plain = |unit: &u16| ![b' ', b'\t', b'\n', b'\x0b', b'"'].map(u16::from).contains(unit);
    if !units.is_empty() && units.iter().all(is_plain) {
        line.extend(units);
        return;
    }
    line.push(QUOTE);
    let mut backslashes = 0;
    for unit in units {
        if unit == QUOTE {
            // Before a quote each backslash counts double, and one more is for the quote.
            line.extend(std::iter::repeat_n(BACKSLASH, backslashes + 1));
        }
        backslashes = if unit == BACKSLASH { backslashes + 1 } else { 0 };
        line.push(unit);
    }
    line.extend(std::iter::repeat_n(BACKSLASH, backslashes));
    line.push(QUOTE);
}

/// An environment with additions, as Windows takes it: sorted, names that differ in case are one.
pub fn environment(inherited: impl Iterator<Item = (OsString, OsString)>, added: &[(OsString, OsString)]) -> Vec<u16> {
    let mut variables = BTreeMap::new();
    for (name, value) in inherited.chain(added.iter().cloned()) {
        variables.insert(name.to_ascii_uppercase(), (name, value));
    }
    let mut block: Vec<u16> = Vec::new();
    for (name, value) in variables.into_values() {
        block.extend(name.encode_wide().chain([u16::from(b'=')]).chain(value.encode_wide()).chain([0]));
    }
    if block.is_empty() {
        block.push(0);
    }
    block.push(0);
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::windows::ffi::OsStringExt;

    fn line(parts: &[&str]) -> String {
        let arguments: Vec<OsString> = parts[1..].iter().map(OsString::from).collect();
        let line = of_program(parts[0].as_ref(), &arguments);
        String::from_utf16(&line[..line.len() - 1]).unwrap()
    }

    #[test]
    fn arguments_are_quoted_as_programs_take_them_apart() {
        let table: [(&[&str], &str); 6] = [
            (&[r"C:\a.exe", "run"], r"C:\a.exe run"),
            (&[r"C:\Program Files\a.exe", ""], r#""C:\Program Files\a.exe" """#),
            (&["a", r"C:\a b\"], r#"a "C:\a b\\""#),
            (&["a", r#"say "hi""#], r#"a "say \"hi\"""#),
            (&["a", r#"\\"x y"#], r#"a "\\\\\"x y""#),
            (&["a", r"\\server\share"], r"a \\server\share"),
        ];
        for (parts, expected) in table {
            assert_eq!(line(parts), expected);
        }
    }

    #[test]
    fn a_batch_file_is_given_to_the_shell_and_nothing_that_means_something_to_it() {
        let of = |program: &str, argument: &str| {
            let line = of_batch_file(r"C:\cmd.exe".as_ref(), program.as_ref(), &[argument.into()])?;
            Some(String::from_utf16(&line[..line.len() - 1]).unwrap())
        };
        let expected = r#"C:\cmd.exe /d /v:off /s /c ""C:\a b.cmd" "x&y""#.to_owned() + "\"";
        assert_eq!(of(r"C:\a b.cmd", "x&y"), Some(expected));
        for special in ["%PATH%", "a\"b", "a\nb"] {
            assert_eq!(of(r"C:\a.cmd", special), None);
        }
    }

    fn variables(block: &[u16]) -> Vec<OsString> {
        block.split(|unit| *unit == 0).filter(|part| !part.is_empty()).map(OsString::from_wide).collect()
    }

    #[test]
    fn an_environment_has_each_name_once() {
        let inherited = [("Path", "1"), ("b", "2")].map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let block = environment(inherited.into_iter(), &[("PATH".into(), "3".into())]);
        assert_eq!(variables(&block), ["b=2", "PATH=3"].map(OsString::from));
        assert!(block.ends_with(&[0, 0]));
        assert_eq!(environment(std::iter::empty(), &[]), [0, 0]);
    }
}
