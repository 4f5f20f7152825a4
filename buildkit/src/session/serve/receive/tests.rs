//! Folders from peers, good ones and bad ones.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

use futures::{StreamExt as _, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use tempfile::TempDir;

use super::*;
use crate::session::{
    BoxError,
    grpc::boxed,
    serve::packet::testing::{body, heard},
};

/// A folder to receive into, beside one that nothing must get into.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.inside("")).unwrap();
        fs::create_dir(place.outside("")).unwrap();
        fs::write(place.outside("victim"), "untouched").unwrap();
        place
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.0.path().join("inside").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.0.path().join("outside").join(name)
    }

    async fn receive(&self, packets: &[Packet]) -> (Vec<Packet>, Status) {
        self.receive_beside(Others::Stay, packets).await
    }

    async fn receive_beside(&self, others: Others, packets: &[Packet]) -> (Vec<Packet>, Status) {
        let received = heard(begin(self.inside(""), others, body(packets))).await;
        let left: Vec<_> = fs::read_dir(self.outside("")).unwrap().collect();
        let victim = fs::read(self.outside("victim")).unwrap();
        assert_eq!((left.len(), &victim[..]), (1, &b"untouched"[..]));
        received
    }

    async fn refused(&self, packets: &[Packet]) -> Status {
        let (packets, status) = self.receive(packets).await;
        assert_eq!(packets.last().unwrap().kind, i32::from(Kind::Error));
        assert_ne!(status.code(), tonic::Code::Ok);
        status
    }
}

fn stat(path: &str, mode: u32) -> Packet {
    linked(path, mode, "")
}

fn linked(path: &str, mode: u32, to: &str) -> Packet {
    let stat = Stat {
        path: path.into(),
        mode,
        linkname: to.into(),
        mod_time: 1_000_000_000_123_456_789,
        ..Stat::default()
    };
    Packet {
        stat: Some(stat),
        ..Packet::of(Kind::Stat)
    }
}

fn data(id: u32, text: &str) -> Packet {
    Packet {
        id,
        data: text.to_owned().into(),
        ..Packet::of(Kind::Data)
    }
}

#[tokio::test]
async fn a_folder_is_written_as_it_is_described() {
    let place = Place::new();
    let (said, status) = place
        .receive(&[
            stat("closed", mode::DIR | 0o555),
            stat("closed/file", mode::SETUID | 0o750),
            linked("closed/link", mode::SYMLINK | 0o777, "file"),
            stat("empty", 0o644),
            linked("same", 0o750, "closed/file"),
            Packet::of(Kind::Stat),
            data(1, "one "),
            data(3, ""),
            data(1, "two"),
            data(1, ""),
            Packet::of(Kind::Fin),
        ])
        .await;
    let kinds: Vec<_> = said.iter().map(|p| (p.kind, p.id)).collect();
    let request = i32::from(Kind::Request);
    assert_eq!(kinds, [(request, 1), (request, 3), (Kind::Fin.into(), 0)]);
    assert_eq!(status.code(), tonic::Code::Ok);
    let file = place.inside("closed/file").metadata().unwrap();
    assert_eq!(fs::read(place.inside("same")).unwrap(), b"one two");
    assert_eq!(file.ino(), place.inside("same").metadata().unwrap().ino());
    assert_eq!((file.mode(), file.mtime_nsec()), (0o104_750, 123_456_789));
    let closed = place.inside("closed").metadata().unwrap();
    assert_eq!((closed.mode(), closed.mtime()), (0o40_555, 1_000_000_000));
    let link = fs::read_link(place.inside("closed/link")).unwrap();
    assert_eq!(link, Path::new("file"));
}

#[tokio::test]
async fn no_path_leads_out() {
    for path in [
        "../victim",
        "/victim",
        "a/../../victim",
        "",
        ".",
        "a//b",
        "a/",
        "a\0b",
    ] {
        let place = Place::new();
        let packets = [stat(path, 0o644), data(0, "gotcha"), data(0, "")];
        let status = place.refused(&packets).await;
        assert!(status.message().contains("no path"), "{path}: {status}");
    }
    let place = Place::new();
    let victim = [linked("a", 0o644, "../outside/victim")];
    place.refused(&victim).await;
}

#[tokio::test]
async fn nothing_is_written_through_a_link() {
    let place = Place::new();
    let out = place.outside("");
    // One that the peer makes,
    let link = linked("out", mode::SYMLINK | 0o777, out.to_str().unwrap());
    for next in [
        stat("out/file", 0o644),
        stat("out/folder", mode::DIR | 0o755),
    ] {
        let packets = [link.clone(), next, data(1, "gotcha"), data(1, "")];
        place.refused(&packets).await;
    }
    let hard = [
        link,
        linked("same", 0o644, "out/victim"),
        Packet::of(Kind::Stat),
    ];
    place.refused(&hard).await;
    // and one that is there.
    symlink(&out, place.inside("there")).unwrap();
    symlink(place.outside("victim"), place.inside("file")).unwrap();
    let (_, status) = place
        .receive(&[
            stat("file", 0o600),
            stat("there", mode::DIR | 0o755),
            stat("there/victim", 0o644),
            Packet::of(Kind::Stat),
            data(0, "mine"),
            data(0, ""),
            data(2, "mine too"),
            data(2, ""),
            Packet::of(Kind::Fin),
        ])
        .await;
    assert_eq!(status.code(), tonic::Code::Ok, "{status}");
    assert_eq!(fs::read(place.inside("file")).unwrap(), b"mine");
    assert!(!place.inside("there").is_symlink());
}

