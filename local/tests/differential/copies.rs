//! Instructions that bring files into a stage: COPY from the context and from other stages, with all their flags, and files that stand in
//! the Dockerfile itself.

use crate::{
    generate::{Generator, Stage, User},
    known::{Kind, Known},
    pair::Parents,
};

/// What a copy takes from.
struct Source {
    /// `--from=…` with a space after it, or nothing.
    from: String,
    known: Known,
}

impl Generator {
    pub fn copy_from_context(&mut self) {
        let source = match self.dice.between(0, 99) {
            0..20 => Source {
                from: "--from=extra ".to_owned(),
                known: self.extra.clone(),
            },
            20..25 => {
                let git = format!("--build-context=repo={}#first", self.surroundings.git);
                self.argument(&git);
                let mut known = Known::default();
                known.add("/sub/file", Kind::File);
                Source {
                    from: "--from=repo ".to_owned(),
                    known,
                }
            }
            _ => Source {
                from: String::new(),
                known: self.context.clone(),
            },
        };
        self.copy(&source);
    }

    pub fn copy_from_stage(&mut self) {
        if self.dice.chance(5) {
            self.stage.is_of_target = true;
            let path = self.name("/image");
            self.line(&format!("COPY --from=busybox /etc {path}"));
            self.stage.known.add(&format!("{path}/passwd"), Kind::File);
            return;
        }
        if self.dice.chance(8) {
            let own = self.own();
            return self.copy_from(&own);
        }
        let usable = |stage: &&Stage| !stage.known.files().is_empty();
        let usable: Vec<_> = self.stages.iter().filter(usable).cloned().collect();
        let Some(stage) = self.dice.pick_any(&usable) else {
            return self.copy_from_context();
        };
        self.copy_from(&stage);
    }

    /// A copy from this stage, if anything in it is sure.
    pub fn copy_from(&mut self, stage: &Stage) {
        if stage.known.files().is_empty() {
            return;
        }
        self.stage.is_of_target |= stage.is_of_target;
        let source = Source {
            from: format!("--from={} ", stage.name),
            known: stage.known.clone(),
        };
        self.copy(&source);
    }

    fn copy(&mut self, source: &Source) {
        match self.dice.between(0, 99) {
            0..32 => self.copy_file(source),
            32..46 => self.copy_files(source),
            46..54 => self.copy_wildcard(source),
            54..60 if source.from.is_empty() => self.copy_by_architecture(),
            60..72 => self.copy_with_parents(source),
            _ => self.copy_folder(source),
        }
    }

    fn copy_file(&mut self, source: &Source) {
        let file = self.dice.pick(&source.known.files()).clone();
        let flags = self.flags();
        let (place, path) = self.place_of_file(&file);
        let file = self.spelled(&file);
        self.line(&format!("COPY {}{flags}{file} {place}", source.from));
        if let Some(path) = path {
            self.stage.known.add(&path, Kind::File);
        }
    }

    /// Where a file goes, as the instruction says it, and its path where that is sure.
    fn place_of_file(&mut self, file: &str) -> (String, Option<String>) {
        let (_, base) = file.rsplit_once('/').expect("absolute");
        let folders = self.stage.known.folders();
        match self.dice.between(0, 99) {
            0..25 => {
                let place = self.name("/f");
                (place.clone(), Some(place))
            }
            25..45 => {
                let place = self.name("/d");
                (format!("{place}/"), Some(format!("{place}/{base}")))
            }
            45..60 => {
                let place = format!("{}/new", self.name("/deep/"));
                (place.clone(), Some(place))
            }
            60..75 => {
                let place = self.name("r");
                let path = format!("{}/{place}", self.stage.workdir.trim_end_matches('/'));
                (place, Some(path))
            }
            75..80 => ("./".to_owned(), None),
            _ => match self.dice.pick_any(&folders) {
                // A folder, perhaps by a link, and perhaps without its slash.
                Some(folder) => {
                    let slash = if self.dice.chance(70) { "/" } else { "" };
                    (format!("{folder}{slash}"), None)
                }
                None => ("/".to_owned(), Some(format!("/{base}"))),
            },
        }
    }

    fn copy_files(&mut self, source: &Source) {
        let files = source.known.files();
        let count = self.dice.between(2, 3);
        let files = self.dice.some(&files, count);
        let flags = self.flags();
        let place = self.name("/m");
        self.line(&format!(
            "COPY {}{flags}{} {place}/",
            source.from,
            files.join(" ")
        ));
        for file in files {
            let (_, base) = file.rsplit_once('/').expect("absolute");
            self.stage.known.add(&format!("{place}/{base}"), Kind::File);
        }
    }

