//! A build whose stages run on two agents, so that what one makes travels to the other as an image.

use croft_coordinator::store::{
    AgentLink, Binding, BuildView, Exported, NewBuild, OutputDone, OutputRow, OutputState, Store,
    StoreError,
};
use croft_planner::{EdgeId, Output, StageId, TargetId};
use croft_scheduler::{AttemptId, AttemptState, BuildId, BuildState, FailureKind, StageState};

use super::{BUDGET, Told, World, held, publish};
use crate::support::*;

/// A build of two stages on two agents, the second of which takes the first one's result. The first attempt fails by the farm's fault, what
/// the second makes can't be got out of its engine, and the result is lost while the second stage takes it.
pub struct Across {
    build: NewBuild,
    agents: [AgentLink; 2],
    told: Told,
    failed: bool,
    refuted: bool,
    lost: bool,
}

impl World for Across {
    async fn new(db: &Db) -> Across {
        Across {
            build: new_build(),
            agents: [
                db.agent("amd64-1", "linux/amd64").await,
                db.agent("arm64-1", "linux/arm64").await,
            ],
            told: Told::default(),
            failed: false,
            refuted: false,
            lost: false,
        }
    }

    fn build(&self) -> BuildId {
        self.build.id
    }

    fn untold(&self) -> u32 {
        self.told.untold
    }

    async fn step(&mut self, db: &Db, store: &Store) -> Result<bool, StoreError> {
        let id = self.build.id;
        let Some(view) = db.store.build_view(id).await? else {
            store.build_insert(&self.build).await?;
            return Ok(true);
        };
        match view.build.state {
            BuildState::Planning => {
                let shape = shape(&[("linux/amd64", &[]), ("linux/arm64", &[0])]);
                store.build_plan(id, &shape.rows()).await?;
            }
            BuildState::Running => self.run(store, &view).await?,
            BuildState::Publishing => publish(store, &view).await?,
            BuildState::Succeeded => return Ok(false),
            other => panic!("{other}: {view:#?}"),
        }
        Ok(true)
    }

    async fn check(&self, db: &Db, when: &str) {
        let view = db.view(self.build.id).await;
        let digest = |output: Output| {
            let row = view.outputs.iter().find(|row| row.output == output);
            row.and_then(|row| row.digest.clone()).expect("it is there")
        };
        let made = digest(Output::Edge(EdgeId(0)));
        let image = digest(Output::Target(TargetId(0)));
        assert!(
            image.starts_with(&format!("{made} by ")),
            "{image} comes from {made}: {when}"
        );
    }
}

impl Across {
    async fn run(&mut self, store: &Store, view: &BuildView) -> Result<(), StoreError> {
        let id = self.build.id;
        let live = view.attempts.iter().find(|one| !one.state.is_final());
        let Some(attempt) = live else {
            if view.stages.iter().all(|one| one.state == StageState::Done) {
                return store.build_publish(id).await;
            }
            let ready = view
                .stages
                .iter()
                .find(|one| one.state == StageState::Ready);
            let stage = ready
                .unwrap_or_else(|| panic!("nothing goes on: {view:#?}"))
                .number;
            return self.offer(store, view, stage).await;
        };
        let held = held(attempt);
        let agent = attempt.agent;
        let farm = failure(FailureKind::Farm);
        if !self.told.knows(attempt) {
            self.told.lacks(store, attempt).await?;
        } else if attempt.state == AttemptState::Offered {
            store.attempt_accept(agent, held).await?;
        } else if !self.failed {
            store.attempt_fail(agent, held, &farm, &BUDGET).await?;
            self.failed = true;
        } else if attempt.stage == StageId(1) && !self.lost {
            store.output_lose_held(id, self.agents[0].id).await?;
            let digest = view.outputs[0].digest.clone().unwrap_or_default();
            store.output_lose_image(id, EdgeId(0), &digest).await?;
            self.lost = true;
        } else {
            let own = |output: &&OutputRow| output.stage == attempt.stage;
            let output = view.outputs.iter().find(own).expect("each stage has one");
            match output.state {
                OutputState::Missing if !self.refuted => {
                    store.attempt_output(agent, held, &[held_edge(0)]).await?;
                }
                OutputState::Held => {
                    let edge = EdgeId(0);
                    store.output_refute(id, edge, agent, "", &BUDGET).await?;
                    self.refuted = true;
                }
                OutputState::Missing => {
                    let made = [made(output.output, attempt.id, &attempt.bindings)];
                    store.attempt_output(agent, held, &made).await?;
                }
                _ => drop(store.attempt_succeed(agent, held, &done(&[])).await?),
            }
        }
        Ok(())
    }

    async fn offer(
        &mut self,
        store: &Store,
        view: &BuildView,
        stage: StageId,
    ) -> Result<(), StoreError> {
        let agent = &self.agents[stage.index()];
        let bindings = match stage {
            StageId(0) => vec![],
            _ => vec![image(
                0,
                view.outputs[0].digest.as_deref().expect("it is there"),
            )],
        };
        let key = key(self.build.id, stage.0);
        self.told.offer(store, key, agent, bindings).await
    }
}

/// What an attempt makes: its digest says by which attempt, and from what.
fn made(output: Output, attempt: AttemptId, from: &[Binding]) -> OutputDone {
    let digest = match from {
        [] => format!("sha256:{attempt}"),
        [one] => format!("{} by {attempt}", one.digest.as_deref().expect("an image")),
        _ => unreachable!("one input"),
    };
    let exported = Some(Exported {
        took: None,
        digest,
        ..exported("")
    });
    OutputDone { output, exported }
}
