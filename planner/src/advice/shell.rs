//! The simple commands in what a step runs, and the few tools of which it is known that the platform that they run on doesn't matter to what
//! they make. Not a shell: what isn't plain is taken for a command that nobody knows.

use super::steps::Command;

/// A tool that need not run on the platform that it works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tool {
    /// As people call it.
    pub name: &'static str,
    pub result: Makes,
}

/// What a tool makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Makes {
    /// Something for whatever platform it is told.
    AnyTarget,
    /// The same on every platform.
    TheSame,
    /// The same on every platform, beside a `node_modules` that may not be.
    TheSameBesideModules,
}

/// The words of each simple command of a step.
pub(super) fn commands(command: &Command) -> Vec<Vec<String>> {
    let script = match command.args.as_slice() {
        [shell, flags, script]
            if is_shell(shell) && flags.starts_with('-') && flags.ends_with('c') =>
        {
            script.as_str()
        }
        args => return vec![args.to_vec()],
    };
    let joined = script.replace("\\\n", " ");
    let parts = joined.split(['\n', ';', '|', '&', '(', ')', '{', '}']);
    let words = parts.map(|part| {
        let words = part.split_whitespace().map(str::to_owned);
        words.collect::<Vec<_>>()
    });
    words.filter(|words| !words.is_empty()).collect()
}

fn is_shell(path: &str) -> bool {
    matches!(
        path.rsplit('/').next(),
        Some("sh" | "bash" | "ash" | "dash")
    )
}

/// A word as it is without quotes.
fn plain(word: &str) -> &str {
    word.trim_matches(['"', '\''])
}

/// A simple command without the variables that are set for it.
fn program(words: &[String]) -> &[String] {
    let is_setting = |word: &String| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let start = words.iter().position(|word| !is_setting(word));
    start.map_or(&[], |start| &words[start..])
}

/// The first tool of a step that need not run on its target's platform.
pub(super) fn tool(command: &Command) -> Option<Tool> {
    commands(command).iter().find_map(|words| {
        let links_c = words.iter().any(|word| plain(word) == "CGO_ENABLED=1")
            || command.value("CGO_ENABLED") == Some("1");
        let words: Vec<&str> = program(words).iter().map(|word| plain(word)).collect();
        let (first, rest) = words.split_first()?;
        let name = first.rsplit('/').next()?;
        let sub = rest.iter().find(|word| !word.starts_with('-')).copied();
        use Makes::{AnyTarget, TheSame, TheSameBesideModules};
        let (name, result) = match (name, sub?) {
            ("go", "build" | "install") if !links_c => ("go", AnyTarget),
            ("go", "generate") => ("go generate", TheSame),
            ("zig", "build" | "cc") => ("zig", AnyTarget),
            ("dotnet", "build" | "publish") => ("dotnet", AnyTarget),
            ("mvn" | "mvnw", "package" | "install" | "verify") => ("Maven", TheSame),
            ("gradle" | "gradlew", "build" | "assemble" | "jar" | "bootJar" | "installDist") => {
                ("Gradle", TheSame)
            }
            ("npm" | "pnpm" | "yarn" | "bun", "run" | "build")
                if rest.iter().any(|word| word.starts_with("build")) =>
            {
                ("a JavaScript build", TheSameBesideModules)
            }
            ("hugo" | "jekyll" | "mkdocs", _) => ("a site generator", TheSame),
            ("protoc" | "buf", _) => ("protoc", TheSame),
            _ => return None,
        };
        Some(Tool { name, result })
    })
}

/// Whether a step installs packages of a distribution and does nothing else.
pub(super) fn only_installs(command: &Command) -> bool {
    let mut installs = false;
    let harmless = commands(command).iter().all(|words| {
        let words: Vec<&str> = program(words).iter().map(|word| plain(word)).collect();
        let Some((first, rest)) = words.split_first() else {
            return true;
        };
        let sub = rest.iter().find(|word| !word.starts_with('-')).copied();
        match *first {
            "apt-get" | "apt" | "apk" | "dnf" | "microdnf" | "yum" | "zypper" => {
                if matches!(sub, Some("install" | "add" | "in")) {
                    installs = true;
                    // A package in a file may be what was copied; so may a key or a list that an option names.
                    rest.iter().all(|word| !word.contains('/'))
                } else {
                    true
                }
            }
            "rm" => rest
                .iter()
                .all(|word| word.starts_with('-') || word.starts_with("/var/")),
            "set" | "true" | "export" => true,
            _ => false,
        }
    });
    installs && harmless
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::pb;

    use super::*;

    fn run(script: &str) -> Command {
        Command {
            exec: pb::ExecOp::default(),
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            folder: "/".to_owned(),
        }
    }

    #[test]
    fn tools_are_known_by_what_they_are_told_to_do() {
        for (script, name) in [
            ("go build -o /app .", "go"),
            ("cd /src && CGO_ENABLED=0 GOOS=linux go build", "go"),
            ("set -e; /usr/local/go/bin/go install ./...", "go"),
            ("./mvnw -B package -DskipTests", "Maven"),
            ("npm ci && npm run build", "a JavaScript build"),
            ("yarn build", "a JavaScript build"),
        ] {
            assert_eq!(
                tool(&run(script)).map(|tool| tool.name),
                Some(name),
                "{script}"
            );
        }
        for script in [
            "go mod download",
            "go test ./...",
            "CGO_ENABLED=1 go build",
            "echo go build",
            "make",
            "npm ci",
            "uname -m > /machine",
            "",
        ] {
            assert_eq!(tool(&run(script)), None, "{script}");
        }
    }

    #[test]
    fn a_step_that_does_more_than_install_is_left_alone() {
        for script in [
            "apk add ca-certificates",
            "apt-get update && apt-get install -y --no-install-recommends curl \\\n tzdata && rm -rf /var/lib/apt/lists/*",
        ] {
            assert!(only_installs(&run(script)), "{script}");
        }
        for script in [
            "apt-get update",
            "apt-get install -y /tmp/own.deb",
            "apk add curl && /app --version",
            "apk add curl && rm -rf /app",
            "$INSTALL curl",
            "",
        ] {
            assert!(!only_installs(&run(script)), "{script}");
        }
    }
}
