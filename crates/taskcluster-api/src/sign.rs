//! Hawk request signatures, as Taskcluster takes them.
//!
//! Source: the Hawk specification, and Taskcluster's manual, "Authentication": the certificate of temporary
//! credentials and the scopes that a call is restricted to travel in `ext`, base64 over JSON.

use crate::credentials::Credentials;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hawk::{DigestAlgorithm, Key, PayloadHasher, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use std::time::SystemTime;
use url::Url;

/// The content type of every body we send; it is part of the payload hash.
pub(crate) const CONTENT_TYPE: &str = "application/json";

/// Who signs, and what for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signer<'a> {
    pub(crate) credentials: &'a Credentials,
    /// The only scopes that the service may use; all of the credentials' where there are none here.
    pub(crate) authorized_scopes: Option<&'a [String]>,
}

impl Signer<'_> {
    /// The value of the `Authorization` header. `now` is the service's time, as far as we know it.
    pub(crate) fn authorization(
        &self,
        (method, url): (&str, &Url),
        body: Option<&[u8]>,
        now: SystemTime,
        nonce: String,
    ) -> Result<String, String> {
        let hash = body
            .map(|body| PayloadHasher::hash(CONTENT_TYPE, DigestAlgorithm::Sha256, body))
            .transpose()
            .map_err(|error| error.to_string())?;
        let (hawk, ext) = (self.key()?, self.extension()?);
        let mut request = RequestBuilder::from_url(method, url).map_err(|error| error.to_string())?;
        if let Some(hash) = &hash {
            request = request.hash(hash.as_ref());
        }
        if let Some(ext) = &ext {
            request = request.ext(ext.as_str());
        }
        let header = request.request().make_header_full(&hawk, now, nonce).map_err(|error| error.to_string())?;
        Ok(format!("Hawk {header}"))
    }

    /// The URL with a bewit: whoever has it can make this one GET until `expiry`.
    pub(crate) fn signed_url(&self, mut url: Url, expiry: SystemTime) -> Result<SecretString, String> {
        let (hawk, ext) = (self.key()?, self.extension()?);
        let unsigned = url.clone();
        let mut request = RequestBuilder::from_url("GET", &unsigned).map_err(|error| error.to_string())?;
        if let Some(ext) = &ext {
            request = request.ext(ext.as_str());
        }
        let request = request.request();
        let bewit = request.make_bewit(&hawk, expiry).map_err(|error| error.to_string())?;
        url.query_pairs_mut().append_pair("bewit", &bewit.to_str());
        Ok(String::from(url).into())
    }

    fn key(&self) -> Result<hawk::Credentials, String> {
        let key = Key::new(self.credentials.access_token.expose_secret(), DigestAlgorithm::Sha256)
            .map_err(|error| error.to_string())?;
        Ok(hawk::Credentials { id: self.credentials.client_id.clone(), key })
    }

    fn extension(&self) -> Result<Option<String>, String> {
        let mut extension = Map::new();
        if let Some(certificate) = &self.credentials.certificate {
            let certificate: Value = serde_json::from_str(certificate.expose_secret())
                .map_err(|_| "the credentials' certificate is no JSON".to_owned())?;
            extension.insert("certificate".to_owned(), certificate);
        }
        if let Some(scopes) = self.authorized_scopes {
            extension.insert("authorizedScopes".to_owned(), json!(scopes));
        }
        Ok((!extension.is_empty()).then(|| STANDARD.encode(Value::Object(extension).to_string())))
    }
}

