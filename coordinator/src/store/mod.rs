//! All SQL. PostgreSQL is the only truth of a farm: what is not here has not happened.
//!
//! | table | what, and why |
//! |---|---|
//! | `builds` | one row for each request: its state, its end and its reason, and the bytes from which its plan can be made again |
//! | `stages` | the parts of a plan, with what placement needs to know of them, so that a coordinator that starts places without planning |
//! | `outputs` | what stages make (cut edges and targets) and where it is: readiness follows from this table alone |
//! | `attempts` | who tries a stage, under which lease and fencing token, and how it ended; never deleted before its build |
//! | `agents` | who there is and whether they are connected; an agent keeps its row when it leaves |
//! | `agent_cache` | hints for placement: losing them costs time, never correctness |
//! | `logs`, `events` | what builds said and what happened to them, for people who come later |
//! | `publications` | the tags that are to move, written before the first moves |
//! | `stage_images`, `stage_image_blobs` | what the stage registry holds of ours, also when no build names it any more |
//! | `coordinator_lease` | which coordinator decides; see `lease` |
//!
//! Rules:
//! - Each transition is a statement that names the state it expects, and for attempts the token. Zero rows changed is
//!   [`StoreError::Stale`]: the caller's snapshot was old, or the report late. `croft_scheduler::lifecycle` has the tables.
//! - What changes several rows of one build does so under a lock of the build's row: each such transition sees what the ones before it did,
//!   so that the last of two inputs that come at once makes its consumer ready.
//! - Rows of one table are locked in the order of their ids where several are, or not waited for: no two transactions wait for each other.
//! - Several rows travel as arrays: the number of statements for a stage doesn't grow with the stage.
//! - What makes work for placement wakes it when it has committed ([`Wakes`]). A wake can be missed, as when a commit's answer is lost: those
//!   who wait look from time to time as well.
//! - Times are the database's: no two clocks are compared.
//! - No secrets: neither credentials nor session contents have a column.

mod agents;
mod attempts;
mod builds;
mod connect;
mod convert;
mod due;
mod error;
mod events;
mod fleet;
mod invalidate;
mod lease;
mod logs;
mod outputs;
mod patience;
mod publications;
mod reports;
mod retention;
mod roster;
mod stages;
mod standing;
mod views;
mod wake;

pub use agents::{AgentLink, AgentRow, Disk, Epoch, Heartbeat, Hello, Memory, SilentAgent};
pub use attempts::{AttemptRow, Binding, Held, LiveAttempt, NewAttempt, Offered};
pub use builds::{BuildEnd, BuildFilter, BuildRow, Found, NewBuild};
pub use connect::{ConnectError, Database, DatabaseConfig};
pub use due::Due;
pub use error::StoreError;
pub use events::EventRow;
pub use invalidate::{Holding, Invalidated};
pub use lease::{Addresses, Candidate, Contact, Holder, LeaseError, Tenure};
pub use logs::LogChunk;
pub use outputs::{Exported, OutputDone, OutputRow, OutputState};
pub use publications::{NewPublication, PublicationRow, PublicationState};
pub use reports::{AttemptDone, AttemptEnd, AttemptFailure, Outcome};
pub use retention::{ImageBlob, Push, StageImage, StageImages};
pub use roster::{Cache, Work};
pub use stages::{Hold, PlanRows, StageRow, Wants};
pub use standing::Standing;
pub use views::{BuildView, Place, Snapshot};
pub use wake::Wakes;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::PgPool;

/// The way to the database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// How long calls wait for a database that is away.
    patience: Duration,
    /// Since when it is known to be away.
    away: Arc<Mutex<Option<Instant>>>,
    hellos: Arc<agents::Hellos>,
    wakes: Arc<Wakes>,
}

/// Which holding of the coordinator's lease it is: grows each time that it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub i64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Store {
    fn new(pool: PgPool, patience: Duration) -> Store {
        Store {
            pool,
            patience,
            away: Arc::default(),
            hellos: Arc::default(),
            wakes: Arc::default(),
        }
    }
}
