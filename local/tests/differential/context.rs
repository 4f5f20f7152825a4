//! The folders that random Dockerfiles copy from: files of all kinds, modes and ages, and what a `.dockerignore` leaves out.

use crate::{
    dice::Dice,
    known::{Kind, Known},
    material::{Entry, What, tarball},
};

/// 2001-09-09; each entry is a minute younger than the one before.
const OLDEST: u64 = 1_000_000_000;
/// Between the oldest files of two seeds. An engine that has seen a file of the same name, size and time doesn't ask for it again; and
/// it takes copies of the same content from its cache, whatever their times, so that also no content comes twice.
const APART: u64 = 10_000;

/// The context, and what can be copied from it.
pub fn context(dice: &mut Dice, seed: u64) -> (Vec<Entry>, Known) {
    let mut files = Files::of(seed);
    for path in [
        "a.txt",
        "b.txt",
        "src/main.c",
        "src/util.c",
        "src/util.h",
        "src/deep/er/x",
        "src/deep/y",
    ] {
        let mode = *dice.pick(&[0o644, 0o644, 0o600, 0o755, 0o4755, 0o2711]);
        files.file(path, mode, &format!("{path} {}", dice.between(0, 999)));
    }
    for architecture in ["amd64", "arm64", "ppc64le", "s390x", "386", "arm"] {
        files.file(
            &format!("conf/{architecture}.conf"),
            0o644,
            &format!("for {architecture}"),
        );
    }
    let optional: [fn(&mut Files); 9] = [
        |files| files.file(".hidden", 0o644, "hidden"),
        |files| {
            files.entry("empty.txt", What::File(Vec::new()), 0o640);
            files.known.add("/empty.txt", Kind::File);
        },
        |files| files.unknown("with space.txt", "spaces"),
        |files| files.unknown("src/ümläut [1].txt", "letters"),
        |files| files.link("src/link.c", "main.c", Kind::Link("/src/main.c".to_owned())),
        |files| files.link("src/way", "deep", Kind::Link("/src/deep".to_owned())),
        |files| files.link("out", "/etc/passwd", Kind::Other),
        |files| files.link("src/nowhere", "../nothing/there", Kind::Other),
        |files| {
            files.entry("src/same.c", What::Name("src/main.c".to_owned()), 0o644);
            files.known.add("/src/same.c", Kind::File);
        },
    ];
    for add in optional {
        if dice.chance(50) {
            add(&mut files);
        }
    }
    for entry in &mut files.entries {
        if entry.path == "empty.txt" {
            entry.modified = OLDEST;
        }
    }
    // Another name has the mode and the time of the file.
    let main = files
        .entries
        .iter()
        .find(|entry| entry.path == "src/main.c")
        .cloned();
    if let (Some(main), Some(same)) = (
        main,
        files
            .entries
            .iter_mut()
            .find(|entry| entry.path == "src/same.c"),
    ) {
        (same.mode, same.modified) = (main.mode, main.modified);
    }
    for (path, mode) in [
        ("src", 0o755),
        ("src/deep", 0o2775),
        ("conf", 0o711),
        ("void", 0o1777),
    ] {
        files.entry(path, What::Folder, mode);
        files.known.add(&format!("/{path}"), Kind::Folder);
    }
    // In no `known`, as a `.dockerignore` may leave them out.
    files.unknown("src/main.o", "object");
    files.unknown("notes.tmp", "temporary");
    files.unknown("ignored/deep/file", "ignored");
    if dice.chance(40) {
        let lines = dice.some(
            &[
                "**/*.o",
                "*.tmp",
                "ignored",
                "ignored/**",
                "!ignored/deep/file",
            ],
            3,
        );
        files.entry(
            ".dockerignore",
            What::File(lines.join("\n").into_bytes()),
            0o644,
        );
    }
    let pack = tarball(&packed(seed), 1000);
    files.entry("pack.tar.gz", What::File(pack), 0o644);
    (files.entries, files.known)
}

/// The named context `extra`.
pub fn extra(dice: &mut Dice, seed: u64) -> (Vec<Entry>, Known) {
    let mut files = Files::of(seed);
    for path in ["e1.txt", "e2.txt", "lib/one.so", "lib/two.so"] {
        let mode = *dice.pick(&[0o644, 0o755]);
        files.file(
            path,
            mode,
            &format!("extra {path} {}", dice.between(0, 999)),
        );
    }
    files.link("lib/so", "one.so", Kind::Link("/lib/one.so".to_owned()));
    (files.entries, files.known)
}

/// What is in tarballs.
pub fn packed(seed: u64) -> Vec<Entry> {
    let mut files = Files::of(seed);
    files.entry("pack", What::Folder, 0o750);
    files.file("pack/file", 0o4711, "packed");
    files.file("pack/capable", 0o755, "capable");
    files.entry("pack/same", What::Name("pack/file".to_owned()), 0o4711);
    files.link("pack/link", "file", Kind::Other);
    files.entry("pack/sticky", What::Folder, 0o1777);
    files.entries
}

struct Files {
    seed: u64,
    entries: Vec<Entry>,
    known: Known,
}

impl Files {
    fn of(seed: u64) -> Files {
        Files {
            seed,
            entries: Vec::new(),
            known: Known::default(),
        }
    }

    fn entry(&mut self, path: &str, what: What, mode: u32) {
        self.entries.push(Entry {
            path: path.to_owned(),
            what,
            mode,
            modified: OLDEST + self.seed * APART + 60 * self.entries.len() as u64,
        });
    }

    fn file(&mut self, path: &str, mode: u32, text: &str) {
        let text = format!("{text} of seed {}\n", self.seed);
        self.entry(path, What::File(text.into_bytes()), mode);
        self.known.add(&format!("/{path}"), Kind::File);
    }

    /// One that no instruction names.
    fn unknown(&mut self, path: &str, text: &str) {
        let text = format!("{text} of seed {}\n", self.seed);
        self.entry(path, What::File(text.into_bytes()), 0o644);
    }

    fn link(&mut self, path: &str, target: &str, kind: Kind) {
        self.entry(path, What::Link(target.to_owned()), 0o777);
        self.known.add(&format!("/{path}"), kind);
    }
}
