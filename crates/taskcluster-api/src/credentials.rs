//! Taskcluster credentials: permanent ones, and temporary ones with their certificate.
//!
//! Source: Taskcluster's manual, "Authentication" and "Temporary Credentials".

use crate::error::from_json;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use std::fmt::{self, Write as _};

/// A client id with its access token and, for temporary credentials, their certificate.
///
/// As JSON they are `{clientId, accessToken, certificate}`: whoever serialises them writes secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// The client's id. Not a secret.
    pub client_id: String,
    /// The access token.
    #[serde(serialize_with = "exposed")]
    pub access_token: SecretString,
    /// The certificate of temporary credentials: a string that holds JSON, which is passed on as it is.
    /// [`Certificate::check`] says whether it has the right shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "exposed_option", deserialize_with = "non_empty")]
    pub certificate: Option<SecretString>,
}

pub(crate) fn exposed<S: serde::Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

#[allow(clippy::ref_option)] // serde's form
fn exposed_option<S: serde::Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(ExposeSecret::expose_secret).serialize(serializer)
}

/// The service of a deployment without temporary credentials answers with an empty certificate.
fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    let certificate = Option::<SecretString>::deserialize(deserializer)?;
    Ok(certificate.filter(|certificate| !certificate.expose_secret().is_empty()))
}

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The version of its form: 1.
    pub version: u32,
    /// The scopes that the credentials have.
    pub scopes: Vec<String>,
    /// From when they are valid, in milliseconds of the Unix clock.
    pub start: i64,
    /// Until when, in milliseconds of the Unix clock.
    pub expiry: i64,
    /// What makes the access token of these credentials another one than that of any others.
    pub seed: String,
    /// The signature, by the access token of the issuer.
    pub signature: String,
    /// Who issued them, where they have a name of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("scopes", &self.scopes)
            .field("start", &self.start)
            .field("expiry", &self.expiry)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Why a text is no certificate. Says which field, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no certificate of temporary credentials: {0}")]
pub struct InvalidCertificate(String);

/// Temporary credentials live 31 days at most, in milliseconds.
const LONGEST_LIFE: i64 = 31 * 24 * 3_600_000;

/// What temporary credentials are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Temporary {
    /// Their own client id. The issuer then needs the scope `auth:create-client:<clientId>`. Without it they have the
    /// issuer's.
    pub client_id: Option<String>,
    /// Their scopes, which the issuer must have.
    pub scopes: Vec<String>,
    /// From when they are valid. Allow for clocks that differ.
    pub start: Timestamp,
    /// Until when: at most 31 days after `start`.
    pub expiry: Timestamp,
}

/// Why temporary credentials can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemporaryError {
    /// Only permanent credentials can issue temporary ones.
    #[error("these credentials are temporary themselves, and only permanent ones can issue others")]
    IssuerIsTemporary,
    /// The end is not after the start, or more than 31 days after it.
    #[error("temporary credentials must end after they begin, and within 31 days")]
    Life,
    /// Scopes are printable ASCII.
    #[error("a scope must be printable ASCII, and not empty")]
    Scope,
    /// The own name is the issuer's, or is no client id.
    #[error("the name of temporary credentials must be printable ASCII, not empty, and other than their issuer's")]
    Name,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl Certificate {
    /// Reads a certificate, and checks its shape: version 1, scopes, start before expiry, seed, signature.
    ///
    /// # Errors
    /// Which field is wrong.
    pub fn check(text: &str) -> Result<Self, InvalidCertificate> {
        let certificate: Self = from_json(text.as_bytes()).map_err(|error| InvalidCertificate(error.to_string()))?;
        let wrong = match &certificate {
            Self { version, .. } if *version != 1 => Some("`version` is not 1"),
            Self { start, expiry, .. } if start >= expiry => Some("`expiry` is not after `start`"),
            Self { seed, .. } if seed.len() != 44 => Some("`seed` has not 44 characters"),
            Self { signature, .. } if STANDARD.decode(signature).map_or(0, |bytes| bytes.len()) != 32 => {
                Some("`signature` is no signature")
            }
            Self { issuer: Some(issuer), .. } if issuer.is_empty() => Some("`issuer` is empty"),
            Self { .. } => None,
        };
        wrong.map_or(Ok(certificate), |problem| Err(InvalidCertificate(problem.to_owned())))
    }

    /// Until when the credentials are valid.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millisecond(self.expiry).unwrap_or(Timestamp::MAX)
    }

    /// The signature that the holder of `access_token` gives; `client_id` is that of the temporary credentials.
    fn signature_by(&self, access_token: &SecretString, client_id: &str) -> String {
        let mut text = format!("version:{}\n", self.version);
        if let Some(issuer) = &self.issuer {
            let _ = writeln!(text, "clientId:{client_id}\nissuer:{issuer}");
        }
        let _ = write!(
            text,
            "seed:{}\nstart:{}\nexpiry:{}\nscopes:\n{}",
            self.seed,
            self.start,
            self.expiry,
            self.scopes.join("\n")
        );
        STANDARD.encode(authenticate(access_token, text.as_bytes()))
    }

    /// Whether the holder of `access_token` has issued this certificate to `client_id`: for servers.
    pub fn is_signed_by(&self, access_token: &SecretString, client_id: &str) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, access_token.expose_secret().as_bytes());
        let expected = self.signature_by(access_token, client_id);
        // Compared in a time that says nothing: as codes of the same key.
        let tag = hmac::sign(&key, expected.as_bytes());
        hmac::verify(&key, self.signature.as_bytes(), tag.as_ref()).is_ok()
    }

    /// The access token that belongs to this certificate, where `access_token` is its issuer's: for servers.
    pub fn access_token(&self, access_token: &SecretString) -> SecretString {
        URL_SAFE_NO_PAD.encode(authenticate(access_token, self.seed.as_bytes())).into()
    }
}

