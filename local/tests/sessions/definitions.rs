//! `buildctl build < definition.pb`: LLB that no Dockerfile made.

use std::io::{Seek as _, Write as _};

use prost::Message as _;

use crate::{
    buildctl::{Buildctl, Built},
    support::{
        Context, Repository,
        engine::runs,
        farm, farm_of,
        llb::{For, Llb},
        machine, nonce,
    },
};

/// Builds a definition up to this op.
fn build(llb: Llb, buildctl: &Buildctl, last: &str, arguments: &[String]) -> Built {
    let definition = llb.definition(last);
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&definition.encode_to_vec())
        .expect("writable");
    file.rewind().expect("a file");
    buildctl.build(arguments, file)
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
    let built = build(llb, &Buildctl::of(farm), &near, &[local, pushed(&image)]).succeeded();

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
        let built = |buildctl: &Buildctl, of: &str| {
            let image = Repository::of(farm.registry(), &format!("sessions/bare-{kind}-{of}"));
            let (llb, last) = make(kind);
            build(llb, buildctl, &last, &[pushed(&image)]).succeeded();
            image.published("1").bare_image()
        };
        let farms = built(&Buildctl::of(farm), "farm");
        let alone = built(&Buildctl::alone(farm), "alone");
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
    build(llb, &Buildctl::of(&farm), &last, &[pushed(&image)]).succeeded();
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
        let finished = build(llb, buildctl, &last, &[]).finished.failed();
        let error = finished.stderr.lines().last().map(str::to_owned);
        error.expect("an error")
    };
    let farms = fail(&Buildctl::of(farm));
    assert_eq!(farms, fail(&Buildctl::alone(farm)));
    assert!(farms.contains("exit code: 9"), "{farms}");
}

#[test]
fn a_definition_s_files_are_handed_out_with_those_that_another_agent_made() {
    let farm = farm();
    let nonce = nonce();
    let mut llb = Llb::default();
    let base = |llb: &mut Llb, architecture| {
        llb.source(
            "docker-image://docker.io/library/busybox:latest",
            For::Linux(architecture),
        )
    };
    let far = base(&mut llb, "arm64");
    let far = llb.run(
        &far,
        &format!(": far-{nonce} && uname -m > /far"),
        For::Linux("arm64"),
    );
    let near = base(&mut llb, "amd64");
    let near = llb.copy(&near, &far, "/far");
    let out = tempfile::tempdir().expect("a temporary folder");
    let path = out.path().join("files");
    let output = format!("--output=type=local,dest={}", path.display());
    build(llb, &Buildctl::of(farm), &near, &[output]).succeeded();
    let made = std::fs::read_to_string(path.join("far")).expect("a file");
    assert_eq!(made.trim(), machine("linux/arm64"));
    assert!(path.join("bin/busybox").exists());
}
