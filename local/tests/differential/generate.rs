//! Dockerfiles, contexts and arguments made up from a seed: several stages on several platforms that take from each other. They are
//! well typed, so that most of them build; some are broken on purpose.

use std::fmt::Write as _;

use crate::{
    context,
    dice::Dice,
    known::{Kind, Known},
    material::Entry,
    pair::Parents,
    support::PLATFORMS,
};

/// Targets that no command can run for, which builds that only copy may have too.
const UNSERVED: [&str; 3] = ["linux/386", "linux/arm/v7", "windows/amd64"];

/// A build.
#[derive(Debug)]
pub struct Case {
    pub dockerfile: String,
    /// The context, without the Dockerfile.
    pub context: Vec<Entry>,
    /// The named context `extra`, in a folder beside the context's.
    pub extra: Vec<Entry>,
    /// For buildx, but for contexts, tags and outputs.
    pub arguments: Vec<String>,
}

/// A stage of the Dockerfile.
#[derive(Debug, Clone)]
pub struct Stage {
    pub name: String,
    pub known: Known,
    /// Whether it has busybox, so that commands can run in it.
    pub has_shell: bool,
    /// Whether it or what it takes from is of the target's platform and runs or pulls something.
    pub is_of_target: bool,
    pub user: User,
    /// Whether its `/etc/passwd` has the user `added`.
    pub has_added_user: bool,
    pub workdir: String,
    /// What happens in stages that begin with this one.
    pub onbuild: Vec<(String, Kind)>,
    /// Whether TARGETARCH and its like have been declared.
    pub has_arguments: bool,
}

/// Whom commands run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Root,
    Other,
}

/// What a Dockerfile can count on. It changes no throw: a seed gives the same Dockerfile but for this.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The address of a web server with the files `file` and `pack.tar.gz`.
    pub web: String,
    /// The digest of the web server's `file`.
    pub sum: String,
    /// The address of a git repository with a branch `main` and a tag `first`; it has the file `sub/file`.
    pub git: String,
    /// The commit that `main` is at.
    pub commit: String,
    /// Arguments for two agents with ssh keys, `default` and `other`, and for a context `client` whose `list` prints what keys an agent has.
    pub ssh: [String; 3],
    /// What [`Stage::own`] knows, as an image in a registry and in an OCI layout, each as the value of a named context.
    pub own: [String; 2],
    /// The image of a frontend for `# syntax=` lines, one that has `COPY --parents`.
    pub labs: String,
    /// Whether the engine's own frontend has it.
    pub parents: Parents,
}

/// Who reads a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend {
    /// The engine's own.
    Own,
    /// That of the Dockerfile's `# syntax=` line.
    Labs,
}

/// Makes it up.
#[derive(Debug)]
pub struct Generator {
    pub dice: Dice,
    pub seed: u64,
    pub text: String,
    /// What can be copied from the context.
    pub context: Known,
    /// What can be copied from the named context.
    pub extra: Known,
    pub surroundings: Surroundings,
    pub frontend: Frontend,
    pub parents: Parents,
    /// Those that are complete.
    pub stages: Vec<Stage>,
    pub stage: Stage,
    arguments: Vec<String>,
    names: usize,
}

impl Case {
    /// The one of this seed.
    pub fn of(seed: u64, surroundings: Surroundings) -> Case {
        let mut dice = Dice::of(seed);
        let (files, known) = context::context(&mut dice, seed);
        let (extra_files, extra) = context::extra(&mut dice, seed);
        let generator = Generator {
            dice,
            seed,
            text: String::new(),
            context: known,
            extra,
            frontend: Frontend::Own,
            parents: surroundings.parents,
            surroundings,
            stages: Vec::new(),
            stage: Stage::empty(""),
            arguments: Vec::new(),
            names: 0,
        };
        let (dockerfile, arguments) = generator.dockerfile();
        Case {
            dockerfile,
            context: files,
            extra: extra_files,
            arguments,
        }
    }

    /// All of it, for people.
    pub fn told(&self) -> String {
        let list = |entries: &[Entry]| {
            entries.iter().fold(String::new(), |mut text, entry| {
                let _ = writeln!(text, "  {entry}");
                text
            })
        };
        format!(
            "arguments: {}\n----- Dockerfile\n{}-----\ncontext:\n{}extra:\n{}",
            self.arguments.join(" "),
            self.dockerfile,
            list(&self.context),
            list(&self.extra),
        )
    }
}

impl Stage {
    fn empty(name: &str) -> Stage {
        Stage {
            name: name.to_owned(),
            known: Known::default(),
            has_shell: false,
            is_of_target: false,
            user: User::Root,
            has_added_user: false,
            workdir: "/".to_owned(),
            onbuild: Vec::new(),
            has_arguments: false,
        }
    }