fn authenticate(access_token: &SecretString, message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, access_token.expose_secret().as_bytes()), message)
}

/// Random bytes as letters, digits, `-` and `_`: 44 for 33 bytes.
///
/// # Errors
/// Where the system has no random numbers.
pub(crate) fn random_text() -> Result<String, ring::error::Unspecified> {
    let mut bytes = [0; 33];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

impl Credentials {
    /// Permanent credentials.
    pub fn new(client_id: impl Into<String>, access_token: impl Into<SecretString>) -> Self {
        Self { client_id: client_id.into(), access_token: access_token.into(), certificate: None }
    }

    /// The same with the certificate that makes them temporary ones; an empty one is none.
    ///
    /// # Errors
    /// Where it has not the shape of one.
    pub fn with_certificate(self, certificate: impl Into<SecretString>) -> Result<Self, InvalidCertificate> {
        let certificate = certificate.into();
        if certificate.expose_secret().is_empty() {
            return Ok(self);
        }
        Certificate::check(certificate.expose_secret())?;
        Ok(Self { certificate: Some(certificate), ..self })
    }

    /// Until when they are valid: temporary ones say so.
    pub fn expires(&self) -> Option<Timestamp> {
        Some(Certificate::check(self.certificate.as_ref()?.expose_secret()).ok()?.expires())
    }

    /// Temporary credentials issued by these. Nobody is asked: it is a calculation.
    ///
    /// # Errors
    /// Where what is wanted can't be issued.
    pub fn temporary(&self, wanted: &Temporary) -> Result<Self, TemporaryError> {
        let seed = random_text().map_err(|_| TemporaryError::Random)?;
        self.temporary_with_seed(wanted, seed)
    }

    fn temporary_with_seed(&self, wanted: &Temporary, seed: String) -> Result<Self, TemporaryError> {
        if self.certificate.is_some() {
            return Err(TemporaryError::IssuerIsTemporary);
        }
        // In the units in which it is written.
        let life = wanted.expiry.as_millisecond().saturating_sub(wanted.start.as_millisecond());
        if !(1..=LONGEST_LIFE).contains(&life) {
            return Err(TemporaryError::Life);
        }
        let is_printable = |text: &str| !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !wanted.scopes.iter().all(|scope| is_printable(scope)) {
            return Err(TemporaryError::Scope);
        }
        if wanted.client_id.as_ref().is_some_and(|name| !is_printable(name) || *name == self.client_id) {
            return Err(TemporaryError::Name);
        }
        let client_id = wanted.client_id.as_ref().unwrap_or(&self.client_id);
        let mut certificate = Certificate {
            version: 1,
            scopes: wanted.scopes.clone(),
            start: wanted.start.as_millisecond(),
            expiry: wanted.expiry.as_millisecond(),
            seed,
            signature: String::new(),
            issuer: wanted.client_id.is_some().then(|| self.client_id.clone()),
        };
        certificate.signature = certificate.signature_by(&self.access_token, client_id);
        Ok(Self {
            client_id: client_id.clone(),
            access_token: certificate.access_token(&self.access_token),
            certificate: Some(json!(certificate).to_string().into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples that Taskcluster's own clients are tested with (`clients/client-go/testcases.json`).
    #[test]
    fn temporary_credentials_are_those_of_the_published_examples() {
        let issuer = Credentials::new("def/ghi@XXX", "tokenABCDEFGH");
        let seed = "JYR4wzMCTG6XeDS2cDUCMwH0RFUXGfQjK7LgqD-e6lSQ";
        let examples = [
            (None, "def/ghi@XXX", "45AlB/hKZZZz4Tf3NaidutasfgBnr4t2AxwBiGDQF9Q="),
            (Some("abc/def/ghi"), "abc/def/ghi", "nNEaLtZMiw627NuDbF5Z8HDFc57MGWCptXBQSYNFgBk="),
        ];
        for (name, client_id, signature) in examples {
            let wanted = Temporary {
                client_id: name.map(str::to_owned),
                scopes: vec!["scope/asd:fhjdf/X".to_owned(), "scope/asd:fhjdf/XYZ*".to_owned()],
                start: "2015-08-07T16:26:51.744Z".parse().unwrap(),
                expiry: "2015-08-08T16:26:51.744Z".parse().unwrap(),
            };
            let made = issuer.temporary_with_seed(&wanted, seed.to_owned()).unwrap();
            assert_eq!(made.client_id, client_id);
            assert_eq!(made.access_token.expose_secret(), "R4OVHWpIvy6KsqS4AWE51QwbvgLvsstS6e6UW8IfHUY");
            let text = made.certificate.as_ref().unwrap().expose_secret();
            let certificate = Certificate::check(text).unwrap();
            assert_eq!(certificate.signature, signature);
            assert_eq!(certificate.issuer.as_deref(), name.map(|_| "def/ghi@XXX"));
            assert_eq!((certificate.start, certificate.expiry), (1_438_964_811_744, 1_439_051_211_744));
            assert!(certificate.is_signed_by(&issuer.access_token, client_id));
            assert!(!certificate.is_signed_by(&"another".into(), client_id));
            assert_eq!(made.expires(), Some(wanted.expiry));
        }
    }

    #[test]
    fn what_cannot_be_issued_is_refused() {
        let issuer = Credentials::new("me", "token");
        let good = Temporary {
            client_id: None,
            scopes: vec!["a".to_owned()],
            start: Timestamp::UNIX_EPOCH,
            expiry: "1970-01-02T00:00:00Z".parse().unwrap(),
        };
        let made = issuer.temporary(&good).unwrap();
        assert_ne!(made.access_token.expose_secret(), issuer.temporary(&good).unwrap().access_token.expose_secret());
        assert_eq!(made.temporary(&good).err(), Some(TemporaryError::IssuerIsTemporary));
        let late = Temporary { expiry: "1970-02-02T00:00:00Z".parse().unwrap(), ..good.clone() };
        let backwards = Temporary { expiry: good.start, ..good.clone() };
        let short = Temporary { expiry: "1970-01-01T00:00:00.0009Z".parse().unwrap(), ..good.clone() };
        let two = Temporary { scopes: vec!["a\nb".to_owned()], ..good.clone() };
        let accent = Temporary { scopes: vec!["ä".to_owned()], ..good.clone() };
        let own = Temporary { client_id: Some("me".to_owned()), ..good.clone() };
        let forged = Temporary { client_id: Some("a\nissuer:b".to_owned()), ..good.clone() };
        for (wanted, error) in [
            (late, TemporaryError::Life),
            (backwards, TemporaryError::Life),
            (short, TemporaryError::Life),
            (two, TemporaryError::Scope),
            (accent, TemporaryError::Scope),
            (own, TemporaryError::Name),
            (forged, TemporaryError::Name),
        ] {
            assert_eq!(issuer.temporary(&wanted).err(), Some(error));
        }
    }

    #[test]
    fn a_certificate_of_another_shape_is_refused_without_its_content() {
        let made = Credentials::new("me", "token")
            .temporary(&Temporary {
                client_id: None,
                scopes: Vec::new(),
                start: Timestamp::UNIX_EPOCH,
                expiry: "1970-01-02T00:00:00Z".parse().unwrap(),
            })
            .unwrap();
        let good: serde_json::Value = serde_json::from_str(made.certificate.as_ref().unwrap().expose_secret()).unwrap();
        for (key, value) in [
            ("version", json!(2)),
            ("scopes", json!("canary")),
            ("start", json!("canary")),
            ("expiry", json!(0)),
            ("seed", json!("canary")),
            ("signature", json!("canary")),
            ("issuer", json!("")),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let error = Credentials::new("me", "token").with_certificate(bad.to_string()).unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("canary"), "{error}");
        }
        assert!(Credentials::new("me", "token").with_certificate("canary").is_err());
        assert!(Credentials::new("me", "token").with_certificate("").unwrap().certificate.is_none());
        let certificate = Certificate::check(&good.to_string()).unwrap();
        let shown = format!("{:?} {certificate:?}", made.with_certificate(good.to_string()).unwrap());
        assert!(!shown.contains(&certificate.signature) && !shown.contains(&certificate.seed), "{shown}");
    }

    #[test]
    fn random_texts_are_static_secrets_by_their_form() {
        let text = random_text().unwrap();
        assert_eq!(text.len(), 44);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert_ne!(text, random_text().unwrap());
    }
}
