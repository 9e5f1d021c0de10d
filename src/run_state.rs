//! The moments of a boot, as types: who the machine is ([`Identity`]), that worker-manager took it
//! ([`Admitted`]), and all that the worker will be told ([`RunState`]).

use crate::files::FileSpec;
use crate::layer::{Layer, Merged};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use taskcluster_api::{
    Credentials, ProviderId, Renewal, RootUrl, SecretString, WorkerGroup, WorkerId, WorkerName, WorkerPoolId,
};

/// Who this machine is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The deployment it belongs to.
    pub root_url: RootUrl,
    /// The provider in worker-manager's configuration.
    pub provider_id: ProviderId,
    /// The pool it works for.
    pub worker_pool_id: WorkerPoolId,
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id.
    pub worker_id: WorkerId,
    /// What the provider says of the machine: `instance-type`, `region` and so on.
    pub metadata: Map<String, Value>,
    /// Where it is: `cloud`, `region` and so on.
    pub location: BTreeMap<String, String>,
}

impl Identity {
    /// The worker's name in worker-manager.
    pub fn worker(&self) -> WorkerName {
        WorkerName {
            worker_pool_id: self.worker_pool_id.clone(),
            worker_group: self.worker_group.clone(),
            worker_id: self.worker_id.clone(),
        }
    }

    /// A member of the metadata that is a string.
    pub fn metadata_text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} (group {})", self.worker_id, self.worker_pool_id, self.worker_group)
    }
}

/// How credentials are renewed, and until when they live.
#[derive(Debug, Clone)]
pub struct Lease {
    /// When the credentials end.
    pub expires: Timestamp,
    /// What renews them, once.
    pub secret: SecretString,
}

/// A machine with credentials.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Who it is.
    pub identity: Identity,
    /// Its credentials.
    pub credentials: Credentials,
    /// Their end; none for credentials that never end.
    pub lease: Option<Lease>,
    /// The worker pool's configuration, as `registerWorker` answered it.
    pub worker_config: Map<String, Value>,
}

impl Admitted {
    /// Whether the credentials end within this time, or have ended.
    pub fn ends_within(&self, time: Duration) -> bool {
        let left = |lease: &Lease| lease.expires.duration_since(Timestamp::now());
        self.lease.as_ref().is_some_and(|lease| Duration::try_from(left(lease)).unwrap_or_default() <= time)
    }

    /// Takes new credentials in the place of the old ones.
    pub fn adopt(&mut self, renewal: Renewal) {
        self.credentials = renewal.credentials;
        self.lease = Some(Lease { expires: renewal.expires, secret: renewal.secret });
    }

    /// When the credentials ended, if they have.
    pub fn expired(&self) -> Option<Timestamp> {
        self.lease.as_ref().map(|lease| lease.expires).filter(|expires| *expires <= Timestamp::now())
    }
}

/// All that the worker will be told and given.
#[derive(Debug, Clone)]
pub struct RunState {
    /// The machine.
    pub admitted: Admitted,
    /// The layers below the driver's, the lowest first.
    pub layers: Vec<Layer>,
    /// The files: to be written, or those that were and hold secrets.
    pub files: Vec<FileSpec>,
}

impl RunState {
    /// The worker's configuration, with the driver's layers on top. The same state gives the same bytes.
    pub fn worker_config(&self, driver: &[Layer]) -> Merged {
        Merged::of(self.layers.iter().chain(driver))
    }
}
