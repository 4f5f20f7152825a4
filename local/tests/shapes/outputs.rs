//! Outputs that the client gets: what a farm hands out is what one engine hands out, byte for byte where builds can be repeated.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use croft_local::{Engine, EngineOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    BUILDER, Buildx, Context, Repository, engine::alone, farm, process, registry::digest,
};

const ONE: &[&str] = &["linux/amd64"];
const TWO: &[&str] = &["linux/amd64", "linux/arm64"];
const EPOCH: &str = "SOURCE_DATE_EPOCH=1700000000";

/// Everything that a file system can have and an archive can carry.
const DOCKERFILE: &str = "\
FROM busybox AS tools
FROM --platform=$BUILDPLATFORM busybox AS shared
RUN mkdir -p /made && echo $NONCE > /made/shared && chmod 0640 /made/shared && chown 3:4 /made/shared
FROM scratch
ARG TARGETARCH
COPY --from=shared /made /made
COPY words /words
RUN --mount=from=tools,target=/tools [\"/tools/bin/busybox\", \"sh\", \"-c\", \"\\
  b=/tools/bin/busybox; $b mkdir -m 1777 /dir && echo $NONCE-$TARGETARCH > /dir/of && $b ln /dir/of /dir/hard && \\
  $b ln -s ../words /dir/soft && $b chmod 4755 /dir/of\"]
ENTRYPOINT [\"/none\"]
LABEL nonce=$NONCE
";

fn context() -> Context {
    Context::new(DOCKERFILE).file("words", "some words\n")
}

/// Where one side puts its outputs.
struct Side {
    folder: TempDir,
}

impl Side {
    fn new() -> Side {
        Side {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `--metadata-file` told of the image.
    fn metadata(&self) -> BTreeMap<String, Value> {
        let bytes = fs::read(self.at("metadata")).expect("a metadata file");
        let all: BTreeMap<String, Value> = serde_json::from_slice(&bytes).expect("JSON");
        let own = |key: &String| !key.starts_with("buildx.build");
        all.into_iter().filter(|(key, _)| own(key)).collect()
    }
}

/// An engine that takes no part in the farm: its cache has nothing that the farm made.
fn plain() -> &'static Engine {
    static PLAIN: OnceLock<Engine> = OnceLock::new();
    PLAIN.get_or_init(|| {
        let engine = Engine::start(EngineOptions {
            name: "engine-for-outputs".to_owned(),
            mirror: Some(farm().registry().address()),
            ..EngineOptions::default()
        });
        engine.unwrap_or_else(|error| panic!("no engine: {error}"))
    })
}

/// Builds the same on the farm and on one engine alone, with outputs in folders of their own. `outputs` name
/// these as `$OUT`.
fn on_both(context: &Context, arguments: &[&str], outputs: &[&str]) -> [Side; 2] {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let engine = plain().address();
    let through_farm = buildx.command(["--builder", BUILDER]);
    [through_farm, alone(&buildx, engine, [""; 0])].map(|mut command| {
        let side = Side::new();
        command.args(["build", "--progress", "plain", "--provenance=false"]);
        command.arg("--metadata-file").arg(side.at("metadata"));
        if outputs
            .iter()
            .all(|one| one.contains("=oci") || one.contains("=docker"))
        {
            // Others have no id.
            command.arg("--iidfile").arg(side.at("iid"));
        }
        command.args(arguments);
        for output in outputs {
            let out = side.folder.path().to_str().expect("a path in UTF-8");
            command.args(["--output", &output.replace("$OUT", out)]);
        }
        command.arg(context.path());
        let said = process::run(command).succeeded();
        // Engines warn of results that were not asked for.
        assert!(
            !said.stderr.contains("match result platform"),
            "{}",
            said.report()
        );
        side
    })
}

/// All that is below a folder: kind and mode, owner, when it was modified, and content.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("there");
            let content = if meta.is_dir() {
                next.push(path.clone());
                String::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).expect("a link").display().to_string()
            } else {
                digest(&fs::read(&path).expect("readable"))
            };
            let name = path
                .strip_prefix(root)
                .expect("below")
                .display()
                .to_string();
            let (mode, owner) = (meta.mode(), (meta.uid(), meta.gid()));
            let time = (meta.mtime(), meta.mtime_nsec());
            found.insert(name, format!("{mode:o} {owner:?} {time:?} {content}"));
        }
    }
    found
}

