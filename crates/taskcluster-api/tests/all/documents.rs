//! Every document of the API parses into our types, comes back as it was, and is valid.

use crate::schemas::{Amount, Schemas};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use taskcluster_api::secrets::SecretList;
use taskcluster_api::worker_manager::{
    CreateWorker, CreateWorkerPool, ProviderList, ProviderType, QueueWorkerDetails, QueueWorkerList,
    ReportWorkerErrorRequest, ShouldTerminate, TaskRun, UpdateWorkerPool, WorkerList, WorkerPoolError,
    WorkerPoolErrorList, WorkerPoolErrorStats, WorkerPoolLaunchConfigList, WorkerPoolList, WorkerPoolStats,
    WorkerPoolStatsList,
};
use taskcluster_api::{
    RegisterWorker, Registration, Renewal, ReregisterWorker, Secret, Worker, WorkerPool, WorkerState, from_json,
};

type RoundTrip = fn(&Value) -> Result<Value, String>;

fn through<T: DeserializeOwned + Serialize>(document: &Value) -> Result<Value, String> {
    let read: T = from_json(document.to_string().as_bytes()).map_err(|problem| problem.to_string())?;
    Ok(serde_json::to_value(read).unwrap())
}

/// Each schema that is a whole document, and the type that is it.
pub const TYPES: [(&str, RoundTrip); 26] = [
    ("secrets/v1/secret", through::<Secret>),
    ("secrets/v1/secret-list", through::<SecretList>),
    ("worker-manager/v1/create-worker-pool-request", through::<CreateWorkerPool>),
    ("worker-manager/v1/create-worker-request", through::<CreateWorker>),
    ("worker-manager/v1/list-workers-response", through::<QueueWorkerList>),
    ("worker-manager/v1/provider-list", through::<ProviderList>),
    ("worker-manager/v1/register-worker-request", through::<RegisterWorker>),
    ("worker-manager/v1/register-worker-response", through::<Registration>),
    ("worker-manager/v1/report-worker-error-request", through::<ReportWorkerErrorRequest>),
    ("worker-manager/v1/reregister-worker-request", through::<ReregisterWorker>),
    ("worker-manager/v1/reregister-worker-response", through::<Renewal>),
    ("worker-manager/v1/should-worker-terminate-response", through::<ShouldTerminate>),
    ("worker-manager/v1/task-run", through::<TaskRun>),
    ("worker-manager/v1/update-worker-pool-request", through::<UpdateWorkerPool>),
    ("worker-manager/v1/worker-full", through::<Worker>),
    ("worker-manager/v1/worker-list", through::<WorkerList>),
    ("worker-manager/v1/worker-pool-error", through::<WorkerPoolError>),
    ("worker-manager/v1/worker-pool-error-list", through::<WorkerPoolErrorList>),
    ("worker-manager/v1/worker-pool-error-stats", through::<WorkerPoolErrorStats>),
    ("worker-manager/v1/worker-pool-full", through::<WorkerPool>),
    ("worker-manager/v1/worker-pool-launch-config-list", through::<WorkerPoolLaunchConfigList>),
    ("worker-manager/v1/worker-pool-list", through::<WorkerPoolList>),
    ("worker-manager/v1/worker-pool-list-stats", through::<WorkerPoolStatsList>),
    ("worker-manager/v1/worker-pool-stats", through::<WorkerPoolStats>),
    ("worker-manager/v1/worker-response", through::<QueueWorkerDetails>),
    // The same document once more: a pool that was read is what an update begins with.
    ("worker-manager/v1/worker-pool-full", |document| {
        let pool: WorkerPool = from_json(document.to_string().as_bytes()).map_err(|problem| problem.to_string())?;
        let counts = serde_json::to_value(&pool).unwrap();
        let mut update = serde_json::to_value(UpdateWorkerPool::from(pool)).unwrap();
        for (name, value) in counts.as_object().unwrap().iter().filter(|(name, _)| is_count(name)) {
            update[name] = value.clone();
        }
        Ok(update)
    }),
];

fn is_count(name: &str) -> bool {
    name.ends_with("Count") || name.ends_with("Capacity")
}

/// Whether two documents are the same, 5 and 5.0 being one number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| same(value, other)))
        }
        (one, other) => one == other,
    }
}

