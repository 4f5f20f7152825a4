//! A client's folder of one file, as BuildKit asks for it (fsutil's protocol).

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use croft_buildkit::{
    api::filesync::file_sync_server::{FileSync, FileSyncServer},
    session::{SessionRequest, SessionResponse, grpc::boxed},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

/// A folder with one file in it.
#[derive(Clone)]
pub struct Folder {
    pub name: &'static str,
    pub data: std::sync::Arc<Vec<u8>>,
}

type Packets = ReceiverStream<Result<Packet, Status>>;

#[tonic::async_trait]
impl FileSync for Folder {
    type DiffCopyStream = Packets;
    type TarStreamStream = Packets;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Packets>, Status> {
        let (to, packets) = mpsc::channel(1);
        let folder = self.clone();
        tokio::spawn(async move { folder.send(request.into_inner(), to).await });
        Ok(Response::new(ReceiverStream::new(packets)))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("DiffCopy is enough"))
    }
}

impl Folder {
    /// Answers a session's call.
    pub async fn answer(self, request: SessionRequest) -> SessionResponse {
        match FileSyncServer::new(self).call(request).await {
            Ok(response) => response.map(boxed),
            Err(never) => match never {},
        }
    }

    async fn send(
        self,
        mut asked: Streaming<Packet>,
        to: mpsc::Sender<Result<Packet, Status>>,
    ) -> Option<()> {
        let packet = |kind: PacketType| Packet {
            r#type: kind.into(),
            ..Default::default()
        };
        let stat = Stat {
            path: self.name.into(),
            mode: 0o644,
            size: self.data.len().try_into().ok()?,
            ..Default::default()
        };
        to.send(Ok(Packet {
            stat: Some(stat),
            ..packet(PacketType::PacketStat)
        }))
        .await
        .ok()?;
        to.send(Ok(packet(PacketType::PacketStat))).await.ok()?;
        while let Ok(Some(ask)) = asked.message().await {
            match ask.r#type() {
                PacketType::PacketReq => {
                    let chunks = self.data.chunks(32 << 10).chain([&[][..]]);
                    for data in chunks {
                        let data = Packet {
                            id: ask.id,
                            data: data.into(),
                            ..packet(PacketType::PacketData)
                        };
                        to.send(Ok(data)).await.ok()?;
                    }
                }
                PacketType::PacketFin => {
                    to.send(Ok(packet(PacketType::PacketFin))).await.ok()?;
                    return Some(());
                }
                _ => {}
            }
        }
        None
    }
}
