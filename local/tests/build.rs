//! What the engine and the base image are for: real builds with the real buildx.

use std::{fs, process::Command};

use croft_local::{Workbench, buildx, skopeo};

#[test]
fn every_platform_of_the_base_image_runs_a_command() {
    let bench = Workbench::shared().unwrap();
    let platforms = [
        ("amd64", "x86_64"),
        ("arm64", "aarch64"),
        ("ppc64le", "ppc64le"),
        ("s390x", "s390x"),
    ];
    let image = format!("{}/tests/every:platform", bench.registry.address());
    let all = platforms.map(|(name, _)| format!("linux/{name}")).join(",");
    build(
        bench,
        &["--platform", &all, "--tag", &image, "--push"],
        "FROM busybox\nRUN test -n \"$(uname -m)\" && uname -m > /machine\n",
    );
    for (name, machine) in platforms {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("image.tar");
        run(skopeo()
            .unwrap()
            .command()
            .args([
                // A machine that has no skopeo of its own has no policy for one either.
                "--insecure-policy",
                "copy",
                "--quiet",
                "--src-tls-verify=false",
                "--override-arch",
                name,
            ])
            .arg(format!("docker://{image}"))
            .arg(format!("oci-archive:{}", archive.display())));
        run(Command::new("sh").current_dir(folder.path()).args(["-c", "tar -xf image.tar && for blob in blobs/sha256/*; do tar -xzf $blob machine 2>/dev/null; done; true"]));
        assert_eq!(
            fs::read_to_string(folder.path().join("machine"))
                .unwrap()
                .trim(),
            machine
        );
    }
}

fn build(bench: &Workbench, arguments: &[&str], dockerfile: &str) {
    let context = tempfile::tempdir().unwrap();
    fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    let mut command = buildx().unwrap().command();
    command
        .env(
            "DOCKER_HOST",
            format!("unix://{}", bench.engine.socket().display()),
        )
        .env("DOCKER_CONFIG", context.path())
        .env_remove("BUILDX_BUILDER")
        .args(["build", "--progress", "plain"])
        .args(arguments)
        .arg(context.path());
    run(&mut command);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
