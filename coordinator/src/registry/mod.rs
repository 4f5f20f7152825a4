//! The coordinator's own traffic with OCI registries: reading, putting and deleting manifests and tags, and reading the history in configs.
//!
//! Layers never pass here: engines push and pull them by themselves. What a manifest says is built in
//! [`crate::control::image`]; whose credentials are used is decided by the caller.

mod connection;

use std::fmt;

use base64::Engine as _;
use http::StatusCode;
use oci_client::Reference;
use oci_client::errors::{OciDistributionError, OciEnvelope, OciErrorCode};
use oci_client::secrets::RegistryAuth;

pub use connection::Registry;

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
    /// What kept a request from being answered, or the login from being accepted.
    fn of(reference: &Reference, error: OciDistributionError) -> Self {
        let why = chain(&error);
        let reference = reference.whole();
        match error {
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

    /// What an answer says that is no success. `body` is what came with it.
    fn answered(reference: String, status: StatusCode, body: &[u8]) -> Self {
        let said: Option<OciEnvelope> = serde_json::from_slice(body).ok();
        let said = said.and_then(|envelope| envelope.errors.into_iter().next());
        let why = match &said {
            Some(error) => format!("{status}: {error}"),
            None => status.to_string(),
        };
        match (said.map(|error| error.code), status.as_u16()) {
            (Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown), _) | (_, 404) => {
                Self::NotFound { reference }
            }
            (Some(OciErrorCode::Unauthorized | OciErrorCode::Denied), _) | (_, 401 | 403) => {
                Self::Refused { reference, why }
            }
            (_, 429 | 500..=599) => Self::Away { reference, why },
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
