//! Registration: a proof becomes credentials, and a secret becomes new ones.

use super::worker::WorkerName;
use crate::credentials::{Credentials, exposed, random_text};
use crate::error::ApiError;
use crate::ids::{ProviderId, WorkerGroup, WorkerId, WorkerPoolId};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// What a worker of a static pool shows when it registers: 44 letters, digits, `-` and `_`.
///
/// The pattern is that of `create-worker-request.json`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct StaticSecret(#[serde(serialize_with = "exposed")] SecretString);

/// Why a text is no static secret. Says nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a static secret is {}", StaticSecret::EXPECTED)]
pub struct InvalidStaticSecret;

/// The system gives no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomNumbers;

impl StaticSecret {
    /// What it looks like, for messages.
    pub const EXPECTED: &str = "44 letters, digits, `-` and `_`";

    /// A new one, of 264 random bits.
    ///
    /// # Errors
    /// Where the system gives none.
    pub fn random() -> Result<Self, NoRandomNumbers> {
        Ok(Self(random_text().map_err(|_| NoRandomNumbers)?.into()))
    }

    /// The secret itself.
    pub fn as_secret(&self) -> &SecretString {
        &self.0
    }
}

impl FromStr for StaticSecret {
    type Err = InvalidStaticSecret;

    fn from_str(text: &str) -> Result<Self, InvalidStaticSecret> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.len() == 44 && text.bytes().all(valid) { Ok(Self(text.into())) } else { Err(InvalidStaticSecret) }
    }
}

impl TryFrom<String> for StaticSecret {
    type Error = InvalidStaticSecret;
    fn try_from(text: String) -> Result<Self, InvalidStaticSecret> {
        text.parse()
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticSecret([redacted])")
    }
}

/// What `registerWorker` takes. Schema: `register-worker-request.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegisterWorker {
    /// The worker's pool.
    pub worker_pool_id: WorkerPoolId,
    /// The provider that made it.
    pub provider_id: ProviderId,
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id within the group.
    pub worker_id: WorkerId,
    /// What proves it.
    pub worker_identity_proof: WorkerProof,
    /// When the machine's operating system came up.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::option")]
    pub system_boot_time: Option<Timestamp>,
}

impl RegisterWorker {
    /// A request to register this worker.
    pub fn new(worker: &WorkerName, provider_id: &ProviderId, proof: &WorkerProof) -> Self {
        let WorkerName { worker_pool_id, worker_group, worker_id } = worker.clone();
        Self {
            worker_pool_id,
            provider_id: provider_id.clone(),
            worker_group,
            worker_id,
            worker_identity_proof: proof.clone(),
            system_boot_time: None,
        }
    }
}

/// `workerIdentityProof`: what a machine shows to prove that it is the worker. A standalone machine registers nowhere,
/// and has none.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Map<String, Value>", into = "Map<String, Value>")]
pub enum WorkerProof {
    /// aws: the instance identity document, byte for byte, and its signature.
    Aws {
        /// The document.
        document: SecretString,
        /// Its signature.
        signature: SecretString,
    },
    /// azure: the attested document.
    Azure {
        /// The document.
        document: SecretString,
    },
    /// google: an identity token for the root URL.
    Google {
        /// The token.
        token: SecretString,
    },
    /// static: the secret that worker-manager and the machine share. worker-manager takes none that is no
    /// [`StaticSecret`] by its form.
    Static {
        /// The secret.
        secret: SecretString,
    },
    /// Of a provider that this version doesn't know.
    Other(Map<String, Value>),
}

impl From<Map<String, Value>> for WorkerProof {
    fn from(proof: Map<String, Value>) -> Self {
        let text = |name: &str| proof.get(name).and_then(Value::as_str).map(SecretString::from);
        let known = match (proof.len(), text("document"), text("signature"), text("token"), text("staticSecret")) {
            (2, Some(document), Some(signature), None, None) => Some(Self::Aws { document, signature }),
            (1, Some(document), None, None, None) => Some(Self::Azure { document }),
            (1, None, None, Some(token), None) => Some(Self::Google { token }),
            (1, None, None, None, Some(secret)) => Some(Self::Static { secret }),
            (_, _, _, _, _) => None,
        };
        known.unwrap_or(Self::Other(proof))
    }
}

impl From<WorkerProof> for Map<String, Value> {
    fn from(proof: WorkerProof) -> Self {
        let of = |members: &[(&str, &SecretString)]| {
            let mut object = Map::new();
            for (name, secret) in members {
                object.insert((*name).to_owned(), secret.expose_secret().into());
            }
            object
        };
        match &proof {
            WorkerProof::Aws { document, signature } => of(&[("document", document), ("signature", signature)]),
            WorkerProof::Azure { document } => of(&[("document", document)]),
            WorkerProof::Google { token } => of(&[("token", token)]),
            WorkerProof::Static { secret } => of(&[("staticSecret", secret)]),
            WorkerProof::Other(proof) => proof.clone(),
        }
    }
}

