//! The names that the coordinator gives to things, each a type of its own so that none is taken for another. Opaque to the agent.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The id as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A build.
    BuildId
);
id!(
    /// One try at a stage, on this agent.
    AttemptId
);
id!(
    /// One result of a stage.
    OutputId
);
id!(
    /// A question of the coordinator's that is no attempt.
    RequestId
);

/// The fencing token of an attempt: every message about the attempt carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(pub u64);
