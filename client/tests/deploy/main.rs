//! What `deploy/` promises: the real programs, started with exactly the flags and variables of its files, make a farm. Only addresses and
//! paths are this machine's, and each replacement must find what it replaces.

mod farm;
mod files;

use std::{collections::BTreeMap, fs};

use croft_local::Binaries;
use farm::{Around, Running};
use files::Launch;

#[test]
fn the_systemd_units_start_a_farm() {
    let around = Around::new();
    let unit = |name: &str| {
        let (launch, credentials) = files::systemd(
            &format!("systemd/croft-{name}.service"),
            &format!("systemd/{name}.env"),
        );
        let folder = around.new_folder(&format!("credentials-{name}"));
        for (id, path) in credentials {
            let name = path
                .strip_prefix("/etc/croft/")
                .expect("in the documented folder");
            let name = name.strip_prefix("tls/").unwrap_or(name);
            fs::copy(around.tls(name), format!("{folder}/{id}")).expect(name);
        }
        launch.replace("%d", &folder)
    };
    let coordinator = unit("coordinator")
        .replace("0.0.0.0:8372", &around.clients.to_string())
        .replace("0.0.0.0:8373", &around.agents.to_string())
        .replace(
            "postgres://croft:PASSWORD@127.0.0.1:5432/croft",
            &around.database,
        )
        .replace("farm.example:5000", &around.registry.address().to_string());
    let agent = unit("agent")
        .replace("%S", &around.new_folder("state"))
        .replace("farm.example:8373", &Around::host(around.agents))
        .replace("docker+unix:///var/run/docker.sock", around.engine);
    let name = nix::unistd::gethostname()
        .expect("a name")
        .into_string()
        .expect("UTF-8");
    becomes_a_farm_for(
        &around,
        coordinator,
        agent,
        &name,
        buildx_builds_through_tls,
    );
}

#[test]
fn the_compose_file_starts_a_farm() {
    let around = Around::new();
    let mut variables = files::example_env();
    for (name, value) in [
        ("CROFT_HOST", "localhost"),
        ("CROFT_DATABASE_PASSWORD", "secret"),
    ] {
        assert!(
            variables
                .insert(name.to_owned(), value.to_owned())
                .is_some(),
            "example.env lacks {name}"
        );
    }
    let service = |name: &str| {
        let (mut launch, secrets) = files::compose(name, &variables);
        for (name, file) in secrets {
            let file = around.tls(file.strip_prefix("secrets/").expect("in secrets/"));
            assert!(file.exists(), "nothing makes {}", file.display());
            // Whole names: one may start like another.
            let from = format!("/run/secrets/{name}");
            for text in launch.args.iter_mut().chain(launch.env.values_mut()) {
                if let Some(flag) = text.strip_suffix(&from) {
                    *text = format!("{flag}{}", file.display());
                }
            }
        }
        assert!(
            !format!("{launch:?}").contains("/run/secrets"),
            "a secret is not given to {name}: {launch:?}"
        );
        launch
    };
    let coordinator = service("coordinator")
        .replace("0.0.0.0:8372", &around.clients.to_string())
        .replace("0.0.0.0:8373", &around.agents.to_string())
        .replace(
            "postgres://croft:secret@postgres:5432/croft",
            &around.database,
        )
        .replace("localhost:5000", &around.registry.address().to_string());
    let agent = service("agent")
        .replace("localhost:8373", &Around::host(around.agents))
        .replace("/var/lib/croft-agent", &around.new_folder("state"))
        .replace("docker+unix:///var/run/docker.sock", around.engine);
    becomes_a_farm(&around, coordinator, agent, "farm");
}

