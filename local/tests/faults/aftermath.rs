//! What must hold after each of these tests, whatever was broken: the image is the one that the same build gives when nothing breaks, its tag
//! moved once, each command ran where it belongs, and nothing is left behind.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use croft_local::{Farm, FarmAgent};
use serde_json::Value;

use crate::gate::Gate;
use crate::sleep::Sleep;
use crate::support::{
    Buildx, Context, Image, Plan, Published, Repository, agent, builds,
    engine::{records_of, runs},
    process::eventually,
    registry,
};

/// From one look at who waits to the next.
const PACE: Duration = Duration::from_millis(50);

/// A step of a build that waits for the test.
pub trait Waits: Sync {
    /// Whoever waits at it now goes on.
    fn go_on(&self);
}

impl Waits for Sleep {
    fn go_on(&self) {
        self.wake_all();
    }
}

impl Waits for Gate {
    fn go_on(&self) {
        self.open_if_reached();
    }
}

/// The build of this context was pushed as `:1` while something broke that is whole again: all of what is said above holds. The same build is
/// run once more for it, in which these steps don't wait.
pub fn unharmed(farm: &Farm, context: &Context, image: &Repository, waits: &[&dyn Waits]) {
    let plan = settled(farm, context);
    assert_eq!(plan.state, "succeeded", "{plan:#?}");
    let published = image.published("1");
    assert_eq!(Some(&published.digest), plan.digest.as_ref());
    assert_eq!(image.tags(), ["1"], "nothing but what was asked for");
    assert_eq!(
        image.moves(farm.registry(), "1"),
        1,
        "the tag moved more than once"
    );
    let healthy = rebuilt(farm, context, &plan, waits);
    assert_eq!(shape(&published), shape(&healthy), "not what it should be");
}

/// What the platforms amd64 and 386 of this image took from one stage is the same.
pub fn one_for_both(image: &Repository) {
    let published = image.published("1");
    let [one, other] =
        ["linux/amd64", "linux/386"].map(|platform| published.image(platform).file("/x"));
    assert_eq!(one, other, "one artifact for both");
}

/// The build of this context is over: each command ran where it belongs, and nothing is left. Gives how it went.
pub fn settled(farm: &Farm, context: &Context) -> Plan {
    nothing_left(farm, &context.nonce);
    let plan = builds::find(farm, &context.nonce).expect("the farm knows the build");
    let agents: Vec<&str> = plan
        .stages
        .iter()
        .flat_map(|stage| stage.attempts.iter().map(move |attempt| (stage, attempt)))
        .map(|(stage, attempt)| {
            let serves = native(&attempt.agent);
            let home = stage.home.as_deref().unwrap_or(serves);
            assert!(
                home == serves || (home, serves) == ("linux/386", "linux/amd64"),
                "{home} on {}: {plan:#?}",
                attempt.agent
            );
            &*attempt.agent
        })
        .collect();
    for (agent, _) in runs(farm, &context.nonce) {
        assert!(agents.contains(&&*agent), "{agent} ran something unasked");
    }
    plan
}

/// The platform of the farm's agent of this name.
fn native(agent: &str) -> &'static str {
    match agent.rsplit_once('-').expect("a number").0 {
        "amd64" => "linux/amd64",
        "arm64" => "linux/arm64",
        "ppc64le" => "linux/ppc64le",
        "s390x" => "linux/s390x",
        other => panic!("no {other} in these farms"),
    }
}

/// Nothing is left of any build: no process, no lease, no keeper, no intent, no tag that nobody asked for. What engines remember of commands
/// with this text nobody holds, where nothing was broken off. The last things go after the client has heard of the build's end.
pub fn nothing_left(farm: &Farm, nonce: &str) {
    let unfinished = "SELECT (SELECT count(*) FROM builds WHERE finished_at IS NULL)
                           + (SELECT count(*) FROM attempts WHERE finished_at IS NULL)
                           + (SELECT count(*) FROM stages WHERE state IN ('waiting', 'ready', 'running'))
                           + (SELECT count(*) FROM publications WHERE state = 'intended')";
    eventually("everything in the database is over", || {
        let left = farm.postgres().query(farm.database_url(), unfinished);
        (left.expect("a database") == "0").then_some(())
    });
    let broken_off = farm.postgres().query(farm.database_url(), BROKEN_OFF);
    let broken_off = broken_off.expect("a database");
    for one in farm.agents() {
        let name = one.name.to_string();
        let spared = broken_off.split(',').any(|agent| agent == name);
        let held = || !spared && holds(one, nonce);
        eventually(&format!("{name} has nothing left"), || {
            let listed = agent::listed(farm, &name);
            let idle = listed["running"] == 0 && listed["holding"] == 0;
            (idle && !runs_something(one) && !held()).then_some(())
        });
    }
    for results in registry::repositories(farm.stage()) {
        let tags = Repository::of(farm.stage(), &results).tags();
        assert_eq!(tags, [""; 0], "results travel by digest");
    }
}

