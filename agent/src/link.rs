//! The link to the coordinator: one call that lives as long as the agent is connected, made anew whenever it broke. Of several coordinators one is
//! active and takes us; the others say that they stand by. What is said and heard on the link is the agent's business; that the important goes
//! first is this module's.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use croft_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        self, agent_message::Message as FromAgent, coordinator_message::Message as FromCoordinator,
        fleet_client::FleetClient,
    },
};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status, Streaming, transport::Endpoint};

use crate::{
    agent::Agent,
    condition::Condition,
    convert,
    failure::Failure,
    ids::{AttemptId, RequestId},
};

/// How long it may take to get through to a coordinator, of which there may be another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a link on which nothing is heard is tried, and how long that may take: of a coordinator that is frozen, or whose host is gone,
/// nothing else tells.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the coordinator may take to welcome us.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to end a link that we left.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two tries to connect; doubled from the first to the last, and spread so that a whole fleet doesn't come at once.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// Heartbeats that may be unanswered, reports that may be unsent, answers that may wait, and questions that may be open. A coordinator that
/// lets them pile up is treated as gone.
const UNANSWERED: usize = 64;
const UNSENT: usize = 4096;
const ANSWERS: usize = 16;
const QUESTIONS: usize = 256;

/// Why the agent can't serve this coordinator at all.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It said no.
    #[error("the coordinator at {url} refused this agent: {} ({})", status.message(), advice(status.code()))]
    Refused {
        /// Where.
        url: http::Uri,
        /// Its answer.
        status: Status,
    },
}

fn advice(code: Code) -> &'static str {
    match code {
        Code::FailedPrecondition => "run agent and coordinator of matching versions",
        Code::Unimplemented => "is this the coordinator's agent port?",
        _ => "check this agent's certificate and what it is allowed",
    }
}

/// Why a connection ended.
enum End {
    /// We left, in good order.
    Left,
    /// It broke; try again.
    Broken(String),
    /// It is of no use to try again.
    Refused(Status),
}

