//! The same build through the farm and straight on one of its engines, and what both print, held beside each other.

use std::collections::BTreeSet;

use croft_local::Farm;

use crate::support::{
    Buildx, Context,
    buildx::BUILDER,
    process,
    process::Finished,
    words::{ending, normal},
};

/// What came of a build on either side.
#[derive(Debug)]
pub struct Both {
    pub farm: Finished,
    pub plain: Finished,
    /// Without what may differ.
    normal: [String; 2],
}

/// Builds a context with these arguments through the farm, and then on the engine of its first agent alone.
pub fn both(farm: &Farm, context: &Context, arguments: &[&str]) -> Both {
    both_as(&Buildx::of(farm), farm, context, arguments)
}

/// The same with what this buildx knows.
pub fn both_as(buildx: &Buildx, farm: &Farm, context: &Context, arguments: &[&str]) -> Both {
    let build = |builder| {
        let mut command = buildx.command(["--builder", builder, "build", "--progress", "plain"]);
        // An attestation of how it was built is made by an engine alone only.
        command
            .arg("--provenance=false")
            .args(arguments)
            .arg(context.path());
        command
    };
    let through_farm = process::run(build(BUILDER));
    let engine = farm.agents()[0].engine();
    let (_, path) = engine.split_once("://").expect("an address");
    let mut plain = build("default");
    plain.env("DOCKER_HOST", format!("unix://{path}"));
    let plain = process::run(plain);
    Both {
        normal: [&through_farm, &plain].map(|finished| normal(finished, farm)),
        farm: through_farm,
        plain,
    }
}

impl Both {
    /// Both must have failed, in the same way and with the same words.
    #[track_caller]
    pub fn fail_alike(&self) -> String {
        assert!(!self.plain.status.success(), "{}", self.plain.report());
        assert_eq!(
            self.farm.status.code(),
            self.plain.status.code(),
            "{}\n{}",
            self.farm.report(),
            self.plain.report()
        );
        let [farm, plain] = &self.normal;
        let said = ending(farm);
        assert_eq!(said, ending(plain), "\n{farm}\n{plain}");
        assert!(said.contains("ERROR: "), "{farm}");
        said.to_owned()
    }

    /// The steps that either showed, by their names.
    pub fn steps(&self) -> [BTreeSet<String>; 2] {
        self.normal.each_ref().map(|text| {
            let names = text.lines().filter_map(|line| line.strip_prefix("#N "));
            names
                .filter(|name| name.starts_with('[') || name.starts_with("exporting to"))
                .map(str::to_owned)
                .collect()
        })
    }
}
