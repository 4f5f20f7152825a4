//! Ctrl-C ends the command whatever it waits for.

use std::{
    io::{Read as _, Write as _, pipe},
    net::TcpListener,
    os::fd::AsFd as _,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::build::{NOWHERE, words_of};
use crate::support::{
    Context, Croft, farm,
    process::{self, eventually},
};

#[test]
fn while_standard_input_says_nothing_it_just_ends() {
    let croft = Croft::of(farm());
    let (from, mut to) = pipe().expect("a pipe");
    let mut waiting = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    let input = from.try_clone().expect("a pipe");
    let build = process::start_reading(croft.command(["build", "-"]), input);
    // Not enough to know whether it is an archive.
    to.write_all(b"FROM").expect("a pipe");
    eventually("it reads", || {
        let unread = poll(&mut waiting, PollTimeout::ZERO).expect("a pipe");
        (unread == 0).then_some(())
    });
    build.interrupt();
    let ended = build.finish().failed();
    assert_eq!(ended.stderr, "");
}

#[test]
fn while_the_farm_does_not_answer_nothing_is_left_to_be_cancelled() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let croft = Croft::empty(farm()).env("CROFT_ADDR", &address);
    let context = Context::new("FROM busybox\n");
    let build = croft.start(words_of(context.path(), &[NOWHERE]));
    let (mut connection, _) = silent.accept().expect("it comes");
    // It asks, and is not answered.
    connection.read_exact(&mut [0]).expect("a question");
    build.interrupt();
    let ended = build.finish();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.report());
    assert_eq!(ended.stderr, "croft: the build is cancelled\n");
}

#[test]
fn while_nobody_reads_what_it_writes_the_build_is_cancelled_and_the_rest_thrown_away() {
    let croft = Croft::of(farm());
    let context = Context::new("FROM scratch\nCOPY large /$NONCE/\n");
    context.write("large", &vec![7; 8 << 20]);
    let (_unread, output) = pipe().expect("a pipe");
    let words = ["--progress=plain", "--output=type=tar,dest=-"];
    let words = words_of(context.path(), &words);
    let mut build = process::start_writing(croft.command(words), output);
    build.wait_for(|line| line.contains("sending tarball"));
    build.interrupt();
    let ended = build.finish();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.report());
    assert!(
        ended.stderr.contains("the build is cancelled"),
        "{}",
        ended.report()
    );
}
