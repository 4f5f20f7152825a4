//! `ADD`: archives, URLs and git repositories.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use sha2::{Digest as _, Sha256};

use super::{published, ran_on_each};
use crate::support::{
    Buildx, Context, PLATFORMS, engine::runs, farm, git::Git, machine, process, web::Web,
};

const ADDS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
ARG WEB
ADD archive.tar.gz /unpacked/
ADD $WEB/file /fetched
RUN : shared-$NONCE && cat /unpacked/top/inside /fetched > /both
FROM busybox
ARG WEB
ARG SUM
RUN : target-$NONCE && uname -m > /machine
ADD --chown=1:2 archive.tar.gz /opt/
ADD --checksum=sha256:$SUM --chmod=741 --chown=3:4 $WEB/file /fetched
ADD --link $WEB/file /linked/
ADD --unpack=true $WEB/archive.tar.gz /from-web/
ADD $WEB/archive.tar.gz /packed/
ADD --unpack=false archive.tar.gz /kept/
COPY archive.tar.gz /copied/
COPY --from=builder /both /
RUN : after-$NONCE && cmp /fetched /linked/file && cmp /packed/archive.tar.gz /copied/archive.tar.gz
";

const ADDS_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 4/4]
1 target on amd64 for amd64: [linux/amd64 stage-1  2/11]
2 target on arm64 for arm64: [linux/arm64 stage-1  2/11]
3 target on ppc64le for ppc64le: [linux/ppc64le stage-1  2/11]
4 target on s390x for s390x: [linux/s390x stage-1  2/11]
5 target on amd64 for amd64 after 0,1: [linux/amd64 stage-1 11/11]
6 target on arm64 for arm64 after 0,2,5: [linux/arm64 stage-1 11/11]
7 target on ppc64le for ppc64le after 0,3,5: [linux/ppc64le stage-1 11/11]
8 target on s390x for s390x after 0,4,5: [linux/s390x stage-1 11/11]
";

#[test]
fn archives_are_unpacked_and_urls_fetched_wherever_they_are_needed() {
    let buildx = Buildx::of(farm());
    let context = Context::new(ADDS);
    let text = format!("fetched {}\n", context.nonce);
    let archive = {
        let content = Context::new("").file("top/inside", "inside\n");
        let mut tar = Command::new("tar");
        tar.args(["--owner=8", "--group=9", "--mode=u=rwX,go=", "-czf"]);
        tar.arg(context.path().join("archive.tar.gz"));
        tar.arg("-C").arg(content.path()).arg("top");
        process::run(tar).succeeded();
        fs::read(context.path().join("archive.tar.gz")).expect("written")
    };
    let web = Web::serve([
        ("/file", text.clone().into_bytes()),
        ("/archive.tar.gz", archive.clone()),
    ]);
    let arguments = [
        format!("--build-arg=WEB={}", web.address()),
        format!("--build-arg=SUM={}", hex::encode(Sha256::digest(&text))),
    ];
    let arguments = arguments.each_ref().map(String::as_str);
    let (built, images) = published(&buildx, "adds", &context, &arguments);
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/both"), format!("inside\n{}", text.trim()));
        assert_eq!(image.file("/fetched"), text.trim());
        assert_eq!(image.file("/linked/file"), text.trim());
        for unpacked in ["opt", "from-web"] {
            assert_eq!(image.file(&format!("{unpacked}/top/inside")), "inside");
        }
        for packed in ["packed", "kept", "copied"] {
            let path = format!("{packed}/archive.tar.gz");
            assert_eq!(fs::read(image.root().join(path)).expect("there"), archive);
        }
        for (path, shown) in [
            ("opt/top/inside", "-rw------- 1/2"),
            ("from-web/top/inside", "-rw------- 8/9"),
            ("fetched", "-rwxr----x 3/4"),
            ("linked/file", "-rw------- 0/0"),
        ] {
            assert_eq!(image.owner_and_mode(path), shown, "{platform}: {path}");
        }
    }
    let shared = runs(farm(), &format!("shared-{}", context.nonce));
    let plan = built.plan();
    assert_eq!(shared, [(plan.of_kind("shared")[0].agent().to_owned(), 1)]);
    ran_on_each(&context, "target");
    ran_on_each(&context, "after");
    plan.check_stages(ADDS_PLAN);
}

const CHANGING: &str = "\
FROM busybox
ARG WEB
ADD $WEB/file /one
RUN : target-$NONCE && uname -m > /machine && cp /one /seen
ADD $WEB/file /two
";

