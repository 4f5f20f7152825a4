//! One PostgreSQL server: fresh, on loopback, with a random password; gone with its owner.
//!
//! Runs as `postgres` or `nobody` where we are root, since it refuses root. What is in the databases is up to the callers.

use std::{
    fmt,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::User};

use crate::{
    error::{Doing, Error, Result},
    guard::{Launch, Part, Stop},
    home::{Home, Place, enterable, random_hex, write_secret},
    parts::{self, Program},
    ports::Ports,
};

/// `initdb` and the first start take about two seconds on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
const SUPERUSER: &str = "croft";

/// Whether the data must survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Nothing is synced to disk: for tests and demos.
    #[default]
    None,
    /// As PostgreSQL is by default.
    Full,
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Where its folder is.
    pub place: Place,
    /// Where its port comes from.
    pub ports: Ports,
    /// Whether it syncs.
    pub durability: Durability,
}

/// A running server; ends when this is dropped or this process ends in whatever way.
pub struct Postgres {
    part: Part,
    address: SocketAddr,
    password: String,
    program: Program,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("address", &self.address)
            .field("home", &self.part.home())
            .finish_non_exhaustive()
    }
}

impl Postgres {
    /// Starts a server with the default options and waits until it serves.
    pub fn start() -> Result<Postgres> {
        Self::start_with(PostgresOptions::default())
    }

    /// Starts a server and waits until it serves.
    pub fn start_with(options: PostgresOptions) -> Result<Postgres> {
        let program = parts::postgres()?;
        let address = options.ports.draw()?;
        let password = random_hex(16)?;
        let home = Home::make_enterable(&options.place, "postgres")?;
        let account = Account::find()?;
        // The server makes its files here: its own folder, or `initdb` could not.
        let inner = home.path().join("server");
        std::fs::create_dir(&inner).doing("make", &inner)?;
        let secret = inner.join("password");
        write_secret(&secret, &password)?;
        account.own(&inner, 0o700)?;
        account.own(&secret, 0o600)?;

        let script = inner.join("start.sh");
        std::fs::write(&script, include_str!("postgres.sh")).doing("write", &script)?;
        let (seen, mut command) = account.way_to(&program, home.path())?;
        command
            .arg("sh")
            .arg(&script)
            .arg(seen.path().parent().unwrap_or(Path::new("/")))
            .arg(&inner)
            .args([
                SUPERUSER,
                &address.ip().to_string(),
                &address.port().to_string(),
            ])
            .args(match options.durability {
                Durability::None => &[
                    "-c",
                    "fsync=off",
                    "-c",
                    "synchronous_commit=off",
                    "-c",
                    "full_page_writes=off",
                ][..],
                Durability::Full => &[],
            })
            .envs(
                seen.command()
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            );
        // SIGINT is PostgreSQL's "fast": it ends sessions instead of waiting for them.
        let stop = Stop {
            signal: "INT",
            grace: 10,
        };
        let part = Launch {
            name: "PostgreSQL",
            home,
            stop,
            hooks: None,
            command,
        }
        .start()?;
        let mut postgres = Postgres {
            part,
            address,
            password,
            program,
        };
        postgres.wait_ready()?;
        Ok(postgres)
    }

    /// Ends it as its machine's owner does who restarts it: sessions end, what was committed stays. For [`Postgres::start_again`].
    pub fn stop(&mut self) -> Result<()> {
        self.part.stop(Signal::SIGINT)
    }

    /// Starts it again on its port, with what it had, and waits until it serves. It must have ended.
    pub fn start_again(&mut self) -> Result<()> {
        self.part.start_again()?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut probe = psql(&self.program, self.address, &self.password);
        probe.args(["-c", "SELECT 1"]);
        self.part.wait_ready(READY_WITHIN, || {
            parts::run(&mut probe)
                .map(drop)
                .map_err(|error| error.to_string())
        })
    }

