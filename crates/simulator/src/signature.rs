//! Checks Hawk signatures as Taskcluster's auth service does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hawk::{DigestAlgorithm, Header, Key, PayloadHasher, RequestBuilder};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// A clock may be off by this much.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// Credentials that the simulator has issued.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) client_id: String,
    pub(crate) access_token: String,
    pub(crate) certificate: Option<String>,
    pub(crate) expires: SystemTime,
}

/// A request whose signature is checked.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) authorization: Option<&'a str>,
    pub(crate) now: SystemTime,
}

/// Checks a signature against the credentials that were issued.
pub(crate) fn check(request: &Signed<'_>, issued: &[Issued]) -> Result<(), String> {
    let text = request.authorization.ok_or("the request is not signed")?;
    let text = text.strip_prefix("Hawk ").ok_or("the authorization is no Hawk header")?;
    let header: Header = text.parse().map_err(|error| format!("the Hawk header cannot be read: {error}"))?;
    let id = header.id.as_deref().ok_or("the Hawk header has no id")?;
    let mut known = issued.iter().filter(|credentials| credentials.client_id == id).peekable();
    if known.peek().is_none() {
        return Err("AuthenticationFailed: no such client".to_owned());
    }
    let (name, port) = request.host.rsplit_once(':').ok_or("the Host header has no port")?;
    let port = port.parse().map_err(|_| "the Host header's port is no number")?;
    let hash = match request.body {
        [] => None,
        body => Some(
            PayloadHasher::hash("application/json", DigestAlgorithm::Sha256, body)
                .map_err(|error| error.to_string())?,
        ),
    };
    let mut builder = RequestBuilder::new(request.method, name, port, request.path);
    if let Some(hash) = &hash {
        if header.hash.is_none() {
            return Err("the payload is not part of the signature".to_owned());
        }
        builder = builder.hash(&hash[..]);
    }
    let hawk = builder.request();
    let matches = |credentials: &&Issued| {
        let key = Key::new(&credentials.access_token, DigestAlgorithm::Sha256);
        key.is_ok_and(|key| hawk.validate_header(&header, &key, Duration::from_secs(u64::from(u32::MAX))))
    };
    let credentials = known.find(matches).ok_or("Bad mac")?;
    let time = header.ts.ok_or("the Hawk header has no time")?;
    let skew = request.now.duration_since(time).or_else(|_| time.duration_since(request.now)).unwrap_or_default();
    if skew > MAX_SKEW {
        return Err("Stale timestamp".to_owned());
    }
    check_certificate(credentials, header.ext.as_deref())?;
    if credentials.expires < request.now {
        return Err("ext.certificate.expiry < now".to_owned());
    }
    Ok(())
}

fn check_certificate(credentials: &Issued, ext: Option<&str>) -> Result<(), String> {
    let Some(certificate) = &credentials.certificate else {
        return if ext.is_none() { Ok(()) } else { Err("ext is there without a certificate".to_owned()) };
    };
    let ext = STANDARD.decode(ext.ok_or("ext.certificate is missing")?).map_err(|_| "ext is no base64")?;
    let ext: Value = serde_json::from_slice(&ext).map_err(|_| "ext is no JSON")?;
    let expected: Value = serde_json::from_str(certificate).map_err(|_| "the issued certificate is no JSON")?;
    if ext.get("certificate") == Some(&expected) { Ok(()) } else { Err("ext.certificate is another one".to_owned()) }
}
