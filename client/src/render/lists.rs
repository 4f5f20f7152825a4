//! `builds ls` and `agents ls`: one line each.

use super::text::{Above, Cell, Paint, Side, Table, Tone, between, bytes, cell, moment, plain};
use crate::{
    contexts::Named,
    model::{Agent, Build, Moment},
};

/// How many columns a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// What most want to know.
    Narrow,
    /// What else there is.
    Wide,
}

/// Builds as a table, in the order given; running ones as of `now`.
pub fn builds(builds: &[Build], width: Width, paint: Paint, now: Moment) -> String {
    if builds.is_empty() {
        return "No builds.\n".to_owned();
    }
    more_builds(builds, &mut Above::default(), width, paint, now)
}

/// Further lines of a table of builds that is printed bit by bit.
pub fn more_builds(
    builds: &[Build],
    above: &mut Above,
    width: Width,
    paint: Paint,
    now: Moment,
) -> String {
    if width == Width::Wide {
        return wide(builds, above, paint, now);
    }
    let columns = ["ID", "STATE", "CREATED", "TOOK", "PLATFORMS", "PUBLISHED"];
    let mut table = Table::new(columns.map(|title| {
        (
            title,
            if title == "TOOK" {
                Side::Right
            } else {
                Side::Left
            },
        )
    }));
    for build in builds {
        let took = build
            .created_at
            .map(|from| between(from, build.finished_at.unwrap_or(now)));
        table.row([
            plain(&build.id),
            cell(&build.state, Tone::of_state(&build.state)),
            plain(build.created_at.map(moment).unwrap_or_default()),
            plain(took.unwrap_or_default()),
            plain(build.platforms.join(",")),
            plain(build.published.join(" ")),
        ]);
    }
    table.render_on(above, paint, "")
}

fn wide(builds: &[Build], above: &mut Above, paint: Paint, now: Moment) -> String {
    let left = |title| (title, Side::Left);
    let mut table = Table::new([
        left("ID"),
        left("STATE"),
        left("CREATED"),
        ("TOOK", Side::Right),
        left("PROJECT"),
        left("REFERENCE"),
        left("PLATFORMS"),
        left("DIGEST"),
        left("PUBLISHED"),
        left("ERROR"),
    ]);
    for build in builds {
        let took = build
            .created_at
            .map(|from| between(from, build.finished_at.unwrap_or(now)));
        let error = build.error.as_deref().unwrap_or_default();
        table.row([
            plain(&build.id),
            cell(&build.state, Tone::of_state(&build.state)),
            plain(build.created_at.map(moment).unwrap_or_default()),
            plain(took.unwrap_or_default()),
            plain(&build.project),
            plain(&build.client_ref),
            plain(build.platforms.join(",")),
            plain(build.digest.as_deref().unwrap_or_default()),
            plain(build.published.join(" ")),
            cell(error.lines().next().unwrap_or_default(), Tone::Bad),
        ]);
    }
    table.render_on(above, paint, "")
}

/// Agents as a table, in the order given; when they were seen, as of `now`.
pub fn agents(agents: &[Agent], paint: Paint, now: Moment) -> String {
    if agents.is_empty() {
        return "No agents: start croft-agent beside an engine and point it at this farm.\n"
            .to_owned();
    }
    let mut table = Table::new([
        ("NAME", Side::Left),
        ("STATE", Side::Left),
        ("RUNS", Side::Right),
        ("DISK FREE", Side::Left),
        ("MEMORY FREE", Side::Left),
        ("SEEN", Side::Right),
        ("ENGINE", Side::Left),
        ("VERSION", Side::Left),
        ("PLATFORMS", Side::Left),
    ]);
    for agent in agents {
        table.row([
            cell(&agent.name, Tone::Strong),
            state(agent),
            plain(format!("{} of {}", agent.running, agent.slots)),
            plain(disk(agent)),
            plain(memory(agent)),
            plain(
                agent
                    .last_seen
                    .map(|seen| format!("{} ago", between(seen, now)))
                    .unwrap_or_default(),
            ),
            plain(&agent.engine),
            plain(&agent.version),
            plain(platforms(agent)),
        ]);
    }
    table.render(paint, "")
}

pub(super) fn state(agent: &Agent) -> Cell {
    let drain = match (agent.draining, agent.is_drained()) {
        (false, _) => None,
        (true, false) => Some("draining"),
        (true, true) => Some("drained"),
    };
    let trouble = match agent.condition.as_str() {
        "" | "ready" => None,
        other => Some(other),
    };
    match (agent.state.as_str(), drain, trouble) {
        ("connected", None, None) => cell(&agent.state, Tone::of_state(&agent.state)),
        ("connected", Some(drain), None) => cell(drain, Tone::Busy),
        ("connected", None, Some(trouble)) => cell(trouble, Tone::Bad),
        ("connected", Some(drain), Some(trouble)) => cell(format!("{trouble}, {drain}"), Tone::Bad),
        (state, None, _) => cell(state, Tone::of_state(state)),
        (state, Some(drain), _) => cell(format!("{state}, {drain}"), Tone::of_state(state)),
    }
}

pub(super) fn memory(agent: &Agent) -> String {
    match agent.memory_total_bytes {
        0 => String::new(),
        total => format!(
            "{} of {}",
            bytes(agent.memory_available_bytes),
            bytes(total)
        ),
    }
}

pub(super) fn disk(agent: &Agent) -> String {
    match agent.disk_total_bytes {
        0 => String::new(),
        total => format!("{} of {}", bytes(agent.disk_free_bytes), bytes(total)),
    }
}

/// The native one first, then what else runs without an emulator, then what runs with one.
fn platforms(agent: &Agent) -> String {
    let others = agent
        .platforms
        .iter()
        .filter(|platform| **platform != agent.native_platform);
    let mut all = agent.native_platform.clone();
    for platform in others {
        all.push_str(&format!(", {platform}"));
    }
    if !agent.emulated_platforms.is_empty() {
        all.push_str(&format!(
            "; emulates {}",
            agent.emulated_platforms.join(", ")
        ));
    }
    all
}

/// Named farms as a table; the one in use has a mark.
pub fn contexts(all: &[Named], paint: Paint) -> String {
    if all.is_empty() {
        return "No contexts: name a farm with `croft context add NAME --addr ADDRESS`.\n"
            .to_owned();
    }
    let columns = ["", "NAME", "ADDRESSES", "AUTHORITY", "CERTIFICATE"];
    let mut table = Table::new(columns.map(|title| (title, Side::Left)));
    let path = |path: &Option<std::path::PathBuf>| {
        let path = path.as_ref().map(|path| path.display().to_string());
        plain(path.unwrap_or_default())
    };
    for one in all {
        table.row([
            cell(if one.in_use { "*" } else { "" }, Tone::Good),
            cell(&one.name, Tone::Strong),
            plain(one.context.addresses.join(" ")),
            path(&one.context.tls_ca),
            path(&one.context.tls_cert),
        ]);
    }
    table.render(paint, "")
}
