//! What the two API references say, as data: one constant for each of their entries.
//!
//! The client makes its requests from these, and a server (such as the simulator of this workspace) can find its way
//! and check scopes by them. Sources: `references/worker-manager/v1/api.json` and `references/secrets/v1/api.json`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt;
use std::time::Duration;

/// How long one try of an ordinary call may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long one try of `registerWorker` or `reregisterWorker` may take: long, for one that we give up may have
/// succeeded, and then a machine has used its one registration, or its secret.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(120);

/// What `encodeURIComponent` leaves as it is.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// A Taskcluster service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// worker-manager.
    WorkerManager,
    /// The secrets service.
    Secrets,
}

impl Service {
    /// Its name in URLs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkerManager => "worker-manager",
            Self::Secrets => "secrets",
        }
    }
}

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET
    Get,
    /// PUT
    Put,
    /// POST
    Post,
    /// DELETE
    Delete,
}

impl Method {
    /// Its name in HTTP.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// One entry of an API reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The service.
    pub service: Service,
    /// The API's name of it, such as `registerWorker`.
    pub name: &'static str,
    /// The HTTP method.
    pub method: Method,
    /// The path behind `/api/<service>/v1`, with `<arguments>`.
    pub route: &'static str,
    /// The query arguments that it takes.
    pub query: &'static [&'static str],
    /// The scopes that it needs, all of them, with `<arguments>` of the path, the query or the payload.
    pub scopes: &'static [&'static str],
    /// The JSON schema of what it takes, without folder and ending.
    pub input: Option<&'static str>,
    /// The JSON schema of what it answers, without folder and ending.
    pub output: Option<&'static str>,
    /// Whether the same call twice does what one does.
    pub idempotent: bool,
    /// How long one try may take, unless the client says otherwise.
    pub timeout: Duration,
}

impl Endpoint {
    const fn get(service: Service, name: &'static str, route: &'static str) -> Self {
        Self {
            service,
            name,
            method: Method::Get,
            route,
            query: &[],
            scopes: &[],
            input: None,
            output: None,
            idempotent: true,
            timeout: TIMEOUT,
        }
    }

    const fn manager(name: &'static str, route: &'static str) -> Self {
        Self::get(Service::WorkerManager, name, route)
    }

    const fn secrets(name: &'static str, route: &'static str) -> Self {
        Self::get(Service::Secrets, name, route)
    }

    const fn query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    const fn scopes(self, scopes: &'static [&'static str]) -> Self {
        Self { scopes, ..self }
    }

    const fn takes(self, method: Method, input: &'static str) -> Self {
        Self { method, input: Some(input), ..self }
    }

    const fn answers(self, output: &'static str) -> Self {
        Self { output: Some(output), ..self }
    }

    const fn deletes(self) -> Self {
        Self { method: Method::Delete, ..self }
    }

    const fn only_once(self) -> Self {
        Self { idempotent: false, ..self }
    }

    /// The arguments of the path, in its order.
    pub fn arguments(&self) -> impl Iterator<Item = &'static str> {
        self.route.split('/').filter_map(argument)
    }

    /// The path with these arguments in place of those it names, in its order.
    pub fn path(&self, arguments: &[&str]) -> String {
        let mut path = format!("/api/{}/v1", self.service.as_str());
        let mut arguments = arguments.iter();
        for segment in self.route.split('/').skip(1) {
            path.push('/');
            match argument(segment) {
                Some(_) => path
                    .extend(arguments.next().map(|text| utf8_percent_encode(text, PATH_SEGMENT)).into_iter().flatten()),
                None => path.push_str(segment),
            }
        }
        path
    }

    /// The arguments of a path that was asked for, where it is a path of this entry: for servers.
    pub fn arguments_of(&self, path: &str) -> Option<Vec<(&'static str, String)>> {
        let path = path.strip_prefix("/api/")?.strip_prefix(self.service.as_str())?.strip_prefix("/v1")?;
        let (mut asked, mut route) = (path.split('/'), self.route.split('/'));
        let mut found = Vec::new();
        loop {
            let (asked, segment) = match (asked.next(), route.next()) {
                (Some(asked), Some(segment)) => (asked, segment),
                (None, None) => return Some(found),
                (Some(_), None) | (None, Some(_)) => return None,
            };
            match argument(segment) {
                Some(name) if !asked.is_empty() => {
                    found.push((name, percent_decode_str(asked).decode_utf8().ok()?.into_owned()));
                }
                None if asked == segment => {}
                Some(_) | None => return None,
            }
        }
    }
}

