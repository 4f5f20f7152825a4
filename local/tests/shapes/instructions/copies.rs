//! `COPY` with all its flags, and documents in the Dockerfile itself.

use std::os::unix::fs::symlink;

use super::{published, ran_on_each};
use crate::support::{Buildx, Context, PLATFORMS, engine::runs, farm, machine};

const COPIES: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN : builder-$NONCE && mkdir -p /out/deep /out/sticky && echo a > /out/a && echo b > /out/deep/b && \\
    echo log > /out/deep/c.log && echo d > /out/d && ln -s a /out/link && ln /out/a /out/hard && \\
    chmod 600 /out/d && chmod 1777 /out/sticky && chown 5:6 /out/d
FROM busybox
RUN : target-$NONCE && echo 'app:x:1234:1234::/:/bin/sh' >> /etc/passwd && uname -m > /machine
COPY --link --from=builder /out/a /linked/a
COPY --link --chown=7:8 --chmod=4755 --from=builder /out/a /linked/b
COPY --from=builder --chown=app:nogroup --chmod=750 /out/deep /named/
COPY --from=builder --chown=1000:2000 /out/d /out/link /numbered/
COPY --from=builder /out /whole/
COPY --from=builder --exclude=**/*.log --exclude=d /out /without/
COPY --from=builder /out/d* /wild/
COPY --exclude=*.md --exclude=drop --link sub /context/
COPY [\"sub/./kept\", \"sub/with space\", \"/several/\"]
RUN : after-$NONCE && cat /named/b /linked/b && stat -c '%U' /named/b > /owner
";

const COPIES_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 2/2]
1 target on amd64 for amd64: [linux/amd64 stage-1  2/12]
2 target on arm64 for arm64: [linux/arm64 stage-1  2/12]
3 target on ppc64le for ppc64le: [linux/ppc64le stage-1  2/12]
4 target on s390x for s390x: [linux/s390x stage-1  2/12]
5 target on amd64 for amd64 after 0,1: [linux/amd64 stage-1 12/12]
6 target on arm64 for arm64 after 0,2,5: [linux/arm64 stage-1 12/12]
7 target on ppc64le for ppc64le after 0,3,5: [linux/ppc64le stage-1 12/12]
8 target on s390x for s390x after 0,4,5: [linux/s390x stage-1 12/12]
";

#[test]
fn copies_keep_or_get_owners_modes_and_links_and_leave_out_what_they_are_told_to() {
    let buildx = Buildx::of(farm());
    let context = Context::new(COPIES)
        .file("sub/kept", "kept")
        .file("sub/with space", "space")
        .file("sub/drop/file", "x")
        .file("sub/notes.md", "x");
    symlink("kept", context.path().join("sub/link")).expect("writable");
    let (built, images) = published(&buildx, "copies", &context, &[]);
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/machine"), machine(platform));
        for (path, shown) in [
            ("linked/a", "-rw-r--r-- 0/0"),
            ("linked/b", "-rwsr-xr-x 7/8"),
            ("named/", "drwxr-x--- 1234/65534"),
            ("named/b", "-rwxr-x--- 1234/65534"),
            // The folder is made for the files: its owner is theirs.
            ("numbered/", "drwxr-xr-x 1000/2000"),
            ("numbered/d", "-rw------- 1000/2000"),
            // A link that is named itself is followed.
            ("numbered/link", "-rw-r--r-- 1000/2000"),
            ("whole/d", "-rw------- 5/6"),
            ("whole/link", "lrwxrwxrwx 0/0"),
            ("whole/sticky/", "drwxrwxrwt 0/0"),
            ("without/deep/b", "-rw-r--r-- 0/0"),
            ("wild/d", "-rw------- 5/6"),
            ("context/link", "lrwxrwxrwx 0/0"),
        ] {
            assert_eq!(image.owner_and_mode(path), shown, "{platform}: {path}");
        }
        assert_eq!(image.file("/linked/b"), "a");
        assert_eq!(image.file("/wild/d"), "d");
        assert_eq!(image.file("/wild/b"), "b");
        assert_eq!(image.file("/context/kept"), "kept");
        assert_eq!(image.file("/several/with space"), "space");
        assert_eq!(image.file("/owner"), "app");
        for dropped in [
            "without/d",
            "without/deep/c.log",
            "context/drop",
            "context/notes.md",
        ] {
            assert!(!image.has(dropped), "{platform}: {dropped}");
        }
    }
    let plan = built.plan();
    assert_eq!(
        runs(farm(), &format!("builder-{}", context.nonce)),
        [(plan.of_kind("shared")[0].agent().to_owned(), 1)]
    );
    for step in ["target", "after"] {
        ran_on_each(&context, step);
    }
    plan.check_stages(COPIES_PLAN);
}

const DOCUMENTS: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
ARG WORD=$NONCE
COPY <<first.txt <<\"second.txt\" /documents/
$WORD
first.txt
$WORD
second.txt
RUN <<one cat > /shared && : shared-$NONCE
shared $NONCE
one
ARG TARGETARCH
RUN <<EOF
set -e
: cross-$NONCE
word=cross
echo $word $TARGETARCH > /cross
EOF
FROM busybox
COPY --chmod=0755 --chown=3:4 <<-EOT /bin/said
	#!/bin/sh
	uname -m
	EOT
RUN <<EOF
#!/bin/sh -e
said > /machine
EOF
RUN --network=none <<EOF sh && : target-$NONCE
ip -o link | grep -vc ' lo: ' > /links || true
EOF
COPY --from=builder /documents /shared /cross /
";

const DOCUMENTS_PLAN: &str = "\
0 shared on amd64 for amd64,arm64,ppc64le,s390x: [linux/amd64 builder 3/4]
1 target on amd64 for amd64: linux/amd64 stage-1 3/5 … 4/5
2 target on arm64 for arm64: linux/arm64 stage-1 3/5 … 4/5
3 target on ppc64le for ppc64le: linux/ppc64le stage-1 3/5 … 4/5
4 target on s390x for s390x: linux/s390x stage-1 3/5 … 4/5
5 target on amd64 for amd64 after 0,1: linux/amd64 builder 4/4, linux/amd64 stage-1 5/5
6 cross on amd64 for arm64 after 0: [linux/amd64->arm64 builder 4/4]
7 cross on amd64 for ppc64le after 0: [linux/amd64->ppc64le builder 4/4]
8 cross on amd64 for s390x after 0: [linux/amd64->s390x builder 4/4]
9 target on any (arm64) for arm64 after 2,6: [linux/arm64 stage-1 5/5]
10 target on any (ppc64le) for ppc64le after 3,7: [linux/ppc64le stage-1 5/5]
11 target on any (s390x) for s390x after 4,8: [linux/s390x stage-1 5/5]
";

#[test]
fn documents_in_the_dockerfile_are_files_and_scripts_on_every_platform() {
    let buildx = Buildx::of(farm());
    let context = Context::new(DOCUMENTS);
    let (built, images) = published(&buildx, "documents", &context, &[]);
    for (platform, image) in PLATFORMS.iter().zip(&images) {
        assert_eq!(image.file("/first.txt"), context.nonce);
        assert_eq!(image.file("/second.txt"), "$WORD");
        assert_eq!(image.file("/shared"), format!("shared {}", context.nonce));
        let architecture = platform.trim_start_matches("linux/");
        assert_eq!(image.file("/cross"), format!("cross {architecture}"));
        assert_eq!(image.owner_and_mode("bin/said"), "-rwxr-xr-x 3/4");
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/links"), "0");
    }
    let plan = built.plan();
    let agent = plan.of_kind("shared")[0].agent();
    let ran = |step: &str| runs(farm(), &format!("{step}-{}", context.nonce));
    assert_eq!(ran("shared"), [(agent.to_owned(), 1)]);
    let cross = ran("cross");
    assert!(cross.iter().all(|(agent, _)| agent.starts_with("amd64-")));
    assert_eq!(cross.iter().map(|(_, times)| times).sum::<usize>(), 4);
    ran_on_each(&context, "target");
    plan.check_stages(DOCUMENTS_PLAN);
}
