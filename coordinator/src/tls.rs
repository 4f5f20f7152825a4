//! TLS of the two ports: what they show, and whom they let in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Listen;

/// A peer that doesn't finish its handshake in this time is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Takes TLS connections on one port.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// Lets a peer in, if it shows what it must.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(HANDSHAKE, self.0.accept(stream))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
    }
}

/// The clients' and the agents' port, in this order; none without a certificate.
pub fn acceptors(listen: &Listen) -> anyhow::Result<(Option<Acceptor>, Option<Acceptor>)> {
    let (Some(cert), Some(key)) = (&listen.tls_cert, &listen.tls_key) else {
        return Ok((None, None));
    };
    let client_ca = listen.tls_client_ca.as_deref();
    let agent_ca = listen.tls_agent_ca.as_deref().or(client_ca);
    if client_ca.is_none() {
        tracing::warn!("no --tls-client-ca is given: whoever reaches the client port may build");
    }
    let agent_ca = agent_ca.context(
        "with TLS, agents must show a certificate: give the CA that theirs come from with --tls-agent-ca (or --tls-client-ca)",
    )?;
    Ok((
        Some(acceptor(cert, key, client_ca)?),
        Some(acceptor(cert, key, Some(agent_ca))?),
    ))
}

fn acceptor(cert: &Path, key: &Path, ca: Option<&Path>) -> anyhow::Result<Acceptor> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("{} holds no private key in PEM", key.display()))?;
    let builder = ServerConfig::builder();
    let builder = match ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("{} holds no usable CA", ca.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                .build()
                .with_context(|| format!("{} holds no usable CA", ca.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .with_context(|| format!("{} and its key don't fit each other", cert.display()))?;
    // buildx offers no protocol at all, buildctl and agents `h2`: both are taken.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .with_context(|| format!("{} can't be read", path.display()))?
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| {
            format!(
                "{} holds something else than certificates in PEM",
                path.display()
            )
        })?;
    anyhow::ensure!(
        !certificates.is_empty(),
        "{} holds no certificate in PEM",
        path.display()
    );
    Ok(certificates)
}
