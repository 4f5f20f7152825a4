//! The names of things that the scheduler talks about. Ids are made elsewhere (version 7 UUIDs, so that they sort by age): nothing here
//! is random.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not the id that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the id of {what}")]
pub struct BadId {
    /// What the id should have named: "a build".
    pub what: &'static str,
    /// The text as it came.
    pub text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                Uuid::parse_str(text).map($name).map_err(|_| BadId { what: $what, text: text.to_owned() })
            }
        }
    };
}

uuid_id!(
    /// One request: see "Words" in the design.
    BuildId,
    "a build"
);
uuid_id!(
    /// A client's connection. The builds of one bake come by the same.
    ConnectionId,
    "a connection"
);
uuid_id!(
    /// One try at a stage, on one agent, under one lease.
    AttemptId,
    "an attempt"
);
uuid_id!(
    /// One agent. It keeps its id as long as the farm knows its name.
    AgentId,
    "an agent"
);

/// The fencing token of an attempt: persisted, and larger than every token that was given out before it. Every write about an attempt
/// names its token, so that a late report of one that was lost changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What builds are counted, separated and shared by: cache mounts, stage images and the fair share belong to a project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Project(pub String);

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_what_it_writes() {
        let id = BuildId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_bad_id_says_what_it_should_have_been() {
        let error = "latest".parse::<AttemptId>().unwrap_err();
        assert_eq!(error.to_string(), "\"latest\" is not the id of an attempt");
    }
}
