//! Who asks, and what they may do: Hawk signatures and scopes, as Taskcluster's auth service checks them.

use super::Taskcluster;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hawk::{Bewit, DigestAlgorithm, Header, Key, PayloadHasher, RequestBuilder};
use serde_json::Value;
use std::time::{Duration, SystemTime};
use taskcluster_api::{Certificate, ExposeSecret};

/// A clock may be off by this much (`timestampSkewSec` of the auth service).
const MAX_SKEW: Duration = Duration::from_secs(15 * 60);

/// A certificate's times may be off by this much, in milliseconds.
const CERTIFICATE_SKEW: i64 = 5 * 60 * 1000;

/// Temporary credentials may live this long, in milliseconds.
const LONGEST_LIFE: i64 = 31 * 24 * 3_600_000;

/// Client id and access token of somebody who may do everything.
pub const OPERATOR: (&str, &str) = ("simulated/operator", "canary-operator-access-token");

/// A client of the deployment.
#[derive(Debug, Clone)]
pub struct ApiClient {
    /// Its id.
    pub client_id: String,
    /// Its access token.
    pub access_token: String,
    /// The certificate that it was given, where its credentials are temporary.
    pub certificate: Option<String>,
    /// When its credentials end.
    pub expires: SystemTime,
    /// What it may do.
    pub scopes: Vec<String>,
}

impl ApiClient {
    /// One with permanent credentials.
    pub fn permanent(client_id: &str, access_token: &str, scopes: &[&str]) -> Self {
        Self {
            client_id: client_id.to_owned(),
            access_token: access_token.to_owned(),
            certificate: None,
            expires: SystemTime::now() + Duration::from_secs(365 * 24 * 3600),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        }
    }
}

/// A request whose signature is checked.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// With its query.
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
    pub(super) content_type: &'a str,
    pub(super) authorization: Option<&'a str>,
    pub(super) bewit: Option<&'a str>,
    pub(super) now: SystemTime,
}

/// Whose signature it is, and how it is checked with a key.
struct Claim<'a> {
    client_id: String,
    ext: Option<String>,
    signed_by: Box<dyn Fn(&str) -> bool + 'a>,
}

impl Taskcluster {
    /// The scopes of whoever signed the request; none where nobody did.
    pub(super) fn scopes_of(&self, request: &Signed<'_>) -> Result<Vec<String>, String> {
        let claim = match (request.authorization, request.bewit) {
            (None, None) => return Ok(Vec::new()),
            (Some(_), Some(_)) => return Err("it is signed twice".to_owned()),
            (Some(text), None) => claim_of_header(request, text)?,
            (None, Some(text)) => claim_of_bewit(request, text)?,
        };
        let ext: Value = match &claim.ext {
            None => Value::Null,
            Some(ext) => {
                let ext = STANDARD.decode(ext).map_err(|_| "ext is no base64")?;
                serde_json::from_slice(&ext).map_err(|_| "ext is no JSON")?
            }
        };
        let certificate = ext.get("certificate");
        let scopes = match self.known(&claim, certificate)? {
            Some(client) if client.expires < request.now => return Err("ext.certificate.expiry < now".to_owned()),
            Some(client) => client.scopes.clone(),
            None => self.issued(&claim, certificate, request.now)?,
        };
        let Some(authorized) = ext.get("authorizedScopes") else { return Ok(scopes) };
        let authorized: Vec<String> =
            serde_json::from_value(authorized.clone()).map_err(|_| "ext.authorizedScopes is no list of scopes")?;
        match authorized.iter().find(|wanted| !scopes.iter().any(|scope| covers(scope, wanted))) {
            Some(scope) => Err(format!("ext.authorizedScopes has {scope}, which the client lacks")),
            None => Ok(authorized),
        }
    }

    /// A client that the deployment has made itself.
    fn known(&self, claim: &Claim<'_>, certificate: Option<&Value>) -> Result<Option<&ApiClient>, String> {
        let mut known = self.clients.iter().filter(|client| client.client_id == claim.client_id).peekable();
        if known.peek().is_none() {
            return Ok(None);
        }
        let Some(client) = known.find(|client| (claim.signed_by)(&client.access_token)) else {
            // An issuer's own id is that of its unnamed temporary credentials, too.
            return if certificate.is_some() { Ok(None) } else { Err("Bad mac".to_owned()) };
        };
        let expected = client.certificate.as_ref().map(|text| serde_json::from_str::<Value>(text).unwrap_or_default());
        match (expected, certificate) {
            (expected, certificate) if expected.as_ref() == certificate => Ok(Some(client)),
            (Some(_), None) => Err("ext.certificate is missing".to_owned()),
            (_, _) => Err("ext.certificate is another one".to_owned()),
        }
    }

