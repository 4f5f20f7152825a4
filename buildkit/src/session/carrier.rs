//! What carries a session to an engine, and how the engine lets go of it.
//!
//! Every engine takes sessions in the messages of `Control.Session`. A Docker Engine also takes one as a connection that it hands over,
//! as Docker's own clients bring theirs. For a large upload that is two thirds of the work for it: each byte comes in one HTTP/2
//! connection, not in one within another.

use std::{io, path::Path, time::Duration};

use futures::TryStreamExt;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap, transport::Channel};

use super::{
    SessionSpec,
    gather::GatheredMessages,
    tunnel::{QUEUE, SharedStream, Tunnel},
};
use crate::{
    MESSAGE_LIMIT,
    api::control::{BytesMessage, control_client::ControlClient},
    engine::{Address, Engine, Io, UpgradeError, upgrade},
};

/// How long an engine may take to accept a session. A Docker Engine needs up to ten seconds to forget one of the same id that broke off.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// How often it is asked meanwhile.
const RETRY: Duration = Duration::from_millis(100);

/// An open way to an engine that knows the session by now.
pub(super) struct Carrier {
    /// What the session speaks over.
    pub io: Box<dyn Io>,
    pub ending: Ending,
}

/// How an engine learns that a session is over, and how it shows that it has forgotten it.
pub(super) enum Ending {
    /// It learns from health checks, two of which must fail, and then closes the connection. That the connection breaks tells it nothing.
    Unhealthy,
    /// Our half of the stream ends, then its half, which this is.
    Half(SharedStream<Streaming<BytesMessage>>),
}

impl Carrier {
    pub(super) async fn open(engine: &Engine, spec: &SessionSpec) -> Result<Self, Status> {
        let metadata = metadata(spec)?;
        in_time(async {
            match engine.address() {
                Address::DockerUnix(path) => Self::connection(engine, path, metadata).await,
                Address::Unix(_) | Address::Tcp { .. } => {
                    let mut control = engine.separate().control();
                    Self::call(metadata, async |call| control.session(call).await).await
                }
            }
        })
        .await
    }

    /// Over a connection that is there already, to whatever has the Control service.
    pub(super) async fn open_over(channel: Channel, spec: &SessionSpec) -> Result<Self, Status> {
        let mut control = ControlClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        let metadata = metadata(spec)?;
        in_time(Self::call(metadata, async |call| {
            control.session(call).await
        }))
        .await
    }

    async fn connection(
        engine: &Engine,
        path: &Path,
        mut metadata: MetadataMap,
    ) -> Result<Self, Status> {
        if let Some(trace) = engine.trace() {
            trace.apply(&mut metadata);
        }
        let headers = metadata.into_headers();
        loop {
            match upgrade(path, "/session", headers.clone()).await {
                Ok(io) => {
                    return Ok(Self {
                        io: Box::new(io),
                        ending: Ending::Unhealthy,
                    });
                }
                Err(UpgradeError::Refused { status, text })
                    if status == StatusCode::BAD_REQUEST && text.contains("already exists") =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    return Err(Status::unavailable(format!(
                        "the engine did not take the session: {error}"
                    )));
                }
            }
        }
    }

    /// In the messages of a `Control.Session` call, which `session` makes.
    async fn call(
        metadata: MetadataMap,
        session: impl AsyncFnOnce(
            Request<GatheredMessages>,
        ) -> Result<Response<Streaming<BytesMessage>>, Status>,
    ) -> Result<Self, Status> {
        let (outgoing, output) = mpsc::channel(QUEUE);
        let mut request = Request::new(GatheredMessages(output));
        *request.metadata_mut() = metadata;
        let incoming = SharedStream::new(session(request).await?.into_inner());
        let bytes = incoming
            .clone()
            .map_ok(|message| message.data.into())
            .map_err(io::Error::other);
        let io = Tunnel::new(bytes, outgoing, |message| message);
        Ok(Self {
            io: Box::new(TokioIo::new(io)),
            ending: Ending::Half(incoming),
        })
    }
}

fn metadata(spec: &SessionSpec) -> Result<MetadataMap, Status> {
    spec.to_metadata()
        .map_err(|e| Status::invalid_argument(e.to_string()))
}

async fn in_time(opened: impl Future<Output = Result<Carrier, Status>>) -> Result<Carrier, Status> {
    tokio::time::timeout(OPEN_TIMEOUT, opened)
        .await
        .map_err(|_| Status::unavailable("the engine did not accept the session in time"))?
}
