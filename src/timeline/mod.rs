//! What a boot's time went into: the line that says so in every log, and, where `--timeline` asks for it, a recording of
//! every request, connection and step, to be drawn by `start-worker timeline`.

mod page;
mod recorder;
mod stages;
mod trace_events;

use crate::cli::TimelineArguments;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use recorder::Timeline;
pub use stages::Stages;
pub use taskcluster_api::TIMELINE as TARGET;

/// The version of the recording's format.
const VERSION: u32 = 1;

/// More parts are not recorded: a boot that goes on for hours, trying.
const MOST: usize = 10_000;

/// Parts of parts of parts: those of a boot are four deep.
const DEEPEST: usize = 32;

/// The last step of a boot: the time from the worker's start to its hello.
pub const HELLO: &str = "hello";

/// A recorded boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recording {
    /// The version of its format.
    version: u32,
    /// Who recorded it.
    program: String,
    /// When start-worker began.
    began: Timestamp,
    /// What took time, in the order in which it began.
    spans: Vec<Span>,
}

/// Something that took time. All times are in milliseconds since start-worker began.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Span {
    /// What it was part of: the index of that span.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<usize>,
    /// What kind of thing.
    kind: Kind,
    /// Which one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    what: String,
    /// The status of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u64>,
    /// Of a connection: whether it was made ahead of its first request.
    #[serde(default, skip_serializing_if = "is_false")]
    ahead: bool,
    begin: f64,
    /// None where it had not ended when the recording was written.
    end: Option<f64>,
    /// Of a connection: when its TLS handshake began.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<f64>,
}

/// What kind of thing took time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A step of the boot.
    Stage,
    /// Work of our own within one.
    Work,
    /// A request, from our wish to its whole answer.
    Request,
    /// A connection: a part of the request that it is made for.
    Connect,
    /// The name service, a part of a connection.
    Dns,
    /// The answer's body, a part of a request.
    Body,
}

