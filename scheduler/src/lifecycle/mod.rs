//! The lives of a build, a stage and an attempt: which state may follow which. One `match` each, and what is not in it is illegal.
//!
//! The store commits each transition as one guarded statement; that its guards and these tables agree is one of its tests.
//! What a state goes with (reasons, times, digests) stands beside it in the database, not in it.

mod attempt;
mod build;
mod stage;

pub use attempt::{AttemptEvent, AttemptState};
pub use build::{BuildEvent, BuildState};
pub use stage::{StageEvent, StageState};

use std::fmt;

/// What happened can't happen in this state: the report is late, doubled or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} that is {state} can't be {event}")]
pub struct IllegalTransition {
    /// "a build", "a stage" or "an attempt".
    pub what: &'static str,
    /// The state that it is in.
    pub state: &'static str,
    /// What was said to have happened.
    pub event: &'static str,
}

/// A text that names no state, from a database of another version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no state of {what}")]
pub struct UnknownState {
    /// "a build", "a stage" or "an attempt".
    pub what: &'static str,
    /// The text as it came.
    pub text: String,
}

/// How an attempt went wrong: whose budget pays for it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The build's own: a command failed, a file is missing, a push was refused. Never retried.
    Build,
    /// The farm's: agent lost, engine died, disk full. Retried elsewhere.
    Farm,
    /// The stage registry's, which is the farm's too: it is away, fails, or has lost an image. Retried later, as elsewhere is no better.
    Registry,
    /// Nobody's: an agent that is being stopped gave it back. Retried at nobody's cost, as often as agents are stopped.
    HandedBack,
}

/// Declares an enum whose variants are words in the database.
macro_rules! words {
    ($what:literal, $(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// The word for it, in the database and for people.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::lifecycle::UnknownState;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err($crate::lifecycle::UnknownState { what: $what, text: text.to_owned() }),
                }
            }
        }
    };
}
pub(crate) use words;

impl FailureKind {
    /// The word for it, in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            FailureKind::Build => "build",
            FailureKind::Farm => "farm",
            FailureKind::Registry => "registry",
            FailureKind::HandedBack => "handed_back",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for FailureKind {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        match text {
            "build" => Ok(FailureKind::Build),
            "farm" => Ok(FailureKind::Farm),
            "registry" => Ok(FailureKind::Registry),
            "handed_back" => Ok(FailureKind::HandedBack),
            _ => Err(UnknownState {
                what: "a failure",
                text: text.to_owned(),
            }),
        }
    }
}
