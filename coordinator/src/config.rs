//! Everything that can be set, one struct per concern. Each flag is also a `CROFT_*` variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// The coordinator of a croft build farm: it takes builds from buildx, buildctl and croft, splits them into stages and runs each on the agent
/// that suits it.
#[derive(Debug, Parser)]
#[command(name = "croft-coordinator", version)]
pub struct Config {
    /// Where to listen.
    #[command(flatten)]
    pub listen: Listen,
    /// The database.
    #[command(flatten)]
    pub database: Database,
    /// Which of several coordinators is active.
    #[command(flatten)]
    pub lease: CoordinatorLease,
    /// The stage registry.
    #[command(flatten)]
    pub stages: StageRegistry,
    /// How builds are run.
    #[command(flatten)]
    pub policy: PolicyFlags,
    /// What is kept.
    #[command(flatten)]
    pub retention: RetentionFlags,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: Telemetry,
}

/// The two ports and their certificates.
#[derive(Debug, Clone, clap::Args)]
pub struct Listen {
    /// Where clients (buildx, buildctl, croft) connect. Without TLS this must be a loopback address.
    #[arg(long, env = "CROFT_CLIENT_ADDR", default_value = "127.0.0.1:8372")]
    pub client_addr: SocketAddr,
    /// Where agents connect. Without TLS this must be a loopback address.
    #[arg(long, env = "CROFT_AGENT_ADDR", default_value = "127.0.0.1:8373")]
    pub agent_addr: SocketAddr,
    /// Where clients reach this coordinator, as `host:port`, for others to tell them. By default where it listens.
    #[arg(long, env = "CROFT_ADVERTISE_CLIENT")]
    pub advertise_client: Option<String>,
    /// Where agents reach this coordinator, as `host:port`, for others to tell them. By default where it listens.
    #[arg(long, env = "CROFT_ADVERTISE_AGENT")]
    pub advertise_agent: Option<String>,
    /// Certificate chain (PEM) that both ports show.
    #[arg(long, env = "CROFT_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, env = "CROFT_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// CA (PEM) that clients' certificates must come from.
    #[arg(long, env = "CROFT_TLS_CLIENT_CA", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// CA (PEM) that agents' certificates must come from; by default the clients' one.
    #[arg(long, env = "CROFT_TLS_AGENT_CA", requires = "tls_cert")]
    pub tls_agent_ca: Option<PathBuf>,
}

/// The database that holds all state.
#[derive(Clone, clap::Args)]
pub struct Database {
    /// PostgreSQL (15 or later), as `postgres://user:password@host:port/database`. Set it by the variable: a command line can be read by others.
    #[arg(
        long = "database-url",
        env = "CROFT_DATABASE_URL",
        hide_env_values = true
    )]
    pub url: String,
    /// Connections to hold at most.
    #[arg(
        long = "database-connections",
        env = "CROFT_DATABASE_CONNECTIONS",
        default_value_t = 16
    )]
    pub connections: u32,
    /// How long builds and agents wait for a database that is away, for example `2m`; then builds fail, and agents look for another coordinator.
    #[arg(long = "database-wait", env = "CROFT_DATABASE_WAIT", default_value = "2m", value_parser = duration)]
    pub wait: Duration,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// Which of several coordinators is active.
#[derive(Debug, Clone, clap::Args)]
pub struct CoordinatorLease {
    /// How long another coordinator waits for the active one when nothing is heard of it, for example `6s`. The same for all of a farm.
    #[arg(long, env = "CROFT_COORDINATOR_LEASE", default_value = "6s", value_parser = lease)]
    pub coordinator_lease: Duration,
}

