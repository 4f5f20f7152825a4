//! Results go where they are wanted: folders, archives, standard output, the machine's own engine.

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command,
};

use serde_json::{Value, json};

use crate::build::{build, json, repository};
use crate::support::{
    BUILDER, Buildx, Context, Croft, engine::runs, farm, process, registry::digest,
};

const TWO: &str = "--platform=linux/amd64,linux/arm64";

fn context() -> Context {
    Context::new(
        "FROM busybox AS made\nRUN echo $NONCE > /file && uname -m > /machine\nFROM scratch\nCOPY --from=made /file /machine /\n",
    )
}

#[test]
fn a_folder_an_archive_and_a_registry_at_once() {
    let croft = Croft::of(farm());
    let context = context();
    let image = repository();
    let name = image.tag("1");
    let (folder, tar) = (croft.home().join("out"), croft.home().join("deep/out.tar"));
    let local = format!("--output={}", folder.display());
    let archive = format!("--output=type=tar,dest={}", tar.display());
    let words = [TWO, &local, &archive, "--push", "-t", &name];
    build(&croft, &context, &words).succeeded();
    for (platform, machine) in [("linux_amd64", "x86_64\n"), ("linux_arm64", "aarch64\n")] {
        let at = folder.join(platform);
        assert_eq!(fs::read_to_string(at.join("machine")).unwrap(), machine);
        let file = fs::read_to_string(at.join("file")).unwrap();
        assert_eq!(file, format!("{}\n", context.nonce));
    }
    let mut list = Command::new("tar");
    list.arg("-tf").arg(&tar);
    let listed = process::run(list).succeeded().stdout;
    assert!(listed.contains("linux_arm64/machine"), "{listed}");
    assert_eq!(
        image.published("1").platforms(),
        ["linux/amd64", "linux/arm64"]
    );
}

#[test]
fn an_archive_goes_to_standard_output_and_progress_beside_it() {
    let croft = Croft::of(farm());
    let context = context();
    let words = ["build", "--output=-", "--progress=plain"];
    let mut command = croft.command(words);
    command.arg(context.path());
    let tar = croft.home().join("out.tar");
    command.stdout(fs::File::create(&tar).unwrap());
    let output = command
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    assert!(progress.contains(" DONE "), "{progress}");
    let mut read = Command::new("tar");
    read.arg("-xOf").arg(&tar).arg("file");
    assert_eq!(
        process::run(read).succeeded().stdout,
        format!("{}\n", context.nonce)
    );
}

#[test]
fn an_image_is_loaded_into_the_engine_of_this_machine() {
    let farm = farm();
    // A docker that is as the machine's own would be: it says what it is, and takes what is loaded.
    let croft = Croft::of(farm);
    let programs = croft.home().join("bin");
    fs::create_dir(&programs).unwrap();
    let docker = programs.join("docker");
    let loaded = croft.home().join("loaded.tar");
    let script = format!(
        "#!/bin/sh\ncase $1 in\ninfo) echo '[[\"driver-type\",\"io.containerd.snapshotter.v1\"]]';;\n\
         load) cat > {}; echo 'Loaded image: x:1';;\nesac\n",
        loaded.display()
    );
    fs::write(&docker, script).unwrap();
    let mut executable = Command::new("chmod");
    executable.arg("+x").arg(&docker);
    process::run(executable).succeeded();
    let path = std::env::var("PATH").expect("a PATH");
    let croft = croft.env("PATH", &format!("{}:{path}", programs.display()));
    let built = build(&croft, &context(), &["--load", "-t", "x:1", TWO]).succeeded();
    assert!(
        built.stderr.contains("Loaded image: x:1"),
        "{}",
        built.report()
    );
    let mut list = Command::new("tar");
    list.arg("-xOf").arg(&loaded).arg("index.json");
    let index = process::run(list).succeeded().stdout;
    assert!(index.contains("x:1"), "{index}");
}

/// The blobs of a layout: the digest of each by its name, none of which anybody may change.
fn blobs_of(layout: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(layout.join("blobs/sha256")).expect("blobs");
    files
        .map(|file| {
            let path = file.expect("an entry").path();
            let mode = path.metadata().expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o444, "{}", path.display());
            let name = path.file_name().expect("a name").to_str().expect("a text");
            (
                format!("sha256:{name}"),
                digest(&fs::read(&path).expect("readable")),
            )
        })
        .collect()
}

