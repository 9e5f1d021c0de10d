//! What comes back: a bounded body, or why there is none, or a refusal in Taskcluster's words.

use crate::error::{Failure, Refusal, RequestInfo};
use crate::tls;
use reqwest::Response;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// An answer may have this many bytes: a worker pool's configuration carries whole files.
pub(crate) const MAX_ANSWER: usize = 64 * 1024 * 1024;

pub(crate) enum BodyError {
    TooLarge,
    Broken(reqwest::Error),
}

/// An answer's body, bounded.
pub(crate) async fn read_body(mut response: Response) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What a call that got no whole answer came to.
pub(crate) fn transport(error: reqwest::Error, timeout: Duration) -> Failure {
    if let Some(problem) = tls::nobody_to_trust(&error) {
        Failure::Request(problem)
    } else if error.is_connect() {
        Failure::Connect(error.without_url().into())
    } else if error.is_timeout() {
        Failure::Timeout(timeout)
    } else {
        Failure::Transport(error.without_url().into())
    }
}

/// Reads a Taskcluster error: `{code, message, requestInfo}`, where a line `---` in the message begins an echo
/// of the request, which may hold secrets.
pub(crate) fn refusal(status: u16, headers: &HeaderMap, body: &[u8], secrets: &[String]) -> Failure {
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let text = |name: &str| document.as_ref().and_then(|document| document.get(name)).and_then(Value::as_str);
    let hide = |text: &str| {
        secrets.iter().fold(text.to_owned(), |text, secret| {
            // Asked first: what is longer than the text is not in it, and to prepare for replacing a long one takes long.
            if text.contains(secret.as_str()) { text.replace(secret.as_str(), "[redacted]") } else { text }
        })
    };
    let message = text("message").map(|message| {
        let own = message.lines().take_while(|line| !line.starts_with("---")).collect::<Vec<_>>().join("\n");
        hide(&own).trim().chars().take(1000).collect()
    });
    let header = |name| headers.get(name).and_then(|value: &reqwest::header::HeaderValue| value.to_str().ok());
    let date = header(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let retry_after = header(RETRY_AFTER).and_then(|value| match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(date.unwrap_or_else(SystemTime::now)).ok(),
    });
    Failure::Status(Refusal {
        status,
        code: text("code").map(|code| hide(code).chars().take(100).collect()),
        message: message.unwrap_or_default(),
        request_info: document.as_ref().and_then(|document| request_info(document.get("requestInfo")?, &hide)),
        retry_after,
        date,
    })
}

/// `requestInfo` without its `payload`, which may hold secrets.
fn request_info(document: &Value, hide: &dyn Fn(&str) -> String) -> Option<RequestInfo> {
    let text = |name: &str| Some(hide(document.get(name)?.as_str()?).chars().take(100).collect());
    let mut params = BTreeMap::new();
    for (name, value) in document.get("params").and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = value.as_str() {
            params.insert(name.clone(), hide(value).chars().take(200).collect());
        }
    }
    Some(RequestInfo { method: text("method")?, params, time: text("time").and_then(|time: String| time.parse().ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_of_the_request_is_not_part_of_the_message() {
        let body = br#"{"code":"InputError","message":"no such pool\n\n---\n\n* payload: canary","requestInfo":{}}"#;
        let failure = refusal(400, &HeaderMap::new(), body, &[]);
        assert_eq!(failure.to_string(), "answered 400 InputError: no such pool");
        let body = br#"{"code":"InputError","message":"your token canary-token is none","requestInfo":{}}"#;
        let failure = refusal(400, &HeaderMap::new(), body, &["canary-token".to_owned()]);
        assert_eq!(failure.to_string(), "answered 400 InputError: your token [redacted] is none");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_services_clock() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Sat, 21 Nov 2026 00:00:00 GMT".parse().unwrap());
        for (value, expected) in [("7", 7), ("Sat, 21 Nov 2026 00:01:00 GMT", 60)] {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            match refusal(429, &headers, b"", &[]) {
                Failure::Status(Refusal { retry_after, .. }) => {
                    assert_eq!(retry_after, Some(Duration::from_secs(expected)));
                }
                other => panic!("{other}"),
            }
        }
    }
}
