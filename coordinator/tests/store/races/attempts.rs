//! Attempts: who gets a stage, and how it ends.

use croft_scheduler::{FailureKind, LeaseTerms};

use super::{ROUNDS, over};
use crate::support::*;

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
        over(&db, build).await;
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
            over(&db, build).await;
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
        over(&db, build).await;
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
        over(&db, build).await;
    }
}

#[tokio::test]
async fn an_attempt_is_either_adopted_with_a_whole_lease_or_lost() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let (terms, budget) = (LeaseTerms::default(), at_once());
    for _ in 0..ROUNDS {
        let build = db.planned(&single()).await;
        db.offer(build, 0, &agent, &[]).await;
        db.leases_end().await;
        let lost = db.store.attempt_expired(1).await.unwrap().remove(0);
        let (adopted, lost) = tokio::join!(
            db.store.attempt_adopt(&terms),
            rival.attempt_lose(&lost, &budget)
        );
        assert_eq!(adopted.unwrap(), u64::from(is_stale(lost)));
        assert_eq!(db.store.attempt_expired(1).await.unwrap(), []);
        over(&db, build).await;
    }
}

#[tokio::test]
async fn what_an_attempt_delivers_at_its_end_stands_or_is_made_anew() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let budget = at_once();
    for _ in 0..ROUNDS {
        let build = db.planned(&chain()).await;
        let held = db.offer(build, 0, &agent, &[]).await;
        let [one, two] = ["sha256:one", "sha256:two"].map(|digest| [exported_edge(0, digest)]);
        // An answer that was lost is sent again.
        let both = meet!(
            db.store.attempt_output(agent.id, held, &one),
            rival.attempt_output(agent.id, held, &two)
        );
        assert_eq!(both, (true, true));
        let view = db.view(build).await;
        let digest = view.outputs[0].digest.as_deref();
        assert!([Some("sha256:one"), Some("sha256:two")].contains(&digest));
        let lines = "running: running ready waiting | exported missing missing | 0 offered";
        assert_eq!(db.states(build).await, lines);
        over(&db, build).await;

        let build = db.planned(&chain()).await;
        let held = db.offer(build, 0, &agent, &[]).await;
        db.leases_end().await;
        let lost = db.store.attempt_expired(1).await.unwrap().remove(0);
        let (_, lost) = meet!(
            db.store.attempt_output(agent.id, held, &one),
            rival.attempt_lose(&lost, &budget)
        );
        assert!(lost, "a result is no sign of life");
        let lines = "running: ready waiting waiting | missing missing missing | 0 lost";
        assert_eq!(db.states(build).await, lines);
        over(&db, build).await;
    }
}
