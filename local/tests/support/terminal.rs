//! A command on a terminal of its own: a pty that is its controlling terminal, so that Ctrl-C reaches it as from a keyboard, and an
//! emulator that keeps what a person would see.
//!
//! The pty is portable-pty's, as it gives the child a session with a controlling terminal and the size that one wants without unsafe code
//! here, and leaves what is read to us; expectrl and rexpect would bring their own idea of waiting. What codes do to a screen is vt100's.

use std::{
    ffi::OsStr,
    io::{Read as _, Write},
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use super::process::PATIENCE;

/// The size of the terminal at the start, in characters.
pub const ROWS: u16 = 40;
/// See [`ROWS`].
pub const COLUMNS: u16 = 120;
/// Lines above the screen that can be looked at.
const SCROLLBACK: usize = 10_000;

/// A command on a terminal; killed when this is dropped.
pub struct Terminal {
    shown: String,
    child: Box<dyn Child + Send + Sync>,
    pty: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    output: Receiver<Vec<u8>>,
    deadline: Instant,
    raw: Vec<u8>,
    screen: vt100::Parser,
}

/// A command that ended on its terminal.
#[derive(Debug)]
pub struct Seen {
    /// The command, for messages.
    pub shown: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<u32>,
    /// What it wrote, codes and all.
    pub raw: String,
    /// What stands on the screen at the end, and above it, without blank lines at the end.
    pub text: String,
}

impl Terminal {
    pub(super) fn start(
        program: &Path,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
        environment: &[(String, String)],
        folder: &Path,
    ) -> Terminal {
        let pair = native_pty_system()
            .openpty(size(ROWS, COLUMNS))
            .expect("a pty");
        let mut command = CommandBuilder::new(program);
        command.args(arguments);
        command.env_clear();
        for (name, value) in environment {
            command.env(name, value);
        }
        command.cwd(folder);
        let words = command.get_argv().iter().map(|word| word.to_string_lossy());
        let shown = words.collect::<Vec<_>>().join(" ");
        let child = pair
            .slave
            .spawn_command(command)
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        // Else there would be no end of what is read.
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().expect("a pty");
        let (tell, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end is an error (EIO) on Linux.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if tell.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal {
            shown,
            child,
            keyboard: pair.master.take_writer().expect("a pty"),
            pty: pair.master,
            output,
            deadline: Instant::now() + PATIENCE,
            raw: Vec::new(),
            screen: vt100::Parser::new(ROWS, COLUMNS, SCROLLBACK),
        }
    }

    /// Gives it this long from now, instead of [`PATIENCE`] from its start.
    pub fn patience(mut self, patience: Duration) -> Terminal {
        self.deadline = Instant::now() + patience;
        self
    }

    /// Types this.
    pub fn type_in(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .and_then(|()| self.keyboard.flush())
            .expect("a terminal");
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&mut self) {
        self.type_in("\u{3}");
    }

    /// Makes the window so large, and tells the command so.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.pty.resize(size(rows, columns)).expect("a pty");
        self.screen.screen_mut().set_size(rows, columns);
    }

    /// What the screen shows now, as far as it was waited for.
    pub fn screen(&self) -> String {
        self.screen.screen().contents()
    }

    /// All that it has written, codes and all, as far as it was waited for.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// Waits until the screen satisfies `wanted`, and gives it.
    #[track_caller]
    pub fn wait_for(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(
                self.next(),
                "{} ended without what was waited for:\n{}",
                self.shown,
                self.screen()
            );
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Seen {
        while self.next() {}
        // Its terminal is closed: it is on its way out.
        let status = self.child.wait().expect("our child");
        Seen {
            shown: self.shown.clone(),
            code: status.signal().is_none().then(|| status.exit_code()),
            raw: self.raw(),
            text: self.everything(),
        }
    }

    /// The lines that have left the screen, and those on it.
    fn everything(&mut self) -> String {
        let rows = usize::from(self.screen.screen().size().0);
        let screen = self.screen.screen_mut();
        screen.set_scrollback(usize::MAX);
        let mut lines: Vec<String> = Vec::new();
        let mut above = screen.scrollback();
        while above > 0 {
            screen.set_scrollback(above);
            let columns = screen.size().1;
            lines.extend(screen.rows(0, columns).take(above.min(rows)));
            above = above.saturating_sub(rows);
        }
        screen.set_scrollback(0);
        let columns = screen.size().1;
        lines.extend(screen.rows(0, columns));
        let text = lines.join("\n");
        text.trim_end().to_owned()
    }

    /// Takes what it writes next; false at the end.
    #[track_caller]
    fn next(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.output.recv_timeout(left) {
            Ok(bytes) => {
                self.screen.process(&bytes);
                self.raw.extend(bytes);
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} took too long:\n{}", self.shown, self.screen())
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Seen {
    /// It must have succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Seen {
        assert_eq!(self.code, Some(0), "{}\n{}", self.shown, self.text);
        self
    }
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize {
        rows,
        cols,
        pixel_width: 0,
        pixel_height: 0,
    }
}
