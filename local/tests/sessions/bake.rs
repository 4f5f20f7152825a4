//! Sessions that a bake's builds share. What they share of their work is in `shapes`.

use crate::support::{Buildx, Context, Repository, farm_of, nonce};

const TWO: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// How many bytes engines took from the session's folder of this name, as they told.
fn transferred(progress: &str, name: &str) -> f64 {
    let needle = format!("transferring {name}: ");
    let mut most = std::collections::BTreeMap::new();
    for line in progress.lines() {
        let Some((vertex, rest)) = line.split_once(&*format!(" {needle}")) else {
            continue;
        };
        let size = rest.split(' ').next().unwrap_or_default();
        let unit = size.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = size.trim_end_matches(unit).parse().expect("a number");
        let scale = match unit {
            "B" => 1.0,
            "kB" => 1e3,
            "MB" => 1e6,
            other => panic!("{other} in {line}"),
        };
        let most: &mut f64 = most.entry(vertex.to_owned()).or_default();
        *most = most.max(number * scale);
    }
    most.values().sum()
}

#[test]
fn targets_with_the_same_folder_upload_it_once() {
    const SIZE: usize = 4 << 20;
    // One agent for the steps that need it: where there are several, each that is given some of them reads it once.
    let farm = farm_of("amd64,arm64", &[]);
    let target = |name: &str, context: &str| {
        let image = Repository::of(farm.registry(), &format!("sessions/bake-{name}"));
        let tag = image.tag("1");
        let text = format!(
            "target {name:?} {{\n  context = {context:?}\n  dockerfile-inline = \"FROM --platform=$BUILDPLATFORM busybox AS b\\nCOPY large word /\\nRUN : shared-{} && sha256sum /large > /sum\\nFROM busybox\\nCOPY word /\\nCOPY --from=b /sum /\\nRUN : {name}-{} && cat /word\"\n  platforms = {TWO:?}\n  tags = [{tag:?}]\n}}\n",
            nonce(),
            nonce()
        );
        (text, image)
    };
    // Two with one folder, and one with another that goes by the same name.
    let targets = [
        target("one", "folder"),
        target("two", "folder"),
        target("three", "other"),
    ];
    let file: String = targets.iter().map(|(text, _)| text.as_str()).collect();
    let group = "group \"default\" { targets = [\"one\", \"two\", \"three\"] }\n";
    let context = Context::new("")
        .file("docker-bake.hcl", &format!("{group}{file}"))
        .file("folder/word", "folder")
        .file("other/word", "other")
        .file("other/large", "small");
    let noise: Vec<u8> = (0..SIZE as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8)
        .collect();
    context.write("folder/large", &noise);
    let buildx = Buildx::of(&farm);
    let built = buildx.bake(&context).args(["--push"]).run().succeeded();

    let sums = targets.each_ref().map(|(_, image)| {
        let published = image.published("1");
        let [first, rest @ ..] = TWO.map(|platform| published.image(platform).file("/sum"));
        assert!(rest.iter().all(|sum| *sum == first));
        first
    });
    assert_eq!(sums[0], sums[1]);
    assert_ne!(sums[0], sums[2]);
    let words = targets.map(|(_, image)| image.published("1").image(TWO[1]).file("/word"));
    assert_eq!(words, ["folder", "folder", "other"]);
    let sent = transferred(built.progress(), "context");
    let size = SIZE as f64;
    assert!(
        (size..1.5 * size).contains(&sent),
        "{sent} bytes of {size} in:\n{}",
        built.progress()
    );
}
