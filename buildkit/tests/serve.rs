//! What a client serves in its own session, against a real engine: a build gets and gives what it does with buildx.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use croft_buildkit::{
    MESSAGE_LIMIT,
    api::control::{Exporter, SolveRequest, SolveResponse, control_client::ControlClient},
    gateway::BuildRef,
    session::{
        BoxError, EngineSession, SessionHandler, SessionId, SessionReply, SessionRequest,
        auth::Credentials,
        serve::{CredentialSource, Output, Secret, Services},
    },
};
use croft_local::{Access, BaseImage, Registry, RegistryOptions};
use support::buildx::{Bench, succeeded};
use tonic::{Status, async_trait, transport::Channel};

/// Builds in front of the same proxy as buildx.
struct Client {
    channel: Channel,
    key: String,
}

impl Client {
    async fn of(bench: &Bench) -> Self {
        let address = format!("http://{}", bench.proxy.server.address);
        let channel = Channel::from_shared(address).unwrap();
        Self {
            channel: channel.connect().await.unwrap(),
            key: BuildRef::unique().to_string(),
        }
    }

    /// Builds the Dockerfile of the folder `dockerfile`, which is that of the services if they have none of this name.
    async fn build(
        &self,
        services: Services,
        exporters: Vec<Exporter>,
        options: &[(&str, &str)],
    ) -> Result<SolveResponse, Status> {
        self.build_in(services, |services| services, exporters, options)
            .await
    }

    /// The same with something between the engine and the services.
    async fn build_in<H: SessionHandler>(
        &self,
        services: Services,
        handler: impl FnOnce(Services) -> H,
        exporters: Vec<Exporter>,
        options: &[(&str, &str)],
    ) -> Result<SolveResponse, Status> {
        let id = SessionId::unique();
        let spec = services.spec(id.clone(), self.key.as_str());
        let handler = Arc::new(handler(services));
        let session = EngineSession::open_over(self.channel.clone(), &spec, handler).await?;
        let request = SolveRequest {
            r#ref: BuildRef::unique().to_string(),
            session: id.into(),
            frontend: "dockerfile.v0".into(),
            frontend_attrs: options
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            exporters,
            ..Default::default()
        };
        let mut control =
            ControlClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        let solved = control.solve(request).await;
        session.close().await;
        solved.map(tonic::Response::into_inner)
    }
}

/// The context, as a folder for its Dockerfile too.
fn context(path: &Path) -> Services {
    Services::new()
        .folder("context", path)
        .folder("dockerfile", path)
}

fn exporter(kind: &str) -> Vec<Exporter> {
    vec![Exporter {
        r#type: kind.into(),
        attrs: HashMap::new(),
    }]
}

const NO_CACHE: &[(&str, &str)] = &[("no-cache", "")];

