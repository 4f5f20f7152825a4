//! Sessions: a connection that runs backwards, in which BuildKit calls its client for files, secrets and credentials.
//!
//! `Control.Session` carries an HTTP/2 connection in which the client is the server. [`ClientSession`] is the daemon's
//! end of one, [`EngineSession`] the client's end; a proxy hands the requests of many of the latter to one of the
//! former, unparsed. Which requests a proxy answers itself is its own decision; [`auth`] and [`grpc`] help it to. [`serve`] is what a client
//! that isn't a proxy answers.

pub mod auth;
mod batch;
mod carried;
mod carrier;
mod client;
mod engine;
mod gather;
pub mod grpc;
pub mod serve;
mod tunnel;

use std::{error::Error, fmt};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use tonic::metadata::{MetadataMap, MetadataValue};

pub use self::{
    client::{ClientSession, SessionError},
    engine::{EngineSession, SessionHandler},
    gather::{GATHERED, gathered},
    grpc::grpc_error,
};

const ID_HEADER: &str = "x-docker-expose-session-uuid";
const NAME_HEADER: &str = "x-docker-expose-session-name";
const SHARED_KEY_HEADER: &str = "x-docker-expose-session-sharedkey";
const METHOD_HEADER: &str = "x-docker-expose-session-grpc-method";

/// The longest id, name, key or method that a session may have, in bytes, and the most methods.
const FIELD_LIMIT: usize = 1024;
const METHOD_LIMIT: usize = 256;

/// What one stream in a session may have on its way to us unread, and all of them. The ratio is how many streams may
/// stall before they stall the others.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// What one stream may have waiting to be sent.
const SEND_BUFFER: usize = 256 << 10;
/// How many calls a session has at once at most.
const CONCURRENT_CALLS: u32 = 256;

/// The error of a body.
pub type BoxError = Box<dyn Error + Send + Sync>;
/// The body of a request or a response in a session. Frames pass through it one at a time, trailers included.
pub type SessionBody = UnsyncBoxBody<Bytes, BoxError>;
/// A call in a session.
pub type SessionRequest = http::Request<SessionBody>;
/// Its answer.
pub type SessionResponse = http::Response<SessionBody>;
/// An answer on its way.
pub type SessionReply = BoxFuture<'static, SessionResponse>;

/// A session's id, as its client chose it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

/// Not every text can be a session's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session's id must be 1 to {FIELD_LIMIT} visible ASCII characters")]
pub struct BadSessionId;

impl SessionId {
    /// An id that no other session has.
    pub fn unique() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SessionId {
    type Error = BadSessionId;

    fn try_from(text: String) -> Result<Self, BadSessionId> {
        let fits =
            (1..=FIELD_LIMIT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits {
            Ok(Self(text))
        } else {
            Err(BadSessionId)
        }
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a session says of itself when it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpec {
    /// Its id.
    pub id: SessionId,
    /// A name for people; newer clients send none.
    pub name: String,
    /// Decides which snapshots of local sources an engine may reuse: pass it on as it came.
    pub shared_key: String,
    /// What the client serves, each `/package.Service/Method`.
    pub methods: Vec<String>,
}

/// Why a session's metadata is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSession {
    /// No usable id.
    #[error(transparent)]
    Id(#[from] BadSessionId),
    /// A field is too long, no UTF-8, or can't be sent on.
    #[error("the session's {0} is too long or no text")]
    Field(&'static str),
    /// Too many methods.
    #[error("a session may serve at most {METHOD_LIMIT} methods")]
    Methods,
}

impl SessionSpec {
    /// Reads it from the metadata of a `Control.Session` call.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self, BadSession> {
        let text = |value: &[u8], field| match std::str::from_utf8(value) {
            Ok(text) if text.len() <= FIELD_LIMIT => Ok(text.to_owned()),
            _ => Err(BadSession::Field(field)),
        };
        let one = |header, field| {
            metadata
                .get(header)
                .map_or(Ok(String::new()), |v| text(v.as_encoded_bytes(), field))
        };
        let methods = metadata
            .get_all(METHOD_HEADER)
            .iter()
            .take(METHOD_LIMIT + 1);
        let methods: Vec<_> = methods
            .map(|v| text(v.as_encoded_bytes(), "method"))
            .collect::<Result<_, _>>()?;
        if methods.len() > METHOD_LIMIT {
            return Err(BadSession::Methods);
        }
        Ok(Self {
            id: one(ID_HEADER, "id")?.try_into()?,
            name: one(NAME_HEADER, "name")?,
            shared_key: one(SHARED_KEY_HEADER, "shared key")?,
            methods,
        })
    }

    /// The metadata to open it with.
    pub fn to_metadata(&self) -> Result<MetadataMap, BadSession> {
        let value = |text: &str, field| {
            MetadataValue::try_from(text.as_bytes()).map_err(|_| BadSession::Field(field))
        };
        let mut metadata = MetadataMap::new();
        metadata.insert(ID_HEADER, value(self.id.as_str(), "id")?);
        metadata.insert(SHARED_KEY_HEADER, value(&self.shared_key, "shared key")?);
        if !self.name.is_empty() {
            metadata.insert(NAME_HEADER, value(&self.name, "name")?);
        }
        for method in &self.methods {
            metadata.append(METHOD_HEADER, value(method, "method")?);
        }
        Ok(metadata)
    }

    /// Whether the client serves `method`; as in BuildKit, letters' case does not count.
    pub fn serves(&self, method: &str) -> bool {
        self.methods.iter().any(|m| m.eq_ignore_ascii_case(method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sessions_metadata_goes_there_and_back() {
        let spec = SessionSpec {
            id: SessionId::unique(),
            name: "größe".into(),
            shared_key: "key".into(),
            methods: vec!["/moby.filesync.v1.Auth/Credentials".into(), "/a.B/C".into()],
        };
        assert_eq!(
            SessionSpec::from_metadata(&spec.to_metadata().unwrap()),
            Ok(spec.clone())
        );
        assert!(spec.serves("/moby.filesync.v1.auth/credentials") && !spec.serves("/a.B/D"));
    }

    #[test]
    fn metadata_that_no_session_can_have_is_refused() {
        let mut metadata = MetadataMap::new();
        assert_eq!(
            SessionSpec::from_metadata(&metadata),
            Err(BadSession::Id(BadSessionId))
        );
        metadata.insert(ID_HEADER, "x".parse().unwrap());
        assert_eq!(
            SessionSpec::from_metadata(&metadata).unwrap().methods,
            Vec::<String>::new()
        );
        metadata.insert(NAME_HEADER, MetadataValue::try_from(&b"\xff"[..]).unwrap());
        assert_eq!(
            SessionSpec::from_metadata(&metadata),
            Err(BadSession::Field("name"))
        );
        metadata.remove(NAME_HEADER);
        for _ in 0..=METHOD_LIMIT {
            metadata.append(METHOD_HEADER, "/a.B/C".parse().unwrap());
        }
        assert_eq!(
            SessionSpec::from_metadata(&metadata),
            Err(BadSession::Methods)
        );
    }
}
