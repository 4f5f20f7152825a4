//! Which platforms the engine runs natively and which it only emulates. Which of them a stage may use is the coordinator's to decide.

use std::path::Path;

use croft_buildkit::api::pb::Platform;

/// How the machine's 32-bit arm comes about, where an engine lists it beside arm64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm32 {
    /// No emulator is registered, so it was the processor that ran the engine's trial program.
    Proven,
    /// An emulator is registered, or this can't be seen from here.
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

    /// Stands for one platform and nothing else, as agents of a test farm do.
    pub fn pretended(platform: Platform) -> Self {
        Self {
            native: platform.clone(),
            platforms: vec![platform],
            emulated: Vec::new(),
        }
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

/// Looks whether this machine's kernel has an emulator for 32-bit arm. Says nothing about an engine on another machine.
pub fn arm32_here() -> Arm32 {
    arm32_by(Path::new("/proc/sys/fs/binfmt_misc"))
}

fn arm32_by(binfmt: &Path) -> Arm32 {
    // Without `status` nothing is mounted there, and so nothing can be said.
    let (true, Ok(registered)) = (binfmt.join("status").exists(), std::fs::read_dir(binfmt)) else {
        return Arm32::Unproven;
    };
    let emulator = registered.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with("-arm") || name.ends_with("-armeb")
    });
    if emulator {
        Arm32::Unproven
    } else {
        Arm32::Proven
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

    #[test]
    fn an_emulator_for_arm_means_that_nothing_is_proven() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(arm32_by(folder.path()), Arm32::Unproven);
        std::fs::write(folder.path().join("status"), "enabled").expect("a file");
        assert_eq!(arm32_by(folder.path()), Arm32::Proven);
        std::fs::write(folder.path().join("qemu-arm"), "").expect("a file");
        assert_eq!(arm32_by(folder.path()), Arm32::Unproven);
        assert_eq!(arm32_by(Path::new("/nowhere")), Arm32::Unproven);
    }
}
