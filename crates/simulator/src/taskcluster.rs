//! worker-manager and secrets, as far as a machine talks to them, with their checks.

use crate::cloud::Cloud;
use crate::fault::error_body;
use crate::signature::{self, Issued, Signed};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// A deployment's state.
#[derive(Debug)]
pub struct Taskcluster {
    /// What `registerWorker` answers as `workerConfig`.
    pub worker_config: Value,
    /// The secrets, by name.
    pub secrets: BTreeMap<String, Value>,
    /// Secrets that may not be read, by name.
    pub forbidden_secrets: Vec<String>,
    /// How long credentials live.
    pub credentials_life: Duration,
    /// How far this deployment's clock is ahead of the machine's, in seconds.
    pub clock_offset: i64,
    /// The secret that a static worker shows.
    pub static_secret: String,
    /// The credentials of a standalone worker.
    pub standalone: (String, String),
    /// The reports that came.
    pub reports: Vec<Value>,
    /// How many times a worker was removed.
    pub removals: usize,
    /// Why the worker is not wanted any more, if so.
    pub unwanted: Option<String>,
    /// How many registrations succeeded.
    pub registrations: usize,
    /// How many renewals succeeded.
    pub renewals: usize,
    /// What the machine sent that a real deployment would not have taken.
    pub violations: Vec<String>,
    issued: Vec<Issued>,
    secret: Option<String>,
    counter: usize,
}

/// A request to a service.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) host: &'a str,
    pub(crate) authorization: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

/// A status and a body.
pub(crate) type Reply = (u16, Value);

impl Taskcluster {
    pub(crate) fn new(static_secret: &str, standalone: (String, String)) -> Self {
        let far = SystemTime::now() + Duration::from_secs(365 * 24 * 3600);
        let issued = Issued {
            client_id: standalone.0.clone(),
            access_token: standalone.1.clone(),
            certificate: None,
            expires: far,
        };
        Self {
            worker_config: json!({}),
            secrets: BTreeMap::new(),
            forbidden_secrets: Vec::new(),
            credentials_life: Duration::from_secs(96 * 3600),
            clock_offset: 0,
            static_secret: static_secret.to_owned(),
            standalone,
            reports: Vec::new(),
            removals: 0,
            unwanted: None,
            registrations: 0,
            renewals: 0,
            violations: Vec::new(),
            issued: vec![issued],
            secret: None,
            counter: 0,
        }
    }

    /// This deployment's time.
    pub fn now(&self) -> SystemTime {
        let offset = Duration::from_secs(self.clock_offset.unsigned_abs());
        let now = SystemTime::now();
        if self.clock_offset < 0 { now - offset } else { now + offset }
    }

    /// The credentials that were issued last: client id, access token, certificate.
    pub fn newest_credentials(&self) -> Option<(String, String, Option<String>)> {
        let issued = self.issued.last()?;
        Some((issued.client_id.clone(), issued.access_token.clone(), issued.certificate.clone()))
    }

    pub(crate) fn answer(&mut self, cloud: &Cloud, request: &Request<'_>) -> Reply {
        let payload: Value = serde_json::from_slice(request.body).unwrap_or(Value::Null);
        let reply = self.route(cloud, request, &payload);
        reply.unwrap_or_else(|(status, code, message)| {
            if matches!(status, 400 | 401) && !message.contains("Stale timestamp") {
                self.violations.push(format!("{} {}: {status} {code}: {message}", request.method, request.path));
            }
            (status, error_body(code, &message, &payload))
        })
    }

    fn route(&mut self, cloud: &Cloud, request: &Request<'_>, payload: &Value) -> Result<Reply, Refusal> {
        let segments: Vec<String> = request
            .path
            .trim_start_matches("/api/")
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let pool = cloud.launch.worker_pool_id.as_str();
        if segments != ["worker-manager", "v1", "worker", "register"] {
            self.check_signature(request)?;
        }
        match (request.method, segments.as_slice()) {
            ("POST", ["worker-manager", "v1", "worker", "register"]) => self.register(cloud, payload),
            ("POST", ["worker-manager", "v1", "worker", "reregister"]) => self.reregister(cloud, payload),
            ("POST", ["worker-manager", "v1", "worker-pool-errors", id]) if *id == pool => self.report(payload),
            ("DELETE", ["worker-manager", "v1", "workers", id, group, worker]) if *id == pool => {
                Self::check_name(cloud, group, worker)?;
                self.removals += 1;
                Ok((200, json!({})))
            }
            ("GET", ["worker-manager", "v1", "workers", id, group, worker, "should-terminate"]) if *id == pool => {
                Self::check_name(cloud, group, worker)?;
                let reason = self.unwanted.as_deref().unwrap_or("the pool is content");
                Ok((200, json!({"terminate": self.unwanted.is_some(), "reason": reason})))
            }
            ("GET", ["secrets", "v1", "secret", name]) => self.secret(name),
            _ => {
                self.violations.push(format!("{} {}: there is no such call", request.method, request.path));
                Err((404, "ResourceNotFound", "there is no such call".to_owned()))
            }
        }
    }

    fn check_signature(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let signed = Signed {
            method: request.method,
            host: request.host,
            path: request.path,
            body: request.body,
            authorization: request.authorization,
            now: self.now(),
        };
        signature::check(&signed, &self.issued).map_err(|problem| (401, "AuthenticationFailed", problem))
    }

