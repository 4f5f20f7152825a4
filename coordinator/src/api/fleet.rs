//! The link to one agent: reads what it says, in order, and passes each message to `control`.

use std::pin::Pin;
use std::sync::Arc;

use croft_proto::v1 as wire;
use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use wire::agent_message::Message;
use wire::fleet_server::Fleet as Service;

use super::{convert, protocol};
use crate::control::{Control, Linked};

/// The Fleet service.
pub struct Link {
    control: Arc<Control>,
}

impl Link {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }
}

#[tonic::async_trait]
impl Service for Link {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<wire::CoordinatorMessage, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|m| m.message);
        let Some(Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument(
                "an agent's first message must be its hello",
            ));
        };
        protocol::spoken(&hello.protocol)
            .map_err(|unspoken| Status::failed_precondition(unspoken.to_string()))?;
        let name = hello.name.clone();
        let hello = convert::hello(hello).map_err(Status::invalid_argument)?;
        let (answer, joined) = oneshot::channel();
        let control = Arc::clone(&self.control);
        // Beside this call, which is dropped as soon as its connection breaks: whoever has joined must also leave.
        tokio::spawn(async move {
            match control.agent_joins(hello).await {
                Ok((linked, ends)) => {
                    tracing::info!(agent = %name, "an agent joined");
                    let _ = answer.send(Ok(ends.messages));
                    listen(control, linked, incoming, ends.cut).await;
                }
                Err(failure) => drop(answer.send(Err(failure))),
            }
        });
        let messages = joined
            .await
            .map_err(|_| Status::internal("the agent's hello was cut off"))?
            .map_err(|failure| Status::unavailable(failure.message))?;
        Ok(Response::new(Box::pin(
            ReceiverStream::new(messages).map(Ok),
        )))
    }
}

/// Messages of one agent that may wait to be stored. Beyond that its link waits too.
const QUEUE: usize = 256;

/// Hears one agent until its link ends. What must be stored is stored in order beside this, so that a slow store or registry never
/// delays a heartbeat.
async fn listen(
    control: Arc<Control>,
    linked: Linked,
    mut incoming: Streaming<wire::AgentMessage>,
    cut: CancellationToken,
) {
    let (queue, reports) = mpsc::channel(QUEUE);
    let storing = tokio::spawn(store(Arc::clone(&control), linked.clone(), reports));
    loop {
        let message = tokio::select! {
            biased;
            // An agent that is frozen never ends it.
            () = cut.cancelled() => break,
            message = incoming.message() => message,
        };
        let message = match message {
            Ok(Some(message)) => message.message,
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(agent = %linked.name, %status, "a link broke");
                break;
            }
        };
        match message {
            None | Some(Message::Hello(_)) => {}
            Some(Message::Heartbeat(heartbeat)) => {
                let (beat, held) = convert::heartbeat(&heartbeat);
                if let Err(failure) = control.heartbeat(&linked, &beat, &held).await {
                    tracing::warn!(agent = %linked.name, %failure, "a heartbeat can't be stored: the link is cut");
                    break;
                }
            }
            Some(Message::Progress(progress)) => control.progress(&linked, &progress),
            Some(Message::Answer(answer)) => control.fleet().answer(linked.agent, answer),
            Some(report) => {
                if queue.send(report).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(queue);
    let _ = storing.await;
    control.agent_leaves(&linked).await;
}

/// Stores one agent's reports. One that can't be stored ends the link: the agent says it again after its next hello.
async fn store(control: Arc<Control>, from: Linked, mut reports: mpsc::Receiver<Message>) {
    while let Some(report) = reports.recv().await {
        let stored = match report {
            Message::Accepted(accepted) => control.accepted(&from, &accepted).await,
            Message::OutputReady(ready) => control.output_ready(&from, ready).await,
            Message::Finished(finished) => control.finished(&from, finished).await,
            Message::KeeperClosed(closed) => control.keeper_closed(&from, &closed).await,
            Message::Hello(_)
            | Message::Heartbeat(_)
            | Message::Progress(_)
            | Message::Answer(_) => Ok(()),
        };
        if let Err(failure) = stored {
            tracing::warn!(agent = %from.name, %failure, "a report can't be stored: the link is cut");
            return;
        }
    }
}
