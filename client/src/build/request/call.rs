//! `--call`: what the frontend is asked instead of being asked to build.

use crate::build::{error::BuildError, flags::BuildFlags, words};

/// A question for the frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The frontend's request: `frontend.lint`, `frontend.outline`, `frontend.targets`.
    pub request: String,
    /// In which form its answer is printed.
    pub form: Form,
    /// What a bad code in the answer means.
    pub verdict: Verdict,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether an answer's code is the command's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A bad one is a failure.
    Counts,
    /// It is ignored.
    Ignored,
}

/// What the flags ask.
pub(super) fn question(flags: &BuildFlags) -> Result<Option<Question>, BuildError> {
    let call = match (&flags.call, flags.check) {
        (Some(call), false) => call.as_str(),
        (Some(call), true) if call != "check" => {
            return Err(BuildError::usage(
                "--check and --call ask different things: leave one out",
            ));
        }
        (_, true) => "check",
        (None, false) => return Ok(None),
    };
    let wrong = || {
        BuildError::usage(format!(
            "--call={call}: write build, check, outline or targets, and after it ,format=json or ,ignorestatus=true"
        ))
    };
    let mut name = None;
    let mut form = Form::Text;
    let mut verdict = Verdict::Counts;
    for field in words::fields(call).ok_or_else(wrong)? {
        match field.split_once('=') {
            None if name.is_none() => name = Some(field),
            Some(("format", "json")) => form = Form::Json,
            Some(("format", "text")) => form = Form::Text,
            Some(("ignorestatus", on)) => {
                verdict = match words::truth(on).ok_or_else(wrong)? {
                    true => Verdict::Ignored,
                    false => Verdict::Counts,
                };
            }
            None | Some(_) => return Err(wrong()),
        }
    }
    let request = match name.as_deref() {
        Some("check" | "lint") => "frontend.lint",
        Some("outline") => "frontend.outline",
        Some("targets") => "frontend.targets",
        Some("build") => return Ok(None),
        _ => return Err(wrong()),
    };
    Ok(Some(Question {
        request: request.to_owned(),
        form,
        verdict,
    }))
}
