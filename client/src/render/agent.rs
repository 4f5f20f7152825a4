//! `agents show`: one agent whole.

use super::{
    lists::{disk, memory, state},
    text::{Paint, Side, Table, Tone, between, bytes, clean, moment, plain},
};
use crate::model::{AgentDetail, Moment};

/// An agent with what it runs and holds; ages as of `now`.
pub fn agent(detail: &AgentDetail, paint: Paint, now: Moment) -> String {
    let agent = &detail.agent;
    let mut out = format!(
        "{} {}\n",
        paint.put(Tone::Strong, &format!("Agent {}", clean(&agent.name))),
        state(agent).painted(paint)
    );
    let mut field = |name: &str, text: String| {
        if !text.is_empty() {
            out.push_str(&format!("  {name:<12} {}\n", clean(&text)));
        }
    };
    field("id", agent.id.clone());
    field("native", agent.platforms.join(", "));
    field("emulated", agent.emulated_platforms.join(", "));
    field("runs", format!("{} of {}", agent.running, agent.slots));
    field("disk free", disk(agent));
    field("memory free", memory(agent));
    let cache = detail.cache.as_ref().map(|cache| {
        format!(
            "{} in {} records, {} of it unused",
            bytes(cache.bytes),
            cache.records,
            bytes(cache.reclaimable_bytes)
        )
    });
    field(
        "cache",
        cache.unwrap_or_else(|| "not known: its engine can't be asked".to_owned()),
    );
    field(
        "known there",
        format!(
            "{} commands, {} cache mounts",
            detail.known_commands, detail.known_mounts
        ),
    );
    let holds = match agent.holding {
        0 => String::new(),
        builds => format!("results that {builds} running builds need and nobody else has"),
    };
    field("holds", holds);
    field("engine", agent.engine.clone());
    field("version", agent.version.clone());
    field("entitlements", agent.entitlements.join(", "));
    field("devices", agent.devices.join(", "));
    let labels = agent
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    field("labels", labels.collect::<Vec<_>>().join(", "));
    let seen = agent
        .last_seen
        .map(|seen| format!("{} ago", between(seen, now)));
    field("seen", seen.unwrap_or_default());
    field(
        "first seen",
        agent.first_seen.map(moment).unwrap_or_default(),
    );
    out.push('\n');
    if detail.work.is_empty() {
        out.push_str("It runs nothing.\n");
        return out;
    }
    out.push_str(&paint.put(Tone::Strong, "Runs"));
    out.push('\n');
    let mut table = Table::new([
        ("BUILD", Side::Left),
        ("#", Side::Right),
        ("FOR", Side::Right),
        ("STAGE", Side::Left),
    ]);
    for work in &detail.work {
        table.row([
            plain(&work.build),
            plain(work.stage.to_string()),
            plain(
                work.since
                    .map(|since| between(since, now))
                    .unwrap_or_default(),
            ),
            plain(&work.name),
        ]);
    }
    out.push_str(&table.render(paint, "  "));
    out
}
