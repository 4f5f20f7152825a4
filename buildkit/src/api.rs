//! BuildKit's generated types, clients and server traits, under short names.
//!
//! They come from `bollard-buildkit-proto`; nothing is added here.

use bollard_buildkit_proto as gen_;

/// LLB: definitions, ops, platforms.
pub use gen_::pb;

/// The Control service and its messages.
pub mod control {
    pub use super::gen_::moby::buildkit::v1::*;
}
/// The LLBBridge service (the gateway) and its messages.
pub mod frontend {
    pub use super::gen_::moby::buildkit::v1::frontend::*;
}
/// Capability lists as Ping answers them.
pub mod apicaps {
    pub use super::gen_::moby::buildkit::v1::apicaps::*;
}
/// Source policies.
pub mod sourcepolicy {
    pub use super::gen_::moby::buildkit::v1::sourcepolicy::*;
}
/// Worker records and versions.
pub mod types {
    pub use super::gen_::moby::buildkit::v1::types::*;
}
/// A session's Auth, FileSync and FileSend services.
pub mod filesync {
    pub use super::gen_::moby::filesync::v1::*;
}
/// Files as fsutil's protocol, which FileSync and FileSend speak, describes them.
pub mod fsutil {
    pub use super::gen_::fsutil::types::Stat;
}
/// A session's Secrets service.
pub mod secrets {
    pub use super::gen_::moby::buildkit::secrets::v1::*;
}
/// The standard gRPC health service.
pub mod health {
    pub use super::gen_::health::*;
}
/// `google.rpc.Status`, the wire form of a typed error.
pub mod rpc {
    pub use super::gen_::google::rpc::Status;
}
/// Protobuf's well-known types as the generated code uses them.
pub mod wkt {
    pub use super::gen_::google::protobuf::{Any, Timestamp};
}
