//! What goes wrong, on purpose.

use serde_json::{Value, json};
use std::time::Duration;

/// One thing that goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer instead, after the request was left undone.
    Answer {
        /// The status.
        status: u16,
        /// Headers beside the usual ones.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// The answer comes this much later.
    Delay(Duration),
    /// The answer comes once [`World::released`](crate::server::World::released) is set.
    Hold,
    /// The connection is closed without an answer; the request was left undone.
    Drop,
    /// The request is done, and its answer lost.
    LoseAnswer,
    /// The answer's body comes byte by byte, with this pause between bytes.
    SlowBody(Duration),
}

impl Fault {
    /// A Taskcluster error.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), body: error_body(code, message, &Value::Null).to_string() }
    }

    /// A status alone.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: String::new() }
    }

    /// A 200 that is no JSON.
    pub fn garbage() -> Self {
        Self::Answer { status: 200, headers: Vec::new(), body: "<html>not what you asked for</html>".to_owned() }
    }
}

/// Which requests a fault is for, and how often.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `METHOD path` must hold this.
    pub matches: String,
    /// What goes wrong.
    pub fault: Fault,
    /// How many of the requests that match are let through first.
    pub after: usize,
    /// How many then go wrong.
    pub times: usize,
}

impl Rule {
    /// Whether the fault is for this request; counts it.
    pub(crate) fn applies(&mut self, method_and_path: &str) -> bool {
        if !method_and_path.contains(&self.matches) || self.times == 0 {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// A Taskcluster error as the services write it: the message ends with an echo of the request.
pub(crate) fn error_body(code: &str, message: &str, payload: &Value) -> Value {
    let echo = format!("{message}\n\n---\n\n* method:     simulated\n* errorCode:  {code}\n* payload:\n{payload:#}");
    json!({"code": code, "message": echo, "requestInfo": {"method": "simulated", "params": {}, "payload": payload}})
}
