//! Names for people, made from what the Dockerfile frontend calls its steps: `[linux/amd64 builder 2/4] RUN make`.

use std::collections::HashMap;

/// How many groups of steps a name lists.
const GROUPS: usize = 3;
/// How long the part of one step may be, in characters.
const STEP_LENGTH: usize = 80;

/// One name for steps in their order: `builder 2/4 … 4/4` for several of one Dockerfile stage, the step's own name for one.
pub(crate) fn of_steps<'a>(steps: impl IntoIterator<Item = &'a str>) -> String {
    let mut steps = steps.into_iter().peekable();
    let Some(first) = steps.next() else {
        return "empty image".to_owned();
    };
    if steps.peek().is_none() {
        return shortened(first);
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut places: HashMap<(&str, u32), usize> = HashMap::new();
    for step in [first].into_iter().chain(steps) {
        let new = Group::of(step);
        let known = new
            .total
            .map(|total| *places.entry((new.title, total)).or_insert(groups.len()));
        match known.and_then(|place| groups.get_mut(place)) {
            Some(group) => group.add(new),
            None => groups.push(new),
        }
    }
    let more = groups.len().saturating_sub(GROUPS);
    let mut name = groups
        .iter()
        .take(GROUPS)
        .map(Group::text)
        .collect::<Vec<_>>()
        .join(", ");
    if more > 0 {
        name.push_str(&format!(" and {more} more"));
    }
    name
}

/// Steps of one Dockerfile stage, or one step of something else.
struct Group<'a> {
    title: &'a str,
    first: u32,
    last: u32,
    total: Option<u32>,
}

impl<'a> Group<'a> {
    fn of(step: &'a str) -> Self {
        Self::numbered(step).unwrap_or(Self {
            title: step,
            first: 0,
            last: 0,
            total: None,
        })
    }

    /// Takes `[title 2/4] RUN …` apart.
    fn numbered(step: &'a str) -> Option<Self> {
        let (bracket, _) = step.strip_prefix('[')?.split_once(']')?;
        let (title, number) = bracket.rsplit_once(' ')?;
        let (number, total) = number.split_once('/')?;
        let number = number.parse().ok()?;
        Some(Self {
            title: title.trim_end(),
            first: number,
            last: number,
            total: Some(total.parse().ok()?),
        })
    }

    fn add(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    fn text(&self) -> String {
        match self.total {
            Some(total) if self.first == self.last => {
                format!("{} {}/{total}", self.title, self.first)
            }
            Some(total) => format!(
                "{} {}/{total} … {}/{total}",
                self.title, self.first, self.last
            ),
            None => shortened(self.title),
        }
    }
}

fn shortened(step: &str) -> String {
    let line = step.lines().next().unwrap_or_default();
    match line.char_indices().nth(STEP_LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_one_dockerfile_stage_become_a_range() {
        for (steps, name) in [
            (
                vec![
                    "[builder 2/4] RUN a",
                    "[builder 3/4] COPY . .",
                    "[builder 4/4] RUN b",
                ],
                "builder 2/4 … 4/4",
            ),
            (
                vec!["[linux/arm64 stage-1 3/3] COPY --from=builder /a /b"],
                "[linux/arm64 stage-1 3/3] COPY --from=builder /a /b",
            ),
            (vec!["[a 1/2] RUN a", "[b 2/2] RUN b"], "a 1/2, b 2/2"),
            (
                vec!["[a 1/2] RUN a", "/bin/sh -c make"],
                "a 1/2, /bin/sh -c make",
            ),
            (
                vec!["[stage-1  9/10] RUN a", "[stage-1 10/10] RUN b"],
                "stage-1 9/10 … 10/10",
            ),
            (vec!["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
            (vec![], "empty image"),
            (vec!["[] x", "[/] y", "[ö 1/x] z"], "[] x, [/] y, [ö 1/x] z"),
        ] {
            assert_eq!(of_steps(steps), name);
        }
    }

    #[test]
    fn long_and_many_lined_names_fit_a_line() {
        assert_eq!(
            of_steps([&*"ä".repeat(500)]).chars().count(),
            STEP_LENGTH + 1
        );
        assert_eq!(of_steps(["RUN <<EOF\nmake\nEOF"]), "RUN <<EOF");
    }
}
