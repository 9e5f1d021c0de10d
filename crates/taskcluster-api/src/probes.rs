//! The four calls that every Taskcluster service has, for those who watch over it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What `version` answers: Dockerflow's version object.
///
/// Source: <https://github.com/mozilla-services/Dockerflow/blob/main/docs/version_object.md>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceVersion {
    /// The release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where its source is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Which build made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Anything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The four calls, for a service that is a newtype of a client.
macro_rules! probes {
    ($endpoint:ident) => {
        /// `ping`: whether the service answers.
        ///
        /// # Errors
        /// As [`ApiError`] says.
        pub async fn ping(&self) -> Result<(), ApiError> {
            self.0.perform(&Call::new(&$endpoint::PING, &[])).await
        }

        /// `lbheartbeat`: whether the service answers, for load balancers.
        ///
        /// # Errors
        /// As [`ApiError`] says.
        pub async fn lbheartbeat(&self) -> Result<(), ApiError> {
            self.0.perform(&Call::new(&$endpoint::LBHEARTBEAT, &[])).await
        }

        /// `heartbeat`: whether the service and what it needs itself are well.
        ///
        /// # Errors
        /// As [`ApiError`] says.
        pub async fn heartbeat(&self) -> Result<(), ApiError> {
            self.0.perform(&Call::new(&$endpoint::HEARTBEAT, &[])).await
        }

        /// `version`: which release of Taskcluster it is.
        ///
        /// # Errors
        /// As [`ApiError`] says.
        pub async fn version(&self) -> Result<crate::probes::ServiceVersion, ApiError> {
            self.0.call(&Call::new(&$endpoint::VERSION, &[])).await
        }
    };
}

pub(crate) use probes;
