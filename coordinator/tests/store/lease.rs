//! The coordinator's lease: one holds it, whoever takes it fences the one before off, and nobody waits longer than needed.

use std::time::{Duration, Instant};

use croft_coordinator::store::{
    Addresses, Candidate, Contact, Database, DatabaseConfig, Holder, LeaseError, Store, StoreError,
    Tenure,
};
use futures::FutureExt as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// No test waits for it.
const LONG: Duration = Duration::from_secs(300);

async fn database(db: &Db) -> Database {
    let config = DatabaseConfig::new(&db.url, 4);
    Database::reach(&config).await.unwrap()
}

fn addresses(name: &str) -> Addresses {
    Addresses {
        clients: format!("{name}:8372"),
        agents: format!("{name}:8373"),
    }
}

async fn candidate(db: &Db, name: &str, lease: Duration) -> Candidate {
    Candidate::new(&database(db).await, addresses(name), lease)
}

async fn taken(db: &Db, name: &str, lease: Duration) -> Tenure {
    let mut candidate = candidate(db, name, lease).await;
    candidate.look().await.unwrap().expect("it is free")
}

/// A connection as the store of this term has them.
async fn connection_of(url: &str, term: i64) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    let name = format!("croft-coordinator term {term}");
    options.application_name(&name).connect().await.unwrap()
}

async fn fenced(db: &Db, tenure: &Tenure) -> (Store, CancellationToken) {
    let deposed = CancellationToken::new();
    let store = database(db).await.store(tenure, deposed.clone());
    (store, deposed)
}

#[tokio::test]
async fn of_two_that_want_a_free_lease_one_has_it_and_the_other_hears_who() {
    let db = Db::new().await;
    let (mut one, mut other) = (
        candidate(&db, "one", LONG).await,
        candidate(&db, "other", LONG).await,
    );
    let (one, other) = tokio::join!(one.look(), other.look());
    let held = match (one.unwrap(), other.unwrap()) {
        (Ok(tenure), Err(holder)) => (tenure, holder, "one"),
        (Err(holder), Ok(tenure)) => (tenure, holder, "other"),
        (Ok(_), Ok(_)) => panic!("both have it"),
        (Err(_), Err(_)) => panic!("nobody has it"),
    };
    let (tenure, holder, winner) = held;
    assert_eq!(tenure.term().0, 1);
    assert_eq!(
        (holder.term, holder.addresses),
        (tenure.term(), addresses(winner))
    );
}

#[tokio::test]
async fn a_lease_that_ran_out_is_either_renewed_or_taken() {
    let db = Db::new().await;
    let mut holder = taken(&db, "holder", LONG).await;
    for _ in 0..8 {
        let mut rival = candidate(&db, "rival", LONG).await;
        db.execute("UPDATE coordinator_lease SET expires_at = now(), client_address = 'holder:8372', agent_address = 'holder:8373'")
            .await;
        // Its connections are no less there than it is.
        let _alive = connection_of(&db.url, holder.term().0).await;
        let renewed = CancellationToken::new();
        let (kept, taken) = tokio::join!(
            renewed.run_until_cancelled(holder.keep(|_| renewed.cancel())),
            rival.look()
        );
        match (kept, taken.unwrap()) {
            (None, Err(seen)) => assert_eq!(seen.term, holder.term()),
            (Some(seen), Ok(tenure)) => {
                assert_eq!(seen.term, tenure.term());
                holder = tenure;
            }
            (None, Ok(tenure)) => panic!("both have it, the rival in term {}", tenure.term()),
            (Some(seen), Err(_)) => panic!("nobody has it but {seen:?}"),
        }
    }
}