/// The name of an argument, out of `<name>`.
fn argument(segment: &'static str) -> Option<&'static str> {
    segment.strip_prefix('<')?.strip_suffix('>')
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service {
            Service::WorkerManager => f.write_str(self.name),
            Service::Secrets => write!(f, "secrets.{}", self.name),
        }
    }
}

/// worker-manager's entries.
pub mod worker_manager {
    use super::{Endpoint, Method, REGISTER_TIMEOUT};

    const PAGES: &[&str] = &["continuationToken", "limit"];
    const MANAGE: &[&str] =
        &["worker-manager:manage-worker-pool:<workerPoolId>", "worker-manager:provider:<providerId>"];
    const GET_POOL: &[&str] = &["worker-manager:get-worker-pool:<workerPoolId>"];
    const LIST_POOLS: &[&str] = &["worker-manager:list-worker-pools"];
    const LIST_ERRORS: &[&str] = &["worker-manager:list-worker-pool-errors:<workerPoolId>"];
    const POOL: &str = "/worker-pool/<workerPoolId>";
    const WORKER_ROUTE: &str = "/workers/<workerPoolId>/<workerGroup>/<workerId>";

    /// `ping`
    pub const PING: Endpoint = Endpoint::manager("ping", "/ping");
    /// `lbheartbeat`
    pub const LBHEARTBEAT: Endpoint = Endpoint::manager("lbheartbeat", "/__lbheartbeat__");
    /// `version`
    pub const VERSION: Endpoint = Endpoint::manager("version", "/__version__");
    /// `heartbeat`
    pub const HEARTBEAT: Endpoint = Endpoint::manager("heartbeat", "/__heartbeat__");
    /// `listProviders`
    pub const LIST_PROVIDERS: Endpoint = Endpoint::manager("listProviders", "/providers")
        .query(PAGES)
        .scopes(&["worker-manager:list-providers"])
        .answers("provider-list");
    /// `createWorkerPool`
    pub const CREATE_WORKER_POOL: Endpoint = Endpoint::manager("createWorkerPool", POOL)
        .takes(Method::Put, "create-worker-pool-request")
        .only_once()
        .scopes(MANAGE)
        .answers("worker-pool-full");
    /// `updateWorkerPool`
    pub const UPDATE_WORKER_POOL: Endpoint = Endpoint::manager("updateWorkerPool", POOL)
        .takes(Method::Post, "update-worker-pool-request")
        .scopes(MANAGE)
        .answers("worker-pool-full");
    /// `deleteWorkerPool`
    pub const DELETE_WORKER_POOL: Endpoint = Endpoint::manager("deleteWorkerPool", POOL)
        .deletes()
        .scopes(&["worker-manager:manage-worker-pool:<workerPoolId>"])
        .answers("worker-pool-full");
    /// `workerPool`
    pub const WORKER_POOL: Endpoint =
        Endpoint::manager("workerPool", POOL).scopes(GET_POOL).answers("worker-pool-full");
    /// `listWorkerPools`
    pub const LIST_WORKER_POOLS: Endpoint = Endpoint::manager("listWorkerPools", "/worker-pools")
        .query(PAGES)
        .scopes(LIST_POOLS)
        .answers("worker-pool-list");
    /// `listWorkerPoolLaunchConfigs`
    pub const LIST_WORKER_POOL_LAUNCH_CONFIGS: Endpoint =
        Endpoint::manager("listWorkerPoolLaunchConfigs", "/worker-pool/<workerPoolId>/launch-configs")
            .query(&["continuationToken", "limit", "includeArchived"])
            .scopes(GET_POOL)
            .answers("worker-pool-launch-config-list");
    /// `workerPoolStats`
    pub const WORKER_POOL_STATS: Endpoint = Endpoint::manager("workerPoolStats", "/worker-pool/<workerPoolId>/stats")
        .scopes(GET_POOL)
        .answers("worker-pool-stats");
    /// `listWorkerPoolsStats`
    pub const LIST_WORKER_POOLS_STATS: Endpoint = Endpoint::manager("listWorkerPoolsStats", "/worker-pools/stats")
        .query(PAGES)
        .scopes(LIST_POOLS)
        .answers("worker-pool-list-stats");
    /// `reportWorkerError`
    pub const REPORT_WORKER_ERROR: Endpoint =
        Endpoint::manager("reportWorkerError", "/worker-pool-errors/<workerPoolId>")
            .takes(Method::Post, "report-worker-error-request")
            .only_once()
            .scopes(&["assume:worker-pool:<workerPoolId>", "assume:worker-id:<workerGroup>/<workerId>"])
            .answers("worker-pool-error");
    /// `workerPoolErrorStats`
    pub const WORKER_POOL_ERROR_STATS: Endpoint =
        Endpoint::manager("workerPoolErrorStats", "/worker-pool-errors/stats")
            .query(&["workerPoolId"])
            .scopes(LIST_ERRORS)
            .answers("worker-pool-error-stats");
    /// `listWorkerPoolErrors`
    pub const LIST_WORKER_POOL_ERRORS: Endpoint =
        Endpoint::manager("listWorkerPoolErrors", "/worker-pool-errors/<workerPoolId>")
            .query(&["continuationToken", "limit", "launchConfigId", "errorId"])
            .scopes(LIST_ERRORS)
            .answers("worker-pool-error-list");
    /// `listWorkersForWorkerPool`
    pub const LIST_WORKERS_FOR_WORKER_POOL: Endpoint =
        Endpoint::manager("listWorkersForWorkerPool", "/workers/<workerPoolId>")
            .query(&["continuationToken", "limit", "launchConfigId", "state"])
            .scopes(&["worker-manager:list-workers:<workerPoolId>"])
            .answers("worker-list");
    /// `listWorkersForWorkerGroup`
    pub const LIST_WORKERS_FOR_WORKER_GROUP: Endpoint =
        Endpoint::manager("listWorkersForWorkerGroup", "/workers/<workerPoolId>/<workerGroup>")
            .query(PAGES)
            .scopes(&["worker-manager:list-workers:<workerPoolId>/<workerGroup>"])
            .answers("worker-list");
    /// `worker`
    pub const WORKER: Endpoint = Endpoint::manager("worker", WORKER_ROUTE)
        .scopes(&["worker-manager:get-worker:<workerPoolId>/<workerGroup>/<workerId>"])
        .answers("worker-full");
    /// `createWorker`
    pub const CREATE_WORKER: Endpoint = Endpoint::manager("createWorker", WORKER_ROUTE)
        .takes(Method::Put, "create-worker-request")
        .scopes(&["worker-manager:create-worker:<workerPoolId>/<workerGroup>/<workerId>"])
        .answers("worker-full");
    /// `updateWorker`
    pub const UPDATE_WORKER: Endpoint = Endpoint::manager("updateWorker", WORKER_ROUTE)
        .takes(Method::Post, "create-worker-request")
        .scopes(&["worker-manager:update-worker:<workerPoolId>/<workerGroup>/<workerId>"])
        .answers("worker-full");
    /// `removeWorker`
    pub const REMOVE_WORKER: Endpoint = Endpoint::manager("removeWorker", WORKER_ROUTE)
        .deletes()
        .scopes(&["worker-manager:remove-worker:<workerPoolId>/<workerGroup>/<workerId>"]);
    /// `shouldWorkerTerminate`
    pub const SHOULD_WORKER_TERMINATE: Endpoint =
        Endpoint::manager("shouldWorkerTerminate", "/workers/<workerPoolId>/<workerGroup>/<workerId>/should-terminate")
            .scopes(&["worker-manager:should-worker-terminate:<workerPoolId>/<workerGroup>/<workerId>"])
            .answers("should-worker-terminate-response");
    /// `registerWorker`
    pub const REGISTER_WORKER: Endpoint = Endpoint {
        timeout: REGISTER_TIMEOUT,
        ..Endpoint::manager("registerWorker", "/worker/register")
            .takes(Method::Post, "register-worker-request")
            .only_once()
            .answers("register-worker-response")
    };
    /// `reregisterWorker`
    pub const REREGISTER_WORKER: Endpoint = Endpoint {
        timeout: REGISTER_TIMEOUT,
        ..Endpoint::manager("reregisterWorker", "/worker/reregister")
            .takes(Method::Post, "reregister-worker-request")
            .only_once()
            .scopes(&["worker-manager:reregister-worker:<workerPoolId>/<workerGroup>/<workerId>"])
            .answers("reregister-worker-response")
    };
    /// `listWorkers`
    pub const LIST_WORKERS: Endpoint =
        Endpoint::manager("listWorkers", "/provisioners/<provisionerId>/worker-types/<workerType>/workers")
            .query(&["continuationToken", "limit", "launchConfigId", "quarantined", "workerState"])
            .scopes(&["worker-manager:list-workers:<provisionerId>/<workerType>"])
            .answers("list-workers-response");
    /// `getWorker`
    pub const GET_WORKER: Endpoint = Endpoint::manager(
        "getWorker",
        "/provisioners/<provisionerId>/worker-types/<workerType>/workers/<workerGroup>/<workerId>",
    )
    .scopes(&["worker-manager:get-worker:<provisionerId>/<workerType>/<workerGroup>/<workerId>"])
    .answers("worker-response");
}

