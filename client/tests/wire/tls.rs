//! Farms that want certificates.

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::peer::{Peer, assert_fails, croft, farm, serve, text};

/// An authority with a server's and a client's certificate, as PEM files in a folder.
struct Authority {
    folder: tempfile::TempDir,
    server: Identity,
    ca: Certificate,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer =
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().expect("a key"))
                .expect("a CA");
        let sign = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let names = vec![name.to_owned()];
            let cert = rcgen::CertificateParams::new(names)
                .expect("parameters")
                .signed_by(&key, &issuer)
                .expect("signed");
            (cert.pem(), key.serialize_pem())
        };
        let (cert, key) = sign("farm.example");
        let server = Identity::from_pem(cert, key);
        let (cert, key) = sign("client");
        for (name, pem) in [("ca", issuer.pem()), ("cert", cert), ("key", key)] {
            std::fs::write(folder.path().join(name), pem).expect("written");
        }
        Self {
            ca: Certificate::from_pem(issuer.pem()),
            folder,
            server,
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder
            .path()
            .join(name)
            .to_str()
            .expect("a path")
            .to_owned()
    }
}

#[tokio::test]
async fn a_farm_with_mutual_tls_is_reached_with_the_right_files_only() {
    let ours = Authority::new();
    let tls = ServerTlsConfig::new()
        .identity(ours.server.clone())
        .client_ca_root(ours.ca.clone());
    let address = serve(Peer::default(), Some(tls)).await.to_string();
    let (ca, cert, key) = (ours.file("ca"), ours.file("cert"), ours.file("key"));

    let all = [
        ("CROFT_ADDR", address.as_str()),
        ("CROFT_TLS_CA", &ca),
        ("CROFT_TLS_CERT", &cert),
        ("CROFT_TLS_KEY", &key),
        ("CROFT_TLS_SERVER_NAME", "farm.example"),
    ];
    let output = croft(&["agents", "ls"], &all).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    // Without our certificate, with the wrong name, with another authority, without TLS.
    assert_fails(
        &croft(&["agents", "ls"], &[all[0], all[1], all[4]]).await,
        4,
        &[&address, "our certificate"],
    );
    assert_fails(
        &croft(&["agents", "ls"], &all[..4]).await,
        4,
        &[&address, "certificate", "--tls"],
    );
    let stranger = Authority::new();
    let (strangers, nowhere) = (stranger.file("ca"), stranger.file("nowhere"));
    assert_fails(
        &croft(&["agents", "ls", "--tls-ca", &strangers], &all).await,
        4,
        &[&address, "--tls"],
    );
    assert_fails(
        &croft(&["agents", "ls"], &all[..1]).await,
        4,
        &[&address, "--tls-ca"],
    );
    assert_fails(
        &croft(&["agents", "ls", "--tls-ca", &nowhere], &all).await,
        1,
        &[&nowhere, "cannot read"],
    );
}

#[tokio::test]
async fn tls_flags_for_a_farm_without_tls_are_named_as_the_cause() {
    let (_, address) = farm().await;
    let ours = Authority::new();
    let output = croft(
        &[
            "agents",
            "ls",
            "--addr",
            &address,
            "--tls-ca",
            &ours.file("ca"),
        ],
        &[],
    )
    .await;
    assert_fails(&output, 4, &[&address, "may not use TLS"]);
    let output = croft(
        &[
            "agents",
            "ls",
            "--addr",
            &address,
            "--tls-ca",
            &ours.file("ca"),
            "--tls-cert",
            &ours.file("cert"),
        ],
        &[],
    )
    .await;
    assert_fails(&output, 2, &["--tls-cert and --tls-key belong together"]);
}