#[tokio::test]
async fn a_lease_that_is_given_back_goes_to_whoever_waits_and_is_not_given_back_by_the_one_before()
{
    let db = Db::new().await;
    let mut holder = taken(&db, "first", LONG).await;
    for _ in 0..4 {
        let rival = candidate(&db, "rival", LONG).await;
        let (released, won) = tokio::join!(holder.release(), rival.win(|_| ()));
        released.unwrap();
        let won = won.unwrap();
        assert_eq!(won.term().0, holder.term().0 + 1);
        // Once more, as after an answer that was lost: it is somebody else's by now.
        let (released, kept) =
            tokio::join!(holder.release(), holder.keep(|_| panic!("it renewed")));
        released.unwrap();
        assert_eq!(kept.term, won.term());
        holder = won;
    }
}

#[tokio::test]
async fn a_holder_that_says_nothing_keeps_the_lease_until_it_runs_out() {
    let db = Db::new().await;
    let first = taken(&db, "first", Duration::from_secs(1)).await;
    // It is frozen: its connections are there.
    let _frozen = connection_of(&db.url, first.term().0).await;
    let second = candidate(&db, "second", Duration::from_secs(1)).await;
    let mut told = Vec::new();
    let second = second
        .win(|holder| told.extend(holder.cloned()))
        .await
        .unwrap();
    assert_eq!(second.term().0, 2);
    let holder = Holder {
        term: first.term(),
        addresses: addresses("first"),
    };
    assert!(
        !told.is_empty() && told.iter().all(|one| *one == holder),
        "{told:?}"
    );
}

#[tokio::test]
async fn nobody_waits_for_the_lease_of_a_holder_whose_connections_are_gone() {
    let db = Db::new().await;
    let first = taken(&db, "first", LONG).await;
    let alive = connection_of(&db.url, first.term().0).await;
    // A sixth of its own lease is how long a candidate makes sure.
    let mut second = candidate(&db, "second", Duration::from_millis(1200)).await;
    let holder = second.look().await.unwrap().expect_err("it lives");
    assert_eq!(holder.addresses, addresses("first"));
    alive.close().await.unwrap();
    let tenure = second.win(|_| ()).await.unwrap();
    assert_eq!(tenure.term().0, 2);
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    let db = Db::new().await;
    let first = taken(&db, "first", LONG).await;
    let _alive = connection_of(&db.url, first.term().0).await;
    let mut second = candidate(&db, "second", LONG).await;
    assert!(second.look().await.unwrap().is_err());
    let (looked, mut looks) = tokio::sync::mpsc::unbounded_channel();
    let waiting = tokio::spawn(second.win(move |_| looked.send(()).unwrap()));
    looks.recv().await.unwrap();
    let begun = Instant::now();
    first.release().await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert!(begun.elapsed() < LONG / 24, "it polled");
    assert_eq!(second.term().0, 2);
    // What was given back can't be had again by renewing it.
    let holder = first.keep(|_| panic!("it renewed")).await;
    assert_eq!(holder.addresses, addresses("second"));
}

#[tokio::test]
async fn a_holder_renews_a_lease_that_ran_out_if_nobody_took_it() {
    let db = Db::new().await;
    let tenure = taken(&db, "first", Duration::from_secs(60)).await;
    db.execute("UPDATE coordinator_lease SET expires_at = now() - interval '1 minute'")
        .await;
    let (renewed, mut renewals) = tokio::sync::mpsc::unbounded_channel();
    let keeping = tokio::spawn(async move {
        tenure
            .keep(move |contact| renewed.send(contact).unwrap_or_default())
            .await
    });
    assert_eq!(renewals.recv().await, Some(Contact::There));
    let held: bool = sqlx::query_scalar("SELECT expires_at > now() FROM coordinator_lease")
        .fetch_one(&db.sql)
        .await
        .unwrap();
    assert!(held);
    keeping.abort();
}