const CHANGING_PLAN: &str = "\
0 target on amd64 for amd64: linux/amd64 3/4 … 4/4
1 target on arm64 for arm64 after 0: linux/arm64 3/4 … 4/4
2 target on ppc64le for ppc64le after 0: linux/ppc64le 3/4 … 4/4
3 target on s390x for s390x after 0: linux/s390x 3/4 … 4/4
";

#[test]
fn a_url_that_changes_while_it_is_built_gives_every_platform_the_same() {
    let context = Context::new(CHANGING);
    let asked = AtomicUsize::new(0);
    let nonce = context.nonce.clone();
    let web = Web::answer(move |_| {
        let times = asked.fetch_add(1, Ordering::Relaxed);
        Some(format!("{nonce} {times}\n").into_bytes())
    });
    let argument = format!("--build-arg=WEB={}", web.address());
    let buildx = Buildx::of(farm());
    let (built, images) = published(&buildx, "changing", &context, &[&argument]);
    let all: BTreeSet<_> = images
        .iter()
        .flat_map(|image| ["/one", "/seen", "/two"].map(|path| image.file(path)))
        .collect();
    assert_eq!(all.len(), 1, "{all:?} {:?}", web.served());
    ran_on_each(&context, "target");
    built.plan().check_stages(CHANGING_PLAN);
    let gets = web.served().into_iter().filter(|one| one == "GET /file");
    assert_eq!(gets.count(), 1, "{:?}", web.served());
}

#[test]
fn a_url_s_wrong_checksum_fails_the_build() {
    let web = Web::serve([("/file", b"text".to_vec())]);
    let address = web.address();
    let sum = "0".repeat(64);
    let context = Context::new(&format!(
        "FROM scratch\nCOPY Dockerfile /$NONCE\nADD --checksum=sha256:{sum} {address}/file /\n"
    ));
    let built = Buildx::of(farm())
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64"])
        .run()
        .failed();
    let said = built.progress();
    assert!(said.contains("digest mismatch"), "{said}");
}

const GIT: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
ARG GIT
ADD $GIT#main:sub /sub
RUN : shared-$NONCE && cp /sub/file /shared
FROM busybox
ARG GIT
ADD --keep-git-dir=true $GIT#main /main
ADD --link --chown=5:6 $GIT#first /first
RUN : target-$NONCE && uname -m > /machine && cat /main/.git/HEAD > /head
COPY --from=builder /shared /
";

const GIT_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 3/3]
1 target on amd64 for amd64: [linux/amd64 stage-1 4/5]
2 target on arm64 for arm64 after 1: [linux/arm64 stage-1 4/5]
3 target on ppc64le for ppc64le after 1: [linux/ppc64le stage-1 4/5]
4 target on s390x for s390x after 1: [linux/s390x stage-1 4/5]
5 target on any (amd64) for amd64 after 0,1: [linux/amd64 stage-1 5/5]
6 target on any (arm64) for arm64 after 0,2: [linux/arm64 stage-1 5/5]
7 target on any (ppc64le) for ppc64le after 0,3: [linux/ppc64le stage-1 5/5]
8 target on any (s390x) for s390x after 0,4: [linux/s390x stage-1 5/5]
";

#[test]
fn a_git_repository_is_fetched_with_its_branch_tag_and_folder() {
    let buildx = Buildx::of(farm());
    let context = Context::new(GIT);
    let git = Git::serve(&context.nonce);
    let argument = format!("--build-arg=GIT={}", git.address());
    let (built, images) = published(&buildx, "git", &context, &[&argument]);
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/head"), git.head);
        assert_eq!(image.file("/shared"), format!("second {}", context.nonce));
        assert_eq!(image.file("/main/sub/file"), image.file("/shared"));
        assert_eq!(
            image.file("/first/sub/file"),
            format!("first {}", context.nonce)
        );
        assert_eq!(image.owner_and_mode("first/sub/file"), "-rw-r--r-- 5/6");
        assert!(image.has("/main/.git") && !image.has("/first/.git"));
    }
    ran_on_each(&context, "target");
    let plan = built.plan();
    let shared = runs(farm(), &format!("shared-{}", context.nonce));
    assert_eq!(shared, [(plan.of_kind("shared")[0].agent().to_owned(), 1)]);
    plan.check_stages(GIT_PLAN);
}
