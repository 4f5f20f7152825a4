//! The Secrets service of a client.

use std::{
    collections::HashMap,
    fmt, fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use tonic::Status;

use super::response;
use crate::{
    api::secrets::{GetSecretRequest, GetSecretResponse},
    session::{
        SessionRequest, SessionResponse,
        grpc::{read_unary, unary_response},
    },
};

pub(super) const METHOD: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";

/// How large a secret may be, in bytes: as with buildx.
pub const SECRET_LIMIT: u64 = 500 << 10;
/// The longest question for one, in bytes.
const QUESTION_LIMIT: usize = 64 << 10;

/// A secret, and where it is.
#[derive(Clone)]
pub struct Secret(Kept);

#[derive(Clone)]
enum Kept {
    File(PathBuf),
    Value(Vec<u8>),
}

/// Why there is no such secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file can't be used.
    #[error("the secret's file {} can't be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// It is longer than [`SECRET_LIMIT`].
    #[error("a secret may be {SECRET_LIMIT} bytes long at most, and this is {0}")]
    TooLarge(u64),
}

impl Secret {
    /// What the file has in it when a step asks.
    ///
    /// # Errors
    /// The file is not there or too large.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, SecretError> {
        let path = path.into();
        let found = fs::metadata(&path).map_err(|source| SecretError::File {
            path: path.clone(),
            source,
        })?;
        fits(found.len())?;
        Ok(Self(Kept::File(path)))
    }

    /// What the environment variable has now. One that is not set is empty, as with buildx.
    ///
    /// # Errors
    /// It is too large.
    pub fn variable(name: &str) -> Result<Self, SecretError> {
        let value = std::env::var_os(name).unwrap_or_default();
        Self::value(value.into_vec())
    }

    /// This.
    ///
    /// # Errors
    /// It is too large.
    pub fn value(value: impl Into<Vec<u8>>) -> Result<Self, SecretError> {
        let value = value.into();
        fits(value.len() as u64)?;
        Ok(Self(Kept::Value(value)))
    }

    fn read(&self) -> Result<Vec<u8>, SecretError> {
        match &self.0 {
            Kept::Value(value) => Ok(value.clone()),
            Kept::File(path) => read_file(path),
        }
    }
}

/// Reads a file that may have grown since it was named.
fn read_file(path: &Path) -> Result<Vec<u8>, SecretError> {
    use std::io::Read;
    let mut value = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(SECRET_LIMIT + 1).read_to_end(&mut value))
        .map_err(|source| SecretError::File {
            path: path.to_owned(),
            source,
        })?;
    fits(value.len() as u64)?;
    Ok(value)
}

fn fits(length: u64) -> Result<(), SecretError> {
    match length <= SECRET_LIMIT {
        true => Ok(()),
        false => Err(SecretError::TooLarge(length)),
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kept::File(path) => f.debug_tuple("File").field(path).finish(),
            Kept::Value(_) => f.write_str("Value"),
        }
    }
}

pub(super) async fn answer(
    secrets: HashMap<String, Secret>,
    request: SessionRequest,
) -> SessionResponse {
    response(answered(secrets, request).await)
}

async fn answered(
    mut secrets: HashMap<String, Secret>,
    request: SessionRequest,
) -> Result<SessionResponse, Status> {
    let asked: GetSecretRequest = read_unary(request.into_body(), QUESTION_LIMIT).await?;
    // BuildKit tells an optional secret that is missing by the code.
    let secret = secrets
        .remove(&asked.id)
        .ok_or_else(|| Status::not_found(format!("there is no secret {:?}", asked.id)))?;
    let read = tokio::task::spawn_blocking(move || secret.read());
    let data = read
        .await
        .map_err(|e| Status::internal(e.to_string()))?
        .map_err(|e| Status::unknown(format!("secret {:?}: {e}", asked.id)))?;
    Ok(unary_response(&GetSecretResponse { data }))
}