#[tokio::test]
async fn nothing_of_an_earlier_term_is_carried_out_once_another_one_reads() {
    let db = Db::new().await;
    let first = taken(&db, "first", LONG).await;
    let (old, deposed) = fenced(&db, &first).await;
    let known = new_build();
    old.build_insert(&known).await.unwrap();
    // What it had begun and not committed.
    let mut open = connection_of(&db.url, first.term().0).await;
    sqlx::raw_sql("BEGIN; INSERT INTO events (kind, data) VALUES ('too late', '{}')")
        .execute(&mut open)
        .await
        .unwrap();

    db.execute("UPDATE coordinator_lease SET expires_at = now()")
        .await;
    let mut second = candidate(&db, "second", Duration::ZERO).await;
    let second = second.look().await.unwrap().expect("it ran out");
    second.evict().await.unwrap();
    assert!(sqlx::query("COMMIT").execute(&mut open).await.is_err());

    let (new, _) = fenced(&db, &second).await;
    assert!(new.build_get(known.id).await.unwrap().is_some());
    let late = new_build();
    let hurried = old.hurried(Duration::from_millis(300)).unwrap();
    let refused = hurried.build_insert(&late).await;
    assert!(matches!(refused, Err(StoreError::Away(_))), "{refused:?}");
    assert!(deposed.is_cancelled(), "it doesn't know");
    assert_eq!(new.build_get(late.id).await.unwrap(), None);
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
        .fetch_one(&db.sql)
        .await
        .unwrap();
    assert_eq!(events, 0);
    // And the one that was frozen all the time learns it when it would renew.
    let holder = first.keep(|_| panic!("it renewed")).await;
    assert_eq!(
        holder,
        Holder {
            term: second.term(),
            addresses: addresses("second")
        }
    );
}

#[tokio::test]
async fn only_earlier_terms_on_the_same_database_are_ended() {
    let (db, other) = (Db::new().await, Db::new().await);
    let tenure = taken(&db, "first", LONG).await;
    db.execute("UPDATE coordinator_lease SET term = 7").await;
    let mut frozen = connection_of(&db.url, 6).await;
    let mut elsewhere = connection_of(&other.url, 6).await;
    let mut later = connection_of(&db.url, 8).await;
    db.execute("UPDATE coordinator_lease SET expires_at = now()")
        .await;
    let mut next = candidate(&db, "next", Duration::ZERO).await;
    let next = next.look().await.unwrap().expect("it ran out");
    assert_eq!((tenure.term().0, next.term().0), (1, 8));
    next.evict().await.unwrap();
    assert!(frozen.ping().await.is_err());
    elsewhere.ping().await.unwrap();
    later.ping().await.unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_end_the_others_connections_is_told_what_to_grant() {
    let db = Db::new().await;
    let role = format!("weak_{}", id().simple());
    let statements = [
        format!("CREATE ROLE {role} LOGIN PASSWORD 'weak'"),
        format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"),
        format!("GRANT CREATE ON SCHEMA public TO {role}"),
    ];
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&db.sql)
            .await
            .unwrap();
    }
    let strong = taken(&db, "strong", LONG).await;
    let _alive = connection_of(&db.url, strong.term().0).await;
    strong.release().await.unwrap();
    let (_, place) = db.url.split_once('@').unwrap();
    let weak = DatabaseConfig::new(format!("postgres://{role}:weak@{place}"), 4);
    let weak = Database::reach(&weak).await.unwrap();
    let mut weak = Candidate::new(&weak, addresses("weak"), LONG);
    let weak = weak.look().await.unwrap().expect("it was given back");
    let refused = weak.evict().await.expect_err("it has no right to");
    assert!(matches!(refused, LeaseError::Forbidden(_)));
    let text = refused.to_string();
    assert!(text.contains("same role") && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn a_call_waits_for_a_connection_however_many_others_do() {
    let db = Db::new().await;
    let store = Store::connect(&DatabaseConfig::new(&db.url, 2))
        .await
        .unwrap();
    let calls = (0..200).map(|_| async { store.build_insert(&new_build()).await });
    for call in futures::future::join_all(calls).await {
        call.unwrap();
    }
    store.close().await;
    let closed = store.ping().now_or_never().expect("at once");
    assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");
}
