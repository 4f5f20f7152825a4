//! Two racers for every guarded statement: exactly one wins, and the other hears that it was late.

use croft_coordinator::store::{BuildEnd, Hold, NewPublication, Outcome, StoreError, Wants};
use croft_planner::{EdgeId, StageId};
use croft_scheduler::{AgentId, FailureKind, LeaseTerms};
use serde_json::json;

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

macro_rules! race {
    ($first:expr, $second:expr) => {{
        let (first, second) = tokio::join!($first, $second);
        one_won(first, second)
    }};
}

#[tokio::test]
async fn a_build_is_planned_published_and_ended_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.build().await;
        let shape = single();
        let plan = shape.rows();
        race!(
            db.store.build_plan(build, &plan),
            rival.build_plan(build, &plan)
        );
        db.run(build, 0, &agent, &[], &[target(0)]).await;
        race!(db.store.build_publish(build), rival.build_publish(build));
        let response = json!({});
        let succeeded = BuildEnd::Succeeded {
            response: &response,
            digest: None,
        };
        let won = race!(
            db.store.build_end(build, succeeded),
            rival.build_end(
                build,
                BuildEnd::Cancelled {
                    reason: "changed my mind"
                }
            )
        );
        let state = db.view(build).await.build.state.to_string();
        assert_eq!(state, if won { "succeeded" } else { "cancelled" });
    }
}

#[tokio::test]
async fn a_stage_is_given_to_one_agent() {
    let db = Db::new().await;
    let (first, second) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    for _ in 0..ROUNDS {
        let build = db.planned(&single()).await;
        race!(
            db.try_offer(build, 0, &first, &[]),
            db.try_offer(build, 0, &second, &[])
        );
        assert_eq!(db.view(build).await.attempts.len(), 1);
        db.store
            .build_end(build, BuildEnd::Cancelled { reason: "" })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_slot_is_given_to_one_stage() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let mut builds = Vec::new();
        for _ in 0..5 {
            builds.push(db.planned(&single()).await);
        }
        let offers = builds
            .iter()
            .map(|&build| db.try_offer(build, 0, &agent, &[]));
        let stale = futures::future::join_all(offers)
            .await
            .into_iter()
            .filter_map(Result::err);
        assert_eq!(
            stale
                .inspect(|error| assert!(error.is_stale(), "{error}"))
                .count(),
            3,
            "it has two slots"
        );
        for build in builds {
            db.store
                .build_end(build, BuildEnd::Cancelled { reason: "" })
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn an_attempt_ends_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let (output, budget) = ([target(0)], at_once());
    for round in 0..ROUNDS {
        let build = db.planned(&single()).await;
        let held = db.offer(build, 0, &agent, &[]).await;
        race!(
            db.store.attempt_accept(agent.id, held),
            rival.attempt_accept(agent.id, held)
        );
        let (well, farm) = (done(&output), failure(FailureKind::Farm));
        let won = match round % 4 {
            0 => race!(
                db.store.attempt_succeed(agent.id, held, &well),
                rival.attempt_succeed(agent.id, held, &well)
            ),
            1 => race!(
                db.store.attempt_succeed(agent.id, held, &well),
                rival.attempt_fail(agent.id, held, &farm, &budget)
            ),
            2 => race!(
                db.store.attempt_fail(agent.id, held, &farm, &budget),
                rival.attempt_fail(agent.id, held, &farm, &budget)
            ),
            _ => {
                db.leases_end().await;
                let lost = db.store.attempt_expired(1).await.unwrap().remove(0);
                race!(
                    db.store.attempt_lose(&lost, &budget),
                    rival.attempt_succeed(agent.id, held, &well)
                )
            }
        };
        let states = db.states(build).await;
        let allowed = match (round % 4, won) {
            (0, _) | (1, true) | (3, false) => "running: done | exported | 0 succeeded",
            (3, true) => "running: ready | missing | 0 lost",
            _ => "running: ready | missing | 0 failed",
        };
        assert_eq!(states, allowed);
        assert!(db.view(build).await.stages[0].farm_failures <= 1);
        db.store
            .build_end(build, BuildEnd::Cancelled { reason: "" })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_lease_is_either_renewed_or_lost() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&single()).await;
        let held = db.offer(build, 0, &agent, &[]).await;
        db.leases_end().await;
        let lost = db.store.attempt_expired(1).await.unwrap().remove(0);
        let (terms, mine, budget) = (LeaseTerms::default(), [held], at_once());
        let (renewed, lost) = tokio::join!(
            db.store.attempt_renew(agent.id, &mine, &terms),
            rival.attempt_lose(&lost, &budget)
        );
        assert_ne!(renewed.unwrap().is_empty(), is_stale(lost));
        db.store
            .build_end(build, BuildEnd::Cancelled { reason: "" })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_report_and_the_end_of_its_build_agree() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&chain()).await;
        let held = db.offer(build, 0, &agent, &[]).await;
        let well = done(&[held_edge(0)]);
        let (report, end) = tokio::join!(
            db.store.attempt_succeed(agent.id, held, &well),
            rival.build_end(build, BuildEnd::Cancelled { reason: "" })
        );
        let cancelled = end.unwrap().len();
        let expected = match is_stale(report) {
            true => {
                "cancelled: cancelled cancelled cancelled | missing missing missing | 0 cancelled"
            }
            false => "cancelled: done cancelled cancelled | held missing missing | 0 succeeded",
        };
        assert_eq!(db.states(build).await, expected);
        assert_eq!(cancelled, usize::from(expected.ends_with("0 cancelled")));
    }
}

