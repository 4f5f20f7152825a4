//! The shapes of builds that must work, as they are in `planner/tests/shapes` and in `examples`, through both.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use tempfile::TempDir;

use crate::{
    material::{self, Entry, What, tarball},
    pair::{Agreed, Build, Pair, Request},
    support::process,
    workers::each,
};

/// The random Dockerfiles are built at the same time.
const AT_ONCE: usize = 2;

/// What these Dockerfiles call so that it takes time, is of chance, or is somewhere out there.
const REPLACED: [(&str, &str); 8] = [
    ("sleep 3", "true"),
    ("/dev/urandom", "/dev/zero"),
    // busybox's shell has commands of these names.
    ("RUN link", "RUN join"),
    ("RUN adduser", "RUN add-user"),
    ("/apt install", "/apt put"),
    // The program is run afterwards.
    ("> /out\n\nFROM", "> /out && chmod 755 /out\n\nFROM"),
    ("https://example.test/file", "http://$REGISTRY/v2/"),
    // Only agents that proved it run commands for 32-bit arm; `by_architecture` of the other tests starts one.
    (
        "linux/amd64,linux/arm64,linux/arm/v7",
        "linux/amd64,linux/arm64",
    ),
];

/// Needs a farm that grants an entitlement, which this one doesn't.
const NOT_HERE: [&str; 1] = ["7-insecure-between"];

/// These are planned and never run: Dockerfiles that there is advice about, whose commands no base here has.
const ADVICE: &str = "11-";

fn repository_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn every_shape_gives_the_same_image_as_on_one_engine() {
    let pair = Pair::shared();
    push_base(pair);
    let folder = repository_file("planner/tests/shapes");
    let registry = pair.farm.registry().address().to_string();
    let mut shapes = BTreeMap::new();
    for file in fs::read_dir(folder).expect("readable") {
        let path = file.expect("readable").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "Dockerfile")
        {
            let mut text = fs::read_to_string(&path).expect("readable");
            for (from, to) in REPLACED {
                text = text.replace(from, &to.replace("$REGISTRY", &registry));
            }
            let name = path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            shapes.insert(name, text);
        }
    }
    shapes.retain(|name, _| !NOT_HERE.contains(&name.as_str()) && !name.starts_with(ADVICE));
    check(shapes.keys(), |name| shape(pair, name, &shapes));
}

#[test]
fn every_example_gives_the_same_image_as_on_one_engine() {
    let pair = Pair::shared();
    let folder = TempDir::new().expect("a temporary folder");
    let mut names = Vec::new();
    for entry in fs::read_dir(repository_file("examples")).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            copy_without_chance(&path, folder.path());
            names.push(
                path.file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
            );
        }
    }
    let bake = repository_file("examples/docker-bake.hcl");
    fs::copy(bake, folder.path().join("docker-bake.hcl")).expect("writable");
    assert!(names.len() >= 3, "{names:?}");
    check(&names, |name| {
        pair.build(&Build {
            name: &format!("example-{name}"),
            folder: folder.path(),
            request: Request::Bake(name),
            arguments: &["--set=*.args.MEGABYTES=1".to_owned()],
        })
    });
}

