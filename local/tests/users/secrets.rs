//! Secrets reach the commands that mount them, on whatever agent, and stay nowhere.

use sha2::{Digest as _, Sha256};

use crate::eyes;
use crate::support::{Buildx, Context, PLATFORMS, farm, nonce};

#[test]
fn secrets_from_a_file_and_from_the_environment_reach_every_platform_and_are_written_down_nowhere()
{
    let farm = farm();
    let (file, variable) = (format!("file-{}", nonce()), format!("variable-{}", nonce()));
    let hash = |secret: &str| hex::encode(Sha256::digest(secret));
    let context = Context::new(&format!(
        "FROM busybox\nRUN --mount=type=secret,id=file --mount=type=secret,id=variable : $NONCE && \
         echo '{}  /run/secrets/file' | sha256sum -c && echo '{}  /run/secrets/variable' | sha256sum -c\n\
         RUN --mount=type=secret,id=variable,env=INSIDE printf %s \"$INSIDE\" | sha256sum | grep {}\n",
        hash(&file),
        hash(&variable),
        hash(&variable),
    ));
    let buildx = Buildx::of(farm);
    let path = buildx.home().join("secret");
    std::fs::write(&path, &file).expect("writable");
    let arguments = [
        "--secret".to_owned(),
        format!("id=file,src={}", path.display()),
        "--secret".to_owned(),
        "id=variable,env=OUTSIDE".to_owned(),
    ];
    eyes::no_command_line_has(&variable, || {
        let build = buildx.build(&context).platforms(&PLATFORMS);
        build
            .args(&arguments)
            .env("OUTSIDE", &variable)
            .run()
            .succeeded()
    });
    for secret in [&file, &variable] {
        eyes::nobody_wrote_down(farm, secret);
    }
}
