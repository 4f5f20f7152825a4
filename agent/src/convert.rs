//! Between the protocol's messages and the agent's own types. Nothing that a peer sends is trusted to be whole.

use std::{collections::HashMap, sync::Arc};

use croft_buildkit::{
    api::{control::StatusResponse, pb},
    engine::{EngineInfo, EngineKind},
    session::SessionSpec,
};
use croft_proto::v1::{self, agent_message::Message as FromAgent};
use prost::Message;

use crate::{
    condition::Condition,
    failure::{Blame, Failure},
    ids::{AttemptId, RequestId, Token},
    ledger::{Outcome, Report},
    progress::Source,
    work::{
        BuildContext, Delivery, Export, FrontendQuestion, GatewayQuestion, Offer, Output, Question,
    },
};

/// A message from the coordinator that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Something is missing.
    #[error("the coordinator sent {0}")]
    Missing(&'static str),
    /// An inner message can't be read.
    #[error("the coordinator sent an unreadable {what}: {source}")]
    Unreadable {
        /// What.
        what: &'static str,
        /// Why.
        source: prost::DecodeError,
    },
    /// A session that no engine would take.
    #[error("the coordinator sent a session without a usable id")]
    Session,
    /// A question that is not allowed.
    #[error("{0} is no question that the farm passes on")]
    Method(String),
}

fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, Malformed> {
    M::decode(bytes).map_err(|source| Malformed::Unreadable { what, source })
}

fn context(context: Option<v1::BuildContext>) -> Result<Arc<BuildContext>, Malformed> {
    let context = context.ok_or(Malformed::Missing("no build context"))?;
    if context.build.is_empty() {
        return Err(Malformed::Missing("a build without an id"));
    }
    let policy = &context.source_policy;
    let source_policy = if policy.is_empty() {
        None
    } else {
        Some(decode("source policy", policy)?)
    };
    let imports = context.cache_imports.iter();
    Ok(Arc::new(BuildContext {
        build: context.build.into(),
        sessions: context
            .sessions
            .into_iter()
            .map(session)
            .collect::<Result<_, _>>()?,
        entitlements: context.entitlements,
        source_policy,
        cache_imports: imports
            .map(|entry| decode("cache import", entry))
            .collect::<Result<_, _>>()?,
        traceparent: Some(context.traceparent).filter(|parent| !parent.is_empty()),
    }))
}

fn session(session: v1::Session) -> Result<SessionSpec, Malformed> {
    Ok(SessionSpec {
        id: session.id.try_into().map_err(|_| Malformed::Session)?,
        name: session.name,
        shared_key: session.shared_key,
        methods: session.methods,
    })
}

fn output(output: v1::Output) -> Result<Output, Malformed> {
    let export = |export: v1::Export| -> Result<Export, Malformed> {
        Ok(Export {
            kind: export.r#type,
            attrs: export.attrs,
            title: export.title,
            part: definition(&export.definition)?,
        })
    };
    Ok(Output {
        id: output.id.into(),
        definition: definition(&output.definition)?,
        export: output.export.map(export).transpose()?,
        delivery: output.delivery.map(delivery).transpose()?,
    })
}

fn delivery(delivery: v1::Delivery) -> Result<Delivery, Malformed> {
    let exporters = delivery.exporters.iter();
    Ok(Delivery {
        result: decode("result", &delivery.result)?,
        exporters: exporters
            .map(|exporter| decode("exporter", exporter))
            .collect::<Result<_, _>>()?,
        asked: delivery.asked,
    })
}

fn definition(bytes: &[u8]) -> Result<Option<pb::Definition>, Malformed> {
    match bytes {
        [] => Ok(None),
        bytes => decode("definition", bytes).map(Some),
    }
}

