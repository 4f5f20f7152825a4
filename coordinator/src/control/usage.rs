//! What the engines' caches hold, and freeing it: the farm's agents asked as one.

use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use croft_proto::v1 as wire;
use croft_scheduler::AgentId;
use futures::Stream;
use prost::Message as _;
use wire::answer::Answer;
use wire::request::Request as Ask;

use super::Control;
use super::failure::{Failure, Result, decode};
use super::fleet::Answers;

impl Control {
    /// The records of all connected agents, each under its agent's name.
    pub async fn disk_usage(
        &self,
        request: api::DiskUsageRequest,
    ) -> Result<Vec<api::UsageRecord>> {
        let bytes = request.encode_to_vec();
        let asked = self.everyone(|| Ask::DiskUsage(bytes.clone()));
        let answers = asked.into_iter().map(|(agent, answers)| async move {
            let records = usage(answers).await?.into_iter();
            Ok::<_, Failure>(records.map(|r| of_agent(&agent, r)).collect::<Vec<_>>())
        });
        let mut records = Vec::new();
        for answer in futures::future::join_all(answers).await {
            records.extend(answer?);
        }
        Ok(records)
    }

    /// All records of one agent's engine, which must be connected.
    pub async fn agent_usage(&self, agent: AgentId) -> Result<Vec<api::UsageRecord>> {
        let request = api::DiskUsageRequest::default().encode_to_vec();
        usage(self.fleet.ask(agent, Ask::DiskUsage(request))?).await
    }

    /// Frees what the request names on all connected agents at once, and tells what was freed as it goes.
    pub fn prune(
        &self,
        request: api::PruneRequest,
    ) -> Result<impl Stream<Item = Result<api::UsageRecord>> + Send + use<>> {
        let bytes = request.encode_to_vec();
        let asked = self.everyone(|| Ask::Prune(bytes.clone()));
        let streams = asked.into_iter().map(|(agent, answers)| {
            Box::pin(futures::stream::unfold(
                Some((agent, answers)),
                |state| async move {
                    let (agent, mut answers) = state?;
                    match answers.next().await {
                        Ok(Answer::Pruned(bytes)) => {
                            let record = decode("a pruned record", &bytes);
                            let record = record.map(|r| of_agent(&agent, r));
                            Some((record, Some((agent, answers))))
                        }
                        Ok(_) => None,
                        Err(failure) => Some((Err(failure), None)),
                    }
                },
            ))
        });
        Ok(futures::stream::select_all(streams))
    }

    /// Asks every connected agent. One that goes away just now is left out.
    fn everyone(&self, question: impl Fn() -> Ask) -> Vec<(Arc<str>, Answers)> {
        let ask = |agent| {
            Some((
                self.fleet.name(agent)?,
                self.fleet.ask(agent, question()).ok()?,
            ))
        };
        self.fleet.connected().into_iter().filter_map(ask).collect()
    }
}

async fn usage(answers: Answers) -> Result<Vec<api::UsageRecord>> {
    match answers.one().await? {
        Answer::DiskUsage(bytes) => {
            let usage: api::DiskUsageResponse = decode("an agent's disk usage", &bytes)?;
            Ok(usage.record)
        }
        _ => Err(Failure::farm(
            "an agent answered something else than its disk usage",
        )),
    }
}

/// Ids are unique on one engine only.
fn of_agent(agent: &str, mut record: api::UsageRecord) -> api::UsageRecord {
    record.id = format!("{agent}/{}", record.id);
    for parent in &mut record.parents {
        *parent = format!("{agent}/{parent}");
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_two_agents_never_share_an_id() {
        let record = api::UsageRecord {
            id: "x".into(),
            parents: vec!["y".into()],
            ..api::UsageRecord::default()
        };
        let named = of_agent("arm64-1", record);
        assert_eq!(
            (named.id.as_str(), named.parents[0].as_str()),
            ("arm64-1/x", "arm64-1/y")
        );
    }
}
