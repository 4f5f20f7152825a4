//! `ADD`: archives, files from the web, git repositories.

use crate::{
    generate::{Frontend, Generator, User},
    known::Kind,
};

impl Generator {
    pub fn add(&mut self) {
        match self.dice.between(0, 99) {
            0..35 => self.add_archive(),
            35..65 => self.add_url(),
            _ => self.add_repository(),
        }
    }

    fn add_archive(&mut self) {
        let path = self.name("/pack");
        let owner = if self.dice.chance(25) {
            "--chown=7:8 "
        } else {
            ""
        };
        let link = if self.dice.chance(25) { "--link " } else { "" };
        if self.dice.chance(15) {
            let packed = self.unpack("false");
            self.line(&format!("ADD {packed}{owner}{link}pack.tar.gz {path}/"));
            return self.stage.known.add(&path, Kind::Folder);
        }
        self.line(&format!("ADD {owner}{link}pack.tar.gz {path}/"));
        for file in ["file", "capable", "same"] {
            self.stage
                .known
                .add(&format!("{path}/pack/{file}"), Kind::File);
        }
        let link = Kind::Link(format!("{path}/pack/file"));
        self.stage.known.add(&format!("{path}/pack/link"), link);
        self.stage
            .known
            .add(&format!("{path}/pack/sticky"), Kind::Folder);
    }

    /// Whether archives are to be unpacked, said to those frontends that can be told.
    fn unpack(&self, whether: &str) -> String {
        match self.frontend {
            Frontend::Own => format!("--unpack={whether} "),
            Frontend::Labs => String::new(),
        }
    }

    fn add_url(&mut self) {
        let path = self.name("/web");
        let flags = self.flags();
        let web = self.surroundings.web.clone();
        match self.dice.between(0, 4) {
            0 => {
                self.line(&format!("ADD {flags}{web}/file {path}"));
                self.stage.known.add(&path, Kind::File);
            }
            1 | 2 => {
                let sum = match self.dice.chance(50) {
                    true => format!("--checksum={} ", self.surroundings.sum),
                    false => String::new(),
                };
                self.line(&format!("ADD {sum}{flags}{web}/file {path}/"));
                self.stage.known.add(&format!("{path}/file"), Kind::File);
            }
            3 => {
                self.line(&format!("ADD {flags}{web}/pack.tar.gz {path}/"));
                let archive = format!("{path}/pack.tar.gz");
                self.stage.known.add(&archive, Kind::File);
            }
            _ => {
                let unpack = self.unpack("true");
                self.line(&format!("ADD {unpack}{web}/pack.tar.gz {path}/"));
                self.stage.known.add(&path, Kind::Folder);
            }
        }
    }

    fn add_repository(&mut self) {
        let path = self.name("/git");
        let flags = self.flags();
        let git = self.surroundings.git.clone();
        let commit = format!("#{}", self.surroundings.commit);
        let reference = *self.dice.pick(&["", "#main", "#first", &commit]);
        let may_look = self.stage.has_shell && self.stage.user == User::Root;
        if may_look && self.dice.chance(50) {
            // What git itself keeps has times in it, so all but some of it goes again.
            let out = self.name("/head");
            self.line(&format!(
                "ADD --keep-git-dir=true {flags}{git}{reference} {path}"
            ));
            self.line(&format!(
                "RUN cd {path}/.git && (cat HEAD config && find refs -type f | sort) > {out} && rm -rf {path}/.git"
            ));
            self.stage.known.add(&out, Kind::File);
        } else if !reference.is_empty() && self.dice.chance(40) {
            self.line(&format!("ADD {flags}{git}{reference}:sub {path}"));
            return self.stage.known.add(&format!("{path}/file"), Kind::File);
        } else {
            self.line(&format!("ADD {flags}{git}{reference} {path}"));
        }
        self.stage
            .known
            .add(&format!("{path}/sub/file"), Kind::File);
    }
}
