//! Taskcluster credentials.

use secrecy::SecretString;

/// A client id with its access token and, for temporary credentials, their certificate.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The client's id. Not a secret.
    pub client_id: String,
    /// The access token.
    pub access_token: SecretString,
    /// The certificate of temporary credentials: a string that holds JSON.
    pub certificate: Option<SecretString>,
}
