//! What the coordinator sends to registries. Real ones, open and with a password, are in the end-to-end tests; those that want tokens have a
//! service for them besides, which is played here, and so is one that lies.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use croft_coordinator::registry::{self, Login, Registry, RegistryError};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

/// Who is let in.
#[derive(Clone, Copy, PartialEq)]
enum Door {
    Open,
    /// Who brings a token that the service gave to one who has the password.
    Token,
    /// Who brings the password.
    Password,
    /// Nobody.
    Shut,
}

struct Played {
    host: String,
    door: Door,
    /// What there is under each name.
    body: Bytes,
    /// Method, path with query, and authorization of each request.
    asked: Mutex<Vec<String>>,
}

const USER: &str = "Basic dXNlcjpwYXNz";

impl Played {
    async fn start(door: Door, body: impl Into<Bytes>) -> Arc<Played> {
        // As the program does; the tests share it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let played = Arc::new(Played {
            host: listener.local_addr().expect("an address").to_string(),
            door,
            body: body.into(),
            asked: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(played.clone());
        tokio::spawn(serve(listener, router));
        played
    }

    fn registry(&self) -> Registry {
        let login = Login::Password {
            user: "user".into(),
            password: "pass".into(),
        };
        Registry::new(&self.host, &login, &[])
    }

    fn reference(&self, name: &str) -> oci_client::Reference {
        registry::reference(&format!("{}/{name}", self.host)).expect("a reference")
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

async fn serve(listener: TcpListener, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = TowerToHyperService::new(router.clone());
        let io = TokioIo::new(stream);
        let served = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        tokio::spawn(async move { served.await.map_err(|error| error.to_string()) });
    }
}

async fn answer(State(played): State<Arc<Played>>, request: Request) -> Response {
    let proof = request.headers().get(header::AUTHORIZATION);
    let proof = proof.map_or("nobody", |proof| proof.to_str().expect("text"));
    let path = request.uri().path_and_query().expect("a path").to_string();
    let asked = format!("{} {path} {proof}", request.method());
    played.asked.lock().expect("no panic").push(asked);
    if path.starts_with("/token") {
        return match proof == USER {
            true => r#"{"token":"abc"}"#.into_response(),
            false => StatusCode::UNAUTHORIZED.into_response(),
        };
    }
    let challenge = match played.door {
        Door::Open => None,
        Door::Token if proof == "Bearer abc" => None,
        Door::Password if proof == USER => None,
        Door::Password => Some(r#"Basic realm="here""#.to_owned()),
        Door::Token | Door::Shut => Some(format!(
            r#"Bearer realm="http://{}/token",service="here""#,
            played.host
        )),
    };
    match challenge {
        Some(challenge) => (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, challenge)],
        )
            .into_response(),
        None if request.method() == Method::PUT => StatusCode::CREATED.into_response(),
        None => played.body.clone().into_response(),
    }
}

#[tokio::test]
async fn an_open_registry_is_asked_once_for_each_question_and_told_no_password() {
    let played = Played::start(Door::Open, "{}").await;
    let (registry, tag) = (played.registry(), played.reference("a/b:1"));
    registry.manifest_get(&tag).await.expect("a manifest");
    let put = registry.manifest_put(&tag, "text/plain", Bytes::from("{}"));
    put.await.expect("put");
    assert_eq!(
        played.asked(),
        [
            "GET /v2/a/b/manifests/1 nobody",
            "PUT /v2/a/b/manifests/1 nobody"
        ]
    );
}

#[tokio::test]
async fn a_token_is_fetched_when_it_is_wanted_and_kept_for_what_it_allows() {
    let played = Played::start(Door::Token, "{}").await;
    let (registry, tag) = (played.registry(), played.reference("a/b:1"));
    registry.manifest_get(&tag).await.expect("a manifest");
    let asked = played.asked();
    assert_eq!(asked[0], "GET /v2/a/b/manifests/1 nobody");
    assert!(
        asked
            .iter()
            .any(|one| one.starts_with("GET /token?scope=repository%3Aa%2Fb%3Apull&")),
        "{asked:?}"
    );
    assert_eq!(
        asked.last().expect("asked"),
        "GET /v2/a/b/manifests/1 Bearer abc"
    );

    registry.manifest_get(&tag).await.expect("a manifest");
    assert_eq!(played.asked(), ["GET /v2/a/b/manifests/1 Bearer abc"]);

    let put = registry.manifest_put(&tag, "text/plain", Bytes::from("{}"));
    put.await.expect("put");
    let asked = played.asked();
    assert!(
        asked
            .iter()
            .any(|one| one.contains("scope=repository%3Aa%2Fb%3Apull%2Cpush&")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_password_is_shown_to_who_asks_for_it() {
    let played = Played::start(Door::Password, "{}").await;
    let (registry, tag) = (played.registry(), played.reference("a/b:1"));
    registry.manifest_get(&tag).await.expect("a manifest");
    assert_eq!(played.asked()[0], "GET /v2/a/b/manifests/1 nobody");
    registry.manifest_get(&tag).await.expect("a manifest");
    assert_eq!(played.asked(), [format!("GET /v2/a/b/manifests/1 {USER}")]);
}

#[tokio::test]
async fn a_registry_that_takes_no_proof_refused() {
    let played = Played::start(Door::Shut, "{}").await;
    let (registry, tag) = (played.registry(), played.reference("a/b:1"));
    let refused = registry.manifest_get(&tag).await.expect_err("refused");
    assert!(
        matches!(refused, RegistryError::Refused { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn something_else_than_what_was_asked_for_is_no_answer() {
    let played = Played::start(Door::Open, "{}").await;
    let registry = played.registry();
    let named = |text: &[u8]| played.reference(&format!("a@{}", registry::digest(text)));
    let (right, wrong) = (named(b"{}"), named(b"{ }"));
    let given = registry.manifest_get(&right).await;
    assert_eq!(given.expect("the right one"), "{}");
    let given = registry.manifest_get(&wrong).await;
    let error = given.expect_err("another one").to_string();
    assert!(error.contains("something else"), "{error}");
}

#[tokio::test]
async fn no_answer_takes_more_memory_than_a_manifest_may() {
    let played = Played::start(Door::Open, vec![b' '; (4 << 20) + 1]).await;
    let given = played
        .registry()
        .manifest_get(&played.reference("a:1"))
        .await;
    let error = given.expect_err("too much").to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
}
