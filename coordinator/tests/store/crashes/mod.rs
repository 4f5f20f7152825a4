//! A crash between any two statements, and an answer lost of any: whoever goes on from what is in the database brings the build to its end,
//! and no rule is broken on the way.

mod across;
mod ahead;

use std::collections::HashSet;
use std::time::Duration;

use croft_coordinator::store::{
    AgentLink, AttemptRow, Binding, BuildEnd, BuildView, Held, NewAttempt, NewPublication,
    PublicationState, Store, StoreError,
};
use croft_local::Postgres;
use croft_scheduler::{
    AttemptId, BuildId, FailureKind, FarmBudget, LeaseTerms, StageKey, StageState,
};
use serde_json::json;

use self::across::Across;
use self::ahead::Ahead;
use crate::relay::{Cut, Relay};
use crate::support::*;

/// A build that meets with faults, and all that brings it to its end but the database.
trait World {
    /// One that has not begun.
    async fn new(db: &Db) -> Self;

    /// Its build.
    fn build(&self) -> BuildId;

    /// Does what is next, going by what is in the database and by what agents know. False when the build is over. What is only looked at is
    /// looked at past the relay: a crash there changes nothing.
    async fn step(&mut self, db: &Db, store: &Store) -> Result<bool, StoreError>;

    /// The coordinator is gone, and with it what only it knew.
    fn crash(&mut self) {}

    /// How many offers were committed and not sent.
    fn untold(&self) -> u32;

    /// What is there when the build has succeeded, beside what is there of any build.
    async fn check(&self, db: &Db, when: &str);
}

/// No pause between attempts, and more of them than a crash can cost.
const BUDGET: FarmBudget = FarmBudget {
    failures: 6,
    first_wait: Duration::ZERO,
    longest_wait: Duration::ZERO,
};

/// What agents were told to run: they outlive a coordinator.
#[derive(Default)]
struct Told {
    attempts: HashSet<AttemptId>,
    /// How many offers were committed and not sent.
    untold: u32,
}

impl Told {
    fn knows(&self, attempt: &AttemptRow) -> bool {
        self.attempts.contains(&attempt.id)
    }

    async fn offer(
        &mut self,
        store: &Store,
        key: StageKey,
        agent: &AgentLink,
        bindings: Vec<Binding>,
    ) -> Result<(), StoreError> {
        let new = NewAttempt {
            id: AttemptId(id()),
            key,
            agent: agent.id,
            epoch: agent.epoch,
            reason: "a test".to_owned(),
            bindings,
        };
        store.attempt_offer(&new, &LeaseTerms::default()).await?;
        // Only what was committed is sent.
        self.attempts.insert(new.id);
        Ok(())
    }

    /// The agent of an attempt that was not sent comes back without it.
    async fn lacks(&mut self, store: &Store, attempt: &AttemptRow) -> Result<(), StoreError> {
        self.untold += 1;
        let farm = failure(FailureKind::Farm);
        let end = store.attempt_fail(attempt.agent, held(attempt), &farm, &BUDGET);
        end.await.map(drop)
    }
}

/// Moves the tags, and ends the build.
async fn publish(store: &Store, view: &BuildView) -> Result<(), StoreError> {
    let id = view.build.id;
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

fn held(attempt: &AttemptRow) -> Held {
    Held {
        attempt: attempt.id,
        token: attempt.token,
    }
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
             WHERE s.state IN ('waiting', 'ready') AND (s.state = 'waiting') <> EXISTS (SELECT FROM outputs AS o
                 WHERE o.build = s.build AND o.kind = 'edge' AND o.state = 'missing' AND s.number = ANY (o.consumers))",
        ),
        (
            "what runs, or is done, lacks nothing but what is being made where it ran",
            "SELECT count(*) FROM stages AS s JOIN builds AS b ON b.id = s.build AND b.state = 'running'
             JOIN outputs AS o ON o.build = s.build AND o.kind = 'edge' AND o.state = 'missing' AND s.number = ANY (o.consumers)
             WHERE s.state IN ('running', 'done') AND NOT EXISTS (
                 SELECT FROM attempts AS m JOIN attempts AS t ON t.build = m.build AND t.agent = m.agent
                 WHERE m.build = o.build AND m.stage = o.stage AND m.state IN ('offered', 'running')
                   AND t.stage = s.number AND t.state IN ('offered', 'running', 'succeeded') AND t.token > m.token)",
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
async fn check_end(db: &Db, world: &impl World, when: &str) {
    let view = db.view(world.build()).await;
    for stage in &view.stages {
        assert_eq!(stage.state, StageState::Done, "{when}");
    }
    for row in &view.publications {
        assert_eq!(row.state, PublicationState::Published, "{when}");
    }
    let live = db.store.attempt_live(None).await.unwrap();
    assert_eq!(live, [], "{when}");
    world.check(db, when).await;
}

/// Steps until the build is over. What is stale is looked at again, and so is what a loop would come to again, if the connection broke.
async fn drive(world: &mut impl World, db: &Db, store: &Store) -> Result<(), StoreError> {
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
        store.build_view(world.build()).await
    )
}

/// Breaks off at the first statement, at the second and so on, until a build gets through. Returns how many there were.
async fn at_each_statement<W: World>(cut: Cut) -> u32 {
    let db = Db::new().await;
    let relay = Relay::new(Postgres::shared().unwrap().address()).await;
    let store = connect(&relay.url(&db.url)).await;
    for statement in 1.. {
        let when = format!("{cut:?} at statement {statement}");
        // A connection of those before would be found broken only when it is used.
        while store.ping().await.is_err() {}
        let mut world = W::new(&db).await;
        relay.arm(cut, statement);
        tokio::select! {
            biased;
            () = relay.crashed() => {}
            driven = drive(&mut world, &db, &store) => {
                // What still comes of it is nobody's statement: a transaction that was given up is rolled back when nobody waits for it.
                let was_cut = relay.was_cut();
                relay.arm(cut, 0);
                driven.unwrap_or_else(|error| panic!("{error}: {when}"));
                check(&db, &when).await;
                check_end(&db, &world, &when).await;
                assert_eq!(world.untold(), 0, "an offer waits for the end of its lease: {when}");
                if !was_cut {
                    return statement - 1;
                }
                continue;
            }
        }
        // The rules hold before anybody goes on, once the server has seen that nobody listens any more.
        settled(&db).await;
        check(&db, &when).await;
        relay.arm(cut, 0);
        world.crash();
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
    let statements = at_each_statement::<Across>(Cut::Crash).await;
    assert!(statements > 60, "{statements}");
}

#[tokio::test]
async fn an_answer_that_is_lost_of_any_statement_is_made_good_by_the_one_who_waits_for_it() {
    let statements = at_each_statement::<Across>(Cut::Answer).await;
    assert!(statements > 60, "{statements}");
}

#[tokio::test]
async fn a_coordinator_that_crashes_while_agents_come_and_go_leaves_what_the_next_one_can_go_on_with()
 {
    let statements = at_each_statement::<Ahead>(Cut::Crash).await;
    assert!(statements > 100, "{statements}");
}

#[tokio::test]
async fn an_answer_that_is_lost_while_agents_come_and_go_is_made_good_as_well() {
    let statements = at_each_statement::<Ahead>(Cut::Answer).await;
    assert!(statements > 100, "{statements}");
}
