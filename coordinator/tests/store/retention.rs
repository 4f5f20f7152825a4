//! What goes by age and by space, and what never goes: all that a build needs that lives.

use std::time::Duration;

use croft_coordinator::store::{BuildEnd, ImageBlob, Push, StageImages};
use croft_planner::EdgeId;
use croft_scheduler::{BuildId, Project};
use serde_json::json;

use crate::support::*;

const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

fn project() -> Project {
    new_build().project
}

/// A build of two stages that ended, with a log and an event.
async fn ended(db: &Db, image: &str) -> BuildId {
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let build = db.planned(&chain()).await;
    let made = [exported_edge(0, image)];
    db.run(build, 0, &agent, &[], &made).await;
    db.store.log_append(build, &[7; 1000]).await.unwrap();
    let said = json!({"why": "a test"});
    let event = db.store.event_append(Some(build), "tested", &said);
    event.await.unwrap();
    let end = BuildEnd::Failed {
        error: "it went wrong",
    };
    db.store.build_end(build, end).await.unwrap();
    build
}

async fn ages(db: &Db, build: BuildId, days: i32) {
    sqlx::query(
        "UPDATE builds SET created_at = created_at - make_interval(days => $2),
                           finished_at = finished_at - make_interval(days => $2) WHERE id = $1",
    )
    .bind(build.0)
    .bind(days)
    .execute(&db.sql)
    .await
    .unwrap();
}

/// How many rows of all tables belong to a build.
async fn rows(db: &Db, build: BuildId) -> i64 {
    let count = "SELECT (SELECT count(*) FROM builds WHERE id = $1) + (SELECT count(*) FROM stages WHERE build = $1)
                      + (SELECT count(*) FROM outputs WHERE build = $1) + (SELECT count(*) FROM attempts WHERE build = $1)
                      + (SELECT count(*) FROM logs WHERE build = $1) + (SELECT count(*) FROM events WHERE build = $1)
                      + (SELECT count(*) FROM publications WHERE build = $1)";
    let count = sqlx::query_scalar(count).bind(build.0);
    count.fetch_one(&db.sql).await.unwrap()
}

#[tokio::test]
async fn builds_that_ended_long_ago_go_with_all_that_belongs_to_them_and_no_others() {
    let db = Db::new().await;
    let (old, new) = (
        ended(&db, "sha256:old").await,
        ended(&db, "sha256:new").await,
    );
    ages(&db, old, 31).await;
    // It was begun before that, and lives.
    let live = db.planned(&chain()).await;
    ages(&db, live, 90).await;
    assert_eq!(db.store.build_expire(MONTH, 10).await.unwrap(), 1);
    assert_eq!(db.store.build_expire(MONTH, 10).await.unwrap(), 0);
    assert_eq!(rows(&db, old).await, 0);
    assert!(rows(&db, new).await > 5 && rows(&db, live).await > 5);
    // What agents hold of it is remembered for placement all the same.
    let hints: i64 = sqlx::query_scalar("SELECT count(*) FROM agent_cache")
        .fetch_one(&db.sql)
        .await
        .unwrap();
    assert!(hints > 0);
}

#[tokio::test]
async fn of_too_many_builds_those_go_that_ended_first_and_none_that_lives() {
    let db = Db::new().await;
    let live = db.planned(&chain()).await;
    let mut all = Vec::new();
    for days in [3, 2, 1, 0] {
        let build = ended(&db, "sha256:zero").await;
        ages(&db, build, days).await;
        all.push(build);
    }
    // One batch after the other.
    assert_eq!(db.store.build_expire_beyond(1, 2).await.unwrap(), 2);
    assert_eq!((rows(&db, all[0]).await, rows(&db, all[1]).await), (0, 0));
    assert_eq!(db.store.build_expire_beyond(1, 2).await.unwrap(), 1);
    assert_eq!(db.store.build_expire_beyond(1, 2).await.unwrap(), 0);
    assert!(rows(&db, all[3]).await > 0 && rows(&db, live).await > 0);
    assert_eq!(db.store.build_expire_beyond(0, 2).await.unwrap(), 1);
    assert!(rows(&db, live).await > 0);
}

#[tokio::test]
async fn logs_go_before_their_builds_by_age_and_by_space_and_those_of_live_builds_stay() {
    let db = Db::new().await;
    let live = db.planned(&chain()).await;
    db.store.log_append(live, &[7; 5000]).await.unwrap();
    let mut all = Vec::new();
    for days in [9, 3, 2] {
        let build = ended(&db, "sha256:zero").await;
        ages(&db, build, days).await;
        all.push(build);
    }
    let logs = async |build| db.store.log_read(build, 0, 10).await.unwrap().len();
    assert_eq!(db.store.log_expire(7 * DAY, 10).await.unwrap(), 1);
    assert_eq!(logs(all[0]).await, 0);
    assert!(db.store.build_get(all[0]).await.unwrap().is_some());
    // 5000 bytes of the one that lives, and 1000 of the newest.
    assert_eq!(db.store.log_shrink(6000).await.unwrap(), 1);
    assert_eq!((logs(all[1]).await, logs(all[2]).await), (0, 1));
    assert_eq!(db.store.log_shrink(1).await.unwrap(), 1);
    assert_eq!((logs(all[2]).await, logs(live).await), (0, 1));
}

#[tokio::test]
async fn what_ended_builds_were_planned_from_is_forgotten_and_that_of_live_ones_is_not() {
    let db = Db::new().await;
    let (old, new) = (
        ended(&db, "sha256:zero").await,
        ended(&db, "sha256:zero").await,
    );
    let live = db.planned(&chain()).await;
    ages(&db, old, 1).await;
    assert_eq!(db.store.build_forget_plans(10).await.unwrap(), 1);
    let source = async |build| db.store.build_plan_source(build).await.unwrap();
    assert_eq!(source(old).await, None);
    assert!(source(new).await.is_some() && source(live).await.is_some());
}

