//! Which deployment, and who asks.

use super::FleetError;
use crate::USER_AGENT;
use crate::cli::DeploymentArguments;
use crate::platform;
use crate::runner_config as documents;
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use taskcluster_api::{Client, Credentials, Environment, RootUrl, SecretString, WorkerManager, from_json};

/// A file of more bytes than this is none with credentials.
const MAX_SIZE: u64 = 1024 * 1024;

/// A deployment, as an operator sees it.
#[derive(Debug, Clone)]
pub(super) struct Deployment {
    /// What a machine is to call; not known where only a proxy is.
    root_url: Option<RootUrl>,
    pub(super) manager: WorkerManager,
}

/// What a file with credentials holds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(alias = "rootURL")]
    root_url: RootUrl,
    #[serde(alias = "clientID")]
    client_id: String,
    access_token: SecretString,
    #[serde(default)]
    certificate: Option<SecretString>,
}

impl Deployment {
    /// That of the file, or else of the environment.
    pub(super) fn of(arguments: &DeploymentArguments) -> Result<Self, FleetError> {
        let Environment { root_url, called_url, credentials } = match &arguments.credentials {
            Some(path) => read(path).map_err(|problem| FleetError::Credentials { path: path.clone(), problem })?,
            None => platform::taskcluster_environment().map_err(FleetError::Environment)?,
        };
        let client = Client::with_user_agent(called_url, USER_AGENT).map_err(FleetError::Client)?;
        let client = match credentials {
            Some(credentials) => client.with_credentials(credentials),
            None => {
                tracing::warn!("no credentials are given: asking as anybody");
                client
            }
        };
        Ok(Self { root_url, manager: WorkerManager::new(client) })
    }

    /// What a machine is to call.
    pub(super) fn root_url(&self) -> Result<&RootUrl, FleetError> {
        self.root_url.as_ref().ok_or(FleetError::OnlyProxy)
    }
}

fn read(path: &Path) -> Result<Environment, String> {
    let mut text = String::new();
    let read = platform::open_regular_file(path).and_then(|file| file.take(MAX_SIZE).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    let document = Value::Object(documents::parse_mapping(&text)?).to_string();
    let document: Document = from_json(document.as_bytes()).map_err(|problem| problem.to_string())?;
    // It holds credentials: before that was known it was somebody's file.
    documents::tighten(path);
    let credentials = Credentials::new(document.client_id, document.access_token);
    let credentials = match document.certificate {
        Some(certificate) => credentials.with_certificate(certificate).map_err(|error| error.to_string())?,
        None => credentials,
    };
    let (root_url, called_url) = (Some(document.root_url.clone()), document.root_url);
    Ok(Environment { root_url, called_url, credentials: Some(credentials) })
}
