//! Shape 4: `FROM release-$TARGETOS` for many platforms at once, Windows among them. The targets are made of copies only, so one agent
//! of the build platform makes them all.

use serde_json::{Value, json};

use crate::support::{
    Buildx, Context, Repository,
    engine::{alone, records, runs},
    farm_of, process,
    registry::repositories,
};

/// As users write them. The two of arm64 are the same.
const ASKED: [&str; 7] = [
    "linux/386",
    "linux/amd64",
    "linux/arm/v6",
    "linux/arm/v7",
    "linux/arm64",
    "linux/arm64/v8",
    "windows/amd64",
];

const WINDOWS: &str = "10.0.17763.5329";

const DOCKERFILE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN : shared-$NONCE && head -c 32 /dev/urandom | sha256sum > /random
ARG TARGETOS TARGETARCH TARGETVARIANT
RUN : cross-$NONCE && echo $TARGETOS/$TARGETARCH/$TARGETVARIANT > /target
FROM scratch AS release-linux
COPY --from=builder /random /target /
FROM windows-base AS release-windows
COPY --from=builder /random /target /
FROM release-$TARGETOS
COPY input /
LABEL org.example.nonce=$NONCE
";

const PLAN: &str = "\
0 shared on amd64 for 386,amd64,arm/v6,arm/v7,arm64,windows(10.0.17763.5329)/amd64: [linux/amd64 builder 2/3]
1 target on amd64 for 386 after 0: linux/amd64->386 builder 3/3, linux/386 stage-3 1/1
2 target on amd64 for amd64 after 0,1: linux/amd64 builder 3/3, linux/amd64 stage-3 1/1
3 cross on amd64 for arm/v6 after 0,1: linux/amd64->arm/v6 builder 3/3, linux/arm/v6 stage-3 1/1
4 cross on amd64 for arm/v7 after 0,1: linux/amd64->arm/v7 builder 3/3, linux/arm/v7 stage-3 1/1
5 cross on amd64 for arm64 after 0,1: linux/amd64->arm64 builder 3/3, linux/arm64 stage-3 1/1
6 cross on amd64 for windows(10.0.17763.5329)/amd64 after 0,1: linux/amd64->windows/amd64 builder 3/3, windows/amd64 stage-3 1/1
";

/// What Windows' own images look like: no root, but a folder for files and one for the registry.
fn windows_base(repository: &Repository) {
    let mut tar = tar::Builder::new(Vec::new());
    for path in ["Files/", "Files/Windows/", "Hives/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, path, &b""[..]).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(6);
    tar.append_data(&mut header, "Files/Windows/system.ini", &b"[boot]"[..])
        .unwrap();
    let config = json!({
        "os": "windows",
        "architecture": "amd64",
        "os.version": WINDOWS,
        "os.features": ["win32k"],
        "config": {"Env": ["PATH=C:\\Windows"]},
    });
    repository.put_image("latest", config, &tar.into_inner().unwrap());
}

fn platforms(repository: &Repository, tag: &str) -> Vec<Value> {
    let published = repository.published(tag);
    let manifests = published.manifests().iter();
    manifests.map(|one| one["platform"].clone()).collect()
}

#[test]
fn images_of_many_systems_are_put_together_by_one_agent_and_named_as_buildx_names_them() {
    let farm = farm_of("amd64,arm64", &[]);
    let buildx = Buildx::of(&farm);
    let context = Context::new(DOCKERFILE).file("input", "text");
    let repository = Repository::of(farm.registry(), "shapes/by-system");
    windows_base(&Repository::of(farm.registry(), "library/windows-base"));

    let built = buildx
        .build(&context)
        .platforms(&ASKED)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();

    for step in ["shared", "cross"] {
        let times = if step == "shared" { 1 } else { 6 };
        let ran = runs(&farm, &format!("{step}-{}", context.nonce));
        assert_eq!(ran, [("amd64-1".to_owned(), times)], "{step}");
    }
    assert_eq!(records(&farm.agents()[1]).len(), 0);
    assert_eq!(repositories(farm.stage()), Vec::<String>::new());
    built.plan().check(PLAN);

    let published = repository.published("latest");
    let random = published.image("linux/amd64").file("/random");
    for (platform, target) in [
        ("linux/386", "linux/386/"),
        ("linux/amd64", "linux/amd64/"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("windows/amd64", "windows/amd64/"),
    ] {
        let image = published.image(platform);
        let root = match target.starts_with("windows") {
            true => "Files",
            false => "",
        };
        assert_eq!(image.file(&format!("{root}/target")), target);
        assert_eq!(image.file(&format!("{root}/random")), random, "{target}");
        assert_eq!(image.file(&format!("{root}/input")), "text", "{target}");
        assert_eq!(image.has("Files/Windows/system.ini"), root == "Files");
    }
    let [.., arm64, again, windows] = published.manifests() else {
        panic!("{:#?}", published.document);
    };
    assert_eq!(arm64, again);
    let windows = repository.published(windows["digest"].as_str().unwrap());
    assert_eq!(windows.bare_image().config["os.version"], WINDOWS);

    // The same straight on an engine.
    let mut plain = alone(
        &buildx,
        farm.agents()[0].engine(),
        ["build", "--provenance=false"],
    );
    plain.args(["--platform", &ASKED.join(","), "--push", "--tag"]);
    plain.arg(repository.tag("plain")).arg(context.path());
    process::run(plain).succeeded();
    let found = platforms(&repository, "latest");
    assert_eq!(found, platforms(&repository, "plain"));
    let linux = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    let arm = |variant: &str| json!({"os": "linux", "architecture": "arm", "variant": variant});
    let windows = json!({
        "os": "windows",
        "architecture": "amd64",
        "os.version": WINDOWS,
        "os.features": ["win32k"],
    });
    let expected = [
        linux("386"),
        linux("amd64"),
        arm("v6"),
        arm("v7"),
        linux("arm64"),
        linux("arm64"),
        windows,
    ];
    assert_eq!(found, expected);
}
