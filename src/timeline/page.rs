//! A recording as a page: a waterfall, by itself, to be opened anywhere.

use super::{Kind, Recording, Span};
use std::fmt::Write as _;

const WIDTH: f64 = 1100.0;
/// Where the bars begin: names stand before that.
const LEFT: f64 = 400.0;
/// Behind the bars: the time that each took.
const RIGHT: f64 = 90.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 34.0;
/// Names that are longer are cut in their middle, for both ends tell them apart.
const LONGEST_NAME: usize = 52;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2128; --faint: #57606a; --grid: #e3e7ec; --paper: #ffffff; --stripe: #f6f8fa;
  --stage: #8c959f; --work: #8250df; --wait: #54aeff; --body: #0969da; --dns: #1a7f37; --tcp: #bf8700; --tls: #bc4c00; --hello: #bf3989; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --grid: #2d333b; --paper: #0d1117; --stripe: #151b23;
  --stage: #656c76; --work: #ab7df8; --wait: #388bfd; --body: #79c0ff; --dns: #3fb950; --tcp: #d29922; --tls: #db6d28; --hello: #db61a2; } }
body { background: var(--paper); color: var(--ink); font: 14px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1100px; padding: 0 1rem; }
h1 { font-size: 1.25rem; margin: 0; } p { color: var(--faint); margin: .2rem 0 1rem; }
svg { width: 100%; height: auto; display: block; } text { font: 12px system-ui, sans-serif; fill: var(--ink); } .faint { fill: var(--faint); }
.strong { font-weight: 600; } .grid { stroke: var(--grid); } .stripe { fill: var(--stripe); }
.stage { fill: var(--stage); } .work { fill: var(--work); } .wait { fill: var(--wait); } .body { fill: var(--body); }
.dns { fill: var(--dns); } .tcp { fill: var(--tcp); } .tls { fill: var(--tls); } .hello { fill: var(--hello); }
ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; color: var(--faint); font-size: 12px; }
li i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }";

/// The colours, by what they stand for.
const KEY: [(&str, &str); 8] = [
    ("stage", "a step of the boot"),
    ("dns", "name service"),
    ("tcp", "connection"),
    ("tls", "TLS"),
    ("wait", "waiting for the answer"),
    ("body", "the answer's body"),
    ("work", "work of our own"),
    ("hello", "until the worker says hello"),
];

/// The page.
pub fn page(recording: &Recording) -> String {
    let rows = rows(&recording.spans);
    let last = recording.spans.iter().map(|span| span.end.unwrap_or(span.begin)).fold(1.0, f64::max);
    let x = |time: f64| LEFT + time / last * (WIDTH - LEFT - RIGHT);
    let height = HEAD + ROW * count(rows.len()) + 8.0;
    let mut page = String::new();
    let title = format!("A boot of {last:.0} ms");
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{}, begun at {:.3}; milliseconds</p>\n",
        escaped(&recording.program),
        recording.began
    );
    let _ = writeln!(page, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">");
    for (at, _) in rows.iter().enumerate().filter(|(at, _)| at % 2 == 1) {
        let y = HEAD + ROW * count(at);
        let _ = writeln!(page, "<rect class=\"stripe\" x=\"0\" y=\"{y}\" width=\"{WIDTH}\" height=\"{ROW}\"/>");
    }
    let step = step_of(last);
    let mut tick = 0.0;
    while tick <= last {
        let (x, y) = (x(tick), height - 8.0);
        let _ = writeln!(page, "<path class=\"grid\" d=\"M{x:.1} {}V{y:.1}\"/>", HEAD - 6.0);
        let _ = writeln!(
            page,
            "<text class=\"faint\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            HEAD - 14.0
        );
        tick += step;
    }
    for (at, row) in rows.iter().enumerate() {
        draw_row(row, HEAD + ROW * count(at), &x, last, &mut page);
    }
    page.push_str("</svg>\n<ul>");
    for (class, meaning) in KEY {
        let _ = write!(page, "<li><i style=\"background:var(--{class})\"></i>{meaning}</li>");
    }
    page.push_str("</ul>\n</body></html>\n");
    page
}

/// A line of the picture.
struct Row<'a> {
    span: &'a Span,
    /// How far its name is moved in.
    depth: usize,
    /// What its bar is made of, with the times of each.
    segments: Vec<(&'static str, f64, f64)>,
}

/// Each step, and below it what belongs to it, in the order in which that began.
fn rows(spans: &[Span]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    add_children(spans, None, 0, &mut rows);
    rows
}

