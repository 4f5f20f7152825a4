//! The store allows exactly what `croft_scheduler::lifecycle` allows: each event is tried in each state.

use croft_coordinator::store::{BuildEnd, Held, StoreError};
use croft_planner::EdgeId;
use croft_scheduler::{
    AttemptEvent, AttemptId, AttemptState, BuildEvent, BuildId, BuildState, FailureKind,
    FarmBudget, StageEvent, StageState, Token,
};
use serde_json::json;

use crate::support::*;

/// Whatever came of it, it was no fault of the database's.
fn harmless<T>(result: Result<T, StoreError>) {
    if let Err(error) = result {
        assert!(error.is_stale(), "{error}");
    }
}

#[tokio::test]
async fn a_build_goes_where_its_lifecycle_says() {
    let db = Db::new().await;
    for &state in BuildState::ALL {
        for &event in BuildEvent::ALL {
            let build = db.build().await;
            sqlx::query(
                "UPDATE builds SET state = $2, finished_at = CASE WHEN $3 THEN now() END,
                                   error = CASE WHEN $2 IN ('failed', 'cancelled') THEN 'before' END WHERE id = $1",
            )
            .bind(build.0)
            .bind(state.as_str())
            .bind(state.is_final())
            .execute(&db.sql)
            .await
            .unwrap();
            match event {
                BuildEvent::Planned => harmless(db.store.build_plan(build, &single().rows()).await),
                BuildEvent::Built => harmless(db.store.build_publish(build).await),
                BuildEvent::Published => {
                    let end = BuildEnd::Succeeded {
                        response: &json!({}),
                        digest: None,
                    };
                    harmless(db.store.build_end(build, end).await);
                }
                BuildEvent::Failed => harmless(
                    db.store
                        .build_end(build, BuildEnd::Failed { error: "" })
                        .await,
                ),
                BuildEvent::Cancelled => harmless(
                    db.store
                        .build_end(build, BuildEnd::Cancelled { reason: "" })
                        .await,
                ),
            }
            let after = db.store.build_get(build).await.unwrap().unwrap().state;
            assert_eq!(
                after,
                state.apply(event).unwrap_or(state),
                "{state} {event}"
            );
        }
    }
}

/// A chain whose first stage is done and whose second is in this state, with an attempt that lives.
async fn second_stage_in(
    db: &Db,
    agent: &croft_coordinator::store::AgentLink,
    state: StageState,
) -> (BuildId, Held) {
    let build = db.planned(&chain()).await;
    db.run(build, 0, agent, &[], &[exported_edge(0, "sha256:zero")])
        .await;
    let held = db.offer(build, 1, agent, &[image(0, "sha256:zero")]).await;
    sqlx::query("UPDATE stages SET state = $2 WHERE build = $1 AND number = 1")
        .bind(build.0)
        .bind(state.as_str())
        .execute(&db.sql)
        .await
        .unwrap();
    (build, held)
}

