//! The promises, checked as the simulation goes on and when it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use croft_scheduler::fleet::{AgentView, FleetView, Start};
use croft_scheduler::place::{Decision, ReadyStage, Refusal};
use croft_scheduler::{
    AgentId, AttemptId, AttemptState, BuildId, BuildState, FailureKind, FarmBudget, StageState,
    Timestamp, Token,
};

use super::agent::Agent;
use super::books::{Books, End};
use super::support::could;

/// Every placement is on an agent that can take it, and every refusal had to be: by brute force.
pub fn decisions(fleet: &FleetView, stages: &[ReadyStage], decisions: &[Decision]) {
    let by_key: BTreeMap<_, _> = stages.iter().map(|stage| (stage.key, stage)).collect();
    // Of each agent what is complete, and what went ahead.
    let mut load: BTreeMap<AgentId, (u32, u32)> = fleet
        .agents
        .iter()
        .map(|agent| {
            let running = |start| agent.running(start);
            (agent.id, (running(Start::Complete), running(Start::Ahead)))
        })
        .collect();
    for decision in decisions {
        let stage = by_key[&decision.key()];
        let fit = || {
            fleet
                .agents
                .iter()
                .filter(|agent| could(fleet, agent, stage))
        };
        match decision {
            Decision::Placed { agent, .. } => {
                assert!(fit().any(|view| view.id == *agent), "unfit: {decision:?}");
                let slots = fit().find(|view| view.id == *agent).map(|view| view.slots);
                let slots = slots.expect("it is fit");
                let (complete, ahead) = load.get_mut(agent).expect("an agent of the fleet");
                if stage.is_ahead() {
                    assert!(stage.comes_together_on(*agent), "{decision:?}");
                    assert!(
                        *ahead < slots && *complete + *ahead < 2 * slots,
                        "too many go ahead: {decision:?}"
                    );
                    *ahead += 1;
                } else {
                    assert!(*complete < slots, "a slot is given away once: {decision:?}");
                    *complete += 1;
                }
            }
            Decision::Held { why, .. } => match why {
                Refusal::Pause => {}
                Refusal::Inputs => assert!(stage.is_ahead(), "{decision:?}"),
                Refusal::Nobody { .. } => assert_eq!(fit().count(), 0, "{decision:?}"),
                Refusal::Full { .. } => assert!(fit().all(is_full(&load)), "{decision:?}"),
                Refusal::WorthWaiting { agent, .. } => assert!(
                    fit().filter(|view| view.name == *agent).any(is_full(&load)),
                    "{decision:?}"
                ),
            },
        }
    }
}

/// Whether an agent's slots are all taken.
fn is_full(load: &BTreeMap<AgentId, (u32, u32)>) -> impl Fn(&AgentView) -> bool {
    |view| load[&view.id].0 >= view.slots
}

/// All that a build publishes was made from one set of artifacts, each by an attempt that the farm took for good.
pub fn published(books: &Books, id: BuildId) {
    let build = &books.builds[&id];
    let good: BTreeMap<Token, usize> = books
        .attempts
        .values()
        .filter(|attempt| attempt.key.build == id && attempt.state == AttemptState::Succeeded)
        .map(|attempt| (attempt.token, attempt.key.stage.index()))
        .collect();
    let mut made: BTreeMap<usize, Token> = BTreeMap::new();
    for output in build.outputs.iter().filter(|o| o.consumers.is_empty()) {
        let held = output.held.as_ref().map(|(_, origin)| origin);
        let origin = output.image.as_ref().or(held).expect("a target is there");
        for (stage, token) in origin.iter() {
            assert_eq!(
                good.get(token),
                Some(stage),
                "build {id}: stage {stage} comes from an attempt that doesn't count"
            );
            let first = made.entry(*stage).or_insert(*token);
            assert_eq!(first, token, "build {id}: two results of stage {stage} mix");
        }
    }
}

/// An agent lets go of an attempt, by its own reckoning, before its lease ends and another may be given the stage.
pub fn let_go(agent: &Agent, id: AttemptId, lease: Duration, now: Timestamp) {
    let runs = agent.runs.get(&id).filter(|run| !run.finished);
    if let Some(run) = runs {
        assert!(
            run.renewed + lease <= now,
            "{} goes on with {id:?}",
            agent.view.name
        );
    }
}

/// Where nothing broke, the farm has nothing to blame itself for: agents that end say so in time.
pub fn no_fault(books: &Books) {
    for (id, attempt) in &books.attempts {
        let innocent = matches!(
            attempt.failure,
            None | Some(FailureKind::Build | FailureKind::HandedBack)
        );
        assert!(innocent, "{id:?}: {:?}", attempt.failure);
    }
}

/// What must be so when nothing more happens.
pub fn over(books: &Books, budget: &FarmBudget) {
    assert!(
        books.live.is_empty(),
        "attempts live though all builds ended"
    );
    for (id, build) in &books.builds {
        assert!(build.state.is_final(), "build {id} waits for ever");
        match (build.state, build.why) {
            (BuildState::Succeeded, None) => {
                assert!(build.stages.iter().all(|s| s.state == StageState::Done));
            }
            (BuildState::Cancelled, Some(End::Cancelled)) => {}
            (BuildState::Failed, Some(why)) => {
                let failed = |s: &&super::books::Stage| s.state == StageState::Failed;
                let stage = build.stages.iter().find(failed).expect("a stage ended it");
                let by_farm = books.attempts.values().filter(|attempt| {
                    attempt.key == stage.ready.key && attempt.failure == Some(FailureKind::Farm)
                });
                match why {
                    End::OwnFault => assert!(stage.fails),
                    // Those of the registry have a longer one: no storm lasts as long as that.
                    End::Budget => assert_eq!(by_farm.count(), budget.failures as usize),
                    End::NoAgent | End::Cancelled => assert_eq!(why, End::NoAgent),
                }
            }
            other => panic!("build {id} ended as {other:?}"),
        }
    }
}
