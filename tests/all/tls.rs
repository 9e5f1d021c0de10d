//! Whom the program trusts: a deployment behind HTTPS, with a certificate authority of its own.

use crate::support::start_worker;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use simulator::taskcluster::OPERATOR;
use simulator::{CloudKind, Setup, Simulator};
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// HTTPS before a simulated deployment: decrypts, and passes everything on.
struct Front {
    port: u16,
    /// The certificate of the authority that vouches for it.
    authority: String,
}

impl Front {
    fn before(simulator: &Simulator) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = names.signed_by(&key, &authority).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = tokio_rustls::rustls::crypto::ring::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
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

#[test]
fn a_deployment_of_ones_own_authority_is_trusted_where_that_is_named() {
    let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO }).unwrap();
    let front = Front::before(&simulator);
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    fs::write(&authority, &front.authority).unwrap();
    let ask = |name: &str, authority: Option<&str>| {
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
    };
    let (code, said) = ask("localhost", Some(authority.to_str().unwrap()));
    assert!(code == Some(0) && said.contains("machine-1"), "{said}");
    assert!(simulator.count("/api/worker-manager") > 0);
    // Another name than the certificate's, and an authority that nobody vouched for.
    let before = simulator.records().len();
    let (code, said) = ask("127.0.0.1", Some(authority.to_str().unwrap()));
    assert!(code == Some(22) && said.contains("certificate"), "{said}");
    let (code, said) = ask("localhost", None);
    assert!(code == Some(22) && said.contains("certificate"), "{said}");
    // Who was to be trusted can't be read: everybody is no stand-in.
    let missing = folder.path().join("missing.pem");
    let (code, said) = ask("localhost", Some(missing.to_str().unwrap()));
    assert!(code == Some(22) && said.contains("no certificate authority can be read"), "{said}");
    assert_eq!(simulator.records().len(), before, "nothing was said to anybody who is not trusted");
}
