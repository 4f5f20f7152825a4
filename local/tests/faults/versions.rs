//! Agents of other versions than the coordinator. What they say is written down here as the protocol's version 1.0 had it, whatever has come to
//! it since.

use std::time::Duration;

use croft_local::Farm;
use futures::StreamExt as _;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use crate::aftermath::nothing_left;
use crate::farm_of;
use crate::support::{Buildx, Context, builds};

/// How long a farm may take to say something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A platform that only the agents of this file are of.
const PLATFORM: &str = "linux/riscv64";

/// The version before the coordinator's; which still had all of this.
const MINOR_BEFORE: &str = "1.1";

mod old {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct FromAgent {
        #[prost(oneof = "Said", tags = "1, 2, 3, 6")]
        pub said: Option<Said>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Said {
        #[prost(message, tag = "1")]
        Hello(Hello),
        #[prost(message, tag = "2")]
        Heartbeat(Heartbeat),
        #[prost(message, tag = "3")]
        Accepted(Held),
        #[prost(message, tag = "6")]
        Finished(Finished),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Hello {
        #[prost(string, tag = "1")]
        pub protocol: String,
        #[prost(string, tag = "2")]
        pub version: String,
        #[prost(string, tag = "3")]
        pub name: String,
        #[prost(string, tag = "4")]
        pub native_platform: String,
        #[prost(string, repeated, tag = "5")]
        pub platforms: Vec<String>,
        #[prost(uint32, tag = "7")]
        pub slots: u32,
        #[prost(message, optional, tag = "9")]
        pub engine: Option<Engine>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Engine {
        #[prost(string, tag = "1")]
        pub kind: String,
        #[prost(string, repeated, tag = "3")]
        pub llb_caps: Vec<String>,
        #[prost(string, repeated, tag = "4")]
        pub frontend_caps: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Held {
        #[prost(string, tag = "1")]
        pub attempt: String,
        #[prost(uint64, tag = "2")]
        pub token: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Heartbeat {
        #[prost(message, repeated, tag = "1")]
        pub running: Vec<Held>,
        #[prost(bool, tag = "2")]
        pub engine_healthy: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Finished {
        #[prost(string, tag = "1")]
        pub attempt: String,
        #[prost(uint64, tag = "2")]
        pub token: u64,
        #[prost(message, optional, tag = "4")]
        pub failure: Option<Failure>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Failure {
        /// 1: the build's own.
        #[prost(int32, tag = "1")]
        pub kind: i32,
        #[prost(string, tag = "2")]
        pub message: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct FromCoordinator {
        #[prost(oneof = "Heard", tags = "1, 2, 3, 5")]
        pub heard: Option<Heard>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Heard {
        #[prost(message, tag = "1")]
        Welcome(Welcome),
        /// The attempt with its token, and more.
        #[prost(message, tag = "2")]
        Offer(Held),
        #[prost(message, tag = "3")]
        Renewed(Renewed),
        #[prost(message, tag = "5")]
        CloseKeeper(CloseKeeper),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Welcome {
        #[prost(string, tag = "1")]
        pub agent: String,
        #[prost(uint32, tag = "3")]
        pub lease_ms: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Renewed {
        #[prost(string, repeated, tag = "1")]
        pub attempts: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CloseKeeper {
        #[prost(string, tag = "1")]
        pub build: String,
    }
}

use old::{Heard, Said};

/// An agent without an engine, on its link.
struct Old {
    to: mpsc::Sender<old::FromAgent>,
    from: Streaming<old::FromCoordinator>,
}

impl Old {
    /// Says hello in this version of the protocol.
    async fn join(farm: &Farm, protocol: &str, engine: &old::Engine) -> Result<Old, Status> {
        let channel = Endpoint::from_shared(format!("http://{}", farm.agent_address()));
        let channel = channel.expect("a URL").connect().await.expect("it listens");
        let (to, outgoing) = mpsc::channel(8);
        let hello = old::Hello {
            protocol: protocol.to_owned(),
            version: "0.0.1".to_owned(),
            name: "old-1".to_owned(),
            native_platform: PLATFORM.to_owned(),
            platforms: vec![PLATFORM.to_owned()],
            slots: 1,
            engine: Some(engine.clone()),
        };
        let hello = old::FromAgent {
            said: Some(Said::Hello(hello)),
        };
        to.send(hello).await.expect("there is room");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("it is connected");
        let codec = tonic_prost::ProstCodec::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/croft.v1.Fleet/Link");
        let outgoing = tonic::Request::new(ReceiverStream::new(outgoing));
        let from = client.streaming(outgoing, path, codec).await?.into_inner();
        Ok(Old { to, from })
    }

    async fn say(&self, said: Said) {
        let message = old::FromAgent { said: Some(said) };
        self.to.send(message).await.expect("the link is there");
    }

    /// The next of what it hears that is this, others passed over.
    async fn hear<T>(&mut self, mut this: impl FnMut(Heard) -> Option<T>) -> T {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.from.next()).await;
            let next = next.expect("it is told in time").expect("the link goes on");
            let heard = next.expect("the link is there").heard;
            if let Some(found) = heard.and_then(&mut this) {
                return found;
            }
        }
    }

    async fn beat(&self, running: &[old::Held]) {
        let beat = old::Heartbeat {
            running: running.to_vec(),
            engine_healthy: true,
        };
        self.say(Said::Heartbeat(beat)).await;
    }
}

#[test]
fn an_agent_of_the_minor_version_before_is_given_work_and_those_of_others_are_told_what_to_do() {
    // So long that the one heartbeat of this agent is enough.
    let farm = farm_of("amd64", &["--lease", "10m"]);
    let caps = |of: &str| -> Vec<String> {
        let caps = format!("SELECT array_to_string({of}, ' ') FROM agents");
        let caps = farm.postgres().query(farm.database_url(), &caps);
        let caps = caps.expect("a database");
        caps.split(' ').map(str::to_owned).collect()
    };
    // Clients are offered what all engines can.
    let engine = old::Engine {
        kind: "buildkitd".to_owned(),
        llb_caps: caps("llb_caps"),
        frontend_caps: caps("frontend_caps"),
    };
    let runtime = Runtime::new().expect("threads");
    for (theirs, advice) in [
        ("0.9", "update the agent"),
        ("9.0", "update the coordinator"),
        ("old", "is it an agent of croft?"),
    ] {
        let refused = runtime.block_on(Old::join(&farm, theirs, &engine));
        let status = refused.err().expect("it is refused");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        let said = status.message();
        assert!(said.contains(theirs) && said.contains(advice), "{said}");
    }
    let known = "SELECT count(*) FROM agents";
    let known = farm.postgres().query(farm.database_url(), known);
    assert_eq!(known.expect("a database"), "1", "no other is known");

    let mut old = runtime
        .block_on(Old::join(&farm, MINOR_BEFORE, &engine))
        .expect("it is taken");
    runtime.block_on(async {
        let welcome = |heard| match heard {
            Heard::Welcome(welcome) => Some(welcome),
            _ => None,
        };
        let welcome = old.hear(welcome).await;
        assert!(!welcome.agent.is_empty() && welcome.lease_ms > 0);
        old.beat(&[]).await;
    });
    // What runs there the engine of this agent would know.
    let context = Context::new("FROM scratch\nRUN [\"/$NONCE\"]\n");
    let buildx = Buildx::of(&farm);
    let build = buildx.build(&context).platforms(&[PLATFORM]);
    let (built, closed) = build.start_with(|_| {
        runtime.block_on(async {
            let offer = |heard| match heard {
                Heard::Offer(offer) => Some(offer),
                _ => None,
            };
            let attempt = old.hear(offer).await;
            old.say(Said::Accepted(attempt.clone())).await;
            old.beat(std::slice::from_ref(&attempt)).await;
            let renewed = |heard| match heard {
                Heard::Renewed(renewed) => renewed.attempts.into_iter().next(),
                _ => None,
            };
            assert_eq!(old.hear(renewed).await, attempt.attempt);
            let failure = old::Failure {
                kind: 1,
                message: "so says the old one".to_owned(),
            };
            let finished = old::Finished {
                attempt: attempt.attempt.clone(),
                token: attempt.token,
                failure: Some(failure),
            };
            old.say(Said::Finished(finished)).await;
            let closed = |heard| match heard {
                Heard::CloseKeeper(close) => Some(close.build),
                _ => None,
            };
            old.hear(closed).await
        })
    });
    let built = built.failed();
    assert!(
        built.progress().contains("so says the old one"),
        "{}",
        built.progress()
    );
    let plan = builds::find(&farm, &context.nonce).expect("the farm knows the build");
    assert_eq!((closed, &*plan.state), (plan.id.clone(), "failed"));
    nothing_left(&farm, &context.nonce);
}
