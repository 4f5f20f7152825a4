//! A build whose stages go ahead of one another, on agents that come, go and come back.

use croft_coordinator::store::{
    AgentLink, Binding, BuildView, Disk, Heartbeat, Held, Memory, NewBuild, OutputDone,
    OutputState, Store, StoreError,
};
use croft_planner::{EdgeId, Output, StageId, TargetId};
use croft_scheduler::fleet::{Health, Presence};
use croft_scheduler::{AgentId, AttemptState, BuildId, BuildState, LeaseTerms, StageState};

use super::{BUDGET, Told, World, held, publish};
use crate::support::*;

/// Why the second stage gives way.
const GAVE_WAY: &str = "what it takes failed";

const MEMORY: Memory = Memory {
    total: 16 << 30,
    available: 4 << 30,
};

/// What an agent says of itself once it is there: that it can take nothing yet, and then that it can.
const BEATS: [Heartbeat; 2] = [
    Heartbeat {
        health: Health::Full,
        disk: Some(Disk {
            total: 100 << 30,
            free: 1,
        }),
        memory: None,
    },
    Heartbeat {
        health: Health::Healthy,
        disk: None,
        memory: Some(MEMORY),
    },
];

/// Three stages in a row. The first two run on one agent, the second ahead of the first, and what that makes is exported for the third.
/// The second gives way once; when it is done, the agent is silent over the first until its lease ends; and at the next try its link breaks.
pub struct Ahead {
    build: NewBuild,
    /// Whether the coordinator that there is now has begun.
    begun: bool,
    agents: [Agent; 2],
    told: Told,
    link_broke: bool,
}

struct Agent {
    name: &'static str,
    native: &'static str,
    link: Option<AgentLink>,
    /// How often it was heard over this link.
    beats: usize,
}

impl World for Ahead {
    async fn new(_: &Db) -> Ahead {
        let agent = |name, native| Agent {
            name,
            native,
            link: None,
            beats: 0,
        };
        Ahead {
            build: new_build(),
            begun: false,
            agents: [
                agent("amd64-1", "linux/amd64"),
                agent("arm64-1", "linux/arm64"),
            ],
            told: Told::default(),
            link_broke: false,
        }
    }

    fn build(&self) -> BuildId {
        self.build.id
    }

    async fn step(&mut self, db: &Db, store: &Store) -> Result<bool, StoreError> {
        if !self.begun {
            store.agent_all_away().await?;
            store.attempt_adopt(&LeaseTerms::default()).await?;
            self.begun = true;
            return Ok(true);
        }
        for agent in &mut self.agents {
            if agent.speak(db, store).await? {
                return Ok(true);
            }
        }
        let id = self.build.id;
        let Some(view) = db.store.build_view(id).await? else {
            store.build_insert(&self.build).await?;
            return Ok(true);
        };
        match view.build.state {
            BuildState::Planning => {
                let shape = shape(&[
                    ("linux/amd64", &[]),
                    ("linux/amd64", &[0]),
                    ("linux/arm64", &[1]),
                ]);
                store.build_plan(id, &shape.rows()).await?;
            }
            BuildState::Running => self.run(db, store, &view).await?,
            BuildState::Publishing => publish(store, &view).await?,
            BuildState::Succeeded => return Ok(false),
            other => panic!("{other}: {view:#?}"),
        }
        Ok(true)
    }

    fn crash(&mut self) {
        self.begun = false;
        for agent in &mut self.agents {
            agent.link = None;
        }
    }

    fn untold(&self) -> u32 {
        self.told.untold
    }

    async fn check(&self, db: &Db, when: &str) {
        let view = db.view(self.build.id).await;
        let output = |output: Output| {
            let row = view.outputs.iter().find(|row| row.output == output);
            row.expect("each stage has one")
        };
        let [first, second, last] = [
            Output::Edge(EdgeId(0)),
            Output::Edge(EdgeId(1)),
            Output::Target(TargetId(0)),
        ]
        .map(|one| {
            let mut made = view.attempts.iter();
            let made = made.find(|attempt| Some(attempt.id) == output(one).attempt);
            made.expect("somebody made it")
        });
        for attempt in [first, second, last] {
            assert_eq!(attempt.state, AttemptState::Succeeded, "{when}");
        }
        assert!(
            first.token < second.token && second.token < last.token,
            "each was begun when what it takes was being made: {when}: {view:#?}"
        );
        let exported = &output(Output::Edge(EdgeId(1))).digest;
        assert!(exported.is_some(), "{when}");
        assert_eq!(&last.bindings[0].digest, exported, "{when}");

        // What it met with is there too, and only what was the farm's fault counts.
        assert!(gave_way(&view) && was_lost(&view), "{when}: {view:#?}");
        for stage in &view.stages {
            let faults = view.attempts.iter().filter(|attempt| {
                attempt.stage == stage.number
                    && [AttemptState::Failed, AttemptState::Lost].contains(&attempt.state)
            });
            assert_eq!(
                stage.farm_failures as usize,
                faults.count(),
                "{when}: {view:#?}"
            );
        }
        for agent in db.store.agent_list().await.unwrap() {
            assert_eq!(agent.presence, Presence::Connected, "{when}");
            assert_eq!(agent.health, Health::Healthy, "{when}");
            assert_eq!(agent.memory, Some(MEMORY), "{when}");
            assert_eq!(agent.disk, BEATS[0].disk, "{when}");
        }
    }
}

