//! `builds show`: a build's plan as it ran. Which stages there are, for whom, where each ran and why there, how long it waited and
//! ran, and what travelled between agents.

use super::text::{
    Cell, Paint, Side, Table, Tone, between, bytes, cell, clean, clean_lines, duration, moment,
    plain,
};
use crate::model::{Attempt, Build, BuildDetail, Moment, Stage, Transfer};

/// A build and its plan; what still runs, as of `now`.
pub fn build(detail: &BuildDetail, paint: Paint, now: Moment) -> String {
    let build = &detail.build;
    let mut out = head(build, paint, now);
    out.push('\n');
    if detail.stages.is_empty() {
        out.push_str(match build.finished_at {
            None => "No stages yet: the build is being planned.\n",
            Some(_) => "No stages: the build ended before it was planned.\n",
        });
        return out;
    }
    out.push_str(&paint.put(Tone::Strong, "Stages"));
    out.push('\n');
    out.push_str(&stages(detail, paint, now));
    out.push('\n');
    out.push_str(&travelled(detail, paint));
    if !detail.events.is_empty() {
        out.push('\n');
        out.push_str(&happened(detail, paint));
    }
    out
}

/// What no stage tells: when, after the build began.
fn happened(detail: &BuildDetail, paint: Paint) -> String {
    let mut table = Table::new([("AFTER", Side::Right), ("WHAT", Side::Left)]);
    for event in &detail.events {
        let after = detail.build.created_at.zip(event.at);
        table.row([
            plain(
                after
                    .map(|(from, to)| between(from, to))
                    .unwrap_or_default(),
            ),
            plain(&event.text),
        ]);
    }
    format!(
        "{}\n{}",
        paint.put(Tone::Strong, "What happened"),
        table.render(paint, "  ")
    )
}

fn head(build: &Build, paint: Paint, now: Moment) -> String {
    let took = match (build.created_at, build.finished_at) {
        (Some(from), Some(to)) => format!(" in {}", between(from, to)),
        (Some(from), None) => format!(" for {}", between(from, now)),
        (None, _) => String::new(),
    };
    let mut out = format!(
        "{} {}{took}\n",
        paint.put(Tone::Strong, &format!("Build {}", clean(&build.id))),
        paint.put(Tone::of_state(&build.state), &clean(&build.state)),
    );
    let mut field = |name: &str, lines: &[String], tone: Tone| {
        for (at, line) in lines.iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            out.push_str(&format!("  {name:<10} {}\n", paint.put(tone, &clean(line))));
        }
    };
    let text = |text: &str| {
        if text.is_empty() {
            vec![]
        } else {
            vec![text.to_owned()]
        }
    };
    field("reference", &text(&build.client_ref), Tone::Plain);
    field("project", &text(&build.project), Tone::Plain);
    field(
        "created",
        &build.created_at.map(moment).into_iter().collect::<Vec<_>>(),
        Tone::Plain,
    );
    field("platforms", &text(&build.platforms.join(", ")), Tone::Plain);
    field("published", &build.published, Tone::Plain);
    field(
        "digest",
        &text(build.digest.as_deref().unwrap_or_default()),
        Tone::Plain,
    );
    field(
        "error",
        &clean_lines(build.error.as_deref().unwrap_or_default()),
        Tone::Bad,
    );
    out
}

fn stages(detail: &BuildDetail, paint: Paint, now: Moment) -> String {
    let mut table = Table::new([
        ("#", Side::Right),
        ("KIND", Side::Left),
        ("AGENT", Side::Left),
        ("STATE", Side::Left),
        ("WAITED", Side::Right),
        ("RAN", Side::Right),
        ("CACHED", Side::Right),
        ("RUN", Side::Right),
        ("STAGE", Side::Left),
    ]);
    for stage in &detail.stages {
        let last = stage.attempts.last();
        let count = |of: fn(&Attempt) -> u32| {
            plain(
                last.map(|attempt| of(attempt).to_string())
                    .unwrap_or_default(),
            )
        };
        table.row_with(
            [
                plain(stage.number.to_string()),
                plain(&stage.kind),
                cell(last.map_or("", |attempt| &attempt.agent), Tone::Strong),
                cell(&stage.state, Tone::of_state(&stage.state)),
                plain(waited(stage, detail, now)),
                plain(
                    last.and_then(|attempt| ran(attempt, now))
                        .unwrap_or_default(),
                ),
                count(|attempt| attempt.vertices_cached),
                count(|attempt| attempt.vertices_run),
                plain(&stage.name),
            ],
            notes(stage, &detail.build, now),
        );
    }
    table.render(paint, "  ")
}