#[tokio::test]
async fn hints_that_nothing_renews_and_old_events_of_the_farm_go() {
    let db = Db::new().await;
    let build = ended(&db, "sha256:zero").await;
    let none = json!({});
    db.store.event_append(None, "tested", &none).await.unwrap();
    db.execute("UPDATE events SET at = now() - interval '40 days'")
        .await;
    assert_eq!(db.store.event_expire(MONTH, 10).await.unwrap(), 1);
    assert_eq!(db.store.event_list(build, 0, 10).await.unwrap().len(), 1);
    assert_eq!(db.store.cache_expire(MONTH, 10).await.unwrap(), 0);
    db.execute(
        "UPDATE agent_cache SET last_used = now() - interval '40 days' WHERE kind = 'project'",
    )
    .await;
    assert_eq!(db.store.cache_expire(MONTH, 10).await.unwrap(), 1);
}

fn blobs(all: &[(&str, u64)]) -> Vec<ImageBlob> {
    let blob = |(digest, bytes): &(&str, u64)| ImageBlob {
        digest: (*digest).to_owned(),
        bytes: *bytes,
    };
    all.iter().map(blob).collect()
}

/// All images that may go, in their order.
async fn unused(db: &Db, keep: Duration) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    while let Some(image) = db
        .store
        .image_unused(&project(), keep, after.as_deref())
        .await
        .unwrap()
    {
        after = Some(image.digest.clone());
        all.push(image.digest);
    }
    all
}

#[tokio::test]
async fn an_image_goes_when_nothing_has_used_it_for_long_and_never_while_a_build_names_it_that_lives()
 {
    let db = Db::new().await;
    let tell = async |digest: &str, push| {
        let project = project();
        let put = db.store.image_put(&project, digest, &[], push);
        put.await.unwrap();
    };
    let put = async |digest: &str| tell(digest, Push::Fresh).await;
    for digest in [
        "sha256:live",
        "sha256:ended",
        "sha256:nobodys",
        "sha256:again",
    ] {
        put(digest).await;
    }
    let agent = db.agent("amd64-1", "linux/amd64").await;
    let live = db.planned(&chain()).await;
    let made = [exported_edge(0, "sha256:live")];
    db.run(live, 0, &agent, &[], &made).await;
    let over = ended(&db, "sha256:ended").await;
    assert_eq!(unused(&db, DAY).await, [""; 0], "all were used just now");
    db.execute("UPDATE stage_images SET last_used = now() - interval '8 days'")
        .await;
    // Its engine has pushed it once more.
    put("sha256:again").await;
    // An agent says once more what it had pushed long ago, and of another what nobody had heard of.
    tell("sha256:nobodys", Push::Late).await;
    tell("sha256:late", Push::Late).await;
    assert_eq!(unused(&db, 7 * DAY).await, ["sha256:nobodys"]);
    ages(&db, over, 2).await;
    assert_eq!(unused(&db, 7 * DAY).await, ["sha256:nobodys"]);
    assert_eq!(unused(&db, DAY).await, ["sha256:ended", "sha256:nobodys"]);
    // It outlives the rows of its build, and is not forgotten.
    ages(&db, over, 30).await;
    assert_eq!(db.store.build_expire(MONTH, 10).await.unwrap(), 1);
    assert_eq!(
        unused(&db, 7 * DAY).await,
        ["sha256:ended", "sha256:nobodys"]
    );
    let users = db.store.image_users(&project(), "sha256:live").await;
    assert_eq!(users.unwrap(), [(live, EdgeId(0))]);
    let other = Project("other".to_owned());
    let none = db.store.image_unused(&other, DAY, None).await.unwrap();
    assert_eq!(none, None, "another project's images are not ours");
}

#[tokio::test]
async fn what_images_share_is_counted_once_and_freed_with_the_last_of_them() {
    let db = Db::new().await;
    let project = project();
    let one = blobs(&[("sha256:base", 1000), ("sha256:one", 10)]);
    let two = blobs(&[
        ("sha256:base", 1000),
        ("sha256:two", 20),
        ("sha256:two", 20),
    ]);
    db.store
        .image_put(&project, "sha256:1", &one, Push::Fresh)
        .await
        .unwrap();
    db.store
        .image_put(&project, "sha256:2", &[], Push::Fresh)
        .await
        .unwrap();
    let next = db
        .store
        .image_unused(&project, Duration::ZERO, Some("sha256:1"));
    assert!(!next.await.unwrap().expect("the second").described);
    db.store
        .image_describe(&project, "sha256:2", &two)
        .await
        .unwrap();
    let nobodys = db.store.image_describe(&project, "sha256:3", &two);
    nobodys.await.unwrap();
    let total = async || db.store.image_total(&project).await.unwrap();
    assert_eq!(
        total().await,
        StageImages {
            images: 2,
            bytes: 1030
        }
    );
    // Whoever forgets it first says what became free.
    let rival = connect(&db.url).await;
    let (first, second) = tokio::join!(
        db.store.image_forget(&project, "sha256:1"),
        rival.image_forget(&project, "sha256:1")
    );
    let freed: Vec<u64> = [first, second].into_iter().flatten().collect();
    assert_eq!(freed, [10]);
    assert_eq!(
        db.store.image_forget(&project, "sha256:2").await.unwrap(),
        1020
    );
    assert_eq!(total().await, StageImages::default());
    assert!(is_stale(db.store.image_forget(&project, "sha256:2").await));
}