#[test]
fn every_document_parses_comes_back_and_is_valid() {
    let Some(schemas) = Schemas::load() else { return };
    let mut documents = 0;
    for (name, round_trip) in TYPES {
        let kinds = [Amount::Required, Amount::All, Amount::Maximal].map(|amount| (amount, 0));
        for (amount, seed) in kinds.into_iter().chain((0..64).map(|seed| (Amount::Some, seed))) {
            let mut document = schemas.document(name, amount, seed);
            schemas.assert_valid(name, &document);
            // An empty certificate is none, and is left out.
            if document.pointer("/credentials/certificate") == Some(&json!("")) {
                document["credentials"].as_object_mut().unwrap().remove("certificate");
            }
            let back = round_trip(&document).unwrap_or_else(|problem| panic!("{name}: {problem} in {document:#}"));
            schemas.assert_valid(name, &back);
            assert!(same(&document, &back), "{name}: {document:#} came back as {back:#}");
            documents += 1;
        }
    }
    println!("{documents} documents of {} schemas", TYPES.len() - 1);
}

#[test]
fn every_schema_that_the_references_name_has_its_type() {
    let Some(schemas) = Schemas::load() else { return };
    let ours: BTreeSet<String> = TYPES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for service in ["worker-manager", "secrets"] {
        for entry in schemas.reference(service) {
            for schema in ["input", "output"].iter().filter_map(|end| entry[end].as_str()) {
                let name = format!("{service}/{}", schema.trim_end_matches('#').trim_end_matches(".json"));
                assert!(ours.contains(&name), "no type for {name}");
            }
        }
    }
}

/// Documents of the pools' own configuration and of the queue, which no entry takes or answers as a whole: here they
/// are members that are passed on as they are.
const NOT_OURS: [&str; 5] = ["config-null", "config-static", "config-testing", "task", "worker-lifecycle"];

#[test]
fn no_schema_is_forgotten() {
    let Some(schemas) = Schemas::load() else { return };
    let ours: BTreeSet<String> = TYPES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let others = NOT_OURS.map(|name| format!("worker-manager/v1/{name}"));
    let all: BTreeSet<String> = ours.into_iter().chain(others).collect();
    assert_eq!(schemas.names(), all);
}

/// A newer service says more, and knows more states: that must not break what is older.
#[test]
fn what_is_new_breaks_nothing() {
    let Some(schemas) = Schemas::load() else { return };
    let answers = TYPES.iter().filter(|(name, _)| !name.ends_with("-request"));
    for (name, round_trip) in answers {
        let mut document = schemas.document(name, Amount::All, 1);
        add_everywhere(&mut document);
        round_trip(&document).unwrap_or_else(|problem| panic!("{name}: {problem} in {document:#}"));
    }
    let mut worker = schemas.document("worker-manager/v1/worker-full", Amount::All, 1);
    worker["state"] = json!("hibernating");
    let worker: Worker = serde_json::from_value(worker).unwrap();
    assert_eq!(worker.state, WorkerState::Other("hibernating".to_owned()));
    assert_eq!(WorkerState::from("running"), WorkerState::Running);
    assert_eq!(serde_json::to_value(ProviderType::from("quantum")).unwrap(), json!("quantum"));
    // An update of a pool keeps what nobody knew when this was written.
    let mut pool = schemas.document("worker-manager/v1/worker-pool-full", Amount::All, 1);
    pool["minimumAge"] = json!({"days": 3});
    let pool: WorkerPool = serde_json::from_value(pool).unwrap();
    let update = serde_json::to_value(UpdateWorkerPool::from(pool)).unwrap();
    assert_eq!(update["minimumAge"], json!({"days": 3}));
    assert!(update.as_object().unwrap().keys().all(|name| !is_count(name)), "{update:#}");
}

fn add_everywhere(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(add_everywhere);
            members.insert("newHere".to_owned(), json!({"a": 1}));
        }
        Value::Array(items) => items.iter_mut().for_each(add_everywhere),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What a service must refuse, our request types refuse too: unknown members, and ids of another form. What an update
/// of a pool doesn't know it keeps.
#[test]
fn requests_are_read_strictly() {
    let Some(schemas) = Schemas::load() else { return };
    for (name, round_trip) in TYPES.iter().filter(|(name, _)| name.ends_with("-request") && !name.contains("update")) {
        let mut document = schemas.document(name, Amount::All, 1);
        document["unheardOf"] = json!(1);
        assert!(!schemas.problems(name, &document).is_empty());
        assert!(round_trip(&document).is_err(), "{name}");
        for id in ["workerPoolId", "workerGroup", "workerId", "providerId"] {
            let mut document = schemas.document(name, Amount::All, 1);
            if document.get(id).is_some() {
                document[id] = json!("no id");
                assert!(round_trip(&document).is_err(), "{name}: {id}");
            }
        }
    }
}
