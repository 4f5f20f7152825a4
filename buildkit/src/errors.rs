//! BuildKit's errors: whose fault one is, the typed details in it, and its form inside other messages.
//!
//! Details are JSON in an `Any` of type `github.com/moby/buildkit/errdefs.Vertex+json` and the like (see BuildKit's
//! `util/grpcerrors`). All pass through unread, save for the vertex digests that a rewritten definition must translate.
//! What to do about an error is decided by the callers.

use std::error::Error as _;

use bytes::Bytes;
use prost::Message;
use serde_json::Value;
use tonic::{Code, Status};

use crate::api::rpc;

/// Whose fault a failed call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The engine died, hangs, lost the job or has no room: another engine, or this one later, may do better.
    Engine,
    /// The client's session is not there, or went away: nothing will work without it.
    Session,
    /// Someone cancelled the build.
    Cancelled,
    /// The build's own: it would fail anywhere.
    Build,
}

/// Reads whose fault `status` is, as it came from a call to an engine.
///
/// Classify before passing a status on: whether the engine said it, or the connection broke, is seen only on the original.
pub fn fault(status: &Status) -> Fault {
    // Made on this side: the connection could not be made, or broke.
    if status.source().is_some() {
        return Fault::Engine;
    }
    let message = status.message();
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    // A command line may say anything at all, and is quoted in this one.
    if says(&["did not complete successfully: exit code"]) {
        return Fault::Build;
    }
    if says(SESSION_TEXTS) {
        return Fault::Session;
    }
    // Inside a vertex the same words are about registries and other servers that the build names.
    if says(ENGINE_TEXTS) || (says(CONNECTION_TEXTS) && failed_vertices(status).is_empty()) {
        return Fault::Engine;
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::DataLoss => Fault::Engine,
        Code::Cancelled => Fault::Cancelled,
        _ if message.ends_with("context canceled") => Fault::Cancelled,
        _ => Fault::Build,
    }
}

/// What engines, and this crate's sessions, say when a client's session is missing or went away.
const SESSION_TEXTS: &[&str] = &[
    "no active session",
    "session healthcheck failed",
    "session not found",
    "the client's session has ended",
];

/// What engines say when they are to blame, wherever it happened.
const ENGINE_TEXTS: &[&str] = &[
    "no such job",
    "no space left on device",
    "input/output error",
    "failed to create lease",
    // Of a result that it holds and has broken: a solve that was given up while the result was written down leaves it so for good.
    "during finalize: ",
    // The same of a snapshot or a lease that its record names.
    " does not exist: not found",
    // Go's words for the mounts of a snapshot that it could not mount for itself.
    ": [{Type:",
];

/// What is said of a connection to an engine that can't be made or broke.
const CONNECTION_TEXTS: &[&str] = &[
    "Service was not ready",
    "transport is closing",
    "error reading from server: EOF",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
];

/// Whether the engine is to blame rather than the build, its client, or whoever cancelled it.
pub fn is_engine_fault(status: &Status) -> bool {
    fault(status) == Fault::Engine
}

/// The status as BuildKit's messages embed it, with all its details.
pub fn to_rpc(status: &Status) -> rpc::Status {
    // Details that are no google.rpc.Status can't be embedded, and no gRPC library but tonic would have let them pass.
    let details = rpc::Status::decode(status.details())
        .map(|s| s.details)
        .unwrap_or_default();
    rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details,
    }
}

/// The status that an embedded one stands for; an OK one, which no error can be, becomes Unknown.
pub fn from_rpc(embedded: rpc::Status) -> Status {
    let code = match Code::from(embedded.code) {
        Code::Ok => Code::Unknown,
        code => code,
    };
    let message = embedded.message.clone();
    if embedded.details.is_empty() {
        return Status::new(code, message);
    }
    // grpc-go refuses details whose code is not that of the status around them.
    let details = rpc::Status {
        code: code.into(),
        ..embedded
    }
    .encode_to_vec();
    Status::with_details(code, message, Bytes::from(details))
}

/// The error as a server says it again: code, message and details, without the headers that it arrived with and without
/// what is known on this side alone.
pub fn said_again(status: &Status) -> Status {
    Status::with_details(
        status.code(),
        status.message(),
        Bytes::copy_from_slice(status.details()),
    )
}

/// The bytes of [`to_rpc`], to be kept or sent on.
pub fn encode(status: &Status) -> Vec<u8> {
    to_rpc(status).encode_to_vec()
}

/// The status that [`encode`] made these bytes of.
pub fn decode(bytes: &[u8]) -> Result<Status, prost::DecodeError> {
    rpc::Status::decode(bytes).map(from_rpc)
}

