//! Hawk request signatures, as Taskcluster takes them.
//!
//! Source: the Hawk specification, and Taskcluster's manual, "Authentication": the certificate of temporary
//! credentials travels in `ext`, base64 over JSON.

use crate::credentials::Credentials;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hawk::{DigestAlgorithm, Key, PayloadHasher, RequestBuilder};
use secrecy::ExposeSecret;
use std::time::SystemTime;
use url::Url;

/// The content type of every body we send; it is part of the payload hash.
pub(crate) const CONTENT_TYPE: &str = "application/json";

/// The value of the `Authorization` header. `now` is the service's time, as far as we know it.
pub(crate) fn authorization(
    credentials: &Credentials,
    (method, url): (&str, &Url),
    body: Option<&[u8]>,
    now: SystemTime,
) -> Result<String, String> {
    let hash = body
        .map(|body| PayloadHasher::hash(CONTENT_TYPE, DigestAlgorithm::Sha256, body))
        .transpose()
        .map_err(|error| error.to_string())?;
    let ext = credentials.certificate.as_ref().map(extension).transpose()?;
    let key = Key::new(credentials.access_token.expose_secret(), DigestAlgorithm::Sha256)
        .map_err(|error| error.to_string())?;
    let hawk = hawk::Credentials { id: credentials.client_id.clone(), key };
    let mut request = RequestBuilder::from_url(method, url).map_err(|error| error.to_string())?;
    if let Some(hash) = &hash {
        request = request.hash(&hash[..]);
    }
    if let Some(ext) = &ext {
        request = request.ext(&ext[..]);
    }
    let header = request.request().make_header_full(&hawk, now, nonce()).map_err(|error| error.to_string())?;
    Ok(format!("Hawk {header}"))
}

fn extension(certificate: &secrecy::SecretString) -> Result<String, String> {
    let certificate: serde_json::Value = serde_json::from_str(certificate.expose_secret())
        .map_err(|_| "the credentials' certificate is no JSON".to_owned())?;
    Ok(STANDARD.encode(serde_json::json!({ "certificate": certificate }).to_string()))
}

/// Only has to differ from the other nonces of the same second.
fn nonce() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(12).collect()
}
