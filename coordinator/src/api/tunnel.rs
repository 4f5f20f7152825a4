//! The tunnel: session calls that agents pass on from their engines.
//!
//! A call goes unparsed to the client that holds the session. Calls about credentials for the stage registry are the exception: the
//! farm answers them itself, so that no agent ever holds these, and only while the build's stages run.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use croft_buildkit::session::auth::AuthCall;
use croft_buildkit::session::grpc::{boxed, status_response};
use croft_buildkit::session::{SessionRequest, SessionResponse, gathered};
use croft_proto::{TUNNEL_AGENT, TUNNEL_BUILD, TUNNEL_SESSION};
use croft_scheduler::{AgentId, BuildId};
use tonic::Status;

use crate::control::Control;

/// Answers one session call.
pub(super) async fn call(control: Arc<Control>, request: Request) -> Response {
    let response = match route(&control, request).await {
        Ok(response) => response,
        Err(status) => status_response(status),
    };
    response.map(axum::body::Body::new)
}

async fn route(control: &Control, mut request: Request) -> Result<SessionResponse, Status> {
    let build: BuildId = take(&mut request, TUNNEL_BUILD)?;
    let agent: AgentId = take(&mut request, TUNNEL_AGENT)?;
    let session: String = take(&mut request, TUNNEL_SESSION)?;
    let build = control
        .build(build)
        .ok_or_else(|| Status::unavailable("the build is over"))?;
    if !build.serves(agent, &session) {
        return Err(Status::permission_denied(
            "the agent runs nothing of the build that names this session",
        ));
    }
    let mut request: SessionRequest = request.map(boxed);
    if AuthCall::is(request.uri().path()) {
        let (question, whole) = AuthCall::read(request).await?;
        if let Some(answer) = control.stages().answer(&build, &question) {
            return Ok(answer);
        }
        let client = control.sessions().get(&session);
        let secrets = &control.settings().registry_secrets;
        if let Some(answer) = secrets.answer(&build, client.as_ref(), &question).await {
            return Ok(answer);
        }
        if client.is_none()
            && let Some(answer) = build.answer_credentials_alone(&question)
        {
            return Ok(answer);
        }
        request = whole;
    }
    build.admit_call(&mut request)?;
    let Some(client) = control.sessions().get(&session) else {
        return build
            .answer_alone(agent, request.uri().path())
            .ok_or_else(|| {
                Status::unavailable(format!(
                    "no active session for {session}: the client is gone"
                ))
            });
    };
    Ok(client.call(request).await?.map(gathered))
}

/// Takes a header of the tunnel's own off the request.
fn take<T: std::str::FromStr>(request: &mut Request, name: &str) -> Result<T, Status> {
    request
        .headers_mut()
        .remove(name)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| {
            Status::unimplemented(format!(
                "{} is no call of croft's: a session call names its {name}",
                request.uri().path()
            ))
        })
}
