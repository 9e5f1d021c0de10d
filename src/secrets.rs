//! The secrets service's part of the worker's configuration: both names asked at once, two forms understood.

use crate::files::{FileSpec, FilesError};
use crate::layer::{Layer, Source};
use serde_json::{Map, Value};
use std::time::Duration;
use taskcluster_api::retry::Tries;
use taskcluster_api::{ApiError, Client, ErrorClass, RetryPolicy, Secrets, WorkerPoolId};

/// For how long the service is asked.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What a source gives the worker.
#[derive(Debug, Default)]
pub struct Share {
    /// Its layer.
    pub layers: Vec<Layer>,
    /// Its files.
    pub files: Vec<FileSpec>,
}

/// The secrets can't be had or can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The service doesn't give one.
    #[error("cannot get the secret {name}")]
    Refused {
        /// The secret.
        name: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// A source is not of a form that we know.
    #[error(transparent)]
    Form(#[from] FormError),
}

/// Something that should be worker configuration is of no known form.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// `config` or the whole is no object.
    #[error("{from}: `{key}` must be an object")]
    NoObject {
        /// The source.
        from: Source,
        /// The key.
        key: &'static str,
    },
    /// `files` is wrong.
    #[error("{from}: `files` cannot be used")]
    Files {
        /// The source.
        from: Source,
        /// Why.
        #[source]
        source: FilesError,
    },
}

/// Asks for `worker-type:<pool>` and `worker-pool:<pool>` at once. Neither has to be there.
///
/// # Errors
/// Where the service refuses, or what it gives is of no known form.
pub async fn fetch(client: &Client, pool: &WorkerPoolId) -> Result<Share, SecretsError> {
    let secrets = Secrets::new(client.with_retry(RetryPolicy::persistent(PATIENCE)));
    let names = [format!("worker-type:{pool}"), format!("worker-pool:{pool}")];
    let ask = async |name: String, may_be_forbidden: bool| {
        let mut tries = Tries::begin(RetryPolicy::persistent(PATIENCE));
        loop {
            let source = match secrets.get(&name).await {
                Ok(secret) => return Ok(read(secret.secret, Source::Secret(name))?),
                Err(error) if error.code() == Some("ResourceNotFound") => {
                    tracing::info!("there is no secret {name}");
                    return Ok(Share::default());
                }
                Err(error) if may_be_forbidden && error.status() == Some(403) => {
                    tracing::info!("the secret {name} may not be read, which is no fault");
                    return Ok(Share::default());
                }
                Err(error) => error,
            };
            // Not the service says so, but something before it, while the service is away.
            let is_strange = source.class() == ErrorClass::Absent;
            let Some(pause) = tries.next_pause(None).filter(|_| is_strange) else {
                return Err(SecretsError::Refused { name, source });
            };
            tracing::warn!("the secrets service does not answer as it does: {}; trying again", source.failure);
            tokio::time::sleep(pause).await;
        }
    };
    // A 403 is no fault for the legacy name: workers are no longer given its scope.
    let [legacy, current] = names;
    let (mut share, upper) = tokio::try_join!(ask(legacy, true), ask(current, false))?;
    share.extend(upper);
    Ok(share)
}

/// A document that is `{config, files}`, with no other key, or, of old, the configuration itself.
///
/// # Errors
/// Where it is neither.
pub fn read(document: Map<String, Value>, source: Source) -> Result<Share, FormError> {
    if document.keys().all(|key| key == "config" || key == "files") {
        read_config_and_files(document, source)
    } else {
        Ok(Share { layers: vec![Layer { source, config: document }], files: Vec::new() })
    }
}

/// A document that is `{config, files}`; either may be missing.
///
/// # Errors
/// Where `config` is no object or `files` no list of files.
pub fn read_config_and_files(mut document: Map<String, Value>, source: Source) -> Result<Share, FormError> {
    let config = match document.remove("config") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(config)) => config,
        Some(_) => return Err(FormError::NoObject { from: source, key: "config" }),
    };
    let files = match document.remove("files") {
        None | Some(Value::Null) => Vec::new(),
        Some(files) => FileSpec::read_list(files, source.is_secret())
            .map_err(|error| FormError::Files { from: source.clone(), source: error })?,
    };
    for key in document.keys() {
        tracing::warn!("{source}: `{key}` stands beside `config` and `files` and changes nothing");
    }
    Ok(Share { layers: vec![Layer { source, config }], files })
}

impl Share {
    /// Puts another share on top.
    pub fn extend(&mut self, other: Self) {
        self.layers.extend(other.layers);
        self.files.extend(other.files);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(document: &Value) -> Result<Share, FormError> {
        read(document.as_object().unwrap().clone(), Source::Secret("worker-pool:p/w".into()))
    }

    #[test]
    fn both_forms_give_a_layer() {
        let file = json!({"description": "d", "path": "/p", "content": "", "encoding": "base64", "format": "file"});
        let new = read_json(&json!({"config": {"a": 1}, "files": [file]})).unwrap();
        assert_eq!((new.layers[0].config["a"].as_u64(), new.files.len()), (Some(1), 1));
        let old = read_json(&json!({"a": 1})).unwrap();
        assert_eq!(old.layers[0].config["a"], 1);
        let old = read_json(&json!({"a": 1, "config": 2})).unwrap();
        assert_eq!(old.layers[0].config["config"], 2);
        assert!(read_json(&json!({})).unwrap().layers[0].config.is_empty());
    }

    #[test]
    fn what_is_of_no_form_names_its_source_and_no_value() {
        let error = read_json(&json!({"config": "canary"})).unwrap_err().to_string();
        assert_eq!(error, "secret worker-pool:p/w: `config` must be an object");
        let error = read_json(&json!({"files": [{"path": "/x", "content": ["canary"]}]})).unwrap_err();
        assert!(!format!("{error:?}{error}").contains("canary"));
    }
}
