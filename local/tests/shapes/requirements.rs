//! What agents must be able and allowed to do: steps that need more than the ordinary, and 32-bit platforms beside 64-bit ones. One farm,
//! in which no two agents can do the same.

use std::{
    fs,
    io::{Seek as _, Write as _},
    sync::OnceLock,
};

use bollard_buildkit_proto::{
    moby::buildkit::v1::{SolveRequest, control_client::ControlClient},
    pb,
};
use croft_local::{Architecture, Farm, FarmOptions, Special};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::support::{
    Buildx, Built, Context, Repository, engine::runs, farm, farm_of, nonce, process,
};
use buildctl::Buildctl;

#[path = "../sessions/buildctl.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod buildctl;

/// `amd64-1` has an engine as it comes; that of `amd64-2` also allows `security.insecure`, and has a device; `arm64-1` is a 64-bit processor, and `arm64-2`
/// runs 32-bit arm too.
fn special_farm() -> &'static Farm {
    static FARM: OnceLock<Farm> = OnceLock::new();
    FARM.get_or_init(|| {
        let mut options = FarmOptions::from_env().unwrap();
        options.agents = croft_local::agents("amd64,amd64,arm64,arm64").unwrap();
        options.engines.clear();
        options.coordinator_flags = [
            "--build-platform",
            "linux/amd64",
            "--allow-entitlement",
            "network.host,security.insecure,device",
        ]
        .map(str::to_owned)
        .to_vec();
        let insecure = Special {
            entitlements: ["network.host", "security.insecure"]
                .map(str::to_owned)
                .to_vec(),
            devices: vec![DEVICE.to_owned()],
            ..Special::default()
        };
        let narrow = Special {
            platforms: ["linux/arm64", "linux/arm/v7"].map(str::to_owned).to_vec(),
            ..Special::default()
        };
        options.special = [(options.agents[1], insecure), (options.agents[3], narrow)].into();
        Farm::start(options).unwrap_or_else(|error| panic!("no farm: {error}"))
    })
}

/// The last line that buildx printed.
fn last_line(built: &Built) -> String {
    built
        .progress()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

/// A build that failed as one line says, before anything of it ran anywhere.
fn nothing_ran(farm: &Farm, context: &Context, built: &Built, text: &str) {
    let last = last_line(built);
    assert!(last.starts_with("ERROR: ") && last.contains(text), "{last}");
    assert_eq!(runs(farm, &context.nonce), []);
}

const DEVICE: &str = "vendor.example/thing=one";

fn insecure(exec: &mut pb::ExecOp) {
    exec.security = pb::SecurityMode::Insecure.into();
}

/// Any device of the kind.
fn with_device(exec: &mut pb::ExecOp) {
    exec.cdi_devices = vec![pb::CdiDevice {
        name: "vendor.example/thing".to_owned(),
        optional: false,
    }];
}

/// A plain step, one that asks for more, and a plain one on busybox of a platform. The engine's own frontend may be too old for
/// `RUN --security`, and knows no `--device`.
fn chain(architecture: &str, nonce: &str, ask: fn(&mut pb::ExecOp)) -> pb::Definition {
    let platform = pb::Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        ..pb::Platform::default()
    };
    let mut definition = pb::Definition::default();
    let mut last: Option<String> = None;
    let mut add = |op: Option<pb::op::Op>| {
        let input = last.take().map(|digest| pb::Input { digest, index: 0 });
        let plain = pb::Op {
            inputs: input.into_iter().collect(),
            platform: op.is_some().then(|| platform.clone()),
            ..pb::Op::default()
        };
        let op = pb::Op {
            op,
            ..pb::Op::default()
        };
        // Go writes the members of a oneof last.
        let bytes = [plain.encode_to_vec(), op.encode_to_vec()].concat();
        last = Some(format!("sha256:{}", hex::encode(Sha256::digest(&bytes))));
        definition.def.push(bytes);
    };
    add(Some(pb::op::Op::Source(pb::SourceOp {
        identifier: "docker-image://docker.io/library/busybox:latest".to_owned(),
        ..pb::SourceOp::default()
    })));
    let plainly: fn(&mut pb::ExecOp) = |_| {};
    for (step, ask) in [("before", plainly), ("special", ask), ("after", plainly)] {
        let command = format!(": {step}-{nonce} && grep CapEff /proc/self/status > /{step}");
        let mut exec = pb::ExecOp {
            meta: Some(pb::Meta {
                args: ["/bin/sh", "-c", &command].map(str::to_owned).to_vec(),
                env: vec!["PATH=/bin".to_owned()],
                cwd: "/".to_owned(),
                ..pb::Meta::default()
            }),
            mounts: vec![pb::Mount {
                dest: "/".to_owned(),
                ..pb::Mount::default()
            }],
            ..pb::ExecOp::default()
        };
        ask(&mut exec);
        add(Some(pb::op::Op::Exec(exec)));
    }
    add(None);
    definition
}

