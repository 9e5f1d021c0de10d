//! Taskcluster's references and JSON schemas, where they lie beside the project; and documents made from them.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const BASE: &str = "https://taskcluster.invalid/schemas/";

/// References and schemas.
pub struct Schemas {
    folder: PathBuf,
    /// By service and name, such as `worker-manager/v1/worker-full`.
    documents: BTreeMap<String, Value>,
    validators: BTreeMap<String, jsonschema::Validator>,
}

/// How much of what a schema allows a document has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// What is required, as short as it may be.
    Required,
    /// Every property.
    All,
    /// Every property, as long or large as it may be, and more where more is allowed.
    Maximal,
    /// Anything between, by chance.
    Some,
}

impl Schemas {
    /// The data beside the project; none where they aren't there, which is said.
    pub fn load() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/schemas");
        if !folder.is_dir() {
            eprintln!("SKIPPED: {} is not there, so nothing is compared with Taskcluster's schemas", folder.display());
            return None;
        }
        let mut schemas = BTreeMap::new();
        for service in ["worker-manager/v1", "secrets/v1"] {
            for entry in fs::read_dir(folder.join("schemas").join(service)).unwrap() {
                let path = entry.unwrap().path();
                let name = format!("{service}/{}", path.file_stem().unwrap().to_str().unwrap());
                let mut schema: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                schema["$id"] = format!("{BASE}{name}.json").into();
                // Theirs is draft 6 with more rules for those who write schemas.
                schema["$schema"] = "http://json-schema.org/draft-06/schema#".into();
                schemas.insert(name, schema);
            }
        }
        let registry = jsonschema::Registry::new()
            .extend(schemas.iter().map(|(name, schema)| (format!("{BASE}{name}.json"), schema.clone())))
            .unwrap()
            .prepare()
            .unwrap();
        let validator = |(name, schema): (&String, &Value)| {
            let options = jsonschema::options().with_registry(&registry).should_validate_formats(true);
            (name.clone(), options.build(schema).unwrap_or_else(|error| panic!("{name}: {error}")))
        };
        let validators = schemas.iter().map(validator).collect();
        Some(Self { folder, documents: schemas, validators })
    }

    /// Every schema's name.
    pub fn names(&self) -> std::collections::BTreeSet<String> {
        self.documents.keys().cloned().collect()
    }

    /// The entries of a service's reference.
    pub fn reference(&self, service: &str) -> Vec<Value> {
        let path = self.folder.join("references").join(service).join("v1/api.json");
        let reference: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        reference["entries"].as_array().unwrap().clone()
    }

    /// What is wrong with a document by this schema.
    pub fn problems(&self, name: &str, document: &Value) -> Vec<String> {
        let errors = self.validators[name].iter_errors(document);
        errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    /// Panics where a document is not as this schema says.
    #[track_caller]
    pub fn assert_valid(&self, name: &str, document: &Value) {
        let problems = self.problems(name, document);
        assert!(problems.is_empty(), "{name}: {problems:?} in {document:#}");
    }

    /// A document that this schema allows; the same for the same seed.
    pub fn document(&self, name: &str, amount: Amount, seed: u8) -> Value {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let mut maker = Maker { schemas: self, amount, runner: TestRunner::new_with_rng(Config::default(), rng) };
        maker.value(name, &self.documents[name])
    }
}

struct Maker<'a> {
    schemas: &'a Schemas,
    amount: Amount,
    runner: TestRunner,
}

impl Maker<'_> {
    fn pick(&mut self, below: u32) -> u32 {
        (0..below).new_tree(&mut self.runner).unwrap().current()
    }

    /// A value; `file` is the schema's file, to which references are relative.
    fn value(&mut self, file: &str, schema: &Value) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let (other, pointer) = reference.split_once('#').unwrap();
            let file = match other.strip_suffix(".json") {
                Some(other) => format!("{}/{other}", file.rsplit_once('/').unwrap().0),
                None => file.to_owned(),
            };
            let schema = self.schemas.documents[&file].pointer(pointer).unwrap().clone();
            return self.value(&file, &schema);
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        for list in ["enum", "oneOf", "anyOf"] {
            if let Some(choices) = schema[list].as_array() {
                let last = u32::try_from(choices.len()).unwrap();
                let at = match self.amount {
                    Amount::Required => 0,
                    Amount::All | Amount::Some => self.pick(last),
                    Amount::Maximal => last - 1,
                };
                let choice = &choices[at as usize];
                return if list == "enum" { choice.clone() } else { self.value(file, choice) };
            }
        }
        match schema["type"].as_str().unwrap() {
            "object" => self.object(file, schema),
            "array" => {
                let count = match self.amount {
                    Amount::Required => 0,
                    Amount::All => 1,
                    Amount::Maximal => 5,
                    Amount::Some => self.pick(4),
                };
                let mut items: Vec<Value> = Vec::new();
                for _ in 0..count {
                    let item = self.value(file, &schema["items"]);
                    if !items.contains(&item) {
                        items.push(item);
                    }
                }
                items.into()
            }
            "string" => self.text(schema).into(),
            "boolean" => (self.pick(2) == 0).into(),
            "integer" | "number" => {
                let least = schema["minimum"].as_i64().unwrap_or(0);
                let most = schema["maximum"].as_i64().unwrap_or(9_007_199_254_740_991);
                match self.amount {
                    Amount::Required => least.into(),
                    Amount::Maximal => most.into(),
                    Amount::All | Amount::Some => (least + i64::from(self.pick(900))).into(),
                }
            }
            other => panic!("{file} has a type {other}"),
        }
    }

    fn object(&mut self, file: &str, schema: &Value) -> Value {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut object = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let wanted = match self.amount {
                Amount::Required => false,
                Amount::All | Amount::Maximal => true,
                Amount::Some => self.pick(2) == 0,
            };
            if wanted || required.contains(&name.as_str()) {
                object.insert(name.clone(), self.value(file, property));
            }
        }
        if self.amount == Amount::Maximal && schema["additionalProperties"] != json!(false) {
            object.insert("anything".to_owned(), json!({"nested": [1, 2.5, null, {"ä": true}], "large": u64::MAX}));
        }
        object.into()
    }

    fn text(&mut self, schema: &Value) -> String {
        match schema["format"].as_str() {
            Some("date-time") => return format!("20{:02}-11-21T10:20:30.{:03}Z", self.pick(100), self.pick(1000)),
            Some("email") => return format!("owner-{}@example.com", self.pick(1000)),
            Some(other) => panic!("a format {other}"),
            None => {}
        }
        let least = schema["minLength"].as_u64().unwrap_or(0);
        let most = schema["maxLength"].as_u64().unwrap_or(64);
        let (least, most) = match self.amount {
            Amount::Required => (least, least.max(1)),
            Amount::Maximal => (most, most),
            Amount::All | Amount::Some => (least, most.min(64)),
        };
        let Some(pattern) = schema["pattern"].as_str() else {
            let length = least + u64::from(self.pick(u32::try_from(most - least + 1).unwrap()));
            return (0..length).map(|at| if at % 7 == 3 { 'ä' } else { char::from(b'a' + (at % 26) as u8) }).collect();
        };
        // The generator knows no anchors, and the length is said beside the pattern.
        let length = format!("{{{},{most}}}", least.max(1));
        let pattern = pattern.trim_start_matches('^').trim_end_matches('$').replace(['*', '+'], &length);
        let strategy = proptest::string::string_regex(&pattern).unwrap();
        strategy.new_tree(&mut self.runner).unwrap().current()
    }
}
