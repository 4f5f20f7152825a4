//! What a Dockerfile says about how its image is run, and about how the build goes on: `ONBUILD`, `SHELL`, `USER`, `WORKDIR`.

use serde_json::{Value, json};

use super::{published, ran_on_each};
use crate::support::{Buildx, Context, PLATFORMS, Repository, engine::runs, farm, machine};

/// Pushed for all platforms as a base, so that what it says on building is done in another build.
const BASE: &str = "\
FROM busybox
ENV FROM_BASE=base PATH=/extra:/bin:/sbin:/usr/bin:/usr/sbin
EXPOSE 80/tcp
VOLUME /base-data
ONBUILD ARG TARGETARCH
ONBUILD COPY input /input
ONBUILD RUN : onbuild-$NONCE && echo $TARGETARCH $(uname -m) > /onbuild
";

const CONFIG: &str = "\
ARG BASE
FROM ${BASE}
ARG TARGETARCH
SHELL [\"/bin/busybox\", \"ash\", \"-e\", \"-c\"]
RUN : shell-$NONCE; false | cat /proc/$$/cmdline > /shell; echo $TARGETARCH > /architecture
WORKDIR /made
WORKDIR by/parts
USER 65534:65534
RUN : user-$NONCE; echo $(id -u):$(id -g) $(pwd) > /tmp/user; test ! -w /made/by/parts
USER root
COPY --chown=nobody:nogroup input own
USER nobody
ENV ARCHITECTURE=$TARGETARCH COMBINED=${FROM_BASE}-more
LABEL org.example.nonce=$NONCE org.example.arch=$TARGETARCH \"with space\"=\"two words\"
EXPOSE 8080 53/udp
VOLUME [\"/data\", \"/logs\"]
HEALTHCHECK --interval=5s --timeout=2s --start-period=1s --start-interval=500ms --retries=7 CMD [\"/bin/true\"]
STOPSIGNAL SIGUSR1
MAINTAINER somebody
ENTRYPOINT exec said
CMD [\"one\", \"two words\"]
";

const CONFIG_PLAN: &str = "\
0 target on amd64 for amd64: linux/amd64 3/9 … 8/9
1 target on arm64 for arm64 after 0: linux/arm64 3/9 … 8/9
2 target on ppc64le for ppc64le after 0: linux/ppc64le 3/9 … 8/9
3 target on s390x for s390x after 0: linux/s390x 3/9 … 8/9
";

#[test]
fn an_image_s_config_and_what_its_base_wants_done_are_right_on_every_platform() {
    let farm = farm();
    let buildx = Buildx::of(farm);
    let base = Context::new(BASE);
    let repository = Repository::of(farm.registry(), "shapes/instructions/onbuild");
    let tag = repository.tag(&base.nonce);
    let pushed = buildx.build(&base).platforms(&PLATFORMS).push(&tag);
    pushed.run().succeeded();
    assert!(runs(farm, &format!("onbuild-{}", base.nonce)).is_empty());

    let context = Context::new(CONFIG).file("input", "input");
    let argument = format!("--build-arg=BASE={tag}");
    let (built, images) = published(&buildx, "config", &context, &[&argument]);

    for (platform, image) in PLATFORMS.iter().zip(&images) {
        let architecture = platform.trim_start_matches("linux/");
        let machine = machine(platform);
        assert_eq!(image.platform(), *platform);
        assert_eq!(image.file("/onbuild"), format!("{architecture} {machine}"));
        assert_eq!(image.file("/input"), "input");
        assert_eq!(image.file("/architecture"), architecture);
        assert!(image.file("/shell").contains("ash\0-e\0-c"), "{platform}");
        assert_eq!(image.file("/tmp/user"), "65534:65534 /made/by/parts");
        assert_eq!(
            image.owner_and_mode("made/by/parts/own"),
            "-rw-r--r-- 65534/65534"
        );
        assert_eq!(
            image.config["config"],
            expected(architecture, &context.nonce)
        );
        assert_eq!(image.config["author"], "somebody");
    }
    for step in ["shell", "user"] {
        ran_on_each(&context, step);
    }
    ran_on_each(&base, "onbuild");
    built.plan().check_stages(CONFIG_PLAN);
}

fn expected(architecture: &str, nonce: &str) -> Value {
    let second = 1_000_000_000_u64;
    json!({
        "User": "nobody",
        "ExposedPorts": {"80/tcp": {}, "8080/tcp": {}, "53/udp": {}},
        "Env": [
            "PATH=/extra:/bin:/sbin:/usr/bin:/usr/sbin",
            "FROM_BASE=base",
            format!("ARCHITECTURE={architecture}"),
            "COMBINED=base-more",
        ],
        "Entrypoint": ["/bin/busybox", "ash", "-e", "-c", "exec said"],
        "Cmd": ["one", "two words"],
        // BuildKit says so of entry points without brackets.
        "ArgsEscaped": true,
        "Healthcheck": {
            "Test": ["CMD", "/bin/true"],
            "Interval": 5 * second,
            "Timeout": 2 * second,
            "StartPeriod": second,
            "StartInterval": second / 2,
            "Retries": 7,
        },
        "Volumes": {"/base-data": {}, "/data": {}, "/logs": {}},
        "WorkingDir": "/made/by/parts",
        "Labels": {
            "org.example.nonce": nonce,
            "org.example.arch": architecture,
            "with space": "two words",
        },
        "StopSignal": "SIGUSR1",
        "Shell": ["/bin/busybox", "ash", "-e", "-c"],
    })
}
