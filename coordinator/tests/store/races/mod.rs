//! Two racers for every guarded statement: exactly one wins, and the other hears that it was late; or both are heard and what is there
//! afterwards doesn't depend on who was first. `every` sees to it that no statement is left out.

use croft_coordinator::store::{BuildEnd, Hold, StoreError, Wants};
use croft_scheduler::{BuildId, LeaseTerms};

use crate::support::*;

/// How often each race is run.
const ROUNDS: usize = 8;

/// Whether the first won; the other must be stale.
fn one_won<A: std::fmt::Debug, B: std::fmt::Debug>(
    first: Result<A, StoreError>,
    second: Result<B, StoreError>,
) -> bool {
    match (is_stale(first), is_stale(second)) {
        (false, true) => true,
        (true, false) => false,
        (true, true) => panic!("neither won"),
        (false, false) => panic!("both won"),
    }
}

/// Both at once, of which one must win: whether it was the first.
macro_rules! race {
    ($first:expr, $second:expr) => {{
        let (first, second) = tokio::join!($first, $second);
        $crate::races::one_won(first, second)
    }};
}

/// Both at once, each of which may find that the other was first: whether it was not so.
macro_rules! meet {
    ($first:expr, $second:expr) => {{
        let (first, second) = tokio::join!($first, $second);
        (!is_stale(first), !is_stale(second))
    }};
}

mod agents;
mod attempts;
mod builds;
mod every;
mod outputs;
mod retention;

/// Ends a build that a round is through with.
async fn over(db: &Db, build: BuildId) {
    let end = BuildEnd::Cancelled { reason: "" };
    db.store.build_end(build, end).await.unwrap();
}

#[tokio::test]
async fn no_two_transactions_wait_for_each_other() {
    // Everything that touches several rows at once, all at once: a deadlock would be an error that is not stale.
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    db.execute("UPDATE agents SET slots = 100").await;
    for _ in 0..ROUNDS {
        let alone: (&str, &[u32]) = ("linux/amd64", &[]);
        let shape = shape(&[alone; 6]);
        let (one, two) = (db.planned(&shape).await, db.planned(&shape).await);
        let mut held = Vec::new();
        for stage in [0, 1, 2] {
            held.push(db.offer(one, stage, &agent, &[]).await);
            held.push(db.offer(two, stage, &agent, &[]).await);
        }
        let backwards: Vec<_> = held.iter().rev().copied().collect();
        let holds: Vec<Hold> = [5, 4, 3]
            .into_iter()
            .flat_map(|stage| [two, one].map(|build| key(build, stage)))
            .map(|key| Hold {
                key,
                why: "news".to_owned(),
                wants: Wants::Slot,
            })
            .collect();
        let terms = LeaseTerms::default();
        let (first, second) = (done(&[target(0)]), done(&[target(1)]));
        let results = tokio::join!(
            db.store.attempt_renew(agent.id, &held, &terms),
            db.store.attempt_renew(agent.id, &backwards, &terms),
            db.store.stage_hold(&holds),
            db.store.attempt_succeed(agent.id, held[0], &first),
            db.store.attempt_succeed(agent.id, held[3], &second),
            async {
                tokio::join!(
                    db.store.build_end(one, BuildEnd::Cancelled { reason: "" }),
                    db.store.build_end(two, BuildEnd::Cancelled { reason: "" })
                )
            },
        );
        results.0.unwrap();
        results.1.unwrap();
        results.2.unwrap();
        is_stale(results.3);
        is_stale(results.4);
        results.5.0.unwrap();
        results.5.1.unwrap();
    }
}
