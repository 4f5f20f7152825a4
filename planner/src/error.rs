//! What can be wrong with definitions and bindings. Whoever sent them chose their content, so each problem names its place.

use crate::{EdgeId, OpDigest, Output};

/// Why definitions can't be planned. All of them are the sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The input has no target at all.
    #[error("there is nothing to build: the frontend returned no target")]
    NoTargets,
    /// Two targets have one name.
    #[error("two targets are called {name:?}")]
    SameName {
        /// The name.
        name: String,
    },
    /// More than [`crate::Limits`] allows.
    #[error("the build has more than {limit} {what}")]
    TooMany {
        /// `targets`, `ops`, `bytes of definitions`, …
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// One op is larger than [`crate::Limits`] allows.
    #[error("{}op {op} has more than {limit} {what}", of_target(.target))]
    OpTooLarge {
        /// The target whose definition it is in.
        target: String,
        /// The op.
        op: OpDigest,
        /// `bytes` or `fields`.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// An op's bytes are no op.
    #[error("{}op {number} ({op}) can't be decoded: {reason}", of_target(.target))]
    Undecodable {
        /// The target whose definition it is in.
        target: String,
        /// Its place in the definition, from 0.
        number: usize,
        /// The digest of its bytes.
        op: OpDigest,
        /// What the decoder said.
        reason: String,
    },
    /// The last op names no op to build.
    #[error("{}the last op has no input, so there is nothing to build", of_target(.target))]
    NoRoot {
        /// The target.
        target: String,
    },
    /// The last op names more than one op to build.
    #[error("{}the last op has {count} inputs; it must have one", of_target(.target))]
    SeveralRoots {
        /// The target.
        target: String,
        /// How many it has.
        count: usize,
    },
    /// An input isn't in the definition.
    #[error("{}op {op} needs {input}, which isn't in the definition", of_target(.target))]
    MissingInput {
        /// The target.
        target: String,
        /// The op with the input.
        op: OpDigest,
        /// The digest that it names, shortened.
        input: String,
    },
    /// An input is an output that the op before doesn't have.
    #[error("{}op {op} needs output {index} of {input}, which has no such output", of_target(.target))]
    NoSuchOutput {
        /// The target.
        target: String,
        /// The op with the input.
        op: OpDigest,
        /// The op that it names.
        input: OpDigest,
        /// The output that it names.
        index: i64,
    },
    /// An op depends on itself.
    #[error("{}op {op} depends on itself", of_target(.target))]
    Cycle {
        /// The target.
        target: String,
        /// An op of the circle.
        op: OpDigest,
    },
}

fn of_target(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("{name}: ")
    }
}

/// Why an output can't be bound. All of them are the caller's fault, not the build's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The plan has no such output.
    #[error("the plan has no {output:?}")]
    NoSuchOutput {
        /// The output.
        output: Output,
    },
    /// The output needs a result of another stage that has no binding.
    #[error("{output:?} needs cut edge {edge}, which isn't bound")]
    Unbound {
        /// The output.
        output: Output,
        /// The edge.
        edge: EdgeId,
    },
    /// A held definition is of something else.
    #[error("cut edge {edge} is bound to a definition of {found:?}")]
    WrongDefinition {
        /// The edge.
        edge: EdgeId,
        /// What the definition makes.
        found: Output,
    },
    /// An image isn't named by the digest of its manifest: another engine might take another image.
    #[error("cut edge {edge} is bound to {reference:?}, which has no digest")]
    NoDigest {
        /// The edge.
        edge: EdgeId,
        /// The reference.
        reference: String,
    },
}
