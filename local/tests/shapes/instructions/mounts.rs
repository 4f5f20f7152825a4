//! `RUN --mount=type=bind`, `tmpfs`, `secret` and `ssh`. Caches are in `caches`.

use std::fs;

use sha2::{Digest as _, Sha256};

use super::{published, ran_on_each};
use crate::support::{
    Buildx, Context, PLATFORMS,
    engine::runs,
    farm, machine, nonce,
    ssh::{SshAgent, SshClient},
};

const BINDS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS tools
RUN : tools-$NONCE && mkdir -p /tools/deep && head -c 32 /dev/urandom | sha256sum > /tools/deep/random && echo big > /unused
FROM busybox AS own
RUN : own-$NONCE && uname -m > /own
FROM busybox
RUN --mount=type=bind,from=tools,source=/tools,target=/t \\
    --mount=type=bind,from=own,target=/o \\
    --mount=type=bind,source=sub,target=/c \\
    --mount=type=bind,from=tools,source=/tools/deep,target=/w,rw \\
    --mount=type=tmpfs,target=/scratch \\
    : used-$NONCE && set -e; \\
    cp /t/deep/random /random; cp /o/own /own; cp /c/file /file; test ! -e /t/unused; \\
    echo lost > /w/random; echo lost > /scratch/file; grep ' /scratch tmpfs ' /proc/mounts; \\
    if echo no > /t/more; then exit 1; fi
RUN --mount=type=bind,from=tools,source=/tools,target=/t cmp /t/deep/random /random
";

const BINDS_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 tools 2/2]
1 target on amd64 for amd64: [linux/amd64 own 2/2]
2 target on arm64 for arm64: [linux/arm64 own 2/2]
3 target on ppc64le for ppc64le: [linux/ppc64le own 2/2]
4 target on s390x for s390x: [linux/s390x own 2/2]
5 target on amd64 for amd64 after 0,1: linux/amd64 stage-2 2/3 … 3/3
6 target on arm64 for arm64 after 0,2,5: linux/arm64 stage-2 2/3 … 3/3
7 target on ppc64le for ppc64le after 0,3,5: linux/ppc64le stage-2 2/3 … 3/3
8 target on s390x for s390x after 0,4,5: linux/s390x stage-2 2/3 … 3/3
";

#[test]
fn bound_files_come_from_stages_of_any_platform_and_from_the_context_and_keep_nothing() {
    let buildx = Buildx::of(farm());
    let context = Context::new(BINDS).file("sub/file", "text");
    let (built, images) = published(&buildx, "binds", &context, &[]);
    let random = images[0].file("/random");
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/random"), random);
        assert_eq!(image.file("/own"), machine(platform));
        assert_eq!(image.file("/file"), "text");
        for empty in ["/scratch/file", "/w/random", "/t/deep", "/c/file", "/o/own"] {
            assert!(!image.has(empty), "{platform}: {empty}");
        }
    }
    let tools = runs(farm(), &format!("tools-{}", context.nonce));
    assert_eq!(
        tools,
        [(built.plan().of_kind("shared")[0].agent().to_owned(), 1)]
    );
    for step in ["own", "used"] {
        ran_on_each(&context, step);
    }
    built.plan().check_stages(BINDS_PLAN);
}

const SECRETS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN --mount=type=secret,id=word,required=true : shared-$NONCE && sha256sum < /run/secrets/word > /shared
ARG TARGETARCH
RUN --mount=type=secret,id=word,target=/word,mode=0440,uid=65534,gid=65534 : cross-$NONCE $TARGETARCH && \\
    sha256sum < /word > /cross && stat -c '%u:%g %a' /word > /stat
FROM busybox
USER nobody
WORKDIR /tmp
RUN --mount=type=secret,id=word,uid=65534 --mount=type=secret,id=absent : target-$NONCE && \\
    sha256sum < /run/secrets/word > own && test ! -e /run/secrets/absent
COPY --from=builder /shared /cross /stat /
";