/// Only has to differ from the other nonces of the same second.
pub(crate) fn nonce() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The credentials of the Hawk specification's examples.
    fn example() -> Credentials {
        Credentials::new("dh37fgj492je", "werxhqb98rpaxn39848xrunpaw3489ruxnpa98w4rxn")
    }

    fn scopes() -> Vec<String> {
        vec!["a:b".to_owned()]
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    const NONCE: &str = "j4h3g2";

    // Keys, times, nonces and URLs are those of the Hawk specification's examples; the codes come from its formulas by
    // another implementation of HMAC and SHA-256 (Python's).

    #[test]
    fn requests_are_signed_as_hawk_says() {
        let url = Url::parse("http://example.com:8000/resource/1?b=1&a=2").unwrap();
        let (credentials, scopes) = (example(), scopes());
        let sign = |authorized_scopes, method, body: Option<&[u8]>| {
            let signer = Signer { credentials: &credentials, authorized_scopes };
            signer.authorization((method, &url), body, at(1_353_832_234), NONCE.to_owned()).unwrap()
        };
        let begin = r#"Hawk id="dh37fgj492je", ts="1353832234", nonce="j4h3g2""#;
        assert_eq!(
            sign(None, "POST", Some(br#"{"a":1}"#)),
            format!(
                r#"{begin}, mac="j0cxgVilByxnb1vntKPiWnj4J38poGZMYJ7yaCClywc=", hash="qKG2AtsqLMhIdy7+OrxWG0bU8wTDncYSW0gmNukAKpI=""#
            )
        );
        assert_eq!(
            sign(Some(&scopes), "GET", None),
            format!(
                r#"{begin}, mac="wRXnqRBHlx8wl5inS5+BEfKgzD3j1NgaDgPpjhX7OiQ=", ext="eyJhdXRob3JpemVkU2NvcGVzIjpbImE6YiJdfQ==""#
            )
        );
    }

    #[test]
    fn urls_are_signed_as_hawk_says() {
        let url = Url::parse("http://example.com/resource/4?filter=a").unwrap();
        let (credentials, scopes) = (example(), scopes());
        let sign = |authorized_scopes| {
            let signer = Signer { credentials: &credentials, authorized_scopes };
            let url = signer.signed_url(url.clone(), at(1_356_420_707)).unwrap();
            url.expose_secret().strip_prefix("http://example.com/resource/4?filter=a&bewit=").unwrap().to_owned()
        };
        assert_eq!(
            sign(None),
            "ZGgzN2ZnajQ5MmplXDEzNTY0MjA3MDdcdFFhdklWcTFvYzhaMXZMelZybjhEaWs1WVgrQmsrVjM4a01aTUJubmpEdz1c"
        );
        assert_eq!(
            sign(Some(&scopes)),
            "ZGgzN2ZnajQ5MmplXDEzNTY0MjA3MDdceGQ2elBrTW04UFpCSWtHUGZpbWhzcFJHVjlIcUhvL0s4QXU0VVRqVWxROD1cZXlKaGRYUm9iM0pwZW1Wa1UyTnZjR1Z6SWpwYkltRTZZaUpkZlE9PQ"
        );
    }

    #[test]
    fn a_certificate_travels_in_ext_of_both() {
        let scopes = scopes();
        let of = |certificate: &str| Credentials { certificate: Some(certificate.into()), ..example() };
        let credentials = of(r#"{"version":1}"#);
        let signer = Signer { credentials: &credentials, authorized_scopes: Some(&scopes) };
        let url = Url::parse("http://example.com:8000/resource/1?b=1&a=2").unwrap();
        let header = signer.authorization(("GET", &url), None, at(1_353_832_234), NONCE.to_owned()).unwrap();
        let ext = "eyJhdXRob3JpemVkU2NvcGVzIjpbImE6YiJdLCJjZXJ0aWZpY2F0ZSI6eyJ2ZXJzaW9uIjoxfX0=";
        assert!(
            header.ends_with(&format!(r#", mac="XHNEqhUWYNm5wy4NiGp3NZOPLJEekO6skWMRzXaws54=", ext="{ext}""#)),
            "{header}"
        );
        let url = Url::parse("http://example.com/resource/4?filter=a").unwrap();
        let url = signer.signed_url(url, at(1_356_420_707)).unwrap();
        let bewit = "ZGgzN2ZnajQ5MmplXDEzNTY0MjA3MDdcZHhVWEFmc3ZKSFplSm9ySlhvNkNiaUxLdU1LdVEwSmVuWGRzeXlDK2pNND1cZXlKaGRYUm9iM0pwZW1Wa1UyTnZjR1Z6SWpwYkltRTZZaUpkTENKalpYSjBhV1pwWTJGMFpTSTZleUoyWlhKemFXOXVJam94ZlgwPQ";
        assert!(url.expose_secret().ends_with(&format!("&bewit={bewit}")));
        let broken = of("canary");
        let error = Signer { credentials: &broken, authorized_scopes: None }.extension();
        assert_eq!(error, Err("the credentials' certificate is no JSON".to_owned()));
    }
}
