//! Steps that run once for each platform, on machines of these, though their tool works on any machine for any platform.

use std::collections::{BTreeMap, BTreeSet};

use super::shell::{self, Makes, Tool};
use super::steps::{Command, Place, Steps};
use super::{Advice, AdviceKind, Lines, at, times};
use crate::{OpId, StageId, narrow::Need};

/// What becomes of a step's root.
enum Fate {
    /// It is in the image.
    Image,
    /// These of its paths are taken, and nothing else.
    Paths(BTreeSet<String>),
    /// Something goes on with all of it.
    Whole,
}

/// The steps of one Dockerfile stage that need not run where they do.
struct Builder {
    tools: BTreeMap<Place, Tool>,
    platforms: usize,
    stages: BTreeSet<StageId>,
}

pub(super) fn advice(steps: &Steps<'_>) -> Vec<Advice> {
    let mut same: BTreeMap<(Place, &[String]), Vec<OpId>> = BTreeMap::new();
    for (id, command) in steps.commands() {
        if let Some(place) = steps.place(id) {
            let key = (place, command.args.as_slice());
            same.entry(key).or_default().push(id);
        }
    }
    let mut advice = Vec::new();
    let mut builders: BTreeMap<Place, Builder> = BTreeMap::new();
    for ((place, _), ids) in same {
        let platforms: BTreeSet<_> = ids.iter().map(|id| &steps.op(*id).platform).collect();
        let command = ids
            .first()
            .and_then(|id| steps.commands[id.index()].as_ref());
        let Some(command) = command.filter(|_| platforms.len() > 1) else {
            continue;
        };
        let Some(tool) = shell::tool(command) else {
            continue;
        };
        let stages = ids.iter().filter_map(|id| steps.stage(*id));
        match fate(steps, ids[0]) {
            Fate::Image => advice.push(in_image(
                steps,
                place,
                tool,
                platforms.len(),
                stages.collect(),
            )),
            Fate::Paths(paths) if !may_take_modules(tool, command, &paths) => {
                let Some(from) = from_line(steps, ids[0]) else {
                    continue;
                };
                let builder = builders.entry(from).or_insert_with(|| Builder {
                    tools: BTreeMap::new(),
                    platforms: platforms.len(),
                    stages: BTreeSet::new(),
                });
                builder.tools.insert(place, tool);
                builder.stages.extend(stages);
            }
            Fate::Paths(_) | Fate::Whole => {}
        }
    }
    advice.extend(
        builders
            .into_iter()
            .map(|(from, builder)| in_builder(steps, from, builder)),
    );
    advice
}

fn in_image(
    steps: &Steps<'_>,
    place: Place,
    tool: Tool,
    platforms: usize,
    stages: BTreeSet<StageId>,
) -> Advice {
    Advice {
        kind: AdviceKind::RunOnTarget,
        file: steps.file_name(place),
        lines: place.lines,
        steps: vec![steps.advised(place)],
        stages,
        costs: format!(
            "the step in {} runs {}, on an agent of each platform, {}",
            at([place.lines]),
            times(platforms),
            though(tool),
        ),
        remedy: "run it in a stage FROM --platform=$BUILDPLATFORM, and COPY --from what it makes"
            .to_owned()
            + told(tool),
    }
}

fn in_builder(steps: &Steps<'_>, from: Place, builder: Builder) -> Advice {
    let Builder {
        tools,
        platforms,
        stages,
    } = builder;
    let tool = tools
        .values()
        .copied()
        .find(|tool| tool.result == Makes::AnyTarget);
    let tool = tool.or_else(|| tools.values().copied().next());
    let (though, told) = tool.map_or((String::new(), ""), |tool| (though(tool), told(tool)));
    Advice {
        kind: AdviceKind::BuilderOnTarget,
        file: steps.file_name(from),
        lines: from.lines,
        costs: format!(
            "all of this Dockerfile stage runs {}, on an agent of each platform, {though}, and only files of it are copied",
            times(platforms),
        ),
        remedy: format!("say FROM --platform=$BUILDPLATFORM{told}"),
        steps: tools.keys().map(|place| steps.advised(*place)).collect(),
        stages,
    }
}

fn though(tool: Tool) -> String {
    match tool.result {
        Makes::AnyTarget => format!("though {} can build for all of them on one", tool.name),
        Makes::TheSame | Makes::TheSameBesideModules => {
            format!("though {} makes the same on all of them", tool.name)
        }
    }
}

/// What else the tool has to be told.
fn told(tool: Tool) -> &'static str {
    match (tool.name, tool.result) {
        ("go", _) => {
            "; declare ARG TARGETOS TARGETARCH just above it and set GOOS=$TARGETOS GOARCH=$TARGETARCH"
        }
        (_, Makes::AnyTarget) => "; declare ARG TARGETARCH just above it and tell it that",
        _ => "",
    }
}

/// Follows what goes on from an op, to all who take something of it.
fn fate(steps: &Steps<'_>, id: OpId) -> Fate {
    let mut paths = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![id];
    while let Some(id) = next.pop() {
        if !seen.insert(id) {
            continue;
        }
        let mut targets = steps.plan.targets.iter();
        if targets.any(|target| target.root.is_some_and(|(root, _)| root == id)) {
            return Fate::Image;
        }
        for (_, need) in &steps.readers[id.index()] {
            match need {
                Need::Whole => return Fate::Whole,
                Need::Reads(reads) => paths.extend(reads.iter().map(|read| read.path.clone())),
            }
        }
        next.extend(&steps.next[id.index()]);
    }
    if paths.contains("/") || paths.is_empty() {
        return Fate::Whole;
    }
    Fate::Paths(paths)
}

/// Whether packages that were built for one platform may be among what is taken.
fn may_take_modules(tool: Tool, command: &Command, paths: &BTreeSet<String>) -> bool {
    let modules = format!("{}/node_modules/", command.folder.trim_end_matches('/'));
    let takes = |path: &String| {
        path.contains("node_modules")
            || modules.starts_with(&format!("{}/", path.trim_end_matches('/')))
    };
    tool.result == Makes::TheSameBesideModules && paths.iter().any(takes)
}

/// The `FROM` of a step's Dockerfile stage.
fn from_line(steps: &Steps<'_>, id: OpId) -> Option<Place> {
    let place = steps.place(id)?;
    let line = steps.stage_start(place.file, place.lines.first)?;
    let lines = Lines {
        first: line,
        last: line,
    };
    Some(Place { lines, ..place })
}
