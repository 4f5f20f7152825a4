//! LLB that no Dockerfile made.

use std::collections::BTreeMap;

use bollard_buildkit_proto::pb::{self, op::Op as Kind};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// A definition in the making.
#[derive(Default)]
pub struct Llb {
    ops: Vec<Vec<u8>>,
    metadata: BTreeMap<String, pb::OpMetadata>,
}

/// For whom an op says that it is.
#[derive(Clone, Copy)]
pub enum For {
    Nobody,
    Linux(&'static str),
}

/// An op's digest.
pub fn digest(op: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(op)))
}

impl Llb {
    pub fn add(&mut self, inputs: &[&str], platform: For, op: Option<Kind>) -> String {
        let input = |digest: &&str| pb::Input {
            digest: (*digest).to_owned(),
            index: 0,
        };
        let platform = match platform {
            For::Nobody => None,
            For::Linux(architecture) => Some(pb::Platform {
                os: "linux".to_owned(),
                architecture: architecture.to_owned(),
                ..pb::Platform::default()
            }),
        };
        let bytes = pb::Op {
            inputs: inputs.iter().map(input).collect(),
            platform,
            op,
            ..pb::Op::default()
        }
        .encode_to_vec();
        let digest = digest(&bytes);
        self.metadata
            .insert(digest.clone(), pb::OpMetadata::default());
        self.ops.push(bytes);
        digest
    }

    pub fn source(&mut self, identifier: &str, platform: For) -> String {
        let source = pb::SourceOp {
            identifier: identifier.to_owned(),
            ..pb::SourceOp::default()
        };
        self.add(&[], platform, Some(Kind::Source(source)))
    }

    pub fn run(&mut self, root: &str, command: &str, platform: For) -> String {
        self.exec(&[root], command, platform)
    }

    /// A command in an empty root.
    pub fn run_in_nothing(&mut self, command: &str, platform: For) -> String {
        self.exec(&[], command, platform)
    }

    fn exec(&mut self, root: &[&str], command: &str, platform: For) -> String {
        let exec = pb::ExecOp {
            meta: Some(pb::Meta {
                args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
                env: vec!["PATH=/bin".to_owned()],
                cwd: "/".to_owned(),
                ..pb::Meta::default()
            }),
            mounts: vec![pb::Mount {
                input: if root.is_empty() { -1 } else { 0 },
                dest: "/".to_owned(),
                output: 0,
                ..pb::Mount::default()
            }],
            ..pb::ExecOp::default()
        };
        self.add(root, platform, Some(Kind::Exec(exec)))
    }

    /// The file `path` of `from` at the same path of `root`.
    pub fn copy(&mut self, root: &str, from: &str, path: &str) -> String {
        let copy = pb::FileActionCopy {
            src: path.to_owned(),
            dest: path.to_owned(),
            mode: -1,
            timestamp: -1,
            ..pb::FileActionCopy::default()
        };
        let action = pb::FileAction {
            input: 0,
            secondary_input: 1,
            output: 0,
            action: Some(pb::file_action::Action::Copy(copy)),
        };
        let file = pb::FileOp {
            actions: vec![action],
        };
        self.add(&[root, from], For::Nobody, Some(Kind::File(file)))
    }

    /// A file in an otherwise empty root.
    pub fn file(&mut self, path: &str, text: &str) -> String {
        let file = pb::FileActionMkFile {
            path: path.to_owned(),
            mode: 0o644,
            data: text.as_bytes().to_vec(),
            timestamp: -1,
            ..pb::FileActionMkFile::default()
        };
        let action = pb::FileAction {
            input: -1,
            secondary_input: -1,
            output: 0,
            action: Some(pb::file_action::Action::Mkfile(file)),
        };
        let file = pb::FileOp {
            actions: vec![action],
        };
        self.add(&[], For::Nobody, Some(Kind::File(file)))
    }

    /// All of it, up to this op.
    pub fn definition(mut self, last: &str) -> pb::Definition {
        self.add(&[last], For::Nobody, None);
        pb::Definition {
            def: self.ops,
            metadata: self.metadata,
            source: None,
        }
    }
}
