//! The coordinator's lease: of all coordinators on one database one is active, and holds it.
//!
//! The row of `coordinator_lease` says who, and since which *term*. A term begins when somebody takes the lease and is never used again.
//! What fences an earlier holder off is not a clause in each statement but the connection: every connection of an active coordinator has
//! its term in its name (`application_name`) and is handed out only if the row still says that term; and who takes the lease ends all
//! connections of earlier terms before it reads anything. So of an earlier holder that was frozen, or cut off, nothing is carried out from
//! then on, and what it had committed before is seen. The database does both, so no clocks are compared.
//!
//! A lease is free when its holder has released it, when it has run out, and when the holder has no connection left for a moment: a
//! process that is killed takes its connections with it, and nobody has to wait for the lease to run out. Who has just connected waits for
//! that moment in any case: after an outage of the database itself the one that was active comes first.

use std::fmt;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgConnection, PgPool};
use uuid::Uuid;

use super::connect::Database;
use super::convert::millis;
use super::error::is_forbidden;
use super::{StoreError, Term};

/// The channel on which a lease that is released is told of.
const CHANNEL: &str = "croft_lease";
/// How long a connection, or an answer on it, may take: the lease goes on meanwhile.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two tries to reach a database that is away: whoever is active is to be back before the others look for it.
const RETRY: Duration = Duration::from_millis(200);
/// How long the end of an earlier term's connections is waited for in one go, in milliseconds.
const EVICTION_MS: i64 = 5_000;

/// Where a coordinator is, as others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Host and port for clients.
    pub clients: String,
    /// Host and port for agents.
    pub agents: String,
}

/// Who holds the lease, or held it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Since when.
    pub term: Term,
    /// Where it is.
    pub addresses: Addresses,
}

/// The lease can't be taken by this coordinator, ever.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The role has no right to end the connections of the one before.
    #[error(
        "PostgreSQL does not let this coordinator end the connections of the one before it ({0}): connect both with the same role, or GRANT pg_signal_backend to this one's"
    )]
    Forbidden(String),
    /// Something else.
    #[error("the coordinator's lease can't be taken: {0}")]
    Store(#[from] StoreError),
}

/// A coordinator that would be active.
pub struct Candidate {
    database: Database,
    pool: PgPool,
    claim: Claim,
    session: Option<Session>,
}

/// For whom the lease is taken, and for how long at a time.
#[derive(Debug, Clone)]
struct Claim {
    holder: Uuid,
    addresses: Addresses,
    duration: Duration,
}

/// A connection of a candidate, and what it has seen since it was made: what was before is forgotten with it.
struct Session {
    listener: PgListener,
    began: Instant,
    /// The holder of this term has no connection, since then.
    deserted: Option<(i64, Instant)>,
}

/// What a candidate saw.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Nobody holds it; the last term was this one.
    Free(i64),
    /// Its holder is gone, or silent for too long.
    Vacant(i64),
    /// It is held.
    Held(Holder),
}

