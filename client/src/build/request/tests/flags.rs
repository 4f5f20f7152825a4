//! What frontends are told.

use super::*;

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
