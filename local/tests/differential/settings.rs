//! Instructions that say how the image is run, and how the instructions after them are.

use crate::{
    generate::{Generator, User},
    known::Kind,
};

impl Generator {
    pub fn setting(&mut self) {
        match self.dice.between(0, 17) {
            0 | 1 => self.workdir(),
            2 => {
                let name = self.name("NAME");
                self.line(&format!(
                    "ENV {name}=\"of ${{BASE:-none}}\" OTHER='single $quoted'"
                ));
            }
            3 => {
                self.declare();
                self.stage.is_of_target = true;
                self.line("ENV ARCHITECTURE=$TARGETARCH");
            }
            4 => self.line("LABEL one=\"two words\" three=four"),
            5 if self.stage.has_shell => self.user(),
            6 => {
                let path = self.name("/volume");
                self.line(&format!("VOLUME [\"{path}\", \"/data\"]"));
            }
            7 => self.line("ENTRYPOINT [\"/bin/sh\", \"-c\"]"),
            8 => self.line("CMD echo shell form"),
            9 => self.line("HEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD [\"true\"]"),
            10 => self.line("STOPSIGNAL SIGUSR1"),
            11 if self.stage.has_shell => self.line("SHELL [\"/bin/sh\", \"-eu\", \"-c\"]"),
            12 => self.line("EXPOSE 80 53/udp"),
            13 => self.line("HEALTHCHECK NONE"),
            14 => self.line("MAINTAINER somebody"),
            15 => {
                self.line("HEALTHCHECK --start-period=1s --start-interval=500ms CMD true || exit 1")
            }
            _ => self.onbuild(),
        }
    }

    fn workdir(&mut self) {
        let folder = match self.dice.pick_any(&self.stage.known.folders()) {
            Some(folder) if self.dice.chance(25) && self.stage.user == User::Root => folder,
            _ if self.dice.chance(30) => {
                let relative = self.name("relative");
                self.line(&format!("WORKDIR {relative}"));
                let path = format!("{}/{relative}", self.stage.workdir.trim_end_matches('/'));
                self.stage.known.add(&path, Kind::Folder);
                self.stage.workdir = path;
                return;
            }
            _ => self.name("/work/dir"),
        };
        self.line(&format!("WORKDIR {folder}"));
        self.stage.known.add(&folder, Kind::Folder);
        self.stage.workdir = folder;
    }

    fn user(&mut self) {
        if self.stage.user == User::Other {
            self.stage.user = User::Root;
            self.line("USER root");
        } else {
            self.stage.user = User::Other;
            let user = *self
                .dice
                .pick(&["nobody", "65534:65534", "1000", "nobody:root"]);
            self.line(&format!("USER {user}"));
        }
    }

    fn onbuild(&mut self) {
        let path = self.name("/onbuild");
        let what = match self.dice.between(0, 4) {
            0 if self.stage.has_shell && self.stage.user == User::Root => {
                format!("RUN echo {} > {path}", self.seed)
            }
            1 => {
                self.line("ONBUILD LABEL from=above");
                return;
            }
            2 if self.stage.has_shell && self.stage.user == User::Root => {
                format!("RUN --mount=type=bind,source=b.txt,target=/b cat /b > {path}")
            }
            3 => {
                self.stage.is_of_target = true;
                self.own();
                format!("COPY --from=own /own/all/one {path}")
            }
            _ => format!("COPY a.txt {path}"),
        };
        self.line(&format!("ONBUILD {what}"));
        self.stage.onbuild.push((path, Kind::File));
    }
}