const SECRETS_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 2/3]
1 target on amd64 for amd64: [linux/amd64 stage-1 3/4]
2 target on arm64 for arm64: [linux/arm64 stage-1 3/4]
3 target on ppc64le for ppc64le: [linux/ppc64le stage-1 3/4]
4 target on s390x for s390x: [linux/s390x stage-1 3/4]
5 target on amd64 for amd64 after 0,1: linux/amd64 builder 3/3, linux/amd64 stage-1 4/4
6 cross on amd64 for arm64 after 0: [linux/amd64->arm64 builder 3/3]
7 cross on amd64 for ppc64le after 0: [linux/amd64->ppc64le builder 3/3]
8 cross on amd64 for s390x after 0: [linux/amd64->s390x builder 3/3]
9 target on any (arm64) for arm64 after 2,6: [linux/arm64 stage-1 4/4]
10 target on any (ppc64le) for ppc64le after 3,7: [linux/ppc64le stage-1 4/4]
11 target on any (s390x) for s390x after 4,8: [linux/s390x stage-1 4/4]
";

#[test]
fn secrets_reach_shared_cross_and_target_stages_with_owner_and_mode() {
    let word = nonce();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("word");
    fs::write(&path, &word).expect("writable");
    let secret = format!("id=word,src={}", path.display());
    let buildx = Buildx::of(farm());
    let context = Context::new(SECRETS);
    let (built, images) = published(&buildx, "secrets", &context, &["--secret", &secret]);
    let hash = format!("{}  -", hex::encode(Sha256::digest(&word)));
    for image in images {
        for path in ["/shared", "/cross", "/tmp/own"] {
            assert_eq!(image.file(path), hash, "{path}");
        }
        assert_eq!(image.file("/stat"), "65534:65534 440");
        assert!(!image.has("/word"));
    }
    let shared = runs(farm(), &format!("shared-{}", context.nonce));
    assert_eq!(shared.len(), 1, "{shared:?}");
    assert_eq!(shared[0].1, 1);
    ran_on_each(&context, "target");
    built.plan().check_stages(SECRETS_PLAN);
}

const SSH: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN --mount=type=ssh --mount=type=bind,from=client,target=/client : shared-$NONCE && sh /client/list > /shared
FROM busybox
RUN --mount=type=ssh,id=other,target=/agent,mode=0666,uid=65534,required --mount=type=bind,from=client,target=/client \\
    : target-$NONCE && stat -c '%u %a' /agent > /stat && SSH_AUTH_SOCK=/agent sh /client/list > /own
COPY --from=builder /shared /
";

const SSH_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 2/2]
1 target on amd64 for amd64 after 0: [linux/amd64 stage-1 2/3]
2 target on arm64 for arm64 after 0: [linux/arm64 stage-1 2/3]
3 target on ppc64le for ppc64le after 0: [linux/ppc64le stage-1 2/3]
4 target on s390x for s390x after 0: [linux/s390x stage-1 2/3]
5 target on any (amd64) for amd64 after 0,1: [linux/amd64 stage-1 3/3]
6 target on any (arm64) for arm64 after 0,2: [linux/arm64 stage-1 3/3]
7 target on any (ppc64le) for ppc64le after 0,3: [linux/ppc64le stage-1 3/3]
8 target on any (s390x) for s390x after 0,4: [linux/s390x stage-1 3/3]
";

#[test]
fn keys_of_the_user_s_ssh_agents_can_be_used_on_every_agent() {
    let (one, other) = (SshAgent::start("key-one"), SshAgent::start("key-other"));
    let client = SshClient::find();
    let buildx = Buildx::of(farm());
    let context = Context::new(SSH);
    let arguments = [
        format!("--ssh=default={}", one.socket().display()),
        format!("--ssh=other={}", other.socket().display()),
        format!("--build-context=client={}", client.folder().display()),
    ];
    let arguments = arguments.each_ref().map(String::as_str);
    let (built, images) = published(&buildx, "ssh", &context, &arguments);
    for image in images {
        assert_eq!(image.file("/shared"), one.key);
        assert_eq!(image.file("/own"), other.key);
        assert_eq!(image.file("/stat"), "65534 666");
    }
    ran_on_each(&context, "target");
    let shared = runs(farm(), &format!("shared-{}", context.nonce));
    let plan = built.plan();
    assert_eq!(shared, [(plan.of_kind("shared")[0].agent().to_owned(), 1)]);
    plan.check_stages(SSH_PLAN);
}
