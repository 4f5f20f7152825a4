//! TLS on both ports: who shows the right certificate builds and serves, who doesn't is refused.

use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::programs::{Flags, agent};
use crate::support::{Buildx, Context, Repository, buildx::BUILDER, farm, process};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

/// The paths of a certificate for this name, or IP address, and of its key.
fn certificate(flags: &Flags, authority: &Authority, name: &str, file: &str) -> [String; 2] {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([name.to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, authority).expect("signed");
    [
        flags.file(&format!("{file}.pem"), &certificate.pem()),
        flags.file(&format!("{file}.key"), &key.serialize_pem()),
    ]
}

#[test]
fn an_image_is_built_by_whom_the_authority_vouches_for_and_by_nobody_else() {
    let farm = farm();
    let (good, other) = (authority(), authority());
    let flags = Flags::good();
    let ca = flags.file("ca.pem", &good.pem());
    let [cert, key] = certificate(&flags, &good, "127.0.0.1", "server");
    let client = certificate(&flags, &good, "client", "client");
    let agents = certificate(&flags, &good, "agent", "agent");
    let stranger = certificate(&flags, &other, "client", "stranger");
    let flags = flags.with(&[
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
    ]);
    let mut coordinator = flags.start();

    let engine = farm.agents()[0].engine();
    let address = format!("https://{}", flags.agents);
    let agent_with = |[cert, key]: &[String; 2]| {
        agent(
            engine,
            &address,
            &["--tls-ca", &ca, "--tls-cert", cert, "--tls-key", key],
        )
    };
    // It may be a matter of a wrong clock or of a CA that is about to be changed: an agent goes on trying, and says why.
    let (command, _state) = agent_with(&stranger);
    let mut refused = process::start(command);
    refused.wait_for(|line| line.contains("--tls-cert"));
    coordinator
        .wait_for(|line| line.contains("TLS failed") && line.contains("invalid peer certificate"));
    let (command, _folder) = agent_with(&agents);
    let _agent = process::start(command);
    coordinator.wait_for(|line| line.contains("an agent joined"));

    let build = |options: Option<String>| {
        let buildx = Buildx::empty();
        let endpoint = format!("tcp://{}", flags.clients);
        let create = [
            "create", "--name", BUILDER, "--driver", "remote", &*endpoint,
        ]
        .into_iter();
        let options = options.iter().flat_map(|options| ["--driver-opt", options]);
        buildx.run(create.chain(options)).succeeded();
        let context = Context::new("FROM busybox\nRUN : $NONCE\n");
        let image = Repository::of(farm.registry(), &context.nonce);
        let built = buildx.build(&context).push(&image.tag("1")).run();
        (built, image.tags())
    };
    let with = |[cert, key]: &[String; 2]| Some(format!("cacert={ca},cert={cert},key={key}"));
    let (built, tags) = build(with(&client));
    built.succeeded();
    assert_eq!(tags, ["1"]);
    // buildx offers no protocol when it greets, buildctl offers `h2`.
    let workers = |[cert, key]: &[String; 2]| {
        let mut command = croft_local::buildctl().expect("buildctl").command();
        command.args(["--addr", &format!("tcp://{}", flags.clients)]);
        command.args(["--tlscacert", &ca, "--tlscert", cert, "--tlskey", key]);
        command.args(["debug", "workers"]);
        process::run(command)
    };
    let seen = workers(&client).succeeded().stdout;
    assert!(seen.contains("linux/"), "{seen}");
    workers(&stranger).failed();
    // buildx goes on trying for a while; and it may try without TLS, which finds nobody.
    thread::scope(|scope| {
        for options in [with(&stranger), Some(format!("cacert={ca}")), None] {
            scope.spawn(|| {
                let (built, tags) = build(options);
                built.failed();
                assert!(tags.is_empty());
            });
        }
    });
}
