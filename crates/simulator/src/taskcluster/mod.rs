//! A deployment: the whole of worker-manager and secrets, as their references describe them, with state.
//!
//! Requests find their entry in [`taskcluster_api::endpoint`], are read and answered with that crate's types, and are
//! refused where a real deployment refuses them: a signature that is wrong, a scope that is missing, a payload or a
//! query that the schemas don't allow. What the services do behind their schemas is modelled on the real ones as far
//! as somebody who talks to them can tell; clouds' workers don't come and go by themselves.

mod access;
mod errors;
mod pools;
mod secrets;
mod workers;

pub use access::{ApiClient, OPERATOR};
pub use workers::WorkerRow;

use crate::cloud::{Cloud, CloudKind};
use crate::fault::error_body;
use access::Signed;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};
use taskcluster_api::endpoint::{self, Endpoint, Service};
use taskcluster_api::worker_manager::{Provider, ReportWorkerErrorRequest, WorkerPoolError};
use taskcluster_api::{Secret, WorkerName, WorkerPool, WorkerPoolId, WorkerState, from_json};

/// A deployment's state. Every field may be changed while it runs.
#[derive(Debug)]
pub struct Taskcluster {
    /// The providers.
    pub providers: Vec<Provider>,
    /// The worker pools.
    pub pools: BTreeMap<WorkerPoolId, WorkerPool>,
    /// The workers.
    pub workers: BTreeMap<WorkerName, WorkerRow>,
    /// The errors of pools and workers, oldest first.
    pub errors: Vec<WorkerPoolError>,
    /// The secrets, by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Who may talk to the services, and what they may do; a client id may have several access tokens.
    pub clients: Vec<ApiClient>,
    /// What requests without credentials may do.
    pub anonymous_scopes: Vec<String>,
    /// Scopes that nobody has, whatever is said elsewhere: a call that needs one is refused with 403.
    pub denied_scopes: Vec<String>,
    /// What `registerWorker` answers as `workerConfig` where the worker's pool says nothing.
    pub worker_config: Value,
    /// Whether rows that have ended are swept away at once. A real deployment sweeps about once an hour.
    pub sweeps: bool,
    /// How long the credentials live that a worker gets when it is registered.
    pub credentials_life: Duration,
    /// How long those live that it gets in exchange for them.
    pub renewed_life: Duration,
    /// How far this deployment's clock is ahead of the machine's, in seconds.
    pub clock_offset: i64,
    /// The secret that the simulated machine shows where it is static.
    pub static_secret: String,
    /// The credentials of the simulated machine where it is standalone.
    pub standalone: (String, String),
    /// The reports of errors as they were sent.
    pub reports: Vec<Value>,
    /// How many times a worker was removed.
    pub removals: usize,
    /// Why workers are not wanted any more, if so.
    pub unwanted: Option<String>,
    /// How many registrations succeeded.
    pub registrations: usize,
    /// How many renewals succeeded.
    pub renewals: usize,
    /// What was sent that a real deployment would not have taken.
    pub violations: Vec<String>,
    /// The machines that were put among the workers already.
    launched: BTreeSet<WorkerName>,
    counter: usize,
}

/// A request to a service.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// With its query.
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    pub(crate) authorization: Option<&'a str>,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a [u8],
}

/// A status and a body.
pub(crate) type Reply = (u16, Value);

/// A status, Taskcluster's code, and a message.
type Refusal = (u16, &'static str, String);

/// A request that has found its entry.
struct Routed<'a> {
    endpoint: &'static Endpoint,
    /// Of the path and the query, by name.
    arguments: BTreeMap<&'static str, String>,
    /// The query without what signs it.
    query: BTreeMap<&'static str, String>,
    body: &'a [u8],
}