    fn copy_wildcard(&mut self, source: &Source) {
        let file = self.dice.pick(&source.known.files()).clone();
        let (folder, base) = file.rsplit_once('/').expect("absolute");
        let star = match self.dice.between(0, 3) {
            0 => format!("{folder}/*"),
            1 => format!("{folder}/{}*", &base[..1]),
            2 => format!("{folder}/?{}", &base[1..]),
            _ => match folder.rsplit_once('/') {
                Some((above, name)) if !name.is_empty() => {
                    format!("{above}/{}*/{base}", &name[..1])
                }
                _ => format!("{folder}/[{}]*", &base[..1]),
            },
        };
        let exclude = self.exclude(15);
        let flags = self.flags();
        let place = self.name("/w");
        // A trailing slash, or else only one may match.
        self.line(&format!(
            "COPY {}{exclude}{flags}{star} {place}/",
            source.from
        ));
        self.stage.known.add(&place, Kind::Folder);
    }

    fn copy_by_architecture(&mut self) {
        self.declare();
        self.stage.is_of_target = true;
        let place = self.name("/conf");
        self.line(&format!("COPY conf/$TARGETARCH.conf {place}"));
        self.stage.known.add(&place, Kind::File);
    }

    fn copy_with_parents(&mut self, source: &Source) {
        let count = self.dice.between(1, 2);
        let files = self.dice.some(&source.known.files(), count);
        let flags = self.flags();
        let place = self.name("/p");
        let (parents, exclude) = match self.parents {
            Parents::Known => ("--parents ", self.exclude(50)),
            Parents::Unknown => ("", String::new()),
        };
        let paths: Vec<_> = files
            .iter()
            .map(|file| self.with_pivot(file, source))
            .collect();
        self.line(&format!(
            "COPY {}{parents}{exclude}{flags}{} {place}/",
            source.from,
            paths.join(" ")
        ));
        self.stage.known.add(&place, Kind::Folder);
    }

    /// A path as `--parents` may have it: with the point from which on folders are kept, and patterns of any depth.
    fn with_pivot(&mut self, file: &str, source: &Source) -> String {
        let (folder, base) = file.rsplit_once('/').expect("absolute");
        let is_known = self.parents == Parents::Known;
        // A whole root has what an engine mounts into it, whose times are of no use.
        let is_small = source.known.find("/etc/passwd").is_none();
        match (self.dice.between(0, 99), file[1..].split_once('/')) {
            (0..30, Some((first, rest))) => format!("/{first}/./{rest}"),
            (30..40, Some((first, _))) if is_known => format!("/{first}/./**/{base}"),
            (40..50, _) if is_known && is_small => format!("/**/{base}"),
            (50..60, Some(_)) if is_known && !folder.is_empty() => format!("{folder}/*"),
            _ => file.to_owned(),
        }
    }

    fn copy_folder(&mut self, source: &Source) {
        let mut folders = source.known.folders();
        // What an engine mounts into it for each command gives it the command's time. If nothing else in it changes, no layer tells,
        // so that it is lost wherever a whole root goes to another engine.
        folders.retain(|folder| source.known.resolve(folder) != "/etc");
        // The whole of it, now and then: of the context, or of a small stage.
        let whole = source.known.find("/etc/passwd").is_none() && self.dice.chance(15);
        let Some(folder) = self.dice.pick_any(&folders).filter(|_| !whole) else {
            let place = self.name("/all");
            let flags = self.flags();
            self.line(&format!(
                "COPY {}{flags}{} {place}",
                source.from,
                if source.from.is_empty() { "." } else { "/" }
            ));
            self.stage.known.add(&place, Kind::Folder);
            return;
        };
        let slash = if self.dice.chance(30) { "/" } else { "" };
        let exclude = self.exclude(25);
        let flags = self.flags();
        let into = self.dice.pick_any(&self.stage.known.folders());
        let (place, is_new) = match into.filter(|_| self.dice.chance(20)) {
            Some(folder) => (folder, false),
            None if self.dice.chance(8) => ("/".to_owned(), false),
            None => (self.name("/c"), true),
        };
        let place_slash = if self.dice.chance(40) && place != "/" {
            "/"
        } else {
            ""
        };
        let spelled = self.spelled(&folder);
        self.line(&format!(
            "COPY {}{exclude}{flags}{spelled}{slash} {place}{place_slash}",
            source.from
        ));
        let resolved = source.known.resolve(&folder).to_owned();
        if is_new && exclude.is_empty() {
            let things = source.known.below(&resolved);
            self.stage.known.graft(&things, &resolved, &place);
        } else if is_new {
            self.stage.known.add(&place, Kind::Folder);
        } else {
            // What was there may be something else now.
            for thing in source.known.below(&resolved) {
                let path = format!("{place}{}", &thing.path[resolved.len()..]);
                self.stage.known.forget(&path.replace("//", "/"));
            }
        }
    }

    /// What is not to be copied of a folder, in so many of a hundred copies.
    fn exclude(&mut self, percent: u32) -> String {
        if !self.dice.chance(percent) {
            return String::new();
        }
        let exclude = self.dice.pick(&[
            "--exclude=*.txt ",
            "--exclude=**/*.c --exclude=deep ",
            "--exclude=**/deep/** ",
            "--exclude=* --exclude=!one.txt --exclude=!sub ",
            "--exclude=**/*.txt --exclude=!**/two.txt ",
        ]);
        (*exclude).to_owned()
    }

