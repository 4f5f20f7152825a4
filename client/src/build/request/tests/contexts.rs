//! What is built: folders, archives, Dockerfiles from elsewhere, named contexts.

use super::*;

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
