//! How a structured log record reads as text: `textPayload` first, then `key: value` by sorted key, joined by
//! `; `. Strings stand bare, everything else as JSON, and an empty record is `{}`.

use serde_json::{Map, Value};
use std::io::{self, Write};

/// The member that holds a record's main text.
pub const TEXT_PAYLOAD: &str = "textPayload";

/// Writes the record as one text, without a newline at its end.
///
/// # Errors
/// What writing answers; none for a `Vec<u8>`.
pub fn render(record: &Map<String, Value>, out: &mut impl Write) -> io::Result<()> {
    if record.is_empty() {
        return out.write_all(b"{}");
    }
    let mut first = true;
    if let Some(text) = record.get(TEXT_PAYLOAD) {
        write_value(text, out)?;
        first = false;
    }
    // `serde_json::Map` is ordered by key unless a crate in the build asks for insertion order: don't rely on it.
    let mut members: Vec<_> = record.iter().filter(|(key, _)| *key != TEXT_PAYLOAD).collect();
    members.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in members {
        if !first {
            out.write_all(b"; ")?;
        }
        first = false;
        write!(out, "{key}: ")?;
        write_value(value, out)?;
    }
    Ok(())
}

fn write_value(value: &Value, out: &mut impl Write) -> io::Result<()> {
    match value {
        Value::String(text) => out.write_all(text.as_bytes()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            serde_json::to_writer(out, value).map_err(io::Error::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::render;
    use serde_json::json;

    #[test]
    fn records_read_as_the_table_says() {
        let table = [
            (json!({}), "{}"),
            (json!({"textPayload": "hello"}), "hello"),
            (json!({"textPayload": "hello", "b": 1, "a": "x"}), "hello; a: x; b: 1"),
            (json!({"b": [1, null], "a": {"c": true}}), r#"a: {"c":true}; b: [1,null]"#),
            (
                json!({"n": 9_007_199_254_740_993_u64, "m": u64::MAX, "i": i64::MIN}),
                "i: -9223372036854775808; m: 18446744073709551615; n: 9007199254740993",
            ),
            (json!({"textPayload": ""}), ""),
        ];
        for (record, expected) in table {
            let mut text = Vec::new();
            render(record.as_object().unwrap(), &mut text).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }
}
