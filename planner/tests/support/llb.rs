//! Definitions made by hand, encoded as BuildKit's client does.

use std::collections::{BTreeMap, BTreeSet};

use bollard_buildkit_proto::pb;
use croft_planner::OpDigest;
use prost::Message;

use super::platform;

/// An op, its inputs given by digest.
#[derive(Clone, Debug)]
pub struct Made {
    pub bytes: Vec<u8>,
    pub metadata: pb::OpMetadata,
}

impl Made {
    pub fn digest(&self) -> OpDigest {
        OpDigest::of(&self.bytes)
    }

    pub fn named(mut self, name: &str) -> Self {
        self.metadata
            .description
            .insert("llb.customname".to_owned(), name.to_owned());
        self
    }

    pub fn ignoring_cache(mut self) -> Self {
        self.metadata.ignore_cache = true;
        self
    }
}

pub fn made(inputs: &[(&Made, i64)], runs_on: Option<&str>, op: pb::op::Op) -> Made {
    let input = |(made, index): &(&Made, i64)| pb::Input {
        digest: made.digest().as_str().to_owned(),
        index: *index,
    };
    let plain = pb::Op {
        inputs: inputs.iter().map(input).collect(),
        op: None,
        platform: runs_on.map(|text| platform(text).to_pb()),
        constraints: Some(pb::WorkerConstraints::default()),
    };
    // Go writes the members of a oneof last.
    let oneof = pb::Op {
        op: Some(op),
        ..pb::Op::default()
    };
    let bytes = [plain.encode_to_vec(), oneof.encode_to_vec()].concat();
    Made {
        bytes,
        metadata: pb::OpMetadata::default(),
    }
}

pub fn source(identifier: &str, attrs: &[(&str, &str)], of: Option<&str>) -> Made {
    let attrs = attrs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    made(
        &[],
        of,
        pb::op::Op::Source(pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs,
        }),
    )
}

pub fn image(of: &str) -> Made {
    source(
        "docker-image://docker.io/library/base:latest",
        &[],
        Some(of),
    )
}

pub fn mount(input: i64, dest: &str, output: i64) -> pb::Mount {
    pb::Mount {
        input,
        dest: dest.to_owned(),
        output,
        readonly: output < 0,
        ..pb::Mount::default()
    }
}

pub fn cache_mount(id: &str) -> pb::Mount {
    pb::Mount {
        mount_type: pb::MountType::Cache.into(),
        cache_opt: Some(pb::CacheOpt {
            id: id.to_owned(),
            sharing: 0,
        }),
        ..mount(-1, "/cache", -1)
    }
}

/// A command on the root that the first input is, the others mounted under it. Output 0 is its root, 1 a second mount that it fills.
pub fn exec_with(
    command: &str,
    inputs: &[(&Made, i64)],
    runs_on: Option<&str>,
    more: Vec<pb::Mount>,
) -> Made {
    let mut mounts = vec![
        mount(if inputs.is_empty() { -1 } else { 0 }, "/", 0),
        mount(-1, "/second", 1),
    ];
    mounts.extend((1..inputs.len()).map(|input| mount(input as i64, &format!("/in{input}"), -1)));
    mounts.extend(more);
    let meta = pb::Meta {
        args: vec![command.to_owned()],
        cwd: "/".to_owned(),
        ..pb::Meta::default()
    };
    made(
        inputs,
        runs_on,
        pb::op::Op::Exec(pb::ExecOp {
            meta: Some(meta),
            mounts,
            ..pb::ExecOp::default()
        }),
    )
}

pub fn exec(command: &str, inputs: &[(&Made, i64)], runs_on: &str) -> Made {
    exec_with(command, inputs, Some(runs_on), Vec::new())
}

/// Copies `path` from the second input onto the first; onto scratch if there is one input only.
pub fn copy(path: &str, inputs: &[(&Made, i64)]) -> Made {
    let (input, secondary_input) = if inputs.len() > 1 { (0, 1) } else { (-1, 0) };
    let copy = pb::FileActionCopy {
        src: path.to_owned(),
        dest: "/".to_owned(),
        mode: -1,
        timestamp: -1,
        ..pb::FileActionCopy::default()
    };
    let action = pb::FileAction {
        input,
        secondary_input,
        output: 0,
        action: Some(pb::file_action::Action::Copy(copy)),
    };
    made(
        inputs,
        None,
        pb::op::Op::File(pb::FileOp {
            actions: vec![action],
        }),
    )
}

pub fn merge(inputs: &[(&Made, i64)]) -> Made {
    let merge = pb::MergeOp {
        inputs: (0..inputs.len())
            .map(|input| pb::MergeInput {
                input: input as i64,
            })
            .collect(),
    };
    made(inputs, None, pb::op::Op::Merge(merge))
}

/// The definition whose root is `root`, of those of `ops` that it needs.
pub fn definition(ops: &[Made], root: (&Made, i64)) -> pb::Definition {
    let by_digest: BTreeMap<OpDigest, &Made> = ops
        .iter()
        .chain([root.0])
        .map(|made| (made.digest(), made))
        .collect();
    let mut needed = BTreeSet::from([root.0.digest()]);
    let mut next = vec![root.0.digest()];
    while let Some(digest) = next.pop() {
        for input in pb::Op::decode(by_digest[&digest].bytes.as_slice())
            .unwrap()
            .inputs
        {
            let input = OpDigest::new(input.digest);
            if needed.insert(input.clone()) {
                next.push(input);
            }
        }
    }
    let mut definition = pb::Definition::default();
    let mut seen = BTreeSet::new();
    for made in ops
        .iter()
        .chain([root.0])
        .filter(|made| needed.contains(&made.digest()) && seen.insert(made.digest()))
    {
        definition.def.push(made.bytes.clone());
        definition
            .metadata
            .insert(made.digest().as_str().to_owned(), made.metadata.clone());
    }
    definition.def.push(last(&[(root.0.digest(), root.1)]));
    definition
}

/// A definition's last op.
pub fn last(inputs: &[(OpDigest, i64)]) -> Vec<u8> {
    let inputs = inputs.iter().map(|(digest, index)| pb::Input {
        digest: digest.as_str().to_owned(),
        index: *index,
    });
    pb::Op {
        inputs: inputs.collect(),
        ..pb::Op::default()
    }
    .encode_to_vec()
}
