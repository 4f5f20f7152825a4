//! The coordinator's own traffic with OCI registries: reading and putting manifests and tags.
//!
//! Layers and configs never pass here: engines push and pull them by themselves. What a manifest says is built in
//! [`crate::control::image`]; whose credentials are used is decided by the caller.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderValue;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};

/// The media types that a tag may point at, in every family.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

const USER_AGENT: &str = concat!("croft/", env!("CARGO_PKG_VERSION"));
/// How long a registry may take to be connected to …
const CONNECT: Duration = Duration::from_secs(10);
/// … and between two words.
const READ: Duration = Duration::from_secs(60);

/// Who we are towards one registry. Never stored, never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// Nobody.
    Anonymous,
    /// A user's name with a password or token.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that the registry takes as it is.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Anonymous => "Anonymous",
            Login::Password { .. } => "Password(…)",
            Login::Token(_) => "Token(…)",
        })
    }
}

impl From<&Login> for RegistryAuth {
    fn from(login: &Login) -> Self {
        match login {
            Login::Anonymous => RegistryAuth::Anonymous,
            Login::Password { user, password } => {
                RegistryAuth::Basic(user.clone(), password.clone())
            }
            Login::Token(token) => RegistryAuth::Bearer(token.clone()),
        }
    }
}

/// What a registry answered instead of what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The text is no image reference.
    #[error("{reference:?} is no image reference: {why}")]
    BadReference {
        /// As it was given.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such manifest.
    #[error("{reference}: not found")]
    NotFound {
        /// What was asked for.
        reference: String,
    },
    /// The credentials don't suffice.
    #[error("{reference}: the registry refused access ({why})")]
    Refused {
        /// What was asked for.
        reference: String,
        /// As the registry put it.
        why: String,
    },
    /// The registry is away or broken: trying again may help.
    #[error("{reference}: the registry is not reachable or failed ({why})")]
    Away {
        /// What was asked for.
        reference: String,
        /// As the registry or the network put it.
        why: String,
    },
    /// The registry deletes nothing.
    #[error(
        "{reference}: the registry deletes nothing: in CNCF distribution, set storage.delete.enabled to true"
    )]
    NoDeletion {
        /// What was to be deleted.
        reference: String,
    },
    /// Anything else that it said.
    #[error("{reference}: {why}")]
    Other {
        /// What was asked for.
        reference: String,
        /// As the registry put it.
        why: String,
    },
}

impl RegistryError {
    fn of(reference: &Reference, error: OciDistributionError) -> Self {
        let why = chain(&error);
        let reference = reference.whole();
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) => Self::NotFound { reference },
            OciDistributionError::ServerError { code: 404, .. } => Self::NotFound { reference },
            OciDistributionError::RegistryError { envelope, .. } => {
                let code = envelope.errors.first().map(|e| &e.code);
                match code {
                    Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown) => {
                        Self::NotFound { reference }
                    }
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                        Self::Refused { reference, why }
                    }
                    _ => Self::Other { reference, why },
                }
            }
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::ServerError {
                code: 401 | 403, ..
            } => Self::Refused { reference, why },
            OciDistributionError::RequestError(_)
            | OciDistributionError::IoError(_)
            | OciDistributionError::ServerError {
                code: 500..=599, ..
            } => Self::Away { reference, why },
            _ => Self::Other { reference, why },
        }
    }
}

/// An error with its causes: the innermost one is what tells a person what happened ("connection refused").
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Reads a reference as a client wrote it: a missing host means docker.io, a missing tag and digest `latest`.
pub fn reference(text: &str) -> Result<Reference, RegistryError> {
    text.parse().map_err(
        |error: oci_client::ParseError| RegistryError::BadReference {
            reference: text.to_owned(),
            why: error.to_string(),
        },
    )
}

/// The registry's host of a reference, as credentials are asked for.
pub fn host(reference: &Reference) -> &str {
    reference.resolve_registry()
}

/// A connection to one registry with one login. Cheap to make; hold it for one build only, so that no build ever uses
/// another's credentials.
#[derive(Clone)]
pub struct Registry {
    client: oci_client::Client,
    auth: RegistryAuth,
    /// For what the other can't do.
    http: reqwest::Client,
    plain: bool,
}

