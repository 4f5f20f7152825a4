//! The links to connected agents: what is sent to them, and who waits for which answer.
//!
//! Holds nothing that outlives a connection. What agents *are* is in the store; what they are told is decided by the loops beside this.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use croft_proto::v1 as wire;
use croft_scheduler::AgentId;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::coordinator_message::Message;

use super::failure::{Failure, Result};

/// Messages that may wait for one agent. An agent that lets more pile up is cut off; it comes back by itself.
const QUEUE: usize = 1024;
/// Answers to one question that may wait for the one who asked.
const ANSWERS: usize = 4096;

/// All links by agent.
#[derive(Default)]
pub struct Fleet {
    links: Mutex<HashMap<AgentId, Link>>,
}

struct Link {
    /// Tells this connection from the agent's earlier and later ones.
    epoch: u64,
    name: Arc<str>,
    queue: mpsc::Sender<wire::CoordinatorMessage>,
    asked: HashMap<String, mpsc::Sender<wire::answer::Answer>>,
    /// Tells who hears it that nobody wants to any more.
    _cut: DropGuard,
}

/// Both ends of a connection that was taken in.
pub struct Ends {
    /// What is to be sent over it; ends when the connection is to end.
    pub messages: mpsc::Receiver<wire::CoordinatorMessage>,
    /// Cancelled when nothing that comes over it counts any more: the agent has another, was taken for away, or takes no messages.
    pub cut: CancellationToken,
}

impl Fleet {
    /// Takes in a connection; one that the agent had before ends.
    pub fn connect(&self, agent: AgentId, epoch: u64, name: &str) -> Ends {
        let (queue, messages) = mpsc::channel(QUEUE);
        let cut = CancellationToken::new();
        let link = Link {
            epoch,
            name: name.into(),
            queue,
            asked: HashMap::new(),
            _cut: cut.clone().drop_guard(),
        };
        self.lock().insert(agent, link);
        Ends { messages, cut }
    }

    /// Forgets a connection that ended, if it was not cut before. False if the agent has another one by now.
    pub fn disconnect(&self, agent: AgentId, epoch: u64) -> bool {
        let mut links = self.lock();
        match links.get(&agent) {
            Some(link) if link.epoch != epoch => false,
            _ => {
                links.remove(&agent);
                true
            }
        }
    }

    /// Ends all connections: this coordinator stops. The agents keep what they run, and look for another.
    pub fn cut_all(&self) {
        self.lock().clear();
    }

    /// Which connection the agent has now.
    pub fn epoch(&self, agent: AgentId) -> Option<u64> {
        self.lock().get(&agent).map(|link| link.epoch)
    }

    /// The agents that are connected, in no order.
    pub fn connected(&self) -> Vec<AgentId> {
        self.lock().keys().copied().collect()
    }

    /// The name of a connected agent.
    pub fn name(&self, agent: AgentId) -> Option<Arc<str>> {
        self.lock().get(&agent).map(|link| Arc::clone(&link.name))
    }

    /// Sends a message. False if the agent isn't connected (any more): what it should have heard it hears after its next hello.
    pub fn send(&self, agent: AgentId, message: Message) -> bool {
        let mut links = self.lock();
        let Some(link) = links.get(&agent) else {
            return false;
        };
        let message = wire::CoordinatorMessage {
            message: Some(message),
        };
        let sent = link.queue.try_send(message).is_ok();
        if !sent {
            tracing::warn!(agent = %link.name, "the agent takes no messages: its link is cut");
            links.remove(&agent);
        }
        sent
    }

    /// Asks something that is no attempt.
    pub fn ask(
        self: &Arc<Self>,
        agent: AgentId,
        request: wire::request::Request,
    ) -> Result<Answers> {
        let id = uuid::Uuid::new_v4().to_string();
        let (sender, answers) = mpsc::channel(ANSWERS);
        let name = {
            let mut links = self.lock();
            let link = links.get_mut(&agent).ok_or_else(gone)?;
            link.asked.insert(id.clone(), sender);
            Arc::clone(&link.name)
        };
        let asked = Answers {
            fleet: Arc::clone(self),
            agent,
            name,
            id: id.clone(),
            answers,
            over: false,
        };
        let request = wire::Request {
            id,
            request: Some(request),
        };
        match self.send(agent, Message::Request(request)) {
            true => Ok(asked),
            false => Err(gone()),
        }
    }

    /// Hands an agent's answer to the one who asked. One who lets too many pile up is forgotten: a link waits for nobody.
    pub fn answer(&self, agent: AgentId, answer: wire::Answer) {
        let Some(what) = answer.answer else { return };
        let mut links = self.lock();
        let Some(link) = links.get_mut(&agent) else {
            return;
        };
        let taken = link
            .asked
            .get(&answer.request)
            .is_some_and(|asker| asker.try_send(what).is_ok());
        if !taken {
            link.asked.remove(&answer.request);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers to one question. Dropped before the last, the question is withdrawn.
pub struct Answers {
    fleet: Arc<Fleet>,
    agent: AgentId,
    name: Arc<str>,
    id: String,
    answers: mpsc::Receiver<wire::answer::Answer>,
    over: bool,
}

impl Answers {
    /// The only answer.
    pub async fn one(mut self) -> Result<wire::answer::Answer> {
        let answer = self.next().await?;
        self.over = true;
        Ok(answer)
    }

    /// The next answer. A failure that the agent reports, or its going away, is an error.
    pub async fn next(&mut self) -> Result<wire::answer::Answer> {
        match self.answers.recv().await {
            Some(wire::answer::Answer::Failure(failure)) => {
                self.over = true;
                Err(Failure::of_agent(&self.name, &failure))
            }
            Some(answer) => {
                self.over |= matches!(answer, wire::answer::Answer::End(_));
                Ok(answer)
            }
            None => {
                self.over = true;
                Err(Failure::farm(format!(
                    "agent {} went away before it answered, or its answers were not taken fast enough",
                    self.name
                )))
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if let Some(link) = self.fleet.lock().get_mut(&self.agent) {
            link.asked.remove(&self.id);
        }
        if !self.over {
            let withdrawn = wire::Request {
                id: self.id.clone(),
                request: Some(wire::request::Request::Cancel(wire::CancelRequest {})),
            };
            self.fleet.send(self.agent, Message::Request(withdrawn));
        }
    }
}

fn gone() -> Failure {
    Failure::farm("the agent went away")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_was_cut_still_ends_and_one_that_was_replaced_does_not() {
        let fleet = Fleet::default();
        let agent = AgentId(uuid::Uuid::nil());
        let renewed = || Message::Renewed(wire::Renewed::default());
        let first = fleet.connect(agent, 1, "a");
        drop(first.messages);
        assert!(!first.cut.is_cancelled());
        assert!(!fleet.send(agent, renewed()), "nobody takes it");
        assert!(first.cut.is_cancelled());
        assert!(
            fleet.disconnect(agent, 1),
            "it is to be told that the agent is away"
        );

        let second = fleet.connect(agent, 2, "a");
        assert!(!fleet.disconnect(agent, 1), "the agent is here");
        assert!(!second.cut.is_cancelled());
        let third = fleet.connect(agent, 3, "a");
        assert!(second.cut.is_cancelled(), "it has another");
        assert!(fleet.disconnect(agent, 3));
        assert!(third.cut.is_cancelled());
    }
}
