//! Requests to one registry as one user.
//!
//! A registry is asked first and proof of who we are given when it wants some: an open one costs one request for each question, and nobody is
//! sent a password who didn't ask for it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::{RequestBuilder, Response};

use super::{Login, RegistryError, is_loopback};

/// The media types that a tag may point at, in every family.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// Where a registry says which manifest it answered with.
const DIGEST: &str = "docker-content-digest";
/// The largest manifest that registries take.
const MANIFEST_LIMIT: usize = 4 << 20;
/// What is read of an answer that is no success.
const EXCUSE_LIMIT: usize = 64 << 10;

const USER_AGENT: &str = concat!("croft/", env!("CARGO_PKG_VERSION"));
/// How long a registry may take to be connected to …
const CONNECT: Duration = Duration::from_secs(10);
/// … and between two words.
const READ: Duration = Duration::from_secs(60);

/// Connections and trusted authorities, which are dear to load; never credentials.
static HTTP: LazyLock<reqwest::Client> = LazyLock::new(|| {
    let client = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT)
        .read_timeout(READ);
    // Without a working TLS none of its requests can succeed, and each says so.
    client.build().unwrap_or_default()
});

/// One registry and one login. Cheap to make; hold it for one build only, so that no build ever uses another's credentials.
#[derive(Clone)]
pub struct Registry {
    login: Login,
    /// Spoken to in plain HTTP.
    plain: Option<String>,
    /// What the registry gave or took as proof, by repository and what may be done with it.
    proofs: Arc<Mutex<HashMap<(String, Right), HeaderValue>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Right {
    Read,
    Write,
}

impl Registry {
    /// Hosts in `plain` and loopback ones are spoken to in plain HTTP, as engines do.
    pub fn new(host: &str, login: &Login, plain: &[String]) -> Self {
        let plain = is_loopback(host) || plain.iter().any(|one| one == host);
        Self {
            login: login.clone(),
            plain: plain.then(|| host.to_owned()),
            proofs: Arc::default(),
        }
    }

