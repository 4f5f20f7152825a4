//! Other architectures' programs on this machine: qemu's user emulation, known to the kernel in a way that reaches into containers.
//!
//! The kernel opens the emulator when it is registered (flag F), so a container needs no file of it. A registration is the
//! kernel's, for all of the machine: it stays when the farm ends, and a good one that is there already is left as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{fetch, run};
use crate::error::{Doing, Error, Result};

const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";
/// Where Debian's packages keep the kernel's lines about their emulators.
const LINES: &str = "usr/lib/binfmt.d";
/// The architectures of a farm, as qemu calls them, and the 32-bit one that a pretended arm64 has beside it.
const ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "arm", "ppc64le", "s390x"];

/// Makes containers of every architecture of a farm run here.
pub(crate) fn enable() -> Result<()> {
    let missing: Vec<_> = foreign()
        .filter(|name| !works(&format!("qemu-{name}")) && !works(&own(name)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    mount()?;
    for name in missing {
        if !works(&format!("qemu-{name}")) {
            register(name)?;
        }
    }
    Ok(())
}

fn foreign() -> impl Iterator<Item = &'static str> {
    // An emulator of 32-bit arm would come before a processor that runs it.
    let own: &[&str] = match std::env::consts::ARCH {
        "powerpc64" => &["ppc64le"],
        "aarch64" => &["aarch64", "arm"],
        "x86_64" => &["x86_64"],
        "s390x" => &["s390x"],
        _ => &[],
    };
    ARCHITECTURES
        .into_iter()
        .filter(move |name| !own.contains(name))
}

/// The name of an entry beside one that is there but cannot be used in containers.
fn own(name: &str) -> String {
    format!("croft-qemu-{name}")
}

/// Whether the kernel knows an enabled entry whose emulator works in containers.
fn works(entry: &str) -> bool {
    fs::read_to_string(Path::new(BINFMT_MISC).join(entry)).is_ok_and(|text| usable(&text))
}

fn usable(entry: &str) -> bool {
    let flags = entry
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap_or_default();
    entry.lines().next() == Some("enabled") && flags.contains('F')
}

fn mount() -> Result<()> {
    let mounted = || Path::new(BINFMT_MISC).join("register").exists();
    if mounted() {
        return Ok(());
    }
    let mut command = Command::new("mount");
    command.args(["-t", "binfmt_misc", "binfmt_misc", BINFMT_MISC]);
    match run(&mut command) {
        // Another engine of the farm may have been quicker.
        Err(_) if mounted() => Ok(()),
        Err(Error::Command { output, .. }) => Err(Error::Missing {
            what: "the kernel's binfmt_misc".to_owned(),
            remedy: format!(
                "as root: modprobe binfmt_misc; mount -t binfmt_misc binfmt_misc {BINFMT_MISC} ({})",
                output.trim()
            ),
        }),
        other => other.map(drop),
    }
}

fn register(name: &str) -> Result<()> {
    let root = emulators(name)?;
    let path = root.join(LINES).join(format!("qemu-{name}.conf"));
    let text = fs::read_to_string(&path).doing("read", &path)?;
    let standard = format!("qemu-{name}");
    let entry = if Path::new(BINFMT_MISC).join(&standard).exists() {
        own(name)
    } else {
        standard
    };
    let line = text
        .lines()
        .find_map(|line| aim(line, &entry, &root))
        .ok_or_else(|| Error::Missing {
            what: format!("the kernel's line about qemu-{name}"),
            remedy: format!("{} has none; reinstall qemu-user-static", path.display()),
        })?;
    let register = Path::new(BINFMT_MISC).join("register");
    match fs::write(&register, line) {
        // Another farm may have been quicker.
        Err(_) if works(&entry) => Ok(()),
        outcome => outcome.doing("register an emulator (as root) in", &register),
    }
}

/// The root below which an emulator and its line are: the system's, or what is fetched.
fn emulators(name: &str) -> Result<PathBuf> {
    let system = Path::new("/");
    if system
        .join(LINES)
        .join(format!("qemu-{name}.conf"))
        .is_file()
    {
        return Ok(system.to_owned());
    }
    Ok(fetch("qemu-user-static")?.root)
}

/// A package's line for the kernel, under another name and with the emulator below `root`.
fn aim(line: &str, entry: &str, root: &Path) -> Option<String> {
    let fields: Vec<_> = line.trim().strip_prefix(':')?.split(':').collect();
    let [_, kind, offset, magic, mask, emulator, flags] = fields.as_slice() else {
        return None;
    };
    let emulator = root.join(emulator.strip_prefix('/')?);
    let fix = if flags.contains('F') { "" } else { "F" };
    Some(format!(
        ":{entry}:{kind}:{offset}:{magic}:{mask}:{}:{flags}{fix}",
        emulator.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enabled_entry_that_holds_its_emulator_open_counts() {
        assert!(usable(
            "enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: OCF\noffset 0\n"
        ));
        assert!(!usable(
            "enabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: OC\noffset 0\n"
        ));
        assert!(!usable(
            "disabled\ninterpreter /usr/bin/qemu-s390x-static\nflags: F\n"
        ));
        assert!(!usable(""));
    }

    #[test]
    fn a_packaged_line_is_aimed_at_the_fetched_emulator() {
        let line = r":qemu-s390x:M::\x7fELF:\xff\xff:/usr/libexec/qemu-binfmt/s390x-binfmt-P:OP";
        assert_eq!(
            aim(line, "croft-qemu-s390x", Path::new("/cache/q")).unwrap(),
            r":croft-qemu-s390x:M::\x7fELF:\xff\xff:/cache/q/usr/libexec/qemu-binfmt/s390x-binfmt-P:OPF"
        );
        assert!(aim("# a remark", "x", Path::new("/")).is_none());
    }
}
