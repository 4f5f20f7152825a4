//! Frontends: where they run, with what, and what else a client's gateway function asks of an engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::frontend as api;
use croft_planner::Platform;
use croft_proto::v1 as wire;
use croft_scheduler::{AgentId, build_platform};
use prost::Message as _;
use wire::answer::Answer;
use wire::request::Request as Ask;

use super::failure::{Failure, Kind, Result, decode};
use super::{Build, Control, deliver};
use crate::store::AgentRow;

/// How often a frontend is tried, on another agent if there is one, when the farm failed.
const TRIES: usize = 3;
/// How long before that: it may be the same agent, if there is no other.
const PAUSE: Duration = Duration::from_millis(500);

impl Control {
    /// Answers a gateway's solve: a definition stands for itself, a frontend is run, and neither executes anything.
    pub async fn gateway_solve(
        &self,
        build: &Arc<Build>,
        mut request: api::SolveRequest,
    ) -> Result<api::Result> {
        self.begin(build).await?;
        self.refuse_gateway_solve(&request)?;
        if request.frontend.is_empty() {
            let def = request.definition.filter(|d| !d.def.is_empty());
            let reference = api::Ref {
                id: String::new(),
                def,
            };
            return Ok(api::Result {
                result: Some(api::result::Result::Ref(reference)),
                ..api::Result::default()
            });
        }
        request.allow_result_return = true;
        request.allow_result_array_ref = true;
        let named = request
            .frontend_opt
            .iter()
            .filter(|(key, _)| key.starts_with("local-sessionid:"))
            .map(|(_, id)| id.as_str());
        build.name_sessions(&self.sessions, named);
        let answer = self
            .ask_planner(build, |platform| {
                let mut request = request.clone();
                set_build_platform(&mut request.frontend_opt, platform);
                Ask::FrontendSolve(wire::FrontendSolve {
                    context: Some(build.context()),
                    request: request.encode_to_vec(),
                    exporters: deliver::foreseen(build),
                })
            })
            .await?;
        match answer {
            Answer::FrontendResult(bytes) => decode("the frontend's result", &bytes),
            _ => Err(Failure::farm(
                "the agent answered something else than a frontend's result",
            )),
        }
    }

    /// Passes a gateway's question on to the engine that plans the build.
    pub async fn gateway_call(
        &self,
        build: &Arc<Build>,
        method: &str,
        request: Vec<u8>,
    ) -> Result<Vec<u8>> {
        self.begin(build).await?;
        let answer = self
            .ask_planner(build, |_| {
                Ask::Gateway(wire::GatewayCall {
                    context: Some(build.context()),
                    method: method.to_owned(),
                    request: request.clone(),
                })
            })
            .await?;
        match answer {
            Answer::GatewayResponse(bytes) => Ok(bytes),
            _ => Err(Failure::farm(format!(
                "the agent answered something else than {method}"
            ))),
        }
    }

