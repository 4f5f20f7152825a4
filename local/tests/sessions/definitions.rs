//! `buildctl build < definition.pb`: LLB that no Dockerfile made.

use std::{
    collections::BTreeMap,
    io::{Seek as _, Write as _},
};

use bollard_buildkit_proto::pb::{self, op::Op as Kind};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    buildctl::{Buildctl, Built},
    support::{Context, Repository, engine::runs, farm, farm_of, machine, nonce},
};

/// A definition in the making.
#[derive(Default)]
struct Llb {
    ops: Vec<Vec<u8>>,
    metadata: BTreeMap<String, pb::OpMetadata>,
}

/// For whom an op says that it is.
#[derive(Clone, Copy)]
enum For {
    Nobody,
    Linux(&'static str),
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Llb {
    fn add(&mut self, inputs: &[&str], platform: For, op: Option<Kind>) -> String {
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

    fn source(&mut self, identifier: &str, platform: For) -> String {
        let source = pb::SourceOp {
            identifier: identifier.to_owned(),
            ..pb::SourceOp::default()
        };
        self.add(&[], platform, Some(Kind::Source(source)))
    }

    fn run(&mut self, root: &str, command: &str, platform: For) -> String {
        let exec = pb::ExecOp {
            meta: Some(pb::Meta {
                args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
                env: vec!["PATH=/bin".to_owned()],
                cwd: "/".to_owned(),
                ..pb::Meta::default()
            }),
            mounts: vec![pb::Mount {
                input: 0,
                dest: "/".to_owned(),
                output: 0,
                ..pb::Mount::default()
            }],
            ..pb::ExecOp::default()
        };
        self.add(&[root], platform, Some(Kind::Exec(exec)))
    }

    /// The file `path` of `from` at the same path of `root`.
    fn copy(&mut self, root: &str, from: &str, path: &str) -> String {
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
    fn file(&mut self, path: &str, text: &str) -> String {
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

    /// Builds it up to this op.
    fn build(mut self, buildctl: &Buildctl, last: &str, arguments: &[String]) -> Built {
        self.add(&[last], For::Nobody, None);
        let definition = pb::Definition {
            def: self.ops,
            metadata: self.metadata,
            source: None,
        };
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&definition.encode_to_vec())
            .expect("writable");
        file.rewind().expect("a file");
        buildctl.build(arguments, file)
    }
}

fn pushed(image: &Repository) -> String {
    format!("--output=type=image,name={},push=true", image.tag("1"))
}

#[test]
fn a_definition_is_split_between_agents_and_published() {
    let farm = farm();
    let nonce = nonce();
    let image = Repository::of(farm.registry(), "sessions/definition");
    let context = Context::new("").file("file", "from the client");
    let mut llb = Llb::default();
    let local = llb.source("local://source", For::Nobody);
    let base = |llb: &mut Llb, architecture| {
        llb.source(
            "docker-image://docker.io/library/busybox:latest",
            For::Linux(architecture),
        )
    };
    let far = base(&mut llb, "arm64");
    let far = llb.copy(&far, &local, "/file");
    let far = llb.run(
        &far,
        &format!(": far-{nonce} && uname -m > /far && cat /file >> /far"),
        For::Linux("arm64"),
    );
    let near = base(&mut llb, "amd64");
    let near = llb.copy(&near, &far, "/far");
    let near = llb.run(
        &near,
        &format!(": near-{nonce} && uname -m > /near"),
        For::Linux("amd64"),
    );
    let local = format!("--local=source={}", context.path().display());
    let built = llb
        .build(&Buildctl::of(farm), &near, &[local, pushed(&image)])
        .succeeded();

    let published = image.published("1");
    assert_eq!(built.metadata()["containerimage.digest"], published.digest);
    let root = published.bare_image();
    assert_eq!(root.file("/near"), machine("linux/amd64"));
    let far = format!("{}\nfrom the client", machine("linux/arm64"));
    assert_eq!(root.file("/far"), far);
    assert_eq!(
        built.plan(farm).transfers.len(),
        1,
        "{:#?}",
        built.plan(farm)
    );
    for (step, agents) in [("far", "arm64-"), ("near", "amd64-")] {
        let ran = runs(farm, &format!("{step}-{nonce}"));
        assert!(
            ran.len() == 1 && ran[0].0.starts_with(agents) && ran[0].1 == 1,
            "{step}: {ran:?}"
        );
    }
}

#[test]
fn an_image_of_which_nothing_is_said_is_published_as_by_one_engine_alone() {
    let farm = farm();
    let nonce = nonce();
    let make = |kind: &str| {
        let mut llb = Llb::default();
        let last = match kind {
            "commands" => {
                let base = llb.source(
                    "docker-image://docker.io/library/busybox:latest",
                    For::Nobody,
                );
                let command = format!(": {nonce} && uname -m > /machine");
                llb.run(&base, &command, For::Nobody)
            }
            // Which any agent could make.
            _ => llb.file("/nonce", &nonce),
        };
        (llb, last)
    };
    for kind in ["commands", "files"] {
        let build = |buildctl: &Buildctl, of: &str| {
            let image = Repository::of(farm.registry(), &format!("sessions/bare-{kind}-{of}"));
            let (llb, last) = make(kind);
            llb.build(buildctl, &last, &[pushed(&image)]).succeeded();
            image.published("1").bare_image()
        };
        let farms = build(&Buildctl::of(farm), "farm");
        let alone = build(&Buildctl::alone(farm), "alone");
        let timeless = |mut config: serde_json::Value| {
            config["created"].take();
            for entry in config["history"].as_array_mut().into_iter().flatten() {
                entry["created"].take();
                // An engine names a layer after the reference by which it first pulled it, for whomever.
                if let Some((by_tag, _)) = entry["created_by"]
                    .as_str()
                    .and_then(|by| by.split_once('@'))
                {
                    entry["created_by"] = by_tag.into();
                }
            }
            // Layers have the times of what was made in them.
            config["rootfs"]["diff_ids"].take();
            config
        };
        assert_eq!(
            timeless(farms.config.clone()),
            timeless(alone.config.clone()),
            "{kind}"
        );
    }
}

#[test]
fn an_image_of_which_nothing_is_said_is_of_the_build_platform() {
    // Its engines are of another platform in truth, which shows that they aren't asked.
    let farm = farm_of("s390x", &[]);
    let image = Repository::of(farm.registry(), "sessions/unsaid");
    let mut llb = Llb::default();
    let last = llb.file("/nonce", &nonce());
    llb.build(&Buildctl::of(&farm), &last, &[pushed(&image)])
        .succeeded();
    assert_eq!(image.published("1").bare_image().platform(), "linux/s390x");
}

#[test]
fn a_definition_that_fails_says_why_as_one_engine_alone() {
    let farm = farm();
    let nonce = nonce();
    let fail = |buildctl: &Buildctl| {
        let mut llb = Llb::default();
        let base = llb.source(
            "docker-image://docker.io/library/busybox:latest",
            For::Nobody,
        );
        let last = llb.run(&base, &format!(": {nonce} && exit 9"), For::Nobody);
        let finished = llb.build(buildctl, &last, &[]).finished.failed();
        let error = finished.stderr.lines().last().map(str::to_owned);
        error.expect("an error")
    };
    let farms = fail(&Buildctl::of(farm));
    assert_eq!(farms, fail(&Buildctl::alone(farm)));
    assert!(farms.contains("exit code: 9"), "{farms}");
}
