//! Platforms as BuildKit's messages carry them, and as people write them: `os/arch[/variant]`.
//!
//! Only the text form; which platform runs on which machine is decided elsewhere.

use crate::api::pb;

/// `linux/arm/v7`. The OS version and features have no place in this form.
pub fn format(platform: &pb::Platform) -> String {
    let pb::Platform {
        os,
        architecture,
        variant,
        ..
    } = platform;
    if variant.is_empty() {
        format!("{os}/{architecture}")
    } else {
        format!("{os}/{architecture}/{variant}")
    }
}

/// Reads `os/arch` or `os/arch/variant` exactly as written; `None` for anything else.
pub fn parse(text: &str) -> Option<pb::Platform> {
    let mut parts = text.split('/');
    let (os, architecture, variant) = (parts.next()?, parts.next()?, parts.next());
    if parts.next().is_some()
        || os.is_empty()
        || architecture.is_empty()
        || variant.is_some_and(str::is_empty)
    {
        return None;
    }
    Some(pb::Platform {
        os: os.into(),
        architecture: architecture.into(),
        variant: variant.unwrap_or_default().into(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_goes_there_and_back() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(format(&parse(text).unwrap()), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/", "a/b/c/d"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
