//! Wakes: those who wait for work hear of it when the transaction that made it commits.

use croft_scheduler::BuildId;
use sqlx::postgres::PgListener;

use super::{Store, StoreError};

/// The channel of LISTEN and NOTIFY.
pub const WAKE_CHANNEL: &str = "croft_wake";

/// What there may be something new of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wake {
    /// Stages became ready, slots became free, or agents came, went or changed: place again.
    Placement,
    /// Something of this build changed.
    Build(BuildId),
    /// The connection broke and is there again, or somebody of another version said something: anything may have changed.
    Everything,
}

impl Wake {
    pub(super) fn payload(self) -> String {
        match self {
            Wake::Placement => "placement".to_owned(),
            Wake::Build(build) => format!("build {build}"),
            Wake::Everything => "everything".to_owned(),
        }
    }

    fn from_payload(text: &str) -> Wake {
        match text.split_once(' ') {
            None if text == "placement" => Wake::Placement,
            Some(("build", id)) => id.parse().map_or(Wake::Everything, Wake::Build),
            _ => Wake::Everything,
        }
    }
}

/// Wakes as they come.
pub struct Wakes {
    listener: PgListener,
}

impl Wakes {
    /// The next one. After a break of the connection the first is [`Wake::Everything`]; an error means that it could not be restored
    /// yet: poll, and call again.
    pub async fn next(&mut self) -> Result<Wake, StoreError> {
        Ok(match self.listener.try_recv().await? {
            Some(notification) => Wake::from_payload(notification.payload()),
            None => Wake::Everything,
        })
    }
}

impl Store {
    /// Listens from now on, on a connection of its own.
    pub async fn listen(&self) -> Result<Wakes, StoreError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(WAKE_CHANNEL).await?;
        Ok(Wakes { listener })
    }
}

/// Says on commit of the connection's transaction that there is something new of each of these.
pub(super) async fn wake(
    connection: &mut sqlx::PgConnection,
    wakes: &[Wake],
) -> Result<(), StoreError> {
    let payloads: Vec<String> = wakes.iter().map(|wake| wake.payload()).collect();
    sqlx::query!(
        "SELECT pg_notify($1, payload) FROM UNNEST($2::text[]) AS payload",
        WAKE_CHANNEL,
        &payloads
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_reads_what_it_writes() {
        let build = BuildId(uuid::Uuid::from_u128(7));
        for wake in [Wake::Placement, Wake::Build(build), Wake::Everything] {
            assert_eq!(Wake::from_payload(&wake.payload()), wake);
        }
    }

    #[test]
    fn what_nobody_here_understands_wakes_everybody() {
        for text in ["", "build", "build x", "placement soon"] {
            assert_eq!(Wake::from_payload(text), Wake::Everything);
        }
    }
}
