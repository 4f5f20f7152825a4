//! The shapes of builds that must work, end to end: a real farm, the real buildx, real registries.

#[path = "../support/mod.rs"]
mod support;

mod shared_builder;