    /// An absolute path, or the same in other letters.
    fn spelled(&mut self, path: &str) -> String {
        match self.dice.between(0, 9) {
            0 | 1 => path[1..].to_owned(),
            2 => format!("./{}", &path[1..]),
            3 => format!("/{}", path),
            4 => format!("/nothing/..{path}"),
            _ => path.to_owned(),
        }
    }

    pub fn flags(&mut self) -> String {
        let mut flags = String::new();
        let mut may_link = true;
        if self.dice.chance(15) {
            let by_name = [
                "nobody",
                "nobody:nogroup",
                "root:nogroup",
                "0:nogroup",
                "nobody:0",
            ];
            let by_number = ["0:0", "1000", "1000:1001", "65534:0"];
            let owner = *if self.stage.has_added_user && self.dice.chance(60) {
                self.dice.pick(&["added", "added:nogroup", "added:added"])
            } else if self.stage.has_shell && self.dice.chance(60) {
                self.dice.pick(&by_name)
            } else {
                self.dice.pick(&by_number)
            };
            // A link is made beside the stage, where no name is known.
            may_link = by_number.contains(&owner);
            flags.push_str(&format!("--chown={owner} "));
        }
        if self.dice.chance(15) {
            let mode = self
                .dice
                .pick(&["644", "0755", "4755", "2750", "1777", "600"]);
            flags.push_str(&format!("--chmod={mode} "));
        }
        // A link's place is made anew: what is known to be a folder by a link no longer is.
        if self.dice.chance(15) && may_link {
            flags.push_str("--link ");
        }
        flags
    }

    pub fn heredoc_file(&mut self) {
        let path = self.name("/here");
        let flags = self.flags();
        match self.dice.between(0, 2) {
            0 => {
                self.declare();
                self.stage.is_of_target = true;
                self.line(&format!("COPY {flags}<<EOF {path}\nfor $TARGETARCH\nEOF"));
                self.stage.known.add(&path, Kind::File);
            }
            1 => {
                self.line(&format!("COPY {flags}<<\"EOF\" {path}\nnot $EXPANDED\nEOF"));
                self.stage.known.add(&path, Kind::File);
            }
            _ => {
                self.line(&format!(
                    "COPY {flags}<<one <<-two a.txt {path}/\nfirst\none\n\tsecond\n\ttwo"
                ));
                for file in ["one", "two", "a.txt"] {
                    self.stage.known.add(&format!("{path}/{file}"), Kind::File);
                }
            }
        }
    }

    /// Something that fails, in the same way on both sides.
    pub fn broken(&mut self) {
        let earlier = self.dice.pick_any(&self.stages).map(|stage| stage.name);
        let text = match (self.dice.between(0, 17), earlier) {
            (0, _) if self.stage.has_shell => "RUN echo last words && exit 7".to_owned(),
            (1, _) if self.stage.has_shell => {
                "RUN --mount=type=secret,id=unheard,required=true true".to_owned()
            }
            (2, _) if self.stage.has_shell => {
                "RUN --mount=type=bind,source=not/there,target=/x ls /x".to_owned()
            }
            (3, Some(stage)) if self.stage.has_shell => {
                format!("RUN --mount=type=bind,from={stage},source=/not/there,target=/x ls /x")
            }
            (4 | 5, Some(stage)) => format!("COPY --from={stage} /not/there /x"),
            (8, _) => format!("ADD {}/absent /x", self.surroundings.web),
            (9, _) => format!("ADD {}#absent /x", self.surroundings.git),
            (10, _) if self.stage.has_shell => {
                "RUN --mount=type=ssh,id=unheard,required=true true".to_owned()
            }
            (11, Some(stage)) => format!("COPY --link --from={stage} /not/there /x"),
            (12, Some(stage)) if self.stage.has_shell => {
                format!("RUN --mount=from={stage},source=/not/there,target=/x,rw ls /x")
            }
            (13, Some(stage)) => {
                format!("COPY --from={stage} --chmod=600 --chown=1:2 \\\n  /not/there \\\n  /x")
            }
            (14, _) => "COPY --from=extra not/there /x".to_owned(),
            (15, _) => "ADD a.txt not-there.tar.gz /x/".to_owned(),
            (16, _) => format!("ADD {}#main:absent /x", self.surroundings.git),
            (17, _) => {
                let sum = "0".repeat(64);
                format!(
                    "ADD --checksum=sha256:{sum} {}/file /x",
                    self.surroundings.web
                )
            }
            (6, _) => "COPY --chown=unheard:of a.txt /x".to_owned(),
            (7, Some(stage)) => format!("COPY --from={stage} /not/*/there /x/"),
            _ => "COPY not/there /x".to_owned(),
        };
        self.stage.user = User::Root;
        self.line(&text);
    }
}
