use std::{fs, io::Cursor};

use clap::Parser;
use serde_json::json;
use tempfile::TempDir;

use super::*;

mod contexts;
mod flags;
mod outputs;
mod session;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    flags: BuildFlags,
}

/// A folder with files, an environment, and standard input.
struct World {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
    input: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let app = folder.path().join("app");
        fs::create_dir(&app).unwrap();
        fs::write(app.join("Dockerfile"), "FROM scratch\n").unwrap();
        let home = folder.path().display().to_string();
        Self {
            folder,
            variables: vec![("HOME", home)],
            input: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn reading(mut self, input: &[u8]) -> Self {
        self.input = input.to_vec();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, words: &[&str]) -> Result<Request, BuildError> {
        let line = std::iter::once("build").chain(words.iter().copied());
        let flags = Line::try_parse_from(line).unwrap().flags;
        let variables = self.variables.iter();
        let mut around = Surroundings {
            folder: self.folder.path().to_owned(),
            variables: variables
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
            input: Box::new(Cursor::new(self.input.clone())),
            output: StandardOutput::Other,
            proxies: BTreeMap::new(),
        };
        Request::read(&flags, &mut around)
    }

    /// The attributes that these words add to those of a bare build.
    fn attrs(&self, words: &[&str]) -> serde_json::Value {
        let bare = self.read(&["app"]).unwrap().attrs;
        let mut attrs = self.read(&[&["app"], words].concat()).unwrap().attrs;
        attrs.retain(|key, value| bare.get(key) != Some(value));
        json!(attrs)
    }

    #[track_caller]
    fn refused(&self, words: &[&str], because: &str) {
        let error = self.read(words).expect_err("it is refused");
        assert!(matches!(error, BuildError::Usage(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(because), "{words:?}: {text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

fn exporter(request: &Request) -> (&str, serde_json::Value, &Destination) {
    let [one] = &request.exporters[..] else {
        panic!("{:?}", request.exporters)
    };
    (&one.kind, json!(one.attrs), &one.destination)
}
