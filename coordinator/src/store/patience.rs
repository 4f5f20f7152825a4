//! What becomes of calls while the database is away: they wait for it, and what it broke off is done again.
//!
//! A call that got no connection, or whose connection broke before its transaction was to be committed, has changed nothing and is
//! repeated. If the answer to a commit is lost nobody knows; the call is repeated all the same: each transition names the state that it
//! expects, so that it can't happen twice, and the repetition of one that did happen is `Stale`. Calls whose callers rely on having made the
//! change themselves look then whether it stands ([`Store::again_unless`]); what follows from reports is looked up from time to time
//! (`control::standing`).

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Postgres, Transaction};

use super::{Contact, Store, StoreError};

/// Between two tries, doubled from the first to the last.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(1);

/// Tries until the database is back, for so long.
struct Tries {
    until: Instant,
    pause: Duration,
}

impl Tries {
    fn of(store: &Store) -> Tries {
        Tries {
            until: Instant::now() + store.patience,
            pause: FIRST,
        }
    }

    /// Waits before the next try; the error if there is none.
    async fn again(&mut self, error: StoreError) -> Result<(), StoreError> {
        let away = matches!(error, StoreError::Away(_));
        if !away || Instant::now() + self.pause > self.until {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LAST);
        Ok(())
    }
}

impl Store {
    /// The same for calls that wait no longer than this, for the database or for a connection of the pool. While the database is known to be
    /// away they are not made at all.
    pub fn hurried(&self, patience: Duration) -> Result<Store, StoreError> {
        if self.away_for().is_some() {
            return Err(StoreError::Away(sqlx::Error::PoolTimedOut));
        }
        Ok(Store {
            patience: patience.min(self.patience),
            ..self.clone()
        })
    }

    /// How long calls wait for a database that is away.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Takes note of whether the database answers, and says so once.
    pub fn contact(&self, contact: Contact) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match (contact, *away) {
            (Contact::Away, None) => {
                tracing::warn!("the database is away: nothing is decided until it is back");
                *away = Some(Instant::now());
            }
            (Contact::There, Some(since)) => {
                tracing::info!(seconds = since.elapsed().as_secs(), "the database is back");
                *away = None;
                self.wakes.missed.notify_one();
            }
            (Contact::Away, Some(_)) | (Contact::There, None) => {}
        }
    }

    /// How long the database is known to be away; `None` if it answers.
    pub fn away_for(&self) -> Option<Duration> {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.map(|since| since.elapsed())
    }

    /// Whether this coordinator has stopped: nothing is changed any more.
    pub fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// A connection. That all are in use is no error, and neither is a database that comes back in time.
    pub(super) async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        let mut tries = Tries::of(self);
        loop {
            let acquired = tokio::time::timeout(self.patience, self.pool.acquire()).await;
            match acquired.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(connection) => return Ok(connection),
                Err(error) => tries.again(error.into()).await?,
            }
        }
    }

    /// A transaction that has begun.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.begin_with("BEGIN").await
    }

    /// A transaction that has begun with this statement.
    ///
    /// It is begun by a task of its own. A caller that goes away while it is being begun would leave it open, as sqlx doesn't know yet that
    /// there is something to roll back: whoever got the connection next would change things in it that nobody commits.
    pub(super) async fn begin_with(
        &self,
        statement: &'static str,
    ) -> Result<Transaction<'static, Postgres>, StoreError> {
        let mut tries = Tries::of(self);
        loop {
            let pool = self.pool.clone();
            let begin = tokio::spawn(async move { pool.begin_with(statement).await });
            let begun = match tokio::time::timeout(self.patience, begin).await {
                Ok(Ok(begun)) => begun,
                Ok(Err(_)) | Err(_) => Err(sqlx::Error::PoolTimedOut),
            };
            match begun {
                Ok(transaction) => return Ok(transaction),
                // Nothing was said on it yet.
                Err(error) => tries.again(error.into()).await?,
            }
        }
    }

    /// Does `call` again as long as the database breaks it off.
    pub(super) async fn again<T, Call>(&self, call: impl Fn() -> Call) -> Result<T, StoreError>
    where
        Call: Future<Output = Result<T, StoreError>>,
    {
        let mut tries = Tries::of(self);
        loop {
            match call().await {
                Err(error) => tries.again(error).await?,
                done => return done,
            }
        }
    }

    /// The same for a change whose caller must know that it was made: if the repetition is stale, `stands` says what was made of it by the try
    /// whose answer was lost, if anything.
    pub(super) async fn again_unless<T, Call, Stands>(
        &self,
        call: impl Fn() -> Call,
        stands: impl Fn() -> Stands,
    ) -> Result<T, StoreError>
    where
        Call: Future<Output = Result<T, StoreError>>,
        Stands: Future<Output = Result<Option<T>, StoreError>>,
    {
        let mut tries = Tries::of(self);
        let mut broken = false;
        loop {
            match call().await {
                Err(stale) if stale.is_stale() && broken => {
                    return self.again(stands).await?.ok_or(stale);
                }
                Err(error) => {
                    tries.again(error).await?;
                    broken = true;
                }
                done => return done,
            }
        }
    }
}