/// Builds a definition with `buildctl`.
fn build(arguments: &[&str], definition: &pb::Definition) -> buildctl::Built {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&definition.encode_to_vec())
        .expect("writable");
    file.rewind().expect("a file");
    Buildctl::of(special_farm()).build(arguments, file)
}

/// Solves a definition as a client would that is newer than Debian's, which knows no devices.
async fn solve(entitlement: &str, definition: pb::Definition) -> Result<(), tonic::Status> {
    let address = format!("http://{}", special_farm().client_address());
    let mut control = ControlClient::connect(address).await.expect("it listens");
    let request = SolveRequest {
        r#ref: nonce(),
        definition: Some(definition),
        entitlements: vec![entitlement.to_owned()],
        ..SolveRequest::default()
    };
    control.solve(request).await.map(drop)
}

/// How many capabilities the process had that wrote this.
fn capabilities(status: &str) -> u32 {
    let (_, set) = status.trim().split_once(":\t").expect(status);
    u64::from_str_radix(set, 16).expect(status).count_ones()
}

/// The chain ran on the agent that can run all of it, and nowhere else.
fn ran_on_the_only_agent_that_can(nonce: &str) {
    for step in ["before", "special", "after"] {
        let ran = runs(special_farm(), &format!("{step}-{nonce}"));
        assert_eq!(ran, [("amd64-2".to_owned(), 1)], "{step}");
    }
}

#[test]
fn a_plain_an_insecure_and_a_plain_step_run_on_one_agent_and_nothing_travels() {
    let farm = special_farm();
    let nonce = nonce();
    let repository = Repository::of(farm.registry(), &nonce);
    let output = format!("--output=type=image,name={},push=true", repository.tag("1"));
    let arguments = ["--allow=security.insecure", &output];
    let built = build(&arguments, &chain("amd64", &nonce, insecure)).succeeded();

    let plan = built.plan(farm);
    assert_eq!(
        (plan.stages.len(), plan.transfers.len()),
        (1, 0),
        "{plan:#?}"
    );
    assert_eq!(plan.stages[0].agent(), "amd64-2");
    ran_on_the_only_agent_that_can(&nonce);
    let image = repository.published("1").bare_image();
    let [before, special, after] =
        ["/before", "/special", "/after"].map(|path| capabilities(&image.file(path)));
    assert!(
        before == after && before < special,
        "{before} {special} {after}"
    );
}

#[tokio::test]
async fn a_step_that_wants_a_device_runs_where_there_is_one() {
    let nonce = nonce();
    let definition = chain("amd64", &nonce, |exec| {
        with_device(exec);
        let meta = exec.meta.as_mut().expect("a command");
        meta.args[2] += &format!(" && test \"$DEVICE\" = {DEVICE}");
    });
    solve("device", definition).await.expect("a build");
    tokio::task::spawn_blocking(move || ran_on_the_only_agent_that_can(&nonce))
        .await
        .expect("the agent");
}

