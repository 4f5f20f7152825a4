//! What users meet when things are not smooth: errors, registries that want a password, Ctrl-C, agents that are away, parts that are
//! missing, and peers that send nonsense. Real farm, real buildx; what one engine alone does is the measure wherever there is one.

#[path = "../support/mod.rs"]
mod support;

mod away;
mod cancel;
mod credentials;
mod errors;
mod eyes;
mod plain;
mod platforms;
mod programs;
mod secrets;
mod stage_registry;
mod start;
mod tags;
mod tls;
mod wire;

use support::builds;
