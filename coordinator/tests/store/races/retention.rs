//! What goes because it is old: each row once, whoever deletes it, and nothing that is taken up again at that moment.

use std::time::Duration;

use croft_coordinator::store::{BuildEnd, Found, ImageBlob, Push};
use croft_scheduler::Project;
use serde_json::json;

use super::ROUNDS;
use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);
const MANY: u32 = 100;

fn blobs(names: &[&str]) -> Vec<ImageBlob> {
    let blob = |name: &&str| ImageBlob {
        digest: format!("sha256:{name}"),
        bytes: 10,
    };
    names.iter().map(blob).collect()
}

/// So many builds that ended long ago, each with a log, and as old hints and events of the farm.
async fn old(db: &Db, builds: usize) {
    let agent = db.agent("amd64-1", "linux/amd64").await;
    for _ in 0..builds {
        let build = db.planned(&single()).await;
        db.run(build, 0, &agent, &[], &[target(0)]).await;
        db.store.log_append(build, b"said").await.unwrap();
        let said = json!({});
        let event = db.store.event_append(None, "tested", &said);
        event.await.unwrap();
        let end = BuildEnd::Failed { error: "" };
        db.store.build_end(build, end).await.unwrap();
    }
    for age in [
        "UPDATE builds SET finished_at = finished_at - interval '1 day'",
        "UPDATE events SET at = at - interval '1 day'",
        "UPDATE agent_cache SET last_used = last_used - interval '1 day'",
    ] {
        db.execute(age).await;
    }
}

async fn count(db: &Db, what: &'static str) -> u64 {
    let count: i64 = sqlx::query_scalar(what).fetch_one(&db.sql).await.unwrap();
    count.try_into().unwrap()
}

/// How much both deleted at once: the rows that these words count, and none of them twice.
macro_rules! once {
    ($db:expr, $rows:literal, $first:expr, $second:expr) => {{
        let before = count($db, $rows).await;
        let (first, second) = tokio::join!($first, $second);
        let deleted = first.unwrap() + second.unwrap();
        assert!(before > 0);
        assert_eq!((deleted, count($db, $rows).await), (before, 0), $rows);
    }};
}

#[tokio::test]
async fn what_two_delete_at_once_each_row_is_counted_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for round in 0..ROUNDS {
        old(&db, 3).await;
        once!(
            &db,
            "SELECT count(*) FROM builds WHERE plan IS NOT NULL",
            db.store.build_forget_plans(MANY),
            rival.build_forget_plans(MANY)
        );
        once!(
            &db,
            "SELECT count(*) FROM events WHERE build IS NULL",
            db.store.event_expire(HOUR, MANY),
            rival.event_expire(HOUR, MANY)
        );
        once!(
            &db,
            "SELECT count(*) FROM agent_cache",
            db.store.cache_expire(HOUR, MANY),
            rival.cache_expire(HOUR, MANY)
        );
        once!(
            &db,
            "SELECT count(*) FROM logs",
            db.store.log_expire(HOUR, MANY),
            async {
                match round % 2 {
                    0 => rival.log_expire(HOUR, MANY).await,
                    _ => rival.log_shrink(0).await,
                }
            }
        );
        once!(
            &db,
            "SELECT count(*) FROM builds",
            db.store.build_expire(HOUR, MANY),
            rival.build_expire_beyond(0, MANY)
        );
    }
}

#[tokio::test]
async fn a_build_is_removed_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    for round in 0..ROUNDS {
        old(&db, 1).await;
        let build = db.store.build_find("latest").await.unwrap();
        let Found::One(build) = build else {
            panic!("{build:?}")
        };
        if round % 2 == 0 {
            race!(db.store.build_remove(build), rival.build_remove(build));
        } else {
            let (removed, expired) =
                tokio::join!(db.store.build_remove(build), rival.build_expire(HOUR, MANY));
            assert_eq!(expired.unwrap(), u64::from(is_stale(removed)));
        }
        assert_eq!(count(&db, "SELECT count(*) FROM builds").await, 0);
    }
}

#[tokio::test]
async fn an_image_is_forgotten_once() {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let project = Project("p".to_owned());
    let parts = blobs(&["a", "b"]);
    for _ in 0..ROUNDS {
        let put = db
            .store
            .image_put(&project, "sha256:image", &parts, Push::Fresh);
        put.await.unwrap();
        race!(
            db.store.image_forget(&project, "sha256:image"),
            rival.image_forget(&project, "sha256:image")
        );
        assert_eq!(db.store.image_total(&project).await.unwrap().bytes, 0);
    }
}

#[tokio::test]
async fn an_image_that_is_pushed_or_described_while_it_is_forgotten_is_known_as_a_whole_or_not_at_all()
 {
    let db = Db::new().await;
    let rival = connect(&db.url).await;
    let project = Project("p".to_owned());
    let parts = blobs(&["a", "b"]);
    for round in 0..ROUNDS {
        let put = db
            .store
            .image_put(&project, "sha256:image", &[], Push::Fresh);
        put.await.unwrap();
        let forget = db.store.image_forget(&project, "sha256:image");
        let both = match round % 2 {
            0 => meet!(
                forget,
                rival.image_put(&project, "sha256:image", &parts, Push::Fresh)
            ),
            _ => meet!(
                forget,
                rival.image_describe(&project, "sha256:image", &parts)
            ),
        };
        assert_eq!(both, (true, true));
        let total = db.store.image_total(&project).await.unwrap();
        assert!(
            [(0, 0), (1, 20)].contains(&(total.images, total.bytes)),
            "{total:?}"
        );
        let both = meet!(
            db.store
                .image_put(&project, "sha256:image", &parts, Push::Fresh),
            rival.image_put(&project, "sha256:image", &parts, Push::Fresh)
        );
        assert_eq!(both, (true, true));
        let total = db.store.image_total(&project).await.unwrap();
        assert_eq!((total.images, total.bytes), (1, 20));
        db.store
            .image_forget(&project, "sha256:image")
            .await
            .unwrap();
    }
}
