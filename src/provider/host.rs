//! static and standalone: machines that no cloud describes. The runner config says who they are, and nothing
//! but their operator takes them away.

use super::{Claim, Found, HearRootUrl, Provider, ProviderError, Recognition, Watch};
use crate::run_state::Identity;
use crate::runner_config::{HostConfig, StandaloneConfig, StaticConfig};
use async_trait::async_trait;
use taskcluster_api::{ProviderId, WorkerProof};

/// A machine that worker-manager knows by a shared secret.
pub struct StaticHost(StaticConfig);

/// A machine that worker-manager doesn't know.
pub struct Standalone(StandaloneConfig);

impl StaticHost {
    pub fn new(config: StaticConfig) -> Self {
        Self(config)
    }

    fn proof(&self) -> WorkerProof {
        WorkerProof::Static { secret: self.0.static_secret.clone() }
    }
}

impl Standalone {
    /// The provider id that workers see where there is no provider.
    const PROVIDER_ID: &str = "standalone";

    pub fn new(config: StandaloneConfig) -> Self {
        Self(config)
    }
}

#[async_trait]
impl Provider for StaticHost {
    async fn identify(&self, _hear: &HearRootUrl<'_>) -> Result<Found, ProviderError> {
        let identity = self.0.host.identity(self.0.provider_id.clone(), "static");
        Ok(Found { identity, claim: Claim::Proof(self.proof()) })
    }

    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        Ok(self.proof())
    }

    async fn recognise(&self, cached: &Identity) -> Recognition {
        recognise(&self.0.host, cached)
    }

    /// Nobody takes the machine away but its operator, and that is a signal.
    fn watches(&self) -> Vec<Box<dyn Watch>> {
        Vec::new()
    }

    /// There are no events to acknowledge.
    async fn acknowledge(&self, _event: &str) {}

    /// No cloud made this machine.
    async fn terminate(&self, _identity: &Identity) -> bool {
        false
    }
}

#[async_trait]
impl Provider for Standalone {
    async fn identify(&self, _hear: &HearRootUrl<'_>) -> Result<Found, ProviderError> {
        let provider_id: ProviderId = Self::PROVIDER_ID.parse().map_err(|_| ProviderError::Field {
            url: "standalone".into(),
            field: "providerId",
            problem: ProviderId::EXPECTED.into(),
        })?;
        let identity = self.0.host.identity(provider_id, "standalone");
        Ok(Found { identity, claim: Claim::Preissued(self.0.credentials.clone()) })
    }

    /// There is nothing to prove it to: its claim is preissued credentials.
    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        Err(ProviderError::Field {
            url: "standalone".into(),
            field: "proof",
            problem: "a standalone machine has credentials and proves nothing".into(),
        })
    }

    async fn recognise(&self, cached: &Identity) -> Recognition {
        recognise(&self.0.host, cached)
    }

    /// Nobody takes the machine away but its operator, and that is a signal.
    fn watches(&self) -> Vec<Box<dyn Watch>> {
        Vec::new()
    }

    /// There are no events to acknowledge.
    async fn acknowledge(&self, _event: &str) {}

    /// No cloud made this machine.
    async fn terminate(&self, _identity: &Identity) -> bool {
        false
    }
}

/// A host is the one that its config names; a cache written under another name is stale.
fn recognise(host: &HostConfig, cached: &Identity) -> Recognition {
    if host.is(cached) { Recognition::Ours } else { Recognition::Other(host.to_string()) }
}
