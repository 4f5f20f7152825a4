//! `croft-local`: a farm on one machine, from a shell. See `dev/farm`.

mod demo;

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command, ExitCode},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use croft_local::{
    Background, Farm, FarmOptions, Place, Postgres, Registry, RegistryOptions, Up, Workbench,
    export_lines, fetch_all,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// Runs a whole croft farm on this machine: PostgreSQL, registries, engines, coordinator and agents
///
/// CROFT_AGENTS chooses the agents (default amd64,amd64,arm64,ppc64le,s390x), CROFT_PORT_BASE the ports, CROFT_USE_ENGINES running
/// engines to use (unix://…,docker+unix://…), CROFT_BIN_DIR where croft's programs are, CROFT_CACHE where fetched parts are kept.
#[derive(Debug, Parser)]
#[command(name = "croft-local", version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a farm in the background; returns when it is ready
    Up(Folder),
    /// End the farm in the background and remove its folder
    Down(Folder),
    /// Print what the farm's users need to know, as `export` lines
    Env(Folder),
    /// Print the end of the parts' logs
    Logs {
        #[command(flatten)]
        folder: Folder,
        /// Only this part's, and all of it
        part: Option<String>,
    },
    /// Run a farm in the foreground, print its `export` lines, and end it at the end of standard input or at a signal
    Run {
        /// The folder for all of it [default: a temporary one]
        #[arg(long)]
        folder: Option<PathBuf>,
        /// What ends it
        #[arg(long, value_enum, default_value_t = Until::Input)]
        until: Until,
    },
    /// Run some of a farm's parts in the foreground, print where they are, and end them in the same way
    Part {
        /// Which
        part: PartName,
    },
    /// Find or fetch everything that a farm needs, and start nothing
    Fetch,
    /// Start a farm, build a sample for four platforms across it, show what happened, and end the farm
    Demo {
        /// A folder with a Dockerfile
        #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cross-compile"))]
        sample: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Folder {
    /// The farm's folder
    #[arg(long, env = "CROFT_FARM_DIR", default_value = ".farm")]
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    /// The end of standard input, or a signal
    Input,
    /// A signal only
    Signal,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PartName {
    /// A PostgreSQL server
    Postgres,
    /// An open registry
    Registry,
    /// An engine, and a registry with the base image that it takes for docker.io
    Engine,
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("croft-local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<()> {
    match action {
        Action::Up(folder) => up(&folder),
        Action::Down(folder) => {
            let was_up = Background::at(&folder.folder)?.down()?;
            eprintln!(
                "croft: {}",
                if was_up {
                    "the farm is down"
                } else {
                    "no farm was up"
                }
            );
            Ok(())
        }
        Action::Env(folder) => {
            print!("{}", Background::at(&folder.folder)?.env()?);
            Ok(())
        }
        Action::Logs { folder, part } => logs(&folder, part.as_deref()),
        Action::Run { folder, until } => run(folder, until),
        Action::Part { part } => {
            let start = move || match part {
                PartName::Postgres => {
                    let postgres = Postgres::start()?;
                    let url = postgres.url("postgres");
                    Ok(Running {
                        env: vec![variable("CROFT_DATABASE_URL", url)],
                        _owned: Box::new(postgres),
                    })
                }
                PartName::Registry => {
                    let registry = Registry::start(RegistryOptions::default())?;
                    let address = registry.address().to_string();
                    Ok(Running {
                        env: vec![variable("CROFT_REGISTRY", address)],
                        _owned: Box::new(registry),
                    })
                }
                PartName::Engine => {
                    let bench = Workbench::start()?;
                    let env = vec![
                        variable("CROFT_REGISTRY", bench.registry.address().to_string()),
                        variable("CROFT_ENGINE", bench.engine.address().to_owned()),
                    ];
                    Ok(Running {
                        env,
                        _owned: Box::new(bench),
                    })
                }
            };
            own(start, Until::Input, print)
        }
        Action::Fetch => Ok(fetch_all()?),
        Action::Demo { sample } => {
            // The parts end with this process, however it ends: a signal needs no handler.
            let farm = Farm::start(FarmOptions::from_env()?)?;
            demo::demo(&farm, &sample, &mut std::io::stdout())
        }
    }
}

fn up(folder: &Folder) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut runner = Command::new(program);
    runner
        .args(["run", "--until", "signal", "--folder"])
        .arg(std::path::absolute(&folder.folder)?);
    let outcome = Background::at(&folder.folder)?.up(runner)?;
    let place = folder.folder.display();
    match outcome {
        Up::Started => {
            eprintln!("croft: the farm is up in {place}; `eval \"$(dev/farm env)\"` to use it")
        }
        Up::Already => eprintln!("croft: a farm is up in {place} already"),
    }
    Ok(())
}

fn logs(folder: &Folder, part: Option<&str>) -> Result<()> {
    const LINES: usize = 20;
    let logs = Background::at(&folder.folder)?.logs()?;
    if let Some(part) = part {
        let names = || {
            logs.iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (_, path) = logs
            .iter()
            .find(|(name, _)| name == part)
            .with_context(|| format!("no part `{part}`; there are {}", names()))?;
        return Ok(std::io::stdout().write_all(&std::fs::read(path)?)?);
    }
    for (name, path) in logs {
        println!("==> {name} ({}) <==", path.display());
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let lines: Vec<_> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            println!("{line}");
        }
    }
    Ok(())
}

fn run(folder: Option<PathBuf>, until: Until) -> Result<()> {
    let mut options = FarmOptions::from_env()?;
    let hold = folder
        .map(|folder| Background::at(&folder)?.hold())
        .transpose()?;
    if let Some(hold) = &hold {
        options.place = Place::Within(hold.folder().to_owned());
    }
    let start = move || {
        let farm = Farm::start(options)?;
        Ok(Running {
            env: farm.env(),
            _owned: Box::new(farm),
        })
    };
    own(start, until, |env| match &hold {
        // What the runner of a farm in the background prints is its log, where passwords have no place.
        Some(hold) => Ok(hold.ready(env)?),
        None => print(env),
    })
}

fn print(env: &[(String, String)]) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(export_lines(env).as_bytes())?;
    out.write_all(
        b"# ready
",
    )?;
    Ok(out.flush()?)
}

/// What runs, until this is dropped.
struct Running {
    env: Vec<(String, String)>,
    _owned: Box<dyn Send>,
}

fn variable(name: &str, value: String) -> (String, String) {
    (name.to_owned(), value)
}

enum Event {
    Started(croft_local::Result<Running>),
    End,
}

/// Starts something, tells about it and ends it when told to. When told so before it runs, this process just ends: the parts' guards
/// see that and clean up.
fn own(
    start: impl FnOnce() -> croft_local::Result<Running> + Send + 'static,
    until: Until,
    ready: impl Fn(&[(String, String)]) -> Result<()>,
) -> Result<()> {
    let (tell, told) = mpsc::channel();
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    let on_signal = tell.clone();
    thread::spawn(move || {
        for _ in &mut signals {
            // Nobody listens any more when the farm is on its way down.
            let _ = on_signal.send(Event::End);
        }
    });
    if until == Until::Input {
        let on_end = tell.clone();
        thread::spawn(move || {
            let mut rest = [0; 512];
            while std::io::stdin()
                .read(&mut rest)
                .is_ok_and(|length| length > 0)
            {}
            let _ = on_end.send(Event::End);
        });
    }
    thread::spawn(move || tell.send(Event::Started(start())));
    let mut running = None;
    for event in told {
        match event {
            Event::Started(outcome) => {
                let started = outcome?;
                ready(&started.env)?;
                running = Some(started);
            }
            Event::End => break,
        }
    }
    drop(running);
    Ok(())
}