impl Kind {
    const ALL: [(Self, &str); 6] = [
        (Self::Stage, "stage"),
        (Self::Work, "work"),
        (Self::Request, "request"),
        (Self::Connect, "connect"),
        (Self::Dns, "dns"),
        (Self::Body, "body"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find_map(|(kind, name)| (kind == self).then_some(name)).unwrap_or_default()
    }
}

impl Span {
    /// For people: what it is, without what all requests share.
    fn name(&self) -> String {
        match self.kind {
            Kind::Stage | Kind::Work => self.what.clone(),
            Kind::Request => {
                match self.what.split_once("://").and_then(|(method, rest)| Some((method, rest.split_once('/')?))) {
                    Some((method, (_, path))) => {
                        format!("{} /{path}", method.trim_end_matches(['h', 't', 'p', 's', ' ']))
                    }
                    None => self.what.clone(),
                }
            }
            Kind::Connect if self.ahead => "connection ahead of its request".to_owned(),
            Kind::Connect | Kind::Dns | Kind::Body => format!("{} {}", self.kind.name(), self.what).trim().to_owned(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's own form")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A recording can't be read or drawn.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// The file can't be read.
    #[error("reading the recording {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("reading {}: it is no recording of a boot ({problem})", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A picture can't be written.
    #[error("writing {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl TimelineError {
    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Form { .. } => {
                "name a file that `start-worker --timeline FILE runner.yml` has written"
            }
            Self::Write { .. } => "name other files with --html and --trace",
        }
    }
}

impl Recording {
    fn read(path: &Path) -> Result<Self, TimelineError> {
        let text = fs::read(path).map_err(|source| TimelineError::Read { path: path.to_owned(), source })?;
        let form = |problem: String| TimelineError::Form { path: path.to_owned(), problem };
        let recording: Self = taskcluster_api::from_json(&text).map_err(|problem| form(problem.to_string()))?;
        if recording.version != VERSION {
            return Err(form(format!("it has the version {}, and this program knows {VERSION}", recording.version)));
        }
        let sound = |(at, span): (usize, &Span)| {
            let times = [Some(span.begin), span.end, span.tls];
            span.parent.is_none_or(|parent| parent < at) && times.into_iter().flatten().all(|time| time >= 0.0)
        };
        if recording.spans.len() > MOST || !recording.spans.iter().enumerate().all(sound) {
            return Err(form("its parts make no whole".to_owned()));
        }
        let mut depths: Vec<usize> = Vec::with_capacity(recording.spans.len());
        for span in &recording.spans {
            depths.push(span.parent.and_then(|parent| depths.get(parent)).map_or(0, |depth| depth + 1));
        }
        if depths.iter().any(|depth| *depth > DEEPEST) {
            return Err(form("its parts lie too deep in one another".to_owned()));
        }
        Ok(recording)
    }
}

/// Draws a recorded boot, as a page and as trace events.
///
/// # Errors
/// Where the recording can't be read or the pictures can't be written.
pub fn draw(arguments: &TimelineArguments) -> Result<Vec<PathBuf>, TimelineError> {
    let recording = Recording::read(&arguments.recording)?;
    let beside = |extension| arguments.recording.with_extension(extension);
    let page = arguments.html.clone().unwrap_or_else(|| beside("html"));
    let trace = arguments.trace.clone().unwrap_or_else(|| beside("trace.json"));
    let pictures = [(page, page::page(&recording)), (trace, trace_events::trace_events(&recording))];
    let read = fs::canonicalize(&arguments.recording).ok();
    if let Some((path, _)) = pictures.iter().find(|(path, _)| read.is_some() && fs::canonicalize(path).ok() == read) {
        let source = io::Error::other("that is the recording itself");
        return Err(TimelineError::Write { path: path.clone(), source });
    }
    for (path, text) in &pictures {
        fs::write(path, text).map_err(|source| TimelineError::Write { path: path.clone(), source })?;
    }
    Ok(pictures.map(|(path, _)| path).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(parent: Option<usize>, kind: Kind, what: &str, begin: f64, end: impl Into<Option<f64>>) -> Span {
        let what = what.to_owned();
        Span { parent, kind, what, status: None, ahead: false, begin, end: end.into(), tls: None }
    }

    fn recording(spans: Vec<Span>) -> Recording {
        let began = "2026-11-21T12:00:00Z".parse().unwrap();
        Recording { version: VERSION, program: "start-worker <test>".to_owned(), began, spans }
    }

    /// A boot with so many requests.
    fn boot(requests: usize) -> Recording {
        let mut spans = vec![span(None, Kind::Stage, "metadata", 0.5, 60.0)];
        for request in 0..requests {
            let index = spans.len();
            let what = format!("GET http://169.254.169.254/a/long/path/{}/{request}?a=<b>&c", "x".repeat(request));
            let begin = f64::from(u32::try_from(request).unwrap());
            spans.push(span(Some(0), Kind::Request, &what, begin, begin + 20.0));
            let connect = Span { tls: Some(begin + 6.0), ..span(Some(index), Kind::Connect, "", begin, begin + 8.0) };
            spans.push(connect);
            spans.push(span(Some(index + 1), Kind::Dns, "host", begin + 0.5, begin + 2.0));
            spans.push(span(Some(index), Kind::Body, "", begin + 18.0, begin + 20.0));
        }
        spans.push(span(None, Kind::Stage, HELLO, 60.0, None));
        recording(spans)
    }

    /// What stands in a picture, with its place and width, a character taken for 7 units.
    fn texts(page: &str) -> Vec<(f64, f64, f64, String)> {
        let mut found = Vec::new();
        for part in page.split("<text").skip(1) {
            let number = |name: &str| {
                let (_, rest) = part.split_once(&format!(" {name}=\"")).unwrap();
                rest.split_once('"').unwrap().0.parse::<f64>().unwrap()
            };
            let (head, rest) = part.split_once('>').unwrap();
            let text =
                rest.split_once("</text>").unwrap().0.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
            let width = f64::from(u32::try_from(text.chars().count()).unwrap()) * 7.0;
            let left = if head.contains("middle") { number("x") - width / 2.0 } else { number("x") };
            found.push((number("y"), left, left + width, text));
        }
        found
    }

    #[test]
    fn no_text_of_a_picture_lies_over_another_or_beyond_its_edge_at_five_rows_and_at_forty() {
        for (requests, end) in [(4, 60.0), (40, 60.0), (40, 900_000.0), (4, 2_345_678.0)] {
            let mut boot = boot(requests);
            boot.spans[0].end = Some(end);
            boot.spans[1].status = Some(404);
            let page = page::page(&boot);
            assert!(page.contains("(404)"));
            let texts = texts(&page);
            assert!(texts.len() > 2 * requests);
            for (at, (y, left, right, text)) in texts.iter().enumerate() {
                assert!(*left >= 0.0 && *right <= 1100.0, "{text} leaves the picture");
                for (other_y, other_left, other_right, other) in &texts[at + 1..] {
                    let apart = (y - other_y).abs() >= 14.0 || right <= other_left || other_right <= left;
                    assert!(apart, "{text:?} and {other:?} lie over each other");
                }
            }
        }
    }

    #[test]
    fn a_page_is_whole_by_itself_and_takes_names_for_text() {
        let page = page::page(&boot(3));
        assert!(page.contains("start-worker &lt;test&gt;") && page.contains("?a=&lt;b&gt;&amp;c"));
        for outside in ["<script", "href=", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("unfinished"));
    }

    #[test]
    fn trace_events_that_overlap_have_rows_of_their_own() {
        let events: serde_json::Value = serde_json::from_str(&trace_events::trace_events(&boot(5))).unwrap();
        let events = events["traceEvents"].as_array().unwrap();
        let requests: Vec<_> = events.iter().filter(|event| event["cat"] == "request").collect();
        assert_eq!(requests.len(), 5);
        let rows: std::collections::BTreeSet<_> = requests.iter().map(|event| event["tid"].as_u64()).collect();
        assert_eq!(rows.len(), 5);
        assert!(events.iter().any(|event| event["name"] == "TLS" && event["dur"] == 2000.0));
    }

    #[test]
    fn the_recording_itself_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.json");
        let text = serde_json::to_string(&boot(1)).unwrap();
        fs::write(&path, &text).unwrap();
        let again = folder.path().join(".").join("boot.json");
        for (html, trace) in [(Some(again.clone()), None), (None, Some(again.clone()))] {
            let arguments = TimelineArguments { recording: path.clone(), html, trace };
            assert!(draw(&arguments).unwrap_err().to_string().contains("boot.json"));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_recording_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.json");
        let mut wrong = boot(1);
        wrong.version = 7;
        let mut circle = boot(1);
        circle.spans[0].parent = Some(3);
        let deep = recording((0..200).map(|at: usize| span(at.checked_sub(1), Kind::Work, "w", 0.0, 1.0)).collect());
        let texts = [
            serde_json::to_string(&deep).unwrap(),
            "provider: {}".to_owned(),
            "{}".to_owned(),
            serde_json::to_string(&wrong).unwrap(),
            serde_json::to_string(&circle).unwrap(),
        ];
        for text in texts {
            fs::write(&path, text).unwrap();
            let arguments = TimelineArguments { recording: path.clone(), html: None, trace: None };
            let error = draw(&arguments).unwrap_err().to_string();
            assert!(error.contains("boot.json: it is no recording of a boot"), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
