//! The index of a folder of OCI's layout, in which images are found by their names: an image that a build has put there gets its entry.
//! What others have put there stays. The names are buildx's, and so is the lock.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    error::BuildError,
    outcome::{self, Response},
};

/// What an image is called in full.
const NAME: &str = "io.containerd.image.name";
/// Its tag.
const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// The tag of an image that has no name.
const UNNAMED: &str = "latest";

/// Puts the image that a farm's response tells of into the index of the layout that has its blobs.
///
/// # Errors
/// The response tells of none, the index is no index, or it can't be written.
pub(super) fn enter(folder: &Path, response: &Response) -> Result<(), BuildError> {
    let image = descriptor(response).ok_or_else(|| {
        BuildError::Failed("the farm doesn't say which image it has put into the layout".to_owned())
    })?;
    let names = response.get("image.name").filter(|names| !names.is_empty());
    let labels: Vec<_> = match names {
        Some(names) => names.split(',').map(named).collect(),
        None => vec![Map::from_iter([(REFERENCE.to_owned(), UNNAMED.into())])],
    };
    let path = folder.join("index.json");
    let _lock = Lock::take(folder.join("index.json.lock"))?;
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
    outcome::write(&folder.join("oci-layout"), &layout)?;
    let mut index = read(&path)?;
    let no_index = || {
        let path = path.display();
        BuildError::Local(format!(
            "{path} is no index of a layout: move it away, or give another dest"
        ))
    };
    let entries = index.as_object_mut().ok_or_else(no_index)?;
    entries.entry("schemaVersion").or_insert_with(|| 2.into());
    entries
        .entry("mediaType")
        .or_insert_with(|| "application/vnd.oci.image.index.v1+json".into());
    let manifests = entries.entry("manifests").or_insert_with(|| json!([]));
    if manifests.is_null() {
        *manifests = json!([]);
    }
    let manifests = manifests.as_array_mut().ok_or_else(no_index)?;
    for label in labels {
        manifests.retain(|other| !has_label(other, &label));
        manifests.push(labelled(image.clone(), label));
    }
    outcome::write(&path, &index.to_string())
}

fn descriptor(response: &Response) -> Option<Map<String, Value>> {
    let packed = response.get("containerimage.descriptor")?;
    let text = STANDARD.decode(packed).ok()?;
    let image: Map<String, Value> = serde_json::from_slice(&text).ok()?;
    image.contains_key("digest").then_some(image)
}

/// The annotations by which an image is found under this name: as engines write it, `registry/repository:tag`.
fn named(name: &str) -> Map<String, Value> {
    let path = name.find('/').unwrap_or(name.len());
    let tag = name[path..].find([':', '@']);
    let tag = tag.map_or("", |at| {
        let rest = &name[path + at..];
        rest.strip_prefix(':').unwrap_or(rest)
    });
    Map::from_iter([
        (NAME.to_owned(), name.into()),
        (REFERENCE.to_owned(), tag.into()),
    ])
}

fn has_label(entry: &Value, label: &Map<String, Value>) -> bool {
    let annotations = &entry["annotations"];
    [NAME, REFERENCE].iter().all(|key| {
        let has = annotations[key].as_str().unwrap_or_default();
        has == label.get(*key).and_then(Value::as_str).unwrap_or_default()
    })
}

fn labelled(mut image: Map<String, Value>, label: Map<String, Value>) -> Value {
    let mut annotations = match image.remove("annotations") {
        Some(Value::Object(annotations)) => annotations,
        _ => Map::new(),
    };
    annotations.extend(label);
    image.insert("annotations".to_owned(), annotations.into());
    image.into()
}

fn read(path: &Path) -> Result<Value, BuildError> {
    match fs::read(path) {
        Ok(text) if text.is_empty() => Ok(json!({})),
        Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(json!({})),
        Err(error) => Err(BuildError::file("read", path)(error)),
    }
}

/// Keeps others from writing the index, by a file that is there as long.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(path: PathBuf) -> Result<Self, BuildError> {
        loop {
            let taken = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .and_then(|file| {
                    file.lock()?;
                    Ok((file.metadata()?.ino(), file))
                });
            let (held, file) = taken.map_err(BuildError::file("lock", &path))?;
            // Whoever had it before may have taken the file away.
            if fs::metadata(&path).is_ok_and(|found| found.ino() == held) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file that stays does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(digest: &str, names: Option<&str>) -> Response {
        let image = json!({"digest": digest, "size": 7, "annotations": {"of": "image"}});
        let descriptor = STANDARD.encode(image.to_string());
        let mut response = Response::from([("containerimage.descriptor".to_owned(), descriptor)]);
        response.extend(names.map(|names| ("image.name".to_owned(), names.to_owned())));
        response
    }

    /// The digest of each entry, its full name, and its tag.
    fn entries(folder: &Path) -> Vec<[String; 3]> {
        let index: Value =
            serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
        let manifests = index["manifests"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        manifests
            .map(|entry| {
                let annotations = &entry["annotations"];
                [
                    &entry["digest"],
                    &annotations[NAME],
                    &annotations[REFERENCE],
                ]
                .map(text)
            })
            .collect()
    }

    #[test]
    fn an_image_is_found_by_each_of_its_names_and_replaces_those_of_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        enter(folder, &response("one", None)).unwrap();
        enter(
            folder,
            &response("two", Some("h:5000/a:1,docker.io/library/b:x")),
        )
        .unwrap();
        enter(folder, &response("three", Some("h:5000/a:1"))).unwrap();
        let expected = [
            ["one", "", "latest"],
            ["two", "docker.io/library/b:x", "x"],
            ["three", "h:5000/a:1", "1"],
        ];
        assert_eq!(entries(folder), expected);
        let mut left: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["index.json", "oci-layout"]);
    }

    #[test]
    fn what_others_wrote_into_an_index_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.json");
        let before = json!({
            "schemaVersion": 2,
            "mediaType": "m",
            "odd": 1,
            "manifests": [{"digest": "other", "more": {"a": "b"}}],
        });
        fs::write(&path, before.to_string()).unwrap();
        enter(folder.path(), &response("new", Some("h/a@sha256:1"))).unwrap();
        let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            (&after["odd"], &after["mediaType"]),
            (&json!(1), &json!("m"))
        );
        assert_eq!(after["manifests"][0], before["manifests"][0]);
        let annotations = json!({"of": "image", NAME: "h/a@sha256:1", REFERENCE: "@sha256:1"});
        assert_eq!(after["manifests"][1]["annotations"], annotations);
    }

    #[test]
    fn an_index_that_is_none_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.json");
        for text in ["[]", "x", r#"{"manifests": 1}"#] {
            fs::write(&path, text).unwrap();
            let error = enter(folder.path(), &response("new", None)).unwrap_err();
            assert!(error.to_string().contains("no index"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(enter(folder.path(), &Response::new()).is_err());
    }

    #[test]
    fn of_many_who_enter_at_once_nobody_gets_lost() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for at in 0..8 {
                let folder = folder.path();
                scope.spawn(move || {
                    enter(folder, &response("x", Some(&format!("h/a:{at}")))).unwrap();
                });
            }
        });
        assert_eq!(entries(folder.path()).len(), 8);
    }
}
