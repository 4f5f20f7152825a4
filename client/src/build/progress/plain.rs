//! Progress line by line, as buildx writes it: steps have numbers, and the lines of one stay together for a while.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::{Duration, Instant},
};

use super::{
    steps::{Done, News, StepId, Steps, Transfer},
    text::{Keep, bytes, clean},
};

/// A step whose lines wait so long interrupts the one that is being shown.
const PATIENCE: Duration = Duration::from_secs(5);
/// So do lines of this many bytes.
const WAITING_LIMIT: usize = 256 << 10;
/// A transfer is told of again after this, or when so much more of it is there.
const MOVED_AFTER: f64 = 5.0;
const MOVED_BY: f64 = 0.05;

/// Progress as lines.
pub(super) struct Plain<W> {
    out: W,
    numbers: BTreeMap<StepId, usize>,
    current: Option<StepId>,
    waiting: Vec<Waiting>,
    moved: BTreeMap<(StepId, String), Transfer>,
    begun: Begun,
    /// What may stay in logs.
    keep: Keep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    Yes,
}

/// Lines of a step that were not written yet.
struct Waiting {
    step: StepId,
    since: Instant,
    lines: Vec<String>,
    bytes: usize,
    ended: Done,
}

impl<W: Write> Plain<W> {
    pub(super) fn new(out: W, keep: Keep) -> Self {
        Self {
            out,
            numbers: BTreeMap::new(),
            current: None,
            waiting: Vec::new(),
            moved: BTreeMap::new(),
            begun: Begun::No,
            keep,
        }
    }

    /// Takes in what happened, and writes what is due at `now`.
    pub(super) fn take(&mut self, news: Vec<News>, steps: &Steps, now: Instant) -> io::Result<()> {
        for news in news {
            match news {
                News::Began(step) => self.wait(step, now, None, Done::No),
                News::Wrote(step, line) => {
                    let text = clean(&line.bytes, self.keep);
                    let line = format!("{} {text}", moment(line.at));
                    self.wait(step, now, Some(line), Done::No);
                }
                News::Moved(step, transfer) => {
                    if let Some(line) = self.moved(step, transfer) {
                        self.wait(step, now, Some(line), Done::No);
                    }
                }
                News::Warned(step, text) => {
                    let line = format!("WARN: {}", clean(text.as_bytes(), Keep::Words));
                    self.wait(step, now, Some(line), Done::No);
                }
                News::Ended(step) => {
                    let ended = steps.step(step);
                    let line = if ended.is_cancelled() {
                        "CANCELED".to_owned()
                    } else if !ended.error.is_empty() {
                        format!("ERROR: {}", clean(ended.error.as_bytes(), Keep::Words))
                    } else if ended.cached {
                        "CACHED".to_owned()
                    } else {
                        format!("DONE {:.1}s", ended.seconds(0))
                    };
                    self.moved.retain(|(of, _), _| *of != step);
                    self.wait(step, now, Some(line), Done::Yes);
                }
            }
        }
        self.write_due(steps, now)
    }

    /// Writes what is due at `now`.
    pub(super) fn tick(&mut self, steps: &Steps, now: Instant) -> io::Result<()> {
        self.write_due(steps, now)
    }

    /// Says something between the steps.
    pub(super) fn say(mut self, line: &str) -> io::Result<Self> {
        writeln!(self.out, "{line}")?;
        self.out.flush()?;
        Ok(self)
    }

