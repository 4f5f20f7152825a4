//! Lifecycles, placement, leases and retries, as pure functions over snapshots.
//!
//! The coordinator loads a snapshot, decides here, and commits what was decided; the statement that commits checks again, because by
//! then the snapshot may be old. Time is an argument, and there is no randomness and no I/O: the same input gives the same answer, so
//! that a whole farm can be simulated in a test. What a stage *is* comes from `croft_planner`; what is stored, sent and logged is the
//! coordinator's business.

pub mod fleet;
pub mod forecast;
pub mod ids;
pub mod lease;
pub mod lifecycle;
pub mod place;
pub mod retry;
pub mod servable;
pub mod time;

pub use fleet::{AgentView, FleetView, StageKey};
pub use ids::{AgentId, AttemptId, BuildId, ConnectionId, Project, Token};
pub use lease::LeaseTerms;
pub use lifecycle::{
    AttemptEvent, AttemptState, BuildEvent, BuildState, FailureKind, IllegalTransition, StageEvent,
    StageState,
};
pub use place::{Decision, Policy, ReadyStage, Reason, Refusal, place};
pub use retry::{FarmBudget, Retry, retry};
pub use servable::{Unservable, all_servable, build_platform, servable};
pub use time::Timestamp;
