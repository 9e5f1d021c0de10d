//! The one HTTP client, and whom it trusts.

use crate::connect::{Connections, TIMELINE};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, KeyProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SigningKey;
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme};
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::Instrument;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection that nobody has used for so long is closed: the next call is hours away.
const IDLE: Duration = Duration::from_secs(15);

/// How many TLS sessions are kept to go on with.
const SESSIONS: usize = 4;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client that trusts the system's certificate authorities (companies have their own; `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name others), or the bundled ones where the system has none. It takes proxies from the
/// environment, and follows no redirect: a signature is for one URL only.
pub(crate) fn http_client(
    user_agent: &str,
    connections: &Connections,
    verifier: Option<Arc<SystemVerifier>>,
) -> Result<reqwest::Client, BoxError> {
    let mut tls = client_config(verifier)?;
    tls.resumption = Resumption::store(Arc::new(Sessions(ClientSessionMemoryCache::new(SESSIONS))));
    let builder = builder(tls).user_agent(user_agent).connect_timeout(CONNECT_TIMEOUT).pool_idle_timeout(IDLE);
    Ok(builder.connector_layer(connections.clone()).build()?)
}

/// What a client for plain HTTP is made from: it trusts nobody's certificate and follows no redirect.
///
/// # Errors
/// Where TLS can't be set up.
pub fn plain_http_client() -> Result<reqwest::ClientBuilder, BoxError> {
    Ok(builder(client_config(None)?).connector_layer(Connections::default()))
}

/// Who is there to trust; nobody, where that is not said.
fn client_config(verifier: Option<Arc<SystemVerifier>>) -> Result<ClientConfig, rustls::Error> {
    let verifier = verifier.unwrap_or_else(SystemVerifier::of_nobody);
    let provider = Arc::clone(&verifier.provider);
    let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(tls.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn crypto() -> Arc<CryptoProvider> {
    // The code for keys of our own would be in the program, and nobody's.
    Arc::new(CryptoProvider { key_provider: &NoKeys, ..rustls::crypto::ring::default_provider() })
}

/// Nobody here has a certificate to show.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("there are no keys of our own".to_owned()))
    }
}

fn builder(mut tls: ClientConfig) -> reqwest::ClientBuilder {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(SystemResolver)
}

/// The system's resolver, which says in the timeline what it took.
#[derive(Debug)]
struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let span = tracing::info_span!(target: TIMELINE, "dns", what = name.as_str());
        let look_up = async move {
            // The port is not looked at.
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        };
        Box::pin(look_up.instrument(span))
    }
}

/// Sessions to go on with, in memory. Asked first of all in a handshake, so that the timeline knows when that begins.
struct Sessions(ClientSessionMemoryCache);

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        tracing::info!(target: TIMELINE, "tls");
        self.0.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.0.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(server_name)
    }
}

/// Trusts whom the system trusts. Reading that takes milliseconds, so a thread does, while the connection comes about;
/// whoever then has a certificate to look at waits for it.
pub(crate) struct SystemVerifier {
    provider: Arc<CryptoProvider>,
    trusted: Mutex<Trusted>,
}

/// How far the reading is.
enum Trusted {
    /// Nobody reads, or it could not be read.
    Unread,
    Reading(JoinHandle<Result<RootCertStore, String>>),
    Read(Arc<RootCertStore>),
}

impl SystemVerifier {
    /// Begins to read.
    pub(crate) fn begin() -> Arc<Self> {
        let reading = thread::Builder::new().name("roots".to_owned()).spawn(trusted_roots);
        // Where no thread can be had, it is read when it is needed.
        let trusted = reading.map_or(Trusted::Unread, Trusted::Reading);
        Arc::new(Self { provider: crypto(), trusted: Mutex::new(trusted) })
    }

    /// Trusts nobody.
    fn of_nobody() -> Arc<Self> {
        Arc::new(Self { provider: crypto(), trusted: Mutex::new(Trusted::Read(Arc::new(RootCertStore::empty()))) })
    }

    fn trusted(&self) -> MutexGuard<'_, Trusted> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, rustls::Error> {
        let mut trusted = self.trusted();
        let read = match mem::replace(&mut *trusted, Trusted::Unread) {
            Trusted::Read(roots) => Ok(roots),
            Trusted::Reading(reading) => reading.join().unwrap_or_else(|_| trusted_roots()).map(Arc::new),
            Trusted::Unread => trusted_roots().map(Arc::new),
        };
        let roots =
            read.map_err(|problem| rustls::Error::Other(rustls::OtherError(Arc::new(NobodyToTrust(problem)))))?;
        *trusted = Trusted::Read(Arc::clone(&roots));
        Ok(roots)
    }
}

impl fmt::Debug for SystemVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemVerifier")
    }
}

/// What rustls' own verifier does that knows of no revocation lists, by the functions that it is made of.
impl ServerCertVerifier for SystemVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &*self.roots()?, intermediates, now, algorithms)?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Nobody's certificate can be believed here, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NobodyToTrust(String);

/// Whether a call failed because nobody's word counts here: no network in the world changes that.
pub(crate) fn nobody_to_trust(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // What an I/O error was made from is no source of it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(rustls::Error::Other(other)) = inner.and_then(|inner| inner.downcast_ref())
            && let Some(NobodyToTrust(problem)) = other.0.downcast_ref()
        {
            return Some(problem.clone());
        }
        cause = error.source();
    }
    None
}

fn trusted_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    // Windows has few of them to begin with, and fetches the others when its own library first asks for one.
    if cfg!(windows) && !crate::environment::names_authorities() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    }
    match found.errors.first() {
        // Somebody chose whom to trust: everybody is no stand-in for that.
        Some(error) if added == 0 => return Err(format!("no certificate authority can be read: {error}")),
        Some(error) => tracing::warn!("some certificate authorities cannot be read: {error}"),
        None if added == 0 => {
            tracing::warn!("no certificate authority found on this system: trusting the bundled ones");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        None => {}
    }
    Ok(roots)
}