/// The documents in an archive of images, and of all else what it is, one after the other.
fn documents(archive: &Path) -> Vec<Value> {
    let unpacked = tempfile::tempdir().expect("a temporary folder");
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(unpacked.path());
    process::run(tar).succeeded();
    let blobs = unpacked.path().join("blobs/sha256");
    let files = fs::read_dir(blobs).into_iter().flatten();
    let mut documents: Vec<Value> = files
        .map(|file| fs::read(file.expect("an entry").path()).expect("readable"))
        .map(|bytes| match serde_json::from_slice(&bytes) {
            Ok(document) => document,
            Err(_) => digest(&bytes).into(),
        })
        .collect();
    documents.sort_by_key(Value::to_string);
    documents
}

#[test]
fn folders_are_those_of_one_engine() {
    for platforms in [ONE, TWO] {
        let context = context();
        let list = platforms.join(",");
        let arguments = ["--platform", &list, "--build-arg", EPOCH];
        let [farm, plain] = on_both(&context, &arguments, &["type=local,dest=$OUT/out"]);
        let (farm, plain) = (listing(&farm.at("out")), listing(&plain.at("out")));
        assert_eq!(farm, plain);
        let sub = if platforms.len() > 1 {
            "linux_arm64/"
        } else {
            ""
        };
        assert!(plain.contains_key(&format!("{sub}dir/of")), "{plain:?}");
    }
}

#[test]
fn archives_are_those_of_one_engine() {
    for (platforms, kinds) in [(ONE, &["tar", "oci", "docker"][..]), (TWO, &["tar", "oci"])] {
        for kind in kinds {
            let context = context();
            let list = platforms.join(",");
            let arguments = [
                "--platform",
                &list,
                "--build-arg",
                EPOCH,
                "-t",
                "some/name:1",
            ];
            let output = match *kind {
                "tar" => "type=tar,dest=$OUT/out".to_owned(),
                kind => format!(
                    "type={kind},dest=$OUT/out,rewrite-timestamp=true,annotation.some=thing"
                ),
            };
            let [farm, plain] = on_both(&context, &arguments, &[&output]);
            let read = |side: &Side| digest(&fs::read(side.at("out")).expect("an archive"));
            let [one, two] = [&farm, &plain].map(|side| documents(&side.at("out")));
            assert_eq!(one, two, "{kind} for {list}");
            assert_eq!(farm.metadata(), plain.metadata(), "{kind} for {list}");
            let iid = |side: &Side| fs::read_to_string(side.at("iid")).ok();
            assert_eq!(iid(&farm), iid(&plain), "{kind} for {list}");
            assert_eq!(read(&farm), read(&plain), "{kind} for {list}");
        }
    }
}

#[test]
fn several_outputs_at_once_have_the_same_image_in_them_as_the_registry() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let repository = Repository::of(farm.registry(), "shapes/outputs");
    for (at, platforms) in [ONE, TWO].into_iter().enumerate() {
        let context = context();
        let side = Side::new();
        let out = side.folder.path().display();
        let tag = repository.tag(&at.to_string());
        let outputs = [
            format!("type=tar,dest={out}/tar"),
            format!("type=image,name={tag},push=true"),
            format!("type=oci,tar=false,dest={out}/oci"),
            format!("type=local,dest={out}/local"),
        ];
        let built = buildx
            .build(&context)
            .platforms(platforms)
            .args(outputs.iter().flat_map(|one| ["--output", one]))
            .run()
            .succeeded();
        let published = repository.published(&at.to_string());
        let index: Value =
            serde_json::from_slice(&fs::read(side.at("oci/index.json")).expect("an index"))
                .expect("JSON");
        let handed_out = index["manifests"][0]["digest"].as_str().expect("a digest");
        let blob = |digest: &str| side.at("oci/blobs").join(digest.replace(':', "/"));
        let handed_out: Value =
            serde_json::from_slice(&fs::read(blob(handed_out)).expect("a blob")).expect("JSON");
        assert_eq!(handed_out, published.document);
        assert_eq!(index["manifests"][0]["digest"], published.digest.as_str());
        assert_eq!(built.digest(), published.digest);
        let sub = if at > 0 { "linux_arm64/" } else { "" };
        let words = side.at("local").join(format!("{sub}words"));
        assert_eq!(fs::read_to_string(words).expect("a file"), "some words\n");
        assert!(fs::metadata(side.at("tar")).expect("an archive").len() > 1024);
        let plan = built.plan();
        assert_eq!(plan.published, [tag]);
        let [output] = plan.of_kind("output")[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(output.attempts.len(), 1, "{output:?}");
        assert!(!output.attempts[0].reason.is_empty());
    }
}

