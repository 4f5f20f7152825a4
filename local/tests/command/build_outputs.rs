//! Results go where they are wanted: folders, archives, standard output, the machine's own engine.

use std::{fs, process::Command};

use crate::build::{build, repository};
use crate::support::{Context, Croft, farm, process};

const TWO: &str = "--platform=linux/amd64,linux/arm64";

fn context() -> Context {
    Context::new(
        "FROM busybox AS made\nRUN echo $NONCE > /file && uname -m > /machine\nFROM scratch\nCOPY --from=made /file /machine /\n",
    )
}

#[test]
fn a_folder_an_archive_and_a_registry_at_once() {
    let croft = Croft::of(farm());
    let context = context();
    let image = repository();
    let name = image.tag("1");
    let (folder, tar) = (croft.home().join("out"), croft.home().join("deep/out.tar"));
    let local = format!("--output={}", folder.display());
    let archive = format!("--output=type=tar,dest={}", tar.display());
    let words = [TWO, &local, &archive, "--push", "-t", &name];
    build(&croft, &context, &words).succeeded();
    for (platform, machine) in [("linux_amd64", "x86_64\n"), ("linux_arm64", "aarch64\n")] {
        let at = folder.join(platform);
        assert_eq!(fs::read_to_string(at.join("machine")).unwrap(), machine);
        let file = fs::read_to_string(at.join("file")).unwrap();
        assert_eq!(file, format!("{}\n", context.nonce));
    }
    let mut list = Command::new("tar");
    list.arg("-tf").arg(&tar);
    let listed = process::run(list).succeeded().stdout;
    assert!(listed.contains("linux_arm64/machine"), "{listed}");
    assert_eq!(
        image.published("1").platforms(),
        ["linux/amd64", "linux/arm64"]
    );
}

#[test]
fn an_archive_goes_to_standard_output_and_progress_beside_it() {
    let croft = Croft::of(farm());
    let context = context();
    let words = ["build", "--output=-", "--progress=plain"];
    let mut command = croft.command(words);
    command.arg(context.path());
    let tar = croft.home().join("out.tar");
    command.stdout(fs::File::create(&tar).unwrap());
    let output = command
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{progress}");
    assert!(progress.contains(" DONE "), "{progress}");
    let mut read = Command::new("tar");
    read.arg("-xOf").arg(&tar).arg("file");
    assert_eq!(
        process::run(read).succeeded().stdout,
        format!("{}\n", context.nonce)
    );
}

#[test]
fn an_image_is_loaded_into_the_engine_of_this_machine() {
    let farm = farm();
    // A docker that is as the machine's own would be: it says what it is, and takes what is loaded.
    let croft = Croft::of(farm);
    let programs = croft.home().join("bin");
    fs::create_dir(&programs).unwrap();
    let docker = programs.join("docker");
    let loaded = croft.home().join("loaded.tar");
    let script = format!(
        "#!/bin/sh\ncase $1 in\ninfo) echo '[[\"driver-type\",\"io.containerd.snapshotter.v1\"]]';;\n\
         load) cat > {}; echo 'Loaded image: x:1';;\nesac\n",
        loaded.display()
    );
    fs::write(&docker, script).unwrap();
    let mut executable = Command::new("chmod");
    executable.arg("+x").arg(&docker);
    process::run(executable).succeeded();
    let path = std::env::var("PATH").expect("a PATH");
    let croft = croft.env("PATH", &format!("{}:{path}", programs.display()));
    let built = build(&croft, &context(), &["--load", "-t", "x:1", TWO]).succeeded();
    assert!(
        built.stderr.contains("Loaded image: x:1"),
        "{}",
        built.report()
    );
    let mut list = Command::new("tar");
    list.arg("-xOf").arg(&loaded).arg("index.json");
    let index = process::run(list).succeeded().stdout;
    assert!(index.contains("x:1"), "{index}");
}
