//! The endpoints are those of the references, and each method makes its endpoint's request.

use crate::schemas::{Amount, Schemas};
use crate::server::{Answer, Asked, Server};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use taskcluster_api::endpoint::{self, Endpoint, Service};
use taskcluster_api::worker_manager::{Archived, QueueWorkerFilter, WorkerFilter, WorkerPoolErrorFilter};
use taskcluster_api::{
    ApiError, Client, List, PageBody, ReportWorkerError, Secrets, WorkerManager, WorkerName, WorkerState,
};

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn schema(name: Option<&str>) -> Value {
    name.map_or(Value::Null, |name| format!("v1/{name}.json#").into())
}

#[test]
fn the_endpoints_are_those_of_the_references() {
    let Some(schemas) = Schemas::load() else { return };
    let mut entries = 0;
    for service in [Service::WorkerManager, Service::Secrets] {
        let reference: BTreeMap<String, Value> = schemas
            .reference(service.as_str())
            .into_iter()
            .map(|entry| (entry["name"].as_str().unwrap().to_owned(), entry))
            .collect();
        let ours: BTreeMap<String, &Endpoint> = endpoint::ALL
            .into_iter()
            .filter(|endpoint| endpoint.service == service)
            .map(|endpoint| (endpoint.name.to_owned(), endpoint))
            .collect();
        assert!(reference.keys().eq(ours.keys()), "{:?} and {:?}", reference.keys(), ours.keys());
        for (name, entry) in &reference {
            let endpoint = ours[name];
            assert_eq!(endpoint.method.as_str().to_lowercase(), entry["method"], "{name}");
            assert_eq!(endpoint.route, entry["route"], "{name}");
            assert_eq!(json!(endpoint.arguments().collect::<Vec<_>>()), entry["args"], "{name}");
            let query: BTreeSet<String> = endpoint.query.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(query, texts(&entry["query"]), "{name}");
            let scopes = match &entry["scopes"] {
                Value::Null => BTreeSet::new(),
                Value::String(scope) => BTreeSet::from([scope.clone()]),
                more => texts(&more["AllOf"]),
            };
            assert_eq!(
                endpoint.scopes.iter().map(|&scope| scope.to_owned()).collect::<BTreeSet<_>>(),
                scopes,
                "{name}"
            );
            assert_eq!(schema(endpoint.input), entry["input"], "{name}");
            assert_eq!(schema(endpoint.output), entry["output"], "{name}");
            entries += 1;
        }
    }
    println!("{entries} entries");
    assert_eq!(entries, 35);
}

/// Every argument that can be given is given.
#[tokio::test]
async fn every_method_makes_the_request_of_its_entry() {
    let Some(schemas) = Schemas::load() else { return };
    let schemas = Arc::new(schemas);
    let shared = Arc::clone(&schemas);
    let server = Server::start(move |_, asked| answer(&shared, asked)).await;
    let client = server.client();
    let mut called = 0;
    for endpoint in endpoint::ALL {
        let inputs = Inputs { schemas: &schemas, endpoint };
        call(&client, &inputs).await.unwrap_or_else(|error| panic!("{endpoint}: {error}: {}", error.failure));
        let asked = server.asked().pop().unwrap();
        assert_eq!(asked.method, endpoint.method.as_str(), "{endpoint}");
        let values = ["workerPoolId", "workerGroup", "workerId", "provisionerId", "workerType", "name"];
        let given = ["proj-x/ci", "rack-1", "m-1", "proj-x", "ci", "project/x"];
        let arguments: Vec<&str> = endpoint
            .arguments()
            .map(|argument| given[values.iter().position(|value| *value == argument).unwrap()])
            .collect();
        assert_eq!(asked.path, endpoint.path(&arguments), "{endpoint}");
        let query: BTreeSet<&str> = asked.query.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(query, endpoint.query.iter().copied().collect(), "{endpoint}");
        assert_eq!(asked.authorization.is_some(), !endpoint.scopes.is_empty(), "{endpoint}");
        match endpoint.input {
            Some(input) => schemas.assert_valid(&inputs.name(input), &asked.body),
            None => assert_eq!(asked.body, Value::Null, "{endpoint}"),
        }
        called += 1;
    }
    println!("{called} methods");
}

/// What the reference promises of this entry's answer.
fn answer(schemas: &Schemas, asked: &Asked) -> Answer {
    let fits = |endpoint: &&&Endpoint| {
        endpoint.method.as_str() == asked.method && endpoint.arguments_of(&asked.path).is_some()
    };
    let endpoint = endpoint::ALL.iter().find(fits).unwrap();
    let name = endpoint.output.map(|output| format!("{}/v1/{output}", endpoint.service.as_str()));
    let mut document = name.map_or(json!({"version": "v106.0.0"}), |name| schemas.document(&name, Amount::All, 7));
    // Else the list would go on.
    document.as_object_mut().unwrap().remove("continuationToken");
    Answer::json(200, &document)
}

struct Inputs<'a> {
    schemas: &'a Schemas,
    endpoint: &'static Endpoint,
}

impl Inputs<'_> {
    fn name(&self, schema: &str) -> String {
        format!("{}/v1/{schema}", self.endpoint.service.as_str())
    }

    /// A request as full as it can be, through the type that it has.
    fn full<T: serde::de::DeserializeOwned + Serialize>(&self) -> T {
        let document = self.schemas.document(&self.name(self.endpoint.input.unwrap()), Amount::Maximal, 3);
        serde_json::from_value(document).unwrap()
    }
}