impl Routed<'_> {
    /// An argument of the path, which is of this type.
    fn argument<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, Refusal> {
        let text = self.arguments.get(name).map_or("", String::as_str);
        text.parse().map_err(|_| (400, "InvalidRequestArguments", format!("URL parameter {name} does not validate")))
    }

    fn pool(&self) -> Result<WorkerPoolId, Refusal> {
        if self.endpoint.arguments().any(|argument| argument == "provisionerId") {
            let half = |name| self.arguments.get(name).map_or("", String::as_str);
            let joined = format!("{}/{}", half("provisionerId"), half("workerType"));
            return joined.parse().map_err(|_| input(format!("{joined} is no worker pool")));
        }
        self.argument("workerPoolId")
    }

    fn worker(&self) -> Result<WorkerName, Refusal> {
        let (worker_group, worker_id) = (self.argument("workerGroup")?, self.argument("workerId")?);
        Ok(WorkerName { worker_pool_id: self.pool()?, worker_group, worker_id })
    }

    /// The payload, which is of this type.
    fn payload<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        // No schema allows null where a member may be left out; our types take it for that.
        let members: BTreeMap<String, Value> = from_json(self.body).map_err(|problem| invalid(problem.to_string()))?;
        if let Some((name, _)) = members.iter().find(|(_, value)| value.is_null()) {
            return Err(invalid(format!("{name} is null")));
        }
        from_json(self.body).map_err(|problem| invalid(problem.to_string()))
    }

    /// A page of these, as the query asks, and the token of the next one.
    fn page<T>(&self, items: impl Iterator<Item = T>) -> Result<(Vec<T>, Option<String>), Refusal> {
        let limit = match self.query.get("limit") {
            None => 1000,
            Some(text) => text.parse::<usize>().map_err(|_| query_is_wrong("limit"))?.clamp(1, 1000),
        };
        let skip = match self.query.get("continuationToken") {
            None => 0,
            Some(token) => {
                let place = token.strip_prefix("after-").and_then(|place| place.parse().ok());
                place.ok_or_else(|| query_is_wrong("continuationToken"))?
            }
        };
        let mut page: Vec<T> = items.skip(skip).take(limit + 1).collect();
        let more = page.len() > limit;
        page.truncate(limit);
        Ok((page, more.then(|| format!("after-{}", skip + limit))))
    }

    /// Whether something of this value passes a filter of the query.
    fn wants(&self, name: &str, value: Option<&str>) -> bool {
        self.query.get(name).is_none_or(|wanted| Some(wanted.as_str()) == value)
    }
}

impl Taskcluster {
    pub(crate) fn new(static_secret: &str, standalone: (String, String)) -> Self {
        let of_standalone =
            ["secrets:get:*", "assume:worker-pool:*", "assume:worker-id:*", "worker-manager:should-worker-terminate:*"];
        let clients = vec![
            ApiClient::permanent(&standalone.0, &standalone.1, &of_standalone),
            ApiClient::permanent(OPERATOR.0, OPERATOR.1, &["*"]),
        ];
        Self {
            providers: Vec::new(),
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            errors: Vec::new(),
            secrets: BTreeMap::new(),
            clients,
            anonymous_scopes: Vec::new(),
            denied_scopes: Vec::new(),
            worker_config: json!({}),
            sweeps: true,
            credentials_life: Duration::from_secs(96 * 3600),
            renewed_life: Duration::from_secs(96 * 3600),
            clock_offset: 0,
            static_secret: static_secret.to_owned(),
            standalone,
            reports: Vec::new(),
            removals: 0,
            unwanted: None,
            registrations: 0,
            renewals: 0,
            violations: Vec::new(),
            launched: BTreeSet::new(),
            counter: 0,
        }
    }

    /// This deployment's time.
    pub fn now(&self) -> SystemTime {
        let offset = Duration::from_secs(self.clock_offset.unsigned_abs());
        let now = SystemTime::now();
        if self.clock_offset < 0 { now - offset } else { now + offset }
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::try_from(self.now()).unwrap_or(Timestamp::MAX)
    }

    /// The credentials that a worker got last, or a standalone one always has: client id, access token, certificate.
    pub fn newest_credentials(&self) -> Option<(String, String, Option<String>)> {
        let client = self.clients.iter().rfind(|client| client.client_id != OPERATOR.0)?;
        Some((client.client_id.clone(), client.access_token.clone(), client.certificate.clone()))
    }

    /// Makes a secret that ends in the far future.
    pub fn put_secret(&mut self, name: impl Into<String>, content: Value) {
        let Value::Object(secret) = content else { return };
        self.secrets.insert(name.into(), Secret::new(secret, far_future()));
    }

    /// Makes an error of a pool that was reported at this time.
    pub fn put_error(&mut self, worker: &WorkerName, reported: Timestamp, kind: &str, title: &str, description: &str) {
        let WorkerName { worker_pool_id, worker_group, worker_id } = worker.clone();
        let (kind, title, description) = (kind.to_owned(), title.to_owned(), description.to_owned());
        let extra = serde_json::Map::new();
        let report = ReportWorkerErrorRequest { worker_group, worker_id, kind, title, description, extra };
        self.note_error(worker_pool_id, report, reported);
    }