impl Candidate {
    /// A candidate for a lease of this length, that is to be found at these addresses when it is active.
    pub fn new(database: &Database, addresses: Addresses, duration: Duration) -> Candidate {
        let options = database
            .options()
            .clone()
            .application_name("croft-coordinator standing by");
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ANSWER)
            .connect_lazy_with(options);
        Candidate {
            database: database.clone(),
            pool,
            claim: Claim {
                holder: Uuid::new_v4(),
                addresses,
                duration,
            },
            session: None,
        }
    }

    /// Waits until the lease is this candidate's. Whoever holds it meanwhile is told to `held`, each time that it is looked at; `None` while
    /// the database is away.
    pub async fn win(
        mut self,
        mut held: impl FnMut(Option<&Holder>),
    ) -> Result<Tenure, LeaseError> {
        loop {
            match self.look().await {
                Ok(Ok(tenure)) => return Ok(tenure),
                Ok(Err(holder)) => {
                    held(Some(&holder));
                    self.wait().await;
                }
                Err(StoreError::Away(_)) => {
                    self.session = None;
                    held(None);
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks once, and takes the lease if it is free. Otherwise says who has it.
    pub async fn look(&mut self) -> Result<Result<Tenure, Holder>, StoreError> {
        let grace = self.grace();
        let session = self.session().await?;
        let (term, deserted) = match session.see(grace).await? {
            Seen::Held(holder) => return Ok(Err(holder)),
            Seen::Free(term) => (term, false),
            Seen::Vacant(term) => (term, true),
        };
        let claim = self.claim.clone();
        let session = self.session().await?;
        if let Some(term) = claim.take(&mut session.listener, term, deserted).await? {
            return Ok(Ok(Tenure {
                term,
                claim,
                options: self.database.named(term),
            }));
        }
        // Another one was faster.
        match session.see(grace).await? {
            Seen::Held(holder) => Ok(Err(holder)),
            Seen::Free(term) | Seen::Vacant(term) => Ok(Err(Holder {
                term: Term(term),
                addresses: claim.addresses,
            })),
        }
    }

    /// Until there may be something new to see.
    async fn wait(&mut self) {
        let pause = self.claim.duration / 24;
        if let Some(session) = &mut self.session {
            match tokio::time::timeout(pause, session.listener.try_recv()).await {
                Ok(Ok(Some(_))) | Err(_) => return,
                // What it had seen was before it was cut off.
                Ok(Ok(None) | Err(_)) => self.session = None,
            }
        }
        tokio::time::sleep(RETRY).await;
    }

    /// How long a holder must be away, and this candidate be there, before the lease is taken from it.
    fn grace(&self) -> Duration {
        self.claim.duration / 6
    }

    async fn session(&mut self) -> Result<&mut Session, StoreError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                let mut listener = PgListener::connect_with(&self.pool).await?;
                // A connection that it makes anew by itself is a new session.
                listener.eager_reconnect(false);
                listener.listen(CHANNEL).await?;
                Session {
                    listener,
                    began: Instant::now(),
                    deserted: None,
                }
            }
        };
        Ok(self.session.insert(session))
    }
}

impl Session {
    async fn see(&mut self, grace: Duration) -> Result<Seen, StoreError> {
        let row = sqlx::query!(
            r#"SELECT term, holder IS NULL AS "free!", client_address, agent_address, expires_at <= now() AS "expired!",
                      EXISTS (SELECT FROM pg_stat_activity
                              WHERE datname = current_database() AND application_name = 'croft-coordinator term ' || term) AS "there!"
               FROM coordinator_lease"#
        )
        .fetch_optional(&mut self.listener)
        .await?;
        let Some(row) = row else {
            return Ok(Seen::Free(0));
        };
        if row.free {
            return Ok(Seen::Free(row.term));
        }
        self.deserted = match self.deserted {
            _ if row.there => None,
            Some((term, since)) if term == row.term => Some((term, since)),
            _ => Some((row.term, Instant::now())),
        };
        let deserted = self
            .deserted
            .is_some_and(|(_, since)| since.elapsed() >= grace);
        if deserted || (row.expired && self.began.elapsed() >= grace) {
            return Ok(Seen::Vacant(row.term));
        }
        Ok(Seen::Held(Holder {
            term: Term(row.term),
            addresses: Addresses {
                clients: row.client_address,
                agents: row.agent_address,
            },
        }))
    }
}

impl Claim {
    /// Takes the lease from the holder of this term, if it is free or that one is gone; begins the next term.
    async fn take(
        &self,
        listener: &mut PgListener,
        from: i64,
        deserted: bool,
    ) -> Result<Option<Term>, StoreError> {
        let term = sqlx::query_scalar!(
            "INSERT INTO coordinator_lease AS l (term, holder, client_address, agent_address, expires_at)
             VALUES (1, $1, $2, $3, now() + $4::bigint * interval '1 millisecond')
             ON CONFLICT (one_row) DO UPDATE
             SET term = l.term + 1, holder = EXCLUDED.holder, client_address = EXCLUDED.client_address,
                 agent_address = EXCLUDED.agent_address, taken_at = now(), expires_at = EXCLUDED.expires_at
             WHERE l.term = $5
               AND (l.holder IS NULL OR l.expires_at <= now()
                    OR $6 AND NOT EXISTS (SELECT FROM pg_stat_activity
                                          WHERE datname = current_database()
                                            AND application_name = 'croft-coordinator term ' || l.term))
             RETURNING term",
            self.holder,
            self.addresses.clients,
            self.addresses.agents,
            millis(self.duration),
            from,
            deserted,
        )
        .fetch_optional(listener)
        .await?;
        Ok(term.map(Term))
    }
}