/// The attempt's agent holds this edge's result, as the attempt's.
async fn holds(db: &Db, held: Held, edge: i32) {
    sqlx::query(
        "UPDATE outputs SET state = 'held', agent = (SELECT agent FROM attempts WHERE id = $1), attempt = $1
         WHERE build = (SELECT build FROM attempts WHERE id = $1) AND kind = 'edge' AND number = $2",
    )
    .bind(held.attempt.0)
    .bind(edge)
    .execute(&db.sql)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_stage_goes_where_its_lifecycle_says() {
    let db = Db::new().await;
    for &state in StageState::ALL {
        for &event in StageEvent::ALL {
            let agent = db.agent("amd64-1", "linux/amd64").await;
            let (build, held) = second_stage_in(&db, &agent, state).await;
            match event {
                // Any news of edges, of this one too that isn't there, has the build's stages looked at.
                StageEvent::InputsThere => harmless(
                    db.store
                        .attempt_output(agent.id, held, &[held_edge(9)])
                        .await,
                ),
                StageEvent::Placed => {
                    db.execute("UPDATE attempts SET state = 'cancelled', finished_at = now() WHERE state = 'offered'").await;
                    harmless(
                        db.try_offer(build, 1, &agent, &[image(0, "sha256:zero")])
                            .await,
                    );
                }
                StageEvent::PlacedAhead => {
                    // The first is at it once more, on the same agent.
                    db.execute("UPDATE outputs SET state = 'missing', agent = NULL, attempt = NULL, digest = NULL, bytes = NULL, response = NULL").await;
                    db.execute("UPDATE attempts SET state = 'cancelled', finished_at = now() WHERE state = 'offered'").await;
                    db.execute("UPDATE attempts SET state = 'running', finished_at = NULL WHERE state = 'succeeded'").await;
                    harmless(db.try_offer(build, 1, &agent, &[own(0)]).await);
                }
                StageEvent::Succeeded => {
                    harmless(
                        db.store
                            .attempt_succeed(agent.id, held, &done(&[held_edge(1)]))
                            .await,
                    );
                }
                StageEvent::FarmFailed => {
                    let failure = failure(FailureKind::Farm);
                    harmless(
                        db.store
                            .attempt_fail(agent.id, held, &failure, &at_once())
                            .await,
                    );
                }
                StageEvent::Failed => {
                    harmless(db.store.stage_fail(key(build, 1)).await);
                    let failure = failure(FailureKind::Build);
                    harmless(
                        db.store
                            .attempt_fail(agent.id, held, &failure, &at_once())
                            .await,
                    );
                    holds(&db, held, 1).await;
                    let once = FarmBudget {
                        failures: 1,
                        ..at_once()
                    };
                    let refuted = db
                        .store
                        .output_refute(build, EdgeId(1), agent.id, "", &once);
                    harmless(refuted.await);
                }
                StageEvent::Cancelled => harmless(
                    db.store
                        .build_end(build, BuildEnd::Cancelled { reason: "" })
                        .await,
                ),
                StageEvent::Invalidated => {
                    // Its own result is needed and lost, or the one that it takes is; either way that has to be made anew too.
                    if state == StageState::Done {
                        db.execute(
                            "UPDATE outputs SET state = 'held', agent = (SELECT id FROM agents),
                                                digest = NULL, bytes = NULL, response = NULL WHERE kind = 'edge'",
                        )
                        .await;
                        harmless(db.store.output_lose_held(build, agent.id).await);
                    } else {
                        db.execute("UPDATE outputs SET agent = NULL").await;
                        harmless(
                            db.store
                                .output_lose_image(build, EdgeId(0), "sha256:zero")
                                .await,
                        );
                    }
                }
            }
            let after = db.view(build).await.stages[1].state;
            assert_eq!(
                after,
                state.apply(event).unwrap_or(state),
                "{state} {event}"
            );
            // The next case finds the agent idle.
            db.execute(
                "UPDATE attempts SET state = 'cancelled', finished_at = now(), failure = NULL",
            )
            .await;
        }
    }
}

#[tokio::test]
async fn an_attempt_goes_where_its_lifecycle_says() {
    let db = Db::new().await;
    for &state in AttemptState::ALL {
        for &event in AttemptEvent::ALL {
            let agent = db.agent("amd64-1", "linux/amd64").await;
            let build = db.planned(&chain()).await;
            let held = db.offer(build, 0, &agent, &[]).await;
            sqlx::query(
                "UPDATE attempts SET state = $2, finished_at = CASE WHEN $3 THEN now() END,
                                     failure = CASE WHEN $2 = 'failed' THEN 'farm' END WHERE id = $1",
            )
            .bind(held.attempt.0)
            .bind(state.as_str())
            .bind(state.is_final())
            .execute(&db.sql)
            .await
            .unwrap();
            match event {
                AttemptEvent::Accepted => harmless(db.store.attempt_accept(agent.id, held).await),
                AttemptEvent::Succeeded => {
                    harmless(
                        db.store
                            .attempt_succeed(agent.id, held, &done(&[held_edge(0)]))
                            .await,
                    );
                }
                AttemptEvent::Failed(kind) => {
                    harmless(
                        db.store
                            .attempt_fail(agent.id, held, &failure(kind), &at_once())
                            .await,
                    );
                }
                AttemptEvent::Cancelled => harmless(
                    db.store
                        .build_end(build, BuildEnd::Cancelled { reason: "" })
                        .await,
                ),
                AttemptEvent::LeaseEnded => {
                    db.leases_end().await;
                    let lost = croft_coordinator::store::LiveAttempt {
                        held,
                        key: key(build, 0),
                        agent: agent.id,
                    };
                    harmless(db.store.attempt_lose(&lost, &at_once()).await);
                }
                AttemptEvent::Refuted => {
                    holds(&db, held, 0).await;
                    let (edge, budget) = (EdgeId(0), at_once());
                    let refuted = db.store.output_refute(build, edge, agent.id, "", &budget);
                    harmless(refuted.await);
                }
            }
            let row = db.view(build).await.attempts.remove(0);
            assert_eq!(
                row.state,
                state.apply(event).unwrap_or(state),
                "{state} {event:?}"
            );
            if let (AttemptEvent::Failed(kind), Ok(_)) = (event, state.apply(event)) {
                assert_eq!(row.failure, Some(kind));
            }
            db.execute(
                "UPDATE attempts SET state = 'cancelled', finished_at = now(), failure = NULL",
            )
            .await;
        }
    }
}

#[tokio::test]
async fn a_stale_token_a_stranger_and_an_unknown_attempt_change_nothing() {
    let db = Db::new().await;
    let (agent, stranger) = (
        db.agent("amd64-1", "linux/amd64").await,
        db.agent("amd64-2", "linux/amd64").await,
    );
    let build = db.planned(&single()).await;
    let held = db.offer(build, 0, &agent, &[]).await;
    db.leases_end().await;
    let before = db.dump().await;
    let unknown = Held {
        attempt: AttemptId(id()),
        token: held.token,
    };
    let absurd = Held {
        token: Token(u64::MAX),
        ..held
    };
    let wrong = [
        (agent.id, forged(held)),
        (stranger.id, held),
        (agent.id, unknown),
        (agent.id, absurd),
    ];
    for (who, held) in wrong {
        assert!(is_stale(db.store.attempt_accept(who, held).await));
        assert!(is_stale(
            db.store.attempt_output(who, held, &[target(0)]).await
        ));
        assert!(is_stale(
            db.store
                .attempt_succeed(who, held, &done(&[target(0)]))
                .await
        ));
        for kind in [FailureKind::Build, FailureKind::Farm] {
            assert!(is_stale(
                db.store
                    .attempt_fail(who, held, &failure(kind), &at_once())
                    .await
            ));
        }
        let lost = croft_coordinator::store::LiveAttempt {
            held,
            key: key(build, 0),
            agent: who,
        };
        assert!(is_stale(db.store.attempt_lose(&lost, &at_once()).await));
        assert_eq!(
            db.store
                .attempt_renew(who, &[held], &Default::default())
                .await
                .unwrap(),
            []
        );
    }
    assert_eq!(db.dump().await, before);
}

#[tokio::test]
async fn tokens_grow_across_builds_and_attempts() {
    let db = Db::new().await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let mut last = Token(0);
    for _ in 0..3 {
        let build = db.planned(&single()).await;
        for _ in 0..2 {
            let held = db.offer(build, 0, &agent, &[]).await;
            assert!(held.token > last);
            last = held.token;
            db.store
                .attempt_fail(agent.id, held, &failure(FailureKind::Farm), &at_once())
                .await
                .unwrap();
        }
    }
}
