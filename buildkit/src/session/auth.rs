//! A session's Auth calls, for a proxy that answers some itself: read one, see which registry it is about, then answer it
//! or send it on as it came. For whom a proxy answers is its own decision.

use std::fmt;

use http_body_util::Full;
use tonic::Status;

use super::{
    SessionRequest, SessionResponse,
    grpc::{boxed, decode_message, grpc_error, read_body, unary_response},
};
use crate::api::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, VerifyTokenAuthorityRequest,
};

/// The methods of the Auth service, to be advertised by a session that answers them.
pub const METHODS: [&str; 4] = [
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.filesync.v1.Auth/FetchToken",
    "/moby.filesync.v1.Auth/GetTokenAuthority",
    "/moby.filesync.v1.Auth/VerifyTokenAuthority",
];

/// The longest message of these calls that is read, in bytes.
const LIMIT: usize = 64 << 10;

/// A name and a password, or no name and an identity token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name; empty if `secret` is an identity token.
    pub username: String,
    /// The password.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// One Auth call.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthCall {
    /// Wants a name and a password.
    Credentials(CredentialsRequest),
    /// Wants a token that the client fetches from the registry.
    FetchToken(FetchTokenRequest),
    /// Asks whether the client fetches tokens. Answer [`no_token_authority`] and it asks for credentials instead.
    GetTokenAuthority(GetTokenAuthorityRequest),
    /// Proves that it still does.
    VerifyTokenAuthority(VerifyTokenAuthorityRequest),
}

impl AuthCall {
    /// Whether a request is one of these.
    pub fn is(path: &str) -> bool {
        METHODS.contains(&path)
    }

    /// Reads the request, and gives it back whole so that it can be sent on.
    pub async fn read(request: SessionRequest) -> Result<(Self, SessionRequest), Status> {
        let (head, body) = request.into_parts();
        let body = read_body(body, LIMIT).await?;
        let call = match head.uri.path() {
            "/moby.filesync.v1.Auth/Credentials" => Self::Credentials(decode_message(&body)?),
            "/moby.filesync.v1.Auth/FetchToken" => Self::FetchToken(decode_message(&body)?),
            "/moby.filesync.v1.Auth/GetTokenAuthority" => {
                Self::GetTokenAuthority(decode_message(&body)?)
            }
            "/moby.filesync.v1.Auth/VerifyTokenAuthority" => {
                Self::VerifyTokenAuthority(decode_message(&body)?)
            }
            other => {
                return Err(Status::unimplemented(format!(
                    "{other} is no call of the Auth service"
                )));
            }
        };
        Ok((
            call,
            SessionRequest::from_parts(head, boxed(Full::new(body))),
        ))
    }

    /// The registry that it is about, as `host[:port]`.
    pub fn host(&self) -> &str {
        match self {
            Self::Credentials(call) => &call.host,
            Self::FetchToken(call) => &call.host,
            Self::GetTokenAuthority(call) => &call.host,
            Self::VerifyTokenAuthority(call) => &call.host,
        }
    }
}

/// Answers `Credentials`.
pub fn credentials(credentials: Credentials) -> SessionResponse {
    let Credentials { username, secret } = credentials;
    unary_response(&CredentialsResponse { username, secret })
}

/// Answers `Credentials`: there are none, try without.
pub fn anonymous() -> SessionResponse {
    unary_response(&CredentialsResponse::default())
}

/// Answers `FetchToken`. Times are in seconds, `issued_at` since 1970.
pub fn token(token: String, expires_in: i64, issued_at: i64) -> SessionResponse {
    unary_response(&FetchTokenResponse {
        token,
        expires_in,
        issued_at,
    })
}

/// Answers `GetTokenAuthority` and `VerifyTokenAuthority`: the engine is to fetch tokens itself, with credentials.
pub fn no_token_authority() -> SessionResponse {
    grpc_error(tonic::Code::Unavailable, "no token authority")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::grpc::{read_unary, unary_request};

    #[tokio::test]
    async fn a_call_is_read_and_given_back_whole() {
        let message = FetchTokenRequest {
            host: "r.example:5000".into(),
            scopes: vec!["pull".into()],
            ..Default::default()
        };
        let mut request = unary_request(METHODS[1], &message).unwrap();
        request.headers_mut().insert("x", "y".parse().unwrap());
        let (call, request) = AuthCall::read(request).await.unwrap();
        assert_eq!(
            (call.host(), &call),
            ("r.example:5000", &AuthCall::FetchToken(message.clone()))
        );
        assert_eq!(
            (request.uri().path(), &request.headers()["x"]),
            (METHODS[1], &"y".parse().unwrap())
        );
        assert_eq!(
            read_unary::<FetchTokenRequest>(request.into_body(), LIMIT)
                .await
                .unwrap(),
            message
        );
    }

    #[tokio::test]
    async fn other_calls_and_overlong_ones_are_refused() {
        let message = CredentialsRequest {
            host: "x".repeat(LIMIT),
        };
        assert!(!AuthCall::is("/moby.filesync.v1.FileSync/DiffCopy"));
        let request = unary_request(
            "/moby.filesync.v1.FileSync/DiffCopy",
            &CredentialsRequest::default(),
        )
        .unwrap();
        assert_eq!(
            AuthCall::read(request).await.unwrap_err().code(),
            tonic::Code::Unimplemented
        );
        let status = AuthCall::read(unary_request(METHODS[0], &message).unwrap())
            .await
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!(
            "{:?}",
            Credentials {
                username: "me".into(),
                secret: "hunter2".into()
            }
        );
        assert!(shown.contains("me") && !shown.contains("hunter2"));
    }
}
