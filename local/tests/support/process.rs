//! Commands that can't hang: each has a deadline, and what it printed is kept and can be waited for.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// No command of these tests takes longer on two cores, whatever runs beside it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A command that runs; killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    shown: String,
    child: Child,
    lines: Receiver<Line>,
    deadline: Instant,
    stdout: String,
    stderr: String,
}

/// A command that ended.
#[derive(Debug)]
pub struct Finished {
    /// The command, for messages.
    pub shown: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

#[derive(Debug)]
enum Line {
    Out(String),
    Error(String),
}

/// Runs a command to its end.
pub fn run(command: Command) -> Finished {
    start(command).finish()
}

/// Starts a command.
pub fn start(command: Command) -> Running {
    start_reading(command, Stdio::null())
}

/// Starts a command with this as its standard input.
pub fn start_reading(command: Command, input: impl Into<Stdio>) -> Running {
    begin(command, input.into(), Stdio::piped())
}

/// Starts a command with this as its standard output.
pub fn start_writing(command: Command, output: impl Into<Stdio>) -> Running {
    begin(command, Stdio::null(), output.into())
}

fn begin(mut command: Command, input: Stdio, output: Stdio) -> Running {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let shown = words.join(" ");
    command.stdin(input).stdout(output).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    // With it go our ends of what it reads from and writes to.
    drop(command);
    let (tell, lines) = channel();
    if let Some(out) = child.stdout.take() {
        read(out, tell.clone(), Line::Out);
    }
    let error = child.stderr.take().expect("piped");
    read(error, tell, Line::Error);
    Running {
        shown,
        child,
        lines,
        deadline: Instant::now() + PATIENCE,
        stdout: String::new(),
        stderr: String::new(),
    }
}

fn read(from: impl Read + Send + 'static, to: Sender<Line>, line: fn(String) -> Line) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while from
            .read_until(b'\n', &mut bytes)
            .is_ok_and(|length| length > 0)
        {
            // Nobody listens any more when the test has failed.
            let _ = to.send(line(String::from_utf8_lossy(&bytes).into_owned()));
            bytes.clear();
        }
    });
}

impl Running {
    /// Waits until a line of standard error satisfies `wanted`, and gives it.
    pub fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_in(|running| &running.stderr, wanted)
    }

    /// The same of standard output.
    pub fn wait_for_output(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_in(|running| &running.stdout, wanted)
    }

    fn wait_in(&mut self, text: fn(&Self) -> &String, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = 0;
        loop {
            let length = text(self).len();
            if let Some(line) = text(self)[seen..].lines().find(|line| wanted(line)) {
                return line.to_owned();
            }
            seen = length;
            assert!(
                self.next_line(),
                "{} ended without the line that was waited for:\n{}{}",
                self.shown,
                self.stdout,
                self.stderr
            );
        }
    }

    /// Gives it this long from now, instead of [`PATIENCE`] from its start.
    pub fn patience(mut self, patience: Duration) -> Running {
        self.deadline = Instant::now() + patience;
        self
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        let id = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill(id, Signal::SIGINT).expect("the command runs");
    }

    /// Kills it without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.child.kill().expect("the command runs");
    }

    /// What it has printed to standard error so far, as far as it was waited for.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        while self.next_line() {}
        // Both of its outputs are closed: it is on its way out.
        let status = self.child.wait().expect("our child");
        Finished {
            shown: self.shown.clone(),
            status,
            stdout: std::mem::take(&mut self.stdout),
            stderr: std::mem::take(&mut self.stderr),
        }
    }

    /// Takes what it prints next; false at the end of both outputs.
    fn next_line(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(Line::Out(line)) => self.stdout.push_str(&line),
            Ok(Line::Error(line)) => self.stderr.push_str(&line),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!(
                "{} took too long:\n{}{}",
                self.shown, self.stdout, self.stderr
            ),
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// It must have succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Finished {
        assert!(self.status.success(), "{}", self.report());
        self
    }

    /// It must have failed.
    #[track_caller]
    pub fn failed(self) -> Finished {
        assert!(!self.status.success(), "{}", self.report());
        self
    }

    /// All of it, for messages.
    pub fn report(&self) -> String {
        format!(
            "{}: {}\n{}{}",
            self.shown, self.status, self.stdout, self.stderr
        )
    }
}

/// Looks again and again until `look` gives something; what is looked for has no event that one could wait for.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "after {PATIENCE:?} it is still not so that {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