#[test]
fn an_archive_goes_to_standard_output() {
    let buildx = Buildx::of(farm());
    let context = Context::new("FROM scratch\nCOPY Dockerfile /$NONCE\n");
    for platforms in [ONE, TWO] {
        let built = buildx
            .build(&context)
            .platforms(platforms)
            .args(["--output", "-"]);
        let built = built.run().succeeded();
        assert!(built.finished.stdout.contains(&context.nonce));
        assert!(
            built.progress().contains("sending tarball"),
            "{}",
            built.progress()
        );
    }
}

#[test]
fn what_docker_cannot_hold_and_folders_that_cannot_be_written_are_refused_as_by_one_engine() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new("FROM scratch\nCOPY Dockerfile /$NONCE\n");
    let side = Side::new();
    fs::write(side.at("file"), "").expect("writable");
    for (platforms, output, why) in [
        (TWO, "type=docker,dest=$OUT/x", "manifest lists"),
        (ONE, "type=local,dest=$OUT/file/below", "not a directory"),
        (
            ONE,
            "type=tar,dest=/dev/full",
            "write /dev/full: no space left on device",
        ),
        (
            ONE,
            "type=local,dest=$OUT/y,platform-split=perhaps",
            "non-bool",
        ),
    ] {
        let output = output.replace("$OUT", side.folder.path().to_str().expect("UTF-8"));
        let built = buildx.build(&context).platforms(platforms);
        let built = built.args(["--output", &output]).run().failed();
        assert!(
            built.progress().contains(why),
            "{}",
            built.finished.report()
        );
    }
}

#[test]
fn what_is_loaded_is_in_the_client_s_own_docker() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let engine = farm.agents()[0].engine();
    let socket = engine.strip_prefix("docker+").expect("a Docker Engine");
    for platforms in [ONE, TWO] {
        let context = Context::new("FROM scratch\nCOPY Dockerfile /$NONCE\n");
        let name = format!("loaded/{}:1", context.nonce);
        let loaded = buildx.build(&context).platforms(platforms);
        let loaded = loaded.args(["--load", "--tag", &name]);
        loaded.env("DOCKER_HOST", socket).run().succeeded();

        let user = Context::new(&format!("FROM {name}\n"));
        let mut command = alone(&buildx, engine, ["build", "--output", "-"]);
        let last = platforms.last().expect("one");
        command.args(["--platform", last]).arg(user.path());
        let files = process::run(command).succeeded().stdout;
        assert!(files.contains(&context.nonce), "{last} of {platforms:?}");
    }
}

#[test]
fn files_of_the_context_and_links_come_out_with_their_times_and_modes() {
    let context = Context::new("FROM scratch\nCOPY . /\n").file("folder/file", "old\n");
    let file = context.path().join("folder/file");
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
    let opened = fs::File::options().write(true).open(&file).expect("a file");
    opened.set_modified(long_ago).expect("ours");
    for (platforms, below) in [(ONE, ""), (TWO, "linux_arm64")] {
        let arguments = ["--platform", &platforms.join(",")];
        let [farm, plain] = on_both(&context, &arguments, &["type=local,dest=$OUT/out"]);
        let of = |side: &Side| listing(&side.at("out").join(below))["folder/file"].clone();
        assert_eq!(of(&farm), of(&plain));
        assert!(of(&farm).contains("1500000000"), "{}", of(&farm));
    }
}

#[test]
fn layers_are_compressed_as_one_engine_compresses_them() {
    for compression in ["zstd", "uncompressed"] {
        let context = context();
        let arguments = ["--platform", &TWO.join(","), "--build-arg", EPOCH];
        let output =
            format!("type=oci,dest=$OUT/out,compression={compression},rewrite-timestamp=true");
        let [farm, plain] = on_both(&context, &arguments, &[&output]);
        let [one, two] = [&farm, &plain].map(|side| documents(&side.at("out")));
        assert_eq!(one, two, "{compression}");
    }
}

#[test]
fn empty_images_are_those_of_one_engine() {
    let context = Context::new("FROM scratch\nLABEL nonce=$NONCE\n");
    for platforms in [ONE, TWO] {
        let list = platforms.join(",");
        let arguments = ["--platform", &list, "--build-arg", EPOCH];
        for output in ["type=oci,dest=$OUT/out", "type=tar,dest=$OUT/out"] {
            let [farm, plain] = on_both(&context, &arguments, &[output]);
            let read = |side: &Side| digest(&fs::read(side.at("out")).expect("an archive"));
            assert_eq!(farm.metadata(), plain.metadata(), "{output} for {list}");
            assert_eq!(read(&farm), read(&plain), "{output} for {list}");
        }
    }
}
