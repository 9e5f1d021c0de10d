//! generic-worker: `<path> run --config <configPath> --with-worker-runner`, configured by one JSON file.

use super::process::{Process, ProcessSpec};
use super::{Driver, DriverError, Habits, Started, Worker, facts, location, require_program, resolve, write_config};
use crate::layer::{Layer, Source};
use crate::run_state::{Admitted, RunState};
use serde_json::{Map, Value};
use std::path::PathBuf;
use taskcluster_api::ExposeSecret;

const CONFIG_KEY: &str = "genericWorker";

/// generic-worker as our child.
pub struct GenericWorker {
    path: PathBuf,
    config_path: PathBuf,
}

/// generic-worker as a Windows service.
pub struct Service {
    name: String,
    config_path: PathBuf,
}

impl GenericWorker {
    pub fn new(path: PathBuf, config_path: PathBuf) -> Self {
        Self { path, config_path }
    }
}

impl Service {
    pub fn new(name: String, config_path: PathBuf) -> Self {
        Self { name, config_path }
    }
}

impl Driver for GenericWorker {
    fn config_key(&self) -> &'static str {
        CONFIG_KEY
    }

    fn layers(&self, admitted: &Admitted) -> Vec<Layer> {
        layers(admitted)
    }

    fn habits(&self, run: &RunState) -> Habits {
        habits(run, &self.layers(&run.admitted))
    }

    fn preflight(&self) -> Result<(), DriverError> {
        require_program(&resolve(&self.path))
    }

    fn start(&self, run: &RunState, oom_score_adj: Option<&str>) -> Result<Started, DriverError> {
        write_config(&self.config_path, &run.worker_config(&self.layers(&run.admitted)))?;
        let spec = ProcessSpec {
            program: resolve(&self.path),
            arguments: vec![
                "run".into(),
                "--config".into(),
                self.config_path.clone().into(),
                "--with-worker-runner".into(),
            ],
            environment: Vec::new(),
            oom_score_adj: oom_score_adj.map(str::to_owned),
        };
        let (process, streams) =
            Process::spawn(&spec).map_err(|source| DriverError::Spawn { path: self.path.clone(), source })?;
        Ok(Started::Worker(Box::new(Worker { process, streams })))
    }
}

impl Driver for Service {
    fn config_key(&self) -> &'static str {
        CONFIG_KEY
    }

    fn layers(&self, admitted: &Admitted) -> Vec<Layer> {
        layers(admitted)
    }

    fn habits(&self, run: &RunState) -> Habits {
        habits(run, &self.layers(&run.admitted))
    }

    fn preflight(&self) -> Result<(), DriverError> {
        Err(DriverError::Service(self.name.clone()))
    }

    fn start(&self, _run: &RunState, _oom_score_adj: Option<&str>) -> Result<Started, DriverError> {
        let _ = &self.config_path;
        Err(DriverError::Service(self.name.clone()))
    }
}

/// Source: generic-worker's documentation of its signals, its exit codes and `disableReboots`.
fn habits(run: &RunState, layers: &[Layer]) -> Habits {
    let config = run.worker_config(layers).to_value();
    Habits {
        drains_on_interrupt: cfg!(unix),
        asks_whether_wanted: true,
        leaves_reboots_to_others: config.get("disableReboots") == Some(&Value::Bool(true)),
    }
}

/// Source: generic-worker's `config` structure; the keys that worker-runner sets.
fn layers(admitted: &Admitted) -> Vec<Layer> {
    let (identity, credentials) = (&admitted.identity, &admitted.credentials);
    let location = location(admitted);
    let mut config = facts([
        ("rootURL", Some(identity.root_url.as_str())),
        ("clientId", Some(&credentials.client_id)),
        ("provisionerId", Some(identity.worker_pool_id.provisioner_id())),
        ("workerType", Some(identity.worker_pool_id.worker_type())),
        ("workerGroup", Some(identity.worker_group.as_str())),
        ("workerId", Some(identity.worker_id.as_str())),
        ("workerLocation", Some(&location)),
        ("publicIP", identity.metadata_text("public-ipv4")),
        ("privateIP", identity.metadata_text("local-ipv4")),
        ("instanceType", identity.metadata_text("instance-type")),
        ("instanceID", identity.metadata_text("instance-id")),
        ("region", identity.metadata_text("region")),
        ("availabilityZone", identity.metadata_text("availability-zone")),
    ]);
    if !identity.metadata.is_empty() {
        config.insert("workerTypeMetadata".to_owned(), Value::Object(identity.metadata.clone()));
    }
    let secret: Map<String, Value> = facts([
        ("accessToken", Some(credentials.access_token.expose_secret())),
        ("certificate", credentials.certificate.as_ref().map(taskcluster_api::ExposeSecret::expose_secret)),
    ]);
    vec![Layer { source: Source::Driver, config }, Layer { source: Source::Credentials, config: secret }]
}