#[tokio::test]
async fn an_offer_and_the_end_of_its_build_leave_nothing_that_runs() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&single()).await;
        let (offer, end) = tokio::join!(
            db.try_offer(build, 0, &agent, &[]),
            rival.build_end(build, BuildEnd::Cancelled { reason: "" })
        );
        assert_eq!(
            end.unwrap().len(),
            usize::from(!is_stale(offer)),
            "what was offered is to be cancelled"
        );
        assert_eq!(db.store.attempt_live(None).await.unwrap(), []);
    }
}

#[tokio::test]
async fn the_last_of_two_inputs_that_come_at_once_makes_their_consumer_ready() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&diamond()).await;
        db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
        let one = db.offer(build, 1, &agent, &[own(0)]).await;
        let two = db.offer(build, 2, &agent, &[own(0)]).await;
        let (left, right) = (done(&[held_edge(1)]), done(&[held_edge(2)]));
        let (first, second) = tokio::join!(
            db.store.attempt_succeed(agent.id, one, &left),
            rival.attempt_succeed(agent.id, two, &right)
        );
        let ready = [first.unwrap().ready, second.unwrap().ready].concat();
        assert_eq!(ready, [StageId(3)], "once, and by the last");
    }
}

#[tokio::test]
async fn the_last_two_stages_that_end_at_once_finish_the_build_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db
            .planned(&shape(&[("linux/amd64", &[]), ("linux/amd64", &[])]))
            .await;
        let one = db.offer(build, 0, &agent, &[]).await;
        let two = db.offer(build, 1, &agent, &[]).await;
        let (left, right) = (done(&[target(0)]), done(&[target(1)]));
        let (first, second) = tokio::join!(
            db.store.attempt_succeed(agent.id, one, &left),
            rival.attempt_succeed(agent.id, two, &right)
        );
        let outcomes = [first.unwrap().outcome, second.unwrap().outcome];
        assert_eq!(
            outcomes
                .iter()
                .filter(|outcome| **outcome == Outcome::BuildDone)
                .count(),
            1,
            "{outcomes:?}"
        );
    }
}

#[tokio::test]
async fn an_output_is_exported_once_and_a_stage_fails_or_runs() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&chain()).await;
        db.run(build, 0, &agent, &[], &[held_edge(0)]).await;
        let (one, two) = (exported("sha256:one"), exported("sha256:two"));
        let won = race!(
            db.store.output_export(build, EdgeId(0), agent.id, &one),
            rival.output_export(build, EdgeId(0), agent.id, &two)
        );
        let digest = db.view(build).await.outputs[0].digest.clone().unwrap();
        assert_eq!(digest, if won { "sha256:one" } else { "sha256:two" });
        let bindings = [own(0)];
        race!(
            db.store.stage_fail(key(build, 1)),
            db.try_offer(build, 1, &agent, &bindings)
        );
        db.store
            .build_end(build, BuildEnd::Failed { error: "" })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_publication_ends_once_and_an_agent_leaves_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for _ in 0..ROUNDS {
        let agent = db.agent("amd64-1", "linux/amd64").await;
        let build = db.planned(&single()).await;
        db.run(build, 0, &agent, &[], &[target(0)]).await;
        db.store.build_publish(build).await.unwrap();
        let intent = [NewPublication {
            repository: "app".to_owned(),
            tag: Some("1".to_owned()),
            digest: "sha256:index".to_owned(),
            previous: None,
        }];
        db.store.publication_intend(build, &intent).await.unwrap();
        race!(
            db.store.publication_done(build, "app", Some("1")),
            rival.publication_leave(build, "app", Some("1"), "refused")
        );
        race!(
            db.store.agent_away(agent.id, agent.epoch),
            rival.agent_away(agent.id, agent.epoch)
        );
    }
}

#[tokio::test]
async fn an_image_is_lost_once_and_an_attempt_gives_way_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = db.planned(&chain()).await;
        let zero = "sha256:zero";
        db.run(build, 0, &agent, &[], &[exported_edge(0, zero)])
            .await;
        // Only the image is left of it.
        db.store.output_lose_held(build, agent.id).await.unwrap();
        race!(
            db.store.output_lose_image(build, EdgeId(0), zero),
            rival.output_lose_image(build, EdgeId(0), zero)
        );
        assert_eq!(
            db.states(build).await,
            "running: ready waiting waiting | missing missing missing | 0 succeeded"
        );
        let producer = db.offer(build, 0, &agent, &[]).await;
        let ahead = db.offer(build, 1, &agent, &[own(0)]).await;
        race!(
            db.store.attempt_yield(agent.id, ahead, "it gives way"),
            rival.attempt_yield(agent.id, ahead, "it gives way")
        );
        let late = db
            .store
            .attempt_yield(agent.id, producer, "it has no inputs");
        assert!(is_stale(late.await));
        let end = BuildEnd::Cancelled { reason: "" };
        db.store.build_end(build, end).await.unwrap();
    }
}

#[tokio::test]
async fn of_two_connections_of_one_agent_that_come_at_once_one_counts() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for _ in 0..ROUNDS {
        let hello = hello("amd64-1", "linux/amd64");
        let (first, second) = tokio::join!(
            db.store.agent_hello(AgentId(id()), &hello),
            rival.agent_hello(AgentId(id()), &hello)
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.id, second.id);
        let (older, newer) = match first.epoch < second.epoch {
            true => (first, second),
            false => (second, first),
        };
        assert!(is_stale(db.store.agent_away(older.id, older.epoch).await));
        db.store.agent_away(newer.id, newer.epoch).await.unwrap();
    }
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
