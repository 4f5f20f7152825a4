//! A Dockerfile frontend as an image, for `# syntax=` lines: BuildKit's own with what only the labs have.

use std::fs;

use croft_local::Farm;

use super::{Buildx, Context, Repository};

/// As docker/dockerfile is.
const FRONTEND: &str = "\
FROM scratch
COPY dockerfile-frontend /bin/dockerfile-frontend
LABEL moby.buildkit.frontend.network.none=true
LABEL moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts
ENTRYPOINT [\"/bin/dockerfile-frontend\"]
";

/// Builds it and pushes it to this repository of the farm's registry; gives its tag.
pub fn push(buildx: &Buildx, farm: &Farm, repository: &str) -> String {
    let context = Context::new(FRONTEND);
    let program = croft_local::dockerfile_frontend().expect("BuildKit's frontend");
    fs::copy(program, context.path().join("dockerfile-frontend")).expect("readable");
    let tag = Repository::of(farm.registry(), repository).tag(&context.nonce);
    buildx.build(&context).push(&tag).run().succeeded();
    tag
}