    fn busybox(name: &str) -> Stage {
        let mut stage = Stage {
            has_shell: true,
            ..Stage::empty(name)
        };
        for file in ["/etc/passwd", "/etc/group"] {
            stage.known.add(file, Kind::File);
        }
        stage.known.add("/tmp", Kind::Folder);
        stage
    }

    /// The image of [`Surroundings::own`].
    fn own(name: &str) -> Stage {
        let mut stage = Stage {
            is_of_target: true,
            onbuild: vec![("/from-own".to_owned(), Kind::File)],
            ..Stage::busybox(name)
        };
        for file in ["/own/architecture", "/own/all/one", "/own/all/sub/two"] {
            stage.known.add(file, Kind::File);
        }
        let link = Kind::Link("/own/all/one".to_owned());
        stage.known.add("/own/all/link", link);
        stage
    }
}

impl Generator {
    fn dockerfile(mut self) -> (String, Vec<String>) {
        self.directives();
        self.line("ARG BASE=busybox");
        match self.dice.between(0, 99) {
            0..15 => self.argument("--build-arg=BASE=docker.io/library/busybox:latest"),
            15..22 => {
                self.own();
                self.argument("--build-arg=BASE=own");
            }
            _ => {}
        }
        if self.dice.chance(30) {
            self.arguments.push("--build-arg=FLAVOUR=given".to_owned());
        }
        if self.dice.chance(15) {
            let [image, layout] = self.surroundings.own.clone();
            let busybox = "docker-image://docker.io/library/busybox:latest".to_owned();
            let context = self.dice.pick(&[busybox, image, layout]).clone();
            self.argument(&format!("--build-context=busybox={context}"));
        }
        if self.dice.chance(20) {
            self.arguments.push("--label=from=outside".to_owned());
        }
        if self.dice.chance(20) {
            self.arguments
                .push("--annotation=manifest:of.every=manifest".to_owned());
        }
        if self.dice.chance(20) {
            // A nonce that changes nothing: platforms share all that doesn't name theirs.
            let which = *self.dice.pick(&["--no-cache", "--no-cache-filter=s1"]);
            self.arguments.push(which.to_owned());
        }
        let count = self.dice.between(2, 5);
        let broken = self
            .dice
            .chance(12)
            .then(|| self.dice.between(0, count - 1));
        for number in 0..count {
            self.begin(number, number + 1 == count);
            for _ in 0..self.dice.between(1, 3) {
                self.instruction();
            }
            // Stages that nobody takes from are not built.
            let often = if number + 1 == count { 60 } else { 30 };
            for earlier in self.stages.clone() {
                if self.dice.chance(often) {
                    self.take_from(&earlier);
                }
            }
            for _ in 0..self.dice.between(0, 2) {
                self.instruction();
            }
            // They cost nothing.
            for _ in 0..self.dice.between(0, 3) {
                self.setting();
            }
            if broken == Some(number) {
                self.broken();
            }
            let complete = self.stage.clone();
            self.stages.push(complete);
        }
        let mut target = count - 1;
        if self.dice.chance(12) {
            target = self.dice.between(0, count - 1);
            self.arguments
                .push(format!("--target={}", self.stages[target].name));
        }
        let platforms = self.platforms(target);
        if platforms.len() > 1 && self.dice.chance(20) {
            self.arguments
                .push("--annotation=index:of.all=index".to_owned());
        }
        self.arguments
            .push(format!("--platform={}", platforms.join(",")));
        (self.text, self.arguments)
    }

    /// What comments at its top say to the frontend.
    fn directives(&mut self) {
        if self.dice.chance(12) {
            self.frontend = Frontend::Labs;
            self.parents = Parents::Known;
            self.line(&format!("# syntax={}", self.surroundings.labs));
        }
        match self.dice.between(0, 99) {
            0..6 => self.line("# check=skip=all"),
            6..12 => self.line("# check=skip=JSONArgsRecommended,WorkdirRelativePath;error=false"),
            12..14 => self.line("# check=error=true"),
            _ => {}
        }
    }

    /// The image that is given as the context `own`, as a stage that is complete.
    pub fn own(&mut self) -> Stage {
        if !self
            .arguments
            .iter()
            .any(|one| one.contains("context=own="))
        {
            let context = self.dice.pick(&self.surroundings.own).clone();
            self.argument(&format!("--build-context=own={context}"));
        }
        Stage::own("own")
    }

