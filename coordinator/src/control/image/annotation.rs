//! Annotations, as exporters take them in their attributes: where each belongs.

use std::collections::BTreeMap;

use super::OutputError;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Annotation {
    pub(super) level: Level,
    /// Normalised; none means all platforms.
    pub(super) platform: Option<String>,
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Level {
    Index,
    IndexDescriptor,
    Manifest,
    ManifestDescriptor,
}

impl Annotation {
    /// `annotation[-level][[platform]].key`; `None` if the attribute is no annotation.
    pub(super) fn parse(attr: &str, value: &str) -> Result<Option<Self>, OutputError> {
        let Some(rest) = attr.strip_prefix("annotation") else {
            return Ok(None);
        };
        let (head, key) = match rest.find(['.', '[']) {
            Some(at) if rest.as_bytes()[at] == b'[' => match rest.find("].") {
                Some(end) => (&rest[..=end], &rest[end + 2..]),
                None => return Ok(None),
            },
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => return Ok(None),
        };
        let (level, platform) = match head.split_once('[') {
            Some((level, platform)) => (level, Some(platform.trim_end_matches(']'))),
            None => (head, None),
        };
        let level = match level {
            "" | "-manifest" => Level::Manifest,
            "-manifest-descriptor" => Level::ManifestDescriptor,
            "-index" => Level::Index,
            "-index-descriptor" => Level::IndexDescriptor,
            other => {
                return match other.strip_prefix('-') {
                    Some(level) => Err(OutputError::Annotation(level.to_owned())),
                    None => Ok(None),
                };
            }
        };
        let platform = match platform {
            Some(text) => Some(
                text.parse::<croft_planner::Platform>()
                    .map_err(|_| OutputError::AnnotationPlatform(text.to_owned()))?
                    .to_string(),
            ),
            None => None,
        };
        Ok(Some(Self {
            level,
            platform,
            key: key.to_owned(),
            value: value.to_owned(),
        }))
    }
}

pub(super) fn pairs<'a>(
    annotations: impl Iterator<Item = &'a Annotation>,
) -> BTreeMap<String, String> {
    annotations
        .map(|a| (a.key.clone(), a.value.clone()))
        .collect()
}
