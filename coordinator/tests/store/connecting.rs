//! What somebody hears whose database is not as it should be: one line, what is wrong and what to do, and never the password.

use croft_coordinator::store::{DatabaseConfig, Store};
use croft_local::Postgres;

use crate::support::{Db, connect};

async fn refusal(url: &str) -> String {
    let error = Store::connect(&DatabaseConfig::new(url, 2))
        .await
        .expect_err("it connected");
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("hunter2"), "{text}");
    text
}

#[tokio::test]
async fn a_url_that_is_none_is_said() {
    assert_eq!(
        refusal("hunter2").await,
        "--database-url is not a PostgreSQL URL: write it as postgres://user@host/database"
    );
}

#[tokio::test]
async fn a_database_that_is_away_is_said_with_its_address() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let text = refusal(&format!("postgres://croft:hunter2@127.0.0.1:{port}/croft")).await;
    let begin =
        format!("no PostgreSQL answers at 127.0.0.1:{port}: start it, or correct --database-url (");
    assert!(text.starts_with(&begin), "{text}");
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_database_are_said_as_postgresql_does() {
    let postgres = Postgres::shared().unwrap();
    let address = postgres.address();
    let text = refusal(&format!("postgres://croft:hunter2@{address}/postgres")).await;
    assert!(
        text.starts_with(&format!("PostgreSQL at {address} refuses the connection: ")),
        "{text}"
    );
    let text = refusal(&postgres.url("nowhere")).await;
    assert!(text.contains("\"nowhere\" does not exist"), "{text}");
}

#[tokio::test]
async fn a_schema_of_a_newer_coordinator_is_left_alone() {
    let db = Db::new().await;
    db.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99991231235959, 'from the future', true, '', 0)",
    )
    .await;
    assert_eq!(
        refusal(&db.url).await,
        "the database has a newer schema (migration 99991231235959) than this coordinator knows: update the coordinator"
    );
}

#[tokio::test]
async fn several_coordinators_that_start_at_once_migrate_once() {
    let url = Postgres::shared().unwrap().create_database().unwrap();
    let stores = tokio::join!(connect(&url), connect(&url), connect(&url));
    stores.0.ping().await.unwrap();
    stores.1.ping().await.unwrap();
    stores.2.ping().await.unwrap();
}