/// The lease as its holder has it.
#[derive(Clone)]
pub struct Tenure {
    term: Term,
    claim: Claim,
    options: PgConnectOptions,
}

impl fmt::Debug for Tenure {
    /// Without the connection's options: they may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenure")
            .field("term", &self.term)
            .field("claim", &self.claim)
            .finish_non_exhaustive()
    }
}

/// What is known of the database while the lease is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It answers, and the lease is held.
    There,
    /// It doesn't.
    Away,
}

impl Tenure {
    /// Which term it is.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Ends what is left of earlier terms on this database, and waits until it is over. Before that nothing may be read: an earlier holder
    /// could still change it.
    pub async fn evict(&self) -> Result<(), LeaseError> {
        let mut connection = self.connection().await?;
        loop {
            let ended = sqlx::query_scalar!(
                r#"SELECT pg_terminate_backend(pid, $2) AS "ended!" FROM pg_stat_activity
                   WHERE datname = current_database()
                     AND CASE WHEN application_name ~ '^croft-coordinator term [0-9]{1,18}$'
                              THEN substr(application_name, 24)::bigint < $1 END"#,
                self.term.0,
                EVICTION_MS,
            )
            .fetch_all(&mut connection)
            .await
            .map_err(|error| match is_forbidden(&error) {
                Some(said) => LeaseError::Forbidden(said),
                None => LeaseError::Store(error.into()),
            })?;
            if ended.is_empty() {
                return Ok(());
            }
            tracing::info!(
                connections = ended.len(),
                "ending what is left of an earlier coordinator"
            );
        }
    }

    /// Renews the lease until another one has it, and says who. While the database is away it is tried again and again: the lease stays ours
    /// as long as nobody takes it, even if it has run out.
    pub async fn keep(&self, mut contact: impl FnMut(Contact)) -> Holder {
        let mut connection = None;
        loop {
            match self.renew(&mut connection).await {
                Ok(None) => {
                    contact(Contact::There);
                    tokio::time::sleep(self.claim.duration / 3).await;
                }
                Ok(Some(holder)) => return holder,
                Err(error) => {
                    tracing::debug!(%error, "the lease can't be renewed now");
                    contact(Contact::Away);
                    connection = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Renews it once; says who has it if it isn't ours any more.
    async fn renew(
        &self,
        connection: &mut Option<PgConnection>,
    ) -> Result<Option<Holder>, StoreError> {
        let open = match connection {
            Some(open) => open,
            None => connection.insert(self.connection().await?),
        };
        let (term, holder) = (self.term.0, self.claim.holder);
        let renewal = async {
            let renewed = sqlx::query!(
                "UPDATE coordinator_lease SET expires_at = now() + $3::bigint * interval '1 millisecond'
                 WHERE term = $1 AND holder = $2",
                term,
                holder,
                millis(self.claim.duration),
            )
            .execute(&mut *open)
            .await?
            .rows_affected();
            if renewed > 0 {
                return Ok(None);
            }
            let row =
                sqlx::query!("SELECT term, client_address, agent_address FROM coordinator_lease")
                    .fetch_one(&mut *open)
                    .await?;
            Ok(Some(Holder {
                term: Term(row.term),
                addresses: Addresses {
                    clients: row.client_address,
                    agents: row.agent_address,
                },
            }))
        };
        patiently(renewal).await
    }

    /// Gives the lease back, so that another one can take it at once. Nothing may be under way any more.
    pub async fn release(&self) -> Result<(), StoreError> {
        let mut connection = self.connection().await?;
        let release = async {
            sqlx::query!(
                "WITH released AS (
                     UPDATE coordinator_lease SET holder = NULL, expires_at = now()
                     WHERE term = $1 AND holder = $2 RETURNING term
                 )
                 SELECT pg_notify($3, 'released')::text AS told FROM released",
                self.term.0,
                self.claim.holder,
                CHANNEL,
            )
            .fetch_optional(&mut connection)
            .await?;
            Ok(())
        };
        patiently(release).await
    }

    /// A connection that bears the term, apart from the pool: how busy that is must not cost the lease.
    async fn connection(&self) -> Result<PgConnection, StoreError> {
        patiently(self.options.connect()).await
    }
}

/// With a limit: of a database whose host is gone nothing is heard at all.
async fn patiently<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StoreError::Away(sqlx::Error::PoolTimedOut)),
    }
}
