//! One OCI registry (CNCF distribution) on loopback over plain HTTP; gone with its owner, images included.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    error::{Doing, Error, Result},
    guard::{Launch, Part, Stop},
    home::{Home, Place, random_hex},
    http::{Peer, Request},
    parts,
    ports::Ports,
};

const READY_WITHIN: Duration = Duration::from_secs(30);
/// The registry checks the hash at each request; a random password needs no slow one.
const BCRYPT_COST: u32 = 4;

/// Who may use a registry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// Everyone.
    #[default]
    Open,
    /// Who knows the password, which is made at random; this is the user's name.
    Password(String),
}

/// How a registry is started.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// For messages, and for its folder.
    pub name: String,
    /// Where its folder is.
    pub place: Place,
    /// Where its port comes from.
    pub ports: Ports,
    /// Who may use it.
    pub access: Access,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            name: "registry".to_owned(),
            place: Place::default(),
            ports: Ports::default(),
            access: Access::default(),
        }
    }
}

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, …)", self.user)
    }
}

/// A running registry; ends when this is dropped or this process ends in whatever way.
#[derive(Debug)]
pub struct Registry {
    part: Part,
    address: SocketAddr,
    credentials: Option<Credentials>,
}

impl Registry {
    /// Starts a registry and waits until it serves.
    pub fn start(options: RegistryOptions) -> Result<Registry> {
        let program = parts::registry()?;
        let address = options.ports.draw()?;
        let home = Home::make(&options.place, &options.name)?;
        let storage = home.path().join("images");
        let mut settings = format!(
            "version: 0.1\nlog: {{level: info, formatter: text}}\n\
             storage:\n  filesystem: {{rootdirectory: {storage:?}}}\n  delete: {{enabled: true}}\n\
             \x20 maintenance: {{uploadpurging: {{enabled: false}}}}\nhttp: {{addr: '{address}'}}\n",
        );
        let credentials = match options.access {
            Access::Open => None,
            Access::Password(user) => Some(Credentials {
                user,
                password: random_hex(16)?,
            }),
        };
        if let Some(Credentials { user, password }) = &credentials {
            let hash = bcrypt::hash(password, BCRYPT_COST).map_err(|error| Error::Peer {
                peer: "bcrypt".to_owned(),
                answer: error.to_string(),
            })?;
            let path = home.path().join("htpasswd");
            fs::write(&path, format!("{user}:{hash}\n")).doing("write", &path)?;
            settings.push_str(&format!(
                "auth: {{htpasswd: {{realm: croft, path: {path:?}}}}}\n"
            ));
        }
        let path = home.path().join("settings.yml");
        fs::write(&path, settings).doing("write", &path)?;
        let mut command = program.command();
        // The registry would take REGISTRY_… variables for settings.
        for (name, _) in std::env::vars_os()
            .filter(|(name, _)| name.as_encoded_bytes().starts_with(b"REGISTRY_"))
        {
            command.env_remove(name);
        }
        command
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none");
        let stop = Stop {
            signal: "TERM",
            grace: 3,
        };
        let part = Launch {
            name: &options.name,
            home,
            stop,
            hooks: None,
            command,
        }
        .start()?;
        let mut registry = Registry {
            part,
            address,
            credentials,
        };
        registry.wait_ready()?;
        Ok(registry)
    }

    /// Kills it as `kill -9` does. What it has stays, for [`Registry::start_again`].
    pub fn kill(&mut self) -> Result<()> {
        self.part.kill()
    }

    /// Starts it again on its port, with what it had, and waits until it serves. It must have ended.
    pub fn start_again(&mut self) -> Result<()> {
        self.part.start_again()?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (peer, credentials) = (self.peer(), self.credentials.clone());
        self.part.wait_ready(READY_WITHIN, || {
            let request = authorized(Request::new("GET", "/v2/"), credentials.as_ref());
            let answer = request.send(&peer).map_err(|error| error.to_string())?;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(answer.summary())
            }
        })
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it takes to use it, if it is not open.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Its log, requests included.
    pub fn log(&self) -> PathBuf {
        self.part.log()
    }

    /// Its own folder.
    pub fn home(&self) -> &Path {
        self.part.home()
    }

    /// A request with the registry's credentials.
    pub(crate) fn request<'a>(&self, method: &'a str, path: &'a str) -> Request<'a> {
        authorized(Request::new(method, path), self.credentials.as_ref())
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::Tcp(self.address)
    }
}

fn authorized<'a>(request: Request<'a>, credentials: Option<&Credentials>) -> Request<'a> {
    match credentials {
        Some(Credentials { user, password }) => request.basic_auth(user, password),
        None => request,
    }
}
