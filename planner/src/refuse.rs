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
    /// Bytes that are no op to us. An engine may read more leniently, so that nobody knows what they name.
    Unreadable {
        /// The op.
        op: OpDigest,
    },
}

/// The first source in `definition`, or in the definitions of builds nested in it, that is on `registry` (`host[:port]`): an image, a
/// blob, an OCI layout's name, or a plain URL. Loopback's names are taken for one another, and so are a name with and without the
/// default port.
pub fn refused_sources(definition: &pb::Definition, registry: &str) -> Option<RefusedSource> {
    let mut nested: Vec<pb::Definition> = Vec::new();
    let mut current: Option<&pb::Definition> = Some(definition);
    let mut owned;
    while let Some(definition) = current {
        for bytes in &definition.def {
            match decode(bytes).map(|op| op.op) {
                Ok(Some(pb::op::Op::Source(source))) if is_on(&source.identifier, registry) => {
                    let (op, identifier) = (OpDigest::of(bytes), source.identifier);
                    return Some(RefusedSource::Named { op, identifier });
                }
                Ok(Some(pb::op::Op::Build(build))) => nested.extend(build.def),
                Ok(_) => {}
                Err(_) => {
                    let op = OpDigest::of(bytes);
                    return Some(RefusedSource::Unreadable { op });
                }
            }
        }
        owned = nested.pop();
        current = owned.as_ref();
    }
    None
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
    fn nested_builds_are_looked_into() {
        let mut inner = definition([source("docker-image://stages.farm/p/x")]);
        for _ in 0..3 {
            let build = pb::BuildOp {
                def: Some(inner),
                ..pb::BuildOp::default()
            };
            inner = definition([pb::Op {
                op: Some(pb::op::Op::Build(build)),
                ..pb::Op::default()
            }
            .encode_to_vec()]);
        }
        let found = refused_sources(&inner, "stages.farm");
        let expected = "docker-image://stages.farm/p/x";
        assert!(
            matches!(&found, Some(RefusedSource::Named { identifier, .. }) if identifier == expected),
            "{found:?}"
        );
        assert_eq!(refused_sources(&inner, "elsewhere"), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused_at_every_depth() {
        let garbage = definition([vec![0xff]]);
        let fields = definition([[0x12, 0x00].repeat(1 << 17)]);
        for unreadable in [garbage, fields] {
            let build = pb::BuildOp {
                def: Some(unreadable.clone()),
                ..pb::BuildOp::default()
            };
            let op = pb::Op {
                op: Some(pb::op::Op::Build(build)),
                ..pb::Op::default()
            };
            for definition in [unreadable, definition([op.encode_to_vec()])] {
                let found = refused_sources(&definition, "stages.farm");
                assert!(
                    matches!(found, Some(RefusedSource::Unreadable { .. })),
                    "{found:?}"
                );
            }
        }
    }
}
