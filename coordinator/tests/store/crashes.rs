//! A crash between any two statements, and an answer lost of any: whoever goes on from what is in the database brings the build to its end,
//! and no rule is broken on the way.

use std::collections::HashSet;
use std::time::Duration;

use croft_coordinator::store::{
    AgentLink, BuildEnd, BuildView, Exported, Held, NewBuild, NewPublication, OutputDone,
    OutputState, PublicationState, Store, StoreError,
};
use croft_local::Postgres;
use croft_planner::{EdgeId, Output, StageId, TargetId};
use croft_scheduler::{
    AttemptId, AttemptState, BuildState, FailureKind, FarmBudget, LeaseTerms, StageState,
};
use serde_json::json;

use crate::relay::{Cut, Relay};
use crate::support::*;

/// A build of two stages on two agents, the second of which takes the first one's result. The first attempt fails by the farm's fault, and the
/// result is lost while the second stage takes it.
struct World {
    build: NewBuild,
    agents: [AgentLink; 2],
    /// What the agents were told to run: they outlive a coordinator.
    told: HashSet<AttemptId>,
    /// How many offers were committed and not sent.
    untold: u32,
    failed: bool,
    lost: bool,
}

/// No pause between attempts, and more of them than a crash can cost.
const BUDGET: FarmBudget = FarmBudget {
    failures: 6,
    first_wait: Duration::ZERO,
    longest_wait: Duration::ZERO,
};

impl World {
    fn new(agents: &[AgentLink; 2]) -> World {
        World {
            build: new_build(),
            agents: *agents,
            told: HashSet::new(),
            untold: 0,
            failed: false,
            lost: false,
        }
    }

    /// Does what is next, going by what is in the database and by what agents know. False when the build is over. What is only looked at is
    /// looked at past the relay: a crash there changes nothing.
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
            BuildState::Publishing => self.publish(store, &view).await?,
            BuildState::Succeeded => return Ok(false),
            other => panic!("{other}: {view:#?}"),
        }
        Ok(true)
    }

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
        let held = Held {
            attempt: attempt.id,
            token: attempt.token,
        };
        let agent = attempt.agent;
        let farm = failure(FailureKind::Farm);
        if !self.told.contains(&attempt.id) {
            // Its agent comes back without it.
            self.untold += 1;
            store.attempt_fail(agent, held, &farm, &BUDGET).await?;
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
            let own = |output: &&croft_coordinator::store::OutputRow| output.stage == attempt.stage;
            let output = view.outputs.iter().find(own).expect("each stage has one");
            match output.state {
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
        let new = croft_coordinator::store::NewAttempt {
            id: AttemptId(id()),
            key: key(self.build.id, stage.0),
            agent: agent.id,
            epoch: agent.epoch,
            reason: "a test".to_owned(),
            bindings,
        };
        store.attempt_offer(&new, &LeaseTerms::default()).await?;
        // Only what was committed is sent.
        self.told.insert(new.id);
        Ok(())
    }

    async fn publish(&self, store: &Store, view: &BuildView) -> Result<(), StoreError> {
        let id = self.build.id;
        if view.publications.is_empty() {
            let tag = |tag: &str| NewPublication {
                repository: "app".to_owned(),
                tag: Some(tag.to_owned()),
                digest: "sha256:index".to_owned(),
                previous: None,
            };
            return store.publication_intend(id, &[tag("1"), tag("2")]).await;
        }
        let mut rows = view.publications.iter();
        match rows.find(|row| row.state == PublicationState::Intended) {
            Some(row) => {
                let tag = row.publication.tag.as_deref();
                store.publication_done(id, "app", tag).await
            }
            None => {
                let response = json!({});
                let end = BuildEnd::Succeeded {
                    response: &response,
                    digest: Some("sha256:index"),
                };
                store.build_end(id, end).await.map(drop)
            }
        }
    }
}

