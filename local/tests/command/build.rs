//! `croft build` makes what buildx makes, and leaves behind what buildx leaves behind.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    Buildx, Context, Croft, PLATFORMS, Repository, farm, nonce,
    process::{self, Finished},
};

/// Nobody wants its result.
pub const NOWHERE: &str = "--output=type=cacheonly";

/// `croft build` of this context with these arguments.
pub fn build(croft: &Croft, context: &Context, words: &[&str]) -> Finished {
    croft.run(words_of(context.path(), words))
}

/// The words of such a command.
pub fn words_of(context: &Path, words: &[&str]) -> Vec<String> {
    let mut all = vec!["build".to_owned()];
    all.extend(words.iter().map(|&word| word.to_owned()));
    all.push(context.display().to_string());
    all
}

#[track_caller]
pub fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// A repository of a test's own.
pub fn repository() -> Repository {
    Repository::of(farm().registry(), &nonce())
}

#[test]
fn the_same_build_has_the_same_digest_and_metadata_as_buildx_s() {
    let farm = farm();
    let context = Context::new(
        "FROM --platform=$BUILDPLATFORM busybox AS builder\nRUN echo $NONCE > /shared\n\
         FROM busybox\nARG WORD\nCOPY --from=builder /shared /shared\nRUN uname -m > /machine && echo $WORD > /word\n\
         ENTRYPOINT [\"/bin/sh\"]\n",
    )
    .file(".dockerignore", "ignored\n")
    .file("ignored", "x");
    let image = repository();
    let platforms = PLATFORMS.join(",");
    let tag = image.tag("1");
    let words = [
        "--platform",
        &platforms,
        "--output",
        "type=image,push=true,rewrite-timestamp=true",
        "--tag",
        &tag,
        "--build-arg",
        "WORD=hello",
        "--label",
        "a.b=c d",
        "--annotation",
        "index:note=here",
        "--no-cache",
    ];
    let buildx = Buildx::of(farm);
    let theirs = buildx
        .build(&context)
        .args(words)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .run()
        .succeeded();
    let published = image.published("1");

    let croft = Croft::of(farm).env("SOURCE_DATE_EPOCH", "1700000000");
    let (metadata, id) = (croft.home().join("metadata"), croft.home().join("id"));
    let files = format!("--metadata-file={}", metadata.display());
    let ids = format!("--iidfile={}", id.display());
    let ours = build(&croft, &context, &[&words[..], &[&files, &ids]].concat()).succeeded();
    assert_eq!(ours.stdout, "");

    assert_eq!(image.published("1").digest, published.digest);
    assert_eq!(published.platforms(), PLATFORMS);
    let mut theirs = theirs.metadata();
    let mut ours = json(&metadata);
    let reference = ours["croft.build.ref"].as_str().expect("a ref").to_owned();
    theirs.as_object_mut().unwrap().remove("buildx.build.ref");
    ours.as_object_mut().unwrap().remove("croft.build.ref");
    assert_eq!(ours, theirs);
    assert_eq!(fs::read_to_string(id).unwrap(), published.digest);
    // The reference is good for the other commands.
    let shown = croft
        .run(["builds", "show", &reference, "--format", "json"])
        .succeeded();
    assert!(shown.stdout.contains("succeeded"), "{}", shown.stdout);
}

#[test]
fn quiet_prints_the_image_s_id_alone_and_nothing_of_an_earlier_build_is_left_when_one_fails() {
    let farm = farm();
    let croft = Croft::of(farm);
    let context = Context::new("FROM busybox\nRUN echo $NONCE\n");
    let image = repository();
    let tag = image.tag("1");
    let id = croft.home().join("id");
    let ids = format!("--iidfile={}", id.display());
    let words = ["--push", "-q", "-t", &tag, &ids];
    let built = build(&croft, &context, &words).succeeded();
    let written = fs::read_to_string(&id).unwrap();
    assert_eq!(
        (built.stdout, built.stderr.as_str()),
        (format!("{written}\n"), "")
    );
    let published = image.published("1");
    assert_eq!(published.document["config"]["digest"], written.as_str());

    let fails = Context::new("FROM busybox\nRUN echo $NONCE; exit 3\n");
    let failed = build(&croft, &fails, &words).failed();
    assert_eq!(failed.stdout, "");
    assert!(!id.exists());
}

#[test]
fn a_private_registry_takes_what_is_pushed_with_the_user_s_login_and_a_helper_s() {
    let farm = farm();
    let private = farm.private();
    let login = private.credentials().expect("it wants a password");
    let address = private.address().to_string();
    let context = Context::new("FROM busybox\nRUN echo $NONCE\n");
    let image = Repository::of(private, &nonce());
    let tag = image.tag("1");
    let push = ["--push", "-t", tag.as_str()];

    let nobody = Croft::of(farm);
    let refused = build(&nobody, &context, &push).failed();
    assert!(refused.stderr.contains("401"), "{}", refused.report());
    assert_eq!(refused.status.code(), Some(1));

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let auth = STANDARD.encode(format!("{}:{}", login.user, login.password));
    let podman = Croft::of(farm);
    let file = podman.home().join(".config/containers/auth.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(
        &file,
        format!(r#"{{"auths":{{"{address}":{{"auth":"{auth}"}}}}}}"#),
    )
    .unwrap();
    let built = build(&podman, &context, &push).succeeded();
    assert!(image.find("1").is_some());
    assert!(!built.report().contains(&login.password));

    let helped = Croft::of(farm);
    let programs = helped.home().join("bin");
    fs::create_dir_all(&programs).unwrap();
    let helper = programs.join("docker-credential-test");
    let answer = format!(
        "#!/bin/sh\nread host\n[ \"$host\" = {address} ] || {{ echo credentials not found in native keychain; exit 1; }}\n\
         echo '{{\"Username\":\"{}\",\"Secret\":\"{}\"}}'\n",
        login.user, login.password
    );
    fs::write(&helper, answer).unwrap();
    let mut executable = std::process::Command::new("chmod");
    executable.arg("+x").arg(&helper);
    process::run(executable).succeeded();
    fs::create_dir(helped.home().join(".docker")).unwrap();
    let config = helped.home().join(".docker/config.json");
    fs::write(config, r#"{"credsStore":"test"}"#).unwrap();
    let path = format!(
        "{}:{}",
        programs.display(),
        std::env::var("PATH").expect("a PATH")
    );
    let helped = helped.env("PATH", &path);
    let again = image.tag("2");
    build(&helped, &context, &["--push", "-t", &again]).succeeded();
    assert!(image.find("2").is_some());
}

#[test]
fn what_is_not_supported_is_refused_before_anything_runs() {
    let croft = Croft::of(farm());
    let context = Context::new("FROM scratch\n");
    for (words, code, says) in [
        (&["--squash"][..], 2, "--squash"),
        (&["--push"], 2, "--tag"),
        (&["--output=type=magic"], 2, "magic"),
        (&["--attest=type=sbom"], 2, "no attestations"),
        (&["--cache-to=type=inline"], 1, "--cache-to"),
        (&["--file=nowhere"], 2, "no nowhere in"),
        (&["--secret=id=x,src=nowhere"], 2, "nowhere"),
        (&["--ssh=default"], 2, "SSH_AUTH_SOCK"),
    ] {
        let refused = build(&croft, &context, words).failed();
        assert_eq!(refused.status.code(), Some(code), "{}", refused.report());
        assert!(refused.stderr.contains(says), "{}", refused.report());
    }
}
