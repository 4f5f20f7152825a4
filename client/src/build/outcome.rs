//! What a build leaves here besides its outputs: the files that `--metadata-file` and `--iidfile` name, and the image's id.

use std::{
    collections::BTreeMap, fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::error::BuildError;

/// A farm's response, by BuildKit's keys (`containerimage.digest` and so on).
pub(super) type Response = BTreeMap<String, String>;

/// Under this key a metadata file has the build's reference, for `croft builds show`.
const REFERENCE: &str = "croft.build.ref";

/// The image's id: its configuration's digest if there is one image, else the index's.
pub(super) fn image_id(response: &Response) -> &str {
    ["containerimage.config.digest", "containerimage.digest"]
        .iter()
        .find_map(|key| response.get(*key))
        .map_or("", String::as_str)
}

/// What is known of the result: the response, in which JSON that is packed in base64 is unpacked, as buildx does it.
pub(super) fn metadata(response: &Response, reference: &str) -> Value {
    let mut all: Map<String, Value> = response
        .iter()
        .map(|(key, text)| (key.clone(), unpacked(text)))
        .collect();
    all.insert(REFERENCE.to_owned(), reference.into());
    Value::Object(all)
}

fn unpacked(text: &str) -> Value {
    let value = STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match value {
        Some(Value::Object(map)) if !map.is_empty() => Value::Object(map),
        Some(Value::Array(list)) if !list.is_empty() && list.iter().all(Value::is_object) => {
            Value::Array(list)
        }
        _ => text.into(),
    }
}

/// Writes a file that is there whole or as it was before.
pub(super) fn write(path: &Path, text: &str) -> Result<(), BuildError> {
    let failed = |error| BuildError::file("write", path)(error);
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Takes away what an earlier build left, so that nobody takes it for this one's.
pub(super) fn forget(path: &Path) -> Result<(), BuildError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BuildError::file("remove the old", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_metadata_file_has_what_buildx_s_has() {
        let descriptor = STANDARD.encode(r#"{"digest":"sha256:a","size":1}"#);
        let response = Response::from([
            ("containerimage.digest".into(), "sha256:a".into()),
            ("containerimage.descriptor".into(), descriptor),
            ("image.name".into(), "h/x:1".into()),
            ("odd".into(), STANDARD.encode("{}")),
        ]);
        assert_eq!(
            metadata(&response, "ref"),
            json!({
                "containerimage.digest": "sha256:a",
                "containerimage.descriptor": {"digest": "sha256:a", "size": 1},
                "image.name": "h/x:1",
                "odd": "e30=",
                "croft.build.ref": "ref",
            })
        );
        assert_eq!(image_id(&response), "sha256:a");
    }

    #[test]
    fn files_are_written_whole_and_readable_by_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        for text in ["long text", "x"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        forget(&path).unwrap();
        forget(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(write(&folder.path().join("no/id"), "x").is_err());
    }
}