impl fmt::Debug for WorkerProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aws { .. } => "Aws([redacted])",
            Self::Azure { .. } => "Azure([redacted])",
            Self::Google { .. } => "Google([redacted])",
            Self::Static { .. } => "Static([redacted])",
            Self::Other(_) => "Other([redacted])",
        })
    }
}

/// What `registerWorker` answers. Schema: `register-worker-response.json`. As JSON it holds its secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// When the credentials end.
    #[serde(with = "crate::time")]
    pub expires: Timestamp,
    /// The credentials.
    pub credentials: Credentials,
    /// What renews them, once.
    #[serde(serialize_with = "exposed")]
    pub secret: SecretString,
    /// The worker pool's configuration for this worker.
    pub worker_config: Map<String, Value>,
}

/// What `reregisterWorker` takes. Schema: `reregister-worker-request.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReregisterWorker {
    /// The worker's pool.
    pub worker_pool_id: WorkerPoolId,
    /// Its group.
    pub worker_group: WorkerGroup,
    /// Its id within the group.
    pub worker_id: WorkerId,
    /// The secret of the last registration; dead as soon as the call succeeds.
    #[serde(serialize_with = "exposed")]
    pub secret: SecretString,
}

impl ReregisterWorker {
    /// A request for new credentials for this worker.
    pub fn new(worker: &WorkerName, secret: &SecretString) -> Self {
        let WorkerName { worker_pool_id, worker_group, worker_id } = worker.clone();
        Self { worker_pool_id, worker_group, worker_id, secret: secret.clone() }
    }
}

/// What `reregisterWorker` answers. Schema: `reregister-worker-response.json`. As JSON it holds its secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Renewal {
    /// When the credentials end.
    #[serde(with = "crate::time")]
    pub expires: Timestamp,
    /// The credentials.
    pub credentials: Credentials,
    /// What renews them, once.
    #[serde(serialize_with = "exposed")]
    pub secret: SecretString,
}

impl ApiError {
    /// For `registerWorker`: the service says that this worker has registered before, which no proof changes.
    pub fn is_already_registered(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            let message = refusal.message.to_ascii_lowercase();
            let words = ["already running", "already been registered", "already registered", "stopped"];
            matches!(refusal.status, 400 | 409) && words.iter().any(|words| message.contains(words))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Registration, StaticSecret, WorkerProof};
    use crate::error::from_json;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use serde_json::json;

    proptest! {
        /// Whatever answers is read or refused, and a refusal holds none of it.
        #[test]
        fn any_answer_is_read_or_refused(token in "[a-z]{20}", cut in 0usize..400, flip in any::<u8>()) {
            let answer = format!(
                r#"{{"expires":"2999-01-01T00:00:00Z","secret":"{token}","credentials":{{"clientId":"c","accessToken":"{token}","certificate":""}},"workerConfig":{{}}}}"#
            );
            let whole: Registration = from_json(answer.as_bytes()).unwrap();
            prop_assert!(whole.credentials.certificate.is_none());
            let mut bytes = answer.into_bytes();
            let at = cut % bytes.len();
            bytes[at] = flip;
            if let Err(error) = from_json::<Registration>(&bytes) {
                prop_assert!(!error.to_string().contains(&token[..]));
            }
            prop_assert!(from_json::<Registration>(&bytes[..at]).is_err());
        }
    }

    #[test]
    fn a_proof_is_that_of_its_provider_or_kept_as_it_is() {
        for (proof, shown) in [
            (json!({"document": "canary", "signature": "canary"}), "Aws"),
            (json!({"document": "canary"}), "Azure"),
            (json!({"token": "canary"}), "Google"),
            (json!({"staticSecret": "canary"}), "Static"),
            (json!({"token": "canary", "more": 1}), "Other"),
            (json!({"document": {"canary": 1}}), "Other"),
            (json!({}), "Other"),
        ] {
            let read: WorkerProof = serde_json::from_value(proof.clone()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{shown}([redacted])"));
            assert_eq!(serde_json::to_value(read).unwrap(), proof);
        }
    }

    #[test]
    fn a_static_secret_has_its_form_and_hides() {
        let secret = StaticSecret::random().unwrap();
        let text = secret.as_secret().expose_secret();
        assert!(text.parse::<StaticSecret>().is_ok());
        assert!(!format!("{secret:?}").contains(text));
        assert_eq!(serde_json::to_value(&secret).unwrap(), json!(text));
        for bad in ["", &text[1..], &format!("{text}a"), &"!".repeat(44)] {
            assert!(bad.parse::<StaticSecret>().is_err());
        }
    }
}