/// The agents where something failed or was cancelled. An engine may hold what such a thing had made for ever: Docker Engine 28.5 did after one of
/// ten, whether the agent was still there or not.
const BROKEN_OFF: &str = "SELECT COALESCE(string_agg(DISTINCT a.name, ','), '') FROM attempts AS t JOIN agents AS a ON a.id = t.agent
                          WHERE t.state IN ('failed', 'cancelled', 'lost')";

/// Whether the engine runs anything.
fn runs_something(agent: &FarmAgent) -> bool {
    agent.cgroup().is_some_and(|group| processes(group) > 0)
}

/// Whether somebody holds what the engine remembers of commands with this text.
fn holds(agent: &FarmAgent, nonce: &str) -> bool {
    let records = records_of(agent, nonce);
    records.iter().any(|one| !one.reclaimable)
}

/// How many processes there are in a control group and below, in whichever hierarchy counts them.
fn processes(group: &str) -> usize {
    fn count(folder: &Path) -> usize {
        let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let below = fs::read_dir(folder).into_iter().flatten().flatten();
        let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        own.lines().count() + below.map(|entry| count(&entry.path())).sum::<usize>()
    }
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = hierarchies.map(|entry| entry.path().join(group));
    let all = folders
        .chain([root.join(group)])
        .filter(|path| path.is_dir());
    all.map(|folder| count(&folder)).max().unwrap_or_default()
}

/// What comes of the same build, all of it made anew, while nothing is broken.
fn rebuilt(farm: &Farm, context: &Context, plan: &Plan, waits: &[&dyn Waits]) -> Published {
    let healthy = Repository::of(farm.registry(), &format!("healthy/{}", context.nonce));
    let platforms: Vec<&str> = plan.platforms.iter().map(String::as_str).collect();
    let buildx = Buildx::of(farm);
    let build = buildx.build(context).platforms(&platforms);
    let build = build.args(["--no-cache"]).push(&healthy.tag("1"));
    let built = thread::scope(|scope| {
        // Gone when the build is over, however that goes.
        let (_builds, over) = channel::<()>();
        scope.spawn(move || {
            while over.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                waits.iter().for_each(|one| one.go_on());
            }
        });
        build.run()
    });
    let again = built.succeeded().plan();
    for stage in &again.stages {
        assert_eq!(stage.attempts.len(), 1, "nothing breaks now: {again:#?}");
    }
    healthy.published("1")
}

/// What two builds of one Dockerfile must have in common: everything but times, and but for what the Dockerfile itself draws anew each time.
fn shape(published: &Published) -> BTreeMap<String, Value> {
    let images: Vec<(String, Image)> = match published.is_list() {
        false => vec![(String::new(), published.bare_image())],
        true => {
            let platforms = published.platforms().into_iter();
            platforms
                .map(|platform| {
                    let image = published.image(&platform);
                    (platform, image)
                })
                .collect()
        }
    };
    let mut all = BTreeMap::from([(String::new(), Value::from(&*published.media_type))]);
    for (platform, image) in images {
        let mut config = image.config.clone();
        config["created"].take();
        for step in config["history"].as_array_mut().into_iter().flatten() {
            step["created"].take();
        }
        let layers = config["rootfs"]["diff_ids"].take();
        config["layers"] = Value::from(layers.as_array().map_or(0, Vec::len));
        config["media types"] = image.layers().map(|one| one["mediaType"].clone()).collect();
        all.insert(format!("{platform} configuration"), config);
        list(image.root(), Path::new(""), &mut |path, what| {
            all.insert(format!("{platform} {path}"), Value::from(what));
        });
    }
    all
}

/// Each file below: its kind and mode, and what is in it.
fn list(root: &Path, folder: &Path, tell: &mut impl FnMut(String, String)) {
    for entry in fs::read_dir(root.join(folder)).expect("a folder") {
        let entry = entry.expect("readable");
        let path = folder.join(entry.file_name());
        let about = entry.metadata().expect("it is there");
        let mode = about.permissions().mode();
        let what = if about.is_symlink() {
            let to = fs::read_link(entry.path()).expect("a link");
            to.display().to_string()
        } else if about.is_dir() {
            list(root, &path, tell);
            String::new()
        } else {
            content(&entry.path())
        };
        tell(path.display().to_string(), format!("{mode:o} {what}"));
    }
}

/// A file's content by its digest. A random number from the kernel is as good as another.
fn content(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let dashes = bytes.iter().filter(|byte| **byte == b'-').count();
    let random = bytes.len() == 37
        && dashes == 4
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || b"-\n".contains(byte));
    match random {
        true => "a random number".to_owned(),
        false => registry::digest(&bytes),
    }
}
