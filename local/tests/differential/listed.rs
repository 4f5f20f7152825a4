//! That the random Dockerfiles have in them what a Dockerfile can say: else that they come out the same would prove little.

use crate::{
    generate::{Case, Surroundings},
    pair::Parents,
    random::CASES,
};

/// As it stands in a Dockerfile or in buildx's arguments; all of it is in the Dockerfiles of every run.
const ALWAYS: [&str; 40] = [
    "--mount=type=cache,",
    "--mount=type=bind,from=s",
    "--mount=type=bind,source=",
    "--mount=type=secret,",
    "--mount=type=ssh",
    "--mount=type=tmpfs,",
    "--link ",
    "--chown=1000",
    "--chown=nobody",
    "--chmod=",
    "--parents ",
    "--exclude=",
    "COPY --from=s",
    "COPY --from=extra",
    "COPY <<EOF",
    "RUN <<EOF",
    "ADD pack.tar.gz",
    "/file /web",
    "ADD git://",
    "--keep-git-dir=true",
    "\nONBUILD ",
    "--build-arg=",
    "--target=",
    "--build-context=own=docker-image:",
    "--build-context=own=oci-layout:",
    "--no-cache ",
    "--no-cache-filter=",
    "# syntax=",
    "# check=",
    "\nSHELL ",
    "\nUSER ",
    "\nWORKDIR ",
    "\nHEALTHCHECK ",
    "\nSTOPSIGNAL ",
    "\nVOLUME ",
    "\nLABEL ",
    "\nFROM scratch ",
    "\nFROM --platform=$BUILDPLATFORM ",
    "\nFROM pick-$TARGETARCH ",
    " .dockerignore ",
];

/// What comes up seldom, and so only in a long run.
const SELDOM: [&str; 41] = [
    "--parents --exclude=",
    "/**/",
    "--exclude=* --exclude=!",
    "from=busybox,",
    "--build-context=repo=git:",
    "COPY --from=repo ",
    ",size=1048576 ",
    "COPY --link --from=s0 /not/there",
    "type=cache,id=seed-1-begun,from=s",
    ",sharing=private,",
    ",sharing=shared,",
    ",sharing=locked,",
    ",mode=0710,uid=5,gid=6 ",
    "type=bind,from=own,",
    "type=bind,from=extra,",
    ",rw ",
    ",mode=0444,uid=5,gid=6 ",
    ",env=WORD ",
    "type=ssh ",
    "type=ssh,required=true,",
    "type=ssh,id=other,",
    "type=ssh,id=unheard ",
    "--chown=added",
    "COPY --from=busybox",
    "COPY --from=own",
    "RUN cat <<",
    "RUN <<-EOF",
    "COPY <<one <<-two",
    "ADD --unpack=false ",
    "ADD --unpack=true http",
    "ADD --checksum=sha256:",
    "repository#first ",
    "repository#main ",
    "repository /git",
    ":sub /git",
    "ONBUILD COPY --from=own",
    "ONBUILD RUN --mount=",
    "--build-context=busybox=oci-layout:",
    "--build-arg=BASE=own",
    "# check=error=true",
    "HEALTHCHECK NONE",
];

/// Every seed's as one text, with `seed-1` for each seed.
fn cases(count: u64) -> Vec<String> {
    let surroundings = Surroundings {
        web: "http://web".to_owned(),
        sum: "sha256:00".to_owned(),
        git: "git://git/repository".to_owned(),
        commit: "00".repeat(20),
        ssh: [
            "--ssh=default=1",
            "--ssh=other=2",
            "--build-context=client=3",
        ]
        .map(str::to_owned),
        own: ["docker-image://own", "oci-layout:///own"].map(str::to_owned),
        labs: "labs".to_owned(),
        parents: Parents::Unknown,
    };
    let told = |seed| Case::of(seed, surroundings.clone()).told();
    let one = |seed| {
        let text = told(seed);
        assert_eq!(text, told(seed), "a seed always gives the same");
        text.replace(&format!("=seed-{seed}-"), "=seed-1-")
    };
    (1..=count).map(one).collect()
}

fn rarer_than(least: usize, listed: &[&str], cases: &[String]) -> Vec<String> {
    let often = |text: &str| cases.iter().filter(|case| case.contains(text)).count();
    let counts = listed.iter().map(|text| (text, often(text)));
    let rare = counts.filter(|(_, count)| *count < least);
    rare.map(|(text, count)| format!("{text:?}: {count}"))
        .collect()
}

#[test]
fn every_run_has_all_that_a_dockerfile_can_say() {
    assert_eq!(rarer_than(1, &ALWAYS, &cases(CASES)), [""; 0]);
}

#[test]
fn a_long_run_has_all_of_its_kinds_several_times() {
    let cases = cases(500);
    assert_eq!(rarer_than(5, &SELDOM, &cases), [""; 0]);
    assert_eq!(rarer_than(20, &ALWAYS, &cases), [""; 0]);
}
