//! Providers: who says which worker this machine is, how that is proved, and who says that it will go away.

mod aws;
mod azure;
mod google;
mod host;
pub mod metadata_http;

use crate::run_state::Identity;
use crate::runner_config::ProviderConfig;
use async_trait::async_trait;
use jiff::Timestamp;
use metadata_http::{Failure, MetadataError, MetadataService};
use serde_json::{Map, Value};
use std::fmt;
use taskcluster_api::{Credentials, WorkerProof};

/// What a provider finds out about the machine.
#[derive(Debug)]
pub struct Found {
    /// Who it is.
    pub identity: Identity,
    /// What makes worker-manager believe that.
    pub claim: Claim,
}

/// How a machine gets its credentials.
#[derive(Debug)]
pub enum Claim {
    /// By registering with this proof.
    Proof(WorkerProof),
    /// It has them already.
    Preissued(Credentials),
}

/// Whether a cached run is this machine's.
#[derive(Debug, PartialEq, Eq)]
pub enum Recognition {
    /// It is.
    Ours,
    /// It is not: this machine is another.
    Other(String),
    /// Nobody answered.
    Unknown,
}

/// Word that the machine will be interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who says so, and what: for the log.
    pub source: String,
    /// When, if that is said.
    pub deadline: Option<Timestamp>,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.deadline {
            Some(deadline) => write!(f, "{}, at {deadline:.0}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// Why a provider can't say who the machine is.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The metadata service doesn't answer as it should.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// An answer holds something else than it should.
    #[error("{url}: `{field}`: {problem}")]
    Field {
        /// What was asked.
        url: String,
        /// Which part of the answer.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The machine is being taken away already.
    #[error("this instance is already being reclaimed: {0}")]
    Reclaimed(Notice),
}

/// A source of identity. All methods are required: "this host gets no notice" is a line that somebody wrote.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Who this machine is, and its claim to be.
    async fn identify(&self) -> Result<Found, ProviderError>;

    /// A fresh proof of the same.
    async fn prove(&self) -> Result<WorkerProof, ProviderError>;

    /// Whether a cached run is this machine's. May wait; the caller sets the limit.
    async fn recognise(&self, cached: &Identity) -> Recognition;

    /// The next notice that hasn't been returned before. Never ends where there is none; cancel-safe.
    async fn next_notice(&mut self) -> Notice;
}

/// The provider that the config names. `metadata` says where a cloud's metadata service is.
///
/// # Errors
/// Where no HTTP client can be made.
pub fn build(config: &ProviderConfig, metadata: &MetadataService) -> Result<Box<dyn Provider>, ProviderError> {
    Ok(match config {
        ProviderConfig::Aws => Box::new(aws::Aws::new(metadata)?),
        ProviderConfig::Azure => Box::new(azure::Azure::new(metadata)?),
        ProviderConfig::Google => Box::new(google::Google::new(metadata)?),
        ProviderConfig::Static(config) => Box::new(host::StaticHost::new(config.clone())),
        ProviderConfig::Standalone(config) => Box::new(host::Standalone::new(config.clone())),
    })
}

/// Compares the one id that tells machines of a provider apart.
fn recognise_id(cached: &str, now: Result<&str, &ProviderError>) -> Recognition {
    match now {
        Ok(id) if id == cached => Recognition::Ours,
        Ok(id) => Recognition::Other(id.to_owned()),
        Err(error) => {
            tracing::debug!("cannot ask who this machine is: {error}");
            Recognition::Unknown
        }
    }
}

/// Those of these facts that are known; nothing is invented for the others.
fn known<const N: usize>(facts: [(&str, Option<String>); N]) -> Map<String, Value> {
    facts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect()
}

/// Looks happen every second: says once that they fail, and once that they work again.
fn note_trouble(trouble: &mut bool, failure: Option<&Failure>) {
    match (*trouble, failure) {
        (false, Some(failure)) => tracing::warn!("cannot look for interruption notices: {failure}; going on trying"),
        (true, None) => tracing::info!("looking for interruption notices works again"),
        (true, Some(_)) | (false, None) => {}
    }
    *trouble = failure.is_some();
}
