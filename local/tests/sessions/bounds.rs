//! What a client's session sends passes through: it fills nobody's memory.

use std::{
    fs,
    io::{Write as _, pipe},
    thread,
};

use crate::support::{Buildx, Context, farm_of};

/// What an upload may cost the coordinator, and what an agent.
const BOUND: u64 = 64 << 20;
const UPLOAD: u64 = 300 << 20;

/// The most resident memory that a process has had, in bytes.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("VmHWM").parse::<u64>().expect("a number") << 10
}

#[test]
fn an_upload_fills_nobodys_memory() {
    let farm = farm_of("amd64", &[]);
    let buildx = Buildx::of(&farm);
    let processes = || {
        let agents = farm.agents().iter().map(|agent| agent.process());
        let all = agents.chain([farm.coordinator_process()]);
        all.map(|process| peak(process.expect("it runs")))
            .collect::<Vec<_>>()
    };
    let small = Context::new("FROM busybox\nRUN : $NONCE\n");
    buildx.build(&small).run().succeeded();
    let before = processes();

    let context =
        Context::new("FROM busybox\nCOPY large /\nRUN : $NONCE && wc -c < /large | tee /size\n");
    let dockerfile = fs::read(context.path().join("Dockerfile")).expect("there");
    let (from, mut to) = pipe().expect("a pipe");
    let writer = thread::spawn(move || {
        let entry = |name: &str, size: u64| tar_header(name, size);
        to.write_all(&entry("Dockerfile", dockerfile.len() as u64))?;
        to.write_all(&dockerfile)?;
        to.write_all(&vec![0; 512 - dockerfile.len() % 512])?;
        to.write_all(&entry("large", UPLOAD))?;
        let chunk = vec![7; 1 << 20];
        for _ in 0..UPLOAD / chunk.len() as u64 {
            to.write_all(&chunk)?;
        }
        to.write_all(&[0; 1024])
    });
    let build = buildx.build_from("-").reading(from);
    let built = build.platforms(&["linux/amd64"]).run().succeeded();
    writer.join().expect("no panic").expect("it reads");
    assert!(
        built.progress().contains(&UPLOAD.to_string()),
        "{}",
        built.progress()
    );
    for (before, after) in before.into_iter().zip(processes()) {
        assert!(after < before + BOUND, "{before} became {after}");
    }
}

/// The header of a file in an archive.
fn tar_header(name: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
