//! Getting to the database: configuration, a schema that is up to date, and the pool. Who may use it when is in `lease`; what becomes of
//! calls while it is away is in `patience`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgPool};
use tokio_util::sync::CancellationToken;

use super::error::is_away;
use super::{Store, Tenure, Term};

/// The oldest PostgreSQL that the statements here were tried on.
const OLDEST: u32 = 15;

/// The statements are few, prepared once, and served by indexes whatever their values: planning each anew takes longer than carrying it out.
const SETTINGS: [(&str, &str); 2] = [("plan_cache_mode", "force_generic_plan"), ("jit", "off")];

/// A connection that lay idle for longer is tried before it is used.
const FRESH: Duration = Duration::from_secs(1);

/// How long the first connection may take.
const FIRST: Duration = Duration::from_secs(5);

/// How long one wait for a connection of the pool may take; also, times a fifth, between two tries to reach a database that is away.
const TURN: Duration = Duration::from_secs(5);

/// How long calls wait for a database that is away where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the database is.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// As `postgres://user:password@host:port/database`.
    pub url: String,
    /// Connections to hold at most.
    pub connections: u32,
    /// How long calls wait for a database that is away.
    pub patience: Duration,
}

impl DatabaseConfig {
    /// A configuration from its parts.
    pub fn new(url: impl Into<String>, connections: u32) -> DatabaseConfig {
        DatabaseConfig {
            url: url.into(),
            connections,
            patience: PATIENCE,
        }
    }
}

impl fmt::Debug for DatabaseConfig {
    /// Without the URL: it may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// The database can't be used. One line each, with what to do; none of them repeats the URL.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL can't be read.
    #[error("--database-url is not a PostgreSQL URL: write it as postgres://user@host/database")]
    BadUrl,
    /// Nobody answers there.
    #[error("no PostgreSQL answers at {place}: start it, or correct --database-url ({reason})")]
    Away {
        /// Host and port, or socket.
        place: String,
        /// What the connection failed with.
        reason: String,
    },
    /// It answers and refuses.
    #[error(
        "PostgreSQL at {place} refuses the connection: correct --database-url, or what the server allows ({reason})"
    )]
    Refused {
        /// Host and port, or socket.
        place: String,
        /// As it says.
        reason: String,
    },
    /// It lacks what the statements need.
    #[error("PostgreSQL at {place} is version {found}: croft needs 15 or newer")]
    TooOld {
        /// Host and port, or socket.
        place: String,
        /// As it names itself.
        found: String,
    },
    /// A newer coordinator has changed the schema in a way that this one doesn't know.
    #[error(
        "the database has a newer schema (migration {version}) than this coordinator knows: update the coordinator"
    )]
    TooNew {
        /// The migration's number.
        version: i64,
    },
    /// The schema can't be brought up to date.
    #[error("the database's schema can't be updated: {0}")]
    Migration(String),
}

/// A PostgreSQL that has answered, with a schema that is up to date.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
    connections: u32,
    patience: Duration,
}

impl Database {
    /// Connects once, and brings the schema up to date. Of several coordinators that start at once one migrates and the others wait.
    pub async fn reach(config: &DatabaseConfig) -> Result<Database, ConnectError> {
        // The parser would take any scheme for its own.
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| config.url.starts_with(scheme))
        {
            return Err(ConnectError::BadUrl);
        }
        let options = PgConnectOptions::from_str(&config.url).map_err(|_| ConnectError::BadUrl)?;
        let options = options
            .application_name("croft-coordinator")
            .options(SETTINGS);
        let place = place(&options);
        let refused = |error: sqlx::Error| {
            let reason = match error {
                sqlx::Error::PoolTimedOut => format!("no answer within {} s", FIRST.as_secs()),
                ref error => one_line(error),
            };
            let place = place.clone();
            if is_away(&error) {
                ConnectError::Away { place, reason }
            } else {
                ConnectError::Refused { place, reason }
            }
        };
        // One connection by itself first: a pool would only say that it waited in vain.
        let first = tokio::time::timeout(FIRST, options.connect()).await;
        let mut first = first
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
            .map_err(refused)?;
        // A question to the server, not to the schema: there is nothing for the compiler to check.
        let found: String = sqlx::query_scalar("SHOW server_version")
            .fetch_one(&mut first)
            .await
            .map_err(refused)?;
        let major = found
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse::<u32>().ok());
        if major.is_none_or(|major| major < OLDEST) {
            return Err(ConnectError::TooOld { place, found });
        }
        sqlx::migrate!("../migrations")
            .run(&mut first)
            .await
            .map_err(|error| match error {
                MigrateError::VersionMissing(version) => ConnectError::TooNew { version },
                MigrateError::Execute(error) => refused(error),
                other => ConnectError::Migration(one_line(&other)),
            })?;
        first.close().await.map_err(refused)?;
        Ok(Database {
            options,
            connections: config.connections,
            patience: config.patience,
        })
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// What connections of a term are made with.
    pub(super) fn named(&self, term: Term) -> PgConnectOptions {
        let name = format!("croft-coordinator term {}", term.0);
        self.options.clone().application_name(&name)
    }

    /// The store of the coordinator that holds the lease. `deposed` is cancelled when a connection finds that another one has taken over.
    pub fn store(&self, tenure: &Tenure, deposed: CancellationToken) -> Store {
        let Term(term) = tenure.term();
        // The lease has a connection of its own.
        let pool = pool(self.connections.saturating_sub(1)).after_connect(move |connection, _| {
            let deposed = deposed.clone();
            Box::pin(async move {
                let ours = sqlx::query_scalar!(
                    r#"SELECT term = $1 AS "ours!" FROM coordinator_lease"#,
                    term
                );
                if ours.fetch_one(&mut *connection).await? {
                    return Ok(());
                }
                deposed.cancel();
                Err(sqlx::Error::Protocol(
                    "another coordinator has taken over".to_owned(),
                ))
            })
        });
        let pool = pool.connect_lazy_with(self.named(tenure.term()));
        Store::new(pool, self.patience)
    }
}

fn pool(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections.max(2))
        .acquire_timeout(TURN)
        .test_before_acquire(false)
        .before_acquire(|connection, use_| {
            Box::pin(async move {
                // What was used just now is taken to be well: to ask each time would be one question more for every answer.
                if use_.idle_for > FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

impl Store {
    /// A store without a lease: for whoever is alone on the database, as tests are.
    pub async fn connect(config: &DatabaseConfig) -> Result<Store, ConnectError> {
        let database = Database::reach(config).await?;
        let pool: PgPool = pool(config.connections).connect_lazy_with(database.options);
        Ok(Store::new(pool, config.patience))
    }

    /// Whether the database answers now.
    pub async fn ping(&self) -> Result<(), super::StoreError> {
        self.connection().await?.ping().await?;
        Ok(())
    }

    /// Ends the connections, once what is under way is done. From then on every call is refused.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    // What the server says is for people; where in its source it said so is not.
    if let Some(said) = error
        .downcast_ref::<sqlx::Error>()
        .and_then(sqlx::Error::as_database_error)
    {
        return said.message().to_owned();
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
