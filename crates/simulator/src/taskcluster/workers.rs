//! Workers: those that somebody creates, and how they register.

use super::{
    ApiClient, Refusal, Reply, Routed, Taskcluster, absent, answer, far_future, input, invalid, query_is_wrong,
};
use crate::cloud::Cloud;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime};
use taskcluster_api::worker_manager::{
    Capacity, CreateWorker, ProviderType, Quarantine, QueueWorker, QueueWorkerDetails, QueueWorkerList,
    ShouldTerminate, TaskRun, WorkerList,
};
use taskcluster_api::{
    Credentials, ExposeSecret, LaunchConfigId, ProviderId, RegisterWorker, Registration, Renewal, ReregisterWorker,
    Worker, WorkerName, WorkerProof, WorkerState,
};

/// A worker, and what only the services themselves and the queue know of it.
#[derive(Debug, Clone)]
pub struct WorkerRow {
    /// What everybody may know.
    pub worker: Worker,
    /// What a static worker must show; the simulated machine's own proof where there is none.
    pub static_secret: Option<String>,
    /// When it first asked for tasks.
    pub first_claim: Option<Timestamp>,
    /// When it last asked for tasks.
    pub last_active: Option<Timestamp>,
    /// The tasks that it claimed.
    pub recent_tasks: Vec<TaskRun>,
    /// Who said that it is to get no tasks, and until when; the newest last.
    pub quarantine: Vec<Quarantine>,
    /// What renews its credentials.
    renewal_secret: Option<String>,
}

impl WorkerRow {
    /// A worker that nobody has heard of yet.
    pub fn new(worker: Worker) -> Self {
        Self {
            worker,
            static_secret: None,
            first_claim: None,
            last_active: None,
            recent_tasks: Vec::new(),
            quarantine: Vec::new(),
            renewal_secret: None,
        }
    }

    fn quarantine_until(&self) -> Option<Timestamp> {
        self.quarantine.last().map(|quarantine| quarantine.quarantine_until)
    }
}

impl Taskcluster {
    fn row(&self, name: &WorkerName) -> Result<&WorkerRow, Refusal> {
        self.workers.get(name).ok_or_else(|| absent("Worker not found"))
    }

    /// The kind of a pool's provider.
    fn provider_type(&self, routed: &Routed<'_>) -> Result<ProviderType, Refusal> {
        let provider_id = self.pool(&routed.pool()?)?.provider_id.as_str();
        let provider = self.providers.iter().find(|provider| provider.provider_id == provider_id);
        let provider = provider.ok_or_else(|| absent(format!("Provider {provider_id} does not exist")))?;
        Ok(provider.provider_type.clone())
    }

    pub(super) fn worker(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        answer(&self.row(&routed.worker()?)?.worker)
    }

    pub(super) fn create_worker(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let request: CreateWorker = routed.payload()?;
        let (name, now) = (routed.worker()?, self.timestamp());
        let provider_type = self.provider_type(routed)?;
        if request.expires <= now {
            return Err(input("worker.expires must be in the future"));
        }
        if provider_type != ProviderType::Static {
            return Err(input(format!("creating workers is not supported for provider type {provider_type}")));
        }
        let secret = request.provider_info.map(|info| info.static_secret.as_secret().expose_secret().to_owned());
        let secret = secret.ok_or_else(|| input("no worker staticSecret provided"))?;
        if let Some(row) = self.workers.get(&name) {
            let same = row.static_secret.as_ref() == Some(&secret);
            return if same { answer(&row.worker) } else { Err(input("worker already exists")) };
        }
        let provider_id = self.pool(&name.worker_pool_id)?.provider_id.clone();
        let worker = Worker {
            expires: request.expires,
            capacity: request.capacity.map_or(Capacity::from(1), Capacity::Tasks),
            ..new_worker(&name, provider_id, WorkerState::Running, now)
        };
        self.workers.insert(name, WorkerRow { static_secret: Some(secret), ..WorkerRow::new(worker.clone()) });
        answer(worker)
    }

    pub(super) fn update_worker(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let request: CreateWorker = routed.payload()?;
        let (name, now) = (routed.worker()?, self.timestamp());
        let provider_type = self.provider_type(routed)?;
        if provider_type != ProviderType::Static {
            return Err(input(format!("updating workers is not supported for provider type {provider_type}")));
        }
        let row = self.workers.get_mut(&name).ok_or_else(|| absent(format!("Worker {name} does not exist")))?;
        let secret = request.provider_info.ok_or_else(|| input("no worker staticSecret provided"))?.static_secret;
        row.static_secret = Some(secret.as_secret().expose_secret().to_owned());
        row.worker.expires = request.expires;
        row.worker.capacity = request.capacity.map_or(Capacity::from(1), Capacity::Tasks);
        row.worker.last_modified = now;
        answer(&row.worker)
    }

    pub(super) fn remove_worker(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let (name, now) = (routed.worker()?, self.timestamp());
        let row = self.workers.get_mut(&name).ok_or_else(|| absent("Worker not found"))?;
        row.worker.state = WorkerState::Stopped;
        row.worker.last_modified = now;
        self.removals += 1;
        answer(json!({}))
    }

