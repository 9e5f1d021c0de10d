//! Where in a JSON text a mistake is.

use serde_json::Error;
use std::fmt::Write;

/// `serde_json` reads no deeper than this, but for what nobody wants.
const DEEPEST: usize = 128;

/// How long a path may be, in characters.
const LONGEST: usize = 200;

/// What is read of an object or a list that is open.
enum Step {
    /// A member; without a name while that is still to come.
    Member(Option<String>),
    Element(usize),
}

/// What had been read when the mistake was found: up to the end of the value that is wrong, or of the object that lacks
/// a member.
pub(crate) fn read_before<'a>(error: &Error, json: &'a [u8]) -> &'a [u8] {
    let lines = json.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    json.get(..before + error.column()).unwrap_or(json)
}

/// The path of the value at the end of this beginning of a JSON text, as in `workers[0].capacity`; `.` is the whole.
///
/// serde's visitors know no path, and to carry one along takes a second copy of the code of every type that is read.
pub(crate) fn path_at_end(json: &[u8]) -> String {
    let (mut open, mut deeper) = (Vec::new(), 0_usize);
    let mut rest = json;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let is_deepest = open.len() == DEEPEST;
        match (byte, open.last_mut()) {
            (b'{' | b'[', _) if is_deepest => deeper += 1,
            (b'}' | b']', _) if deeper > 0 => deeper -= 1,
            (b',', _) if deeper > 0 => {}
            (b'{', _) => open.push(Step::Member(None)),
            (b'[', _) => open.push(Step::Element(0)),
            (b'}' | b']', _) => drop(open.pop()),
            (b',', Some(Step::Element(index))) => *index += 1,
            (b',', Some(Step::Member(name))) => *name = None,
            (b'"', step) => {
                let (text, after) = rest.split_at(length_of_text(rest));
                if let Some(Step::Member(name @ None)) = step {
                    *name = Some(unescaped(text));
                }
                rest = after.get(1..).unwrap_or_default();
            }
            _ => {}
        }
    }
    let mut path = String::new();
    for step in open {
        // Writing to memory doesn't fail.
        let _ = match step {
            Step::Member(None) => Ok(()),
            Step::Member(Some(name)) if path.is_empty() => write!(path, "{name}"),
            Step::Member(Some(name)) => write!(path, ".{name}"),
            Step::Element(index) => write!(path, "[{index}]"),
        };
    }
    if path.is_empty() { ".".to_owned() } else { path.chars().take(LONGEST).collect() }
}

/// How long a text is whose opening quote was read.
fn length_of_text(json: &[u8]) -> usize {
    let mut is_escaped = false;
    let is_end = |byte: &u8| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    };
    json.iter().position(is_end).unwrap_or(json.len())
}

fn unescaped(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    serde_json::from_str(&format!("\"{text}\"")).unwrap_or_else(|_| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::{path_at_end, read_before};
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Pool {
        workers: Vec<Worker>,
        #[serde(default)]
        by_name: BTreeMap<String, Worker>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Worker {
        id: String,
        capacity: u8,
        runs: Option<Vec<Vec<bool>>>,
    }

    fn path(json: &str) -> String {
        path_at_end(read_before(&serde_json::from_str::<Pool>(json).unwrap_err(), json.as_bytes()))
    }

    #[test]
    fn what_is_wrong_is_named_with_all_that_it_is_in() {
        let good = r#"{"id": "a, [{\"}", "capacity": 1}"#;
        let table = [
            ("{}", "."),
            ("[]", "."),
            ("7", "."),
            (r#"{"workers": 7}"#, "workers"),
            (r#"{"workers": {}}"#, "workers"),
            (r#"{"workers": [7]}"#, "workers[0]"),
            (r#"{"workers": [{}]}"#, "workers[0]"),
            (r#"{"workers": [GOOD, {"id": "a"}]}"#, "workers[1]"),
            (r#"{"workers": [GOOD, {"id": 1}]}"#, "workers[1].id"),
            (r#"{"workers": [{"id": "a", "capacity": 256}, GOOD]}"#, "workers[0].capacity"),
            (r#"{"workers": [{"id": "a", "capacity": -1.5e3}, GOOD]}"#, "workers[0].capacity"),
            (r#"{"workers": [{"id": "a", "capacity": "\\"}, GOOD]}"#, "workers[0].capacity"),
            (r#"{"workers": [{"id": "a", "capacity": null}, GOOD]}"#, "workers[0].capacity"),
            (r#"{"workers": [{"runs": [[], [true, false, 0]]}]}"#, "workers[0].runs[1][2]"),
            (r#"{"workers": [], "by_name": {"a": GOOD, "b.\u0063\"": {"id": []}}}"#, "by_name.b.c\".id"),
            (
                "{\n\t\"unknown\": [[{}, \"]\"], {\"a\": 1}],\r\n\n \"workers\":\n [{\"id\":\nfalse\n}]}",
                "workers[0].id",
            ),
        ];
        for (json, expected) in table {
            assert_eq!(path(&json.replace("GOOD", good)), expected, "{json}");
        }
    }

    #[test]
    fn what_ends_too_soon_or_is_no_json_has_a_path_too() {
        for (json, expected) in [
            ("", "."),
            (r#"{"workers": [{"id": "a"#, "workers[0].id"),
            (r#"{"workers": [{"id"#, "workers[0].id"),
            (r#"{"workers": [{"id": tru"#, "workers[0].id"),
            (r#"{"workers": ]"#, "."),
            ("<html>", "."),
        ] {
            assert_eq!(path(json), expected, "{json}");
        }
        // What nobody reads may be as deep and as long as it likes.
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(path(&format!(r#"{{"other": {deep}, "workers": 1}}"#)), "workers");
        assert_eq!(path(&format!(r#"{{"other": {deep}"#)), "other");
        assert_eq!(path(&format!(r#"{{"other": {}"#, "[".repeat(1_000_000))).len(), super::LONGEST);
        assert_eq!(path(&format!(r#"{{"{}": tru"#, "x".repeat(1_000_000))).len(), super::LONGEST);
    }
}
