//! The secrets service. Source: `references/secrets/v1/api.json`.

use crate::client::{Call, Client};
use crate::endpoint::secrets as endpoint;
use crate::error::ApiError;
use crate::pages::{List, page_body};
use crate::probes::probes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// The secrets service, through a [`Client`].
///
/// ```no_run
/// # use taskcluster_api::{Client, Secret, Secrets};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let secrets = Secrets::new(Client::from_environment()?);
/// let mut secret = secrets.get("project/example/signing").await?;
/// secret.secret.insert("renewed".to_owned(), true.into());
/// secrets.set("project/example/signing", &secret).await?;
/// let mut names = secrets.list().items();
/// while let Some(name) = names.next().await {
///     println!("{}", name?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Secrets(Client);

/// A secret: what `get` answers and `set` takes. Schema: `secret.json`. As JSON it is itself: whoever serialises it
/// writes secrets.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Secret {
    /// What it holds.
    pub secret: Map<String, Value>,
    /// When it ends.
    #[serde(with = "crate::time")]
    pub expires: Timestamp,
    /// What a newer service says that this version doesn't know, so that it isn't lost where the secret is written back.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Secret {
    /// A secret that holds this until then.
    pub fn new(secret: Map<String, Value>, expires: Timestamp) -> Self {
        Self { secret, expires, other: Map::new() }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("secret", &"[redacted]").field("expires", &self.expires).finish_non_exhaustive()
    }
}

page_body! {
    /// What `list` answers.
    SecretList, secrets: String, "secrets"
}

impl Secrets {
    /// The service, through this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    probes!(endpoint);

    /// `set`: makes the secret of that name, or replaces it.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn set(&self, name: &str, secret: &Secret) -> Result<(), ApiError> {
        let name = [name];
        let mut call = Call::new(&endpoint::SET, &name);
        self.0.give(&mut call, secret)?;
        self.0.perform(&call).await
    }

    /// `remove`: there is no secret of that name afterwards, whether there was one or not.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn remove(&self, name: &str) -> Result<(), ApiError> {
        self.0.perform(&Call::new(&endpoint::REMOVE, &[name])).await
    }

    /// `get`: the secret of that name. 404 where there is none, 410 where it has ended of late.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn get(&self, name: &str) -> Result<Secret, ApiError> {
        self.0.call(&Call::new(&endpoint::GET, &[name])).await
    }

    /// `list`: the names of all secrets.
    pub fn list(&self) -> List<SecretList> {
        List::new(&self.0, &endpoint::LIST, &[])
    }
}
