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

use crate::support::{Buildx, Built, Context, Image, PLATFORMS, Repository, farm};

/// Builds this context for all four platforms and gives the images that were published, in the order of [`PLATFORMS`].
fn published(
    buildx: &Buildx,
    name: &str,
    context: &Context,
    arguments: &[&str],
) -> (Built, [Image; 4]) {
    let farm = farm();
    let repository = Repository::of(farm.registry(), &format!("shapes/instructions/{name}"));
    let tag = repository.tag(&context.nonce);
    let built = buildx
        .build(context)
        .platforms(&PLATFORMS)
        .push(&tag)
        .args(arguments)
        .run()
        .succeeded();
    let published = repository.published(&context.nonce);
    assert_eq!(published.platforms(), PLATFORMS);
    assert_eq!(published.digest, built.digest());
    let images = PLATFORMS.map(|platform| published.image(platform));
    (built, images)
}