    /// Temporary credentials that a known client has issued: their scopes.
    fn issued(&self, claim: &Claim<'_>, certificate: Option<&Value>, now: SystemTime) -> Result<Vec<String>, String> {
        let certificate = certificate.ok_or("AuthenticationFailed: no such client")?;
        let certificate = Certificate::check(&certificate.to_string()).map_err(|error| error.to_string())?;
        let issuer_id = certificate.issuer.as_ref().unwrap_or(&claim.client_id);
        let issuers =
            self.clients.iter().filter(|client| client.client_id == *issuer_id && client.certificate.is_none());
        if *issuer_id == claim.client_id && certificate.issuer.is_some() {
            return Err("ext.certificate.issuer must differ from the supplied clientId".to_owned());
        }
        if certificate.expiry - certificate.start > LONGEST_LIFE {
            return Err("ext.certificate cannot last longer than 31 days!".to_owned());
        }
        let fits = |issuer: &&ApiClient| {
            let token = issuer.access_token.as_str().into();
            certificate.is_signed_by(&token, &claim.client_id)
                && (claim.signed_by)(certificate.access_token(&token).expose_secret())
        };
        let issuer = { issuers }.find(fits).ok_or("ext.certificate.signature is not valid, or Bad mac")?;
        if issuer.expires < now {
            return Err("the issuer of these credentials has expired".to_owned());
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if certificate.start > now + CERTIFICATE_SKEW {
            return Err("ext.certificate.start > now".to_owned());
        }
        if certificate.expiry < now - CERTIFICATE_SKEW {
            return Err("ext.certificate.expiry < now".to_owned());
        }
        let named = certificate.issuer.is_some().then(|| format!("auth:create-client:{}", claim.client_id));
        match certificate.scopes.iter().chain(&named).find(|scope| !issuer.scopes.iter().any(|own| covers(own, scope)))
        {
            Some(scope) => Err(format!("the issuer of these credentials lacks {scope}")),
            None => Ok(certificate.scopes.clone()),
        }
    }
}

fn claim_of_header<'a>(request: &'a Signed<'a>, text: &str) -> Result<Claim<'a>, String> {
    let text = text.strip_prefix("Hawk ").ok_or("the authorization is no Hawk header")?;
    let header: Header = text.parse().map_err(|error| format!("the Hawk header cannot be read: {error}"))?;
    let client_id = header.id.clone().ok_or("the Hawk header has no id")?;
    let (name, port) = host_and_port(request)?;
    // Checked where it is there, as the auth service does: some clients sign no payload.
    let hash = match &header.hash {
        None => None,
        Some(_) => Some(
            PayloadHasher::hash(request.content_type, DigestAlgorithm::Sha256, request.body)
                .map_err(|error| error.to_string())?,
        ),
    };
    let time = header.ts.ok_or("the Hawk header has no time")?;
    let skew = request.now.duration_since(time).or_else(|_| time.duration_since(request.now)).unwrap_or_default();
    let ext = header.ext.clone();
    let signed_by = move |access_token: &str| {
        let mut builder = RequestBuilder::new(request.method, name, port, request.path);
        if let Some(hash) = &hash {
            builder = builder.hash(&hash[..]);
        }
        let hawk = builder.request();
        let key = Key::new(access_token, DigestAlgorithm::Sha256);
        key.is_ok_and(|key| hawk.validate_header(&header, &key, Duration::from_secs(u64::from(u32::MAX))))
    };
    if skew > MAX_SKEW {
        return Err("Stale timestamp".to_owned());
    }
    Ok(Claim { client_id, ext, signed_by: Box::new(signed_by) })
}

fn claim_of_bewit<'a>(request: &'a Signed<'a>, text: &str) -> Result<Claim<'a>, String> {
    let bewit: Bewit<'static> = text.parse().map_err(|error| format!("the bewit cannot be read: {error}"))?;
    if bewit.exp() < request.now {
        return Err("Access expired".to_owned());
    }
    if request.method != "GET" {
        return Err("only a GET can have a bewit".to_owned());
    }
    let (name, port) = host_and_port(request)?;
    let (client_id, ext) = (bewit.id().to_owned(), bewit.ext().map(str::to_owned));
    let own_id = client_id.clone();
    // Made again and compared: the deployment's clock has said already that it has not ended.
    let signed_by = move |access_token: &str| {
        let mut found = None;
        let builder = RequestBuilder::new(request.method, name, port, request.path).extract_bewit(&mut found);
        let (Ok(builder), Ok(key)) = (builder, Key::new(access_token, DigestAlgorithm::Sha256)) else { return false };
        let hawk = builder.ext(bewit.ext()).request();
        let credentials = hawk::Credentials { id: own_id.clone(), key };
        hawk.make_bewit(&credentials, bewit.exp()).is_ok_and(|made| made.mac() == bewit.mac())
    };
    Ok(Claim { client_id, ext, signed_by: Box::new(signed_by) })
}

fn host_and_port<'a>(request: &Signed<'a>) -> Result<(&'a str, u16), String> {
    let (name, port) = request.host.rsplit_once(':').ok_or("the Host header has no port")?;
    Ok((name, port.parse().map_err(|_| "the Host header's port is no number")?))
}

/// Whether having one scope is having the other: a `*` at its end stands for anything.
pub(super) fn covers(has: &str, needed: &str) -> bool {
    has == needed || has.strip_suffix('*').is_some_and(|begin| needed.starts_with(begin))
}

/// A scope with its `<arguments>` filled in.
pub(super) fn expand(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut scope = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('<') {
        let (name, after) = after.split_once('>').unwrap_or((after, ""));
        scope.push_str(before);
        scope.push_str(&value(name));
        rest = after;
    }
    scope + rest
}
