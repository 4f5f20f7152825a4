//! Splits a build into stages. Definitions in, [`Plan`] out: no I/O, no clock, no randomness, so the same input gives the same plan.
//!
//! [`plan`] merges the definitions that a frontend returned for each platform into one graph and splits it where the work should move
//! to other agents. [`Plan::bind`] then writes the definition of one result of a stage, the results of other stages put in as whatever
//! is at hand. Where a stage runs, and when, is the scheduler's.
//!
//! The definitions come from outside: whatever is in them leads to a plan or a [`PlanError`], within [`Limits`], and never to a panic.

mod advice;
mod bind;
mod chain;
mod deliver;
mod error;
mod graph;
mod groups;
mod home;
mod id;
mod identity;
mod levels;
mod locals;
mod marks;
mod meets;
mod naming;
mod narrow;
mod op;
mod plan;
mod platform;
mod refuse;
mod sources;
mod stages;
mod summary;
mod together;
mod users;
mod wire;
mod written;

pub use advice::{Advice, AdviceKind, AdvisedStep, Lines};
pub use bind::{Binding, Bound};
pub use error::{BindError, PlanError};
pub use home::{Home, Homes};
pub use id::{CacheIdentity, EdgeDigest, EdgeId, OpDigest, OpId, StageDigest, StageId, TargetId};
pub use op::{Op, OpKind};
pub use plan::{
    CutEdge, Limits, LocalSource, NarrowPath, Narrowing, Output, Plan, PlanInput, PlanOptions,
    PlannedTarget, Requirements, Stage, StageKind, Target, plan,
};
pub use platform::{Platform, PlatformError};
pub use refuse::{RefusedSource, is_on, refused_sources};
pub use summary::{EdgeSummary, PlanSummary, StageSummary, TargetSummary};
