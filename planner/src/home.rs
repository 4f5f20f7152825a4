//! Homes: which class of agents runs a platform natively. Which agents there are, and which of them are free, is the scheduler's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::Platform;

/// A class of agents, named by the native platform that they have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Home(Platform);

impl Home {
    /// The class of the agents whose native platform this is.
    pub fn new(native: Platform) -> Self {
        Self(native)
    }

    /// The native platform of the class.
    pub fn platform(&self) -> &Platform {
        &self.0
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which platforms the fleet's classes run natively: `amd64` runs `386` and `amd64/v2` too, `arm64` runs `arm/v7` where an agent proved
/// it. A platform that no class runs is a class of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes {
    classes: BTreeMap<Home, BTreeSet<Platform>>,
}

impl Homes {
    /// No classes yet: each platform is its own home.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what one agent runs natively to the class of its native platform.
    pub fn add(&mut self, native: Platform, platforms: impl IntoIterator<Item = Platform>) {
        self.classes
            .entry(Home::new(native))
            .or_default()
            .extend(platforms);
    }

    /// Where `platform` runs natively: in the class that bears its name if there is one, else in the first that runs it.
    pub fn home_of(&self, platform: &Platform) -> Home {
        let own = Home::new(platform.clone());
        if self.classes.contains_key(&own) {
            return own;
        }
        let class = self
            .classes
            .iter()
            .find(|(_, platforms)| platforms.contains(platform));
        class.map_or(own, |(home, _)| home.clone())
    }
}

impl<P: IntoIterator<Item = Platform>> FromIterator<(Platform, P)> for Homes {
    fn from_iter<I: IntoIterator<Item = (Platform, P)>>(agents: I) -> Self {
        let mut homes = Self::new();
        for (native, platforms) in agents {
            homes.add(native, platforms);
        }
        homes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_platform_lives_where_it_runs_natively() {
        let homes: Homes = [
            (
                platform("linux/amd64"),
                vec![platform("linux/amd64"), platform("linux/386")],
            ),
            (platform("linux/arm64"), vec![platform("linux/arm64")]),
            (
                platform("linux/arm64"),
                vec![
                    platform("linux/arm64"),
                    platform("linux/arm/v7"),
                    platform("linux/arm/v6"),
                ],
            ),
            (platform("linux/arm/v6"), vec![platform("linux/arm/v6")]),
        ]
        .into_iter()
        .collect();
        for (text, home) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/386", "linux/amd64"),
            ("linux/arm/v7", "linux/arm64"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(homes.home_of(&platform(text)).to_string(), home);
        }
    }
}
