//! Times as the services write them: RFC 3339, with milliseconds where we write.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes a time. Used by `#[serde(with)]`.
pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

/// Reads a time, of which the far end of the calendar means "never".
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom("this is no time"))
}

/// The same for a time that may be missing.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Error, Serializer, Timestamp, parse};

    #[allow(clippy::ref_option)] // serde's form
    pub(crate) fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| D::Error::custom("this is no time"))
    }
}

/// Any date-time of RFC 3339, and nothing else. What is beyond our calendar's end is its end; more digits than
/// nanoseconds are cut.
fn parse(text: &str) -> Option<Timestamp> {
    if !is_date_time(text) {
        return None;
    }
    let parsed = text.parse().ok();
    parsed.or_else(|| shortened(text)?.parse().ok()).or_else(|| text.starts_with("9999-12-3").then_some(Timestamp::MAX))
}

/// Whether it has the form of RFC 3339, section 5.6.
fn is_date_time(text: &str) -> bool {
    let is = |text: &str, form: &str| {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                b'T' => byte == b'T' || byte == b't',
                b'+' => byte == b'+' || byte == b'-',
                other => byte == other,
            })
    };
    let Some((time, rest)) = text.split_at_checked(19) else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let has_digits = rest.len() - zone.len() != 1;
    is(time, "0000-00-00T00:00:00") && has_digits && (matches!(zone, "Z" | "z") || is(zone, "+00:00"))
}

/// The text with nine digits of the second's fraction at most.
fn shortened(text: &str) -> Option<String> {
    let (before, after) = text.split_once('.')?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let (fraction, zone) = after.split_at_checked(digits)?;
    Some(format!("{before}.{}{zone}", fraction.get(..9).unwrap_or(fraction)))
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

    #[test]
    fn what_only_looks_like_a_time_is_none() {
        for text in [
            "9999-12-3 nonsense",
            "2099-01-01 00:00-04",
            "2099-01-01",
            "2099-01-01T00:00:00",
            "2099-01-01T00:00Z",
            "2099-13-01T00:00:00Z",
            "2099-01-01T00:00:00.Z",
            "2099-01-01T00:00:00+0100",
            "+002099-01-01T00:00:00Z",
            "ä",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn any_form_of_rfc_3339_is_read_and_one_is_written() {
        for (text, expected) in [
            ("2026-11-21T10:20:30Z", "2026-11-21T10:20:30.000Z"),
            ("2026-11-21t10:20:30.5z", "2026-11-21T10:20:30.500Z"),
            ("2026-11-21T12:20:30+02:00", "2026-11-21T10:20:30.000Z"),
            ("2026-11-21T10:20:30.1234567890123456-00:00", "2026-11-21T10:20:30.123Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
        ] {
            let time = parse(text).unwrap_or_else(|| panic!("{text} is a time"));
            assert_eq!(format!("{time:.3}"), expected, "{text}");
        }
    }
}
