//! Builds of what buildx reads from its standard input (`Upload.Pull`), which can be pulled once only.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _, pipe},
    process::Command,
};

use crate::support::{
    Buildx, Context, PLATFORMS, Repository,
    builds::{listed, text},
    engine::runs,
    farm, farm_of, machine, nonce,
    process::{self, eventually},
    records,
};

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("writable");
    file.rewind().expect("a file");
    file
}

/// A context as an archive.
fn archive(context: &Context) -> File {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(context.path())
        .arg("-cf")
        .arg(file.path());
    tar.arg(".");
    process::run(tar).succeeded();
    file.reopen().expect("a file")
}

/// Every stage reads the context, on every agent.
const EVERYWHERE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS build
COPY file /file
RUN : shared-$NONCE && cp /file /copy
FROM busybox
RUN : before-$NONCE && uname -m > /machine
COPY folder /folder
RUN : target-$NONCE && cp /folder/deep /deep
COPY --from=build /copy /
";

#[test]
fn an_archive_is_uploaded_once_however_many_agents_need_it() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(EVERYWHERE)
        .file("file", "a file")
        .file("folder/deep", "further down");
    let image = Repository::of(farm.registry(), "sessions/archive");
    let build = buildx.build_from("-").reading(archive(&context));
    let built = build
        .platforms(&PLATFORMS)
        .push(&image.tag("1"))
        .run()
        .succeeded();
    let published = image.published("1");
    assert_eq!(published.digest, built.digest());
    for platform in PLATFORMS {
        let image = published.image(platform);
        assert_eq!(image.file("/machine"), machine(platform));
        assert_eq!(image.file("/copy"), "a file");
        assert_eq!(image.file("/deep"), "further down");
    }
    let shared = runs(farm, &format!("shared-{}", context.nonce));
    assert!(shared.len() == 1 && shared[0].1 == 1, "{shared:?}");
    let target = runs(farm, &format!("target-{}", context.nonce));
    assert_eq!(target.len(), 4, "{target:?}");
}

#[test]
fn a_build_of_one_platform_is_placed_where_its_archive_was_unpacked() {
    // Two agents could run it: the one that read the Dockerfile has the archive. One build might be lucky.
    let buildx = Buildx::of(farm());
    for _ in 0..4 {
        let context = Context::new("FROM busybox\nCOPY file /\nRUN : $NONCE && grep text /file\n")
            .file("file", "text");
        let build = buildx.build_from("-").reading(archive(&context));
        build.platforms(&["linux/amd64"]).run().succeeded();
    }
}

#[test]
fn a_dockerfile_can_be_read_alone_or_beside_a_folder() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let nonce = nonce();
    let alone = format!("FROM busybox\nRUN : alone-{nonce} && uname -m > /machine\n");
    let build = buildx.build_from("-").reading(file_of(alone.as_bytes()));
    build.platforms(&PLATFORMS).run().succeeded();
    let ran = runs(farm, &format!("alone-{nonce}"));
    assert_eq!(ran.len(), 4, "{ran:?}");

    let context = Context::new("FROM broken\n").file("file", "text");
    let beside = format!("FROM busybox\nCOPY file /\nRUN : beside-{nonce} && grep text /file\n");
    let build = buildx.build(&context).args(["--file", "-"]);
    let build = build.reading(file_of(beside.as_bytes()));
    build.platforms(&PLATFORMS).run().succeeded();
    let ran = runs(farm, &format!("beside-{nonce}"));
    assert_eq!(ran.len(), 4, "{ran:?}");
}

#[test]
fn a_client_that_goes_away_while_it_uploads_ends_its_build_and_nothing_else() {
    let farm = farm_of("amd64", &[]);
    let buildx = Buildx::of(&farm);
    let context = Context::new("FROM busybox\nCOPY large /\nRUN : $NONCE\n");
    context.write("large", &vec![7; 8 << 20]);
    let (from, mut to) = pipe().expect("a pipe");
    let build = buildx.build_from("-").reading(from);
    let mut running = build.platforms(&["linux/amd64"]).start();
    // Half of it, and then nothing more: all but the last few bytes are on their way when this returns.
    let mut half = archive(&context).take(4 << 20);
    std::io::copy(&mut half, &mut to).expect("it reads");
    let state = |wanted: &'static str| {
        let one = || listed(&farm).into_iter().next();
        eventually(wanted, || {
            one().filter(|build| text(build, "state") == wanted)
        })
    };
    state("planning");
    running.kill();
    drop(running);
    let over = state("cancelled");
    assert_eq!(text(&over, "error"), "the client is gone");

    let context = Context::new("FROM busybox\nRUN : $NONCE\n");
    buildx.build(&context).run().succeeded();
    assert_eq!(listed(&farm).len(), 2);
    // What its engine held of the upload it held through the build's keeper.
    for agent in farm.agents() {
        eventually("the engine holds nothing of it", || {
            let records = records(agent);
            let idle = records.iter().all(|record| record.reclaimable);
            idle.then_some(())
        });
    }
}