    /// The digest that a tag points at now; `None` if there is no such tag.
    pub async fn tag_get(&self, reference: &Reference) -> Result<Option<String>, RegistryError> {
        let place = manifest(reference);
        let answer = match self.ask(Method::HEAD, reference, &place).await {
            Ok(answer) => answer,
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let named = answer.headers().get(DIGEST);
        if let Some(digest) = named.and_then(|digest| digest.to_str().ok()) {
            return Ok(Some(digest.to_owned()));
        }
        // Registries needn't say it.
        match self.manifest_get(reference).await {
            Ok(bytes) => Ok(Some(super::digest(&bytes))),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A manifest or index as its bytes, which are checked against the digest if the reference has one.
    pub async fn manifest_get(&self, reference: &Reference) -> Result<Bytes, RegistryError> {
        let place = manifest(reference);
        let answer = self.ask(Method::GET, reference, &place).await?;
        let bytes = read(reference.whole(), answer, MANIFEST_LIMIT).await?;
        match reference.digest() {
            Some(digest) => checked(reference.whole(), bytes, digest),
            None => Ok(bytes),
        }
    }

    /// Deletes a manifest by its digest.
    pub async fn manifest_delete(&self, reference: &Reference) -> Result<(), RegistryError> {
        let url = self.url(reference, &manifest(reference));
        let delete = || HTTP.delete(&url);
        let answer = self.send(reference, Right::Write, delete).await?;
        match answer.status() {
            StatusCode::METHOD_NOT_ALLOWED => Err(RegistryError::NoDeletion {
                reference: reference.whole(),
            }),
            _ => success(reference.whole(), answer).await.map(drop),
        }
    }

    /// A blob of at most `limit` bytes, which is checked against its digest.
    pub async fn blob_get(
        &self,
        repository: &Reference,
        digest: &str,
        limit: usize,
    ) -> Result<Bytes, RegistryError> {
        let name = format!("{}@{digest}", repository.whole());
        let place = format!("blobs/{digest}");
        let answer = self.ask(Method::GET, repository, &place).await?;
        checked(name.clone(), read(name, answer, limit).await?, digest)
    }

    /// Whether a blob is in a repository.
    pub async fn blob_exists(
        &self,
        repository: &Reference,
        digest: &str,
    ) -> Result<bool, RegistryError> {
        let place = format!("blobs/{digest}");
        match self.ask(Method::HEAD, repository, &place).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest or index under a tag or its digest.
    pub async fn manifest_put(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        let url = self.url(reference, &manifest(reference));
        let put = || {
            let request = HTTP.put(&url).header(header::CONTENT_TYPE, media_type);
            request.body(bytes.clone())
        };
        let answer = self.send(reference, Right::Write, put).await?;
        success(reference.whole(), answer).await.map(drop)
    }

    /// Asks for what is at a place of a repository.
    async fn ask(
        &self,
        method: Method,
        repository: &Reference,
        place: &str,
    ) -> Result<Response, RegistryError> {
        let url = self.url(repository, place);
        let ask = || {
            let request = HTTP.request(method.clone(), &url);
            request.header(header::ACCEPT, MANIFEST_TYPES)
        };
        let answer = self.send(repository, Right::Read, ask).await?;
        success(repository.whole(), answer).await
    }

    fn url(&self, repository: &Reference, place: &str) -> String {
        let host = repository.resolve_registry();
        let scheme = match self.plain.as_deref() == Some(host) {
            true => "http",
            false => "https",
        };
        format!("{scheme}://{host}/v2/{}/{place}", repository.repository())
    }

    /// Sends a request with the proof that there is, and once more with a new one if the registry wants one.
    async fn send(
        &self,
        repository: &Reference,
        right: Right,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let away = |error: reqwest::Error| RegistryError::of(repository, error.into());
        let key = (repository.repository().to_owned(), right);
        let known = self.proofs().get(&key).cloned();
        let answer = authorized(request(), known).send().await.map_err(away)?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let Some(proof) = self.prove(repository, right).await? else {
            return Ok(answer);
        };
        self.proofs().insert(key, proof.clone());
        let request = authorized(request(), Some(proof));
        request.send().await.map_err(away)
    }

    /// What the registry wants to see before it allows something.
    async fn prove(
        &self,
        repository: &Reference,
        right: Right,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let operation = match right {
            Right::Read => RegistryOperation::Pull,
            Right::Write => RegistryOperation::Push,
        };
        // It keeps what it is given, so it can't be used for another login.
        let client = oci_client::Client::new(ClientConfig {
            protocol: ClientProtocol::HttpsExcept(self.plain.iter().cloned().collect()),
            user_agent: USER_AGENT,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(READ),
            ..ClientConfig::default()
        });
        let auth = RegistryAuth::from(&self.login);
        let token = client.auth(repository, &auth, operation).await;
        let token = token.map_err(|error| RegistryError::of(repository, error))?;
        let proof = match (token, &self.login) {
            (Some(token), _) => format!("Bearer {token}"),
            (None, Login::Password { user, password }) => {
                let both = super::base64(format!("{user}:{password}").as_bytes());
                format!("Basic {both}")
            }
            (None, _) => return Ok(None),
        };
        let mut proof = HeaderValue::from_str(&proof).map_err(|_| RegistryError::Refused {
            reference: repository.whole(),
            why: "its token is none that a header can hold".to_owned(),
        })?;
        proof.set_sensitive(true);
        Ok(Some(proof))
    }

    fn proofs(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Right), HeaderValue>> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn authorized(request: RequestBuilder, proof: Option<HeaderValue>) -> RequestBuilder {
    match proof {
        Some(proof) => request.header(header::AUTHORIZATION, proof),
        None => request,
    }
}

/// Where a manifest is within its repository.
fn manifest(reference: &Reference) -> String {
    let name = reference.digest().or(reference.tag()).unwrap_or("latest");
    format!("manifests/{name}")
}

async fn success(name: String, answer: Response) -> Result<Response, RegistryError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let excuse = read(name.clone(), answer, EXCUSE_LIMIT).await;
    let excuse = excuse.unwrap_or_default();
    Err(RegistryError::answered(name, status, &excuse))
}

/// An answer's body, of at most `limit` bytes.
async fn read(name: String, mut answer: Response, limit: usize) -> Result<Bytes, RegistryError> {
    let mut bytes = BytesMut::new();
    loop {
        let piece = answer.chunk().await.map_err(|error| RegistryError::Away {
            reference: name.clone(),
            why: super::chain(&error),
        })?;
        let Some(piece) = piece else {
            return Ok(bytes.freeze());
        };
        if bytes.len() + piece.len() > limit {
            return Err(RegistryError::Other {
                reference: name,
                why: format!("it has more than {limit} bytes"),
            });
        }
        bytes.extend_from_slice(&piece);
    }
}

fn checked(name: String, bytes: Bytes, digest: &str) -> Result<Bytes, RegistryError> {
    match super::digest(&bytes) == digest {
        true => Ok(bytes),
        false => Err(RegistryError::Other {
            reference: name,
            why: "the registry gave something else".to_owned(),
        }),
    }
}