    pub(super) fn should_worker_terminate(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        self.row(&routed.worker()?)?;
        let reason = self.unwanted.as_deref().unwrap_or("the pool is content").to_owned();
        answer(ShouldTerminate { terminate: self.unwanted.is_some(), reason })
    }

    /// Of a pool, or of one of its groups.
    pub(super) fn list_workers_of_pool(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let id = routed.pool()?;
        self.pool(&id)?;
        let in_group = |worker: &&Worker| {
            routed.arguments.get("workerGroup").is_none_or(|group| worker.worker_group.as_str() == group)
        };
        let fits = |worker: &&Worker| {
            worker.worker_pool_id == id
                && in_group(worker)
                && routed.wants("state", Some(worker.state.as_str()))
                && routed.wants("launchConfigId", worker.launch_config_id.as_ref().map(LaunchConfigId::as_str))
        };
        let wanted = self.workers.values().map(|row| &row.worker).filter(fits).cloned();
        let (workers, continuation_token) = routed.page(wanted)?;
        answer(WorkerList { workers, continuation_token })
    }

    pub(super) fn list_workers(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let id = routed.pool()?;
        let now = self.timestamp();
        let quarantined = match routed.query.get("quarantined").map(String::as_str) {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(query_is_wrong("quarantined")),
        };
        let fits = |row: &&WorkerRow| {
            let is_quarantined = row.quarantine_until().is_some_and(|until| until > now);
            row.worker.worker_pool_id == id
                && quarantined.is_none_or(|wanted| wanted == is_quarantined)
                && routed.wants("workerState", Some(row.worker.state.as_str()))
                && routed.wants("launchConfigId", row.worker.launch_config_id.as_ref().map(LaunchConfigId::as_str))
        };
        let view = |row: &WorkerRow| QueueWorker {
            worker_group: row.worker.worker_group.clone(),
            worker_id: row.worker.worker_id.clone(),
            worker_pool_id: Some(row.worker.worker_pool_id.clone()),
            provider_id: Some(row.worker.provider_id.clone()),
            launch_config_id: row.worker.launch_config_id.clone(),
            state: Some(row.worker.state.clone()),
            capacity: Some(row.worker.capacity),
            first_claim: row.first_claim,
            last_date_active: row.last_active,
            quarantine_until: row.quarantine_until(),
            latest_task: row.recent_tasks.last().cloned(),
        };
        let (workers, continuation_token) = routed.page(self.workers.values().filter(fits).map(view))?;
        answer(QueueWorkerList { workers, continuation_token })
    }

    pub(super) fn get_worker(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let name = routed.worker()?;
        let row = self.row(&name)?;
        answer(QueueWorkerDetails {
            provisioner_id: name.worker_pool_id.provisioner_id().to_owned(),
            worker_type: name.worker_pool_id.worker_type().to_owned(),
            worker_group: name.worker_group.clone(),
            worker_id: name.worker_id.clone(),
            provider_id: Some(row.worker.provider_id.clone()),
            launch_config_id: row.worker.launch_config_id.clone(),
            state: Some(row.worker.state.clone()),
            capacity: Some(row.worker.capacity),
            first_claim: row.first_claim.unwrap_or(row.worker.created),
            last_date_active: row.last_active,
            expires: row.worker.expires,
            recent_tasks: row.recent_tasks.iter().rev().take(20).cloned().collect(),
            quarantine_until: row.quarantine_until(),
            quarantine_details: (!row.quarantine.is_empty()).then(|| row.quarantine.clone()),
            worker_pool_id: Some(name.worker_pool_id),
        })
    }

    pub(super) fn register_worker(&mut self, cloud: &Cloud, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let request: RegisterWorker = routed.payload()?;
        check_proof(&request.worker_identity_proof)?;
        let name = WorkerName {
            worker_pool_id: request.worker_pool_id.clone(),
            worker_group: request.worker_group,
            worker_id: request.worker_id,
        };
        let pool = self.pool(&name.worker_pool_id)?;
        let worker_config = worker_config(pool).unwrap_or_else(|| self.worker_config.clone());
        let row = self.workers.get(&name).ok_or_else(|| absent(format!("Worker {name} does not exist")))?;
        if row.worker.expires <= self.timestamp() {
            return Err(input(format!("{name} has expired")));
        }
        if row.worker.provider_id != request.provider_id {
            return Err(input(format!("{name} does not have provider {}", request.provider_id)));
        }
        let proof = serde_json::to_value(&request.worker_identity_proof).unwrap_or_default();
        let expected = match &row.static_secret {
            Some(secret) => json!({"staticSecret": secret}),
            None => cloud.proof(&self.static_secret),
        };
        if proof != expected {
            return Err(input("the proof proves nothing"));
        }
        let kind = self.providers.iter().find(|provider| provider.provider_id == request.provider_id.as_str());
        let registers_once = kind.is_none_or(|provider| provider.provider_type != ProviderType::Static);
        match row.worker.state {
            WorkerState::Stopped | WorkerState::Stopping => return Err(input("this worker has been stopped")),
            WorkerState::Running if registers_once => return Err(input("this worker is already running")),
            WorkerState::Running | WorkerState::Requested | WorkerState::Standalone | WorkerState::Other(_) => {}
        }
        self.registrations += 1;
        let Renewal { credentials, expires, secret } = self.issue(&name, self.credentials_life);
        answer(Registration {
            credentials,
            expires,
            secret,
            worker_config: worker_config.as_object().cloned().unwrap_or_default(),
        })
    }

