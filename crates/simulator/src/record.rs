//! What was asked, when, and what came of it.

use serde_json::Value;
use std::time::Instant;

/// One request.
#[derive(Debug, Clone)]
pub struct Record {
    /// The method.
    pub method: String,
    /// The path, as it was sent.
    pub path: String,
    /// When the connection came about that it came over.
    pub connected: Instant,
    /// When it had arrived.
    pub began: Instant,
    /// When its answer began; none while it is under way, or if it was dropped.
    pub ended: Option<Instant>,
    /// The answer's status.
    pub status: Option<u16>,
    /// The body that was sent, if it is JSON.
    pub body: Value,
    /// Whether it is a look for interruption notices, which no boot waits for.
    pub is_poll: bool,
}

impl Record {
    /// `METHOD path`.
    pub fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// How many requests had to wait for one another: the length of the longest chain in which each began after the one
/// before had ended.
pub fn sequential_round_trips(records: &[Record]) -> usize {
    let finished: Vec<(Instant, Instant)> =
        records.iter().filter_map(|record| Some((record.began, record.ended?))).collect();
    let mut depth = vec![0; finished.len()];
    let mut order: Vec<usize> = (0..finished.len()).collect();
    order.sort_by_key(|at| finished[*at].0);
    for at in &order {
        let before = order.iter().filter(|other| finished[**other].1 <= finished[*at].0);
        depth[*at] = 1 + before.map(|other| depth[*other]).max().unwrap_or(0);
    }
    depth.into_iter().max().unwrap_or(0)
}
