//! Pushes that meet others: a registry may lose sight of a blob for a moment while somebody else uploads the same one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use croft_proto::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Farm, bench,
    coordinator::{Manners, build, offer, pushed},
    llb::Llb,
    nonce,
};

/// What CNCF's registry answers then.
const CONFUSED: &str = r#"{"errors":[{"code":"UNKNOWN","message":"provided digest did not match uploaded content"},{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry","detail":"sha256:00"}]}"#;

/// A way to a registry that is confused about the first manifests.
struct Confused {
    address: SocketAddr,
    manifests: Arc<AtomicUsize>,
    _end: AbortOnDropHandle<()>,
}

impl Confused {
    async fn to(registry: SocketAddr, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let manifests = Arc::new(AtomicUsize::new(0));
        let seen = manifests.clone();
        let end = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(registry).await.expect("a registry");
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near, far, seen.clone(), times));
            }
        }));
        Self {
            address,
            manifests,
            _end: end,
        }
    }
}

/// Passes requests on, but for the first manifests. A client sends a request's head at once and by itself.
async fn pass(
    (mut near, mut answers): (OwnedReadHalf, OwnedWriteHalf),
    (mut far_answers, mut far): (OwnedReadHalf, OwnedWriteHalf),
    manifests: Arc<AtomicUsize>,
    times: usize,
) {
    let mut chunk = vec![0; 64 << 10];
    let requests = async {
        loop {
            let length = near.read(&mut chunk).await.unwrap_or(0);
            let chunk = &chunk[..length];
            let line = chunk
                .split(|byte| *byte == b'\r')
                .next()
                .unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            let manifest = line.starts_with("PUT ") && line.contains("/manifests/");
            if manifest && manifests.fetch_add(1, Ordering::SeqCst) < times {
                return true;
            }
            if length == 0 || far.write_all(chunk).await.is_err() {
                return false;
            }
        }
    };
    let confused = tokio::select! {
        confused = requests => confused,
        _ = tokio::io::copy(&mut far_answers, &mut answers) => false,
    };
    if confused {
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{CONFUSED}",
            CONFUSED.len()
        );
        let _ = answers.write_all(answer.as_bytes()).await;
        let _ = answers.shutdown().await;
        // What it still sends is read, or it would see a broken connection instead of the answer.
        while near.read(&mut chunk).await.is_ok_and(|length| length > 0) {}
    }
}

#[tokio::test]
async fn a_push_that_a_registry_was_confused_about_is_repeated_without_running_anything_again() {
    let registry = Confused::to(bench().await.registry.address(), 2).await;
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let made = llb.run(&base, &format!("echo {} > /x", nonce()));
    let image = format!("{}/{}", registry.address, nonce());
    let ended = link
        .run(offer(
            &build(),
            vec![pushed("o", llb.definition(&made), &image)],
        ))
        .await;
    // The command, and the base where no other test has had it pulled.
    let done = ended.done();
    assert_eq!(done.vertices_run + done.vertices_cached, 2, "{ended:?}");
    assert!(done.vertices_run >= 1, "{ended:?}");
    assert_eq!(registry.manifests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_push_that_is_refused_again_and_again_is_the_builds_own_failure() {
    let registry = Confused::to(bench().await.registry.address(), usize::MAX).await;
    let (_farm, mut link) = Farm::start(Manners::default()).await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let made = llb.run(&base, &format!("echo {} > /x", nonce()));
    let image = format!("{}/{}", registry.address, nonce());
    let ended = link
        .run(offer(
            &build(),
            vec![pushed("o", llb.definition(&made), &image)],
        ))
        .await;
    let failure = ended.failure();
    assert_eq!(failure.kind(), v1::failure::Kind::Build, "{failure:?}");
    assert!(
        failure.message.contains("blob unknown to registry"),
        "{failure:?}"
    );
    assert_eq!(registry.manifests.load(Ordering::SeqCst), 5);
}