/// What an attempt makes: its digest says by which attempt, and from what.
fn made(
    output: Output,
    attempt: AttemptId,
    from: &[croft_coordinator::store::Binding],
) -> OutputDone {
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

/// The rules that hold whenever nothing is under way in the database.
async fn check(db: &Db, when: &str) {
    for (rule, broken) in [
        (
            "a stage has one live attempt if it runs, and none else",
            "SELECT count(*) FROM stages AS s WHERE (s.state = 'running')::int
               <> (SELECT count(*) FROM attempts AS t
                   WHERE t.build = s.build AND t.stage = s.number AND t.state IN ('offered', 'running'))",
        ),
        (
            "what a done stage made is there",
            "SELECT count(*) FROM stages AS s JOIN outputs AS o ON o.build = s.build AND o.stage = s.number
             WHERE s.state = 'done' AND o.state = 'missing'",
        ),
        (
            "a stage waits for what is missing, and for nothing else",
            "SELECT count(*) FROM stages AS s JOIN builds AS b ON b.id = s.build AND b.state = 'running'
             WHERE (s.state = 'waiting') <> EXISTS (SELECT FROM outputs AS o
                 WHERE o.build = s.build AND o.kind = 'edge' AND o.state = 'missing' AND s.number = ANY (o.consumers))",
        ),
        (
            "a build that is over has nothing that goes on",
            "SELECT count(*) FROM builds AS b JOIN stages AS s ON s.build = b.id
             WHERE b.finished_at IS NOT NULL AND s.state IN ('waiting', 'ready', 'running')",
        ),
        (
            "a build is planned as a whole or not at all",
            "SELECT count(*) FROM builds AS b WHERE (b.state = 'planning')
               <> ((SELECT count(*) FROM stages AS s WHERE s.build = b.id) = 0)",
        ),
        (
            "intents are written down all or none",
            "SELECT count(*) FROM (SELECT count(*) AS tags FROM publications GROUP BY build) AS p WHERE tags <> 2",
        ),
    ] {
        let count: i64 = sqlx::query_scalar(broken).fetch_one(&db.sql).await.unwrap();
        assert_eq!(count, 0, "{rule}: {when}");
    }
}

/// What is there when the build has succeeded.
async fn check_end(db: &Db, world: &World, when: &str) {
    let view = db.view(world.build.id).await;
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
    for stage in &view.stages {
        assert_eq!(stage.state, StageState::Done, "{when}");
    }
    for row in &view.publications {
        assert_eq!(row.state, PublicationState::Published, "{when}");
    }
    let live = db.store.attempt_live(None).await.unwrap();
    assert_eq!(live, [], "{when}");
}

/// Steps until the build is over. What is stale is looked at again, and so is what a loop would come to again, if the connection broke.
async fn drive(world: &mut World, db: &Db, store: &Store) -> Result<(), StoreError> {
    for _ in 0..100 {
        match world.step(db, store).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.is_stale() => {}
            Err(StoreError::Away(_)) => {}
            Err(error) => return Err(error),
        }
    }
    panic!(
        "it comes to no end: {:#?}",
        store.build_view(world.build.id).await
    )
}

/// Breaks off at the first statement, at the second and so on, until a build gets through. Returns how many there were.
async fn at_each_statement(cut: Cut) -> u32 {
    let db = Db::new().await;
    let agents = [
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("arm64-1", "linux/arm64").await,
    ];
    let relay = Relay::new(Postgres::shared().unwrap().address()).await;
    let store = connect(&relay.url(&db.url)).await;
    for statement in 1.. {
        let when = format!("{cut:?} at statement {statement}");
        // A connection of those before would be found broken only when it is used.
        while store.ping().await.is_err() {}
        relay.arm(cut, statement);
        let mut world = World::new(&agents);
        tokio::select! {
            biased;
            () = relay.crashed() => {}
            driven = drive(&mut world, &db, &store) => {
                driven.unwrap_or_else(|error| panic!("{error}: {when}"));
                check(&db, &when).await;
                check_end(&db, &world, &when).await;
                assert_eq!(world.untold, 0, "an offer waits for the end of its lease: {when}");
                if !relay.was_cut() {
                    return statement - 1;
                }
                continue;
            }
        }
        // The rules hold before anybody goes on, once the server has seen that nobody listens any more.
        settled(&db).await;
        check(&db, &when).await;
        relay.arm(cut, 0);
        let went_on = drive(&mut world, &db, &db.store).await;
        went_on.unwrap_or_else(|error| panic!("{error}: {when}"));
        check(&db, &when).await;
        check_end(&db, &world, &when).await;
    }
    unreachable!("it comes to an end")
}

/// Waits until no transaction of a store that is gone is open.
async fn settled(db: &Db) {
    loop {
        let open = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&db.sql).await.unwrap();
        if open == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_coordinator_that_crashes_between_any_two_statements_leaves_what_the_next_one_can_go_on_with()
 {
    let statements = at_each_statement(Cut::Crash).await;
    assert!(statements > 60, "{statements}");
}

#[tokio::test]
async fn an_answer_that_is_lost_of_any_statement_is_made_good_by_the_one_who_waits_for_it() {
    let statements = at_each_statement(Cut::Answer).await;
    assert!(statements > 60, "{statements}");
}
