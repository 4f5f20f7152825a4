//! What clients serve to a build through their sessions, and the other client than buildx: everything that can stand for a context, sessions
//! that several builds share, clients that go away or dawdle, and BuildKit's own `buildctl`. Real farm, real clients, real engines; what
//! one engine alone does is the measure wherever there is one.
//!
//! Secrets, ssh agents and what `ADD` fetches are with the instructions that use them, in the tests called `shapes`.

#[path = "../support/mod.rs"]
mod support;

mod bake;
mod bounds;
mod buildctl;
mod cache;
mod contexts;
mod definitions;
mod frontends;
mod questions;
mod stdin;
