//! Whether this machine's 64-bit processor and kernel also run the 32-bit programs of their family: found out by running one.
//!
//! An engine runs such programs too before it lists a platform, but can't tell the processor from an emulator; what it lists may just be its
//! configuration, and some builds of it have no programs to try. So a program of ours is run, and while it waits the kernel is asked what
//! it really runs: an emulated program is the emulator's process. Needs no file, no binfmt_misc to look into, and no rights.

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::{Command, Stdio},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use croft_buildkit::{api::pb::Platform, platform};

/// What the programs end with: a number that nothing else ends with.
const ANSWER: u8 = 42;

/// A family's 32-bit program: waits until it can't read from its standard input any more, and ends with [`ANSWER`].
struct Program {
    /// ELF's number for the machine.
    machine: u16,
    /// ELF's flags: the ABI that Linux has there.
    flags: u32,
    code: &'static [u8],
    /// What a machine that runs it can build for.
    proves: &'static [&'static str],
}

const I386: Program = Program {
    machine: 3,
    flags: 0,
    code: &[
        0xb8, 3, 0, 0, 0, // mov eax, 3 (read)
        0x31, 0xdb, // xor ebx, ebx
        0x89, 0xe1, // mov ecx, esp
        0xba, 1, 0, 0, 0, // mov edx, 1
        0xcd, 0x80, // int 0x80
        0xb8, 1, 0, 0, 0, // mov eax, 1 (exit)
        0xb3, ANSWER, // mov bl, ANSWER
        0xcd, 0x80, // int 0x80
    ],
    proves: &["linux/386"],
};

const ARM: Program = Program {
    machine: 40,
    flags: 0x0500_0000,
    code: &[
        0x03, 0x70, 0xa0, 0xe3, // mov r7, #3 (read)
        0x00, 0x00, 0xa0, 0xe3, // mov r0, #0
        0x0d, 0x10, 0xa0, 0xe1, // mov r1, sp
        0x01, 0x20, 0xa0, 0xe3, // mov r2, #1
        0x00, 0x00, 0x00, 0xef, // svc #0
        0x01, 0x70, 0xa0, 0xe3, // mov r7, #1 (exit)
        ANSWER, 0x00, 0xa0, 0xe3, // mov r0, #ANSWER
        0x00, 0x00, 0x00, 0xef, // svc #0
    ],
    proves: &["linux/arm/v7", "linux/arm/v6"],
};

/// What became of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    /// The processor ran it.
    Natively,
    /// Something ran it for the processor.
    Emulated,
}

/// The 32-bit platforms that this machine's own processor runs. Says nothing about an engine on another machine.
pub fn proven_here() -> Vec<Platform> {
    match std::env::consts::ARCH {
        "x86_64" => proven_by(&I386),
        "aarch64" => proven_by(&ARM),
        _ => Vec::new(),
    }
}

fn proven_by(program: &Program) -> Vec<Platform> {
    match run(&elf32(program)) {
        Ok(Ran::Natively) => {
            let proves = program.proves.iter();
            proves.filter_map(|text| platform::parse(text)).collect()
        }
        Ok(Ran::Emulated) => Vec::new(),
        Err(error) => {
            tracing::debug!(%error, "this machine runs no 32-bit programs");
            Vec::new()
        }
    }
}

fn run(program: &[u8]) -> io::Result<Ran> {
    let mut file = fs::File::from(memfd_create("croft-trial", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(program)?;
    let ours = file.metadata()?;
    let mut child = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // It runs by now, and waits for its standard input to be closed.
    let runs = fs::metadata(format!("/proc/{}/exe", child.id()));
    drop(child.stdin.take());
    let status = child.wait()?;
    if status.code() != Some(ANSWER.into()) {
        return Err(io::Error::other(format!("the program ended with {status}")));
    }
    let runs = runs?;
    match (runs.dev(), runs.ino()) == (ours.dev(), ours.ino()) {
        true => Ok(Ran::Natively),
        false => Ok(Ran::Emulated),
    }
}

/// A whole 32-bit program of nothing but code.
fn elf32(program: &Program) -> Vec<u8> {
    const HEADERS: u16 = 52 + 32;
    /// Above what the kernel keeps free, and on a page's beginning however large pages are.
    const ADDRESS: u32 = 0x1_0000;
    let Program {
        machine,
        flags,
        code,
        ..
    } = *program;
    let size = u32::from(HEADERS) + u32::try_from(code.len()).unwrap_or(u32::MAX);
    let mut elf = b"\x7fELF\x01\x01\x01".to_vec();
    elf.resize(16, 0);
    let halves = |elf: &mut Vec<u8>, values: &[u16]| {
        elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let words = |elf: &mut Vec<u8>, values: &[u32]| {
        elf.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    // Executable; version; entry, program headers' and sections' place, flags.
    halves(&mut elf, &[2, machine]);
    words(&mut elf, &[1, ADDRESS + u32::from(HEADERS), 52, 0, flags]);
    // Sizes of the headers and their numbers: one program header, no sections.
    halves(&mut elf, &[52, 32, 1, 40, 0, 0]);
    // Load all of it, to be read and run.
    words(&mut elf, &[1, 0, ADDRESS, ADDRESS, size, size, 5, 0x1_0000]);
    elf.extend(code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_32_bit_program_of_this_processors_own_is_seen_to_run_natively() {
        assert_eq!(run(&elf32(&I386)).unwrap(), Ran::Natively);
        assert_eq!(proven_here().len(), 1);
    }

    /// Where arm runs here at all, an emulator runs it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_program_that_an_emulator_runs_proves_nothing() {
        let emulator = ["qemu-arm", "croft-qemu-arm"].iter().any(|name| {
            let entry = std::path::Path::new("/proc/sys/fs/binfmt_misc").join(name);
            fs::read_to_string(entry).is_ok_and(|text| text.starts_with("enabled"))
        });
        let ran = run(&elf32(&ARM));
        match emulator {
            true => assert_eq!(ran.unwrap(), Ran::Emulated),
            false => assert!(ran.is_err()),
        }
        assert_eq!(proven_by(&ARM), []);
    }

    #[test]
    fn what_is_no_program_and_what_answers_wrongly_proves_nothing() {
        assert!(run(b"no program").is_err());
        assert!(run(b"#!/bin/true\n").is_err());
    }
}