/// The same error in other words: its details stay.
pub fn reworded(status: &Status, words: impl FnOnce(&str) -> String) -> Status {
    let mut embedded = to_rpc(status);
    embedded.message = words(&embedded.message);
    from_rpc(embedded)
}

/// The same error with the digests of its vertices replaced: that of the failed vertex, and those of a failed op's inputs.
/// Everything else stays as it came, byte for byte.
pub fn rewrite_vertices(status: &Status, map: impl Fn(&str) -> String) -> Status {
    let Ok(mut embedded) = rpc::Status::decode(status.details()) else {
        return status.clone();
    };
    let mut changed = false;
    for detail in &mut embedded.details {
        let Ok(mut value) = serde_json::from_slice::<Value>(&detail.value) else {
            continue;
        };
        let rewritten = match detail.type_url.rsplit('/').next() {
            Some("errdefs.Vertex+json") => rewrite(value.get_mut("digest"), &map),
            Some("errdefs.Solve+json") => value
                .pointer_mut("/op/inputs")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
                .map(|input| rewrite(input.get_mut("digest"), &map))
                .fold(false, |any, this| any | this),
            _ => false,
        };
        if rewritten {
            detail.value = value.to_string().into_bytes();
            changed = true;
        }
    }
    if !changed {
        return status.clone();
    }
    let details = Bytes::from(embedded.encode_to_vec());
    Status::with_details_and_metadata(
        status.code(),
        status.message(),
        details,
        status.metadata().clone(),
    )
}

fn rewrite(digest: Option<&mut Value>, map: impl Fn(&str) -> String) -> bool {
    let Some(Value::String(digest)) = digest else {
        return false;
    };
    let new = map(digest);
    let changed = new != *digest;
    *digest = new;
    changed
}

