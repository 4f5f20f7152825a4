//! What random Dockerfiles reach outside their contexts: one of each for all of them, and for both sides the same.

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    context::packed,
    generate::Surroundings,
    material::{self, Entry, What, tarball},
    pair::Pair,
    support::{
        PLATFORMS, Repository, frontend,
        git::Git,
        layout, process,
        ssh::{SshAgent, SshClient},
        web::Web,
    },
};

/// The image that Dockerfiles know as `own`.
const OWN: &str = "\
FROM busybox
ARG TARGETARCH
COPY $TARGETARCH /own/architecture
COPY all /own/all/
ENV FROM_OWN=yes
LABEL from=own
VOLUME /own-data
ONBUILD COPY b.txt /from-own
";

/// All of it; ended when this is dropped.
#[derive(Debug)]
pub struct Outside {
    pub surroundings: Surroundings,
    _web: Web,
    _git: Git,
    _agents: [SshAgent; 2],
    _client: SshClient,
    _layout: TempDir,
}

impl Outside {
    pub fn of(pair: &Pair) -> Outside {
        let file = b"from the web\n".to_vec();
        let sum = format!("sha256:{}", hex::encode(Sha256::digest(&file)));
        let archive = tarball(&packed(0), 1000);
        let web = Web::serve([("/file", file), ("/pack.tar.gz", archive)]);
        let git = Git::serve("of the repository");
        let agents = ["default", "other"].map(SshAgent::start);
        let client = SshClient::find();
        let (image, layout) = own(pair);
        let [default, other] = agents.each_ref().map(|agent| agent.socket());
        let surroundings = Surroundings {
            web: web.address(),
            sum,
            git: git.address(),
            commit: git.head.clone(),
            ssh: [
                format!("--ssh=default={}", default.display()),
                format!("--ssh=other={}", other.display()),
                format!("--build-context=client={}", client.folder().display()),
            ],
            own: [
                format!("docker-image://{image}"),
                format!("oci-layout://{}", layout.path().display()),
            ],
            labs: frontend::push(&pair.buildx, pair.farm, "differential/frontend"),
            parents: pair.parents,
        };
        Outside {
            surroundings,
            _web: web,
            _git: git,
            _agents: agents,
            _client: client,
            _layout: layout,
        }
    }
}

/// The tag of [`OWN`] in the farm's registry, and a layout of it.
fn own(pair: &Pair) -> (String, TempDir) {
    let context = TempDir::new().expect("a temporary folder");
    let mut entries = Vec::new();
    let mut add = |path: &str, what: What, mode: u32| {
        entries.push(Entry {
            path: path.to_owned(),
            what,
            mode,
            modified: 950_000_000 + entries.len() as u64,
        });
    };
    let text = |text: &str| What::File(format!("{text} of own\n").into_bytes());
    add("Dockerfile", What::File(OWN.as_bytes().to_vec()), 0o644);
    for platform in PLATFORMS {
        let architecture = platform.trim_start_matches("linux/");
        add(architecture, text(architecture), 0o644);
    }
    add("all/one", text("one"), 0o4711);
    add("all/sub/two", text("two"), 0o640);
    add("all/link", What::Link("one".to_owned()), 0o777);
    material::write(context.path(), &entries);

    let tag = Repository::of(pair.farm.registry(), "differential/own").tag("latest");
    let mut push = pair.alone(["build", "--push", "--provenance=false", "--tag", &tag]);
    push.args(["--platform", &PLATFORMS.join(",")])
        .arg(context.path());
    process::run(push).succeeded();
    let layout = layout::of(&pair.buildx, pair.engine.address(), context.path());
    (tag, layout)
}