#[tokio::test]
async fn what_is_there_gives_way_only_to_what_has_its_name() {
    let place = Place::new();
    fs::create_dir_all(place.inside("folder/deep")).unwrap();
    fs::write(place.inside("folder/kept"), "kept").unwrap();
    fs::create_dir_all(place.inside("file/was a folder")).unwrap();
    let (_, status) = place
        .receive(&[
            stat("file", 0o644),
            stat("folder", mode::DIR | 0o700),
            Packet::of(Kind::Stat),
            data(0, ""),
            Packet::of(Kind::Fin),
        ])
        .await;
    assert_eq!(status.code(), tonic::Code::Ok, "{status}");
    assert!(place.inside("file").is_file() && place.inside("folder/deep").is_dir());
    assert_eq!(fs::read(place.inside("folder/kept")).unwrap(), b"kept");
}

#[tokio::test]
async fn of_a_mirror_nothing_else_is_left_and_nothing_outside_is_touched() {
    let place = Place::new();
    let fill = || {
        fs::create_dir_all(place.inside("kept/gone/deep")).unwrap();
        fs::create_dir_all(place.inside("was a folder")).unwrap();
        fs::write(place.inside("kept/gone/deep/file"), "").unwrap();
        fs::write(place.inside("kept/old"), "old").unwrap();
        fs::write(place.inside("kept2"), "").unwrap();
        let odd = std::ffi::OsString::from_vec(b"no\xfftext".to_vec());
        fs::write(place.inside("").join(odd), "").unwrap();
        symlink(place.outside(""), place.inside("link")).unwrap();
        symlink(place.outside("victim"), place.inside("kept/link")).unwrap();
    };
    fill();
    let result = [
        stat("kept", mode::DIR | 0o750),
        stat("kept/file", 0o644),
        linked("kept/here", mode::SYMLINK | 0o777, "file"),
        linked("kept/same", 0o644, "kept/file"),
        Packet::of(Kind::Stat),
        data(1, "new"),
        data(1, ""),
        Packet::of(Kind::Fin),
    ];
    let (_, status) = place.receive_beside(Others::Go, &result).await;
    assert_eq!(status.code(), tonic::Code::Ok, "{status}");
    let names = |folder: &str| {
        let entries = fs::read_dir(place.inside(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["kept"]);
    assert_eq!(names("kept"), ["file", "here", "same"]);
    assert_eq!(fs::read(place.inside("kept/same")).unwrap(), b"new");
    // The time is the result's, though files of the folder were deleted.
    let kept = place.inside("kept").metadata().unwrap();
    assert_eq!(
        (kept.mtime(), kept.mtime_nsec()),
        (1_000_000_000, 123_456_789)
    );

    // What is not whole deletes nothing.
    fill();
    let before = names("kept");
    place.receive_beside(Others::Go, &result[..5]).await;
    assert_eq!(names("kept"), before);
    let empty = [Packet::of(Kind::Stat), Packet::of(Kind::Fin)];
    let (_, status) = place.receive_beside(Others::Go, &empty).await;
    assert_eq!(status.code(), tonic::Code::Ok, "{status}");
    assert!(names("").is_empty());
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_or_off_is_told() {
    let place = Place::new();
    let file = || stat("a", 0o644);
    let failed = Packet::error("no disk");
    for (packets, why) in [
        (vec![file(), data(1, "x")], "not asked for"),
        (vec![file(), data(0, ""), data(0, "x")], "not asked for"),
        (vec![stat("a", mode::DIR), data(0, "x")], "not asked for"),
        (vec![file(), failed], "no disk"),
        (vec![file(), Packet::of(Kind::Stat)], "broke off"),
        (vec![stat("no/folder", 0o644), data(0, "")], "No such file"),
    ] {
        let status = place.refused(&packets).await;
        assert!(status.message().contains(why), "{why}: {status}");
    }
    let many: Vec<_> = (0..=OPEN as u32)
        .map(|id| stat(&format!("{id}"), 0o644))
        .chain((0..=OPEN as u32).map(|id| data(id, "x")))
        .collect();
    let status = place.refused(&many).await;
    assert!(status.message().contains("at a time"), "{status}");
}

#[tokio::test]
async fn a_peer_that_has_said_all_is_told_that_it_can_not_be_written() {
    let place = Place::new();
    fs::write(place.inside("file"), "").unwrap();
    let said = stream::iter([Ok::<_, BoxError>(Frame::data(framed(&stat("x", 0o644))))]);
    // It waits to be asked for the file.
    let body = boxed(StreamBody::new(said.chain(stream::pending())));
    let answers = begin(place.inside("file/below"), Others::Stay, body).into_body();
    let told: Packet = Messages::new(answers).next().await.unwrap().unwrap();
    assert_eq!(told.kind, i32::from(Kind::Error));
    let why = String::from_utf8_lossy(&told.data);
    assert!(why.contains("file/below can't be written"), "{why}");
}
