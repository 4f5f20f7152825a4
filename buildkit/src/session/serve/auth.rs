//! The Auth service of a client: its registry credentials.
//!
//! Tokens are fetched by whoever uses them, with what [`CredentialSource`] gives: a client that says it fetches tokens itself needs the
//! engine's way to the registry, its certificates and its proxies, and proves by keys kept on disk that it is the one that an engine met
//! before. Engines ask for credentials instead as soon as there is no token authority, and a farm needs them anyway, to push while the
//! client is away.

use std::sync::Arc;

use tonic::{Status, async_trait};

use super::response;
use crate::session::{
    BoxError, SessionRequest, SessionResponse,
    auth::{self, AuthCall, Credentials},
};

/// Where a client keeps its registry credentials.
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// What to say to a registry, named as engines name it: `host[:port]`, and Docker Hub as `registry-1.docker.io`. `None` is to use it
    /// anonymously.
    ///
    /// # Errors
    /// End the build, saying so.
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>, BoxError>;
}

pub(super) async fn answer(
    source: Option<Arc<dyn CredentialSource>>,
    request: SessionRequest,
) -> SessionResponse {
    response(answered(source, request).await)
}

async fn answered(
    source: Option<Arc<dyn CredentialSource>>,
    request: SessionRequest,
) -> Result<SessionResponse, Status> {
    let (call, _) = AuthCall::read(request).await?;
    let (AuthCall::Credentials(_), Some(source)) = (&call, source) else {
        return Ok(match call {
            AuthCall::Credentials(_) => auth::anonymous(),
            AuthCall::FetchToken(_) => {
                return Err(Status::unimplemented("this client fetches no tokens"));
            }
            AuthCall::GetTokenAuthority(_) | AuthCall::VerifyTokenAuthority(_) => {
                auth::no_token_authority()
            }
        });
    };
    match source.credentials(call.host()).await {
        Ok(Some(credentials)) => Ok(auth::credentials(credentials)),
        Ok(None) => Ok(auth::anonymous()),
        Err(error) => Err(Status::unknown(format!(
            "no credentials for {}: {error}",
            call.host()
        ))),
    }
}