/// Every one of them must be published, and the same by both.
fn check<T: AsRef<str> + Send + Sync>(
    names: impl IntoIterator<Item = T, IntoIter: Send>,
    build: impl Fn(&str) -> Result<Agreed, String> + Sync,
) {
    let wrong = Mutex::new(Vec::new());
    each(names, AT_ONCE, |name| {
        let name = name.as_ref();
        let told = match build(name) {
            Ok(Agreed::Published) => return,
            Ok(Agreed::Failed(words)) => format!("{name} failed on both:\n{words}"),
            Err(difference) => format!("{name}:\n{difference}"),
        };
        wrong.lock().expect("no panic while it is held").push(told);
    });
    let wrong = wrong.into_inner().expect("no panic while it is held");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn shape(pair: &Pair, name: &str, all: &BTreeMap<String, String>) -> Result<Agreed, String> {
    let folder = TempDir::new().expect("a temporary folder");
    material::write(folder.path(), &context(name));
    for (name, text) in all {
        let file = folder.path().join(format!("{name}.Dockerfile"));
        fs::write(file, text).expect("writable");
    }
    let ignored = "*.Dockerfile\ndocker-bake.json\n.dockerignore\n";
    fs::write(folder.path().join(".dockerignore"), ignored).expect("writable");
    let file = bake_file(name, all);
    fs::write(folder.path().join("docker-bake.json"), file).expect("writable");
    pair.build(&Build {
        name: &format!("shape-{name}"),
        folder: folder.path(),
        request: Request::Bake(name),
        arguments: &["--set=*.secrets=id=token,env=CROFT_TEST_SECRET".to_owned()],
    })
}

/// A bake file with a Dockerfile's target, and those of all that it links to.
fn bake_file(name: &str, all: &BTreeMap<String, String>) -> String {
    let mut targets = serde_json::Map::new();
    let mut left = vec![name.to_owned()];
    while let Some(name) = left.pop() {
        let mut target = serde_json::json!({"dockerfile": format!("{name}.Dockerfile")});
        let text = &all[&name];
        let comments = text.lines().map_while(|line| line.strip_prefix("# "));
        for (key, value) in comments.filter_map(|comment| comment.split_once(": ")) {
            let (option, setting) = value.split_once('=').unwrap_or((value, ""));
            match (key, option) {
                ("platforms", _) => {
                    target["platforms"] = value.split(',').collect::<Vec<_>>().into();
                }
                ("link", _) => {
                    target["contexts"][option] = format!("target:{setting}").into();
                    left.push(setting.to_owned());
                }
                ("opt", "platform") => target["platforms"] = vec![setting].into(),
                ("opt", "no-cache") => target["no-cache"] = true.into(),
                ("opt", option) if option.starts_with("build-arg:") => {
                    target["args"][&option["build-arg:".len()..]] = setting.into();
                }
                _ => {}
            }
        }
        targets.insert(name, target);
    }
    serde_json::json!({ "target": targets }).to_string()
}

/// What all of these Dockerfiles together copy. Each has times of its own: see `context`.
fn context(name: &str) -> Vec<Entry> {
    let sum: u64 = name.bytes().map(u64::from).sum();
    let mut entries = Vec::new();
    let mut add = |path: &str, what: What, mode: u32| {
        let modified = 900_000_000 + sum * 1000 + entries.len() as u64;
        entries.push(Entry {
            path: path.to_owned(),
            what,
            mode,
            modified,
        });
    };
    let text = |text: &str| What::File(format!("{text} of {name}\n").into_bytes());
    add("go.mod", text("module"), 0o644);
    add("src/main.c", text("main"), 0o640);
    add("src/run.sh", text("run"), 0o755);
    add("src/link", What::Link("main.c".to_owned()), 0o777);
    add("tools/tool", text("tool"), 0o755);
    add("left/of", text("left"), 0o644);
    add("right/of", text("right"), 0o644);
    for architecture in ["amd64", "arm64", "ppc64le", "s390x"] {
        add(
            &format!("conf/{architecture}.conf"),
            text(architecture),
            0o644,
        );
    }
    let archive = tarball(&entries, 1000);
    entries.push(Entry {
        path: "archive.tar.gz".to_owned(),
        what: What::File(archive),
        mode: 0o644,
        modified: 900_000_000,
    });
    entries
}

/// Puts the image that these Dockerfiles begin with into the registry, as `base` of docker.io.
fn push_base(pair: &Pair) {
    let registry = pair.farm.registry().address();
    let folder = repository_file("local/tests/differential/base");
    let tags = ["library/base", "arm64v8/base"].map(|name| format!("{registry}/{name}:latest"));
    let mut build = pair.alone(["build", "--push", "--provenance=false"]);
    build.args([
        "--platform",
        "linux/amd64,linux/arm64,linux/ppc64le,linux/s390x,windows/amd64",
    ]);
    build
        .args(["--tag", &tags[0], "--tag", &tags[1]])
        .arg(folder);
    process::run(build).succeeded();
}

/// Copies an example, in which what is random becomes always the same.
fn copy_without_chance(from: &Path, to: &Path) {
    let to = to.join(from.file_name().expect("a name"));
    fs::create_dir_all(&to).expect("writable");
    for file in fs::read_dir(from).expect("readable") {
        let path = file.expect("readable").path();
        let text = fs::read_to_string(&path).expect("an example's file is text");
        let text = text.replace("/dev/urandom", "/dev/zero");
        fs::write(to.join(path.file_name().expect("a name")), text).expect("writable");
    }
}
