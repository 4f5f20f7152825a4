//! A farm and one engine beside it that takes no part in it: the same build goes to both and what comes out is held beside each other.
//! The engine has a cache of its own, so nothing that the farm made helps it, and nothing that the farm lost is hidden.

use std::{
    fmt::Write as _,
    path::Path,
    process::Command,
    sync::OnceLock,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use croft_local::{Engine, EngineOptions, Farm};

use crate::{
    compare::{Side, differences},
    support::{
        BUILDER, Buildx, Context, Finished, Repository,
        engine::alone,
        farm, process,
        words::{excerpt_and_error, normal},
    },
};

/// The farm, the engine, and what it takes to use them.
#[derive(Debug)]
pub struct Pair {
    pub farm: &'static Farm,
    pub engine: Engine,
    pub buildx: Buildx,
    /// Whether the engine's frontend has `COPY --parents`.
    pub parents: Parents,
    /// When it began, in seconds after 1970: what was modified later was made by a build.
    since: u64,
}

/// Whether a Dockerfile may have `COPY --parents`, which came late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    Known,
    Unknown,
}

/// A build to be done on both sides.
#[derive(Debug)]
pub struct Build<'a> {
    /// Where the images go, as a repository.
    pub name: &'a str,
    /// Where buildx is started: the context.
    pub folder: &'a Path,
    /// What buildx is asked for.
    pub request: Request<'a>,
    /// Further arguments.
    pub arguments: &'a [String],
}

/// What buildx is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// A build of the folder.
    Build,
    /// A target of the folder's bake file.
    Bake(&'a str),
}

/// What came of it where both sides agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreed {
    /// Both published the same.
    Published,
    /// Both failed with these words.
    Failed(String),
}

impl Pair {
    /// One for all of this process, started at the first call; it ends with the process.
    pub fn shared() -> &'static Pair {
        static SHARED: OnceLock<Pair> = OnceLock::new();
        SHARED.get_or_init(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let farm = farm();
            let engine = Engine::start(EngineOptions {
                name: "engine-alone".to_owned(),
                mirror: Some(farm.registry().address()),
                ..EngineOptions::default()
            });
            let engine = engine.unwrap_or_else(|error| panic!("no engine: {error}"));
            let buildx = Buildx::of(farm);
            let context = Context::new("FROM scratch\nCOPY --parents Dockerfile /\n");
            let mut check = alone(&buildx, engine.address(), ["build", "--check"]);
            check.arg(context.path());
            let parents = match process::run(check).stderr {
                said if said.contains("unknown flag") => Parents::Unknown,
                _ => Parents::Known,
            };
            Pair {
                farm,
                engine,
                buildx,
                parents,
                since: since.expect("after 1970").as_secs(),
            }
        })
    }

    /// buildx with these arguments against the engine.
    pub fn alone<const N: usize>(&self, arguments: [&str; N]) -> Command {
        alone(&self.buildx, self.engine.address(), arguments)
    }

    /// Builds it on both sides at once.
    ///
    /// # Errors
    /// What is different, for people.
    pub fn build(&self, build: &Build<'_>) -> Result<Agreed, String> {
        let [farm, plain] = ["farm", "plain"]
            .map(|side| Repository::of(self.farm.registry(), &format!("{side}/{}", build.name)));
        let through_farm = {
            let command = self.buildx.command(["--builder", BUILDER]);
            build.complete(command, &farm)
        };
        let alone = build.complete(self.alone([""; 0]), &plain);
        let (one, two) = thread::scope(|scope| {
            let one = scope.spawn(|| process::run(through_farm));
            let two = process::run(alone);
            (one.join(), two)
        });
        let one = one.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (one.status.success(), two.status.success()) {
            (true, true) => {
                let side = |repository| Side::of(repository, "latest", self.since);
                told(&differences(&side(&farm), &side(&plain)))
                    // Where everything ran, and what was tried again.
                    .map_err(|differences| format!("{differences}\n{}", one.report()))
                    .map(|()| Agreed::Published)
            }
            (false, false) => self.failed_alike(&one, &two),
            _ => Err(format!(
                "only one of them failed\n{}\n{}",
                one.report(),
                two.report()
            )),
        }
    }

    fn failed_alike(&self, one: &Finished, two: &Finished) -> Result<Agreed, String> {
        let [farm, plain] = [one, two].map(|finished| normal(finished, self.farm));
        let ([excerpt, error], [plain_excerpt, plain_error]) =
            (excerpt_and_error(&farm), excerpt_and_error(&plain));
        // An engine sometimes leaves the excerpt out when several platforms fail by the same step.
        let is_same = error == plain_error
            && (plain_excerpt.is_empty() || excerpt == plain_excerpt)
            && one.status.code() == two.status.code();
        if is_same {
            return Ok(Agreed::Failed(format!("{excerpt}{error}")));
        }
        Err(format!(
            "they failed with different words\nfarm ({}):\n{farm}\none engine ({}):\n{plain}",
            one.status, two.status
        ))
    }
}

fn told(differences: &[String]) -> Result<(), String> {
    /// A page of them says what is wrong.
    const SHOWN: usize = 60;
    if differences.is_empty() {
        return Ok(());
    }
    let mut text = differences[..differences.len().min(SHOWN)].join("\n");
    if differences.len() > SHOWN {
        let _ = write!(text, "\n… and {} lines more", differences.len() - SHOWN);
    }
    Err(text)
}

impl Build<'_> {
    fn complete(&self, mut command: Command, repository: &Repository) -> Command {
        let tag = repository.tag("latest");
        command
            .current_dir(self.folder)
            .env("CROFT_TEST_SECRET", "hush");
        // An engine alone chooses by its version; a farm always says it.
        let output = "type=image,push=true,oci-mediatypes=true";
        match self.request {
            Request::Build => command.args(["build", "--output", output, "--tag", &tag]),
            Request::Bake(target) => command
                .args(["bake", "--set", &format!("{target}.output={output}")])
                .args(["--set", &format!("{target}.tags={tag}")]),
        };
        // An attestation of how it was built is made by an engine alone only.
        command.args(["--progress", "plain", "--provenance=false"]);
        command.args(self.arguments);
        match self.request {
            Request::Build => command.arg("."),
            Request::Bake(target) => command.arg(target),
        };
        command
    }
}
