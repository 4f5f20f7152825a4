//! What a build leaves in the registry, and what it tells its client about that.

use serde_json::{Value, json};

use crate::support::{Buildx, Context, Repository, engine::runs, farm};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];
const SMALL: &str = "FROM scratch\nCOPY Dockerfile /$NONCE\n";

#[test]
fn every_tag_gets_the_digest_that_the_client_is_told() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(SMALL);
    let one = Repository::of(farm.registry(), "shapes/tags-one");
    let two = Repository::of(farm.registry(), "shapes/tags-two");
    let tags = [one.tag("1"), one.tag("1.0"), two.tag("latest")];
    let ids = buildx.home().join("id");

    let built = buildx
        .build(&context)
        .platforms(&TWO)
        .args(["--push", "--iidfile"])
        .args([&ids])
        .args(tags.iter().flat_map(|tag| ["--tag", tag]))
        .run()
        .succeeded();

    let metadata = built.metadata();
    let digest = built.digest();
    assert_eq!(metadata["image.name"], tags.join(","));
    for (repository, tag) in [(&one, "1"), (&one, "1.0"), (&two, "latest")] {
        let published = repository.published(tag);
        assert_eq!(published.digest, digest);
        assert_eq!(published.platforms(), TWO);
        let descriptor = &metadata["containerimage.descriptor"];
        assert_eq!(descriptor["digest"], digest);
        assert_eq!(descriptor["mediaType"], published.media_type);
        // All that the list names is there.
        for platform in TWO {
            assert!(published.image(platform).has(&context.nonce));
        }
    }
    assert_eq!(std::fs::read_to_string(ids).unwrap(), digest);
    assert_eq!(built.plan().published, tags);
    let mut found = one.tags();
    found.sort();
    assert_eq!(found, ["1", "1.0"]);
}

#[test]
fn annotations_reach_the_level_and_the_platform_that_they_name() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(SMALL);
    let repository = Repository::of(farm.registry(), "shapes/annotations");
    let annotations = [
        "plain=everywhere",
        "manifest:of=manifests",
        "manifest[linux/arm64]:only=arm64",
        "index:of=index",
        "manifest-descriptor:of=descriptors",
        "manifest-descriptor[linux/amd64]:only=amd64",
    ];

    buildx
        .build(&context)
        .platforms(&TWO)
        .push(&repository.tag("latest"))
        .args(annotations.iter().flat_map(|one| ["--annotation", one]))
        .run()
        .succeeded();

    let published = repository.published("latest");
    assert_eq!(published.document["annotations"], json!({"of": "index"}));
    let of_manifest = |platform| published.image(platform).manifest.document["annotations"].clone();
    assert_eq!(
        of_manifest("linux/amd64"),
        json!({"plain": "everywhere", "of": "manifests"})
    );
    assert_eq!(
        of_manifest("linux/arm64"),
        json!({"plain": "everywhere", "of": "manifests", "only": "arm64"})
    );
    let of_descriptor = |platform| published.descriptor(platform)["annotations"].clone();
    assert_eq!(
        of_descriptor("linux/amd64"),
        json!({"of": "descriptors", "only": "amd64"})
    );
    assert_eq!(of_descriptor("linux/arm64"), json!({"of": "descriptors"}));
}

#[test]
fn a_single_platform_s_annotations_stay_on_its_manifest() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(SMALL);
    let repository = Repository::of(farm.registry(), "shapes/annotation");
    buildx
        .build(&context)
        .platforms(&["linux/arm64"])
        .push(&repository.tag("latest"))
        .args(["--annotation", "manifest[linux/arm64]:one=1"])
        .args(["--annotation", "two=2"])
        .run()
        .succeeded();
    let image = repository.published("latest").bare_image();
    assert_eq!(
        image.manifest.document["annotations"],
        json!({"one": "1", "two": "2"})
    );
}

#[test]
fn media_types_are_those_that_were_asked_for() {
    let families = [
        (
            "true",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        (
            "false",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ];
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(SMALL);
    for (oci, list, manifest, config, layer) in families {
        let repository = Repository::of(farm.registry(), &format!("shapes/oci-{oci}"));
        let output = format!(
            "type=image,name={},push=true,oci-mediatypes={oci}",
            repository.tag("latest")
        );
        let built = buildx
            .build(&context)
            .platforms(&TWO)
            .args(["--output", &output])
            .run()
            .succeeded();
        let published = repository.published("latest");
        assert_eq!(published.digest, built.digest());
        assert_eq!(published.media_type, list);
        assert_eq!(published.document["mediaType"], list);
        for platform in TWO {
            let document = published.image(platform).manifest.document;
            assert_eq!(document["mediaType"], manifest);
            assert_eq!(document["config"]["mediaType"], config);
            let layers = document["layers"].as_array().unwrap();
            assert!(layers.iter().all(|one| one["mediaType"] == layer));
        }
    }
}

#[test]
fn a_build_for_one_platform_is_a_bare_manifest() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(SMALL);
    let repository = Repository::of(farm.registry(), "shapes/bare");
    for (platforms, expected) in [
        // Nothing said: the build platform.
        (&[][..], "linux/amd64"),
        (&["linux/s390x"], "linux/s390x"),
    ] {
        let tag = expected.replace('/', "-");
        let mut build = buildx.build(&context).push(&repository.tag(&tag));
        if !platforms.is_empty() {
            build = build.platforms(platforms);
        }
        let built = build.run().succeeded();
        let published = repository.published(&tag);
        assert_eq!(published.digest, built.digest());
        let image = published.bare_image();
        assert_eq!(image.platform(), expected);
        assert!(image.has(&context.nonce));
        assert_eq!(
            built.metadata()["containerimage.config.digest"],
            image.manifest.document["config"]["digest"]
        );
    }
}

#[test]
fn an_image_without_layers_is_published_for_every_platform() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new("FROM scratch\nLABEL nonce=$NONCE\n");
    let repository = Repository::of(farm.registry(), "shapes/empty");
    let built = buildx
        .build(&context)
        .platforms(&TWO)
        .push(&repository.tag("latest"))
        .run()
        .succeeded();
    let published = repository.published("latest");
    assert_eq!(published.digest, built.digest());
    for platform in TWO {
        let image = published.image(platform);
        assert_eq!(image.platform(), platform);
        assert_eq!(image.layers().count(), 0);
        assert_eq!(
            image.config["config"]["Labels"]["nonce"],
            context.nonce.as_str()
        );
    }
}

#[test]
fn a_push_by_digest_leaves_no_tag() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(SMALL);
    let repository = Repository::of(farm.registry(), "shapes/by-digest");
    let output = format!(
        "type=image,name={},push=true,push-by-digest=true",
        repository.name()
    );
    let built = buildx
        .build(&context)
        .platforms(&TWO)
        .args(["--output", &output])
        .run()
        .succeeded();
    assert_eq!(repository.published(&built.digest()).platforms(), TWO);
    assert_eq!(repository.tags(), Vec::<String>::new());
}

#[test]
fn a_build_without_output_runs_all_and_publishes_nothing() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let context = Context::new("FROM busybox\nRUN : nowhere-$NONCE && uname -m > /machine\n");
    let built = buildx.build(&context).platforms(&TWO).run().succeeded();
    let ran = runs(farm, &format!("nowhere-{}", context.nonce));
    assert_eq!(ran.len(), 2, "{ran:?}");
    assert_eq!(built.plan().published, Vec::<String>::new());
    assert_eq!(built.metadata()["containerimage.digest"], Value::Null);
}