#[test]
fn what_no_engine_of_a_platform_allows_is_refused_with_what_to_do_before_anything_runs() {
    let nonce = nonce();
    let arguments = ["--allow=security.insecure"];
    let built = build(&arguments, &chain("arm64", &nonce, insecure));
    assert!(!built.finished.status.success());
    let said = &built.finished.stderr;
    for says in [
        "no agent can run this build: arm64-1 does not allow security.insecure, arm64-2 does not allow security.insecure; ",
        "buildkitd with --allow-insecure-entitlement security.insecure",
        r#""builder": {"entitlements": {"security-insecure": true}} in its daemon.json"#,
    ] {
        assert!(said.contains(says), "{said}");
    }
    assert_eq!(runs(special_farm(), &nonce), []);
}

#[tokio::test]
async fn a_device_that_no_engine_of_a_platform_has_is_refused_before_anything_runs() {
    let nonce = nonce();
    let definition = chain("arm64", &nonce, with_device);
    let refused = solve("device", definition)
        .await
        .expect_err("no such device");
    let none = "has no device vendor.example/thing for builds";
    let says = format!("no agent can run this build: arm64-1 {none}, arm64-2 {none}; ");
    assert!(refused.message().starts_with(&says), "{refused}");
    tokio::task::spawn_blocking(move || assert_eq!(runs(special_farm(), &nonce), []))
        .await
        .expect("nothing");
}

const HOST: &str = "\
FROM busybox
RUN : plain-$NONCE && readlink /proc/self/ns/net > /plain
RUN --network=host : host-$NONCE && readlink /proc/self/ns/net > /host
";

#[test]
fn a_step_on_the_hosts_network_runs_there_if_it_is_granted() {
    let farm = special_farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(HOST);
    let repository = Repository::of(farm.registry(), &context.nonce);
    // The engine of amd64-1 refuses builds that so much as ask for the other.
    buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64"])
        .args(["--allow", "network.host", "--allow", "security.insecure"])
        .push(&repository.tag("1"))
        .run()
        .succeeded();
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    let published = repository.published("1");
    for platform in ["linux/amd64", "linux/arm64"] {
        let image = published.image(platform);
        assert_eq!(image.file("/host").trim(), ours.to_string_lossy());
        assert_ne!(image.file("/plain"), image.file("/host"));
    }
}

#[test]
fn a_step_that_was_not_granted_what_it_asks_for_fails_with_plain_buildkits_words_before_anything_runs()
 {
    let farm = special_farm();
    let buildx = Buildx::of(farm);
    let context = Context::new(HOST);
    let built = buildx.build(&context).run().failed();
    nothing_ran(farm, &context, &built, "network.host is not allowed");

    let engine = farm.agents()[0].engine();
    if let Some(socket) = engine.strip_prefix("docker+") {
        let mut plain = buildx.command(["--builder", "default", "build", "--progress", "plain"]);
        plain.env("DOCKER_HOST", socket).arg(context.path());
        let plain = process::run(plain);
        assert!(!plain.status.success());
        assert_eq!(plain.stderr.lines().last().unwrap(), last_line(&built));
    }
}

const ALL: &str = "\
FROM busybox
RUN : own-$NONCE && head -c 5 /bin/busybox | tail -c 1 | od -An -tu1 > /class
";

/// 1 for a 32-bit program, 2 for a 64-bit one.
fn class(repository: &Repository, platform: &str) -> String {
    let image = repository.published("1").image(platform);
    image.file("/class").trim().to_owned()
}

