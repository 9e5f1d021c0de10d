//! Every entry of both references is served; what is answered is as the schemas say, and what they don't allow is
//! refused.

use crate::schemas::{Amount, Schemas};
use serde_json::{Value, json};
use simulator::taskcluster::OPERATOR;
use simulator::{CloudKind, Setup, Simulator};
use std::time::Duration;
use taskcluster_api::endpoint::{self, Endpoint, Method};
use taskcluster_api::{Client, Credentials};

/// A request of any kind, signed by somebody who may do everything.
struct Raw {
    simulator: Simulator,
    http: reqwest::Client,
}

impl Raw {
    fn new() -> Self {
        let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO }).unwrap();
        simulator.world(|world| world.taskcluster.anonymous_scopes.push("*".to_owned()));
        let http = taskcluster_api::plain_http_client().unwrap().build().unwrap();
        Self { simulator, http }
    }

    async fn ask(&self, endpoint: &Endpoint, body: Option<&Value>) -> (u16, Value) {
        let value = |name: &str| match name {
            "workerPoolId" => "proj-simulated/ci",
            "provisionerId" => "proj-simulated",
            "workerType" => "ci",
            "workerGroup" => "rack-1",
            "workerId" => "machine-1",
            _ => "project/x",
        };
        let arguments: Vec<&str> = endpoint.arguments().map(value).collect();
        let url = format!("{}{}", self.simulator.url(), endpoint.path(&arguments));
        let method = match endpoint.method {
            Method::Get => reqwest::Method::GET,
            Method::Put => reqwest::Method::PUT,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }
}

fn schema(endpoint: &Endpoint, name: &str) -> String {
    format!("{}/v1/{name}", endpoint.service.as_str())
}

/// A document of its schema that also makes sense in the simulated deployment.
fn sensible(schemas: &Schemas, endpoint: &Endpoint) -> Option<Value> {
    let mut document = schemas.document(&schema(endpoint, endpoint.input?), Amount::All, 1);
    for (key, value) in [
        ("providerId", json!("static")),
        ("workerPoolId", json!("proj-simulated/ci")),
        ("workerGroup", json!("rack-1")),
        ("workerId", json!("machine-1")),
        ("expires", json!("2999-01-01T00:00:00.000Z")),
        ("workerIdentityProof", json!({"staticSecret": format!("{:_<44}", "canary-static-secret-")})),
        ("secret", json!(format!("{:_<44}", "canary-registration-secret-1-"))),
    ] {
        if document.get(key).is_some_and(|old| old.is_string() == value.is_string()) {
            document[key] = value;
        }
    }
    Some(document)
}

#[tokio::test]
async fn every_entry_is_served_and_answers_as_its_schema_says() {
    let Some(schemas) = Schemas::load() else { return };
    let raw = Raw::new();
    let mut served = 0;
    // What creates comes before what removes, and a registration before its renewal.
    let order = |endpoint: &&Endpoint| match endpoint.name {
        "set" | "registerWorker" => 0,
        "remove" | "removeWorker" => 2,
        "deleteWorkerPool" => 3,
        "createWorkerPool" => 4,
        "createWorker" => 5,
        _ => 1,
    };
    let mut endpoints = endpoint::ALL;
    endpoints.sort_by_key(order);
    for endpoint in endpoints {
        if endpoint.name == "createWorker" {
            // Another one is in its place, or its name is not free yet.
            raw.simulator.world(|world| world.taskcluster.workers.clear());
        }
        let body = sensible(&schemas, endpoint);
        let (status, answer) = raw.ask(endpoint, body.as_ref()).await;
        assert_eq!(status, 200, "{endpoint}: {answer:#}");
        if let Some(output) = endpoint.output {
            schemas.assert_valid(&schema(endpoint, output), &answer);
        }
        served += 1;
    }
    assert_eq!(served, 35);
    println!("{served} entries served");
}

/// Documents that differ from valid ones in one place: whatever the schema says of them, the simulator says, too.
#[tokio::test]
async fn payloads_are_refused_exactly_where_the_schemas_refuse_them() {
    let Some(schemas) = Schemas::load() else { return };
    let raw = Raw::new();
    let (mut taken, mut refused) = (0, 0);
    for endpoint in endpoint::ALL {
        let Some(input) = endpoint.input else { continue };
        let mut documents: Vec<Value> = [Amount::Required, Amount::All, Amount::Maximal]
            .map(|amount| schemas.document(&schema(endpoint, input), amount, 5))
            .into();
        documents.extend(sensible(&schemas, endpoint));
        for valid in documents.clone() {
            for name in valid.as_object().unwrap().keys() {
                for wrong in [
                    Value::Null,
                    json!(true),
                    json!(-1),
                    json!(""),
                    json!("2099-01-01 00:00-04"),
                    json!("9999-12-3x"),
                    json!("ä b/".repeat(6000)),
                    json!({}),
                    json!([]),
                ] {
                    let mut changed = valid.clone();
                    changed[name] = wrong;
                    documents.push(changed);
                }
                let mut less = valid.clone();
                less.as_object_mut().unwrap().remove(name);
                documents.push(less);
            }
            let mut more = valid.clone();
            more["unheardOf"] = json!(1);
            documents.push(more);
        }
        documents.push(json!([]));
        for document in documents {
            let expected = schemas.problems(&schema(endpoint, input), &document);
            let (status, answer) = raw.ask(endpoint, Some(&document)).await;
            let is_refused = answer["code"] == "InputValidationError";
            let what: String =
                format!("{endpoint} {status}: {document} {expected:?} {answer}").chars().take(1000).collect();
            assert_eq!(is_refused, !expected.is_empty(), "{what}");
            if is_refused { refused += 1 } else { taken += 1 }
        }
    }
    println!("{taken} documents taken, {refused} refused");
}

#[tokio::test]
async fn a_query_that_the_reference_does_not_know_is_refused() {
    let raw = Raw::new();
    let of = |query: &str| format!("{}/api/worker-manager/v1/worker-pools?{query}", raw.simulator.url());
    let untyped =
        raw.http.put(format!("{}/api/secrets/v1/secret/x", raw.simulator.url())).body("{}").send().await.unwrap();
    assert_eq!(untyped.status().as_u16(), 400, "a payload has a content type");
    for (query, status) in [("limit=1", 200), ("limit=x", 400), ("continuationToken=x", 400), ("more=1", 400)] {
        assert_eq!(raw.http.get(of(query)).send().await.unwrap().status().as_u16(), status, "{query}");
    }
    let signed = Client::new(raw.simulator.url().parse().unwrap()).unwrap();
    let signed = signed.with_credentials(Credentials::new(OPERATOR.0, OPERATOR.1));
    let pools = taskcluster_api::WorkerManager::new(signed).list_worker_pools().limit(1).page().await.unwrap();
    assert_eq!(pools.items.len(), 1);
}
