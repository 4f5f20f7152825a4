//! Contexts that are not on the client's machine. Folders, images and layouts of it are with the instructions that use them, in `shapes`.

use std::{fs, process::Command};

use crate::support::{
    Buildx, Context, PLATFORMS, Repository, engine::runs, farm, git::Git, machine, nonce, process,
    web::Web,
};

/// Every stage reads the context, on every agent.
const EVERYWHERE: &str = "\
FROM --platform=$BUILDPLATFORM busybox AS build
COPY sub/file /file
RUN : shared-$NONCE && cp /file /copy
FROM busybox
RUN : before-$NONCE && uname -m > /machine
COPY sub /sub
RUN : target-$NONCE && cp /sub/file /deep
COPY --from=build /copy /
";

/// Builds this remote context, with a Dockerfile of the client's if one is given.
#[track_caller]
fn check(path: &str, remote: &str, dockerfile: Option<&Context>, nonce: &str, text: &str) {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let image = Repository::of(farm.registry(), path);
    let mut build = buildx.build_from(remote);
    if let Some(context) = dockerfile {
        let file = fs::File::open(context.path().join("Dockerfile")).expect("there");
        build = build.args(["--file", "-"]).reading(file);
    }
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
        assert_eq!(image.file("/copy"), text);
        assert_eq!(image.file("/deep"), text);
    }
    let shared = runs(farm, &format!("shared-{nonce}"));
    assert!(shared.len() == 1 && shared[0].1 == 1, "{shared:?}");
    let target = runs(farm, &format!("target-{nonce}"));
    assert_eq!(target.len(), 4, "{target:?}");
}

#[test]
fn an_archive_on_the_web_is_a_context_for_all_agents_alike() {
    let context = Context::new(EVERYWHERE).file("sub/file", "from the web");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(context.path());
    tar.arg("-czf").arg(file.path()).arg(".");
    process::run(tar).succeeded();
    let web = Web::serve([("/context.tar.gz", fs::read(file.path()).expect("there"))]);
    let remote = format!("{}/context.tar.gz", web.address());
    check(
        "sessions/web",
        &remote,
        None,
        &context.nonce,
        "from the web",
    );
}

#[test]
fn a_git_repository_is_a_context_for_all_agents_alike() {
    let nonce = nonce();
    let git = Git::serve(&nonce);
    let context = Context::with_nonce(EVERYWHERE, &nonce);
    let remote = format!("{}#main", git.address());
    let text = format!("second {nonce}");
    check("sessions/git", &remote, Some(&context), &nonce, &text);
}