    /// Puts the simulated machine among the workers, with its pool and its provider, as if its cloud or somebody had
    /// made it. Once: it may be removed.
    pub fn launch(&mut self, cloud: &Cloud) {
        let launch = &cloud.launch;
        let (Ok(worker_pool_id), Ok(worker_group), Ok(worker_id), Ok(provider_id)) = (
            launch.worker_pool_id.parse(),
            launch.worker_group.parse(),
            cloud.machine_id.parse(),
            launch.provider_id.parse(),
        ) else {
            return;
        };
        let name = WorkerName { worker_pool_id, worker_group, worker_id };
        if cloud.kind == CloudKind::Standalone || !self.launched.insert(name.clone()) {
            return;
        }
        let (now, kind) = (self.timestamp(), cloud.kind.name());
        if !self.providers.iter().any(|provider| provider.provider_id == launch.provider_id) {
            let provider = Provider { provider_id: launch.provider_id.clone(), provider_type: kind.into() };
            self.providers.push(provider);
        }
        self.pools
            .entry(name.worker_pool_id.clone())
            .or_insert_with(|| pools::new_pool(&name.worker_pool_id, &provider_id, now));
        let state = if cloud.kind.is_cloud() { WorkerState::Requested } else { WorkerState::Running };
        let worker = workers::new_worker(&name, provider_id, state, now);
        self.workers.insert(name, WorkerRow::new(worker));
    }

    pub(crate) fn answer(&mut self, cloud: &Cloud, request: &Request<'_>) -> Reply {
        self.launch(cloud);
        let reply = self.route(cloud, request);
        reply.unwrap_or_else(|(status, code, message)| {
            if matches!(status, 400 | 401) && !message.contains("Stale timestamp") {
                self.violations.push(format!("{} {}: {status} {code}: {message}", request.method, request.path));
            }
            let payload: Value = serde_json::from_slice(request.body).unwrap_or(Value::Null);
            (status, error_body(code, &message, &payload))
        })
    }