impl Agent {
    /// Connects, and says how it is. False when it has said all.
    async fn speak(&mut self, db: &Db, store: &Store) -> Result<bool, StoreError> {
        let Some(link) = self.link else {
            let hello = hello(self.name, self.native);
            self.link = Some(store.agent_hello(AgentId(id()), &hello).await?);
            self.beats = 0;
            return Ok(true);
        };
        let Some(beat) = BEATS.get(self.beats) else {
            return Ok(false);
        };
        store.agent_heartbeat(link.id, link.epoch, beat).await?;
        let runs = db.store.attempt_live(Some(link.id)).await?;
        let runs: Vec<_> = runs.into_iter().map(|attempt| attempt.held).collect();
        let terms = LeaseTerms::default();
        let renewed = store.attempt_renew(link.id, &runs, &terms).await?;
        assert_eq!(renewed.len(), runs.len(), "it is to let go of none");
        self.beats += 1;
        Ok(true)
    }
}

fn gave_way(view: &BuildView) -> bool {
    let mut attempts = view.attempts.iter();
    attempts.any(|attempt| attempt.error.as_deref() == Some(GAVE_WAY))
}

fn was_lost(view: &BuildView) -> bool {
    let mut attempts = view.attempts.iter();
    attempts.any(|attempt| attempt.state == AttemptState::Lost)
}

impl Ahead {
    async fn run(&mut self, db: &Db, store: &Store, view: &BuildView) -> Result<(), StoreError> {
        use StageState::{Done, Ready, Running, Waiting};
        let id = self.build.id;
        let mut live = view.attempts.iter().filter(|one| !one.state.is_final());
        if let Some(attempt) = live.clone().find(|one| !self.told.knows(one)) {
            return self.told.lacks(store, attempt).await;
        }
        if let Some(one) = live.clone().find(|one| one.state == AttemptState::Offered) {
            return store.attempt_accept(one.agent, held(one)).await;
        }
        let mut running = |stage| {
            let found = live.find(|one| one.stage == StageId(stage));
            let found = found.expect("who runs has a live attempt");
            (found.agent, held(found))
        };
        let states = [0, 1, 2].map(|stage: usize| view.stages[stage].state);
        match states {
            [Ready, ..] => self.offer(store, 0, vec![]).await,
            [Running, Waiting, _] | [Done, Ready, _] => {
                // It has heard by now what became of its inputs.
                db.execute("UPDATE stages SET not_before = now() WHERE not_before > now()")
                    .await;
                self.offer(store, 1, vec![own(0)]).await
            }
            [Running, Running, _] if !gave_way(view) => {
                let (agent, held) = running(1);
                store.attempt_yield(agent, held, GAVE_WAY).await.map(drop)
            }
            // An engine is faster than the export that its producer waits for.
            [Running, Running, _] if !was_lost(view) => {
                succeed(store, running(1), held_edge(1)).await
            }
            [Running, Done, _] => {
                db.leases_end().await;
                let expired = store.attempt_expired(9).await?;
                let [lost] = &expired[..] else {
                    panic!("one is left that runs: {expired:?}")
                };
                store.attempt_lose(lost, &BUDGET).await.map(drop)
            }
            [Running, Running, _] if !self.link_broke => {
                let link = self.agents[0].link.take().expect("it is there");
                self.link_broke = true;
                store.agent_away(link.id, link.epoch).await
            }
            [Running, Running, _] => succeed(store, running(0), held_edge(0)).await,
            [Done, Running, _] => succeed(store, running(1), held_edge(1)).await,
            [Done, Done, Ready] => {
                let mut rows = view.outputs.iter();
                let edge = rows.find(|row| row.output == Output::Edge(EdgeId(1)));
                let edge = edge.expect("it has one");
                match (edge.state, edge.agent, &edge.digest) {
                    (OutputState::Held, Some(holder), _) => {
                        let image = exported(&format!("sha256:{}", self.build.id.0));
                        store.output_export(id, EdgeId(1), holder, &image).await
                    }
                    (OutputState::Exported, _, Some(digest)) => {
                        self.offer(store, 2, vec![image(1, digest)]).await
                    }
                    _ => panic!("it is there: {edge:#?}"),
                }
            }
            [Done, Done, Running] => succeed(store, running(2), target(0)).await,
            [Done, Done, Done] => store.build_publish(id).await,
            _ => panic!("nothing goes on: {view:#?}"),
        }
    }

    async fn offer(
        &mut self,
        store: &Store,
        stage: u32,
        bindings: Vec<Binding>,
    ) -> Result<(), StoreError> {
        let agent = &self.agents[usize::from(stage == 2)];
        let link = agent.link.expect("it is there");
        let key = key(self.build.id, stage);
        self.told.offer(store, key, &link, bindings).await
    }
}

async fn succeed(
    store: &Store,
    (agent, held): (AgentId, Held),
    made: OutputDone,
) -> Result<(), StoreError> {
    let done = done(&[made]);
    store.attempt_succeed(agent, held, &done).await.map(drop)
}
