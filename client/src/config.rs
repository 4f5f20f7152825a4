//! The configuration file: farms by name, and which of them is meant where nobody says. What variables and flags say goes over it.
//!
//! It is edited in place, so that comments and order stay.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item, Table, value};

use crate::{
    address::{DEFAULT_PORT, FarmAddress},
    cli::FarmFlags,
    error::Error,
};

/// Longest name of a context, in bytes.
const MAX_NAME: usize = 64;

/// A farm: where its coordinators are, and how to trust them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farm {
    /// Its coordinators, of which one is active; at least one.
    pub addresses: Vec<FarmAddress>,
    /// The authority of their certificates (PEM).
    pub tls_ca: Option<PathBuf>,
    /// Our certificate (PEM).
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// The name in their certificates, where it is not the address's host.
    pub tls_server_name: Option<String>,
}

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The context that is in use.
    pub context: Option<String>,
    /// Farms by name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A farm as the file names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all(deserialize = "kebab-case"))]
pub struct Context {
    /// Its coordinators.
    pub addresses: Vec<String>,
    /// A path; a relative one is beside the file.
    pub tls_ca: Option<PathBuf>,
    /// As `tls_ca`.
    pub tls_cert: Option<PathBuf>,
    /// As `tls_ca`.
    pub tls_key: Option<PathBuf>,
    /// As [`Farm::tls_server_name`].
    pub tls_server_name: Option<String>,
}

/// The file as it is.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    document: DocumentMut,
    /// What it says.
    pub config: Config,
}

