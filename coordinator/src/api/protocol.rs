//! Versions of the protocol: which agents this coordinator can work with.

use std::cmp::Ordering;

use croft_proto::PROTOCOL;

/// An agent whose version of the protocol this coordinator doesn't speak.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the agent speaks version {theirs:?} of the protocol and this coordinator {PROTOCOL:?}: {advice}"
)]
pub struct Unspoken {
    theirs: String,
    advice: &'static str,
}

/// Lets in an agent of our major version whose minor one is ours or the one before.
pub fn spoken(theirs: &str) -> Result<(), Unspoken> {
    judge(theirs, PROTOCOL).map_err(|advice| Unspoken {
        // It is whatever somebody sent.
        theirs: theirs.chars().take(32).collect(),
        advice,
    })
}

/// What is to be done about an agent of this version at a coordinator of that one.
fn judge(theirs: &str, ours: &str) -> Result<(), &'static str> {
    let Some(((their_major, their_minor), (major, minor))) = version(theirs).zip(version(ours))
    else {
        return Err("is it an agent of croft?");
    };
    match (their_major.cmp(&major), their_minor.cmp(&minor)) {
        (Ordering::Equal, Ordering::Equal) => Ok(()),
        (Ordering::Equal, Ordering::Less) if their_minor + 1 == minor => Ok(()),
        (Ordering::Less, _) | (Ordering::Equal, Ordering::Less) => Err("update the agent"),
        (Ordering::Greater, _) | (Ordering::Equal, Ordering::Greater) => {
            Err("update the coordinator, which goes before its agents")
        }
    }
}

/// "1.4", or "1" for "1.0".
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    number(major).zip(number(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_this_minor_version_and_of_the_one_before_are_taken() {
        for theirs in ["2.3", "2.2"] {
            assert_eq!(judge(theirs, "2.3"), Ok(()), "{theirs}");
        }
        for theirs in ["2", "2.0"] {
            assert_eq!(judge(theirs, "2.0"), Ok(()), "{theirs}");
            assert_eq!(judge(theirs, "2.1"), Ok(()), "{theirs}");
        }
        assert_eq!(spoken(PROTOCOL), Ok(()));
    }

    #[test]
    fn another_version_is_refused_with_who_is_to_be_updated() {
        for theirs in ["2.1", "2", "1.9", "1.3", "0.3"] {
            assert_eq!(judge(theirs, "2.3"), Err("update the agent"), "{theirs}");
        }
        for theirs in ["2.4", "3.0", "3", "4294967295.4294967295"] {
            let advice = judge(theirs, "2.3").expect_err(theirs);
            assert!(advice.starts_with("update the coordinator"), "{theirs}");
        }
        let refusal = spoken("0.9").expect_err("too old").to_string();
        assert!(
            refusal.contains("\"0.9\"") && refusal.contains(PROTOCOL),
            "{refusal}"
        );
    }

    #[test]
    fn what_is_no_version_is_refused_and_not_repeated_at_length() {
        for theirs in [
            "",
            ".",
            "1.",
            ".1",
            "1.1.1",
            "+1.1",
            "v1",
            "1.-1",
            "99999999999.1",
        ] {
            assert_eq!(
                judge(theirs, "1.1"),
                Err("is it an agent of croft?"),
                "{theirs}"
            );
        }
        let refusal = spoken(&"x".repeat(1 << 20)).expect_err("none");
        assert!(refusal.to_string().len() < 200);
    }
}