/// All that is in a folder: what each file is, and its content.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let mut inodes = HashMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut paths: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            let found = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap();
            let first = inodes
                .entry(found.ino())
                .or_insert_with(|| name.to_owned())
                .clone();
            let content = if found.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if found.is_dir() {
                folders.push(path.clone());
                "a folder".into()
            } else if found.file_type().is_fifo() {
                "a pipe".into()
            } else {
                let mut hash = std::hash::DefaultHasher::new();
                std::hash::Hash::hash(&fs::read(&path).unwrap(), &mut hash);
                format!("{} {:x}", found.len(), std::hash::Hasher::finish(&hash))
            };
            let same = if first == name {
                String::new()
            } else {
                format!(" same as {}", first.display())
            };
            seen.insert(
                name.to_str().unwrap().to_owned(),
                format!(
                    "{:o} {}:{} {}.{} {content}{same}",
                    found.mode(),
                    found.uid(),
                    found.gid(),
                    found.mtime(),
                    found.mtime_nsec()
                ),
            );
        }
    }
    seen
}

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A context in which there is one of everything.
fn odd_context(root: &Path) {
    write(
        root,
        ".dockerignore",
        "# what is not sent\n*.log\n**/tmp\nsecret/**\n!secret/kept\n/docs/[a-c]*.md\n!docs/b.md\n?x\nvendor/*/lib\n",
    );
    for name in [
        "plain",
        "with space",
        "größe/ß☺",
        "-dash",
        "a.log",
        "deep/a.log",
        "deep/tmp/file",
        "tmp",
        "secret/gone",
        "secret/kept",
        "secret/deep/gone",
        "docs/a.md",
        "docs/b.md",
        "docs/d.md",
        "deep/er/and/deeper/file",
        "ax",
        "abx",
        "vendor/one/lib/x",
        "vendor/one/src/x",
        "a-b",
        "a/b",
        "a.b",
        "quote\"'`$(x)",
        "[bracket]",
        "star*",
        "back\\slash",
        "new\nline",
        "%41+&?=#",
    ] {
        write(root, name, name);
    }
    // Engines take equal content for the same, with the times of what they saw first.
    write(root, "own", BuildRef::unique().to_string());
    write(root, "empty", "");
    fs::create_dir(root.join("empty folder")).unwrap();
    let large: Vec<u8> = (0..5_000_011u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    write(root, "large", large);
    for (name, mode) in [
        ("plain", 0o600),
        ("a-b", 0o4755),
        ("a/b", 0o444),
        ("a", 0o2750),
    ] {
        chmod(&root.join(name), mode);
    }
    chmod(&root.join("empty folder"), 0o1777);
    for (link, to) in [
        ("link", "plain"),
        ("dangling", "nowhere"),
        ("out", "/etc/hostname"),
        ("up", "../.."),
        ("deep/link", "../größe"),
    ] {
        symlink(to, root.join(link)).unwrap();
    }
    fs::hard_link(root.join("plain"), root.join("deep/hard")).unwrap();
    fs::hard_link(root.join("a.log"), root.join("of an ignored one")).unwrap();
    fs::hard_link(root.join("a.log"), root.join("of an ignored two")).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::options()
        .write(true)
        .open(root.join("abx"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    write(root, "Dockerfile", "FROM scratch\nCOPY . /\n");
}

#[tokio::test]
async fn a_context_arrives_as_with_buildx_and_so_does_the_result() {
    let bench = Bench::start().await;
    let context_path = bench.path("context");
    odd_context(&context_path);
    let dockerfile = fs::read_to_string(context_path.join("Dockerfile")).unwrap();
    let args = ["--output", "type=local,dest=theirs"];
    succeeded(bench.build(&dockerfile, &args).await);
    let client = Client::of(&bench).await;
    let ours = bench.path("ours");
    let services = context(&context_path).output(0, Output::folder(&ours));
    client
        .build(services, exporter("local"), NO_CACHE)
        .await
        .unwrap();
    let (theirs, ours) = (tree(&bench.path("theirs")), tree(&ours));
    assert!(theirs.len() > 40 && theirs.contains_key("secret/kept"));
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn only_what_changed_is_sent_again() {
    let bench = Bench::start().await;
    let folder = bench.path("context");
    for at in 0..200 {
        write(&folder, &format!("{}/{at}", at % 7), at.to_string());
    }
    write(&folder, "Dockerfile", "FROM scratch\nCOPY . /\n");
    let client = Client::of(&bench).await;
    let mut counts = Vec::new();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let changes: [&dyn Fn(); 3] = [&|| {}, &|| {}, &|| {
        let changed = write(&folder, "3/3", "changed");
        let changed = fs::File::options().write(true).open(changed).unwrap();
        changed.set_modified(old).unwrap();
    }];
    for change in changes {
        change();
        let services = context(&folder).output(0, Output::folder(bench.path("out")));
        let sent = services.sent();
        client
            .build(services, exporter("local"), &[])
            .await
            .unwrap();
        counts.push((sent.files(), sent.bytes()));
    }
    // The Dockerfile is of a folder of its own as well, of which engines keep nothing.
    let all: u64 = (0..200).map(|at: u32| at.to_string().len() as u64).sum();
    assert_eq!(counts, [(202, all + 44), (1, 22), (2, 7 + 22)]);
    assert_eq!(fs::read(bench.path("out/3/3")).unwrap(), b"changed");
}

#[tokio::test]
async fn a_tar_comes_out_as_with_buildx_into_a_file_or_a_stream() {
    let bench = Bench::start().await;
    let folder = bench.path("context");
    write(&folder, "data", vec![7; 3 << 20]);
    write(&folder, "deep/file", "x");
    let dockerfile = "FROM scratch\nCOPY . /\n";
    let args = ["--output", "type=tar,dest=theirs.tar"];
    succeeded(bench.build(dockerfile, &args).await);
    let client = Client::of(&bench).await;
    let stream = Collected::default();
    for output in [
        Output::file(bench.path("ours.tar")),
        Output::stream(stream.clone()),
    ] {
        let services = context(&folder).output(0, output);
        client.build(services, exporter("tar"), &[]).await.unwrap();
    }
    let theirs = fs::read(bench.path("theirs.tar")).unwrap();
    let ours = fs::read(bench.path("ours.tar")).unwrap();
    assert!(theirs.len() > 3 << 20 && ours == theirs);
    assert!(*stream.0.lock().unwrap() == theirs);
    // No draft is left.
    let left = fs::read_dir(bench.path("")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left
            .iter()
            .any(|name| name.as_encoded_bytes().starts_with(b".croft")),
        "{left:?}"
    );
}

#[tokio::test]
async fn an_image_comes_out_blob_by_blob_as_with_buildx() {
    let bench = Bench::start().await;
    let folder = bench.path("context");
    write(&folder, "data", vec![7; 3 << 20]);
    let dockerfile = "FROM scratch\nCOPY . /\n";
    let epoch = [("build-arg:SOURCE_DATE_EPOCH", "1700000000")];
    let args = [
        "--build-arg=SOURCE_DATE_EPOCH=1700000000",
        "--output=type=oci,tar=false,dest=theirs",
    ];
    succeeded(bench.build(dockerfile, &args).await);
    let client = Client::of(&bench).await;
    for again in [false, true] {
        let services = context(&folder).output(0, Output::layout(bench.path("ours")));
        let exporters = vec![Exporter {
            r#type: "oci".into(),
            attrs: HashMap::from([("tar".into(), "false".into())]),
        }];
        let solved = client.build(services, exporters, &epoch).await;
        let solved = solved.unwrap_or_else(|status| panic!("again: {again}: {status}"));
        let digest = &solved.exporter_response["containerimage.digest"];
        let [theirs, ours] = ["theirs", "ours"].map(|name| tree(&bench.path(name).join("blobs")));
        let content = |tree: BTreeMap<String, String>| -> BTreeMap<_, _> {
            let entries = tree.into_iter();
            entries
                .map(|(name, seen)| (name, seen.rsplit_once(' ').unwrap().1.to_owned()))
                .collect()
        };
        assert!(ours.contains_key(&digest.replace(':', "/")), "{ours:?}");
        assert_eq!(content(ours), content(theirs));
    }
}

/// As newer engines do, says with what is sent that it is all of it. Those of these tests know nothing of that, but what they send of one
/// platform is the same.
struct Newer(Services);

impl SessionHandler for Newer {
    fn handle(&self, mut request: SessionRequest) -> SessionReply {
        if request.uri().path().ends_with("FileSend/DiffCopy") {
            let said = "1".parse().unwrap();
            request
                .headers_mut()
                .insert("buildkit-exporter-multi-platform", said);
        }
        self.0.handle(request)
    }
}

#[tokio::test]
async fn a_folder_becomes_what_the_result_is_if_the_engine_sends_all_of_it_at_once() {
    let bench = Bench::start().await;
    let folder = bench.path("context");
    odd_context(&folder);
    let client = Client::of(&bench).await;
    let plain = context(&folder).output(0, Output::folder(bench.path("plain")));
    client
        .build(plain, exporter("local"), NO_CACHE)
        .await
        .unwrap();
    let out = bench.path("out");
    write(&out, "deep/er/other", "other");
    write(&out, "plain/was a folder", "");
    symlink("/etc", out.join("etc")).unwrap();
    let before = tree(&out);
    let services = || context(&folder).output(0, Output::mirror(&out));
    let refused = client.build(services(), exporter("local"), &[]).await;
    let refused = refused.unwrap_err();
    assert!(refused.message().contains("mode=delete"), "{refused}");
    assert_eq!(tree(&out), before);
    client
        .build_in(services(), Newer, exporter("local"), NO_CACHE)
        .await
        .unwrap();
    assert_eq!(tree(&out), tree(&bench.path("plain")));
}

/// What was written.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_step_gets_its_secrets_and_no_others() {
    let bench = Bench::start().await;
    let folder = bench.path("context");
    let token = write(&folder, "token", "from a file");
    let nonce = BuildRef::unique();
    write(
        &folder,
        "Dockerfile",
        format!(
            "FROM busybox AS run\nRUN --mount=type=secret,id=a --mount=type=secret,id=b --mount=type=secret,id=none \\\n\
             echo {nonce} && cat /run/secrets/* > /seen\nFROM scratch\nCOPY --from=run /seen /\n"
        ),
    );
    let client = Client::of(&bench).await;
    let services = context(&folder)
        .secret("a", Secret::file(token).unwrap())
        .secret("b", Secret::value(" and a value").unwrap())
        .output(0, Output::folder(bench.path("out")));
    client
        .build(services, exporter("local"), &[])
        .await
        .unwrap();
    let seen = fs::read_to_string(bench.path("out/seen")).unwrap();
    assert_eq!(seen, "from a file and a value");
    write(
        &folder,
        "Dockerfile",
        format!("FROM busybox\nRUN --mount=type=secret,id=none,required echo {nonce}\n"),
    );
    let services = context(&folder).secret("a", Secret::value("x").unwrap());
    let refused = client.build(services, vec![], &[]).await.unwrap_err();
    assert!(refused.message().contains("none"), "{refused}");
}

#[tokio::test]
async fn a_tar_archive_from_a_pipe_is_a_context() {
    let bench = Bench::start().await;
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in [
        ("Dockerfile", "FROM scratch\nCOPY file /\n"),
        ("file", "piped"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let client = Client::of(&bench).await;
    let mut services = Services::new().output(0, Output::folder(bench.path("out")));
    let url = services.upload(std::io::Cursor::new(archive));
    client
        .build(services, exporter("local"), &[("context", &url)])
        .await
        .unwrap();
    assert_eq!(fs::read(bench.path("out/file")).unwrap(), b"piped");
}

/// Credentials for one registry, and who was asked for.
struct Login {
    host: String,
    credentials: Credentials,
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl CredentialSource for Login {
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>, BoxError> {
        self.asked.lock().unwrap().push(host.to_owned());
        Ok((host == self.host).then(|| self.credentials.clone()))
    }
}

#[tokio::test]
async fn a_private_registry_takes_the_callers_credentials() {
    let registry = Registry::start(RegistryOptions {
        access: Access::Password("tester".into()),
        ..Default::default()
    })
    .unwrap();
    BaseImage::find_or_make().unwrap().push(&registry).unwrap();
    let (host, login) = (
        registry.address().to_string(),
        registry.credentials().unwrap(),
    );
    let bench = Bench::start().await;
    let folder = bench.path("context");
    let nonce = BuildRef::unique();
    write(
        &folder,
        "Dockerfile",
        format!("FROM {host}/library/busybox:latest\nRUN echo {nonce}\n"),
    );
    let client = Client::of(&bench).await;
    let refused = client
        .build(context(&folder), vec![], &[])
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("401") || refused.message().contains("authorization"),
        "{refused}"
    );
    let asked = Arc::<Mutex<Vec<_>>>::default();
    let source = Login {
        host: host.clone(),
        credentials: Credentials {
            username: login.user.clone(),
            secret: login.password.clone(),
        },
        asked: asked.clone(),
    };
    let services = context(&folder).credentials(Arc::new(source));
    client.build(services, vec![], &[]).await.unwrap();
    assert!(asked.lock().unwrap().contains(&host), "{asked:?}");
}

#[tokio::test]
async fn a_folder_that_was_not_named_is_not_sent() {
    let bench = Bench::start().await;
    let folder = bench.path("context");
    write(
        &folder,
        "Dockerfile",
        "FROM scratch\nCOPY --from=other . /\n",
    );
    let client = Client::of(&bench).await;
    let options = [("context:other", "local:other")];
    let refused = client
        .build(context(&folder), vec![], &options)
        .await
        .unwrap_err();
    assert!(refused.message().contains("\"other\""), "{refused}");
}
