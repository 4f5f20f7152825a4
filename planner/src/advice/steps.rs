//! A plan's ops as the steps of a Dockerfile: what they run, where they are written, and what is written there.

use std::collections::BTreeSet;

use bollard_buildkit_proto::pb;

use super::{AdvisedStep, Lines};
use crate::{
    OpId, OpKind, Plan, StageId,
    narrow::{self, Need},
    op::{Op, decode},
};

/// Of a file longer than that the rest is not looked at.
const MAX_LINES: usize = 20_000;
/// A step that is longer ends there.
const MAX_STEP_LINES: usize = 300;
/// So many characters of a step's text are searched.
const MAX_TEXT: usize = 16 << 10;

/// The steps of a plan.
pub(super) struct Steps<'a> {
    pub plan: &'a Plan,
    /// What each op runs; `None` for those without a command.
    pub commands: Vec<Option<Command>>,
    /// The ops that go on from each op's root.
    pub next: Vec<Vec<OpId>>,
    /// The ops that take something of each op's results without going on from it, with what.
    pub readers: Vec<Vec<(OpId, Need)>>,
    /// The lines of each source file.
    files: Vec<Vec<String>>,
    /// Of each of these, whether it belongs to a step: what is in a here-document is no instruction.
    taken: Vec<Vec<bool>>,
    /// The stages that have each op.
    stages: Vec<Vec<StageId>>,
}

/// What an exec op runs.
pub(super) struct Command {
    pub exec: pb::ExecOp,
    pub args: Vec<String>,
    /// As it is set, the last value of a name.
    pub env: Vec<(String, String)>,
    pub folder: String,
}

impl Command {
    /// What its environment has under a name.
    pub fn value(&self, name: &str) -> Option<&str> {
        let of_name = self.env.iter().rfind(|(key, _)| key == name);
        of_name.map(|(_, value)| value.as_str())
    }
}

/// Where a step is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Which of the source files.
    pub file: usize,
    pub lines: Lines,
}

impl<'a> Steps<'a> {
    pub fn of(plan: &'a Plan) -> Self {
        let ops = &plan.graph.ops;
        let mut steps = Self {
            plan,
            commands: ops.iter().map(command).collect(),
            next: vec![Vec::new(); ops.len()],
            readers: vec![Vec::new(); ops.len()],
            files: plan.graph.infos.iter().map(lines_of).collect(),
            taken: Vec::new(),
            stages: vec![Vec::new(); ops.len()],
        };
        steps.taken = steps
            .files
            .iter()
            .map(|file| vec![false; file.len()])
            .collect();
        for stage in &plan.stages {
            for op in &stage.ops {
                steps.stages[op.index()].push(stage.id);
            }
        }
        let steps_of_stages = ops.iter().filter(|op| op.kind != OpKind::Source);
        for place in steps_of_stages
            .flat_map(|op| &op.locations)
            .filter_map(place_of)
        {
            let taken = steps.taken.get_mut(place.file).into_iter().flatten();
            let first = place.lines.first as usize - 1;
            let count = (place.lines.last - place.lines.first) as usize + 1;
            let lines = taken.skip(first).take(count.min(MAX_STEP_LINES));
            lines.for_each(|taken| *taken = true);
        }
        for (number, op) in ops.iter().enumerate() {
            let id = OpId(number as u32);
            for (place, (&(input, _), need)) in
                op.inputs.iter().zip(narrow::of_inputs(op)).enumerate()
            {
                if op.facts.primary == Some(place) {
                    steps.next[input.index()].push(id);
                } else {
                    steps.readers[input.index()].push((id, need));
                }
            }
        }
        steps
    }

