//! RUN instructions with something mounted: parts of stages, contexts and images, caches, secrets, ssh agents, memory.

use crate::{
    commands::listing,
    generate::{Frontend, Generator, Stage, User},
    known::Kind,
};

impl Generator {
    /// A command with something mounted.
    pub fn mount(&mut self) {
        if self.stage.user == User::Other {
            return self.look();
        }
        match self.dice.between(0, 99) {
            0..4 => {
                let own = self.own();
                self.mount_of_stage(&own);
            }
            4..30 => match self.dice.pick_any(&self.stages) {
                Some(stage) => self.mount_of_stage(&stage),
                None => self.mount_of_context(),
            },
            30..40 => self.mount_of_context(),
            40..56 => self.mount_of_cache(),
            56..75 => self.mount_of_secret(),
            75..92 => self.mount_of_ssh(),
            _ => {
                let (target, out) = (self.name("/tmpfs"), self.name("/fs"));
                let size = *self.dice.pick(&["", ",size=1048576"]);
                self.line(&format!("RUN --mount=type=tmpfs,target={target}{size} echo gone > {target}/x && cat {target}/x > {out}"));
                self.stage.known.add(&out, Kind::File);
            }
        }
    }

    /// A command with this stage mounted, or a part of it.
    pub fn mount_of_stage(&mut self, stage: &Stage) {
        self.stage.is_of_target |= stage.is_of_target;
        let (target, out) = (self.name("/mnt"), self.name("/seen"));
        let folders: Vec<_> = stage
            .known
            .folders()
            .into_iter()
            .filter(|path| path != "/tmp")
            .collect();
        let files = stage.known.files();
        let rw = if self.dice.chance(25) { ",rw" } else { "" };
        match (self.dice.between(0, 9), self.dice.pick_any(&folders), self.dice.pick_any(&files)) {
            (0..6, Some(folder), _) => {
                let write = if rw.is_empty() { "" } else { &format!("echo x > {target}/written && ") };
                let list = listing(&target, &out);
                self.line(&format!(
                    "RUN --mount=type=bind,from={},source={folder},target={target}{rw} {write}{list}",
                    stage.name
                ));
            }
            (6 | 7, _, Some(file)) => self.line(&format!(
                "RUN --mount=type=bind,from={},source={file},target={target}/file{rw} cat {target}/file > {out}",
                stage.name
            )),
            (_, _, Some(file)) => self.line(&format!(
                "RUN --mount=from={},target={target}{rw} stat -c '%F %a %u:%g' {target} > {out} && md5sum {target}{file} >> {out} || echo leads elsewhere >> {out}",
                stage.name
            )),
            _ => return self.mount_of_context(),
        }
        self.stage.known.add(&out, Kind::File);
    }

    fn mount_of_context(&mut self) {
        let (target, out) = (self.name("/mnt"), self.name("/seen"));
        let list = listing(&target, &out);
        let folder = self.dice.pick(&self.context.folders()).clone();
        let from = match self.dice.between(0, 7) {
            0 | 1 => "from=extra,source=lib,".to_owned(),
            2 => {
                self.stage.is_of_target = true;
                let path = *self.dice.pick(&["/bin/busybox", "/etc/group"]);
                self.line(&format!(
                    "RUN --mount=type=bind,from=busybox,source={path},target={target} md5sum {target} > {out}"
                ));
                return self.stage.known.add(&out, Kind::File);
            }
            3 => String::new(),
            _ => format!("source={},", &folder[1..]),
        };
        self.line(&format!(
            "RUN --mount=type=bind,{from}target={target} {list}"
        ));
        self.stage.known.add(&out, Kind::File);
    }

    fn mount_of_cache(&mut self) {
        let (target, out) = (self.name("/cache"), self.name("/cached"));
        let sharing =
            *self
                .dice
                .pick(&["", ",sharing=private", ",sharing=locked", ",sharing=shared"]);
        let seed = self.seed;
        let begun_with = self.dice.pick_any(&self.stages);
        let folder = begun_with
            .as_ref()
            .and_then(|stage| self.dice.pick_any(&stage.known.folders()))
            .filter(|folder| folder != "/tmp");
        if let (Some(stage), Some(folder), true) = (begun_with, folder, self.dice.chance(25)) {
            // Nobody writes into one that begins with what a stage has.
            self.stage.is_of_target |= stage.is_of_target;
            let list = listing(&target, &out);
            self.line(&format!(
                "RUN --mount=type=cache,id=seed-{seed}-begun,from={},source={folder},target={target}{sharing} {list}",
                stage.name
            ));
        } else {
            // The first command to use it makes it, so an id always comes with the same owner and mode.
            let id = *self.dice.pick(&["1", "2", "3,mode=0710,uid=5,gid=6"]);
            // Another command may use the cache at the same time, so each has a file of its own there.
            let own = self.name("own");
            self.line(&format!(
                "RUN --mount=type=cache,target={target}{sharing},id=seed-{seed}-{id} echo {own} >> {target}/{own} && (tail -n 1 {target}/{own} && stat -c '%a %u:%g' {target}) > {out}"
            ));
        }
        self.stage.known.add(&out, Kind::File);
    }

    fn mount_of_secret(&mut self) {
        let out = self.name("/told");
        self.argument("--secret=id=word,env=CROFT_TEST_SECRET");
        let (flags, path) = match self.dice.between(0, 3) {
            0 => (",target=/else/where", "/else/where"),
            1 => (",mode=0444,uid=5,gid=6", "/run/secrets/word"),
            2 if self.frontend == Frontend::Own => (",env=WORD", ""),
            _ => (",required=true", "/run/secrets/word"),
        };
        let command = if path.is_empty() {
            format!("echo $WORD | md5sum > {out}")
        } else {
            format!("(md5sum {path} && stat -c '%a %u:%g' {path}) > {out}")
        };
        self.line(&format!("RUN --mount=type=secret,id=word{flags} {command}"));
        self.stage.known.add(&out, Kind::File);
    }
    /// A command with an agent that has ssh keys.
    fn mount_of_ssh(&mut self) {
        let (target, out) = (self.name("/agent"), self.name("/keys"));
        for argument in self.surroundings.ssh.clone() {
            self.argument(&argument);
        }
        let other = format!("type=ssh,id=other,target={target},mode=0666,uid=5,gid=6");
        let (mounts, socket) = match self.dice.between(0, 4) {
            0 => ("type=ssh", "$SSH_AUTH_SOCK"),
            1 => ("type=ssh,required=true,mode=0640", "$SSH_AUTH_SOCK"),
            2 => (other.as_str(), target.as_str()),
            3 => (&*format!("type=ssh --mount={other}"), target.as_str()),
            _ => ("type=ssh,id=unheard", ""),
        };
        let command = match socket {
            "" => "echo ${SSH_AUTH_SOCK-none}".to_owned(),
            socket => format!(
                "(echo ${{SSH_AUTH_SOCK-none}} && stat -c '%F %a %u:%g' {socket} && SSH_AUTH_SOCK={socket} sh /client/list)"
            ),
        };
        self.line(&format!(
            "RUN --mount={mounts} --mount=type=bind,from=client,target=/client {command} > {out}"
        ));
        self.stage.known.add(&out, Kind::File);
    }
}
