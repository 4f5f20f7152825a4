//! Finds sources that name the farm's own registry. Stage images in it belong to builds; a user's definition may not reach for them.

use bollard_buildkit_proto::pb;

use crate::{OpDigest, op::decode};

/// An op that a user's definition may not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusedSource {
    /// A source on the farm's registry.
    Named {
        /// The op.
        op: OpDigest,
        /// What it names: `docker-image://registry:5000/…`.
        identifier: String,
    },
    /// A build within the build. An engine reads its definition from a file when it comes to it, so nobody knows before what it names, nor on
    /// which platforms it runs.
    Nested {
        /// The op.
        op: OpDigest,
    },
    /// Bytes that are no op to us. An engine may read more leniently, so that nobody knows what they name.
    Unreadable {
        /// The op.
        op: OpDigest,
    },
}

/// The first op in `definition` that may not be: a source on `registry` (`host[:port]`), which may be an image, a blob, an OCI layout's
/// name, or a plain URL; or one of which nobody can tell. Loopback's names are taken for one another, and so are a name with and without
/// the default port.
pub fn refused_sources(definition: &pb::Definition, registry: &str) -> Option<RefusedSource> {
    definition.def.iter().find_map(|bytes| {
        let op = || OpDigest::of(bytes);
        match decode(bytes).map(|op| op.op) {
            Ok(Some(pb::op::Op::Source(source))) if is_on(&source.identifier, registry) => {
                Some(RefusedSource::Named {
                    op: op(),
                    identifier: source.identifier,
                })
            }
            Ok(Some(pb::op::Op::Build(_))) => Some(RefusedSource::Nested { op: op() }),
            Ok(_) => None,
            Err(_) => Some(RefusedSource::Unreadable { op: op() }),
        }
    })
}

/// Whether a source's identifier (`docker-image://…`) is on `registry` (`host[:port]`), by the rules of [`refused_sources`].
pub fn is_on(identifier: &str, registry: &str) -> bool {
    host_of(identifier).is_some_and(|host| host == normal_host(registry))
}

/// The host that a source's identifier names, in normal form. `None` if it names none.
fn host_of(identifier: &str) -> Option<String> {
    let (scheme, rest) = identifier.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "docker-image" | "docker-image+blob" | "oci-layout" | "oci-layout+blob" => {
            Some(normal_host(reference_host(rest)))
        }
        "local" => None,
        // URLs: `user@host/path`.
        _ => {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            Some(normal_host(host.rsplit('@').next().unwrap_or_default()))
        }
    }
}

/// The registry of an image reference, by the rule of `distribution/reference`: the first part, if it looks like a host.
fn reference_host(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _))
            if first.contains(['.', ':'])
                || first.eq_ignore_ascii_case("localhost")
                || first.chars().any(char::is_uppercase) =>
        {
            first
        }
        _ => "docker.io",
    }
}

/// In lower case, without a default port or the dot at the end of a full name, loopback as `localhost`.
fn normal_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (name, port.trim_start_matches('0'))
        }
        _ => (host.as_str(), ""),
    };
    let name = match name.strip_suffix('.').unwrap_or(name) {
        "localhost" | "[::1]" => "localhost",
        name if name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback()) =>
        {
            "localhost"
        }
        name => name,
    };
    match port {
        "" | "443" | "80" => name.to_owned(),
        port => format!("{name}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::*;

    fn source(identifier: &str) -> Vec<u8> {
        let source = pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: BTreeMap::new(),
        };
        pb::Op {
            op: Some(pb::op::Op::Source(source)),
            ..pb::Op::default()
        }
        .encode_to_vec()
    }

    fn definition(ops: impl IntoIterator<Item = Vec<u8>>) -> pb::Definition {
        pb::Definition {
            def: ops.into_iter().collect(),
            ..pb::Definition::default()
        }
    }

    fn check(identifier: &str, registry: &str, expect: bool) {
        let found = refused_sources(
            &definition([source("local://context"), source(identifier)]),
            registry,
        );
        assert_eq!(
            found.is_some(),
            expect,
            "{identifier} on {registry}: {found:?}"
        );
    }

    #[test]
    fn the_farms_registry_is_refused_however_it_is_written() {
        for (identifier, registry) in [
            (
                "docker-image://stages.farm:5000/p/x@sha256:00",
                "stages.farm:5000",
            ),
            (
                "docker-image://Stages.Farm:5000/p/x@sha256:00",
                "stages.farm:5000",
            ),
            ("docker-image://stages.farm.:5000/p/x", "stages.farm:5000"),
            ("docker-image://stages.farm:443/p/x", "stages.farm"),
            (
                "docker-image+blob://stages.farm/p/x@sha256:00",
                "stages.farm",
            ),
            ("oci-layout://stages.farm/p@sha256:00", "stages.farm"),
            ("https://stages.farm/v2/p/blobs/sha256:00", "stages.farm"),
            ("https://me:pw@stages.farm:443/v2/", "stages.farm"),
            ("git://stages.farm/repo.git#main", "stages.farm"),
            ("docker-image://127.0.0.1:5000/p/x", "localhost:5000"),
            ("docker-image://localhost:5000/p/x", "127.0.0.1:5000"),
            ("docker-image://[::1]:5000/p/x", "127.0.0.1:5000"),
            ("docker-image://library/busybox", "docker.io"),
        ] {
            check(identifier, registry, true);
        }
    }

    #[test]
    fn other_registries_are_not() {
        for (identifier, registry) in [
            ("docker-image://stages.farm:5001/p/x", "stages.farm:5000"),
            (
                "docker-image://docker.io/library/stages.farm",
                "stages.farm",
            ),
            ("docker-image://other.farm/stages.farm/x", "stages.farm"),
            ("docker-image://busybox:latest", "stages.farm"),
            ("local://stages.farm", "stages.farm"),
            ("https://other.farm/stages.farm/", "stages.farm"),
            ("nonsense", "stages.farm"),
            ("", ""),
        ] {
            check(identifier, registry, false);
        }
    }

    #[test]
    fn nested_builds_are_refused() {
        let build = pb::Op {
            op: Some(pb::op::Op::Build(pb::BuildOp::default())),
            ..pb::Op::default()
        };
        let found = refused_sources(&definition([build.encode_to_vec()]), "stages.farm");
        assert!(
            matches!(found, Some(RefusedSource::Nested { .. })),
            "{found:?}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bytes in [vec![0xff], [0x12, 0x00].repeat(1 << 17)] {
            let found = refused_sources(&definition([bytes]), "stages.farm");
            assert!(
                matches!(found, Some(RefusedSource::Unreadable { .. })),
                "{found:?}"
            );
        }
    }
}