    pub fn op(&self, id: OpId) -> &'a Op {
        &self.plan.graph.ops[id.index()]
    }

    /// All commands, in the plan's order.
    pub fn commands(&self) -> impl Iterator<Item = (OpId, &Command)> {
        let all = self.commands.iter().enumerate();
        all.filter_map(|(number, command)| Some((OpId(number as u32), command.as_ref()?)))
    }

    /// The op whose root this one goes on from.
    pub fn parent(&self, id: OpId) -> Option<OpId> {
        let op = self.op(id);
        let (parent, _) = op.inputs.get(op.facts.primary?)?;
        Some(*parent)
    }

    /// Where an op is written first.
    pub fn place(&self, id: OpId) -> Option<Place> {
        self.op(id).locations.iter().find_map(place_of)
    }

    /// Where an op is written last before a line of a file: a base image may stand behind several `FROM`s.
    pub fn place_before(&self, id: OpId, file: usize, line: u32) -> Option<Place> {
        let places = self.op(id).locations.iter().filter_map(place_of);
        places
            .filter(|place| place.file == file && place.lines.last < line)
            .max()
    }

    pub fn file_name(&self, place: Place) -> String {
        let info = self.plan.graph.infos.get(place.file);
        match info.map(|info| info.filename.as_str()) {
            None | Some("") => "Dockerfile".to_owned(),
            Some(name) => name.to_owned(),
        }
    }

    /// The line behind the last one of a file.
    pub fn end(&self, file: usize) -> u32 {
        // At most MAX_LINES.
        self.files
            .get(file)
            .map_or(1, |lines| lines.len() as u32 + 1)
    }

    /// A line of a file, the first one being 1; empty if there is none.
    pub fn line(&self, file: usize, line: u32) -> &str {
        let at = usize::try_from(line).ok().and_then(|at| at.checked_sub(1));
        let line = at.and_then(|at| self.files.get(file)?.get(at));
        line.map_or("", String::as_str)
    }

    /// Whether a line is an instruction of this name, and no part of a step.
    pub fn begins_with(&self, file: usize, line: u32, instruction: &str) -> bool {
        let first = self.line(file, line).split_whitespace().next();
        first.is_some_and(|first| first.eq_ignore_ascii_case(instruction))
            && !self.is_taken(file, line)
    }

    fn is_taken(&self, file: usize, line: u32) -> bool {
        let taken = self
            .taken
            .get(file)
            .and_then(|file| file.get(line as usize - 1));
        taken.is_some_and(|taken| *taken)
    }

    /// The `FROM` of the Dockerfile stage that a line is in.
    pub fn stage_start(&self, file: usize, line: u32) -> Option<u32> {
        let line = line.min(self.end(file));
        (1..line)
            .rev()
            .find(|line| self.begins_with(file, *line, "FROM"))
    }

    /// The line behind the Dockerfile stage that this `FROM` goes on from; `None` if that is an image.
    pub fn end_of_stage_below(&self, file: usize, from: u32) -> Option<u32> {
        let words = self.line(file, from).split_whitespace().skip(1);
        let below = words.into_iter().find(|word| !word.starts_with("--"))?;
        let is_named = |line: &u32| {
            let words: Vec<&str> = self.line(file, *line).split_whitespace().collect();
            let is_as = |pair: &[&str]| {
                pair[0].eq_ignore_ascii_case("as") && pair[1].eq_ignore_ascii_case(below)
            };
            self.begins_with(file, *line, "FROM") && words.windows(2).any(is_as)
        };
        let named = (1..from).rev().find(is_named)?;
        (named + 1..=from).find(|line| self.begins_with(file, *line, "FROM"))
    }

    /// What is written at a place.
    pub fn text(&self, place: Place) -> String {
        let mut text = String::new();
        let end = self.end(place.file).min(place.lines.last.saturating_add(1));
        for line in (place.lines.first..end).take(MAX_STEP_LINES) {
            if text.len() > MAX_TEXT {
                break;
            }
            text.push_str(self.line(place.file, line));
            text.push('\n');
        }
        text
    }

    /// Whether a step names a variable: in its command, or in the lines that it comes from.
    pub fn names(&self, id: OpId, variable: &str) -> bool {
        let command = self.commands[id.index()].as_ref();
        let mut args = command.into_iter().flat_map(|command| &command.args);
        args.any(|arg| names(arg, variable))
            || self
                .place(id)
                .is_some_and(|place| names(&self.text(place), variable))
    }

    /// The stage that runs a command.
    pub fn stage(&self, id: OpId) -> Option<StageId> {
        self.plan.owners.get(id.index()).copied().flatten()
    }

    /// The stages that have an op.
    pub fn stages_with(&self, id: OpId) -> impl Iterator<Item = StageId> {
        self.stages[id.index()].iter().copied()
    }

    pub fn advised(&self, place: Place) -> AdvisedStep {
        AdvisedStep {
            lines: place.lines,
            text: shortened(self.line(place.file, place.lines.first).trim()),
        }
    }

    /// Whether some command made what an op's result is.
    pub fn is_made(&self, id: OpId) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![id];
        while let Some(id) = next.pop() {
            if !self.op(id).kind.is_movable() {
                return true;
            }
            if seen.insert(id) {
                next.extend(self.op(id).inputs.iter().map(|(input, _)| *input));
            }
        }
        false
    }
}

/// For a line on a screen.
fn shortened(line: &str) -> String {
    const LENGTH: usize = 120;
    match line.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn lines_of(info: &pb::SourceInfo) -> Vec<String> {
    let text = String::from_utf8_lossy(&info.data);
    text.lines().take(MAX_LINES).map(str::to_owned).collect()
}

fn command(op: &Op) -> Option<Command> {
    if op.kind != OpKind::Exec {
        return None;
    }
    let Some(pb::op::Op::Exec(exec)) = decode(&op.bytes).ok()?.op else {
        return None;
    };
    let meta = exec.meta.clone().unwrap_or_default();
    let pair = |entry: &String| match entry.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (entry.clone(), String::new()),
    };
    Some(Command {
        args: meta.args,
        env: meta.env.iter().map(pair).collect(),
        folder: meta.cwd,
        exec,
    })
}

fn place_of(location: &pb::Location) -> Option<Place> {
    let line = |position: &Option<pb::Position>| {
        let line = position.as_ref()?.line;
        u32::try_from(line).ok().filter(|line| *line > 0)
    };
    let first = location
        .ranges
        .iter()
        .filter_map(|r| line(&r.start))
        .min()?;
    let last = location.ranges.iter().filter_map(|r| line(&r.end)).max()?;
    Some(Place {
        file: usize::try_from(location.source_index).ok()?,
        lines: Lines {
            first,
            last: last.max(first),
        },
    })
}

/// Whether a text has `$NAME` or `${NAME…}`.
fn names(text: &str, variable: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('$').any(|(at, _)| {
        let rest = &text[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let rest = rest.strip_prefix(['#', '!']).unwrap_or(rest);
        rest.strip_prefix(variable)
            .is_some_and(|after| !after.starts_with(is_letter))
    })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_variable_is_named_by_its_whole_name() {
        for text in ["a $X", "$X/b", "${X}", "${X:-y}", "\"$X\"", "$A$X"] {
            assert!(names(text, "X"), "{text}");
        }
        for text in ["X", "$XY", "${XY}", "$x", "$", "${", "a X=1"] {
            assert!(!names(text, "X"), "{text}");
        }
    }
}
