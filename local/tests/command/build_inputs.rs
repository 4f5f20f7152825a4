//! Whatever a build is made from reaches it: contexts of all kinds, secrets, agents.

use std::{fs, io::Write as _, process::Command};

use flate2::{Compression, write::GzEncoder};

use crate::build::{NOWHERE, build, repository, words_of};
use crate::support::{
    Context, Croft, Image, Repository, farm,
    git::Git,
    nonce,
    process::{self, Finished},
    ssh::{SshAgent, SshClient},
    web::Web,
};

/// Runs `croft build` with this as its standard input.
fn fed(croft: &Croft, words: &[&str], input: &[u8]) -> Finished {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(input).expect("writable");
    std::io::Seek::rewind(&mut file).expect("a file");
    let words = [&["build"][..], words].concat();
    process::start_reading(croft.command(words), file).finish()
}

/// A tar archive of a Dockerfile that copies a file, and that file.
fn archive(nonce: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [
        ("Dockerfile", "FROM scratch\nCOPY file /file\n"),
        ("file", nonce),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes())
            .expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// The image under a tag, which is for one platform.
#[track_caller]
fn only(repository: &Repository, tag: &str) -> Image {
    repository.published(tag).bare_image()
}

#[test]
fn an_archive_or_a_dockerfile_may_come_on_standard_input() {
    let croft = Croft::of(farm());
    let nonce = nonce();
    let image = repository();
    let tar = archive(&nonce);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar).expect("memory");
    for (number, input) in [tar, gzip.finish().expect("memory")].iter().enumerate() {
        let tag = format!("archive{number}");
        let name = image.tag(&tag);
        fed(&croft, &["--push", "-t", &name, "-"], input).succeeded();
        assert_eq!(only(&image, &tag).file("/file"), nonce);
    }
    let dockerfile = format!("FROM busybox\nRUN echo {nonce} > /file\n");
    let name = image.tag("dockerfile");
    fed(&croft, &["--push", "-t", &name, "-"], dockerfile.as_bytes()).succeeded();
    let published = only(&image, "dockerfile");
    assert_eq!(published.file("/file"), nonce);

    let context = Context::new("FROM nowhere\n").file("file", &nonce);
    let name = image.tag("beside");
    let folder = context.path().display().to_string();
    let words = ["--push", "-t", &name, "-f", "-", &folder];
    fed(&croft, &words, b"FROM scratch\nCOPY file /file\n").succeeded();
    assert_eq!(only(&image, "beside").file("/file"), nonce);
}

#[test]
fn the_farm_gets_git_and_http_contexts_by_itself() {
    let croft = Croft::of(farm());
    let image = repository();
    let text = nonce();
    let git = Git::serve(&text);
    let dockerfile = "FROM scratch\nCOPY sub/file /file\n";
    let folder = Context::new(dockerfile);
    let file = folder.path().join("Dockerfile").display().to_string();
    let (name, context) = (image.tag("git"), format!("{}#first", git.address()));
    let words = ["build", "--push", "-t", &name, "-f", &file, &context];
    croft.run(words).succeeded();
    let published = only(&image, "git");
    assert_eq!(published.file("/file"), format!("first {text}"));

    let web = Web::serve([("/context.tar", archive(&text))]);
    let (name, context) = (image.tag("http"), format!("{}/context.tar", web.address()));
    croft
        .run(["build", "--push", "-t", &name, &context])
        .succeeded();
    assert_eq!(only(&image, "http").file("/file"), text);
}

#[test]
fn named_contexts_are_folders_images_and_layouts() {
    let farm = farm();
    let croft = Croft::of(farm);
    let library = Context::new("").file("file", &nonce());
    let image = repository();
    let base = Context::new("FROM scratch\nCOPY Dockerfile /from-$NONCE\n");
    let layout = croft.home().join("layout");
    fs::create_dir(&layout).unwrap();
    let tar = layout.join("image.tar");
    let output = format!("--output=type=oci,dest={}", tar.display());
    build(&croft, &base, &[&output]).succeeded();
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&tar).arg("-C").arg(&layout);
    process::run(unpack).succeeded();

    let context = Context::new(
        "FROM base AS renamed\nFROM scratch\nCOPY --from=library file /file\nCOPY --from=renamed / /base/\nCOPY --from=busybox:9 /bin/busybox /busybox\n",
    );
    let name = image.tag("1");
    let folder = format!("--build-context=library={}", library.path().display());
    let oci = format!("--build-context=base=oci-layout://{}", layout.display());
    let words = [
        "--push",
        "-t",
        &name,
        &folder,
        &oci,
        "--build-context=busybox:9=docker-image://busybox",
    ];
    build(&croft, &context, &words).succeeded();
    let built = only(&image, "1");
    let expect = fs::read_to_string(library.path().join("file")).unwrap();
    assert_eq!(built.file("/file"), expect);
    assert!(
        built
            .file(&format!("/base/from-{}", base.nonce))
            .contains("FROM scratch")
    );
}

#[test]
fn secrets_and_ssh_agents_reach_the_steps_that_ask_for_them() {
    let farm = farm();
    let agent = SshAgent::start("a key of a test");
    let client = SshClient::find();
    let socket = agent.socket().display().to_string();
    let (file, variable) = (nonce(), nonce());
    let croft = Croft::of(farm)
        .env("OUTSIDE", &variable)
        .env("SSH_AUTH_SOCK", &socket);
    let path = croft.home().join("secret");
    fs::write(&path, &file).unwrap();
    let half = |secret: &str| secret[..secret.len() / 2].to_owned();
    let rest = |secret: &str| secret[secret.len() / 2..].to_owned();
    let context = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=INSIDE : $NONCE && \
         [ \"$(cat /run/secrets/file)\" = {}\"\"{} ] && [ \"$INSIDE\" = {}\"\"{} ]\n\
         RUN --mount=type=ssh --mount=from=client,target=/client : $NONCE && sh /client/list | grep -q '{}'\n",
        half(&file),
        rest(&file),
        half(&variable),
        rest(&variable),
        agent.key.split(' ').nth(1).expect("a key"),
    ));
    let secret = format!("--secret=id=file,src={}", path.display());
    let folder = format!("--build-context=client={}", client.folder().display());
    let words = [
        NOWHERE,
        &secret,
        "--secret=id=variable,env=OUTSIDE",
        "--ssh=default",
        &folder,
    ];
    let built = croft.run(words_of(context.path(), &words)).succeeded();
    for secret in [&file, &variable] {
        assert!(!built.report().contains(secret.as_str()));
    }
}
