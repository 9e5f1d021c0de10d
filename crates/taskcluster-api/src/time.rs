//! Times as the services write them.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error};

/// A time of which the far end of the calendar means "never".
pub(crate) fn clamped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom("this is no time"))
}

/// A time that nothing depends on: what can't be read is none.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_str().and_then(parse))
}

fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| text.starts_with("9999-12-3").then_some(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use jiff::Timestamp;

    #[test]
    fn the_end_of_the_calendar_is_never() {
        assert_eq!(parse("9999-12-31T23:59:59.000Z"), Some(Timestamp::MAX));
        assert!(parse("2999-01-01T00:00:00.000Z").is_some_and(|time| time < Timestamp::MAX));
        assert_eq!(parse("soon"), None);
    }
}