    fn platforms(&mut self, target: usize) -> Vec<&'static str> {
        let mut all = PLATFORMS.to_vec();
        // An accident that few Dockerfiles are made for, unless they only copy.
        let picks = self.text.contains("FROM pick-");
        if !self.stages[target].is_of_target && !picks && self.dice.chance(50) {
            all.extend(UNSERVED);
        }
        let count = *self.dice.pick(&[1, 1, 2, 2, 2, 2, 3, 4]);
        self.dice.some(&all, count)
    }

    /// `FROM`.
    fn begin(&mut self, number: usize, is_last: bool) {
        let name = format!("s{number}");
        let throw = self.dice.between(0, 99);
        let earlier = self.dice.pick_any(&self.stages);
        let (from, mut stage) = match (throw, earlier) {
            (0..18, Some(earlier)) if !is_last => (
                earlier.name.clone(),
                Stage {
                    name: name.clone(),
                    has_arguments: false,
                    ..earlier
                },
            ),
            (0..12, _) if is_last && number > 0 => self.pick_by_architecture(&name),
            (12..32, Some(_)) if is_last => ("scratch".to_owned(), Stage::empty(&name)),
            (18..30, _) if !is_last => ("scratch".to_owned(), Stage::empty(&name)),
            _ => {
                let platform = match self.dice.between(0, 99) {
                    0..45 if is_last => "",
                    0..40 => "--platform=$BUILDPLATFORM ",
                    40..55 => "--platform=$TARGETPLATFORM ",
                    55..65 => "--platform=linux/amd64 ",
                    65..73 => "--platform=linux/arm64 ",
                    73..77 => "--platform=linux/s390x ",
                    _ => "",
                };
                let base = *self
                    .dice
                    .pick(&["busybox", "busybox", "${BASE}", "${BASE}", "own"]);
                let is_of_target = !platform.contains("linux") && !platform.contains("BUILD");
                let image = match base {
                    "own" => self.own(),
                    _ => Stage::busybox(""),
                };
                let stage = Stage {
                    name: name.clone(),
                    is_of_target,
                    ..image
                };
                (format!("{platform}{base}"), stage)
            }
        };
        self.line(&format!("FROM {from} AS {name}"));
        for (path, kind) in std::mem::take(&mut stage.onbuild) {
            stage.known.add(&path, kind);
        }
        self.stage = stage;
        if self.dice.chance(40) {
            self.declare();
        }
    }

    /// One stage for each architecture, and a last one that begins with that of the target's.
    fn pick_by_architecture(&mut self, name: &str) -> (String, Stage) {
        let from = self
            .dice
            .pick_any(&self.stages)
            .filter(|stage| !stage.known.files().is_empty());
        for platform in PLATFORMS {
            let (_, architecture) = platform.split_once('/').expect("os/architecture");
            self.line(&format!(
                "FROM --platform={platform} busybox AS pick-{architecture}"
            ));
            match &from {
                Some(stage) => {
                    let file = self.dice.pick(&stage.known.files()).clone();
                    self.line(&format!("COPY --from={} {file} /picked", stage.name));
                }
                None => self.line(&format!(
                    "RUN echo {architecture} of {} > /picked",
                    self.seed
                )),
            }
        }
        let mut stage = Stage {
            is_of_target: true,
            ..Stage::busybox(name)
        };
        stage.known.add("/picked", Kind::File);
        ("pick-$TARGETARCH".to_owned(), stage)
    }

    /// Declares what the platform's names are.
    pub fn declare(&mut self) {
        if !self.stage.has_arguments {
            self.stage.has_arguments = true;
            self.line("ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM");
        }
    }

    fn instruction(&mut self) {
        let commands = self.stage.has_shell;
        match self.dice.between(0, 99) {
            0..18 if commands => self.make(),
            18..30 if commands => self.look(),
            30..35 if commands => self.change(),
            35..50 if commands => self.mount(),
            50..54 if commands => self.heredoc_command(),
            54..60 => self.setting(),
            60..64 => self.heredoc_file(),
            64..72 => self.add(),
            0..30 | 72..86 => self.copy_from_stage(),
            _ => self.copy_from_context(),
        }
    }

    /// Something of an earlier stage.
    fn take_from(&mut self, stage: &Stage) {
        if self.stage.has_shell && self.stage.user == User::Root && self.dice.chance(30) {
            self.mount_of_stage(stage);
        } else {
            for _ in 0..self.dice.between(1, 2) {
                self.copy_from(stage);
            }
        }
    }

    /// A word that no other part of this Dockerfile has.
    pub fn name(&mut self, start: &str) -> String {
        self.names += 1;
        format!("{start}{}", self.names)
    }

    pub fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Further arguments of the build.
    pub fn argument(&mut self, argument: &str) {
        if !self.arguments.iter().any(|one| one == argument) {
            self.arguments.push(argument.to_owned());
        }
    }
}
