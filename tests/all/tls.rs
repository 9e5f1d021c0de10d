//! Whom the program trusts: a deployment behind HTTPS, with a certificate authority of its own.

use crate::support::{Fixture, Running, start_worker};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use simulator::taskcluster::OPERATOR;
use simulator::{CloudKind, Fault, Setup, Simulator};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ALL_VERSIONS, ServerConfig, SupportedProtocolVersion};

/// HTTPS before a simulated deployment: decrypts, and passes everything on.
struct Front {
    port: u16,
    /// The certificate of the authority that vouches for it.
    authority: String,
}

/// What may be wrong with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// Its certificate's time is over.
    Expired,
    /// It shows a certificate that is not its own.
    NotItsKey,
}

/// Shows what it was given, whether the key belongs to it or not.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Front {
    fn before(simulator: &Simulator) -> Self {
        Self::with(simulator, ALL_VERSIONS, Wrong::Nothing)
    }

    fn with(simulator: &Simulator, versions: &[&'static SupportedProtocolVersion], wrong: Wrong) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut names = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        if wrong == Wrong::Expired {
            names.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let certificate = names.signed_by(&key, &authority).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = if wrong == Wrong::NotItsKey { KeyPair::generate().unwrap() } else { key };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = tokio_rustls::rustls::crypto::ring::default_provider();
        let shown = CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap());
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shows(Arc::new(shown))));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let behind: SocketAddr = simulator.url().strip_prefix("http://").unwrap().parse().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        // A client that doesn't trust us hangs up.
                        let Ok(mut outside) = acceptor.accept(stream).await else { return };
                        let mut inside = TcpStream::connect(behind).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                    });
                }
            });
        });
        Self { port, authority: authority.pem() }
    }
}

/// Asks the deployment behind it for its workers, at that name, with that file of authorities: exit code and output.
fn ask(front: &Front, name: &str, authority: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(start_worker());
    command
        .args(["workers", "--pool", "proj-simulated/ci"])
        .env("TASKCLUSTER_ROOT_URL", format!("https://{name}:{}", front.port))
        .env("TASKCLUSTER_CLIENT_ID", OPERATOR.0)
        .env("TASKCLUSTER_ACCESS_TOKEN", OPERATOR.1)
        .env("NO_PROXY", "localhost,127.0.0.1")
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR")
        .stdin(Stdio::null());
    command.envs(authority.map(|path| ("SSL_CERT_FILE", path)));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn whoever_can_not_prove_to_be_the_deployment_is_told_nothing() {
    let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    for version in ALL_VERSIONS {
        let asked = |wrong| {
            let front = Front::with(&simulator, &[version], wrong);
            fs::write(&authority, &front.authority).unwrap();
            ask(&front, "localhost", Some(&authority))
        };
        let before = simulator.records().len();
        let (code, said) = asked(Wrong::Expired);
        assert!(code == Some(22) && said.contains("certificate expired"), "{version:?}: {said}");
        let (code, said) = asked(Wrong::NotItsKey);
        assert!(code == Some(22) && said.contains("BadSignature"), "{version:?}: {said}");
        assert_eq!(simulator.records().len(), before);
        let (code, said) = asked(Wrong::Nothing);
        assert!(code == Some(0) && said.contains("machine-1"), "{version:?}: {said}");
    }
}

#[test]
fn a_deployment_of_ones_own_authority_is_trusted_where_that_is_named() {
    let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO }).unwrap();
    let front = Front::before(&simulator);
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    fs::write(&authority, &front.authority).unwrap();
    let ask = |name: &str, authority: Option<&Path>| ask(&front, name, authority);
    let (code, said) = ask("localhost", Some(&authority));
    assert!(code == Some(0) && said.contains("machine-1"), "{said}");
    assert!(simulator.count("/api/worker-manager") > 0);
    // Another name than the certificate's, and an authority that nobody vouched for.
    let before = simulator.records().len();
    let (code, said) = ask("127.0.0.1", Some(&authority));
    assert!(code == Some(22) && said.contains("certificate"), "{said}");
    let (code, said) = ask("localhost", None);
    assert!(code == Some(22) && said.contains("certificate"), "{said}");
    // Who was to be trusted can't be read: everybody is no stand-in.
    let missing = folder.path().join("missing.pem");
    let (code, said) = ask("localhost", Some(&missing));
    assert!(code == Some(22) && said.contains("no certificate authority can be read"), "{said}");
    assert_eq!(simulator.records().len(), before, "nothing was said to anybody who is not trusted");
}

#[test]
fn a_machine_boots_over_a_tls_connection_that_was_made_while_its_cloud_was_asked() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let front = Front::before(&fixture.simulator);
    let root_url = format!("https://localhost:{}", front.port);
    fixture.simulator.world(|world| world.cloud.launch.root_url.clone_from(&root_url));
    // The proof comes after the connection.
    fixture.simulator.fault("/identity?audience", 1, Fault::Delay(Duration::from_secs(1)));
    fixture.machine.script = json!(["hello", {"exit": 0}]);
    let authority = fixture.path("ca.pem");
    fs::write(&authority, &front.authority).unwrap();
    let recording = fixture.path("boot.json");
    let mut command = fixture.machine.command().unwrap();
    command.env("SSL_CERT_FILE", &authority).env_remove("SSL_CERT_DIR").env("NO_PROXY", "localhost");
    Running::spawn(command.arg("--timeline").arg(&recording)).finish().assert_code(0);

    let text = fs::read(&recording).unwrap();
    let spans: Value = serde_json::from_slice(&text).unwrap();
    let spans = spans["spans"].as_array().unwrap();
    let time = |span: &Value, key: &str| span[key].as_f64().unwrap_or_else(|| panic!("{span}"));
    let ahead = spans.iter().find(|span| span["ahead"] == true).unwrap();
    assert!(time(ahead, "begin") < time(ahead, "tls") && time(ahead, "tls") < time(ahead, "end"), "{ahead}");
    let register = spans.iter().position(|span| span["what"].as_str().is_some_and(|what| what.ends_with("/register")));
    let register = register.unwrap();
    // It needed none of its own: it took that one, or waited for it.
    assert!(!spans.iter().any(|span| span["kind"] == "connect" && span["parent"] == register));
}
