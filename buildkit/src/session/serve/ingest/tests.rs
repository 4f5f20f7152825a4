//! Blobs from peers, good ones and bad ones.

use http_body_util::BodyExt as _;
use sha2::Digest as _;
use tonic::Code;

use super::*;
use crate::session::{
    grpc::boxed,
    serve::packet::{self, testing},
};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn layout(&self) -> PathBuf {
        self.0.path().join("layout")
    }

    fn outputs(&self) -> HashMap<u32, Output> {
        HashMap::from([(3, Output::layout(self.layout()))])
    }

    /// What was answered to a call with this body, and how it ended.
    async fn call(
        &self,
        ingests: &Ingests,
        store: &str,
        body: SessionBody,
    ) -> (Vec<Written>, Status) {
        let mut request = SessionRequest::new(body);
        let headers = request.headers_mut();
        headers.insert(content::STORE, store.parse().unwrap());
        let response = ingests.answer(&self.outputs(), request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        let end = body.trailers().unwrap_or(&head.headers);
        let status = Status::from_header_map(end).unwrap();
        let mut messages = Messages::new(boxed(http_body_util::Full::new(body.to_bytes())));
        let mut answers = Vec::new();
        while let Some(answer) = messages.next().await.unwrap() {
            answers.push(answer);
        }
        (answers, status)
    }

    async fn write(&self, steps: &[Step]) -> (Vec<Written>, Status) {
        self.call(&Ingests::default(), STORE, testing::body(steps))
            .await
    }

    /// All files that are there.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut folders = vec![self.0.path().to_owned()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    files.push((name, fs::read(path).unwrap()));
                }
            }
        }
        files
    }
}

fn sha256(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

fn step(action: Action, offset: usize, data: &[u8]) -> Step {
    Step {
        action: action.into(),
        offset: offset as i64,
        data: Bytes::copy_from_slice(data),
        ..Step::default()
    }
}

/// How engines begin.
fn first(digest: &str, total: usize) -> Step {
    Step {
        total: total as i64,
        expected: digest.into(),
        ..Step::default()
    }
}

#[tokio::test]
async fn a_blob_is_written_in_pieces_and_told_how_far_it_is() {
    let data: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    for digest in [
        sha256(&data),
        format!("sha512:{}", hex::encode(Sha512::digest(&data))),
    ] {
        let place = Place::new();
        let steps = [
            first(&digest, data.len()),
            step(Action::Stat, 0, &[]),
            step(Action::Write, 0, &data[..100_000]),
            step(Action::Write, 100_000, &data[100_000..200_000]),
            step(Action::Commit, 200_000, &data[200_000..]),
        ];
        let (answers, status) = place.write(&steps).await;
        assert_eq!(status.code(), Code::Ok, "{status}");
        let offsets: Vec<_> = answers.iter().map(|answer| answer.offset).collect();
        assert_eq!(offsets, [0, 0, 100_000, 200_000, 300_000]);
        assert!(answers.iter().all(|answer| answer.total == 300_000));
        assert_eq!(answers[4].digest, digest);
        let (algorithm, name) = digest.split_once(':').unwrap();
        let blob = place.layout().join("blobs").join(algorithm).join(name);
        assert_eq!(blob.metadata().unwrap().permissions().mode() & 0o222, 0);
        assert!(place.files() == [(name.to_owned(), data.clone())]);
        let (_, status) = place.write(&steps).await;
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    }
}

#[tokio::test]
async fn a_blob_may_be_begun_anew_may_be_empty_and_takes_the_place_of_a_broken_one() {
    let place = Place::new();
    let digest = sha256(b"right");
    let blob = place.layout().join("blobs/sha256").join(&digest[7..]);
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, "brok").unwrap();
    let steps = [
        first(&digest, 5),
        step(Action::Write, 0, b"wro"),
        step(Action::Write, 0, b"rig"),
        step(Action::Commit, 3, b"ht"),
    ];
    let (_, status) = place.write(&steps).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    assert_eq!(fs::read(&blob).unwrap(), b"right");
    let steps = [first(&sha256(b""), 0), step(Action::Commit, 0, b"")];
    let (_, status) = place.write(&steps).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    assert_eq!(place.files().len(), 2);
}

