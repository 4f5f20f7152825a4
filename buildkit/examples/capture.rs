//! Asks a real engine for the definitions of Dockerfiles and writes them to files, so that the planner's tests have real ones.
//!
//! ```text
//! cargo run -p croft-buildkit --example capture -- docker+unix:///var/run/docker.sock planner/tests/shapes/*.Dockerfile
//! ```
//!
//! Nothing is executed: the frontend runs lazily. For each `<name>.Dockerfile` a `<name>.pb` is written beside it, a
//! serialized `moby.buildkit.v1.frontend.Result` with one definition for each platform. Lines at the top of a
//! Dockerfile say how: `# platforms: a,b`, `# opt: key=value` (an option of the frontend), `# link: name=other` (as
//! bake's `target:other`, which must have been captured before).

use std::{collections::HashMap, error::Error, fs, path::Path, sync::Arc};

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use croft_buildkit::{
    api::{
        filesync::file_sync_server::{FileSync, FileSyncServer},
        frontend::{self, RefMap, SolveRequest, result::Result as Refs},
    },
    engine::Engine,
    gateway::{Gateway, GatewaySpec},
    session::{EngineSession, SessionId, SessionReply, SessionRequest, SessionSpec},
};
use futures::{StreamExt, stream::BoxStream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt;

const CONFIG: &str = "containerimage.config";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let address = args
        .next()
        .ok_or("which engine? docker+unix://… or unix://…")?;
    let engine = Engine::connect(&address.parse()?).await?;
    for file in args {
        let result = capture(&engine, Path::new(&file))
            .await
            .map_err(|e| format!("{file}: {e}"))?;
        fs::write(
            Path::new(&file).with_extension("pb"),
            result.encode_to_vec(),
        )?;
        println!("{file}");
    }
    Ok(())
}

async fn capture(engine: &Engine, file: &Path) -> Outcome<frontend::Result> {
    let dockerfile = fs::read_to_string(file)?;
    let recipe = Recipe::of(&dockerfile, file)?;
    // A new id each time: an engine doesn't read a session's folder twice.
    let id = SessionId::unique();
    let session = SessionSpec {
        id: id.clone(),
        name: String::new(),
        shared_key: "captured-key".to_owned(),
        methods: vec!["/moby.filesync.v1.FileSync/DiffCopy".to_owned()],
    };
    let files = FileSyncServer::new(OneFile::from(dockerfile));
    let serve = move |request: SessionRequest| -> SessionReply {
        let files = files.clone();
        Box::pin(async move {
            let response = files.oneshot(request.map(tonic::body::Body::new)).await;
            let response = response.unwrap_or_else(|never| match never {});
            response.map(|body| {
                http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(
                    body,
                    Into::into,
                ))
            })
        })
    };
    let session = EngineSession::open(engine, &session, Arc::new(serve)).await?;
    let spec = GatewaySpec {
        session: Some(id),
        ..GatewaySpec::default()
    };
    let gateway = Gateway::open(engine, spec).await?;
    let solved = gateway.solve(recipe.request).await;
    gateway.close().await?;
    session.close().await;
    let mut result = solved?.result.ok_or("no result")?;
    // What the stages don't depend on, and what is different each time.
    result
        .metadata
        .retain(|key, _| key == "refs.platforms" || recipe.is_linked && key.starts_with(CONFIG));
    result.attestations.clear();
    match &mut result.result {
        Some(Refs::Ref(one)) => one.id.clear(),
        Some(Refs::Refs(RefMap { refs })) => refs.values_mut().for_each(|one| one.id.clear()),
        _ => return Err("the engine is too old to answer with definitions".into()),
    }
    Ok(result)
}

/// How a Dockerfile wants to be built.
struct Recipe {
    request: SolveRequest,
    /// Whether others link to it, so that its configs are needed.
    is_linked: bool,
}

impl Recipe {
    fn of(dockerfile: &str, file: &Path) -> Outcome<Self> {
        let mut request = SolveRequest {
            frontend: "dockerfile.v0".to_owned(),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..SolveRequest::default()
        };
        let mut is_linked = false;
        let comments = dockerfile.lines().map_while(|line| line.strip_prefix('#'));
        for (key, value) in comments.filter_map(|comment| comment.trim().split_once(": ")) {
            match (key, value.split_once('=')) {
                ("platforms", _) => {
                    request
                        .frontend_opt
                        .insert("platform".to_owned(), value.to_owned());
                    request
                        .frontend_opt
                        .insert("multi-platform".to_owned(), "true".to_owned());
                }
                ("opt", Some((key, value))) => {
                    request
                        .frontend_opt
                        .insert(key.to_owned(), value.to_owned());
                }
                ("link", Some((name, other))) => link(
                    &mut request,
                    name,
                    &file.with_file_name(other).with_extension("pb"),
                )?,
                ("linked", _) => is_linked = true,
                _ => {}
            }
        }
        Ok(Self { request, is_linked })
    }
}

