//! A recording as trace events, which the profilers of browsers open.
//!
//! Source: <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU> (complete events, `ph: X`;
//! times in microseconds).

use super::{Kind, Recording, Span};
use serde_json::{Value, json};

/// The recording as a document of trace events. What overlaps has rows of its own.
pub fn trace_events(recording: &Recording) -> String {
    let mut rows: Vec<f64> = Vec::new();
    let mut row_of: Vec<usize> = Vec::with_capacity(recording.spans.len());
    let mut events = Vec::new();
    for span in &recording.spans {
        let end = span.end.unwrap_or(span.begin);
        // A part of something stands in its row; a request or a step in the first that is free.
        let inside = span.parent.filter(|_| !matches!(span.kind, Kind::Request | Kind::Work));
        let row = inside.and_then(|parent| row_of.get(parent).copied()).unwrap_or_else(|| {
            let free = rows.iter().position(|busy| *busy <= span.begin);
            free.unwrap_or_else(|| {
                rows.push(0.0);
                rows.len() - 1
            })
        });
        if let Some(busy) = rows.get_mut(row) {
            *busy = busy.max(end);
        }
        row_of.push(row);
        events.push(event(&span.name(), span, row, (span.begin, end)));
        if let Some(tls) = span.tls {
            events.push(event("TLS", span, row, (tls, end.max(tls))));
        }
    }
    let document = json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"program": recording.program, "began": recording.began.to_string()},
    });
    format!("{document:#}\n")
}

fn event(name: &str, span: &Span, row: usize, (begin, end): (f64, f64)) -> Value {
    let mut arguments = json!({});
    if let Some(status) = span.status {
        arguments["status"] = status.into();
    }
    if span.end.is_none() {
        arguments["unfinished"] = true.into();
    }
    json!({
        "name": name, "cat": span.kind.name(), "ph": "X", "pid": 1, "tid": row + 1,
        "ts": (begin * 1000.0).round(), "dur": ((end - begin) * 1000.0).round(), "args": arguments,
    })
}
