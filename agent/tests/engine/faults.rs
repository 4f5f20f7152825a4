//! Faults of the farm: they are told apart from the build's own, and the next try starts clean.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use croft_local::{Engine, EngineOptions};
use croft_proto::v1::{self, agent_message::Message as FromAgent};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    Farm, Gate, bench,
    coordinator::{Manners, build, held, offer, pushed},
    files::Folder,
    llb::Llb,
    nonce, repository,
};

/// A way to a registry that can be shut.
struct Way {
    address: SocketAddr,
    open: Arc<AtomicBool>,
    _end: tokio_util::task::AbortOnDropHandle<()>,
}

impl Way {
    async fn to(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, open) = (
            listener.local_addr().expect("bound"),
            Arc::new(AtomicBool::new(true)),
        );
        let passable = open.clone();
        let end = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let passable = passable.clone();
                tokio::spawn(async move {
                    if passable.load(Ordering::SeqCst) {
                        let mut far = TcpStream::connect(registry).await.expect("a registry");
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }));
        Self {
            address,
            open,
            _end: end,
        }
    }

    fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

/// Puts an empty image that no engine knows into a repository; its reference by digest.
async fn foreign_image(repository: &str) -> String {
    use oci_client::{
        Reference,
        client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer},
        manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE},
        secrets::RegistryAuth,
    };
    // The end of a tar, and nothing before it.
    let layer = vec![0; 1024];
    let config = serde_json::json!({
        "os": "linux",
        "architecture": "amd64",
        "author": nonce(),
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))]},
    });
    let config = Config::new(config.to_string(), IMAGE_CONFIG_MEDIA_TYPE.to_owned(), None);
    let layer = ImageLayer::new(layer, IMAGE_LAYER_MEDIA_TYPE.to_owned(), None);
    // Wanted even for plain HTTP; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    });
    let reference: Reference = format!("{repository}:latest").parse().expect("a reference");
    client
        .push(&reference, &[layer], config, &RegistryAuth::Anonymous, None)
        .await
        .expect("a push");
    let digest = client
        .fetch_manifest_digest(&reference, &RegistryAuth::Anonymous)
        .await
        .expect("a manifest");
    format!("{repository}@{digest}")
}

#[tokio::test]
async fn a_stage_registry_that_fails_is_named_as_at_fault_and_the_next_try_starts_clean() {
    let way = Way::to(bench().await.registry.address()).await;
    let stages = way.address.to_string();
    let manners = Manners {
        stage_registry: stages.clone(),
        ..Manners::default()
    };
    let (_farm, mut link) = Farm::start(manners).await;
    let context = build();

    // Something that is held, and must not be lost over the failure of something else.
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let random = llb.run(
        &base,
        &format!(": {}; head -c 32 /dev/urandom > /random", nonce()),
    );
    llb.uncached(&random);
    let made = repository().await;
    let first = link
        .run(offer(
            &context,
            vec![pushed("o", llb.definition(&random), &made)],
        ))
        .await;

    // A stage image of another engine's, so that this one has nothing of it.
    let name = format!("{stages}/{}", nonce());
    let image = foreign_image(&name).await;
    way.shut();
    let source = llb.image(&image);
    let pull = vec![held("o", llb.definition(&source))];
    let failed = link.run(offer(&context, pull.clone())).await;
    assert_eq!(
        failed.failure().kind(),
        v1::failure::Kind::StageRegistry,
        "{failed:?}"
    );
    let push = vec![pushed("o", llb.definition(&random), &name)];
    let failed = link.run(offer(&context, push.clone())).await;
    assert_eq!(
        failed.failure().kind(),
        v1::failure::Kind::StageRegistry,
        "{failed:?}"
    );

    way.open();
    link.run(offer(&context, pull)).await.done();
    let second = link.run(offer(&context, push)).await;
    assert_eq!(
        second.digest("o"),
        first.digest("o"),
        "the random bytes were held all the time"
    );
}

#[tokio::test]
async fn a_tunnel_that_breaks_in_mid_upload_is_the_farms_fault_and_the_next_try_works() {
    let folder = Folder {
        name: "file",
        data: Arc::new(nonce().into_bytes()),
    };
    let broken = Arc::new(AtomicBool::new(false));
    let manners = Manners {
        sessions: Arc::new(move |request| {
            let (folder, broken) = (folder.clone(), broken.clone());
            Box::pin(async move {
                if !broken.swap(true, Ordering::SeqCst) {
                    request
                        .extensions()
                        .get::<CancellationToken>()
                        .expect("the connection's")
                        .cancel();
                    std::future::pending::<()>().await;
                }
                folder.answer(request).await
            })
        }),
        ..Manners::default()
    };
    let (_farm, mut link) = Farm::start(manners).await;
    let methods = vec!["/moby.filesync.v1.FileSync/DiffCopy".to_owned()];
    let mut context = build();
    context.sessions = vec![v1::Session {
        id: nonce(),
        shared_key: nonce(),
        methods,
        ..Default::default()
    }];
    let mut llb = Llb::default();
    let local = llb.local("context");
    let output = vec![held("o", llb.definition(&local))];
    let failed = link.run(offer(&context, output.clone())).await;
    assert_eq!(
        failed.failure().kind(),
        v1::failure::Kind::Farm,
        "{failed:?}"
    );
    link.run(offer(&context, output)).await.done();
}

#[tokio::test]
async fn an_engine_that_dies_takes_its_keepers_with_it_and_the_farm_hears_of_both() {
    let engine = tokio::task::spawn_blocking(|| {
        let mirror = Some(
            croft_local::Workbench::shared()
                .expect("a workbench")
                .registry
                .address(),
        );
        Engine::start(EngineOptions {
            name: "mortal".into(),
            mirror,
            ..EngineOptions::default()
        })
        .expect("an engine")
    });
    let engine = engine.await.expect("an engine");
    let (_farm, mut link) = Farm::on_engine(Manners::default(), 1, engine.address()).await;
    let gate = Gate::new().await;
    let mut llb = Llb::default();
    let base = llb.image("docker.io/library/busybox:latest");
    let run = llb.run(&base, &gate.wait());
    let context = build();
    let file = llb.file("/nonce", &nonce());
    link.run(offer(&context, vec![held("o", llb.definition(&file))]))
        .await
        .done();
    let attempt = offer(&context, vec![held("o", llb.definition(&run))]);
    let id = attempt.attempt.clone();
    link.offer(attempt).await;
    let waiting = gate.arrived().await;
    let dead = tokio::task::spawn_blocking(move || drop(engine));
    let (mut failure, mut closed, mut unhealthy) = (None, None, false);
    while failure.is_none() || closed.is_none() || !unhealthy {
        let said = link.next("the engine's end", Some).await;
        match said {
            FromAgent::Finished(finished) if finished.attempt == id => failure = finished.result,
            FromAgent::KeeperClosed(keeper) => closed = Some(keeper.build),
            FromAgent::Heartbeat(heartbeat) => unhealthy |= !heartbeat.engine_healthy,
            _ => {}
        }
    }
    waiting.killed().await;
    let Some(v1::finished::Result::Failure(failure)) = failure else {
        panic!("it can't have been done")
    };
    assert_eq!(failure.kind(), v1::failure::Kind::Farm, "{failure:?}");
    assert_eq!(closed.as_ref(), Some(&context.build));
    let refused = link
        .run(offer(&build(), vec![held("o", llb.definition(&run))]))
        .await;
    assert_eq!(refused.failure().kind(), v1::failure::Kind::Farm);
    dead.await.expect("the engine's end");
}