    pub(super) fn reregister_worker(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let request: ReregisterWorker = routed.payload()?;
        if request.secret.expose_secret().len() != 44 {
            return Err(invalid("secret does not validate"));
        }
        let name = WorkerName {
            worker_pool_id: request.worker_pool_id,
            worker_group: request.worker_group,
            worker_id: request.worker_id,
        };
        let known = self.workers.get(&name).and_then(|row| row.renewal_secret.as_deref());
        if known != Some(request.secret.expose_secret()) {
            return Err(input("could not generate credentials for this secret"));
        }
        self.renewals += 1;
        answer(self.issue(&name, self.renewed_life))
    }

    /// New credentials; the secret before them is dead. The worker runs now.
    fn issue(&mut self, name: &WorkerName, life: Duration) -> Renewal {
        self.counter += 1;
        let (number, now) = (self.counter, self.now());
        let expires = now + life;
        let secret = format!("{:_<44}", format!("canary-registration-secret-{number}-"));
        let millis = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
        };
        let WorkerName { worker_pool_id: pool, worker_group: group, worker_id: id } = name;
        let scopes = [
            format!("assume:worker-pool:{pool}"),
            format!("assume:worker-id:{group}/{id}"),
            format!("secrets:get:worker-pool:{pool}"),
            format!("secrets:get:worker-type:{pool}"),
            format!("worker-manager:remove-worker:{pool}/{group}/{id}"),
            format!("worker-manager:reregister-worker:{pool}/{group}/{id}"),
            format!("worker-manager:should-worker-terminate:{pool}/{group}/{id}"),
        ];
        let certificate = json!({
            "version": 1, "scopes": scopes, "start": millis(now), "expiry": millis(expires),
            "seed": format!("{:_<44}", format!("canary-certificate-{number}-")),
            "signature": STANDARD.encode(format!("{:_<32}", format!("canary-signature-{number}-"))), "issuer": "simulator",
        });
        let timestamp = self.timestamp();
        let provider_id = self.workers.get_mut(name).map(|row| {
            row.worker.state = WorkerState::Running;
            row.worker.last_modified = timestamp;
            row.renewal_secret = Some(secret.clone());
            row.first_claim.get_or_insert(timestamp);
            row.last_active = Some(timestamp);
            row.worker.provider_id.to_string()
        });
        let client = ApiClient {
            client_id: format!("worker/{}/{pool}/{id}", provider_id.unwrap_or_default()),
            access_token: format!("canary-access-token-{number}-0123456789abcdef"),
            certificate: Some(certificate.to_string()),
            expires,
            scopes: scopes.to_vec(),
        };
        let credentials = Credentials {
            client_id: client.client_id.clone(),
            access_token: client.access_token.as_str().into(),
            certificate: client.certificate.as_deref().map(Into::into),
        };
        self.clients.push(client);
        Renewal { credentials, expires: Timestamp::try_from(expires).unwrap_or(Timestamp::MAX), secret: secret.into() }
    }
}

/// A worker that is made now, runs one task at once, and stays.
pub(super) fn new_worker(name: &WorkerName, provider_id: ProviderId, state: WorkerState, now: Timestamp) -> Worker {
    let WorkerName { worker_pool_id, worker_group, worker_id } = name.clone();
    Worker {
        worker_pool_id,
        worker_group,
        worker_id,
        provider_id,
        launch_config_id: None,
        created: now,
        expires: far_future(),
        state,
        capacity: Capacity::from(1),
        last_checked: now,
        last_modified: now,
    }
}

/// A proof is of one of the forms that the schema knows.
fn check_proof(proof: &WorkerProof) -> Result<(), Refusal> {
    match proof {
        WorkerProof::Aws { .. } | WorkerProof::Azure { .. } | WorkerProof::Google { .. } => Ok(()),
        WorkerProof::Static { secret } if is_secret(secret.expose_secret()) => Ok(()),
        WorkerProof::Static { .. } | WorkerProof::Other(_) => Err(invalid("workerIdentityProof does not validate")),
    }
}

/// `[a-zA-Z0-9_-]{44}`
fn is_secret(text: &str) -> bool {
    text.parse::<taskcluster_api::StaticSecret>().is_ok()
}

/// What a pool says that its workers are told.
fn worker_config(pool: &taskcluster_api::WorkerPool) -> Option<Value> {
    let config = Value::Object(Map::clone(&pool.config));
    let places = ["/workerConfig", "/launchConfigs/0/workerConfig"];
    places.iter().find_map(|place| config.pointer(place)).filter(|config| config.is_object()).cloned()
}