/// Where results travel between agents.
#[derive(Debug, Clone, clap::Args)]
pub struct StageRegistry {
    /// The farm's own registry, as `host:port[/prefix]`. Agents' engines must reach it under this name.
    #[arg(long, env = "CROFT_STAGE_REGISTRY")]
    pub stage_registry: String,
    /// User at the stage registry, if it wants one.
    #[arg(
        long,
        env = "CROFT_STAGE_REGISTRY_USER",
        requires = "stage_registry_password_file"
    )]
    pub stage_registry_user: Option<String>,
    /// File that holds that user's password.
    #[arg(
        long,
        env = "CROFT_STAGE_REGISTRY_PASSWORD_FILE",
        requires = "stage_registry_user"
    )]
    pub stage_registry_password_file: Option<PathBuf>,
    /// Speak plain HTTP to the stage registry. Loopback addresses are plain anyway.
    #[arg(long, env = "CROFT_STAGE_REGISTRY_INSECURE")]
    pub stage_registry_insecure: bool,
    /// Hosts of users' registries to speak plain HTTP to (may be given several times). Loopback addresses are plain anyway.
    #[arg(long, env = "CROFT_INSECURE_REGISTRY", value_delimiter = ',')]
    pub insecure_registry: Vec<String>,
    /// The farm's own credentials for users' repositories below a prefix, as `host[:port][/path]=USER:PASSWORD_FILE` (may be given several
    /// times). They serve builds that publish there and whose client has no credentials for that registry, or is gone.
    #[arg(long, env = "CROFT_REGISTRY_SECRET", value_delimiter = ',', value_parser = registry_secret)]
    pub registry_secret: Vec<RegistrySecret>,
}

/// A `--registry-secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySecret {
    /// The repositories that it is for: `host[:port][/path]`.
    pub prefix: String,
    /// The user's name.
    pub user: String,
    /// Where the password is.
    pub password_file: PathBuf,
}

/// Reads `registry.example.com/team=user:/run/secrets/team`.
fn registry_secret(text: &str) -> Result<RegistrySecret, String> {
    let read = || {
        let (prefix, login) = text.split_once('=')?;
        let (user, file) = login.split_once(':')?;
        let host = prefix.split('/').next()?;
        let full = [host, user, file].iter().all(|part| !part.is_empty());
        full.then(|| RegistrySecret {
            prefix: prefix.to_owned(),
            user: user.to_owned(),
            password_file: PathBuf::from(file),
        })
    };
    read().ok_or_else(|| {
        format!("{text:?} is no registry secret: write it like registry.example.com/team=user:/path/of/the/password/file")
    })
}

/// How builds are run.
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyFlags {
    /// The platform whose agents run frontends and build-platform stages, as `os/arch`. By default the native platform with the most slots.
    #[arg(long, env = "CROFT_BUILD_PLATFORM")]
    pub build_platform: Option<croft_planner::Platform>,
    /// How long a stage waits for an agent that could run it and is away, for example `10m`.
    #[arg(long, env = "CROFT_AGENT_WAIT", default_value = "10m", value_parser = duration)]
    pub agent_wait: Duration,
    /// How long a build may take, for example `2h`; one that takes longer is ended. Any time by default.
    #[arg(long, env = "CROFT_BUILD_DEADLINE", value_parser = duration)]
    pub build_deadline: Option<Duration>,
    /// How long an agent's right to run an attempt lasts without being renewed.
    #[arg(long, env = "CROFT_LEASE", default_value = "30s", value_parser = duration)]
    pub lease: Duration,
    /// Entitlements that builds may ask for (`network.host`, `security.insecure`, `device`). None by default.
    #[arg(long, env = "CROFT_ALLOW_ENTITLEMENT", value_delimiter = ',')]
    pub allow_entitlement: Vec<String>,
    /// Name under which this farm's builds keep their caches and stage images apart from those of others.
    #[arg(long, env = "CROFT_PROJECT", default_value = "default", value_parser = project)]
    pub project: String,
}

