//! Records the spans of a boot as they come about.

use super::{HELLO, Kind, MOST, Recording, Span, TARGET, VERSION};
use crate::private_file::{self, Durability};
use jiff::Timestamp;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::Context;

/// So long the end of the process waits for a disk that takes the recording slowly.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(1);

/// A recording that is being made, and the file that it goes to. Cheap to clone.
#[derive(Clone)]
pub struct Timeline(Arc<Mutex<State>>);

struct State {
    path: PathBuf,
    began: Instant,
    recording: Recording,
    /// The spans that have not ended, by the subscriber's number.
    open: HashMap<u64, usize>,
    /// Nothing is recorded any more.
    done: bool,
    /// Writes it: a disk may take its time, and nobody waits for that.
    writer: Option<JoinHandle<()>>,
}

impl Timeline {
    /// A recording into this file of what began at `began`.
    pub fn begin(path: PathBuf, began: Instant) -> Self {
        let program = format!("start-worker {}", crate::VERSION);
        let now = Timestamp::now();
        let recording = Recording { version: VERSION, program, began: now, spans: Vec::new() };
        Self(Arc::new(Mutex::new(State { path, began, recording, open: HashMap::new(), done: false, writer: None })))
    }

    /// What of all that happens is recorded.
    pub fn filter() -> FilterFn {
        filter_fn(|metadata| metadata.target() == TARGET)
    }

    /// The end of the process: what there is, is written, unless the worker's hello was the end of it.
    pub fn finish(&self) {
        let writer = {
            let mut state = self.state();
            state.write();
            state.writer.take()
        };
        let began = Instant::now();
        while writer.as_ref().is_some_and(|writer| !writer.is_finished()) && began.elapsed() < LAST_WRITE {
            thread::sleep(LOOK);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends the recording and has it written.
    fn write(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let (path, began, program) = (self.path.clone(), self.recording.began, self.recording.program.clone());
        // They are not needed here any more.
        let spans = std::mem::take(&mut self.recording.spans);
        let recording = Recording { version: VERSION, program, began, spans };
        let write = move || {
            let text = serde_json::to_vec_pretty(&recording).unwrap_or_default();
            match private_file::write(&path, &text, Durability::Fleeting) {
                Ok(()) => tracing::debug!("the boot's timeline is in {}", path.display()),
                Err(error) => tracing::warn!("cannot write the boot's timeline {}: {error}", path.display()),
            }
        };
        self.writer = thread::Builder::new().name("timeline".to_owned()).spawn(write).ok();
    }

    fn now(&self) -> f64 {
        let milliseconds = self.began.elapsed().as_secs_f64() * 1000.0;
        (milliseconds * 1000.0).round() / 1000.0
    }
}

impl<S: Subscriber> Layer<S> for Timeline {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut state = self.state();
        let name = attributes.metadata().name();
        let Some(kind) = Kind::ALL.into_iter().find_map(|(kind, known)| (known == name).then_some(kind)) else {
            return;
        };
        if state.done || state.recording.spans.len() >= MOST {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let inside = if attributes.is_contextual() { context.current_span().id().cloned() } else { None };
        let parent = attributes.parent().cloned().or(inside);
        let parent = parent.and_then(|parent| state.open.get(&parent.into_u64()).copied());
        let what = if fields.method.is_empty() { fields.what } else { format!("{} {}", fields.method, fields.what) };
        let begin = state.now();
        let span = Span { parent, kind, what, status: fields.status, ahead: fields.ahead, begin, end: None, tls: None };
        let index = state.recording.spans.len();
        state.recording.spans.push(span);
        state.open.insert(id.into_u64(), index);
    }

    /// The one event of a timeline: a TLS handshake begins.
    fn on_event(&self, _: &Event<'_>, context: Context<'_, S>) {
        let mut state = self.state();
        let now = state.now();
        let index = context.current_span().id().and_then(|id| state.open.get(&id.into_u64()).copied());
        if let Some(span) = index.and_then(|index| state.recording.spans.get_mut(index)) {
            span.tls.get_or_insert(now);
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut state = self.state();
        let now = state.now();
        let Some(index) = state.open.remove(&id.into_u64()) else { return };
        let Some(span) = state.recording.spans.get_mut(index) else { return };
        span.end = Some(now);
        if span.kind == Kind::Stage && span.what == HELLO {
            state.write();
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        let mut state = self.state();
        let index = state.open.get(&id.into_u64()).copied();
        if let Some(span) = index.and_then(|index| state.recording.spans.get_mut(index)) {
            span.status = fields.status.or(span.status);
        }
    }
}

/// What a span says of itself.
#[derive(Default)]
struct Fields {
    what: String,
    method: String,
    status: Option<u64>,
    ahead: bool,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "what" => value.clone_into(&mut self.what),
            "method" => value.clone_into(&mut self.method),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "status" {
            self.status = Some(value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.ahead = self.ahead || (field.name() == "ahead" && value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
