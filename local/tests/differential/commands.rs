//! RUN instructions whose results depend on nothing but what they are given.

use crate::{
    generate::{Generator, User},
    known::{Kind, Thing},
};

/// Lists a folder without what differs from run to run.
pub fn listing(folder: &str, to: &str) -> String {
    format!(
        "cd {folder} && (find . | sort | while read -r f; do stat -c '%N %F %a %u:%g' \"$f\"; done; find . -type f -exec md5sum {{}} \\; | sort) > {to}"
    )
}

impl Generator {
    /// Where the stage's user may write.
    fn writable(&mut self, start: &str) -> String {
        match self.stage.user {
            User::Root => self.name(&format!("/{start}")),
            User::Other => self.name(&format!("/tmp/{start}")),
        }
    }

    fn run(&mut self, command: &str) {
        self.line(&format!("RUN {command}"));
    }

    /// A command that makes a folder of all kinds of things.
    pub fn make(&mut self) {
        let top = self.writable("t");
        let known = |path: &str, kind| Thing {
            path: format!("{top}{path}"),
            kind,
        };
        let mut things = vec![
            known("/one.txt", Kind::File),
            known("/sub", Kind::Folder),
            known("/sub/two.txt", Kind::File),
            known("/sub/deep", Kind::Folder),
            known("/void", Kind::Folder),
        ];
        let mut steps = vec![
            format!("mkdir -p {top}/sub/deep {top}/void"),
            format!("cd {top}"),
            format!("echo seed {} {top} > one.txt", self.seed),
            format!("echo also {} {top} > sub/two.txt", self.seed),
        ];
        if self.dice.chance(40) {
            self.declare();
            self.stage.is_of_target = true;
            steps.push("echo $TARGETPLATFORM from $BUILDPLATFORM > for".to_owned());
            things.push(known("/for", Kind::File));
        }
        let file = |path: &str| known(path, Kind::File);
        let link = |path: &str, target: &str| known(path, Kind::Link(format!("{top}{target}")));
        let outside = |path: &str, target: &str| known(path, Kind::Link(target.to_owned()));
        let optional = [
            ("ln -s one.txt alias", vec![link("/alias", "/one.txt")]),
            (
                "ln -s sub way && ln -s way two-steps",
                vec![
                    link("/way", "/sub"),
                    link("/two-steps", "/sub"),
                    file("/way/two.txt"),
                    file("/two-steps/two.txt"),
                ],
            ),
            (
                &format!("ln -s {top}/sub way-abs"),
                vec![link("/way-abs", "/sub")],
            ),
            (
                &format!("ln -s {top}/one.txt one-abs"),
                vec![link("/one-abs", "/one.txt")],
            ),
            (
                "ln -s ../sub/two.txt void/up",
                vec![link("/void/up", "/sub/two.txt")],
            ),
            (
                "ln -s /etc/passwd outside",
                vec![outside("/outside", "/etc/passwd")],
            ),
            (
                "ln -s ../../../../../etc/group escape",
                vec![outside("/escape", "/etc/group")],
            ),
            ("ln -s /etc etc-abs", vec![outside("/etc-abs", "/etc")]),
            ("ln -s nowhere nothing", vec![]),
            ("ln one.txt same", vec![file("/same")]),
            (
                "ln sub/two.txt same2 && ln sub/two.txt sub/deep/same3",
                vec![file("/same2"), file("/sub/deep/same3")],
            ),
            ("mkfifo pipe", vec![]),
            ("head -c 70000 /dev/zero > big", vec![file("/big")]),
            (
                "printf '' > 'a b' && printf x > 'st*r' && printf y > '[x]' && printf z > 'back\\slash'",
                vec![],
            ),
            ("printf '' > zero", vec![file("/zero")]),
            ("uname -m > machine", vec![file("/machine")]),
        ];
        let optional = optional.map(|(step, things)| (step.to_owned(), things));
        for (step, thing) in optional {
            if self.dice.chance(25) {
                steps.push(step);
                things.extend(thing);
            }
        }
        let for_root = [
            "chown 1234:5678 sub/two.txt",
            "chown 99 sub",
            "chown -h 77:78 . && ln -s one.txt owned && chown -h 77:78 owned",
            "mknod null c 1 3",
            "mknod tty c 4 5",
        ];
        for step in for_root {
            if self.stage.user == User::Root && self.dice.chance(15) {
                steps.push(step.to_owned());
            }
        }
        if self.stage.user == User::Root && self.dice.chance(20) {
            self.stage.has_added_user = true;
            steps.push(
                "echo added:x:4242:4343::/:/bin/sh >> /etc/passwd && echo added:x:4343: >> /etc/group".to_owned(),
            );
        }
        // A change of owner takes setuid away, so modes come after them, and times last.
        let last = [
            "chmod 4755 one.txt",
            "chmod 2775 sub",
            "chmod 1777 void",
            "chmod 400 sub/two.txt",
            "touch -d @1111111111 one.txt",
            "touch -h -d @1111111112 sub/two.txt void",
            "touch -d @1111111113 sub .",
        ];
        for step in last {
            if self.dice.chance(20) {
                steps.push(step.to_owned());
            }
        }
        self.run(&steps.join(" && "));
        self.stage.known.add(&top, Kind::Folder);
        for thing in things {
            self.stage.known.add(&thing.path, thing.kind);
        }
    }

