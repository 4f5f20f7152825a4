//! Where results go.

use super::*;

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