/// The secrets service's entries.
pub mod secrets {
    use super::{Endpoint, Method};

    const SECRET: &str = "/secret/<name>";

    /// `ping`
    pub const PING: Endpoint = Endpoint::secrets("ping", "/ping");
    /// `lbheartbeat`
    pub const LBHEARTBEAT: Endpoint = Endpoint::secrets("lbheartbeat", "/__lbheartbeat__");
    /// `version`
    pub const VERSION: Endpoint = Endpoint::secrets("version", "/__version__");
    /// `heartbeat`
    pub const HEARTBEAT: Endpoint = Endpoint::secrets("heartbeat", "/__heartbeat__");
    /// `set`
    pub const SET: Endpoint =
        Endpoint::secrets("set", SECRET).takes(Method::Put, "secret").scopes(&["secrets:set:<name>"]);
    /// `remove`
    pub const REMOVE: Endpoint = Endpoint::secrets("remove", SECRET).deletes().scopes(&["secrets:set:<name>"]);
    /// `get`
    pub const GET: Endpoint = Endpoint::secrets("get", SECRET).scopes(&["secrets:get:<name>"]).answers("secret");
    /// `list`
    pub const LIST: Endpoint = Endpoint::secrets("list", "/secrets")
        .query(&["continuationToken", "limit"])
        .scopes(&["secrets:list-secrets"])
        .answers("secret-list");
}