    /// One server for all of this process, started at the first call; it ends with the process.
    pub fn shared() -> Result<&'static Postgres> {
        static SHARED: OnceLock<std::result::Result<Postgres, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Postgres::start().map_err(|error| error.to_string()));
        shared.as_ref().map_err(|answer| Error::Peer {
            peer: "the shared PostgreSQL".to_owned(),
            answer: answer.clone(),
        })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a database of this server, password included.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{SUPERUSER}:{}@{}/{database}",
            self.password, self.address
        )
    }

    /// Makes an empty database with a name of its own and gives its URL.
    pub fn create_database(&self) -> Result<String> {
        self.create_database_from("template0")
    }

    /// Makes a database of its own as a copy of `template`, to which nobody may be connected, and gives its URL.
    pub fn create_database_from(&self, template: &str) -> Result<String> {
        let name = format!("croft_{}", random_hex(8)?);
        self.create_database_named(&name, template)
    }

    /// Makes the database `name` as a copy of `template` and gives its URL: for a template to migrate once.
    pub fn create_database_named(&self, name: &str, template: &str) -> Result<String> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let statement = format!(
            "CREATE DATABASE {} TEMPLATE {}",
            quoted(name),
            quoted(template)
        );
        parts::run(psql(&self.program, self.address, &self.password).args(["-c", &statement]))?;
        Ok(self.url(name))
    }

    /// Runs one statement in a database of this server, by its URL; gives the rows as lines, columns parted by `|`.
    pub fn query(&self, url: &str, statement: &str) -> Result<String> {
        let database = url.rsplit_once('/').map_or(url, |(_, name)| name);
        let mut command = psql(&self.program, self.address, &self.password);
        command.env("PGDATABASE", database);
        let rows = parts::run(command.args(["--tuples-only", "--no-align", "-c", statement]))?;
        Ok(String::from_utf8_lossy(&rows).trim_end().to_owned())
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.part.log()
    }
}

fn psql(program: &Program, address: SocketAddr, password: &str) -> Command {
    let mut command = program.sibling("psql").command();
    command
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "5")
        .env("PGDATABASE", "postgres")
        .args([
            "--no-psqlrc",
            "--quiet",
            "--no-password",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            SUPERUSER,
        ])
        .args([
            "-h",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
        ]);
    command
}

/// Who runs the server.
enum Account {
    Ourselves,
    Other(User),
}

impl Account {
    fn find() -> Result<Account> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Account::Ourselves);
        }
        for name in ["postgres", "nobody"] {
            if let Ok(Some(user)) = User::from_name(name) {
                return Ok(Account::Other(user));
            }
        }
        Err(Error::Missing {
            what: "a user to run PostgreSQL".to_owned(),
            remedy: "it refuses root: make a user `postgres`, or run croft as a plain user"
                .to_owned(),
        })
    }

    fn own(&self, path: &Path, mode: u32) -> Result<()> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .doing("protect", path)?;
        match self {
            Account::Ourselves => Ok(()),
            Account::Other(user) => {
                nix::unistd::chown(path, Some(user.uid), Some(user.gid)).doing("give away", path)
            }
        }
    }

    /// The start of a command that runs as this user, and the program as that user sees it.
    ///
    /// A fetched program may be in a home folder that others cannot enter: then it is mounted where they can, in a mount namespace that
    /// goes with the server.
    fn way_to(&self, program: &Program, home: &Path) -> Result<(Program, Command)> {
        const MOUNTED: &str = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        let hidden = match (self, program.root()) {
            (Account::Other(_), Some(root)) if !enterable(root)? => Some(root),
            _ => None,
        };
        let (seen, mut command) = match hidden {
            Some(root) => {
                let open = home.join("programs");
                std::fs::create_dir(&open).doing("make", &open)?;
                let mut command = Command::new("unshare");
                command
                    .args(["--mount", "sh", "-c", MOUNTED, "postgres"])
                    .arg(root)
                    .arg(&open)
                    .arg("setpriv");
                (program.through(&open), command)
            }
            None => (program.clone(), Command::new("setpriv")),
        };
        // A change of user clears the signal that the guard had set.
        command.args(["--pdeathsig", "KILL"]);
        if let Account::Other(user) = self {
            let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
            command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]);
        }
        Ok((seen, command))
    }
}