/// Reads an offer. Its attempt and token are known even if the rest can't be read.
pub fn offer(offer: v1::Offer) -> (AttemptId, Token, Result<Offer, Malformed>) {
    let (attempt, token) = (AttemptId::from(offer.attempt), Token(offer.token));
    let read = || -> Result<Offer, Malformed> {
        Ok(Offer {
            attempt: attempt.clone(),
            token,
            stage: offer.stage,
            context: context(offer.context)?,
            outputs: offer
                .outputs
                .into_iter()
                .map(output)
                .collect::<Result<_, _>>()?,
        })
    };
    let read = read();
    (attempt, token, read)
}

/// Reads a question; `None` is the end of an earlier one.
pub fn request(request: v1::Request) -> (RequestId, Result<Option<Question>, Malformed>) {
    use v1::request::Request as Asked;
    let read = || -> Result<Option<Question>, Malformed> {
        Ok(Some(
            match request
                .request
                .ok_or(Malformed::Missing("an empty request"))?
            {
                Asked::FrontendSolve(asked) => Question::Frontend(
                    context(asked.context)?,
                    FrontendQuestion {
                        request: decode("frontend request", &asked.request)?,
                        exporters: asked
                            .exporters
                            .iter()
                            .map(|exporter| decode("exporter", exporter))
                            .collect::<Result<_, _>>()?,
                    },
                ),
                Asked::Gateway(asked) => {
                    let question = match asked.method.as_str() {
                        "ResolveImageConfig" => {
                            GatewayQuestion::ImageConfig(decode("gateway request", &asked.request)?)
                        }
                        "ResolveSourceMeta" => {
                            GatewayQuestion::SourceMeta(decode("gateway request", &asked.request)?)
                        }
                        _ => return Err(Malformed::Method(asked.method)),
                    };
                    Question::Gateway(context(asked.context)?, question)
                }
                Asked::Export(asked) => {
                    let output = output(
                        asked
                            .output
                            .ok_or(Malformed::Missing("an export of nothing"))?,
                    )?;
                    Question::Export(context(asked.context)?, Box::new(output))
                }
                Asked::DiskUsage(asked) => {
                    Question::DiskUsage(decode("disk usage request", &asked)?)
                }
                Asked::Prune(asked) => Question::Prune(decode("prune request", &asked)?),
                Asked::Cancel(v1::CancelRequest {}) => return Ok(None),
            },
        ))
    };
    let read = read();
    (request.id.into(), read)
}

/// Held attempts as `Hello` and `Heartbeat` name them.
pub fn held(held: Vec<(AttemptId, Token)>) -> Vec<v1::Held> {
    held.into_iter()
        .map(|(attempt, Token(token))| v1::Held {
            attempt: attempt.into(),
            token,
        })
        .collect()
}

/// A failure as the coordinator reads it.
pub fn failure(failure: Failure) -> v1::Failure {
    let kind = match failure.blame {
        Blame::Build => v1::failure::Kind::Build,
        Blame::Farm => v1::failure::Kind::Farm,
        Blame::StageRegistry => v1::failure::Kind::StageRegistry,
        Blame::Cancelled => v1::failure::Kind::Cancelled,
        Blame::HandedBack => v1::failure::Kind::HandedBack,
    };
    v1::Failure {
        kind: kind.into(),
        message: failure.message,
        status: failure.status,
    }
}

/// A report as a message.
pub fn report(report: Report) -> v1::AgentMessage {
    message(match report {
        Report::Accepted(attempt, Token(token)) => FromAgent::Accepted(v1::Accepted {
            attempt: attempt.into(),
            token,
        }),
        Report::OutputReady(attempt, Token(token), output, exporter_response) => {
            FromAgent::OutputReady(v1::OutputReady {
                attempt: attempt.into(),
                token,
                output: output.into(),
                exporter_response,
            })
        }
        Report::Finished(attempt, Token(token), outcome) => {
            let result = match outcome {
                Outcome::Done(tally) => v1::finished::Result::Done(v1::Done {
                    vertices_cached: tally.cached,
                    vertices_run: tally.run,
                }),
                Outcome::Failed(why) => v1::finished::Result::Failure(failure(why)),
            };
            FromAgent::Finished(v1::Finished {
                attempt: attempt.into(),
                token,
                result: Some(result),
            })
        }
        Report::KeeperClosed(build, reason) => FromAgent::KeeperClosed(v1::KeeperClosed {
            build: build.into(),
            reason,
        }),
    })
}

