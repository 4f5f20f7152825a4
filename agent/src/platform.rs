//! Which platforms the engine runs natively and which it only emulates. Which of them a stage may use is the coordinator's to decide.

use croft_buildkit::api::pb::Platform;

/// How the machine's 32-bit arm comes about, where an engine lists it beside arm64: see [`crate::trial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm32 {
    /// The processor ran a program of it.
    Proven,
    /// Only an emulator did, or this can't be seen from here.
    Unproven,
}

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
    /// Sorts what an engine lists; its first platform is what its machine is. `None` if it lists nothing.
    pub fn of_engine(listed: &[Platform], arm32: Arm32) -> Option<Self> {
        let native = listed.first()?.clone();
        let (mut platforms, mut emulated) = (Vec::new(), Vec::new());
        for platform in listed {
            let side = if runs_natively(&native, platform, arm32) {
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

fn runs_natively(native: &Platform, platform: &Platform, arm32: Arm32) -> bool {
    if platform.os != native.os {
        return false;
    }
    match (native.architecture.as_str(), platform.architecture.as_str()) {
        ("amd64", "386") => true,
        ("arm64", "arm") => arm32 == Arm32::Proven,
        (ours, theirs) => ours == theirs,
    }
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

    fn check(listed: &[&str], arm32: Arm32, native: &[&str], emulated: &[&str]) {
        let abilities = Abilities::of_engine(&platforms(listed), arm32).expect("some platform");
        assert_eq!(abilities.native, platforms(listed)[0]);
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
            Arm32::Proven,
            &["linux/amd64", "linux/amd64/v2", "linux/386"],
            &["linux/arm64", "linux/s390x"],
        );
    }

    #[test]
    fn arm64_is_native_for_32_bit_arm_only_where_proven() {
        let listed = ["linux/arm64", "linux/arm/v7", "linux/arm/v6"];
        check(&listed, Arm32::Proven, &listed, &[]);
        check(
            &listed,
            Arm32::Unproven,
            &["linux/arm64"],
            &["linux/arm/v7", "linux/arm/v6"],
        );
    }

    #[test]
    fn an_engine_without_platforms_has_no_abilities() {
        assert_eq!(Abilities::of_engine(&[], Arm32::Proven), None);
    }
}