    fn route(&mut self, cloud: &Cloud, request: &Request<'_>) -> Result<Reply, Refusal> {
        let (path, query) = request.path.split_once('?').unwrap_or((request.path, ""));
        let found = endpoint::ALL.iter().find_map(|endpoint| {
            let fits = endpoint.method.as_str() == request.method;
            Some((*endpoint, endpoint.arguments_of(path).filter(|_| fits)?))
        });
        let Some((endpoint, arguments)) = found else {
            self.violations.push(format!("{} {}: there is no such call", request.method, request.path));
            return Err((404, "ResourceNotFound", "there is no such call".to_owned()));
        };
        let mut routed =
            Routed { endpoint, arguments: arguments.into_iter().collect(), query: BTreeMap::new(), body: request.body };
        let mut bewit = None;
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if name == "bewit" {
                bewit = Some(value.into_owned());
                continue;
            }
            let known = endpoint.query.iter().find(|known| **known == name).ok_or_else(|| query_is_wrong(&name))?;
            routed.query.insert(known, value.into_owned());
        }
        routed.arguments.extend(routed.query.iter().map(|(name, value)| (*name, value.clone())));
        let is_json = request.content_type.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
        if !request.body.is_empty() && !is_json {
            return Err((
                400,
                "MalformedPayload",
                "Payload must be JSON with content-type: application/json".to_owned(),
            ));
        }
        if !endpoint.scopes.is_empty() {
            let signed = Signed {
                method: request.method,
                host: request.host,
                path: request.path,
                body: request.body,
                content_type: request.content_type,
                authorization: request.authorization,
                bewit: bewit.as_deref(),
                now: self.now(),
            };
            let mut scopes = self.scopes_of(&signed).map_err(|problem| (401, "AuthenticationFailed", problem))?;
            scopes.extend(self.anonymous_scopes.iter().cloned());
            self.authorize(&routed, &scopes)?;
        }
        let now = self.timestamp();
        let sweeps = self.sweeps;
        self.workers.retain(|_, row| !sweeps || row.worker.expires > now);
        self.dispatch(cloud, &routed)
    }

    /// Whether these scopes are those that the call needs, none of which is denied to everybody.
    fn authorize(&self, routed: &Routed<'_>, scopes: &[String]) -> Result<(), Refusal> {
        let payload: Value = serde_json::from_slice(routed.body).unwrap_or(Value::Null);
        let value = |name: &str| match routed.arguments.get(name) {
            Some(value) => value.clone(),
            None => payload.get(name).and_then(Value::as_str).unwrap_or_default().to_owned(),
        };
        for template in routed.endpoint.scopes {
            let needed = access::expand(template, value);
            let denied = self.denied_scopes.iter().any(|denied| access::covers(denied, &needed));
            if denied || !scopes.iter().any(|scope| access::covers(scope, &needed)) {
                let message = format!("Client is not authorized: it lacks the scope {needed}");
                return Err((403, "InsufficientScopes", message));
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, cloud: &Cloud, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        match (routed.endpoint.service, routed.endpoint.name) {
            (_, "ping" | "lbheartbeat" | "heartbeat") => answer(json!({"alive": true})),
            (_, "version") => answer(json!({
                "version": "v106.0.0", "commit": "simulated", "source": "https://taskcluster.example.com", "build": "simulated",
            })),
            (Service::Secrets, "set") => self.set(routed),
            (Service::Secrets, "get") => self.get(routed),
            (Service::Secrets, "remove") => self.remove(routed),
            (Service::Secrets, "list") => self.list(routed),
            (Service::WorkerManager, "listProviders") => self.list_providers(routed),
            (Service::WorkerManager, "createWorkerPool") => self.create_worker_pool(routed),
            (Service::WorkerManager, "updateWorkerPool") => self.update_worker_pool(routed),
            (Service::WorkerManager, "deleteWorkerPool") => self.delete_worker_pool(routed),
            (Service::WorkerManager, "workerPool") => answer(self.counted(self.pool(&routed.pool()?)?)),
            (Service::WorkerManager, "listWorkerPools") => self.list_worker_pools(routed),
            (Service::WorkerManager, "listWorkerPoolLaunchConfigs") => self.list_launch_configs(routed),
            (Service::WorkerManager, "workerPoolStats") => self.worker_pool_stats(routed),
            (Service::WorkerManager, "listWorkerPoolsStats") => self.list_worker_pools_stats(routed),
            (Service::WorkerManager, "reportWorkerError") => self.report_worker_error(routed),
            (Service::WorkerManager, "workerPoolErrorStats") => self.worker_pool_error_stats(routed),
            (Service::WorkerManager, "listWorkerPoolErrors") => self.list_worker_pool_errors(routed),
            (Service::WorkerManager, "listWorkersForWorkerPool" | "listWorkersForWorkerGroup") => {
                self.list_workers_of_pool(routed)
            }
            (Service::WorkerManager, "worker") => self.worker(routed),
            (Service::WorkerManager, "createWorker") => self.create_worker(routed),
            (Service::WorkerManager, "updateWorker") => self.update_worker(routed),
            (Service::WorkerManager, "removeWorker") => self.remove_worker(routed),
            (Service::WorkerManager, "shouldWorkerTerminate") => self.should_worker_terminate(routed),
            (Service::WorkerManager, "registerWorker") => self.register_worker(cloud, routed),
            (Service::WorkerManager, "reregisterWorker") => self.reregister_worker(routed),
            (Service::WorkerManager, "listWorkers") => self.list_workers(routed),
            (Service::WorkerManager, "getWorker") => self.get_worker(routed),
            (service, name) => Err((501, "NotImplemented", format!("{} {name} is not simulated", service.as_str()))),
        }
    }

    fn pool(&self, id: &WorkerPoolId) -> Result<&WorkerPool, Refusal> {
        self.pools.get(id).ok_or_else(|| absent(format!("Worker pool {id} does not exist")))
    }

    /// An id as the services make them: the 16 bytes of a random UUID.
    fn slug_id(&mut self) -> taskcluster_api::SlugId {
        use base64::Engine;
        self.counter += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&u64::try_from(self.counter).unwrap_or(0).to_le_bytes());
        bytes[6] = 0x40;
        bytes[8] = 0x80;
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        text.parse().unwrap_or_else(|_| unreachable!("{text} has the form of an id"))
    }
}

fn far_future() -> Timestamp {
    Timestamp::from_second(32_472_144_000).unwrap_or(Timestamp::MAX)
}

fn answer(document: impl Serialize) -> Result<Reply, Refusal> {
    match serde_json::to_value(document) {
        Ok(document) => Ok((200, document)),
        Err(error) => Err((500, "InternalServerError", error.to_string())),
    }
}

fn input(message: impl Into<String>) -> Refusal {
    (400, "InputError", message.into())
}

/// The payload isn't as its schema says.
fn invalid(message: impl Into<String>) -> Refusal {
    (400, "InputValidationError", message.into())
}

fn absent(message: impl Into<String>) -> Refusal {
    (404, "ResourceNotFound", message.into())
}

fn query_is_wrong(name: &str) -> Refusal {
    (400, "InputError", format!("Query-string parameter {name} is not valid"))
}