/// The digests of the vertices that failed, outermost last. Empty where the error is about no vertex.
pub fn failed_vertices(status: &Status) -> Vec<String> {
    let embedded = rpc::Status::decode(status.details()).unwrap_or_default();
    let digest = |value: &[u8]| {
        Some(
            serde_json::from_slice::<Value>(value)
                .ok()?
                .get("digest")?
                .as_str()?
                .to_owned(),
        )
    };
    let vertices = embedded
        .details
        .iter()
        .filter(|d| d.type_url.ends_with("/errdefs.Vertex+json"));
    vertices.filter_map(|d| digest(&d.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wkt::Any;

    fn failed(details: Vec<(&str, &str)>) -> Status {
        let details = details
            .into_iter()
            .map(|(kind, json)| Any {
                type_url: format!("github.com/moby/buildkit/{kind}"),
                value: json.into(),
            })
            .collect();
        from_rpc(rpc::Status {
            code: 2,
            message:
                "process \"/bin/sh -c no such job\" did not complete successfully: exit code: 7"
                    .into(),
            details,
        })
    }

    #[test]
    fn an_error_in_other_words_has_them_everywhere_and_keeps_its_details() {
        let status = failed(vec![("errdefs.Vertex+json", r#"{"digest":"sha256:a"}"#)]);
        let other = reworded(&status, |text| text.replace("exit code: 7", "it ended"));
        let inner = rpc::Status::decode(other.details()).unwrap();
        assert!(other.message().ends_with("it ended"));
        assert_eq!(inner.message, other.message());
        assert_eq!(failed_vertices(&other), ["sha256:a"]);
    }

    #[test]
    fn an_error_goes_through_bytes_without_loss() {
        let status = failed(vec![
            ("errdefs.Vertex+json", r#"{"digest":"sha256:a"}"#),
            ("stack.Stack+json", "{}"),
        ]);
        let again = decode(&encode(&status)).unwrap();
        assert_eq!(
            (again.code(), again.message(), again.details()),
            (status.code(), status.message(), status.details())
        );
        let plain = decode(&encode(&Status::not_found("x"))).unwrap();
        assert_eq!(
            (plain.code(), plain.message(), plain.details()),
            (Code::NotFound, "x", &b""[..])
        );
        assert_eq!(
            from_rpc(rpc::Status {
                code: 99,
                ..Default::default()
            })
            .code(),
            Code::Unknown
        );
        assert_eq!(from_rpc(rpc::Status::default()).code(), Code::Unknown);
        assert!(decode(b"\xff").is_err());
    }

    #[test]
    fn only_vertex_digests_are_rewritten() {
        let source = r#"{"info":{"filename":"Dockerfile","data":"sha256:a"},"ranges":[{"start":{"line":3}}]}"#;
        let status = failed(vec![
            ("errdefs.Vertex+json", r#"{"digest":"sha256:a"}"#),
            ("errdefs.Source+json", source),
            (
                "errdefs.Solve+json",
                r#"{"inputIDs":["sha256:a"],"op":{"inputs":[{"digest":"sha256:a","index":"1"}],"exec":{"meta":{"args":["sha256:a"]}}}}"#,
            ),
            ("errdefs.Vertex+json", "not json"),
        ]);
        let new = rewrite_vertices(&status, |d| d.replace("sha256:a", "sha256:b"));
        let details = rpc::Status::decode(new.details()).unwrap().details;
        let text = |i: usize| std::str::from_utf8(&details[i].value).unwrap();
        assert_eq!(text(0), r#"{"digest":"sha256:b"}"#);
        assert_eq!(text(1), source);
        let solve: Value = serde_json::from_str(text(2)).unwrap();
        assert_eq!(solve["op"]["inputs"][0]["digest"], "sha256:b");
        assert_eq!(
            (
                &solve["inputIDs"][0],
                &solve["op"]["exec"]["meta"]["args"][0]
            ),
            (&"sha256:a".into(), &"sha256:a".into())
        );
        assert_eq!(text(3), "not json");
        assert_eq!(
            (new.code(), new.message()),
            (status.code(), status.message())
        );
        assert_eq!(failed_vertices(&new), ["sha256:b"]);
    }

    #[test]
    fn an_error_is_said_again_without_the_headers_that_it_came_with() {
        let mut status = failed(vec![("errdefs.Vertex+json", "{}")]);
        status
            .metadata_mut()
            .insert("trailer", "Grpc-Status".parse().unwrap());
        let again = said_again(&status);
        assert_eq!(
            (again.code(), again.message(), again.details()),
            (status.code(), status.message(), status.details())
        );
        assert!(again.metadata().is_empty());
    }

    #[test]
    fn an_error_without_details_or_with_foreign_ones_is_left_alone() {
        for status in [
            Status::internal("x"),
            Status::with_details(Code::Unknown, "x", Bytes::from_static(b"\xff")),
        ] {
            let new = rewrite_vertices(&status, |_| "y".into());
            assert_eq!(
                (new.code(), new.details()),
                (status.code(), status.details())
            );
            assert_eq!(failed_vertices(&new), Vec::<String>::new());
        }
    }

    /// An error inside a vertex.
    fn said(message: &str) -> Status {
        let mut embedded = to_rpc(&failed(vec![(
            "errdefs.Vertex+json",
            r#"{"digest":"sha256:a"}"#,
        )]));
        embedded.message = message.into();
        from_rpc(embedded)
    }

    #[test]
    fn faults_are_told_apart() {
        let broken = Status::from_error(Box::new(std::io::Error::from(
            std::io::ErrorKind::ConnectionReset,
        )));
        for (status, expect) in [
            (failed(vec![]), Fault::Build),
            (
                Status::unknown("failed to solve: docker.io/library/nothing: not found"),
                Fault::Build,
            ),
            (
                Status::invalid_argument("dockerfile parse error on line 1"),
                Fault::Build,
            ),
            (broken, Fault::Engine),
            (
                said("dial tcp 127.0.0.1:9: connect: connection refused"),
                Fault::Build,
            ),
            (
                said("write /var/lib/x: no space left on device"),
                Fault::Engine,
            ),
            (
                Status::unknown("dial unix /run/containerd.sock: connect: connection refused"),
                Fault::Engine,
            ),
            (
                Status::unavailable("failed to load cache key: the client's session has ended"),
                Fault::Session,
            ),
            (Status::unavailable("x"), Fault::Engine),
            (Status::not_found("no such job abc"), Fault::Engine),
            (
                Status::not_found(
                    "failed to commit a to b during finalize: failed to stat active key during commit: snapshot a does not exist: not found",
                ),
                Fault::Engine,
            ),
            (
                said("failed to prepare a as b: parent snapshot c does not exist: not found"),
                Fault::Engine,
            ),
            (
                said(
                    "failed to mount /tmp/buildkit-mount1: [{Type:overlay Source:overlay}]: err: no such file or directory",
                ),
                Fault::Engine,
            ),
            (
                Status::unknown("write /var/lib/x: no space left on device"),
                Fault::Engine,
            ),
            (
                Status::unknown("no active session for abc: context deadline exceeded"),
                Fault::Session,
            ),
            (Status::cancelled("context canceled"), Fault::Cancelled),
            (
                Status::unknown("failed to solve: context canceled"),
                Fault::Cancelled,
            ),
        ] {
            assert_eq!(fault(&status), expect, "{status:?}");
        }
    }
}