#[tokio::test]
async fn what_is_not_what_it_was_said_to_be_leaves_nothing() {
    let digest = &sha256(b"data");
    let commit = |data: &[u8]| step(Action::Commit, 0, data);
    for (why, steps, code) in [
        (
            "other content",
            vec![first(digest, 4), commit(b"atad")],
            Code::FailedPrecondition,
        ),
        (
            "too short",
            vec![first(digest, 4), commit(b"dat")],
            Code::FailedPrecondition,
        ),
        (
            "too long",
            vec![first(digest, 4), commit(b"data+")],
            Code::OutOfRange,
        ),
        (
            "of no length",
            vec![first(digest, 0), commit(b"data")],
            Code::OutOfRange,
        ),
        (
            "of less than none",
            vec![Step {
                total: -1,
                ..first(digest, 0)
            }],
            Code::InvalidArgument,
        ),
        (
            "with a gap",
            vec![first(digest, 4), step(Action::Write, 1, b"ata")],
            Code::OutOfRange,
        ),
        (
            "before its start",
            vec![
                first(digest, 4),
                Step {
                    offset: -1,
                    ..commit(b"data")
                },
            ],
            Code::OutOfRange,
        ),
        (
            "of another digest in the end",
            vec![
                first(digest, 4),
                Step {
                    expected: sha256(b"x"),
                    ..commit(b"data")
                },
            ],
            Code::InvalidArgument,
        ),
        (
            "of another length in the end",
            vec![
                first(digest, 4),
                Step {
                    total: 5,
                    ..commit(b"data")
                },
            ],
            Code::InvalidArgument,
        ),
        (
            "without a digest",
            vec![first("", 4), commit(b"data")],
            Code::InvalidArgument,
        ),
        (
            "elsewhere",
            vec![first("sha256:../../../victim", 4), commit(b"data")],
            Code::InvalidArgument,
        ),
    ] {
        let place = Place::new();
        let (_, status) = place.write(&steps).await;
        assert_eq!(status.code(), code, "{why}: {status}");
        assert!(place.files().is_empty(), "{why}");
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_leaves_nothing() {
    let place = Place::new();
    let steps = [first(&sha256(b"data"), 4), step(Action::Write, 0, b"da")];
    let (answers, status) = place.write(&steps).await;
    assert_eq!((answers.len(), status.code()), (2, Code::Ok));
    assert!(place.files().is_empty());
    let mut cut = packet::framed(&steps[0]).to_vec();
    cut.extend_from_slice(&packet::framed(&steps[1])[..8]);
    let cut = boxed(http_body_util::Full::new(Bytes::from(cut)));
    let (_, status) = place.call(&Ingests::default(), STORE, cut).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(place.files().is_empty());
}

#[tokio::test]
async fn a_failure_is_told_though_the_peer_waits_with_its_next_word() {
    let place = Place::new();
    let steps = [first(&sha256(b"data"), 4), step(Action::Commit, 0, b"atad")];
    let said = steps.map(|step| {
        Ok::<_, crate::session::BoxError>(http_body::Frame::data(packet::framed(&step)))
    });
    let said = futures::StreamExt::chain(futures::stream::iter(said), futures::stream::pending());
    let waiting = boxed(http_body_util::StreamBody::new(said));
    let (_, status) = place.call(&Ingests::default(), STORE, waiting).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

#[tokio::test]
async fn only_the_store_of_outputs_is_written_and_so_many_blobs_at_a_time() {
    let place = Place::new();
    let steps = [first(&sha256(b"data"), 4), step(Action::Commit, 0, b"data")];
    let ingests = Ingests::default();
    for store in ["", "oci:layout", "local"] {
        let (_, status) = place.call(&ingests, store, testing::body(&steps)).await;
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
    let mut held = Vec::new();
    for at in 0..OPEN {
        let request = |body| {
            let mut request = SessionRequest::new(body);
            let headers = request.headers_mut();
            headers.insert(content::STORE, STORE.parse().unwrap());
            request
        };
        let begun = packet::framed(&first(&sha256(&[at as u8]), 1));
        let begun = futures::stream::iter([Ok::<_, crate::session::BoxError>(
            http_body::Frame::data(begun),
        )]);
        let body = futures::StreamExt::chain(begun, futures::stream::pending());
        let body = boxed(http_body_util::StreamBody::new(body));
        let mut response = ingests.answer(&place.outputs(), request(body)).await;
        response.body_mut().frame().await.unwrap().unwrap();
        held.push(response);
    }
    let (_, status) = place.call(&ingests, STORE, testing::body(&steps)).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    drop(held);
    // Those that were given up are let go, and leave nothing.
    while ingests.0.available_permits() < OPEN || !place.files().is_empty() {
        tokio::task::yield_now().await;
    }
    let (_, status) = place.call(&ingests, STORE, testing::body(&steps)).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    assert_eq!(
        place.files(),
        [(sha256(b"data")[7..].to_owned(), b"data".to_vec())]
    );
}