#[test]
fn the_kubernetes_example_starts_a_farm() {
    let around = Around::new();
    let database = around.database.clone();
    let from = BTreeMap::from([
        ("database/url", database.as_str()),
        ("spec.nodeName", "node-7"),
    ]);
    let tls = around.tls("").to_str().expect("UTF-8").to_owned();
    let password = around.tls("stage-registry-password");
    let coordinator = files::kubernetes("coordinator", &from)
        .replace("0.0.0.0:8372", &around.clients.to_string())
        .replace("0.0.0.0:8373", &around.agents.to_string())
        .replace(
            "registry.example:5000",
            &around.registry.address().to_string(),
        )
        .replace(
            "/etc/croft/stage-registry/password",
            password.to_str().expect("UTF-8"),
        )
        .replace("/etc/croft/tls/", &tls);
    let agent = files::kubernetes("agent", &from)
        .replace("coordinator.croft.svc:8373", &Around::host(around.agents))
        .replace("unix:///run/buildkit/buildkitd.sock", around.engine)
        .replace("/var/lib/croft-agent", &around.new_folder("state"))
        .replace("/etc/croft/tls/", &tls);
    becomes_a_farm(&around, coordinator, agent, "node-7");
}

/// The farm as docs/start.md has it for buildx.
fn buildx_builds_through_tls(around: &Around) {
    let bench = croft_local::Workbench::shared().expect("an engine and its registry");
    let config = around.new_folder("buildx");
    let buildx = |args: &[&str]| {
        let mut command = croft_local::buildx().expect("buildx").command();
        let command = command
            .env("BUILDX_CONFIG", &config)
            .env("DOCKER_CONFIG", &config);
        let output = command.args(args).output().expect("it runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let file = |name: &str| around.tls(name).to_str().expect("UTF-8").to_owned();
    let endpoint = format!("tcp://{}", Around::host(around.clients));
    let options = format!(
        "cacert={},cert={},key={}",
        file("ca.pem"),
        file("alice.pem"),
        file("alice.key")
    );
    let (done, said) = buildx(&[
        "create",
        "--name",
        "farm",
        "--driver",
        "remote",
        "--driver-opt",
        &options,
        &endpoint,
    ]);
    assert!(done, "{said}");
    let registry = bench.registry.address();
    let image = format!("{registry}/deploy:{}", around.clients.port());
    let base = format!("BASE={registry}/library/busybox");
    let context = files::path("../examples/per-platform");
    let context = context.to_str().expect("UTF-8");
    let (done, said) = buildx(&[
        "build",
        "--builder",
        "farm",
        "--push",
        "--build-arg",
        &base,
        "-t",
        &image,
        context,
    ]);
    assert!(done, "{said}");
    let shown = around.croft(
        Some("alice"),
        around.clients,
        &["builds", "show", "--format", "json"],
    );
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(
        (&shown["state"], &shown["published"]),
        (&"succeeded".into(), &serde_json::json!([image])),
        "{shown}"
    );
}

/// Starts both, sees the agent through the client port, tries who is let in where, and ends both as a service manager does.
fn becomes_a_farm(around: &Around, coordinator: Launch, agent: Launch, name: &str) {
    becomes_a_farm_for(around, coordinator, agent, name, |_| {});
}

/// The same, and what `then` does with it.
fn becomes_a_farm_for(
    around: &Around,
    coordinator: Launch,
    agent: Launch,
    name: &str,
    then: impl FnOnce(&Around),
) {
    let mut coordinator = Running::start(around, "coordinator", coordinator);
    coordinator.wait_announced();
    let mut agent = Running::start(around, "agent", agent);
    agent.wait_until("the agent is connected", || {
        let output = around.croft(
            Some("alice"),
            around.clients,
            &["agents", "ls", "--format", "json"],
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let agents: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let agents = agents.as_array().expect("a list");
        agents
            .iter()
            .any(|agent| agent["name"] == name && agent["state"] == "connected")
    });

    // Whoever may build can't pose as an agent, and an agent can't build.
    for (who, address, let_in) in [
        (Some("alice"), around.clients, true),
        (Some("agent"), around.clients, false),
        (None, around.clients, false),
        (Some("alice"), around.agents, false),
        (None, around.agents, false),
    ] {
        let output = around.croft(who, address, &["builds", "ls"]);
        let code = if let_in { 0 } else { 4 };
        assert_eq!(
            output.status.code(),
            Some(code),
            "{who:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // The agents' port lets agents in, and has nothing for croft.
    let output = around.croft(Some("agent"), around.agents, &["builds", "ls"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    then(around);

    let password = farm::secret(&around.tls("stage-registry-password"));
    for part in [&coordinator, &agent] {
        let log = part.log();
        assert!(
            !log.contains('\u{1b}'),
            "a log that no terminal shows has colours: {log}"
        );
        assert!(
            !log.contains(&password) && !log.contains(&around.database),
            "a secret is in a log: {log}"
        );
    }
    assert!(agent.terminate().success());
    assert!(coordinator.terminate().success());
}

#[test]
fn the_images_are_built_from_every_crate() {
    let ignore = files::read("Dockerfile.dockerignore");
    let manifest = fs::read_to_string(files::path("../Cargo.toml")).expect("the workspace");
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = "))
        .expect("members");
    let members: Vec<String> = serde_json::from_str(members).expect("a list");
    let others = [
        "Cargo.toml",
        "Cargo.lock",
        ".cargo",
        ".sqlx",
        "migrations",
        "deploy/install.sh",
    ]
    .map(str::to_owned);
    for name in members.iter().chain(&others) {
        assert!(
            ignore.lines().any(|line| line == format!("!{name}")),
            "the build context lacks {name}"
        );
    }
}

#[test]
fn the_command_is_installed_with_completions_and_man_pages_where_they_are_looked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let programs = Binaries::find().expect("the programs").croft();
    let programs = programs.parent().expect("a folder");
    let installed = |words: &[&std::path::Path]| {
        let mut install = std::process::Command::new(files::path("install.sh"));
        install
            .args(words)
            .env("DESTDIR", folder.path())
            .env("PREFIX", "/opt/croft")
            .output()
            .expect("it runs")
    };
    let refused = installed(&[]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("say where the programs are"));
    let output = installed(&[programs]);
    assert!(output.status.success(), "{output:?}");
    let root = folder.path().join("opt/croft");
    let run = |words: &[&str]| {
        let mut croft = std::process::Command::new(root.join("bin/croft"));
        let output = croft.args(words).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for (shell, place) in [
        ("bash", "bash-completion/completions/croft"),
        ("zsh", "zsh/site-functions/_croft"),
        ("fish", "fish/vendor_completions.d/croft.fish"),
    ] {
        let script = fs::read_to_string(root.join("share").join(place)).expect("a script");
        assert!(script.contains("croft"), "{shell}");
        assert_eq!(script, run(&["completion", shell]));
    }
    // bash itself knows what to offer.
    let asked = "source \"$1\"; COMP_WORDS=(croft builds l); COMP_CWORD=2; _croft croft l builds; echo \"${COMPREPLY[*]}\"";
    let bash = std::process::Command::new("bash")
        .args(["-c", asked, "bash"])
        .arg(root.join("share/bash-completion/completions/croft"))
        .output()
        .expect("bash");
    assert_eq!(
        String::from_utf8_lossy(&bash.stdout).trim(),
        "ls logs",
        "{bash:?}"
    );
    let pages = root.join("share/man/man1");
    for page in ["croft.1", "croft-build.1", "croft-builds-ls.1"] {
        let text = fs::read_to_string(pages.join(page)).expect("a page");
        assert!(text.contains(".TH croft"), "{page}: {text}");
    }
    for program in ["croft-coordinator", "croft-agent"] {
        assert!(root.join("bin").join(program).is_file(), "{program}");
    }
}

#[test]
fn certificates_are_made_only_for_what_is_asked() {
    for args in [
        &[][..],
        &["/nowhere"],
        &["/nowhere", "server", "x"],
        &["/nowhere", "king", "x"],
        &["/nowhere", "client"],
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let args = args
            .iter()
            .map(|arg| arg.replace("/nowhere", folder.path().to_str().expect("UTF-8")));
        let output = std::process::Command::new(files::path("certificates.sh"))
            .args(args)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("certificates.sh FOLDER server"));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
