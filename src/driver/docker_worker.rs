//! docker-worker: a Node.js program in a folder, configured by the file that `DOCKER_WORKER_CONFIG` names.

use super::process::{self, Process, ProcessSpec};
use super::{Driver, DriverError, Habits, StartTerms, Started, Worker, facts, location, require_program, write_config};
use crate::json::object;
use crate::layer::{Layer, Source};
use crate::platform;
use crate::run_state::{Admitted, RunState};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;
use taskcluster_api::ExposeSecret;

/// docker-worker.
pub struct DockerWorker {
    path: PathBuf,
    config_path: PathBuf,
}

impl DockerWorker {
    pub fn new(path: PathBuf, config_path: PathBuf) -> Self {
        Self { path, config_path }
    }

    /// A release has a launcher; a checkout is run by Node.js.
    fn command(&self) -> Result<(PathBuf, Vec<OsString>), DriverError> {
        let launcher = self.path.join("bin").join("docker-worker");
        let script = self.path.join("src").join("bin").join("worker.js");
        if !launcher.exists() && script.is_file() {
            let node = platform::find_program("node").ok_or(DriverError::Missing("node"))?;
            return Ok((node, vec![script.into()]));
        }
        require_program(&launcher)?;
        Ok((launcher, Vec::new()))
    }
}

#[async_trait]
impl Driver for DockerWorker {
    fn config_key(&self) -> &'static str {
        "dockerWorker"
    }

    fn layers(&self, admitted: &Admitted) -> Vec<Layer> {
        let (identity, credentials) = (&admitted.identity, &admitted.credentials);
        let location = location(admitted);
        let instance_type = identity.metadata_text("instance-type");
        let mut config = facts([
            ("rootUrl", Some(identity.root_url.as_str())),
            ("workerId", Some(identity.worker_id.as_str())),
            ("workerGroup", Some(identity.worker_group.as_str())),
            ("provisionerId", Some(identity.worker_pool_id.provisioner_id())),
            ("workerType", Some(identity.worker_pool_id.worker_type())),
            ("workerLocation", Some(&location)),
            ("host", identity.metadata_text("public-hostname")),
            ("publicIp", identity.metadata_text("public-ipv4")),
            ("privateIp", identity.metadata_text("local-ipv4")),
            ("workerNodeType", instance_type),
            ("instanceType", instance_type),
            ("instanceId", identity.metadata_text("instance-id")),
            ("region", identity.metadata_text("region")),
        ]);
        config.insert("taskcluster".to_owned(), json!({"clientId": credentials.client_id}));
        let secret = facts([
            ("accessToken", Some(credentials.access_token.expose_secret())),
            ("certificate", credentials.certificate.as_ref().map(taskcluster_api::ExposeSecret::expose_secret)),
        ]);
        let secret = object([("taskcluster", Value::Object(secret))]);
        vec![Layer { source: Source::Driver, config }, Layer { source: Source::Credentials, config: secret }]
    }

    fn habits(&self, _run: &RunState) -> Habits {
        Habits {
            drains_on_interrupt: false,
            heeds_termination: process::TERMINATION_IS_GENTLE,
            ends_with_its_output: false,
            asks_whether_wanted: false,
            leaves_reboots_to_others: false,
        }
    }

    fn preflight(&self) -> Result<(), DriverError> {
        self.command().map(|_| ())
    }

    async fn start(&self, run: &RunState, terms: &StartTerms<'_>) -> Result<Started, DriverError> {
        write_config(&self.config_path, &run.worker_config(&self.layers(&run.admitted)), &[])?;
        let (program, mut arguments) = self.command()?;
        arguments.extend(["--host", "worker-runner", "production"].map(OsString::from));
        let environment = vec![("DOCKER_WORKER_CONFIG".into(), self.config_path.clone().into())];
        let oom_score_adj = terms.oom_score_adj.map(str::to_owned);
        let spec = ProcessSpec { program, arguments, environment, oom_score_adj, crosses_sessions: false };
        let (process, streams) =
            Process::spawn(&spec).map_err(|source| DriverError::Spawn { path: spec.program.clone(), source })?;
        Ok(Started::Worker(Box::new(Worker { process, streams })))
    }
}