impl File {
    /// The file that `CROFT_CONFIG` names, or the user's own. One that isn't there says nothing.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read, [`Error::Config`] if it isn't what it should be.
    pub fn load() -> Result<File, Error> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = || {
            let home = || Some(PathBuf::from(set("HOME")?).join(".config"));
            let folder = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?;
            Some(folder.join("croft/config.toml"))
        };
        let path = set("CROFT_CONFIG").map(PathBuf::from).or_else(folder);
        File::read(path.unwrap_or_else(|| PathBuf::from("croft.toml")))
    }

    fn read(path: PathBuf) -> Result<File, Error> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::File { path, source }),
        };
        let wrong = |message: &str, span: Option<std::ops::Range<usize>>| Error::Config {
            path: path.clone(),
            line: span.map_or(1, |span| {
                let before = text.get(..span.start).unwrap_or(&text);
                before.matches('\n').count() + 1
            }),
            reason: message.lines().collect::<Vec<_>>().join(" "),
        };
        let document = text
            .parse()
            .map_err(|error: toml_edit::TomlError| wrong(error.message(), error.span()))?;
        let config =
            toml_edit::de::from_str(&text).map_err(|error| wrong(error.message(), error.span()))?;
        Ok(File {
            path,
            document,
            config,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One of the contexts.
    ///
    /// # Errors
    /// [`Error::NoContext`].
    pub fn context(&self, name: &str) -> Result<&Context, Error> {
        self.config
            .contexts
            .get(name)
            .ok_or_else(|| Error::NoContext {
                name: name.to_owned(),
                known: match self.config.contexts.len() {
                    0 => format!("{} has none", self.path.display()),
                    _ => {
                        let names = self.config.contexts.keys().map(String::as_str);
                        format!("there are {}", names.collect::<Vec<_>>().join(", "))
                    }
                },
            })
    }

    /// The farm that is meant. An address that a flag or a variable gives is a farm of its own, to which nothing of the context in use is
    /// told; a context that a flag or a variable names is changed in what other flags and variables say.
    ///
    /// # Errors
    /// [`Error::NoContext`]; [`Error::Config`] if a context has no address or one that is none.
    pub fn farm(&self, flags: &FarmFlags) -> Result<Farm, Error> {
        let in_use = self.config.context.as_ref();
        let name = flags
            .context
            .as_ref()
            .or(in_use.filter(|_| flags.addr.is_empty()));
        let context = match name {
            Some(name) => {
                let mut context = self.context(name)?.clone();
                for file in [
                    &mut context.tls_ca,
                    &mut context.tls_cert,
                    &mut context.tls_key,
                ] {
                    let folder = self.path.parent().unwrap_or(Path::new(""));
                    *file = file.as_ref().map(|path| folder.join(path));
                }
                context
            }
            None => Context::default(),
        };
        let addresses = match &flags.addr[..] {
            [] => self.addresses(name, &context)?,
            given => given.to_vec(),
        };
        Ok(Farm {
            addresses,
            tls_ca: flags.tls_ca.clone().or(context.tls_ca),
            tls_cert: flags.tls_cert.clone().or(context.tls_cert),
            tls_key: flags.tls_key.clone().or(context.tls_key),
            tls_server_name: flags.tls_server_name.clone().or(context.tls_server_name),
        })
    }

    fn addresses(
        &self,
        name: Option<&String>,
        context: &Context,
    ) -> Result<Vec<FarmAddress>, Error> {
        let Some(name) = name else {
            return Ok(vec![FarmAddress::here(DEFAULT_PORT)]);
        };
        let wrong = |reason: String| Error::Config {
            path: self.path.clone(),
            line: self.line_of(name),
            reason: format!("context {name}: {reason}"),
        };
        if context.addresses.is_empty() {
            return Err(wrong("it has no address".to_owned()));
        }
        let parsed = context.addresses.iter().map(|text| text.parse());
        let parsed: Result<_, crate::address::NotAnAddress> = parsed.collect();
        parsed.map_err(|error| wrong(error.to_string()))
    }

    /// The line on which a context begins.
    fn line_of(&self, name: &str) -> usize {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let heads = [
            format!("[contexts.{name}]"),
            format!("[contexts.\"{name}\"]"),
        ];
        let at = text
            .lines()
            .position(|line| heads.iter().any(|head| line.trim_start().starts_with(head)));
        at.map_or(1, |at| at + 1)
    }

    /// Adds a context, or puts another in its place. The first one is in use.
    ///
    /// # Errors
    /// [`Error::Unclear`] for a name that can't be one; and what keeps the file from being written.
    pub fn add(&mut self, name: &str, farm: &Farm) -> Result<(), Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
            return Err(Error::Unclear(format!(
                "{name:?} can't be a context's name: use 1 to {MAX_NAME} letters, digits, dashes, dots and underscores"
            )));
        }
        let mut table = Table::new();
        let addresses = farm.addresses.iter().map(FarmAddress::written);
        table["addresses"] = value(addresses.collect::<toml_edit::Array>());
        for (key, path) in [
            ("tls-ca", &farm.tls_ca),
            ("tls-cert", &farm.tls_cert),
            ("tls-key", &farm.tls_key),
        ] {
            if let Some(path) = path {
                let path = std::path::absolute(path).map_err(|source| Error::File {
                    path: path.clone(),
                    source,
                })?;
                let text = path
                    .to_str()
                    .ok_or_else(|| Error::Unclear(format!("{} is not UTF-8", path.display())))?;
                table[key] = value(text);
            }
        }
        if let Some(name) = &farm.tls_server_name {
            table["tls-server-name"] = value(name);
        }
        let contexts = self.document["contexts"].or_insert(Item::Table(Table::new()));
        if let Some(contexts) = contexts.as_table_mut() {
            // Only the contexts themselves have headings.
            contexts.set_implicit(true);
        }
        contexts[name] = Item::Table(table);
        if self.config.contexts.is_empty() && self.config.context.is_none() {
            self.document["context"] = value(name);
        }
        self.write()
    }

    /// Has a context be the one in use.
    ///
    /// # Errors
    /// [`Error::NoContext`], and what keeps the file from being written.
    pub fn set_in_use(&mut self, name: &str) -> Result<(), Error> {
        self.context(name)?;
        self.document["context"] = value(name);
        self.write()
    }

    /// Removes a context. If it was in use, none is.
    ///
    /// # Errors
    /// [`Error::NoContext`], and what keeps the file from being written.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.context(name)?;
        if let Some(contexts) = self.document["contexts"].as_table_like_mut() {
            contexts.remove(name);
        }
        if self.config.context.as_deref() == Some(name) {
            self.document.remove("context");
        }
        self.write()
    }

    /// Whole or not at all.
    fn write(&mut self) -> Result<(), Error> {
        let failed = |source| Error::File {
            path: self.path.clone(),
            source,
        };
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        // A link stays one: what it leads to is replaced.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let beside = path.parent().unwrap_or(folder);
        let mut file = tempfile::NamedTempFile::new_in(beside).map_err(failed)?;
        file.write_all(self.document.to_string().as_bytes())
            .map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        *self = File::read(self.path.clone())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Result<File, Error>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).expect("written");
        let read = File::read(path);
        (folder, read)
    }

    const TWO: &str = "\
# Ours.
context = \"prod\"

