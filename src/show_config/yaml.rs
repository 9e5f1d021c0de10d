//! JSON as YAML that people like to read.

use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt::Write as _;

/// A key may have 1024 characters where nothing says that one begins.
const LONGEST_KEY: usize = 1000;

/// A document in block style. A text is quoted, as in JSON, unless every reader of YAML takes it for that text.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    node(value, 0, &mut out);
    out
}

/// Writes a value at the place that was reached; its further lines are indented so far.
fn node(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => object(members, indent, out),
        Value::Array(elements) if !elements.is_empty() => {
            for (index, element) in elements.iter().enumerate() {
                let before = if index > 0 { indent } else { 0 };
                let _ = write!(out, "{:before$}- ", "");
                node(element, indent + 2, out);
            }
        }
        Value::String(text) => {
            out.push_str(&scalar(text));
            out.push('\n');
        }
        Value::Number(number) => {
            let _ = writeln!(out, "{}", float_of_old(&number.to_string()));
        }
        Value::Null | Value::Bool(_) | Value::Object(_) | Value::Array(_) => {
            let _ = writeln!(out, "{value}");
        }
    }
}

fn object(members: &Map<String, Value>, indent: usize, out: &mut String) {
    for (index, (key, value)) in members.iter().enumerate() {
        let before = if index > 0 { indent } else { 0 };
        let key = scalar(key);
        let _ = match key.chars().count() <= LONGEST_KEY {
            true => write!(out, "{:before$}{key}:", ""),
            false => write!(out, "{:before$}? {key}\n{:indent$}:", "", ""),
        };
        let is_block = match value {
            Value::Object(members) => !members.is_empty(),
            Value::Array(elements) => !elements.is_empty(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        };
        let below = indent + 2;
        let _ = if is_block { write!(out, "\n{:below$}", "") } else { write!(out, " ") };
        node(value, below, out);
    }
}

fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    // YAML has JSON's escapes, and wants them for more: what is not printable.
    let mut quoted = String::new();
    for c in Value::from(text).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted
}

/// A number as YAML 1.1 reads it too: with an exponent, it wants a point and the exponent's sign.
fn float_of_old(number: &str) -> Cow<'_, str> {
    let Some((digits, exponent)) = number.split_once('e') else { return number.into() };
    let point = if digits.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{digits}{point}e{sign}{exponent}").into()
}

/// Words, names, paths and URLs that begin with a letter or a slash, and are neither a truth value nor nothing in any
/// version of YAML.
fn is_plain(text: &str) -> bool {
    let others = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:@ ".contains(c))
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !others.iter().any(|other| text.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::document;
    use crate::runner_config::parse_mapping;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const LONG: &str = "  numbers:
    - 1.0e+100
    - 1.5e-7
    - -2.0e+300
    - 1.0e+16
    - 0.5
    - 7
";

    #[test]
    fn it_reads_like_yaml() {
        let value = json!({
            "a": {"b": [1, [2.5, null], {"c": "x y", "d": {}}], "e": []},
            "rootURL": "https://tc.example.com:8080",
            "path": "/usr/bin/x",
            "quoted": ["", "yes", "Null", "1", "-", "a: b", "a:", "a #b", " a", "a\n\tb", "é", "\u{85}\u{7f}"],
            "true": true,
            "x".repeat(1001): {"numbers": [1e100, 1.5e-7, -2e300, 1e16, 0.5, 7]},
        });
        let expected = r#"a:
  b:
    - 1
    - - 2.5
      - null
    - c: x y
      d: {}
  e: []
path: /usr/bin/x
quoted:
  - ""
  - "yes"
  - "Null"
  - "1"
  - "-"
  - "a: b"
  - "a:"
  - "a #b"
  - " a"
  - "a\n\tb"
  - "é"
  - "\u0085\u007f"
rootURL: https://tc.example.com:8080
"true": true
"#;
        let expected = format!("{expected}? {}\n:\n{LONG}", "x".repeat(1001));
        assert_eq!(document(&value), expected);
        assert_eq!(parse_mapping(&expected).map(Value::Object), Ok(value));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = "[a-c:#' \\-\\\\\"]{0,6}|.{0,8}|[yntfo][a-z]{0,4}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Whole ones are read as integers.
            any::<f64>().prop_filter("whole", |float| float.fract() != 0.0).prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(text, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_back_as_it_was(value in any_value()) {
            let value = json!({"value": value});
            let text = document(&value);
            prop_assert_eq!(parse_mapping(&text).map(Value::Object), Ok(value), "{}", text);
        }
    }
}