fn add_children<'a>(spans: &'a [Span], parent: Option<usize>, depth: usize, rows: &mut Vec<Row<'a>>) {
    for (index, span) in spans.iter().enumerate().filter(|(_, span)| span.parent == parent) {
        // What a request or a connection is made of is in its bar.
        let segments = match span.kind {
            Kind::Stage if span.what == super::HELLO => vec![("hello", span.begin, end_of(span))],
            Kind::Stage => vec![("stage", span.begin, end_of(span))],
            Kind::Work => vec![("work", span.begin, end_of(span))],
            Kind::Request => segments_of_request(spans, index),
            Kind::Connect if span.ahead => segments_of_connection(spans, index),
            Kind::Connect | Kind::Dns | Kind::Body => continue,
        };
        rows.push(Row { span, depth, segments });
        add_children(spans, Some(index), depth + 1, rows);
    }
}

fn children(spans: &[Span], parent: usize) -> impl Iterator<Item = (usize, &Span)> {
    spans.iter().enumerate().filter(move |(_, span)| span.parent == Some(parent))
}

/// What had not ended goes on to the picture's edge.
fn end_of(span: &Span) -> f64 {
    span.end.unwrap_or(f64::INFINITY)
}

fn segments_of_request(spans: &[Span], request: usize) -> Vec<(&'static str, f64, f64)> {
    let span = &spans[request];
    let mut segments = Vec::new();
    let mut from = span.begin;
    for (index, child) in children(spans, request) {
        match child.kind {
            // One that is made ahead is another row; the request waits for it like for an answer.
            Kind::Connect if !child.ahead => {
                segments.extend(segments_of_connection(spans, index));
                from = from.max(end_of(child));
            }
            Kind::Body => {
                segments.push(("wait", from, child.begin));
                segments.push(("body", child.begin, end_of(child)));
                from = end_of(child);
            }
            Kind::Connect | Kind::Stage | Kind::Work | Kind::Request | Kind::Dns => {}
        }
    }
    if from < end_of(span) {
        segments.push(("wait", from, end_of(span)));
    }
    segments
}

fn segments_of_connection(spans: &[Span], connection: usize) -> Vec<(&'static str, f64, f64)> {
    let span = &spans[connection];
    let end = end_of(span);
    let looked_up = children(spans, connection).find(|(_, child)| child.kind == Kind::Dns).map(|(_, child)| child);
    let mut segments = Vec::new();
    let mut from = span.begin;
    if let Some(dns) = looked_up {
        segments.push(("dns", dns.begin, end_of(dns)));
        from = end_of(dns);
    }
    segments.push(("tcp", from, span.tls.unwrap_or(end)));
    segments.extend(span.tls.map(|tls| ("tls", tls, end)));
    segments
}

fn draw_row(row: &Row<'_>, y: f64, x: &dyn Fn(f64) -> f64, last: f64, page: &mut String) {
    let Row { span, depth, segments } = row;
    let (name, middle) = (span.name(), y + ROW / 2.0 + 4.0);
    let indent = 4.0 + 14.0 * count(*depth);
    // What is moved in has less room.
    let shown = shortened(&name, LONGEST_NAME - 2 * depth.min(&10));
    let weight = if span.kind == Kind::Stage { " class=\"strong\"" } else { "" };
    let _ = writeln!(page, "<g><title>{}</title>", escaped(&name));
    let _ = writeln!(page, "<text{weight} x=\"{indent}\" y=\"{middle}\">{}</text>", escaped(&shown));
    for (class, begin, end) in segments {
        let end = end.min(last);
        let (left, width) = (x(*begin), (x(end) - x(*begin)).max(1.0));
        let _ = writeln!(
            page,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\"><title>{class} {:.1} ms</title></rect>",
            y + 4.0,
            ROW - 8.0,
            end - begin
        );
    }
    let taken = match span.end {
        Some(end) => format!("{:.1}", end - span.begin),
        None => "unfinished".to_owned(),
    };
    let status = span.status.filter(|status| *status >= 400).map(|status| format!(" ({status})")).unwrap_or_default();
    let end = x(span.end.unwrap_or(last)) + 5.0;
    let _ = writeln!(page, "<text class=\"faint\" x=\"{end:.1}\" y=\"{middle}\">{taken}{status}</text></g>");
}

/// Between two marks on the axis, so that some eight fit.
fn step_of(last: f64) -> f64 {
    // 1, 2, 5, 10, 20, 50 …
    let mut step = 1.0;
    for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
        if last / step <= 9.0 {
            break;
        }
        step *= factor;
    }
    step
}

/// Cut in its middle.
fn shortened(name: &str, longest: usize) -> String {
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= longest {
        return name.to_owned();
    }
    let (head, tail) = (longest / 2, longest - longest / 2 - 1);
    let begin: String = characters.iter().take(head).collect();
    let end: String = characters.iter().skip(characters.len() - tail).collect();
    format!("{begin}…{end}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
