//! The protocol `croft.v1`: between coordinator and agents (`Fleet`) and between coordinator and clients (`Farm`).
//!
//! Generated from `proto/croft/v1/*.proto`, which are the specification; no logic lives here.

#![allow(missing_docs, clippy::all)]

/// Version 1 of the protocol.
pub mod v1 {
    tonic::include_proto!("croft.v1");
}

/// What `Hello.protocol` says for the version in this crate, as `major.minor`. The minor number grows with what peers of the one before can do
/// without, the major one with what they can't.
pub const PROTOCOL: &str = "1.2";

/// The largest message on a link, each way, in bytes: BuildKit's own limit.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Header of a tunnelled session call: the build's id.
pub const TUNNEL_BUILD: &str = "croft-build";
/// Header of a tunnelled session call: the session's id.
pub const TUNNEL_SESSION: &str = "croft-session";
/// Among the capabilities of an agent's engine: the agent hands out what several stages have made (`Output.delivery`).
pub const DELIVERS: &str = "croft.delivers";
/// Among them: of folders that it hands out, the engine can have all else deleted (`mode=delete` of the exporter `local`).
pub const DELETES: &str = "exporter.local.delete";
/// Header of a tunnelled session call: the agent's id.
pub const TUNNEL_AGENT: &str = "croft-agent";