    /// Asks the agent that plans this build, choosing one where there is none yet; another one if the farm fails.
    async fn ask_planner(
        &self,
        build: &Build,
        question: impl Fn(&Platform) -> Ask,
    ) -> Result<Answer> {
        let mut failed: Vec<AgentId> = Vec::new();
        loop {
            let (agent, platform) = self.planner(build, &failed).await?;
            build.joins(agent);
            let answer = async { self.fleet.ask(agent, question(&platform))?.one().await };
            let answer = tokio::select! {
                answer = self.turns.take(agent, answer) => answer,
                reason = build.cancelled() => Err(Failure::cancelled(reason)),
            };
            match answer {
                Err(failure) if failure.kind == Kind::Farm && failed.len() + 1 < TRIES => {
                    tracing::warn!(build = %build.id(), %failure, "a frontend is tried again");
                    failed.push(agent);
                    build.set_planner(None);
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// The agent that runs this build's frontends: one that is native on the build platform. Waits for one that is away.
    async fn planner(&self, build: &Build, failed: &[AgentId]) -> Result<(AgentId, Platform)> {
        let wait = self.settings.agent_wait;
        let begun = std::time::Instant::now();
        let mut step = None;
        loop {
            // Before the look at the fleet: whoever comes after it is heard of.
            let changed = self.agents_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let agents = self.store.agent_list().await?;
            let fleet = AgentRow::fleet(&agents);
            // One that is just connecting is stored before it can be asked, and heard of when it can.
            let linked = agents
                .iter()
                .filter(|agent| self.fleet.epoch(agent.id).is_some());
            let requested = self.settings.build_platform.as_ref();
            let Some(platform) = build_platform(&fleet, requested) else {
                return Err(Failure::no_agents());
            };
            let waiting = |agent| self.turns.wanted(agent);
            if let Some(agent) = choose(linked, &platform, build.planner(), failed, waiting) {
                build.set_planner(Some(agent));
                return Ok((agent, platform));
            }
            croft_scheduler::servable(&fleet, [&platform])
                .map_err(|unservable| Failure::unservable(unservable.to_string()))?;
            if begun.elapsed() >= wait {
                return Err(Failure::unservable(format!(
                    "no agent for the build platform {platform} came back within {} s",
                    wait.as_secs()
                )));
            }
            step.get_or_insert_with(|| {
                build.progress().step(&format!(
                    "[croft] waiting for an agent for the build platform {platform}"
                ))
            });
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait.saturating_sub(begun.elapsed())) => {}
                reason = build.cancelled() => return Err(Failure::cancelled(reason)),
            }
        }
    }
}

/// Of those that have not failed, or of all if all have: the agent that has planned this build before, else one of the oldest engines, so that
/// the others can do what is planned; of those the one where fewest wait for their turn at it, else the least busy one.
fn choose<'a>(
    agents: impl Iterator<Item = &'a AgentRow>,
    platform: &Platform,
    before: Option<AgentId>,
    failed: &[AgentId],
    waiting: impl Fn(AgentId) -> usize,
) -> Option<AgentId> {
    let fit = |agent: &&AgentRow| agent.takes_work() && agent.hello.native == *platform;
    let busy = |agent: &&AgentRow| {
        let share = agent.running.saturating_mul(1000) / agent.hello.slots.max(1);
        (
            failed.contains(&agent.id),
            Some(agent.id) != before,
            // Engines only ever learn more.
            agent.hello.llb_caps.len(),
            waiting(agent.id),
            share,
            agent.hello.name.clone(),
        )
    };
    agents.filter(fit).min_by_key(busy).map(|agent| agent.id)
}

/// All four arguments together decide what BUILDPLATFORM and its parts are, whatever engine runs the frontend.
fn set_build_platform(options: &mut HashMap<String, String>, platform: &Platform) {
    let parts = [
        ("BUILDPLATFORM", platform.to_string()),
        ("BUILDOS", platform.os().to_owned()),
        ("BUILDARCH", platform.arch().to_owned()),
        ("BUILDVARIANT", platform.variant().to_owned()),
    ];
    for (name, value) in parts {
        options.entry(format!("build-arg:{name}")).or_insert(value);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::DateTime;
    use croft_scheduler::fleet::{Duty, Health, Presence};

    use super::*;
    use crate::store::{Epoch, Hello};

    /// An idle agent with two slots.
    pub fn agent(number: u128, native: &str, llb_caps: &[&str]) -> AgentRow {
        let native: Platform = native.parse().unwrap();
        let hello = Hello {
            name: format!("{}-{number}", native.arch()),
            platforms: vec![native.clone()],
            native,
            emulated: Vec::new(),
            slots: 2,
            labels: Default::default(),
            version: String::new(),
            engine_kind: String::new(),
            engine_version: String::new(),
            llb_caps: Arc::new(llb_caps.iter().map(|&cap| cap.to_owned()).collect()),
            frontend_caps: Default::default(),
            entitlements: Vec::new(),
            devices: Vec::new(),
        };
        AgentRow {
            id: AgentId(uuid::Uuid::from_u128(number)),
            hello: Arc::new(hello),
            presence: Presence::Connected,
            epoch: Epoch(1),
            health: Health::Healthy,
            disk: None,
            memory: None,
            duty: Duty::Active,
            first_seen: DateTime::UNIX_EPOCH,
            last_seen: DateTime::UNIX_EPOCH,
            running: 0,
        }
    }

    #[test]
    fn of_engines_of_several_ages_the_oldest_plans_what_all_can_run() {
        let agents = [
            agent(1, "linux/amd64", &["exec.meta.base", "exec.new"]),
            agent(2, "linux/amd64", &["exec.meta.base"]),
            agent(3, "linux/amd64", &["exec.meta.base"]),
        ];
        let ids: Vec<_> = agents.iter().map(|agent| agent.id).collect();
        let amd64 = "linux/amd64".parse().unwrap();
        let chosen = |before, failed: &[AgentId], waiting: fn(AgentId) -> usize| {
            choose(agents.iter(), &amd64, before, failed, waiting)
        };
        assert_eq!(chosen(None, &[], |_| 0), Some(ids[1]));
        let second_is_waited_for = |id: AgentId| usize::from(id.0.as_u128() == 2);
        assert_eq!(chosen(None, &[], second_is_waited_for), Some(ids[2]));
        // One that planned this build before has its sources; and a newer one is better than none.
        assert_eq!(chosen(Some(ids[0]), &[], |_| 0), Some(ids[0]));
        assert_eq!(chosen(None, &ids[1..], |_| 0), Some(ids[0]));
        // Where all have failed one of them is tried again.
        assert_eq!(chosen(None, &ids, |_| 0), Some(ids[1]));
    }

    #[test]
    fn the_users_own_build_platform_wins() {
        let mut options = HashMap::from([("build-arg:BUILDARCH".to_owned(), "riscv64".to_owned())]);
        set_build_platform(&mut options, &"linux/arm64".parse().unwrap());
        assert_eq!(options["build-arg:BUILDARCH"], "riscv64");
        assert_eq!(options["build-arg:BUILDPLATFORM"], "linux/arm64");
        assert_eq!(options["build-arg:BUILDVARIANT"], "");
    }
}
