//! The examples of this repository do what their README says.

use std::path::Path;

use crate::support::{BUILDER, Buildx, PLATFORMS, Repository, farm, machine, process};

#[test]
fn all_examples_are_built_by_one_bake() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let repository = |name: &str| Repository::of(farm.registry(), &format!("examples/{name}"));
    let registry = repository("").name();
    let mut bake = buildx.command(["--builder", BUILDER, "bake", "--push"]);
    bake.args(["--set", "*.args.MEGABYTES=1"])
        .env("REGISTRY", registry.trim_end_matches('/'))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"));
    process::run(bake).succeeded();

    let published = ["cross-compile", "scratch", "per-platform"]
        .map(|name| repository(name).published("latest"));
    assert!(published.iter().all(|one| one.platforms() == PLATFORMS));
    let [cross, scratch, plain] = published;
    let run_of = |text: &str| text.rsplit(' ').next().unwrap().to_owned();
    let mut runs = (Vec::new(), Vec::new());
    for platform in PLATFORMS {
        let image = cross.image(platform);
        assert_eq!(image.file("/app/machine"), machine(platform));
        let program = image.file("/app/app");
        assert!(program.contains(platform), "{program}");
        runs.0.push(run_of(program.trim_end_matches('"')));
        let program = scratch.image(platform).file("/app");
        assert!(program.starts_with(platform), "{program}");
        runs.1.push(run_of(&program));
        assert_eq!(plain.image(platform).file("/arch"), machine(platform));
    }
    for mut one in [runs.0, runs.1] {
        one.dedup();
        assert_eq!(one.len(), 1, "{one:?}");
    }
}
