//! One op: its bytes as they came, and what the planner has to know of them. Each op is decoded once and the decoded form dropped, so
//! that a plan's memory follows the bytes that were sent.

use std::collections::BTreeSet;

use bollard_buildkit_proto::pb;
use prost::Message;

use crate::{
    LocalSource, OpDigest, OpId, Platform,
    id::sha256_parts,
    sources::{self, Varies},
    wire,
};

/// What kind of work an op is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    /// A command.
    Exec,
    /// A nested build.
    Build,
    /// An image, a local directory, a repository, …
    Source,
    /// Copies and other changes of files.
    File,
    /// Layers laid on one another.
    Merge,
    /// What one root has beyond another.
    Diff,
    /// Several outputs bundled into one op.
    Passthrough,
    /// Something of a newer BuildKit.
    Unknown,
}

impl OpKind {
    /// Whether every engine gives the same result, so that the op may be repeated wherever it is needed. Of what isn't known, this isn't
    /// assumed.
    pub fn is_movable(self) -> bool {
        match self {
            Self::Exec | Self::Build | Self::Unknown => false,
            Self::Source | Self::File | Self::Merge | Self::Diff | Self::Passthrough => true,
        }
    }
}

/// An op of a plan.
#[derive(Clone, Debug)]
pub struct Op {
    /// The digest of its bytes, as planned.
    pub digest: OpDigest,
    /// What kind of work it is.
    pub kind: OpKind,
    /// For people: what the frontend calls it, else what it does.
    pub name: String,
    /// Where it says it runs; for an image, what it is for.
    pub platform: Option<Platform>,
    /// Its inputs, in the op's order.
    pub inputs: Vec<(OpId, u32)>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) facts: Facts,
    pub(crate) metadata: pb::OpMetadata,
    pub(crate) locations: Vec<pb::Location>,
}

/// What an op's bytes say of interest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The input whose root the op's first output goes on from; `None` if it starts from scratch.
    pub primary: Option<usize>,
    pub entitlements: BTreeSet<String>,
    pub devices: BTreeSet<String>,
    pub cache_mounts: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    pub ssh: BTreeSet<String>,
    pub local: Option<LocalSource>,
    /// Of a source that may look different to another engine.
    pub varies: Option<Varies>,
    /// Stands for the bytes of a source from a session, which has the session's id in them.
    pub sessionless: Option<String>,
}

/// An op as it is in one definition, its inputs not looked up.
pub(crate) struct Parsed {
    pub kind: OpKind,
    pub name: String,
    pub platform: Option<Platform>,
    pub inputs: Vec<pb::Input>,
    pub outputs: i64,
    pub facts: Facts,
}

/// How many fields an op may have: decoding makes up to 250 bytes of a field that took two on the wire.
pub(crate) const MAX_FIELDS: usize = 1 << 16;

/// Why bytes are no op.
pub(crate) enum ParseError {
    TooManyFields,
    Undecodable(String),
}

/// Decodes an op, unless it is made to fill the memory.
pub(crate) fn decode(bytes: &[u8]) -> Result<pb::Op, ParseError> {
    let undecodable = |error: &dyn std::fmt::Display| ParseError::Undecodable(error.to_string());
    if wire::count_fields(bytes).map_err(|e| undecodable(&e))? > MAX_FIELDS {
        return Err(ParseError::TooManyFields);
    }
    pb::Op::decode(bytes).map_err(|e| undecodable(&e))
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let op = decode(bytes)?;
    let (kind, name, outputs, facts) = match &op.op {
        Some(pb::op::Op::Exec(exec)) => (
            OpKind::Exec,
            exec_name(exec),
            exec_outputs(exec),
            exec_facts(exec),
        ),
        Some(pb::op::Op::Build(build)) => (
            OpKind::Build,
            "build".to_owned(),
            1,
            Facts {
                primary: place(build.builder),
                ..Facts::default()
            },
        ),
        Some(pb::op::Op::Source(source)) => (
            OpKind::Source,
            source.identifier.clone(),
            1,
            source_facts(source),
        ),
        Some(pb::op::Op::File(file)) => {
            let outputs = file
                .actions
                .iter()
                .map(|action| action.output)
                .max()
                .unwrap_or(-1)
                .saturating_add(1);
            let facts = Facts {
                primary: file_primary(file, op.inputs.len()),
                ..Facts::default()
            };
            (OpKind::File, file_name(file), outputs, facts)
        }
        Some(pb::op::Op::Merge(merge)) => {
            let primary = merge.inputs.first().and_then(|first| place(first.input));
            (
                OpKind::Merge,
                "merge".to_owned(),
                1,
                Facts {
                    primary,
                    ..Facts::default()
                },
            )
        }
        Some(pb::op::Op::Diff(diff)) => {
            let primary = diff.upper.as_ref().and_then(|upper| place(upper.input));
            (
                OpKind::Diff,
                "diff".to_owned(),
                1,
                Facts {
                    primary,
                    ..Facts::default()
                },
            )
        }
        None => {
            const PASSTHROUGH: u64 = 8;
            let is_passthrough = wire::fields(bytes)
                .any(|field| field.is_ok_and(|field| field.number == PASSTHROUGH));
            let kind = if is_passthrough {
                OpKind::Passthrough
            } else {
                OpKind::Unknown
            };
            (
                kind,
                "unknown".to_owned(),
                i64::MAX,
                Facts {
                    primary: Some(0),
                    ..Facts::default()
                },
            )
        }
    };
    Ok(Parsed {
        kind,
        name: shortened(name),
        platform: op.platform.as_ref().map(Platform::from_pb),
        inputs: op.inputs,
        outputs,
        facts,
    })
}

