//! The names that a plan gives to things: digests that hold across builds, and numbers that hold within one plan.
//! How they are computed is the business of the modules that make them.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Makes a string newtype for a `sha256:<hex>` digest.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a digest that was made elsewhere, as it is.
            pub fn new(digest: impl Into<String>) -> Self {
                Self(digest.into())
            }

            /// The digest as `sha256:<hex>`.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

digest! {
    /// What BuildKit calls a vertex's digest: that of the op's bytes.
    OpDigest
}
digest! {
    /// Names a stage by the ops that it consists of.
    StageDigest
}
digest! {
    /// Names a cut edge by the op and the output that it is the result of.
    EdgeDigest
}
digest! {
    /// Names what an engine's cache may know of an op or a stage: as its digest, but with nothing in it that changes from one build of
    /// the same project to the next (the ids of sessions).
    CacheIdentity
}

impl OpDigest {
    /// The digest of an op's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(&[bytes]))
    }
}

/// `sha256:<hex>` of the parts, each with its length before it.
pub(crate) fn sha256_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    format!("sha256:{}", hex::encode(hash.finalize()))
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    format!("sha256:{}", hex::encode(hash.finalize()))
}

/// Makes a newtype for a place in one of a plan's lists.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The place in the plan's list.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A stage of one plan. A stage's number is greater than those of the stages that it takes results from.
    StageId
}
number! {
    /// A cut edge of one plan.
    EdgeId
}
number! {
    /// A target of one plan, in the order of the plan's input.
    TargetId
}
number! {
    /// An op of one plan. An op's number is greater than those of its inputs.
    OpId
}
