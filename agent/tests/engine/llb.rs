//! Definitions made by hand.

use std::collections::{BTreeMap, HashSet};

use croft_buildkit::api::pb::{self, file_action::Action, op::Op as Kind};
use prost::Message;
use sha2::{Digest, Sha256};

/// A graph that grows.
#[derive(Default)]
pub struct Llb {
    /// Every op after its inputs.
    ops: Vec<Op>,
    metadata: BTreeMap<String, pb::OpMetadata>,
}

struct Op {
    digest: String,
    inputs: Vec<String>,
    bytes: Vec<u8>,
}

/// One op's output.
#[derive(Clone)]
pub struct Node {
    digest: String,
}

impl Llb {
    fn add(&mut self, inputs: &[&Node], kind: Kind) -> Node {
        let platform = matches!(kind, Kind::Exec(_) | Kind::Source(_)).then(|| pb::Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            ..Default::default()
        });
        let inputs: Vec<_> = inputs.iter().map(|node| node.digest.clone()).collect();
        let edges = inputs
            .iter()
            .map(|digest| pb::Input {
                digest: digest.clone(),
                index: 0,
            })
            .collect();
        let mut bytes = pb::Op {
            inputs: edges,
            platform,
            ..Default::default()
        }
        .encode_to_vec();
        // BuildKit encodes ops again before it takes their digests, and Go puts a oneof last.
        bytes.extend(
            pb::Op {
                op: Some(kind),
                ..Default::default()
            }
            .encode_to_vec(),
        );
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        if self.ops.iter().all(|op| op.digest != digest) {
            self.ops.push(Op {
                digest: digest.clone(),
                inputs,
                bytes,
            });
        }
        Node { digest }
    }

    /// An image.
    pub fn image(&mut self, reference: &str) -> Node {
        let source = pb::SourceOp {
            identifier: format!("docker-image://{reference}"),
            ..Default::default()
        };
        self.add(&[], Kind::Source(source))
    }

    /// A client's folder.
    pub fn local(&mut self, name: &str) -> Node {
        self.local_with(name, [])
    }

    /// A client's folder, from this session of its.
    pub fn local_of(&mut self, name: &str, session: &str) -> Node {
        self.local_with(name, [("local.session".to_owned(), session.to_owned())])
    }

    fn local_with<const N: usize>(&mut self, name: &str, attrs: [(String, String); N]) -> Node {
        let source = pb::SourceOp {
            identifier: format!("local://{name}"),
            attrs: attrs.into(),
        };
        self.add(&[], Kind::Source(source))
    }

    /// What is in `from`, copied into `root`.
    pub fn copy(&mut self, root: &Node, from: &Node) -> Node {
        let copy = pb::FileActionCopy {
            src: "/".into(),
            dest: "/".into(),
            mode: -1,
            dir_copy_contents: true,
            create_dest_path: true,
            timestamp: -1,
            ..Default::default()
        };
        let action = pb::FileAction {
            input: 0,
            secondary_input: 1,
            output: 0,
            action: Some(Action::Copy(copy)),
        };
        self.add(
            &[root, from],
            Kind::File(pb::FileOp {
                actions: vec![action],
            }),
        )
    }

    /// A file in an otherwise empty root.
    pub fn file(&mut self, path: &str, data: &str) -> Node {
        let file = pb::FileActionMkFile {
            path: path.into(),
            mode: 0o644,
            data: data.into(),
            timestamp: -1,
            ..Default::default()
        };
        let action = pb::FileAction {
            input: -1,
            secondary_input: -1,
            output: 0,
            action: Some(Action::Mkfile(file)),
        };
        self.add(
            &[],
            Kind::File(pb::FileOp {
                actions: vec![action],
            }),
        )
    }

    /// A shell command, with the host's network.
    pub fn run(&mut self, root: &Node, command: &str) -> Node {
        let meta = pb::Meta {
            args: ["/bin/sh", "-c", command].map(String::from).into(),
            env: vec!["PATH=/bin:/usr/bin:/sbin:/usr/sbin".into()],
            cwd: "/".into(),
            ..Default::default()
        };
        let mount = pb::Mount {
            input: 0,
            dest: "/".into(),
            output: 0,
            ..Default::default()
        };
        let network = pb::NetMode::Host.into();
        self.add(
            &[root],
            Kind::Exec(pb::ExecOp {
                meta: Some(meta),
                mounts: vec![mount],
                network,
                ..Default::default()
            }),
        )
    }

    /// Takes nothing from the cache for this op.
    pub fn uncached(&mut self, node: &Node) {
        self.metadata
            .entry(node.digest.clone())
            .or_default()
            .ignore_cache = true;
    }

    /// The definition of this output: what it needs and nothing else, for BuildKit refuses anything that dangles.
    pub fn definition(&self, result: &Node) -> Vec<u8> {
        let mut needed = HashSet::from([result.digest.clone()]);
        for op in self.ops.iter().rev() {
            if needed.contains(&op.digest) {
                needed.extend(op.inputs.iter().cloned());
            }
        }
        let last = pb::Op {
            inputs: vec![pb::Input {
                digest: result.digest.clone(),
                index: 0,
            }],
            ..Default::default()
        };
        let ops = self
            .ops
            .iter()
            .filter(|op| needed.contains(&op.digest))
            .map(|op| op.bytes.clone());
        // Every op has metadata, even if it says nothing: a definition without any counts as none for some.
        let metadata = needed.iter().map(|digest| {
            (
                digest.clone(),
                self.metadata.get(digest).cloned().unwrap_or_default(),
            )
        });
        pb::Definition {
            def: ops.chain([last.encode_to_vec()]).collect(),
            metadata: metadata.collect(),
            source: None,
        }
        .encode_to_vec()
    }
}

impl Node {
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