    fn check_name(cloud: &Cloud, group: &str, worker: &str) -> Result<(), Refusal> {
        if group == cloud.launch.worker_group && worker == cloud.machine_id {
            Ok(())
        } else {
            Err((404, "ResourceNotFound", "no such worker".to_owned()))
        }
    }

    fn register(&mut self, cloud: &Cloud, payload: &Value) -> Result<Reply, Refusal> {
        let allowed =
            ["workerPoolId", "providerId", "workerGroup", "workerId", "workerIdentityProof", "systemBootTime"];
        only(payload, &allowed, &allowed[..5])?;
        let launch = &cloud.launch;
        let expected = [
            ("workerPoolId", &launch.worker_pool_id),
            ("providerId", &launch.provider_id),
            ("workerGroup", &launch.worker_group),
            ("workerId", &cloud.machine_id),
        ];
        for (key, value) in expected {
            if payload[key] != **value {
                return Err(input(format!("{key} is not the one that this worker was made with")));
            }
        }
        if payload.get("systemBootTime").is_some_and(|time| !is_time(time)) {
            return Err(input("systemBootTime is no time"));
        }
        if payload["workerIdentityProof"] != cloud.proof(&self.static_secret) {
            return Err(input("the proof proves nothing"));
        }
        if cloud.kind.is_cloud() && self.registrations > 0 {
            return Err(input("this worker is already running"));
        }
        self.registrations += 1;
        let mut answer = self.issue(cloud);
        answer.insert("workerConfig".to_owned(), self.worker_config.clone());
        Ok((200, Value::Object(answer)))
    }

    fn reregister(&mut self, cloud: &Cloud, payload: &Value) -> Result<Reply, Refusal> {
        let keys = ["workerPoolId", "workerGroup", "workerId", "secret"];
        only(payload, &keys, &keys)?;
        if self.secret.as_deref() != payload["secret"].as_str() {
            return Err(input("could not generate credentials for this secret"));
        }
        self.renewals += 1;
        Ok((200, Value::Object(self.issue(cloud))))
    }

    fn report(&mut self, payload: &Value) -> Result<Reply, Refusal> {
        let keys = ["workerGroup", "workerId", "kind", "title", "description", "extra"];
        only(payload, &keys, &keys)?;
        let length = |key: &str| payload[key].as_str().map_or(usize::MAX, |text| text.chars().count());
        let kind = payload["kind"].as_str().unwrap_or_default();
        let kind_is_valid = !kind.is_empty()
            && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !kind_is_valid || length("kind") > 128 || length("title") > 128 || length("description") > 10_240 {
            return Err(input("kind, title or description does not validate"));
        }
        if !payload["extra"].is_object() {
            return Err(input("extra is no object"));
        }
        self.reports.push(payload.clone());
        Ok((200, json!({"errorId": "simulated"})))
    }

    fn secret(&self, name: &str) -> Result<Reply, Refusal> {
        if self.forbidden_secrets.iter().any(|forbidden| forbidden == name) {
            return Err((403, "InsufficientScopes", format!("client lacks secrets:get:{name}")));
        }
        match self.secrets.get(name) {
            Some(secret) => Ok((200, json!({"secret": secret, "expires": "2999-01-01T00:00:00.000Z"}))),
            None => Err((404, "ResourceNotFound", "Secret not found".to_owned())),
        }
    }

    /// New credentials; the secret before them is dead.
    fn issue(&mut self, cloud: &Cloud) -> Map<String, Value> {
        self.counter += 1;
        let (number, now) = (self.counter, self.now());
        let expires = now + self.credentials_life;
        let secret = format!("{:_<44}", format!("canary-registration-secret-{number}-"));
        let millis = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
        };
        let certificate = json!({
            "version": 1, "scopes": ["assume:worker-pool:simulated"], "start": millis(now), "expiry": millis(expires),
            "seed": "simulated-seed", "signature": format!("canary-certificate-{number}"), "issuer": "simulator",
        });
        let issued = Issued {
            client_id: format!(
                "worker/{}/{}/{}",
                cloud.launch.provider_id, cloud.launch.worker_pool_id, cloud.machine_id
            ),
            access_token: format!("canary-access-token-{number}-0123456789abcdef"),
            certificate: Some(certificate.to_string()),
            expires,
        };
        let expires = Timestamp::try_from(expires).unwrap_or(Timestamp::MAX);
        let answer = json!({
            "expires": format!("{expires:.3}"),
            "credentials": {
                "clientId": issued.client_id, "accessToken": issued.access_token, "certificate": issued.certificate,
            },
            "secret": secret,
        });
        self.issued.push(issued);
        self.secret = Some(secret);
        match answer {
            Value::Object(answer) => answer,
            _ => Map::new(),
        }
    }
}

type Refusal = (u16, &'static str, String);

fn input(message: impl Into<String>) -> Refusal {
    (400, "InputError", message.into())
}

/// A payload may hold these keys only, and must hold those.
fn only(payload: &Value, allowed: &[&str], required: &[&str]) -> Result<(), Refusal> {
    let object = payload.as_object().ok_or((400, "MalformedPayload", "the payload is no JSON object".to_owned()))?;
    let invalid = |problem: String| (400, "InputValidationError", problem);
    if let Some(key) = object.keys().find(|key| !allowed.contains(&key.as_str())) {
        return Err(invalid(format!("{key} is not allowed")));
    }
    match required.iter().find(|key| !object.contains_key(**key)) {
        Some(key) => Err(invalid(format!("{key} is missing"))),
        None => Ok(()),
    }
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<Timestamp>().is_ok())
}
