//! generic-worker: `<path> run --config <configPath> --with-worker-runner`, configured by one JSON file.

#[cfg(windows)]
use super::process::ServiceSpec;
use super::process::{self, Process, ProcessSpec};
use super::{
    Driver, DriverError, Habits, StartTerms, Started, Worker, facts, location, require_program, resolve, write_config,
};
use crate::layer::{Layer, Source};
use crate::platform;
use crate::run_state::{Admitted, RunState};
use async_trait::async_trait;
use serde_json::{Map, Value};
use std::path::PathBuf;
use taskcluster_api::ExposeSecret;
#[cfg(windows)]
use windows_service::service::ServiceAccess;

const CONFIG_KEY: &str = "genericWorker";

/// generic-worker as our child.
pub struct GenericWorker {
    path: PathBuf,
    config_path: PathBuf,
}

/// generic-worker as a Windows service, or rather as a wrapper's child, which is one.
pub struct Service {
    name: String,
    #[cfg_attr(not(windows), expect(dead_code, reason = "there are no such services here"))]
    protocol_pipe: String,
    #[cfg_attr(not(windows), expect(dead_code, reason = "there are no such services here"))]
    config_path: PathBuf,
}

impl GenericWorker {
    pub fn new(path: PathBuf, config_path: PathBuf) -> Self {
        Self { path, config_path }
    }
}

impl Service {
    pub fn new(name: String, protocol_pipe: String, config_path: PathBuf) -> Self {
        Self { name, protocol_pipe, config_path }
    }
}

#[async_trait]
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
        require_program(&self.path)
    }

    async fn start(&self, run: &RunState, terms: &StartTerms<'_>) -> Result<Started, DriverError> {
        let config = run.worker_config(&self.layers(&run.admitted));
        write_config(&self.config_path, &config, &[])?;
        let spec = ProcessSpec {
            program: resolve(&self.path),
            arguments: vec![
                "run".into(),
                "--config".into(),
                self.config_path.clone().into(),
                "--with-worker-runner".into(),
            ],
            environment: Vec::new(),
            oom_score_adj: terms.oom_score_adj.map(str::to_owned),
            crosses_sessions: platform::is_session_of_services() && !tasks_stay(&config.to_value()),
        };
        let (process, streams) =
            Process::spawn(&spec).map_err(|source| DriverError::Spawn { path: self.path.clone(), source })?;
        Ok(Started::Worker(Box::new(Worker { process, streams })))
    }
}

#[async_trait]
impl Driver for Service {
    fn config_key(&self) -> &'static str {
        CONFIG_KEY
    }

    fn layers(&self, admitted: &Admitted) -> Vec<Layer> {
        layers(admitted)
    }

    fn habits(&self, run: &RunState) -> Habits {
        Habits {
            // It has a console of its own, if any; and the service manager's stop is what its wrapper makes of it.
            drains_on_interrupt: false,
            heeds_termination: true,
            ends_with_its_output: true,
            ..habits(run, &self.layers(&run.admitted))
        }
    }

    #[cfg(windows)]
    fn preflight(&self) -> Result<(), DriverError> {
        // All that the start takes: what we may not is found before the machine registers.
        process::find_service(&self.name, process::SERVICE_RIGHTS).map(drop).map_err(DriverError::from)
    }

    #[cfg(not(windows))]
    fn preflight(&self) -> Result<(), DriverError> {
        Err(DriverError::NoServices(self.name.clone()))
    }

    #[cfg(windows)]
    async fn start(&self, run: &RunState, terms: &StartTerms<'_>) -> Result<Started, DriverError> {
        let readers = {
            let service = process::find_service(&self.name, ServiceAccess::QUERY_CONFIG)?;
            process::service_account(&service)
                .map_err(|source| DriverError::Config { path: self.config_path.clone(), source })?
        };
        write_config(&self.config_path, &run.worker_config(&self.layers(&run.admitted)), &readers)?;
        let spec = ServiceSpec {
            name: self.name.clone(),
            protocol_pipe: self.protocol_pipe.clone(),
            stops_within: terms.settings.stop.grace,
            connects_within: terms.settings.protocol.hello_timeout,
        };
        let (process, streams) = Process::start_service(&spec).await?;
        Ok(Started::Worker(Box::new(Worker { process, streams })))
    }

    #[cfg(not(windows))]
    async fn start(&self, _run: &RunState, _terms: &StartTerms<'_>) -> Result<Started, DriverError> {
        Err(DriverError::NoServices(self.name.clone()))
    }
}

/// Whether tasks run in the worker's own session. Others run in that of the user who is logged in for them.
///
/// Source: generic-worker's documentation of `headlessTasks` and `runTasksAsCurrentUser`.
fn tasks_stay(config: &Value) -> bool {
    ["headlessTasks", "runTasksAsCurrentUser"].iter().any(|key| config.get(key) == Some(&Value::Bool(true)))
}

/// Source: generic-worker's documentation of its signals, its exit codes and `disableReboots`.
fn habits(run: &RunState, layers: &[Layer]) -> Habits {
    let config = run.worker_config(layers).to_value();
    Habits {
        drains_on_interrupt: process::can_interrupt(),
        heeds_termination: process::TERMINATION_IS_GENTLE,
        ends_with_its_output: false,
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