/// Makes the result of another file a named context, the way bake does.
fn link(request: &mut SolveRequest, name: &str, other: &Path) -> Outcome<()> {
    let other = frontend::Result::decode(fs::read(other)?.as_slice())?;
    let Some(Refs::Refs(RefMap { refs })) = other.result else {
        return Err("linked results have several platforms".into());
    };
    for (platform, linked) in refs {
        let input = format!("{name}::{platform}");
        let config = other
            .metadata
            .get(&format!("{CONFIG}/{platform}"))
            .ok_or("a linked Dockerfile says `# linked: yes`")?;
        let metadata = HashMap::from([(CONFIG, config)]);
        request
            .frontend_opt
            .insert(format!("context:{input}"), format!("input:{input}"));
        request.frontend_opt.insert(
            format!("input-metadata:{input}"),
            serde_json::to_string(&base64(metadata))?,
        );
        request
            .frontend_inputs
            .insert(input, linked.def.unwrap_or_default());
    }
    Ok(())
}

/// Go's JSON has bytes in base64.
fn base64(metadata: HashMap<&str, &Vec<u8>>) -> HashMap<String, String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |bytes: &Vec<u8>| {
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk
                .iter()
                .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            for place in 0..4 {
                let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
                text.push(if place > chunk.len() {
                    '='
                } else {
                    char::from(digit)
                });
            }
        }
        text
    };
    metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), encode(value)))
        .collect()
}

/// A client whose folders are empty, but for the Dockerfile where that is looked for.
#[derive(Clone)]
struct OneFile(Arc<[u8]>);

impl From<String> for OneFile {
    fn from(content: String) -> Self {
        Self(content.into_bytes().into())
    }
}

#[tonic::async_trait]
impl FileSync for OneFile {
    type DiffCopyStream = BoxStream<'static, Result<Packet, Status>>;
    type TarStreamStream = BoxStream<'static, Result<Packet, Status>>;

    async fn diff_copy(
        &self,
        call: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let is_dockerfile = call
            .metadata()
            .get("dir-name")
            .is_some_and(|name| name == "dockerfile");
        let content = self.0.clone();
        let mut first = Vec::new();
        if is_dockerfile {
            let stat = Stat {
                path: "Dockerfile".to_owned(),
                mode: 0o644,
                size: content.len() as i64,
                ..Stat::default()
            };
            first.push(Packet {
                r#type: PacketType::PacketStat.into(),
                stat: Some(stat),
                ..Packet::default()
            });
        }
        first.push(Packet {
            r#type: PacketType::PacketStat.into(),
            ..Packet::default()
        });
        // The one who asks ends the talk, and waits for our end of it.
        let answers = futures::stream::unfold(Some(call.into_inner()), move |asked| {
            let content = content.clone();
            async move {
                let mut asked = asked?;
                let (answer, asked) = match asked.message().await {
                    Ok(Some(packet)) if packet.r#type() == PacketType::PacketReq => (
                        vec![Ok(data(packet.id, &content)), Ok(data(packet.id, &[]))],
                        Some(asked),
                    ),
                    Ok(Some(packet)) if packet.r#type() == PacketType::PacketFin => {
                        (vec![Ok(packet)], None)
                    }
                    Ok(Some(packet)) => (
                        vec![Err(Status::aborted(
                            String::from_utf8_lossy(&packet.data).into_owned(),
                        ))],
                        None,
                    ),
                    Ok(None) => return None,
                    Err(status) => (vec![Err(status)], None),
                };
                Some((futures::stream::iter(answer), asked))
            }
        });
        let answers = answers.flatten();
        Ok(Response::new(
            futures::stream::iter(first).map(Ok).chain(answers).boxed(),
        ))
    }

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("only DiffCopy"))
    }
}

fn data(id: u32, data: &[u8]) -> Packet {
    Packet {
        r#type: PacketType::PacketData.into(),
        id,
        data: data.to_vec(),
        ..Packet::default()
    }
}
