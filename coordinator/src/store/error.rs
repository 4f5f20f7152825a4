//! What can go wrong between the farm and its database.

/// A call to the store that changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The statement found no row in the state that it names: the snapshot that led to it was old, or the report came late. Not a fault;
    /// whoever gets it looks again.
    #[error("{what} is not in the state that this change expects")]
    Stale {
        /// "the attempt", "the stage", …
        what: &'static str,
    },
    /// The database can't be reached now. Nothing was decided; what was acknowledged stands.
    #[error("the database is away")]
    Away(#[source] sqlx::Error),
    /// This coordinator has stopped deciding: it was told to, or another has taken over. Nothing is changed from here on.
    #[error("this coordinator has stopped")]
    Closed,
    /// A row holds what this version can't read.
    #[error("{what} in the database can't be read: {detail}")]
    Unreadable {
        /// Table and column.
        what: &'static str,
        /// What was found there, or how reading it failed.
        detail: String,
    },
    /// The database refused: a mistake of ours, or of its administrator.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether this coordinator has stopped, and nothing more is to be said of it.
    pub fn is_closed(&self) -> bool {
        matches!(self, StoreError::Closed)
    }

    /// Whether nothing is wrong but the caller's knowledge.
    pub fn is_stale(&self) -> bool {
        matches!(self, StoreError::Stale { .. })
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolClosed => StoreError::Closed,
            error if is_away(&error) => StoreError::Away(error),
            error => StoreError::Refused(error),
        }
    }
}

/// Whether the connection failed, and not what was said over it.
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        // Connection exceptions, an administrator's stop, a crash, and a server that is starting.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08") || ["57P01", "57P02", "57P03"].contains(&&*code)
        }),
        _ => false,
    }
}

/// What the server says, if it refused for want of a right.
pub(super) fn is_forbidden(error: &sqlx::Error) -> Option<String> {
    let said = error.as_database_error()?;
    (said.code()? == "42501").then(|| said.message().to_owned())
}

/// `Stale` unless the statement changed something.
pub(super) fn changed(rows: u64, what: &'static str) -> Result<(), StoreError> {
    if rows == 0 {
        Err(StoreError::Stale { what })
    } else {
        Ok(())
    }
}
