//! Layers of worker configuration, and the one law by which they merge: objects merge, arrays concatenate,
//! everything else is replaced, and the later layer wins. Every leaf remembers its layer.
//!
//! Pure: no files, no clock, no network.

use crate::json::object;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// What stands where a secret was.
pub const REDACTED: &str = "[redacted]";

/// Where a layer came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// `workerConfig` in the runner config.
    RunnerConfig,
    /// The worker pool's configuration, in the answer to `registerWorker`.
    Registration,
    /// The secret of that name.
    Secret(String),
    /// A run that the Go program had kept: what came from where is not known.
    GoCache,
    /// What the runner itself tells the worker of the machine.
    Driver,
    /// The secret part of the worker's credentials.
    Credentials,
}

impl Source {
    /// Whether its values may be shown.
    pub const fn is_secret(&self) -> bool {
        match self {
            Self::Secret(_) | Self::GoCache | Self::Credentials => true,
            Self::RunnerConfig | Self::Registration | Self::Driver => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunnerConfig => f.write_str("runner config"),
            Self::Registration => f.write_str("worker pool"),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::GoCache => f.write_str("cache of the Go program"),
            Self::Driver => f.write_str("start-worker"),
            Self::Credentials => f.write_str("credentials"),
        }
    }
}

/// One source's share of the worker's configuration.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Where it came from.
    pub source: Source,
    /// What it says.
    pub config: Map<String, Value>,
}

/// Without values: they may be secret.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("source", &self.source).field("keys", &self.config.keys()).finish()
    }
}

/// Merged layers.
#[derive(Debug, Clone, PartialEq)]
pub enum Merged {
    /// An object, merged member by member.
    Object(BTreeMap<String, Merged>),
    /// An array, element after element of every layer that has one.
    Array(Vec<Merged>),
    /// Anything else, and the layer that it came from.
    Leaf {
        /// The value: no object, no array.
        value: Value,
        /// Its layer.
        source: Source,
    },
}

impl Merged {
    /// Nothing yet.
    pub fn empty() -> Self {
        Self::Object(BTreeMap::new())
    }

    /// All of these, the lowest first.
    pub fn of<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Self {
        layers.into_iter().fold(Self::empty(), Self::under)
    }

    /// This, with one more layer over it.
    #[must_use]
    pub fn under(self, layer: &Layer) -> Self {
        merge(self, from_object(&layer.config, &layer.source))
    }

    /// The configuration, with every leaf of a secret layer replaced.
    pub fn to_redacted_value(&self) -> Value {
        match self {
            Self::Object(members) => {
                object(members.iter().map(|(key, member)| (key, member.to_redacted_value()))).into()
            }
            Self::Array(elements) => elements.iter().map(Self::to_redacted_value).collect(),
            Self::Leaf { source, .. } if source.is_secret() => REDACTED.into(),
            Self::Leaf { value, .. } => value.clone(),
        }
    }

    /// The configuration, without its sources.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Object(members) => object(members.iter().map(|(key, member)| (key, member.to_value()))).into(),
            Self::Array(elements) => elements.iter().map(Self::to_value).collect(),
            Self::Leaf { value, .. } => value.clone(),
        }
    }
}

fn from_object(object: &Map<String, Value>, source: &Source) -> Merged {
    Merged::Object(object.iter().map(|(key, value)| (key.clone(), from_value(value, source))).collect())
}

fn from_value(value: &Value, source: &Source) -> Merged {
    match value {
        Value::Object(object) => from_object(object, source),
        Value::Array(elements) => Merged::Array(elements.iter().map(|element| from_value(element, source)).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Merged::Leaf { value: value.clone(), source: source.clone() }
        }
    }
}

/// The law.
fn merge(lower: Merged, upper: Merged) -> Merged {
    match (lower, upper) {
        (Merged::Object(mut lower), Merged::Object(upper)) => {
            for (key, value) in upper {
                let merged = match lower.remove(&key) {
                    Some(below) => merge(below, value),
                    None => value,
                };
                lower.insert(key, merged);
            }
            Merged::Object(lower)
        }
        (Merged::Array(mut lower), Merged::Array(upper)) => {
            lower.extend(upper);
            Merged::Array(lower)
        }
        (Merged::Object(_) | Merged::Array(_) | Merged::Leaf { .. }, upper) => upper,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn layer(source: Source, config: &Value) -> Layer {
        Layer { source, config: config.as_object().unwrap().clone() }
    }

    #[test]
    fn objects_merge_arrays_concatenate_and_the_rest_is_replaced() {
        let lower =
            layer(Source::RunnerConfig, &json!({"o": {"a": 1, "b": 2}, "l": [1], "x": 1, "y": [1], "keep": null}));
        let upper = layer(Source::Registration, &json!({"o": {"b": 3, "c": 4}, "l": [2], "x": {"z": 1}, "y": null}));
        let merged = Merged::of([&lower, &upper]);
        assert_eq!(
            merged.to_value(),
            json!({"o": {"a": 1, "b": 3, "c": 4}, "l": [1, 2], "x": {"z": 1}, "y": null, "keep": null})
        );
        let Merged::Object(members) = &merged else { panic!() };
        let Merged::Object(inner) = &members["o"] else { panic!() };
        assert!(matches!(&inner["a"], Merged::Leaf { source: Source::RunnerConfig, .. }));
        assert!(matches!(&inner["b"], Merged::Leaf { source: Source::Registration, .. }));
    }

    fn object() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        proptest::collection::btree_map("[a-d]", value, 0..4).prop_map(|map| map.into_iter().collect())
    }

    /// The law again, over plain values, in the shortest way to write it down.
    fn model(lower: &Value, upper: &Value) -> Value {
        match (lower, upper) {
            (Value::Object(lower), Value::Object(upper)) => {
                let mut result = lower.clone();
                for (key, value) in upper {
                    let below = lower.get(key);
                    result.insert(key.clone(), below.map_or_else(|| value.clone(), |below| model(below, value)));
                }
                Value::Object(result)
            }
            (Value::Array(lower), Value::Array(upper)) => lower.iter().chain(upper).cloned().collect(),
            (_, upper) => upper.clone(),
        }
    }

    proptest! {
        #[test]
        fn merging_follows_the_law(a in object(), b in object(), c in object()) {
            let layers = [
                Layer { source: Source::RunnerConfig, config: a.clone() },
                Layer { source: Source::Registration, config: b.clone() },
                Layer { source: Source::Secret("s".into()), config: c.clone() },
            ];
            let (a, b, c) = (Value::Object(a), Value::Object(b), Value::Object(c));
            let merged = Merged::of(&layers).to_value();
            prop_assert_eq!(merged, model(&model(&a, &b), &c));
        }

        #[test]
        fn one_layer_is_itself_and_an_empty_one_changes_nothing(a in object()) {
            let layer = Layer { source: Source::RunnerConfig, config: a.clone() };
            let empty = Layer { source: Source::Registration, config: Map::new() };
            prop_assert_eq!(Merged::of([&layer]).to_value(), Value::Object(a));
            prop_assert_eq!(Merged::of([&empty, &layer, &empty]), Merged::of([&layer]));
        }
    }
}
