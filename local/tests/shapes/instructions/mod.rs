//! Shape 7: what a Dockerfile can say, on several platforms at once, across agents.
//!
//! One build for instructions that don't hide one another; what each platform's image must have in the end is in its test.

mod adds;
mod caches;
mod config;
mod contexts;
mod copies;
mod mounts;
mod syntax;
mod warnings;

use crate::support::{Buildx, Built, Context, Image, PLATFORMS, Repository, engine::runs, farm};

/// Platforms that have one agent each: a build there finds what an earlier one left, while of two agents it may take the other.
const SINGLE: [&str; 2] = ["linux/arm64", "linux/s390x"];

/// Builds this context for all four platforms and gives the images that were published, in the order of [`PLATFORMS`].
fn published(
    buildx: &Buildx,
    name: &str,
    context: &Context,
    arguments: &[&str],
) -> (Built, [Image; 4]) {
    published_for(PLATFORMS, buildx, name, context, arguments)
}

/// The same for these platforms.
fn published_for<const N: usize>(
    platforms: [&str; N],
    buildx: &Buildx,
    name: &str,
    context: &Context,
    arguments: &[&str],
) -> (Built, [Image; N]) {
    let repository = Repository::of(farm().registry(), &format!("shapes/instructions/{name}"));
    let tag = repository.tag(&context.nonce);
    let built = buildx
        .build(context)
        .platforms(&platforms)
        .push(&tag)
        .args(arguments)
        .run()
        .succeeded();
    let published = repository.published(&context.nonce);
    assert_eq!(published.platforms(), platforms);
    assert_eq!(published.digest, built.digest());
    (built, platforms.map(|platform| published.image(platform)))
}

/// By the engines' own records, this step of a build for all four platforms ran once for each, on an agent of it.
#[track_caller]
fn ran_on_each(context: &Context, step: &str) {
    let ran = runs(farm(), &format!("{step}-{}", context.nonce));
    assert_eq!(ran.len(), PLATFORMS.len(), "{step}: {ran:?}");
    for (platform, (agent, times)) in PLATFORMS.iter().zip(&ran) {
        let is_right = agent.starts_with(platform.trim_start_matches("linux/")) && *times == 1;
        assert!(is_right, "{step}: {ran:?}");
    }
}
