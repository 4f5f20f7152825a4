//! Platforms as containerd and buildx write and normalise them. Which machine runs which of them is for [`crate::Homes`].

use std::{fmt, str::FromStr};

use bollard_buildkit_proto::pb;
use serde::{Deserialize, Serialize};

/// An operating system and a processor architecture, always in normal form: two platforms that mean the same are equal.
///
/// The rules are those of containerd's `platforms` package: `x86_64` is `amd64`, `amd64/v1` is `amd64`, `aarch64` and `arm64/v8` are
/// `arm64`, `arm` is `arm/v7`. Written as `linux/arm/v7`, or `windows(10.0.17763)/amd64` with a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Platform {
    os: String,
    arch: String,
    variant: String,
    os_version: String,
}

/// A string that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a platform: {reason} (a platform is written as linux/arm64 or linux/arm/v7)"
)]
pub struct PlatformError {
    text: String,
    reason: &'static str,
}

impl Platform {
    /// The platform of these parts. An empty `os` is `linux`.
    pub fn new(os: &str, arch: &str, variant: &str, os_version: &str) -> Self {
        let (arch, variant) = normal_arch(&arch.to_lowercase(), &variant.to_lowercase());
        Self {
            os: normal_os(os),
            arch,
            variant,
            os_version: os_version.to_owned(),
        }
    }

    /// Parses a comma-separated list, as in a frontend's option `platform`. Empty items are skipped, repeated platforms kept.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, PlatformError> {
        list.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::parse)
            .collect()
    }

    /// `linux`, `windows`, …
    pub fn os(&self) -> &str {
        &self.os
    }

    /// `amd64`, `arm64`, …
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// `v7` of `arm/v7`; empty for most.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// The version of Windows that an image is for; empty elsewhere.
    pub fn os_version(&self) -> &str {
        &self.os_version
    }

    /// The platform of an op.
    pub fn from_pb(platform: &pb::Platform) -> Self {
        Self::new(
            &platform.os,
            &platform.architecture,
            &platform.variant,
            &platform.os_version,
        )
    }

    /// The platform as an op carries it.
    pub fn to_pb(&self) -> pb::Platform {
        pb::Platform {
            architecture: self.arch.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: Vec::new(),
        }
    }
}

fn normal_os(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "" => "linux".to_owned(),
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

/// `arch` and `variant` in lower case.
fn normal_arch(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = match (arch, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (arch.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses `os/arch[/variant]`, `os(version)/arch` or an architecture alone (of linux).
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = |reason| PlatformError {
            text: text.chars().take(100).collect(),
            reason,
        };
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let (os, arch, variant) = match parts[..] {
            [arch] => ("linux", arch, ""),
            [os, arch] => (os, arch, ""),
            [os, arch, variant] => (os, arch, variant),
            _ => return Err(error("it has more than three parts")),
        };
        let (os, version) = match os.split_once('(') {
            Some((os, rest)) => (
                os,
                rest.strip_suffix(')')
                    .ok_or_else(|| error("a parenthesis is not closed"))?,
            ),
            None => (os, ""),
        };
        if parts.len() == 1 && is_os(arch) {
            return Err(error("it names no architecture"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        for (part, optional) in [
            (os, false),
            (arch, false),
            (variant, parts.len() < 3),
            (version, true),
        ] {
            if part.is_empty() && !optional {
                return Err(error("a part is empty"));
            }
            if !part.chars().all(plain) {
                return Err(error("it may have letters, digits, '_', '.' and '-' only"));
            }
        }
        Ok(Self::new(os, arch, variant, version))
    }
}

fn is_os(text: &str) -> bool {
    [
        "linux", "windows", "darwin", "macos", "freebsd", "wasip1", "wasi",
    ]
    .contains(&text.to_lowercase().as_str())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        write!(f, "/{}", self.arch)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, PlatformError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let platform: Platform = text.parse().unwrap();
        assert_eq!(platform.to_string(), expect);
        assert_eq!(
            platform.to_string().parse::<Platform>().unwrap(),
            platform,
            "{text} does not survive being written"
        );
        assert_eq!(Platform::from_pb(&platform.to_pb()), platform);
    }

    #[test]
    fn platforms_are_normalised_as_containerd_does() {
        for (text, expect) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/i386", "linux/386"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/PPC64LE", "linux/ppc64le"),
            ("macos/arm64", "darwin/arm64"),
            ("s390x", "linux/s390x"),
            ("windows(10.0.17763.1)/amd64", "windows(10.0.17763.1)/amd64"),
        ] {
            check(text, expect);
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "/",
            "linux",
            "linux/",
            "/amd64",
            "linux/amd64/",
            "linux/a/b/c",
            "linux/*",
            "windows(10/amd64",
            "linux/a b",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_list_keeps_its_order() {
        let list = Platform::parse_list("linux/arm64/v8, linux/amd64,,").unwrap();
        assert_eq!(
            list.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["linux/arm64", "linux/amd64"]
        );
    }
}