/// From when the stage could have started (its inputs were there; a stage without any: the build began) until an agent started it.
fn waited(stage: &Stage, detail: &BuildDetail, now: Moment) -> String {
    let started = stage
        .attempts
        .iter()
        .filter_map(|attempt| attempt.started_at)
        .min();
    let over = !matches!(stage.state.as_str(), "waiting" | "ready" | "running");
    let until = match started {
        Some(started) => started,
        None if over => return String::new(),
        None => now,
    };
    let mut ready = detail.build.created_at;
    for input in &stage.inputs {
        let made = detail
            .stages
            .iter()
            .find(|other| other.number == *input)
            .and_then(finished);
        match made {
            Some(made) => ready = ready.max(Some(made)),
            // A stage may start on its producer's agent before that has ended: then it has not waited.
            None if started.is_some() => return between(until, until),
            None => return String::new(),
        }
    }
    ready.map(|ready| between(ready, until)).unwrap_or_default()
}

fn finished(stage: &Stage) -> Option<Moment> {
    let done = stage
        .attempts
        .iter()
        .rfind(|attempt| attempt.state == "succeeded")?;
    done.finished_at
}

fn ran(attempt: &Attempt, now: Moment) -> Option<String> {
    let over = !matches!(attempt.state.as_str(), "offered" | "running");
    let to = attempt
        .finished_at
        .or(if over { None } else { Some(now) })?;
    Some(between(attempt.started_at?, to))
}

/// What doesn't fit a stage's line.
fn notes(stage: &Stage, build: &Build, now: Moment) -> Vec<Cell> {
    let mut notes = Vec::new();
    let mut note = |text: String, tone: Tone| notes.push(cell(text, tone));

    let mut what = match stage.users.len() {
        0 => String::new(),
        users if users > 1 && users == build.platforms.len() => {
            format!("for all {users} platforms; ")
        }
        _ => format!("for {}; ", stage.users.join(", ")),
    };
    match &stage.home {
        Some(home) => what.push_str(&format!("runs on {home}")),
        None => what.push_str("runs anywhere"),
    }
    match stage.inputs.as_slice() {
        [] => {}
        [one] => what.push_str(&format!("; takes stage {one}")),
        several => what.push_str(&format!("; takes stages {}", numbers(several))),
    }
    note(what, Tone::Faint);

    if let Some((last, earlier)) = stage.attempts.split_last() {
        for attempt in earlier {
            let after = ran(attempt, now)
                .map(|ran| format!(" after {ran}"))
                .unwrap_or_default();
            let error = attempt
                .error
                .as_deref()
                .and_then(|error| clean_lines(error).into_iter().next());
            let error = error.map(|error| format!(": {error}")).unwrap_or_default();
            note(
                format!(
                    "before that on {}: {}{after}{error}",
                    attempt.agent, attempt.state
                ),
                Tone::Bad,
            );
        }
        if !last.reason.is_empty() {
            note(format!("why {}: {}", last.agent, last.reason), Tone::Faint);
        }
        // What ended the build is above already.
        let error = last
            .error
            .as_ref()
            .filter(|error| build.error.as_ref() != Some(error));
        for line in clean_lines(error.map_or("", String::as_str)) {
            note(line, Tone::Bad);
        }
    }
    if let Some(waiting_for) = &stage.waiting_for {
        note(format!("waits: {waiting_for}"), Tone::Busy);
    }
    notes
}

fn travelled(detail: &BuildDetail, paint: Paint) -> String {
    if detail.transfers.is_empty() {
        return match detail.build.finished_at {
            Some(_) => "Nothing travelled between agents.\n".to_owned(),
            None => "Nothing has travelled between agents yet.\n".to_owned(),
        };
    }
    let mut table = Table::new([
        ("FROM", Side::Left),
        ("TO", Side::Left),
        ("SIZE", Side::Right),
        ("FETCHED IN", Side::Right),
        ("DIGEST", Side::Left),
    ]);
    for Transfer {
        from_stage,
        to_stages,
        digest,
        bytes: size,
        fetch_ms,
    } in &detail.transfers
    {
        let to = match to_stages.as_slice() {
            [] => String::new(),
            [one] => format!("stage {one}"),
            several => format!("stages {}", numbers(several)),
        };
        table.row([
            plain(format!("stage {from_stage}")),
            plain(to),
            plain(bytes(*size)),
            plain(match fetch_ms.iter().max() {
                None | Some(0) => String::new(),
                Some(most) => duration(*most),
            }),
            plain(digest),
        ]);
    }
    let total = detail
        .transfers
        .iter()
        .fold(0u64, |sum, transfer| sum.saturating_add(transfer.bytes));
    format!(
        "{}: {}\n{}",
        paint.put(Tone::Strong, "Travelled between agents"),
        bytes(total),
        table.render(paint, "  "),
    )
}

fn numbers(numbers: &[u32]) -> String {
    numbers
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