async fn list<B: PageBody>(list: List<B>) -> Result<(), ApiError> {
    list.limit(7).after(Some("a token".to_owned())).page().await.map(drop)
}

/// Calls the method of an entry. A method that is missing here, or an entry without one, doesn't pass.
async fn call(client: &Client, inputs: &Inputs<'_>) -> Result<(), ApiError> {
    let wm = WorkerManager::new(client.clone());
    let secrets = Secrets::new(client.clone());
    let worker = WorkerName {
        worker_pool_id: "proj-x/ci".parse().unwrap(),
        worker_group: "rack-1".parse().unwrap(),
        worker_id: "m-1".parse().unwrap(),
    };
    let pool = &worker.worker_pool_id;
    let (launch, state) = ("lc-1".parse().ok(), Some(WorkerState::Running));
    let report = || ReportWorkerError {
        kind: "boot-failed".to_owned(),
        title: "t".repeat(200),
        description: "d".repeat(20_000),
        extra: serde_json::Map::new(),
    };
    match (inputs.endpoint.service, inputs.endpoint.name) {
        (Service::WorkerManager, "ping") => wm.ping().await,
        (Service::WorkerManager, "lbheartbeat") => wm.lbheartbeat().await,
        (Service::WorkerManager, "heartbeat") => wm.heartbeat().await,
        (Service::WorkerManager, "version") => wm.version().await.map(drop),
        (Service::WorkerManager, "listProviders") => list(wm.list_providers()).await,
        (Service::WorkerManager, "createWorkerPool") => wm.create_worker_pool(pool, &inputs.full()).await.map(drop),
        (Service::WorkerManager, "updateWorkerPool") => wm.update_worker_pool(pool, &inputs.full()).await.map(drop),
        (Service::WorkerManager, "deleteWorkerPool") => wm.delete_worker_pool(pool).await.map(drop),
        (Service::WorkerManager, "workerPool") => wm.worker_pool(pool).await.map(drop),
        (Service::WorkerManager, "listWorkerPools") => list(wm.list_worker_pools()).await,
        (Service::WorkerManager, "listWorkerPoolLaunchConfigs") => {
            list(wm.list_worker_pool_launch_configs(pool, Archived::Included)).await
        }
        (Service::WorkerManager, "workerPoolStats") => wm.worker_pool_stats(pool).await.map(drop),
        (Service::WorkerManager, "listWorkerPoolsStats") => list(wm.list_worker_pools_stats()).await,
        (Service::WorkerManager, "reportWorkerError") => wm.report_worker_error(&worker, report()).await.map(drop),
        (Service::WorkerManager, "workerPoolErrorStats") => wm.worker_pool_error_stats(Some(pool)).await.map(drop),
        (Service::WorkerManager, "listWorkerPoolErrors") => {
            let error_id = "fN1SbArXTPSVFNUvaOlinQ".parse().ok();
            list(wm.list_worker_pool_errors(pool, WorkerPoolErrorFilter { launch_config_id: launch, error_id })).await
        }
        (Service::WorkerManager, "listWorkersForWorkerPool") => {
            list(wm.list_workers_for_worker_pool(pool, WorkerFilter { launch_config_id: launch, state })).await
        }
        (Service::WorkerManager, "listWorkersForWorkerGroup") => {
            list(wm.list_workers_for_worker_group(pool, &worker.worker_group)).await
        }
        (Service::WorkerManager, "worker") => wm.worker(&worker).await.map(drop),
        (Service::WorkerManager, "createWorker") => wm.create_worker(&worker, &inputs.full()).await.map(drop),
        (Service::WorkerManager, "updateWorker") => wm.update_worker(&worker, &inputs.full()).await.map(drop),
        (Service::WorkerManager, "removeWorker") => wm.remove_worker(&worker).await,
        (Service::WorkerManager, "shouldWorkerTerminate") => wm.should_worker_terminate(&worker).await.map(drop),
        (Service::WorkerManager, "registerWorker") => wm.register_worker(&inputs.full()).await.map(drop),
        (Service::WorkerManager, "reregisterWorker") => wm.reregister_worker(&inputs.full()).await.map(drop),
        (Service::WorkerManager, "listWorkers") => {
            let filter = QueueWorkerFilter { launch_config_id: launch, quarantined: Some(true), state };
            list(wm.list_workers(pool, filter)).await
        }
        (Service::WorkerManager, "getWorker") => wm.get_worker(&worker).await.map(drop),
        (Service::Secrets, "ping") => secrets.ping().await,
        (Service::Secrets, "lbheartbeat") => secrets.lbheartbeat().await,
        (Service::Secrets, "heartbeat") => secrets.heartbeat().await,
        (Service::Secrets, "version") => secrets.version().await.map(drop),
        (Service::Secrets, "set") => secrets.set("project/x", &inputs.full()).await,
        (Service::Secrets, "remove") => secrets.remove("project/x").await,
        (Service::Secrets, "get") => secrets.get("project/x").await.map(drop),
        (Service::Secrets, "list") => list(secrets.list()).await,
        (service, name) => panic!("{} {name} has no method", service.as_str()),
    }
}