/// The place of an input in the op's list; negative ones stand for scratch.
fn place(input: i64) -> Option<usize> {
    usize::try_from(input).ok()
}

fn exec_name(exec: &pb::ExecOp) -> String {
    exec.meta
        .as_ref()
        .map_or_else(String::new, |meta| meta.args.join(" "))
}

fn exec_outputs(exec: &pb::ExecOp) -> i64 {
    exec.mounts
        .iter()
        .map(|mount| mount.output)
        .max()
        .unwrap_or(-1)
        .saturating_add(1)
}

fn exec_facts(exec: &pb::ExecOp) -> Facts {
    let mut facts = Facts::default();
    if exec.network() == pb::NetMode::Host {
        facts.entitlements.insert("network.host".to_owned());
    }
    if exec.security() == pb::SecurityMode::Insecure {
        facts.entitlements.insert("security.insecure".to_owned());
    }
    let required = exec.cdi_devices.iter().filter(|device| !device.optional);
    facts
        .devices
        .extend(required.map(|device| device.name.clone()));
    facts
        .secrets
        .extend(exec.secretenv.iter().map(|secret| secret.id.clone()));
    for mount in &exec.mounts {
        if mount.dest == "/" {
            facts.primary = place(mount.input);
        }
        match mount.mount_type() {
            pb::MountType::Cache => {
                let id = mount
                    .cache_opt
                    .as_ref()
                    .map(|cache| cache.id.as_str())
                    .filter(|id| !id.is_empty());
                facts
                    .cache_mounts
                    .insert(id.unwrap_or(&mount.dest).to_owned());
            }
            pb::MountType::Secret => facts
                .secrets
                .extend(mount.secret_opt.as_ref().map(|secret| secret.id.clone())),
            pb::MountType::Ssh => facts
                .ssh
                .extend(mount.ssh_opt.as_ref().map(|ssh| ssh.id.clone())),
            pb::MountType::Bind | pb::MountType::Tmpfs => {}
        }
    }
    facts
}

/// The session that a source names, and what of it changes with each session.
const LOCAL_SESSION: &str = "local.session";
const LOCAL_UNIQUE: &str = "local.unique";
const LAYOUT_SESSION: &str = "oci.session";
const LAYOUT_STORE: &str = "oci.store";

fn source_facts(source: &pb::SourceOp) -> Facts {
    let attr = |key: &str| source.attrs.get(key).cloned().unwrap_or_default();
    let local = if let Some(name) = source.identifier.strip_prefix("local://") {
        LocalSource {
            name: name.to_owned(),
            session: attr(LOCAL_SESSION),
        }
    } else if source.identifier.starts_with("oci-layout://") {
        LocalSource {
            name: attr(LAYOUT_STORE),
            session: attr(LAYOUT_SESSION),
        }
    } else {
        return Facts {
            varies: sources::varies(source),
            ..Facts::default()
        };
    };
    let attrs = source
        .attrs
        .iter()
        .filter(|(key, _)| ![LOCAL_SESSION, LOCAL_UNIQUE, LAYOUT_SESSION].contains(&key.as_str()));
    let parts = [source.identifier.as_bytes()]
        .into_iter()
        .chain(attrs.flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]));
    Facts {
        local: Some(local),
        varies: sources::varies(source),
        sessionless: Some(sha256_parts(parts)),
        ..Facts::default()
    }
}

/// Follows the actions of output 0 back to the input that they start from.
fn file_primary(file: &pb::FileOp, inputs: usize) -> Option<usize> {
    let mut action = file.actions.iter().rposition(|action| action.output == 0)?;
    loop {
        let input = place(file.actions[action].input)?;
        if input < inputs {
            return Some(input);
        }
        // Actions follow one another, so each step must go back: a circle ends here.
        let before = input - inputs;
        if before >= action {
            return None;
        }
        action = before;
    }
}

fn file_name(file: &pb::FileOp) -> String {
    use pb::file_action::Action;
    let one = |action: &pb::FileAction| match &action.action {
        Some(Action::Copy(copy)) => format!("copy {} {}", copy.src, copy.dest),
        Some(Action::Mkfile(file)) => format!("mkfile {}", file.path),
        Some(Action::Mkdir(dir)) => format!("mkdir {}", dir.path),
        Some(Action::Rm(rm)) => format!("rm {}", rm.path),
        Some(Action::Symlink(link)) => format!("symlink {} -> {}", link.newpath, link.oldpath),
        None => "change files".to_owned(),
    };
    file.actions
        .iter()
        .take(3)
        .map(one)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Names are for a line on a screen.
fn shortened(name: String) -> String {
    const LENGTH: usize = 200;
    match name.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}

impl Op {
    /// What the frontend calls it.
    pub(crate) fn custom_name(metadata: &pb::OpMetadata) -> Option<String> {
        metadata
            .description
            .get("llb.customname")
            .map(|name| shortened(name.clone()))
    }
}