/// Serves whichever of the coordinators is active until `leaving` is cancelled. While none can be reached, tries again and says so.
pub async fn serve(
    agent: &Arc<Agent>,
    coordinators: &[Endpoint],
    leaving: &CancellationToken,
) -> Result<(), LinkError> {
    let endpoints = coordinators.iter().map(|endpoint| {
        endpoint
            .clone()
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
    });
    let endpoints: Vec<Endpoint> = endpoints.collect();
    let mut backoff = FIRST_BACKOFF;
    // The one that took us is the first to be tried again.
    let mut first = 0;
    loop {
        let mut refusals = Vec::new();
        let mut whys = Vec::new();
        for place in (0..endpoints.len()).map(|step| (first + step) % endpoints.len()) {
            let endpoint = &endpoints[place];
            let mut welcomed = false;
            let end = tokio::select! {
                biased;
                end = connection(agent, endpoint, leaving, &mut welcomed) => end,
                // Before the welcome there is nothing to leave in good order.
                () = left_early(leaving) => End::Left,
            };
            match end {
                End::Left => return Ok(()),
                End::Broken(_) if leaving.is_cancelled() => return Ok(()),
                End::Refused(status) => {
                    whys.push(format!("{}: {}", endpoint.uri(), status.message()));
                    refusals.push((endpoint.uri().clone(), status));
                }
                End::Broken(why) => {
                    let why = with_hint(endpoint.uri(), why);
                    whys.push(format!("{}: {why}", endpoint.uri()));
                }
            }
            if welcomed {
                (first, backoff) = (place, FIRST_BACKOFF);
                break;
            }
        }
        // One that takes us may come back as long as not all have said that they never will.
        if refusals.len() == endpoints.len()
            && let Some((url, status)) = refusals.pop()
        {
            return Err(LinkError::Refused { url, status });
        }
        let wait = spread(backoff);
        tracing::warn!(
            why = whys.join("; "),
            "no coordinator: trying again in {} ms",
            wait.as_millis()
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = leaving.cancelled() => return Ok(()),
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

async fn left_early(leaving: &CancellationToken) {
    leaving.cancelled().await;
    tokio::time::sleep(LEAVE_TIMEOUT).await;
}

/// Between half and all of `longest`.
fn spread(longest: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() % 1000;
    let part = u32::try_from(random).unwrap_or_default();
    longest / 2 + longest / 2000 * part
}

/// Of what the coordinator answers at the door, what no second try changes.
fn refused(status: &Status) -> bool {
    use std::error::Error;
    // With a source it is our own: the coordinator said nothing.
    status.source().is_none()
        && matches!(
            status.code(),
            Code::FailedPrecondition
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
                | Code::InvalidArgument
        )
}

async fn connection(
    agent: &Arc<Agent>,
    endpoint: &Endpoint,
    leaving: &CancellationToken,
    welcomed: &mut bool,
) -> End {
    let changed = agent.engine_changed();
    let (to, outgoing) = mpsc::channel(1);
    let hello = convert::message(FromAgent::Hello(agent.hello()));
    let mut client = FleetClient::new(endpoint.connect_lazy())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let opened = async {
        // There is room for it: the queue is new.
        let _ = to.send(hello).await;
        let mut incoming = client
            .link(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let first = incoming.message().await?;
        Ok::<_, Status>((incoming, first.and_then(|message| message.message)))
    };
    let (incoming, welcome) = match tokio::time::timeout(WELCOME_TIMEOUT, opened).await {
        Err(_) => return End::Broken("it did not answer in time".to_owned()),
        Ok(Err(status)) if refused(&status) => return End::Refused(status),
        Ok(Err(status)) => return End::Broken(describe(&status)),
        Ok(Ok((incoming, Some(FromCoordinator::Welcome(welcome))))) => (incoming, welcome),
        Ok(Ok(_)) => return End::Broken("its first word was no welcome".to_owned()),
    };
    *welcomed = true;
    tracing::info!(agent = welcome.agent, coordinator = %endpoint.uri(), "connected to the coordinator");
    agent.led_by(endpoint);
    agent.welcome(&welcome);
    let heartbeats = Heartbeats::default();
    let (answers, answered) = mpsc::channel(ANSWERS);
    let every = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(1)));
    let speaking = speak(agent, to, &heartbeats, answered, every, leaving);
    let mut listener = Listener {
        agent,
        heartbeats: &heartbeats,
        answers,
        questions: HashMap::new(),
    };
    tokio::select! {
        end = speaking => match end {
            Spoken::All => End::Left,
            Spoken::Unheard(why) => End::Broken(why),
        },
        end = listener.listen(incoming) => end,
        () = changed => End::Broken("the engine has changed, which must be told".to_owned()),
    }
}

fn describe(status: &Status) -> String {
    use std::error::Error;
    status
        .source()
        .map_or_else(|| status.message().to_owned(), crate::root_cause)
}

/// A coordinator that does not take our certificate just closes the connection, as far as we hear.
fn with_hint(url: &http::Uri, why: String) -> String {
    match url.scheme_str() {
        Some("https") if why == "connection closed" => {
            format!("{why}: does the coordinator know the authority that --tls-cert is from?")
        }
        _ => why,
    }
}

/// The heartbeats without an answer yet, oldest first: when each went out and whom it named.
#[derive(Default)]
struct Heartbeats(Mutex<VecDeque<(Instant, Vec<AttemptId>)>>);

impl Heartbeats {
    fn sent(&self, named: Vec<AttemptId>) -> usize {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push_back((Instant::now(), named));
        sent.len()
    }

    fn answered(&self) -> Option<(Instant, Vec<AttemptId>)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

enum Spoken {
    /// Everything, and the link was left.
    All,
    /// Nobody listens.
    Unheard(String),
}

/// Says what there is to say, the most important first: each time there is room on the wire the choice is made anew.
async fn speak(
    agent: &Agent,
    to: mpsc::Sender<v1::AgentMessage>,
    heartbeats: &Heartbeats,
    mut answers: mpsc::Receiver<v1::Answer>,
    every: Duration,
    leaving: &CancellationToken,
) -> Spoken {
    let mut beat = tokio::time::interval(every);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut condition = agent.condition();
    loop {
        let Ok(room) = to.reserve().await else {
            return Spoken::Unheard("it closed the link".to_owned());
        };
        let message = tokio::select! {
            biased;
            () = next_beat(&mut beat, &mut condition) => {
                let (heartbeat, named) = agent.heartbeat();
                if heartbeats.sent(named) > UNANSWERED {
                    return Spoken::Unheard("it answers no heartbeats".to_owned());
                }
                convert::message(FromAgent::Heartbeat(heartbeat))
            }
            report = agent.ledger.next_report() => convert::report(report),
            Some(answer) = answers.recv() => convert::message(FromAgent::Answer(answer)),
            (source, status) = agent.progress.next() => convert::progress(source, &status),
            // Nothing of the above is left to say.
            () = leaving.cancelled() => break,
        };
        room.send(fitting(message));
    }
    // Ends our half; the coordinator ends the other.
    drop(to);
    tokio::time::sleep(LEAVE_TIMEOUT).await;
    Spoken::All
}

/// Resolves when it is time for a heartbeat, or there is something in it that placement must know.
async fn next_beat(beat: &mut Interval, condition: &mut watch::Receiver<Condition>) {
    tokio::select! {
        _ = beat.tick() => {}
        Ok(()) = condition.changed() => {}
    }
}

/// The message, or a smaller one in its place if it would break the link.
fn fitting(message: v1::AgentMessage) -> v1::AgentMessage {
    let bytes = message.encoded_len();
    if bytes <= MAX_MESSAGE_BYTES {
        return message;
    }
    tracing::warn!(bytes, "a message is too large for the link and is cut");
    let too_large = || {
        convert::failure(Failure::farm(format!(
            "the engine's answer has {bytes} bytes, too many to pass on"
        )))
    };
    convert::message(match message.message {
        Some(FromAgent::Finished(v1::Finished {
            attempt,
            token,
            result,
        })) => {
            let result = match result {
                Some(v1::finished::Result::Failure(failure)) => v1::Failure {
                    status: Vec::new(),
                    ..failure
                },
                _ => too_large(),
            };
            FromAgent::Finished(v1::Finished {
                attempt,
                token,
                result: Some(v1::finished::Result::Failure(result)),
            })
        }
        Some(FromAgent::Answer(v1::Answer { request, .. })) => FromAgent::Answer(v1::Answer {
            request,
            answer: Some(v1::answer::Answer::Failure(too_large())),
        }),
        Some(FromAgent::OutputReady(v1::OutputReady { attempt, token, .. })) => {
            FromAgent::Finished(v1::Finished {
                attempt,
                token,
                result: Some(v1::finished::Result::Failure(too_large())),
            })
        }
        Some(FromAgent::Progress(progress)) => FromAgent::Progress(v1::Progress {
            status: Vec::new(),
            ..progress
        }),
        // The others hold nothing that the engine or a build chose.
        Some(other) => other,
        None => return v1::AgentMessage::default(),
    })
}

/// Hears what the coordinator says on one connection.
struct Listener<'a> {
    agent: &'a Arc<Agent>,
    heartbeats: &'a Heartbeats,
    answers: mpsc::Sender<v1::Answer>,
    /// Questions that may still be open; dropped, they are withdrawn.
    questions: HashMap<RequestId, (CancellationToken, DropGuard)>,
}

impl Listener<'_> {
    async fn listen(&mut self, mut incoming: Streaming<v1::CoordinatorMessage>) -> End {
        loop {
            match incoming.message().await {
                Ok(Some(message)) => {
                    if let Some(message) = message.message {
                        self.hear(message).await;
                    }
                }
                Ok(None) => return End::Broken("it ended the link".to_owned()),
                Err(status) if refused(&status) => return End::Refused(status),
                Err(status) => return End::Broken(describe(&status)),
            }
            if self.agent.ledger.backlog() > UNSENT {
                return End::Broken("it does not read what it is told".to_owned());
            }
        }
    }

    async fn hear(&mut self, message: FromCoordinator) {
        match message {
            FromCoordinator::Welcome(welcome) => self.agent.welcome(&welcome),
            FromCoordinator::Offer(offer) => self.agent.offered(offer),
            FromCoordinator::Renewed(renewed) => {
                let Some((sent, named)) = self.heartbeats.answered() else {
                    return tracing::warn!(
                        "the coordinator renewed leases that nobody asked it to renew"
                    );
                };
                let renewed: HashSet<_> =
                    renewed.attempts.into_iter().map(AttemptId::from).collect();
                self.agent.ledger.renew(&named, &renewed, sent);
            }
            FromCoordinator::Cancel(cancel) => {
                self.agent.cancelled(&cancel.attempt.into(), &cancel.reason)
            }
            FromCoordinator::CloseKeeper(close) => self.agent.close_keeper(close.build.into()),
            FromCoordinator::Request(request) => self.asked(request).await,
        }
    }

    async fn asked(&mut self, request: v1::Request) {
        let (id, question) = convert::request(request);
        let refusal = match question {
            Ok(None) => {
                self.questions.remove(&id);
                return;
            }
            Ok(Some(question)) => {
                // Cancelled ones are those that were answered.
                self.questions.retain(|_, (open, _)| !open.is_cancelled());
                if self.questions.len() < QUESTIONS {
                    let open = CancellationToken::new();
                    let guard = open.clone().drop_guard();
                    self.agent
                        .asked(id.clone(), question, self.answers.clone(), open.clone());
                    self.questions.insert(id, (open, guard));
                    return;
                }
                "the agent has too many open questions".to_owned()
            }
            Err(malformed) => malformed.to_string(),
        };
        let failure = convert::failure(Failure::farm(refusal));
        let answer = v1::Answer {
            request: id.into(),
            answer: Some(v1::answer::Answer::Failure(failure)),
        };
        let _ = self.answers.send(answer).await;
    }
}