#[test]
fn a_32_bit_platform_is_built_on_a_64_bit_agent_of_its_family_that_proves_it() {
    let farm = special_farm();
    if Architecture::native() != Some(Architecture::Amd64) {
        return eprintln!("a pretended amd64 agent does not stand for 386");
    }
    let buildx = Buildx::of(farm);
    let context = Context::new(ALL);
    let repository = Repository::of(farm.registry(), &context.nonce);
    let platforms = ["linux/386", "linux/amd64", "linux/arm/v7", "linux/arm64"];
    let built = buildx
        .build(&context)
        .platforms(&platforms)
        .push(&repository.tag("1"))
        .run()
        .succeeded();

    assert_eq!(
        platforms.map(|one| class(&repository, one)),
        ["1", "2", "1", "2"]
    );
    let plan = built.plan();
    assert_eq!(
        (plan.stages.len(), plan.transfers.len()),
        (4, 0),
        "{plan:#?}"
    );
    let of = |user: &str| {
        let mut stages = plan.stages.iter();
        let stage = stages.find(|stage| stage.users == [user]).expect(user);
        assert!(!stage.reason().contains("emulates"), "{stage:#?}");
        (stage.home.as_deref().unwrap(), stage.agent())
    };
    let (home, agent) = of("linux/386");
    assert!(
        home == "linux/amd64" && agent.starts_with("amd64-"),
        "{home} {agent}"
    );
    assert_eq!(of("linux/arm/v7"), ("linux/arm64", "arm64-2"));
}

const TOGETHER: &str = "\
FROM busybox AS wide
RUN --mount=type=cache,id=$NONCE,target=/m : wide-$NONCE && echo wide > /m/wide
FROM --platform=linux/arm/v7 busybox
COPY --from=wide /bin/true /wide
RUN --mount=type=cache,id=$NONCE,target=/m : narrow-$NONCE && cp /m/wide /seen
";

/// Alone, the first stage could run on either arm64 agent.
#[test]
fn stages_that_share_a_cache_mount_run_where_all_of_them_can() {
    let farm = special_farm();
    let buildx = Buildx::of(farm);
    for _ in 0..3 {
        let context = Context::new(TOGETHER);
        let repository = Repository::of(farm.registry(), &context.nonce);
        let built = buildx
            .build(&context)
            .platforms(&["linux/arm64"])
            .push(&repository.tag("1"))
            .run()
            .succeeded();
        let plan = built.plan();
        assert_eq!(plan.agents().into_iter().collect::<Vec<_>>(), ["arm64-2"]);
        let image = repository.published("1").bare_image();
        assert_eq!(image.file("/seen"), "wide");
    }
}

#[test]
fn a_32_bit_platform_that_no_agent_proves_is_refused_before_anything_runs() {
    let farm = farm();
    let context = Context::new(ALL);
    let built = Buildx::of(farm)
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm/v7"])
        .run()
        .failed();
    nothing_ran(
        farm,
        &context,
        &built,
        "no agent can run linux/arm/v7: the farm has ",
    );
    assert!(last_line(&built).contains("linux/arm64 (arm64-1)"));
}

#[test]
fn what_is_native_somewhere_is_never_emulated_and_what_is_emulated_is_said() {
    let farm = farm_of("amd64,arm64", &["--emulate"]);
    let buildx = Buildx::of(&farm);
    let context = Context::new(ALL);
    let repository = Repository::of(farm.registry(), &context.nonce);
    let built = buildx
        .build(&context)
        .platforms(&["linux/amd64", "linux/arm64", "linux/s390x"])
        .push(&repository.tag("1"))
        .run()
        .succeeded();
    let plan = built.plan();
    let of = |user: &str| {
        let mut stages = plan.stages.iter();
        let stage = stages.find(|stage| stage.users == [user]).expect(user);
        (stage.agent(), stage.reason())
    };
    assert_eq!(of("linux/arm64").0, "arm64-1");
    assert!(!of("linux/arm64").1.contains("emulates"), "{plan:#?}");
    if Architecture::native() == Some(Architecture::Amd64) {
        let (agent, reason) = of("linux/s390x");
        assert_eq!(agent, "amd64-1");
        assert!(reason.contains("emulates linux/s390x"), "{reason}");
    }
}
