//! The one HTTP client, and whom it trusts.

use crate::ids::RootUrl;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client that trusts the system's certificate authorities (companies have their own; `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name others), or the bundled ones where the system has none. It takes proxies from the
/// environment, offers HTTP/2, and follows no redirect: a signature is for one URL only.
pub(crate) fn http_client(root_url: &RootUrl, user_agent: &str) -> Result<reqwest::Client, BoxError> {
    let roots = if root_url.is_https() { trusted_roots()? } else { RootCertStore::empty() };
    Ok(builder(roots)?.user_agent(user_agent).connect_timeout(CONNECT_TIMEOUT).build()?)
}

/// What a client for plain HTTP is made from: it trusts nobody's certificate and follows no redirect.
///
/// # Errors
/// Where TLS can't be set up.
pub fn plain_http_client() -> Result<reqwest::ClientBuilder, BoxError> {
    builder(RootCertStore::empty())
}

fn builder(roots: RootCertStore) -> Result<reqwest::ClientBuilder, BoxError> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).redirect(reqwest::redirect::Policy::none()))
}

fn trusted_roots() -> Result<RootCertStore, BoxError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    match found.errors.first() {
        // Somebody chose whom to trust: everybody is no stand-in for that.
        Some(error) if added == 0 => return Err(format!("no certificate authority can be read: {error}").into()),
        Some(error) => tracing::warn!("some certificate authorities cannot be read: {error}"),
        None if added == 0 => {
            tracing::warn!("no certificate authority found on this system: trusting the bundled ones");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        None => {}
    }
    Ok(roots)
}
