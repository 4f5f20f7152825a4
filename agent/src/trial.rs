//! Whether this machine's processor runs 32-bit arm: found out by running a program.
//!
//! An engine that lists 32-bit arm beside arm64 has run a program too, but can't tell the processor from an emulator; and what it lists may
//! just be its configuration. So a program of ours is run, and while it waits the kernel is asked what it really runs: an emulated
//! program is the emulator's process. Needs no file, no binfmt_misc to look into, and no rights.

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::{Command, Stdio},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::platform::Arm32;

/// What the programs end with: a number that nothing else ends with.
const ANSWER: u8 = 42;

/// ELF's number for 32-bit arm, and its flag for the ABI that Linux has there.
const ARM: (u16, u32) = (40, 0x0500_0000);
/// Waits until it can't read from its standard input any more, and ends with [`ANSWER`].
const ARM_CODE: [u32; 8] = [
    0xe3a0_7003,                 // mov r7, #3 (read)
    0xe3a0_0000,                 // mov r0, #0
    0xe1a0_100d,                 // mov r1, sp
    0xe3a0_2001,                 // mov r2, #1
    0xef00_0000,                 // svc #0
    0xe3a0_7001,                 // mov r7, #1 (exit)
    0xe3a0_0000 | ANSWER as u32, // mov r0, #ANSWER
    0xef00_0000,                 // svc #0
];

/// What became of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    /// The processor ran it.
    Natively,
    /// Something ran it for the processor.
    Emulated,
}

/// Tries it on this machine. Says nothing about an engine on another one.
pub fn arm32_here() -> Arm32 {
    let code: Vec<u8> = ARM_CODE
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    match run(&elf32(ARM, &code)) {
        Ok(Ran::Natively) => Arm32::Proven,
        Ok(Ran::Emulated) => Arm32::Unproven,
        Err(error) => {
            tracing::debug!(%error, "this machine runs no 32-bit arm programs");
            Arm32::Unproven
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
fn elf32((machine, flags): (u16, u32), code: &[u8]) -> Vec<u8> {
    const HEADERS: u16 = 52 + 32;
    /// Above what the kernel keeps free, and on a page's beginning however large pages are.
    const ADDRESS: u32 = 0x1_0000;
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
    use std::path::Path;

    use super::*;

    /// The same program for 32-bit x86.
    const I386: (u16, u32) = (3, 0);
    const I386_CODE: [u8; 25] = [
        0xb8, 3, 0, 0, 0, // mov eax, 3 (read)
        0x31, 0xdb, // xor ebx, ebx
        0x89, 0xe1, // mov ecx, esp
        0xba, 1, 0, 0, 0, // mov edx, 1
        0xcd, 0x80, // int 0x80
        0xb8, 1, 0, 0, 0, // mov eax, 1 (exit)
        0xb3, ANSWER, // mov bl, ANSWER
        0xcd, 0x80, // int 0x80
    ];

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_32_bit_program_of_this_processors_own_is_seen_to_run_natively() {
        assert_eq!(run(&elf32(I386, &I386_CODE)).unwrap(), Ran::Natively);
    }

    /// Where arm runs here at all, an emulator runs it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_program_that_an_emulator_runs_proves_nothing() {
        let emulator = ["qemu-arm", "croft-qemu-arm"]
            .iter()
            .any(|name| Path::new("/proc/sys/fs/binfmt_misc").join(name).exists());
        let code: Vec<u8> = ARM_CODE
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let ran = run(&elf32(ARM, &code));
        match emulator {
            true => assert_eq!(ran.unwrap(), Ran::Emulated),
            false => assert!(ran.is_err()),
        }
        assert_eq!(arm32_here(), Arm32::Unproven);
    }

    #[test]
    fn what_is_no_program_and_what_answers_wrongly_proves_nothing() {
        assert!(run(b"no program").is_err());
        assert!(run(b"#!/bin/true\n").is_err());
    }
}
