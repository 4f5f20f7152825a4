//! The engine's end of a session: HTTP/2 within the stream, in which the engine is the client and looks every few seconds whether the other
//! end is still there.

use std::{io, sync::Mutex, time::Duration};

use bollard_buildkit_proto::{
    health::{HealthCheckRequest, health_client::HealthClient},
    moby::buildkit::v1::BytesMessage,
};
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};

use super::engine::Counted;

/// As often as BuildKit looks.
const LOOKS: Duration = Duration::from_secs(5);
const BUFFER: usize = 64 << 10;

/// Holds a session until either end lets go of it; gives what the engine says in it.
pub(super) fn hold(
    mut incoming: Streaming<BytesMessage>,
    counted: Counted,
) -> impl Stream<Item = Result<BytesMessage, Status>> + Send + 'static {
    let (ours, carried) = tokio::io::duplex(BUFFER);
    let (mut read, mut write) = tokio::io::split(carried);
    let (outgoing, stream) = mpsc::channel(16);
    let inward = async move {
        while let Ok(Some(message)) = incoming.message().await {
            if write.write_all(&message.data).await.is_err() {
                break;
            }
        }
    };
    let outward = async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            let data = buffer[..length].to_vec();
            if outgoing.send(Ok(BytesMessage { data })).await.is_err() {
                break;
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = inward => {}
            () = outward => {}
            _ = look(ours) => {}
        }
        drop(counted);
    });
    ReceiverStream::new(stream)
}

/// Looks until the other end does not answer any more.
async fn look(connection: DuplexStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connection = Mutex::new(Some(TokioIo::new(connection)));
    let connect = tower::service_fn(move |_| {
        let mut there = connection.lock().ok();
        let connection = there.as_mut().and_then(|there| there.take());
        std::future::ready(connection.ok_or_else(|| io::Error::other("it was closed")))
    });
    let channel = Endpoint::from_static("http://session")
        .connect_with_connector(connect)
        .await?;
    let mut health = HealthClient::new(channel);
    loop {
        health.check(HealthCheckRequest::default()).await?;
        tokio::time::sleep(LOOKS).await;
    }
}