/// Progress as a message.
pub fn progress(source: Source, status: &StatusResponse) -> v1::AgentMessage {
    let (attempt, output) = source
        .export
        .map_or_else(Default::default, |(of, output)| (of, output.into()));
    message(FromAgent::Progress(v1::Progress {
        build: source.build.into(),
        attempt,
        output,
        status: status.encode_to_vec(),
    }))
}

/// Wraps a message.
pub fn message(message: FromAgent) -> v1::AgentMessage {
    v1::AgentMessage {
        message: Some(message),
    }
}

/// What the engine can, and what stages may ask of the agent itself.
pub fn llb_caps(info: &EngineInfo) -> Vec<String> {
    let deletes = info.deletes.then_some(croft_proto::DELETES);
    let own = [croft_proto::DELIVERS].into_iter().chain(deletes);
    let own = own.map(str::to_owned);
    info.llb_caps.iter().cloned().chain(own).collect()
}

/// Whether the agent can take work.
pub fn condition(condition: Condition) -> v1::Condition {
    match condition {
        Condition::Ready => v1::Condition::Ready,
        Condition::Leaving => v1::Condition::Leaving,
        Condition::EngineSilent => v1::Condition::EngineSilent,
        Condition::DiskFull => v1::Condition::DiskFull,
    }
}

/// What an exporter answered.
pub fn exported(exporter_response: HashMap<String, String>) -> v1::Exported {
    v1::Exported { exporter_response }
}

/// An engine's kind as `EngineInfo` names it.
pub fn engine_kind(kind: EngineKind) -> &'static str {
    match kind {
        EngineKind::Docker => "docker",
        EngineKind::Buildkitd => "buildkitd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::Offer {
        v1::Offer {
            attempt: "a".into(),
            token: 3,
            context: Some(v1::BuildContext {
                build: "b".into(),
                sessions: vec![v1::Session {
                    id: "s".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            outputs: vec![v1::Output {
                id: "o".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn an_output_without_a_definition_is_the_scratch_image() {
        let (_, _, read) = offer(good());
        let read = read.expect("a good offer");
        assert_eq!(read.outputs[0].definition, None);
        assert_eq!(read.context.session().expect("a session").as_str(), "s");
    }

    #[test]
    fn an_unreadable_offer_still_has_an_attempt_to_answer_for() {
        let mut bad = [good(), good(), good(), good()];
        bad[0].context = None;
        bad[1].outputs[0].definition = b"\xff".to_vec();
        bad[2].context.as_mut().expect("there").sessions[0]
            .id
            .clear();
        bad[3].context.as_mut().expect("there").source_policy = b"\xff".to_vec();
        for bad in bad {
            let (attempt, token, read) = offer(bad);
            assert_eq!((attempt.as_str(), token), ("a", Token(3)));
            read.expect_err("an unreadable offer");
        }
    }

    #[test]
    fn only_read_only_questions_reach_the_gateway() {
        let ask = |method: &str| {
            let gateway = v1::GatewayCall {
                method: method.into(),
                context: good().context,
                request: Vec::new(),
            };
            let asked = v1::Request {
                id: "r".into(),
                request: Some(v1::request::Request::Gateway(gateway)),
            };
            request(asked).1
        };
        assert!(matches!(
            ask("ResolveImageConfig"),
            Ok(Some(Question::Gateway(..)))
        ));
        assert!(matches!(ask("Return"), Err(Malformed::Method(_))));
    }
}