[contexts.prod]
addresses = [\"https://one:8372\", \"https://two:8372\"] # the second stands by
tls-ca = \"ca.pem\"

[contexts.test]
addresses = [\"127.0.0.1:1\"]
";

    fn flags(context: Option<&str>, addr: &[&str]) -> FarmFlags {
        FarmFlags {
            context: context.map(str::to_owned),
            addr: addr
                .iter()
                .map(|text| text.parse().expect("good"))
                .collect(),
            ..FarmFlags::default()
        }
    }

    #[test]
    fn the_context_in_use_counts_unless_a_flag_names_another_or_an_address() {
        let (folder, file) = file(TWO);
        let file = file.expect("good");
        let prod = file.farm(&flags(None, &[])).expect("good");
        assert_eq!(prod.addresses.len(), 2);
        assert_eq!(prod.tls_ca, Some(folder.path().join("ca.pem")));
        let test = file.farm(&flags(Some("test"), &[])).expect("good");
        assert_eq!(
            (test.addresses[0].to_string(), test.tls_ca),
            ("127.0.0.1:1".to_owned(), None)
        );
        let other = file.farm(&flags(None, &["other:1"])).expect("good");
        assert_eq!(other.tls_ca, None, "another farm is not shown our files");
        let moved = file
            .farm(&flags(Some("prod"), &["https://other:1"]))
            .expect("good");
        assert_eq!(moved.addresses[0].to_string(), "other:1");
        assert!(moved.tls_ca.is_some());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, part) in [
            (
                "context = \"a\"\n\n[contexts.a]\nadresses = []\n",
                4,
                "adresses",
            ),
            ("contxt = \"a\"\n", 1, "contxt"),
            ("\n\nx = [\n", 3, ""),
            ("[contexts.a]\naddresses = 7\n", 2, "invalid type"),
        ] {
            let (_folder, read) = file(text);
            match read {
                Err(Error::Config {
                    line: at, reason, ..
                }) => {
                    assert!(
                        at == line && reason.contains(part),
                        "{text:?}: {at}: {reason}"
                    );
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn edits_leave_the_rest_of_the_file_as_it_was() {
        let (_folder, file) = file(TWO);
        let mut file = file.expect("good");
        let farm = file.farm(&flags(None, &["new:2"])).expect("good");
        file.add("new", &farm).expect("written");
        file.set_in_use("new").expect("written");
        file.remove("test").expect("written");
        let text = std::fs::read_to_string(file.path()).expect("written");
        assert!(text.starts_with("# Ours.\ncontext = \"new\"\n"), "{text}");
        assert!(
            text.contains("# the second stands by") && !text.contains("test"),
            "{text}"
        );
        file.remove("new").expect("written");
        assert_eq!(file.config.context, None);
        assert!(matches!(
            file.set_in_use("new"),
            Err(Error::NoContext { .. })
        ));
    }

    #[test]
    fn the_first_context_is_in_use() {
        let (_folder, file) = file("");
        let mut file = file.expect("good");
        let farm = file.farm(&flags(None, &[])).expect("good");
        assert_eq!(farm.addresses[0].to_string(), "127.0.0.1:8372");
        file.add("here", &farm).expect("written");
        assert_eq!(file.config.context.as_deref(), Some("here"));
        assert!(file.add("no/name", &farm).is_err());
    }
}