    /// Writes what still waits, and gives back what it wrote to.
    pub(super) fn finish(mut self, steps: &Steps) -> io::Result<W> {
        while let Some(waiting) = self.waiting.first() {
            let step = waiting.step;
            self.write(step, steps)?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn wait(&mut self, step: StepId, now: Instant, line: Option<String>, ended: Done) {
        let known = self.waiting.iter().position(|one| one.step == step);
        let at = known.unwrap_or_else(|| {
            self.waiting.push(Waiting {
                step,
                since: now,
                lines: Vec::new(),
                bytes: 0,
                ended: Done::No,
            });
            self.waiting.len() - 1
        });
        let waiting = &mut self.waiting[at];
        waiting.bytes += line.as_ref().map_or(0, String::len);
        waiting.lines.extend(line);
        waiting.ended = ended;
    }

    fn write_due(&mut self, steps: &Steps, now: Instant) -> io::Result<()> {
        if let Some(current) = self.current
            && self.waiting.iter().any(|one| one.step == current)
        {
            self.write(current, steps)?;
        }
        while let Some(ended) = self.waiting.iter().find(|one| one.ended == Done::Yes) {
            let step = ended.step;
            self.write(step, steps)?;
        }
        while let Some(next) = self.waiting.iter().find(|one| {
            one.bytes > WAITING_LIMIT || now.saturating_duration_since(one.since) > PATIENCE
        }) {
            let step = next.step;
            self.write(step, steps)?;
        }
        if let (None, Some(first)) = (self.current, self.waiting.first()) {
            let step = first.step;
            self.write(step, steps)?;
        }
        self.out.flush()
    }

    /// Writes what waits of a step, which is the current one from then on, unless it ended.
    fn write(&mut self, step: StepId, steps: &Steps) -> io::Result<()> {
        let Some(at) = self.waiting.iter().position(|one| one.step == step) else {
            return Ok(());
        };
        let waiting = self.waiting.remove(at);
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(step).or_insert(next);
        if self.current != Some(step) {
            if let Some(other) = self.current {
                let other = self.numbers.get(&other).copied().unwrap_or_default();
                writeln!(self.out, "#{other} ...")?;
            }
            if self.begun == Begun::Yes {
                writeln!(self.out)?;
            }
            self.begun = Begun::Yes;
            let name = clean(steps.step(step).name.as_bytes(), Keep::Words);
            writeln!(self.out, "#{number} {name}")?;
        }
        for line in waiting.lines {
            writeln!(self.out, "#{number} {line}")?;
        }
        self.current = (waiting.ended == Done::No).then_some(step);
        Ok(())
    }

    /// A transfer's line, unless the last one said much the same.
    fn moved(&mut self, step: StepId, new: Transfer) -> Option<String> {
        let key = (step, new.id.clone());
        let last = self.moved.get(&key);
        let tell = last.is_none_or(|last| {
            let more = (new.current - last.current) as f64 / new.total.max(1) as f64;
            new.done != last.done
                || new.total > 0 && more >= MOVED_BY
                || new.seconds - last.seconds >= MOVED_AFTER
        });
        if !tell {
            return None;
        }
        let line = transfer(&new);
        self.moved.insert(key, new);
        Some(line)
    }
}

/// A transfer in words.
pub(super) fn transfer(transfer: &Transfer) -> String {
    let mut line = clean(transfer.id.as_bytes(), Keep::Words);
    if transfer.total > 0 {
        line += &format!(" {} / {}", bytes(transfer.current), bytes(transfer.total));
    } else if transfer.current > 0 {
        line += &format!(" {}", bytes(transfer.current));
    }
    if transfer.seconds > 0.01 {
        line += &format!(" {:.1}s", transfer.seconds);
    }
    if transfer.done == Done::Yes {
        line += " done";
    }
    line
}

/// Seconds in five characters.
pub(super) fn moment(seconds: f64) -> String {
    match seconds {
        s if s < 9.9995 => format!("{s:.3}"),
        s if s < 99.995 => format!("{s:.2}"),
        s if s < 999.95 => format!("{s:.1}"),
        s => format!("{s:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::steps::tests::{log, status, vertex},
        *,
    };

    #[test]
    fn steps_are_written_as_buildx_writes_them() {
        let mut steps = Steps::default();
        let mut plain = Plain::new(Vec::new(), Keep::Words);
        let now = Instant::now();
        let mut take = |status| {
            let news = steps.take(&status);
            plain.take(news, &steps, now).unwrap();
        };
        take(status(
            vec![vertex("[a] RUN x", Some(0), None), vertex("b", None, None)],
            vec![log("[a] RUN x", 1, b"hello\x1b[2J\n")],
        ));
        // The second waits until the first, which is being shown, ends.
        take(status(
            vec![vertex("b", Some(2), None)],
            vec![log("b", 3, b"other\n"), log("[a] RUN x", 4, b"again\n")],
        ));
        take(status(vec![vertex("[a] RUN x", Some(0), Some(15))], vec![]));
        let mut cached = vertex("c", Some(5), Some(5));
        cached.cached = true;
        take(status(vec![cached], vec![]));
        let mut failed = vertex("b", Some(2), Some(20));
        failed.error = "exit code: 1".into();
        take(status(vec![failed], vec![]));
        let written = String::from_utf8(plain.finish(&steps).unwrap()).unwrap();
        assert_eq!(
            written,
            "#1 [a] RUN x\n#1 0.100 hello\n#1 0.400 again\n#1 DONE 1.5s\n\n\
             #2 b\n#2 0.100 other\n#2 ...\n\n#3 c\n#3 CACHED\n\n#2 b\n#2 ERROR: exit code: 1\n"
        );
    }

    #[test]
    fn a_step_that_waits_long_is_shown_beside_one_that_goes_on() {
        let mut steps = Steps::default();
        let mut plain = Plain::new(Vec::new(), Keep::Words);
        let now = Instant::now();
        let news = steps.take(&status(
            vec![vertex("a", Some(0), None), vertex("b", Some(0), None)],
            vec![log("a", 1, b"one\n"), log("b", 1, b"two\n")],
        ));
        plain.take(news, &steps, now).unwrap();
        plain.tick(&steps, now + PATIENCE / 2).unwrap();
        assert_eq!(String::from_utf8_lossy(&plain.out), "#1 a\n#1 0.100 one\n");
        plain.tick(&steps, now + PATIENCE * 2).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&plain.out),
            "#1 a\n#1 0.100 one\n#1 ...\n\n#2 b\n#2 0.100 two\n"
        );
    }

    #[test]
    fn moments_have_five_characters() {
        for (seconds, expect) in [
            (0.0, "0.000"),
            (0.1234, "0.123"),
            (12.345, "12.35"),
            (99.999, "100.0"),
            (1234.5, "1234"),
        ] {
            assert_eq!(moment(seconds), expect);
        }
    }
}