    /// A command that tells what it sees.
    pub fn look(&mut self) {
        let out = self.writable("look");
        let known = &self.stage.known;
        let folder = self
            .dice
            .pick_any(&known.folders())
            .filter(|folder| folder != "/tmp");
        let file = self.dice.pick_any(&known.files());
        if self.stage.user == User::Other {
            self.run(&format!("(id && pwd && umask) > {out}"));
        } else {
            match (self.dice.between(0, 3), folder, file) {
                (0 | 1, Some(folder), _) => self.run(&listing(&folder, &out)),
                (2, _, Some(file)) => {
                    self.run(&format!(
                        "(md5sum {file} && stat -L -c '%a %u %g %F' {file}) > {out}"
                    ));
                }
                _ => {
                    self.line("ARG FLAVOUR=plain");
                    self.run(&format!(
                        "(echo $FLAVOUR && pwd && env | grep -v ^HOSTNAME | sort) > {out}"
                    ));
                }
            }
        }
        self.stage.known.add(&out, Kind::File);
    }

    /// A command that changes or takes away what is there.
    pub fn change(&mut self) {
        // What is above must stay as it is for other instructions.
        let own =
            |path: &String| path.starts_with("/t") && path != "/tmp" && !path.starts_with("/tmp/");
        let known = &self.stage.known;
        let files: Vec<_> = known.files().into_iter().filter(own).collect();
        let folders: Vec<_> = known.folders().into_iter().filter(own).collect();
        let file = self.dice.pick_any(&files);
        let folder = self.dice.pick_any(&folders);
        if self.stage.user == User::Other {
            return self.look();
        }
        match (self.dice.between(0, 6), file, folder) {
            (0, Some(file), _) => {
                self.run(&format!("rm {file}"));
                self.stage.known.forget(&file);
            }
            (1, _, Some(folder)) => {
                self.run(&format!("rm -rf {folder}"));
                self.stage.known.forget(&folder);
            }
            (2, _, Some(folder)) => {
                self.run(&format!(
                    "rm -rf {folder} && mkdir {folder} && echo anew > {folder}/anew"
                ));
                self.stage.known.forget(&folder);
                self.stage.known.add(&format!("{folder}/anew"), Kind::File);
            }
            (3, Some(file), _) => self.run(&format!("echo more >> {file}")),
            (4, Some(file), _) => self.run(&format!("chmod 0705 {file} && chown 5:6 {file}")),
            (5, Some(file), _) => {
                let new = self.name("/t");
                self.run(&format!("mv {file} {new}"));
                self.stage.known.forget(&file);
            }
            (_, _, Some(folder)) => {
                let new = self.name("/t");
                self.run(&format!("cp -a {folder} {new}"));
            }
            _ => self.make(),
        }
    }

    pub fn heredoc_command(&mut self) {
        let out = self.writable("doc");
        let seed = self.seed;
        let text = match self.dice.between(0, 3) {
            0 | 1 => {
                format!("RUN <<EOF\nset -e\nif true; then\n  echo seed {seed} > {out}\nfi\nEOF")
            }
            2 => format!("RUN cat <<\"EOF\" > {out}\nnot $EXPANDED of {seed}\nEOF"),
            _ => format!(
                "RUN <<-EOF\n\t#!/bin/sh -e\n\techo $0 of {seed} | sed s:/.*/:: > {out}\n\tEOF"
            ),
        };
        self.line(&text);
        self.stage.known.add(&out, Kind::File);
    }
}
