//! Which platforms the engine runs natively and which it only emulates. Which of them a stage may use is the coordinator's to decide.

use croft_buildkit::api::pb::Platform;

/// What an engine can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Abilities {
    /// What the machine is.
    pub native: Platform,
    /// What runs without an emulator, `native` first.
    pub platforms: Vec<Platform>,
    /// What runs through one.
    pub emulated: Vec<Platform>,
}

impl Abilities {
    /// Sorts what an engine lists; its first platform is what its machine is. `None` if it lists nothing. What is `proven` of the machine's
    /// own 32-bit platforms (see [`crate::trial`]) it runs whether or not it lists it: engines only warn about others.
    pub fn of_engine(listed: &[Platform], proven: &[Platform]) -> Option<Self> {
        let native = listed.first()?.clone();
        let own = proven.iter().filter(|narrow| is_narrower(&native, narrow));
        let (mut platforms, mut emulated) = (Vec::new(), Vec::new());
        for platform in listed.iter().chain(own) {
            let side = if runs_natively(&native, platform, proven) {
                &mut platforms
            } else {
                &mut emulated
            };
            if !side.contains(platform) {
                side.push(platform.clone());
            }
        }
        Some(Self {
            native,
            platforms,
            emulated,
        })
    }

    /// Stands for these platforms and nothing else, the first as its native one, as agents of a test farm do. `None` if there are none.
    pub fn pretended(platforms: &[Platform]) -> Option<Self> {
        Some(Self {
            native: platforms.first()?.clone(),
            platforms: platforms.to_vec(),
            emulated: Vec::new(),
        })
    }
}

fn runs_natively(native: &Platform, platform: &Platform, proven: &[Platform]) -> bool {
    if is_narrower(native, platform) {
        // Every amd64 processor can; of arm64 ones many can't, and what the engine lists may be an emulator's.
        return native.architecture == "amd64" || proven.contains(platform);
    }
    platform.os == native.os && platform.architecture == native.architecture
}

/// Whether `platform` is the 32-bit one of the same family.
fn is_narrower(native: &Platform, platform: &Platform) -> bool {
    let family = (native.architecture.as_str(), platform.architecture.as_str());
    platform.os == native.os && [("amd64", "386"), ("arm64", "arm")].contains(&family)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platforms(texts: &[&str]) -> Vec<Platform> {
        texts
            .iter()
            .map(|text| croft_buildkit::platform::parse(text).expect("a platform"))
            .collect()
    }

    fn check(listed: &[&str], proven: &[&str], native: &[&str], emulated: &[&str]) {
        let (listed, proven) = (platforms(listed), platforms(proven));
        let abilities = Abilities::of_engine(&listed, &proven).expect("some platform");
        assert_eq!(abilities.native, listed[0]);
        assert_eq!(abilities.platforms, platforms(native));
        assert_eq!(abilities.emulated, platforms(emulated));
    }

    #[test]
    fn an_amd64_machine_is_native_for_its_levels_and_for_386() {
        check(
            &[
                "linux/amd64",
                "linux/amd64/v2",
                "linux/386",
                "linux/arm64",
                "linux/s390x",
            ],
            &[],
            &["linux/amd64", "linux/amd64/v2", "linux/386"],
            &["linux/arm64", "linux/s390x"],
        );
    }

    #[test]
    fn arm64_is_native_for_32_bit_arm_only_where_proven() {
        let listed = ["linux/arm64", "linux/arm/v7", "linux/arm/v6"];
        check(&listed, &listed[1..], &listed, &[]);
        check(&listed, &[], &["linux/arm64"], &listed[1..]);
    }

    #[test]
    fn what_is_proven_counts_though_the_engine_does_not_list_it_but_not_on_another_machine() {
        check(
            &["linux/amd64"],
            &["linux/386"],
            &["linux/amd64", "linux/386"],
            &[],
        );
        let arm = ["linux/arm64", "linux/arm/v7"];
        check(&["linux/arm64"], &arm[1..], &arm, &[]);
        check(&arm, &["linux/386"], &arm[..1], &arm[1..]);
        check(&["linux/s390x"], &["linux/386"], &["linux/s390x"], &[]);
    }

    #[test]
    fn an_engine_without_platforms_has_no_abilities() {
        assert_eq!(Abilities::of_engine(&[], &[]), None);
    }
}