#[test]
fn a_layout_has_the_blobs_and_names_that_buildx_gives_it_and_keeps_what_was_there() {
    let farm = farm();
    let croft = Croft::of(farm);
    let buildx = Buildx::of(farm);
    let (ours, theirs) = (croft.home().join("ours/deep"), buildx.home().join("theirs"));
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
    let two = context();
    let one = Context::new("FROM scratch\nCOPY Dockerfile /$NONCE\n");
    let named = ["-t", "some/name:1", "-t", "h.example:5000/x", TWO];
    // Into one folder one after the other: under two names, under one of these again and another, under none.
    for (context, output, words) in [
        (&two, "type=oci,tar=false,annotation-index.a=b", &named[..]),
        (&one, "type=oci,tar=false,name=some/name:1", &[]),
        (&one, "type=oci,tar=false", &[]),
    ] {
        let [mine, other] =
            [&ours, &theirs].map(|dest| format!("--output={output},dest={}", dest.display()));
        let words = |output| [&[epoch, output][..], words].concat();
        build(&croft, context, &words(&mine)).succeeded();
        let mut command = buildx.command(["--builder", BUILDER, "build"]);
        command.args(words(&other)).arg(context.path());
        process::run(command).succeeded();
    }
    assert_eq!(
        json(&ours.join("index.json")),
        json(&theirs.join("index.json"))
    );
    assert_eq!(
        json(&ours.join("oci-layout")),
        json(&theirs.join("oci-layout"))
    );
    let blobs = [&ours, &theirs].map(|layout| blobs_of(layout));
    assert_eq!(blobs[0], blobs[1]);
    assert!(blobs[0].len() > 8 && blobs[0].iter().all(|(name, digest)| name == digest));
    let mut files: Vec<_> = fs::read_dir(&ours)
        .expect("a folder")
        .map(|file| file.expect("an entry").file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["blobs", "index.json", "oci-layout"]);
    let index = json(&ours.join("index.json"));
    let tags: Vec<_> = index["manifests"]
        .as_array()
        .expect("manifests")
        .iter()
        .map(|one| &one["annotations"]["org.opencontainers.image.ref.name"])
        .collect();
    assert_eq!(
        tags,
        ["latest", "1", "latest"]
            .map(|tag| json!(tag))
            .iter()
            .collect::<Vec<_>>()
    );

    // With this type buildx has no layouts, though engines do.
    let output = format!("--output=type=docker,tar=false,dest={}", ours.display());
    build(&croft, &one, &[&output, "-t", "docker:1"]).succeeded();
    let index = json(&ours.join("index.json"));
    let last = index["manifests"].as_array().and_then(|all| all.last());
    let last = last.expect("a manifest");
    assert_eq!(
        last["annotations"]["io.containerd.image.name"],
        "docker.io/library/docker:1"
    );
    let last = last["digest"].as_str().expect("a digest");
    assert_eq!(blobs_of(&ours)[last], last);

    // It is good as a context.
    let out = croft.home().join("out");
    let source = format!(
        "--build-context=made=oci-layout://{}:latest",
        ours.display()
    );
    let output = format!("--output={}", out.display());
    let reader = Context::new("FROM scratch\nCOPY --from=made / /$NONCE\n");
    build(&croft, &reader, &[&source, &output]).succeeded();
    assert!(
        out.join(&reader.nonce)
            .read_dir()
            .expect("a folder")
            .count()
            > 0
    );
}

#[test]
fn nothing_is_deleted_or_run_where_no_engine_can_say_what_is_to_stay() {
    let farm = farm();
    let croft = Croft::of(farm);
    let context = context();
    let kept = croft.home().join("out/kept");
    fs::create_dir(croft.home().join("out")).expect("writable");
    fs::write(&kept, "kept").expect("writable");
    // The engines of these tests are older than that mode.
    let output = ["--output=type=local,dest=out,mode=delete"];
    let refused = build(&croft, &context, &output).failed();
    assert!(
        refused.stderr.contains("exporter.local.delete"),
        "{}",
        refused.report()
    );
    assert!(
        refused.stderr.contains("newer engine"),
        "{}",
        refused.report()
    );
    assert_eq!(fs::read_to_string(kept).expect("it is there"), "kept");
    assert_eq!(runs(farm, &context.nonce), []);
}

#[test]
fn what_an_engine_can_make_nothing_of_is_told_before_anything_runs() {
    let farm = farm();
    let croft = Croft::of(farm);
    for (output, why) in [
        (
            "--output=type=local,dest=out,platform-split=perhaps",
            "platform-split",
        ),
        ("--output=type=oci,dest=out,compression=much", "compression"),
        (
            "--output=type=docker,dest=out,tar=perhaps",
            "non-bool value specified for tar",
        ),
    ] {
        let context = context();
        let refused = build(&croft, &context, &["--progress=plain", output]).failed();
        assert!(refused.stderr.contains(why), "{}", refused.report());
        assert_eq!(runs(farm, &context.nonce), []);
        assert!(!croft.home().join("out").exists());
        // It is the build's own fault, so nobody else tries it.
        let listed = croft
            .run(["builds", "ls", "-n1000", "--format=json"])
            .succeeded();
        let builds: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        let ours = builds.as_array().expect("builds").iter();
        let ours = ours.filter(|build| {
            build["error"]
                .as_str()
                .is_some_and(|error| error.contains(why))
        });
        assert_eq!(
            ours.map(|build| &build["state"]).next(),
            Some(&json!("failed"))
        );
    }
}

#[test]
fn a_place_that_can_not_be_written_ends_the_build_which_says_why() {
    let croft = Croft::of(farm());
    let context = context();
    for (output, why) in [
        (
            "type=tar,dest=/dev/full",
            "/dev/full can't be written: No space left on device",
        ),
        (
            "type=local,dest=/proc/none",
            "/proc/none can't be written: No such file or directory",
        ),
    ] {
        for platforms in ["--platform=linux/amd64", TWO] {
            let output = format!("--output={output}");
            let built = build(&croft, &context, &[platforms, &output]).failed();
            assert!(built.stderr.contains(why), "{}", built.report());
        }
    }
}
