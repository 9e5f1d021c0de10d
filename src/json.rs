//! JSON objects.

use serde_json::{Map, Value};

/// An object of these members.
pub fn object<K: Into<String>>(members: impl IntoIterator<Item = (K, Value)>) -> Map<String, Value> {
    of_list(members.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// `collect` sorts what it is given, by code of its own for each kind of iterator: four kilobytes. This is the one.
fn of_list(members: Vec<(String, Value)>) -> Map<String, Value> {
    members.into_iter().collect()
}
