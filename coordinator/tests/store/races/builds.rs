//! Builds, and the tags that they publish.

use croft_coordinator::store::{AgentLink, BuildEnd, NewPublication, Outcome, PublicationState};
use croft_scheduler::BuildId;
use serde_json::json;

use super::{ROUNDS, over};
use crate::support::*;

/// A tag that is to be moved from there.
fn intent(tag: &str, previous: &str) -> NewPublication {
    NewPublication {
        repository: "app".to_owned(),
        tag: Some(tag.to_owned()),
        digest: "sha256:index".to_owned(),
        previous: Some(previous.to_owned()),
    }
}

/// A build whose stages are done.
async fn publishing(db: &Db, agent: &AgentLink) -> BuildId {
    let build = db.planned(&single()).await;
    db.run(build, 0, agent, &[], &[target(0)]).await;
    db.store.build_publish(build).await.unwrap();
    build
}

#[tokio::test]
async fn a_build_that_is_inserted_twice_is_there_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for _ in 0..ROUNDS {
        let new = new_build();
        let both = meet!(db.store.build_insert(&new), rival.build_insert(&new));
        assert_eq!(both, (true, true), "an answer may have been lost");
        assert_eq!(db.states(new.id).await, "planning");
    }
}

#[tokio::test]
async fn what_is_to_be_published_is_written_down_once_and_as_a_whole() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for round in 0..ROUNDS {
        let build = publishing(&db, &agent).await;
        let [mine, yours] = ["sha256:mine", "sha256:yours"]
            .map(|before| [intent("1", before), intent("2", before)]);
        if round % 2 == 0 {
            let both = meet!(
                db.store.publication_intend(build, &mine),
                rival.publication_intend(build, &yours)
            );
            assert_eq!(both, (true, true), "the second finds what the first wrote");
            let rows = db.store.publication_list(build).await.unwrap();
            let previous: Vec<_> = rows.iter().map(|row| &row.publication.previous).collect();
            assert_eq!(previous.len(), 2);
            assert_eq!(previous[0], previous[1], "of one look at the registry");
        } else {
            let end = BuildEnd::Failed { error: "refused" };
            let (intended, ended) = meet!(
                db.store.publication_intend(build, &mine),
                rival.build_end(build, end)
            );
            assert!(ended);
            let rows = db.store.publication_list(build).await.unwrap();
            assert_eq!(rows.len(), if intended { 2 } else { 0 });
            assert!(rows.iter().all(|row| row.state == PublicationState::Left));
            let late = db.store.publication_intend(build, &yours).await;
            assert!(is_stale(late), "its build is over");
        }
    }
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
async fn a_publication_ends_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = publishing(&db, &agent).await;
        let intent = [intent("1", "sha256:before")];
        db.store.publication_intend(build, &intent).await.unwrap();
        let won = race!(
            db.store.publication_done(build, "app", Some("1")),
            rival.publication_leave(build, "app", Some("1"), "refused")
        );
        let row = db.store.publication_list(build).await.unwrap().remove(0);
        let expected = match won {
            true => (PublicationState::Published, None),
            false => (PublicationState::Left, Some("refused".to_owned())),
        };
        assert_eq!((row.state, row.error), expected);
        over(&db, build).await;
    }
}

#[tokio::test]
async fn a_tag_that_moves_while_its_build_ends_is_known_to_have_moved_or_not_to_be_known() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..ROUNDS {
        let build = publishing(&db, &agent).await;
        let intent = [intent("1", "sha256:before"), intent("2", "sha256:before")];
        db.store.publication_intend(build, &intent).await.unwrap();
        let end = BuildEnd::Cancelled { reason: "enough" };
        let (moved, ended) = meet!(
            db.store.publication_done(build, "app", Some("1")),
            rival.build_end(build, end)
        );
        assert!(ended);
        let rows = db.store.publication_list(build).await.unwrap();
        let states: Vec<_> = rows.iter().map(|row| row.state).collect();
        let first = match moved {
            true => PublicationState::Published,
            false => PublicationState::Left,
        };
        assert_eq!(states, [first, PublicationState::Left]);
        let why = rows[1].error.clone().unwrap_or_default();
        assert!(why.contains("cancelled"), "{why}");
    }
}