impl Registry {
    /// Hosts in `plain` and loopback ones are spoken to in plain HTTP, as engines do.
    pub fn new(host: &str, login: &Login, plain: &[String]) -> Self {
        let mut exceptions = plain.to_vec();
        if is_loopback(host) {
            exceptions.push(host.to_owned());
        }
        let plain = exceptions.iter().any(|one| one == host);
        let client = oci_client::Client::new(ClientConfig {
            protocol: ClientProtocol::HttpsExcept(exceptions),
            user_agent: USER_AGENT,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(READ),
            ..ClientConfig::default()
        });
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT)
            .read_timeout(READ)
            .build()
            // As the other client has it: without a working TLS there is none of its own either.
            .unwrap_or_default();
        Self {
            client,
            auth: login.into(),
            http,
            plain,
        }
    }

    /// The digest that a tag points at now; `None` if there is no such tag.
    pub async fn tag_get(&self, reference: &Reference) -> Result<Option<String>, RegistryError> {
        match self
            .client
            .fetch_manifest_digest(reference, &self.auth)
            .await
            .map_err(|error| RegistryError::of(reference, error))
        {
            Ok(digest) => Ok(Some(digest)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A manifest or index as its bytes.
    pub async fn manifest_get(&self, reference: &Reference) -> Result<Bytes, RegistryError> {
        self.client
            .pull_manifest_raw(reference, &self.auth, &MANIFEST_TYPES)
            .await
            .map(|(bytes, _)| bytes)
            .map_err(|error| RegistryError::of(reference, error))
    }

    /// Deletes a manifest by its digest.
    pub async fn manifest_delete(&self, reference: &Reference) -> Result<(), RegistryError> {
        let failed = |error| RegistryError::of(reference, error);
        let push = RegistryOperation::Push;
        let token = self.client.auth(reference, &self.auth, push).await;
        let host = reference.resolve_registry();
        let digest = reference.digest().unwrap_or_default();
        let scheme = if self.plain { "http" } else { "https" };
        let path = reference.repository();
        let url = format!("{scheme}://{host}/v2/{path}/manifests/{digest}");
        let request = self.http.delete(url);
        let request = match (token.map_err(failed)?, &self.auth) {
            (Some(token), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        };
        let answer = request.send().await.map_err(|error| failed(error.into()))?;
        let (reference, status) = (reference.whole(), answer.status());
        let why = || format!("the registry answered {status} to a deletion");
        match status.as_u16() {
            200..=299 => Ok(()),
            404 => Err(RegistryError::NotFound { reference }),
            405 => Err(RegistryError::NoDeletion { reference }),
            401 | 403 => Err(RegistryError::Refused {
                reference,
                why: why(),
            }),
            500..=599 => Err(RegistryError::Away {
                reference,
                why: why(),
            }),
            _ => Err(RegistryError::Other {
                reference,
                why: why(),
            }),
        }
    }

    /// A blob of at most `limit` bytes, which is checked against its digest.
    pub async fn blob_get(
        &self,
        repository: &Reference,
        digest: &str,
        limit: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let failed = |why: String| RegistryError::Other {
            reference: format!("{}@{digest}", repository.whole()),
            why,
        };
        self.client
            .store_auth_if_needed(repository.resolve_registry(), &self.auth)
            .await;
        let blob = self
            .client
            .pull_blob_stream(repository, digest)
            .await
            .map_err(|error| RegistryError::of(repository, error))?;
        let mut stream = blob.stream;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| failed(error.to_string()))?);
            if bytes.len() > limit {
                return Err(failed(format!("it has more than {limit} bytes")));
            }
        }
        match self::digest(&bytes) == digest {
            true => Ok(bytes),
            false => Err(failed("the registry gave something else".to_owned())),
        }
    }

    /// Whether a blob is in a repository.
    pub async fn blob_exists(
        &self,
        repository: &Reference,
        digest: &str,
    ) -> Result<bool, RegistryError> {
        self.client
            .store_auth_if_needed(repository.resolve_registry(), &self.auth)
            .await;
        self.client
            .blob_exists(repository, digest)
            .await
            .map_err(|error| RegistryError::of(repository, error))
    }

    /// Puts a manifest or index under a tag or its digest.
    pub async fn manifest_put(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        let media_type =
            HeaderValue::from_str(media_type).map_err(|error| RegistryError::Other {
                reference: reference.whole(),
                why: error.to_string(),
            })?;
        self.client
            .store_auth_if_needed(reference.resolve_registry(), &self.auth)
            .await;
        self.client
            .push_manifest_raw(reference, bytes, media_type)
            .await
            .map(drop)
            .map_err(|error| RegistryError::of(reference, error))
    }
}

/// Whether engines speak plain HTTP to this host without being told: BuildKit's rule.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The sha256 digest of some bytes, as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// Base64 with padding, as BuildKit writes descriptors into responses.
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Reads what [`base64`] or an engine wrote.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_plain_http_as_engines_have_it() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.3.2.1",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "docker.io",
            "localhost.example.com",
            "10.0.0.1:5000",
            "registry:5000",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_login_shows_no_password() {
        let login = Login::Password {
            user: "u".into(),
            password: "hunter2".into(),
        };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