/// Every entry of both references. Where a path fits two of them, the first is meant.
pub const ALL: [&Endpoint; 35] = {
    use self::{secrets as s, worker_manager as w};
    [
        &w::PING,
        &w::LBHEARTBEAT,
        &w::VERSION,
        &w::HEARTBEAT,
        &w::LIST_PROVIDERS,
        &w::CREATE_WORKER_POOL,
        &w::UPDATE_WORKER_POOL,
        &w::DELETE_WORKER_POOL,
        &w::WORKER_POOL,
        &w::LIST_WORKER_POOLS,
        &w::LIST_WORKER_POOL_LAUNCH_CONFIGS,
        &w::WORKER_POOL_STATS,
        &w::LIST_WORKER_POOLS_STATS,
        &w::REPORT_WORKER_ERROR,
        &w::WORKER_POOL_ERROR_STATS,
        &w::LIST_WORKER_POOL_ERRORS,
        &w::LIST_WORKERS_FOR_WORKER_POOL,
        &w::LIST_WORKERS_FOR_WORKER_GROUP,
        &w::WORKER,
        &w::CREATE_WORKER,
        &w::UPDATE_WORKER,
        &w::REMOVE_WORKER,
        &w::SHOULD_WORKER_TERMINATE,
        &w::REGISTER_WORKER,
        &w::REREGISTER_WORKER,
        &w::LIST_WORKERS,
        &w::GET_WORKER,
        &s::PING,
        &s::LBHEARTBEAT,
        &s::VERSION,
        &s::HEARTBEAT,
        &s::SET,
        &s::REMOVE,
        &s::GET,
        &s::LIST,
    ]
};

#[cfg(test)]
mod tests {
    use super::{Endpoint, secrets, worker_manager};

    #[test]
    fn a_path_is_made_and_read_back() {
        let arguments = ["proj-x/ci", "rack 1", "m/ä"];
        let path = worker_manager::REMOVE_WORKER.path(&arguments);
        assert_eq!(path, "/api/worker-manager/v1/workers/proj-x%2Fci/rack%201/m%2F%C3%A4");
        let read = worker_manager::REMOVE_WORKER.arguments_of(&path).unwrap();
        assert_eq!(read.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), arguments);
        let other: [&Endpoint; 3] = [&worker_manager::SHOULD_WORKER_TERMINATE, &worker_manager::PING, &secrets::GET];
        assert!(other.iter().all(|endpoint| endpoint.arguments_of(&path).is_none()));
        assert!(secrets::GET.arguments_of("/api/secrets/v1/secret/").is_none());
    }
}
