//! What travels from agent to agent is what is read there and no more, and it looks there as it does on one engine.

use crate::support::{
    Buildx, Context, Published, Repository, engine::alone, farm, process, registry::repositories,
};

const TARGET: &str = "linux/arm64";

/// All kinds of files, in folders of all kinds, reached in all ways.
const KINDS: &str = "\
FROM --platform=linux/amd64 busybox AS builder
RUN : $NONCE && mkdir -p /out/dir/sub /out/empty /libs /elsewhere /mounted/part/deep && cd /out/dir \\
 && echo one > one && ln one hard && ln -s one link && ln -s /nowhere dangling && ln -s ../../elsewhere away \\
 && echo two > sub/two && chown 7:8 sub/two && chmod 4755 sub/two && echo quiet > quiet && chmod 600 quiet \\
 && mknod null c 1 3 && mkfifo pipe && chown 5:6 sub && chmod 2750 sub && mkdir sticky && chmod 1777 sticky \\
 && cd /libs && echo a > a.so && echo b > b.so && ln -s a.so c.so && ln -s ../elsewhere/far d.so && echo t > t.txt \\
 && mkdir e.so && echo in > e.so/in && chmod 700 e.so && echo far > /elsewhere/far \\
 && ln -s /out /turned && ln -s /elsewhere/far /pointer \\
 && echo deep > /mounted/part/deep/file && ln -s deep/file /mounted/part/link && ln -s part /mounted/turn \\
 && head -c 5000000 /dev/urandom > /out/dir-not && head -c 5000000 /dev/urandom > /mounted/not \\
 && find /out /libs /elsewhere /mounted -exec touch -h -d @1600000000 {} +
FROM busybox
RUN : own-$NONCE
COPY --from=builder /out/dir /got/dir
COPY --from=builder /out/empty /got/empty
COPY --from=builder /libs/*.so /got/libs/
COPY --from=builder /libs-none*/ /got/
COPY --from=builder /pointer /got/file
COPY --from=builder --chown=9:10 --chmod=640 /elsewhere/far /got/owned
RUN --mount=type=bind,from=builder,source=/mounted/turn,target=/mnt \\
    --mount=type=bind,from=builder,source=/turned/empty,target=/mnt-empty,rw \\
    touch /mnt-empty/written && ls -lRn /mnt /mnt-empty | sed 's/[A-Z][a-z][a-z] .*written/written/' > /seen
RUN find /got -mindepth 1 -exec stat -c '%n|%F|%a|%u:%g|%h|%s|%t,%T|%Y' {} + | grep -v '^/got/libs|' | sort > /listing \\
 && find /got -type f | sort | xargs sha256sum >> /listing && find /got -type l | sort | xargs -n1 readlink >> /listing
";

/// What the farm made of a Dockerfile, and what one engine did, in these files.
fn on_both_sides<const N: usize>(
    dockerfile: &str,
    name: &str,
    files: [&str; N],
) -> [[String; N]; 2] {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(dockerfile);
    let [through, past] =
        ["farm", "plain"].map(|side| Repository::of(farm.registry(), &format!("{name}/{side}")));
    buildx
        .build(&context)
        .platforms(&[TARGET])
        .push(&through.tag("latest"))
        .run()
        .succeeded();
    let mut plain = alone(
        &buildx,
        farm.agents()[0].engine(),
        ["build", "--provenance=false"],
    );
    plain
        .args(["--platform", TARGET, "--push", "--tag", &past.tag("latest")])
        .arg(context.path());
    process::run(plain).succeeded();
    [through, past].map(|repository| {
        let published = repository.published("latest");
        let image = match published.is_list() {
            true => published.image(TARGET),
            false => published.bare_image(),
        };
        files.map(|file| image.file(file))
    })
}

#[test]
fn what_is_read_elsewhere_looks_as_it_does_on_one_engine() {
    let files = ["/listing", "/seen"];
    let [farm, plain] = on_both_sides(KINDS, "narrowing/kinds", files);
    assert_eq!(farm[0], plain[0]);
    assert_eq!(farm[1], plain[1]);
    for part in [
        "/got/dir/sub/two|regular file|4755|7:8",
        "/got/dir/sub|directory|2750|5:6",
        "deep/file",
    ] {
        assert!(farm.concat().contains(part), "{part} in {farm:#?}");
    }
}

const SMALL: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS builder
RUN : slow-$NONCE && head -c 10000000 /dev/urandom > /large && mkdir /out && head -c 1000 /dev/urandom > /out/shared
ARG TARGETARCH
RUN : cross-$NONCE && head -c 10000 /dev/urandom > /out/own
FROM busybox
RUN : final-$NONCE
COPY --link --from=builder /out /out
RUN --mount=type=bind,from=builder,source=/out/own,target=/mnt cp /mnt /mounted
";

#[test]
fn what_nobody_reads_stays_where_it_was_made() {
    let farm = farm();
    let context = Context::new(SMALL);
    let repository = Repository::of(farm.registry(), "narrowing/small");
    let buildx = Buildx::of(farm);
    let built = buildx
        .build(&context)
        .platforms(&["linux/arm64", "linux/s390x"])
        .push(&repository.tag("latest"))
        .run()
        .succeeded();
    let plan = built.plan();
    // What the cross stages go on from may have gone from one agent of the build platform to the other, whole.
    let shared = plan.of_kind("shared")[0].number;
    let narrow: Vec<_> = plan
        .transfers
        .iter()
        .filter(|one| one.from_stage != shared)
        .collect();
    // For each target all of /out, and beside it the file that another step reads, as random bytes don't shrink.
    let mut sizes: Vec<u64> = narrow.iter().map(|one| one.bytes / 1000).collect();
    sizes.sort();
    assert_eq!(sizes, [10, 10, 11, 11], "{plan:#?}");

    // They are packed as it takes the least time, and none of that comes into an image.
    let names = repositories(farm.stage());
    let stages = Repository::of(farm.stage(), &names[0]);
    let packed = |published: &Published| -> Vec<String> {
        let layers = published.document["layers"].as_array().unwrap();
        layers
            .iter()
            .map(|layer| layer["mediaType"].as_str().unwrap().to_owned())
            .collect()
    };
    for transfer in narrow {
        let layers = packed(&stages.published(&transfer.digest));
        assert_eq!(layers, ["application/vnd.oci.image.layer.v1.tar+zstd"]);
    }
    let image = repository.published("latest").image("linux/arm64").manifest;
    assert!(
        packed(&image).iter().all(|layer| layer.ends_with("+gzip")),
        "{image:?}"
    );
}
