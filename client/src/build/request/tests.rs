use std::{fs, io::Cursor};

use clap::Parser;
use serde_json::json;
use tempfile::TempDir;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    flags: BuildFlags,
}

/// A folder with files, an environment, and standard input.
struct World {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
    input: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        fs::create_dir(&app).unwrap();
        fs::write(app.join("Dockerfile"), "FROM scratch\n").unwrap();
        let home = folder.path().display().to_string();
        Self {
            folder,
            variables: vec![("HOME", home)],
            input: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn reading(mut self, input: &[u8]) -> Self {
        self.input = input.to_vec();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, words: &[&str]) -> Result<Request, BuildError> {
        let line = std::iter::once("build").chain(words.iter().copied());
        let flags = Line::try_parse_from(line).unwrap().flags;
        let variables = self.variables.iter();
        let mut around = Surroundings {
            folder: self.folder.path().to_owned(),
            variables: variables
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
            input: Box::new(Cursor::new(self.input.clone())),
            output: StandardOutput::Other,
            proxies: BTreeMap::new(),
        };
        Request::read(&flags, &mut around)
    }

    /// The attributes that these words add to those of a bare build.
    fn attrs(&self, words: &[&str]) -> serde_json::Value {
        let bare = self.read(&["app"]).unwrap().attrs;
        let mut attrs = self.read(&[&["app"], words].concat()).unwrap().attrs;
        attrs.retain(|key, value| bare.get(key) != Some(value));
        json!(attrs)
    }

    #[track_caller]
    fn refused(&self, words: &[&str], because: &str) {
        let error = self.read(words).expect_err("it is refused");
        assert!(matches!(error, BuildError::Usage(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(because), "{words:?}: {text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

fn exporter(request: &Request) -> (&str, serde_json::Value, &Destination) {
    let [one] = &request.exporters[..] else {
        panic!("{:?}", request.exporters)
    };
    (&one.kind, json!(one.attrs), &one.destination)
}

#[test]
fn a_folder_is_shared_as_buildx_shares_it() {
    let world = World::new();
    let request = world.read(&["app"]).unwrap();
    assert_eq!(request.frontend, "dockerfile.v0");
    assert_eq!(json!(request.attrs), json!({"filename": "Dockerfile"}));
    let folders: Vec<_> = request.shares.folders.iter().collect();
    let app = world.path("app");
    assert_eq!(
        folders,
        [
            (&"context".to_owned(), &app),
            (&"dockerfile".to_owned(), &app)
        ]
    );
    let key = &request.shares.shared_key;
    let (name, node) = key.split_once(':').unwrap();
    assert_eq!((name, node.len()), ("app", 16));
    // It is the same next time: else everything would be sent again.
    assert_eq!(&world.read(&["app"]).unwrap().shares.shared_key, key);
    assert!(request.exporters.is_empty());
}

#[test]
fn the_dockerfile_may_be_elsewhere_small_or_on_standard_input() {
    let world = World::new().reading(b"FROM scratch\n");
    fs::create_dir(world.path("other")).unwrap();
    fs::write(world.path("other/Cross"), "").unwrap();
    let request = world.read(&["-f", "other/Cross", "app"]).unwrap();
    assert_eq!(request.attrs["filename"], "Cross");
    assert_eq!(request.shares.folders["dockerfile"], world.path("other"));

    let request = world.read(&["-f", "-", "app"]).unwrap();
    assert_eq!(request.attrs["dockerfilekey"], "dockerfile");
    let file = request.shares.folders["dockerfile"].join("Dockerfile");
    assert_eq!(fs::read_to_string(&file).unwrap(), "FROM scratch\n");
    drop(request);
    assert!(!file.exists());

    fs::rename(world.path("app/Dockerfile"), world.path("app/dockerfile")).unwrap();
    assert_eq!(
        world.read(&["app"]).unwrap().attrs["filename"],
        "dockerfile"
    );
    world.refused(&["-f", "app/Dockerfile2", "app"], "--file");
    world.refused(&["-f", "https://h/Dockerfile", "app"], "--file -");
    world.refused(&["nowhere"], "no folder");
    world.refused(&["-f", "-", "-"], "standard input");
}

#[test]
fn standard_input_is_an_archive_or_a_dockerfile() {
    let request = World::new()
        .reading(b"FROM scratch\n")
        .read(&["-"])
        .unwrap();
    let folder = &request.shares.folders["dockerfile"];
    assert_eq!(
        fs::read_to_string(folder.join("Dockerfile")).unwrap(),
        "FROM scratch\n"
    );
    let context = &request.shares.folders["context"];
    assert_eq!(fs::read_dir(context).unwrap().count(), 0);
    assert!(request.shares.archive.is_none());

    let mut archive = vec![0; 512];
    archive[..4].copy_from_slice(b"file");
    let sum = b"file".iter().map(|&b| u64::from(b)).sum::<u64>() + 8 * u64::from(b' ');
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend([7; 2000]);
    for archive in [archive, [&b"\x1f\x8b\x08"[..], &[1; 3000]].concat()] {
        let mut request = World::new()
            .reading(&archive)
            .read(&["-f", "x", "-"])
            .unwrap();
        let mut given = Vec::new();
        let mut shared = request.shares.archive.take().expect("an archive");
        shared.read_to_end(&mut given).unwrap();
        assert!(given == archive);
        assert_eq!(request.attrs["filename"], "x");
        assert!(request.shares.folders.is_empty());
    }
    World::new().refused(&["-"], "empty");
    World::new()
        .reading(b"FROM x")
        .refused(&["-f", "x", "-"], "--file");
}

#[test]
fn remote_contexts_are_got_by_the_farm() {
    let world = World::new();
    for (context, caps) in [
        ("https://h/x.git#main:sub", None),
        (
            "https://h/x.git?ref=main",
            Some("moby.buildkit.frontend.gitquerystring"),
        ),
        ("https://h/x.tar.gz", None),
    ] {
        let request = world.read(&["-f", "sub/Dockerfile", context]).unwrap();
        assert_eq!(request.attrs["context"], context);
        assert_eq!(request.attrs["filename"], "sub/Dockerfile");
        assert_eq!(request.attrs.get("frontend.caps").map(String::as_str), caps);
        assert!(request.shares.folders.is_empty() && request.shares.ssh.is_empty());
    }
    let request = world.read(&["git@h:x.git"]).unwrap();
    assert_eq!(request.shares.ssh["default"], None);
}

#[test]
fn named_contexts_are_folders_layouts_and_remotes() {
    let world = World::new();
    let layout = world.path("layout");
    fs::create_dir(&layout).unwrap();
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let entry = |c: &str, tag: &str| json!({"digest": digest(c), "annotations": {"org.opencontainers.image.ref.name": tag}});
    let index = json!({"manifests": [entry("a", "latest"), entry("b", "h/x:1")]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let request = world
        .read(&[
            "--build-context=lib=app",
            "--build-context=context=app",
            "--build-context=docker.io/library/busybox:latest=docker-image://h/b",
            "--build-context=one=oci-layout://layout:1",
            "--build-context=two=oci-layout://layout",
            "--build-context=git=https://h/x.git?branch=b",
            "app",
        ])
        .unwrap();
    let attrs = &request.attrs;
    assert_eq!(attrs["context:lib"], "local:lib");
    assert!(attrs["sharedkey:localdir:lib"].starts_with("app:"));
    assert_eq!(attrs["context:context"], "local:_context");
    assert_eq!(request.shares.folders["_context"], world.path("app"));
    assert_eq!(attrs["context:busybox"], "docker-image://h/b");
    assert_eq!(
        attrs["frontend.caps"],
        "moby.buildkit.frontend.contexts+forward,moby.buildkit.frontend.gitquerystring+forward"
    );
    for (name, end) in [
        ("one", format!(":1@{}", digest("b"))),
        ("two", format!("@{}", digest("a"))),
    ] {
        let value = &attrs[&format!("context:{name}")];
        let store = value.strip_prefix("oci-layout://").unwrap();
        let store = store
            .strip_suffix(&end)
            .unwrap_or_else(|| panic!("{value}"));
        assert_eq!(request.shares.layouts[&format!("oci:{store}")], layout);
    }
    world.refused(&["--build-context=x", "app"], "name=folder");
    world.refused(&["--build-context=x=nowhere", "app"], "no folder");
    world.refused(&["--build-context=x=target:y", "app"], "bake");
    world.refused(
        &["--build-context=x=oci-layout://layout:9", "app"],
        "2 images",
    );
}

#[test]
fn arguments_come_from_the_flags_and_the_environment() {
    let world = World::new()
        .with("FROM_OUTSIDE", "yes")
        .with("SOURCE_DATE_EPOCH", "7");
    let words = [
        "--build-arg=A=1=2",
        "--build-arg=FROM_OUTSIDE",
        "--build-arg=UNSET",
        "--build-arg=A=3",
    ];
    let request = world.read(&[&["app"][..], &words].concat()).unwrap();
    let args: Vec<_> = request
        .attrs
        .iter()
        .filter(|(key, _)| key.starts_with("build-arg:"))
        .collect();
    assert_eq!(
        json!(args),
        json!([
            ["build-arg:A", "3"],
            ["build-arg:FROM_OUTSIDE", "yes"],
            ["build-arg:SOURCE_DATE_EPOCH", "7"]
        ])
    );
    let request = world
        .read(&["--build-arg=BUILDKIT_SYNTAX=h/f:1 with words", "app"])
        .unwrap();
    assert_eq!(request.frontend, "gateway.v0");
    assert_eq!(request.attrs["source"], "h/f:1");
    assert_eq!(request.attrs["cmdline"], "h/f:1 with words");
    world.refused(&["--build-arg==x", "app"], "name=value");
}

#[test]
fn flags_become_the_attributes_that_frontends_know() {
    let world = World::new();
    for (words, expect) in [
        (&["--target=x"][..], json!({"target": "x"})),
        (
            &["--label=a=b=c", "--label=d"],
            json!({"label:a": "b=c", "label:d": ""}),
        ),
        (&["--pull"], json!({"image-resolve-mode": "pull"})),
        (&["--no-cache"], json!({"no-cache": ""})),
        (
            &["--no-cache-filter=a", "--no-cache-filter=b,c"],
            json!({"no-cache": "a,b,c"}),
        ),
        (
            &[
                "--platform=linux/amd64, linux/arm64",
                "--platform=linux/arm64",
            ],
            json!({"platform": "linux/amd64,linux/arm64"}),
        ),
        (&["--network=none"], json!({"force-network-mode": "none"})),
        (&["--network=default"], json!({})),
        (
            &["--add-host=a:1.2.3.4,b=::1", "--add-host=c:[fe80::1]"],
            json!({"add-hosts": "a=1.2.3.4,b=::1,c=fe80::1"}),
        ),
        (
            &["--ulimit=nofile=10", "--ulimit=core=1:-1"],
            json!({"ulimit": "nofile=10:10,core=1:-1"}),
        ),
        (&["--shm-size=64m"], json!({"shm-size": "67108864"})),
        (&["--cgroup-parent=x"], json!({"cgroup-parent": "x"})),
        (
            &["--cache-from=h/x:c"],
            json!({"cache-imports": r#"[{"Attrs":{"ref":"h/x:c"},"Type":"registry"}]"#}),
        ),
    ] {
        assert_eq!(world.attrs(words), expect, "{words:?}");
    }
    let request = world
        .read(&["--network=host", "--allow=security.insecure", "app"])
        .unwrap();
    assert_eq!(request.entitlements, ["network.host", "security.insecure"]);
    for (words, because) in [
        (&["--network=bridge", "app"][..], "host"),
        (&["--add-host=a", "app"], "host:address"),
        (&["--add-host=a:host-gateway", "app"], "different addresses"),
        (&["--ulimit=nofile=2:1", "app"], "above"),
        (&["--ulimit=files=2", "app"], "no limit"),
        (&["--shm-size=big", "app"], "no size"),
        (&["--allow=everything", "app"], "entitlement"),
        (&["--no-cache", "--no-cache-filter=a", "app"], "together"),
    ] {
        world.refused(words, because);
    }
}

#[test]
fn results_go_where_they_are_wanted() {
    let world = World::new();
    let read = |words: &[&str]| world.read(&[words, &["app"]].concat()).unwrap();
    let pushed = json!({"name": "h/x:1,h/y", "push": "true", "unpack": "false"});
    for words in [
        &["--push"][..],
        &["--output=type=registry"],
        &["--output=type=image", "--push"],
    ] {
        let request = read(&[words, &["-t", "h/x:1", "-t", "h/y"]].concat());
        let (kind, attrs, destination) = exporter(&request);
        assert_eq!((kind, attrs), ("image", pushed.clone()), "{words:?}");
        assert_eq!(destination, &Destination::Elsewhere);
    }
    for (words, kind, attrs, destination) in [
        (
            "out",
            "local",
            json!({}),
            Destination::Folder(world.path("out")),
        ),
        ("-", "tar", json!({}), Destination::Output),
        (
            "type=tar,dest=a/b.tar",
            "tar",
            json!({}),
            Destination::File(world.path("a/b.tar")),
        ),
        ("type=oci", "oci", json!({}), Destination::Output),
        (
            "type=oci,dest=x,compression=zstd",
            "oci",
            json!({"compression": "zstd"}),
            Destination::File(world.path("x")),
        ),
        (
            "type=docker,name=n",
            "docker",
            json!({"name": "n"}),
            Destination::Load,
        ),
        (
            "type=oci,tar=false,dest=x",
            "oci",
            json!({"tar": "false"}),
            Destination::Layout(world.path("x")),
        ),
        (
            "type=docker,tar=0,dest=x",
            "docker",
            json!({"tar": "0"}),
            Destination::Layout(world.path("x")),
        ),
        (
            "type=docker,tar=true,dest=x",
            "docker",
            json!({"tar": "true"}),
            Destination::File(world.path("x")),
        ),
        (
            "type=local,dest=x,mode=delete",
            "local",
            json!({"mode": "delete"}),
            Destination::Mirror(world.path("x")),
        ),
        (
            "type=local,\"dest=a,b\"",
            "local",
            json!({}),
            Destination::Folder(world.path("a,b")),
        ),
    ] {
        let request = read(&["-o", words]);
        assert_eq!(exporter(&request), (kind, attrs, &destination), "{words}");
    }
    assert_eq!(exporter(&read(&["--load"])).2, &Destination::Load);
    assert_eq!(
        exporter(&read(&["--load", "-o", "type=docker"])).2,
        &Destination::Load
    );
    assert!(read(&["-o", "type=cacheonly"]).exporters.is_empty());
    assert_eq!(read(&["-o", "a", "--push", "-t", "x"]).exporters.len(), 2);
    for (words, because) in [
        (&["--push"][..], "--tag"),
        (&["--push", "-t", "UPPER"], "small letters"),
        (&["-o", "type=magic"], "no type of output"),
        (&["-o", "dest=x,a=b"], "type"),
        (&["-o", "type=local"], "dest"),
        (&["-o", "type=local,dest=app/Dockerfile"], "is a file"),
        (&["-o", "type=tar,dest=app"], "is a folder"),
        (&["-o", "type=oci,tar=false"], "dest is missing"),
        (&["-o", "type=docker,tar=false,dest=-"], "standard output"),
        (
            &["-o", "type=oci,tar=false,dest=app/Dockerfile"],
            "is a file",
        ),
        (
            &[
                "-o",
                "type=oci,tar=false,dest=x",
                "-o",
                "type=docker,tar=false,dest=y",
            ],
            "only one",
        ),
        (&["-o", "type=local,dest=x,mode=move"], "copy and delete"),
        (
            &["-o", "type=local,dest=.,mode=delete"],
            "--allow=buildx.local.delete",
        ),
        (
            &["-o", "type=local,dest=../x,mode=delete"],
            "--allow=buildx.local.delete",
        ),
        (&["-o", "type=image,dest=x"], "dest"),
        (&["-o", "-", "-o", "type=oci"], "standard output"),
        (&["-o", "x", "--iidfile", "y"], "--iidfile"),
        (&["-o", "type=docker,dest=x", "--platform=a,b"], "type=oci"),
    ] {
        world.refused(&[words, &["app"]].concat(), because);
    }
}

#[test]
fn files_outside_of_the_working_folder_are_deleted_only_if_that_is_allowed() {
    let world = World::new();
    let outside = tempfile::tempdir().unwrap();
    let link = world.path("link");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    let elsewhere = outside.path().join("x").display().to_string();
    for dest in [".", "..", "x/..", "link/x", "link", &elsewhere] {
        let output = format!("type=local,dest={dest},mode=delete");
        world.refused(&["-o", &output, "app"], "buildx.local.delete");
        let allowed = ["-o", &output, "--allow=buildx.local.delete", "app"];
        let request = world.read(&allowed).unwrap();
        let Destination::Mirror(_) = exporter(&request).2 else {
            panic!("{request:?}");
        };
        // It is nothing that the farm has to allow.
        assert!(request.entitlements.is_empty());
    }
    for dest in ["x", "x/y", "app/x", "app/../x"] {
        let output = format!("type=local,dest={dest},mode=Delete");
        world.read(&["-o", &output, "app"]).unwrap();
    }
}

#[test]
fn annotations_name_their_level_and_platform() {
    let request = World::new()
        .read(&[
            "--push",
            "-t",
            "x",
            "--annotation=a=b",
            "--annotation=index,manifest[linux/amd64]:c=d=e",
            "--annotation=manifest-descriptor:f=",
            "app",
        ])
        .unwrap();
    let (_, attrs, _) = exporter(&request);
    for (key, value) in [
        ("annotation.a", "b"),
        ("annotation-index.c", "d=e"),
        ("annotation-manifest[linux/amd64].c", "d=e"),
        ("annotation-manifest-descriptor.f", ""),
    ] {
        assert_eq!(attrs[key], value, "{key}");
    }
    World::new().refused(&["--annotation=layer:a=b", "app"], "manifest");
    World::new().refused(&["--annotation=a", "app"], "key=value");
}

#[test]
fn attestations_are_read_with_their_options() {
    let world = World::new();
    let read = |words: &[&str]| {
        json!(
            world
                .read(&[words, &["app"]].concat())
                .unwrap()
                .attestations
        )
    };
    assert_eq!(read(&["--sbom=false", "--provenance=0"]), json!({}));
    assert_eq!(
        read(&[
            "--sbom=true",
            "--provenance=mode=max",
            "--attest=type=provenance,disabled=false,a=b"
        ]),
        json!({"provenance": "type=provenance,a=b", "sbom": "type=sbom"})
    );
    world.refused(&["--attest=mode=max", "app"], "type=sbom");
}

#[test]
fn secrets_are_files_or_variables_and_their_values_are_said_nowhere() {
    let world = World::new().with("TOKEN", "hunter2");
    let request = world
        .read(&[
            "--secret=id=a,src=app/Dockerfile",
            "--secret=id=b,env=X",
            "--secret=type=env,id=c,src=Y",
            "--secret=id=TOKEN",
            "--secret=id=d",
            "app",
        ])
        .unwrap();
    let variable = |name: &str| SecretPlace::Variable(name.to_owned());
    let expect = [
        ("TOKEN", variable("TOKEN")),
        ("a", SecretPlace::File(world.path("app/Dockerfile"))),
        ("b", variable("X")),
        ("c", variable("Y")),
        ("d", SecretPlace::File(world.path("d"))),
    ];
    let expect = expect.map(|(id, place)| (id.to_owned(), place));
    assert_eq!(request.shares.secrets, BTreeMap::from(expect));
    assert!(!format!("{request:?}").contains("hunter2"));
    for wrong in [
        "--secret=hunter2",
        "--secret=src=hunter2",
        "--secret=id=a,type=hunter2x",
    ] {
        let error = world.read(&[wrong, "app"]).unwrap_err().to_string();
        assert!(error.contains("--secret"), "{error}");
    }
}

#[test]
fn ssh_agents_are_the_user_s_own_or_at_a_socket() {
    let world = World::new();
    let request = world
        .read(&["--ssh=default", "--ssh=x=sock", "app"])
        .unwrap();
    assert_eq!(request.shares.ssh["default"], None);
    assert_eq!(request.shares.ssh["x"], Some(world.path("sock")));
    world.refused(&["--ssh=x=a,b", "app"], "ssh-add");
}

#[test]
fn caches_are_registries_folders_or_the_job_s_own() {
    let world = World::new();
    let cache = |request: &Request| {
        let all = request.cache_from.iter().chain(&request.cache_to);
        json!(all.map(|c| json!([c.kind, c.attrs])).collect::<Vec<_>>())
    };
    let request = world
        .read(&[
            "--cache-from=a,b",
            "--cache-to=type=registry,ref=c,mode=max",
            "app",
        ])
        .unwrap();
    assert_eq!(
        cache(&request),
        json!([
            ["registry", {"ref": "a"}],
            ["registry", {"ref": "b"}],
            ["registry", {"ref": "c", "mode": "max"}]
        ])
    );
    let inline = world
        .read(&["--build-arg=BUILDKIT_INLINE_CACHE=1", "app"])
        .unwrap();
    assert_eq!(cache(&inline), json!([["inline", {}]]));
    // Outside of a job of GitHub Actions there is no such cache.
    let none = world.read(&["--cache-from=type=gha", "app"]).unwrap();
    assert_eq!(cache(&none), json!([]));
    let job = World::new()
        .with("ACTIONS_RUNTIME_TOKEN", "hunter2")
        .with("ACTIONS_CACHE_URL", "https://c");
    let request = job.read(&["--cache-from=type=gha", "app"]).unwrap();
    assert_eq!(
        cache(&request),
        json!([["gha", {"token": "hunter2", "url": "https://c"}]])
    );
    assert!(!format!("{request:?}").contains("hunter2"));
    world.refused(&["--cache-from=ref=x", "app"], "type");
    world.refused(&["--cache-from=type=local", "app"], "src");
}

#[test]
fn questions_are_asked_instead_of_building() {
    let world = World::new();
    let ask = |words: &[&str]| {
        let question = world.read(&[words, &["app"]].concat()).unwrap().question;
        question.map(|q| (q.request, q.form, q.verdict))
    };
    let lint = || "frontend.lint".to_owned();
    assert_eq!(ask(&[]), None);
    assert_eq!(ask(&["--call=build"]), None);
    assert_eq!(
        ask(&["--check"]),
        Some((lint(), Form::Text, Verdict::Counts))
    );
    assert_eq!(
        ask(&["--call=check,format=json,ignorestatus=true"]),
        Some((lint(), Form::Json, Verdict::Ignored))
    );
    assert_eq!(ask(&["--call=targets"]).unwrap().0, "frontend.targets");
    world.refused(&["--call=magic", "app"], "outline");
    world.refused(&["--call=outline", "--check", "app"], "leave one out");
}