/// What is kept, and for how long. Nothing that a running build needs ever goes.
#[derive(Debug, Clone, clap::Args)]
pub struct RetentionFlags {
    /// How long builds that ended are remembered, for example `30d`.
    #[arg(long, env = "CROFT_KEEP_BUILDS", default_value = "30d", value_parser = duration)]
    pub keep_builds: Duration,
    /// How many builds that ended are remembered.
    #[arg(long, env = "CROFT_MAX_BUILDS", default_value_t = 100_000)]
    pub max_builds: u64,
    /// How long the logs of builds that ended are kept.
    #[arg(long, env = "CROFT_KEEP_LOGS", default_value = "7d", value_parser = duration)]
    pub keep_logs: Duration,
    /// How much all logs may take in the database, for example `10GiB`; the oldest go first.
    #[arg(long, env = "CROFT_MAX_LOG_BYTES", default_value = "10GiB", value_parser = bytes)]
    pub max_log_bytes: u64,
    /// How long an image stays in the stage registry that no build uses; at least `1d`.
    #[arg(long, env = "CROFT_KEEP_STAGE_IMAGES", default_value = "7d", value_parser = stage_images)]
    pub keep_stage_images: Duration,
    /// How much the images in the stage registry may take; those go first that were used longest ago, but none of the last day.
    #[arg(long, env = "CROFT_MAX_STAGE_BYTES", default_value = "100GiB", value_parser = bytes)]
    pub max_stage_bytes: u64,
}

/// Logs and traces.
#[derive(Debug, Clone, clap::Args)]
pub struct Telemetry {
    /// What to log, as `level` or `target=level,…`. Logs go to standard error.
    #[arg(long, env = "CROFT_LOG", default_value = "info")]
    pub log: String,
    /// How to write logs.
    #[arg(long, env = "CROFT_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// OTLP collector (gRPC) that gets traces, as `http://host:4317`.
    #[arg(long, env = "CROFT_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for a person.
    Text,
    /// A JSON object a line.
    Json,
}

/// Images of the last day stay.
fn stage_images(text: &str) -> Result<Duration, String> {
    let keep = duration(text)?;
    (keep >= crate::control::LATELY)
        .then_some(keep)
        .ok_or_else(|| format!("{text:?} is too short: what was used within a day always stays"))
}

/// Reads `512MiB`, `10GiB`, `2TB`; a bare number is bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "" | "B" => Some(1),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "TB" => Some(1_000_000_000_000),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is no size: write it like 512MiB or 10GiB"))
}

/// Reads `90s`, `10m`, `1h`, `7d`, `500ms`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no duration: write it like 90s, 10m, 1h or 7d"))?;
    let millis = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    millis
        .and_then(|m: u64| number.checked_mul(m))
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no duration: write it like 90s, 10m, 1h or 7d"))
}

/// A lease that can be renewed in time.
fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    (Duration::from_secs(1)..=Duration::from_secs(300))
        .contains(&lease)
        .then_some(lease)
        .ok_or_else(|| format!("{text:?} is too short or too long: use 1s to 5m"))
}

/// A project's name is a component of a repository's name.
fn project(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = text.len() <= 64
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || c == '-');
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("{text:?} is no project name: use at most 64 lower-case letters, digits and inner dashes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "m", "10 m", "-1s", "1y", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(bytes("10GiB"), Ok(10 << 30));
        assert_eq!(bytes("500MB"), Ok(500_000_000));
        assert_eq!(bytes("7"), Ok(7));
        for bad in ["", "GiB", "1 GiB", "-1", "1gib", "99999999999TiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn images_of_the_last_day_always_stay() {
        assert!(stage_images("1d").is_ok());
        assert!(stage_images("23h").is_err());
    }

    #[test]
    fn a_registry_secret_names_its_prefix_its_user_and_its_file() {
        assert_eq!(
            registry_secret("r.example:5000/team=robot:/run/secrets/a:b"),
            Ok(RegistrySecret {
                prefix: "r.example:5000/team".to_owned(),
                user: "robot".to_owned(),
                password_file: "/run/secrets/a:b".into(),
            })
        );
        for bad in [
            "",
            "r.example",
            "r.example=user",
            "=user:/f",
            "/p=user:/f",
            "r=:/f",
            "r=u:",
        ] {
            assert!(registry_secret(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory as _;
        Config::command().debug_assert();
    }
}
