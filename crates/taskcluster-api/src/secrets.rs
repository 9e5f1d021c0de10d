//! The call of the secrets service that a machine makes. Source: `references/secrets/v1/api.json`.

use crate::client::{Call, Client};
use crate::error::ApiError;
use crate::retry::RetryPolicy;
use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;
use std::time::Duration;

/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The secrets service, through a [`Client`].
#[derive(Debug, Clone)]
pub struct Secrets(Client);

/// A secret.
#[derive(Clone, Deserialize)]
pub struct Secret {
    /// What it holds.
    pub secret: Map<String, Value>,
    /// When it ends, where the service says so in a way that can be read.
    #[serde(default, deserialize_with = "crate::time::lenient")]
    pub expires: Option<Timestamp>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("secret", &"[redacted]").field("expires", &self.expires).finish()
    }
}

impl Secrets {
    /// The service, through this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// `get`: the secret of that name.
    ///
    /// # Errors
    /// As [`ApiError`] says; retried as `retry` says.
    pub async fn get(&self, name: &str, retry: RetryPolicy) -> Result<Secret, ApiError> {
        self.0
            .call(Call {
                name: "secrets.get",
                method: Method::GET,
                service: "secrets",
                path: &["secret", name],
                body: None,
                signed: true,
                timeout: TIMEOUT,
                retry,
            })
            .await
    }
}
