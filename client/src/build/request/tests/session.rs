//! What only a session brings: secrets and SSH agents.

use super::*;

#[test]
fn secrets_are_files_or_variables_and_their_values_are_said_nowhere() {
    let world = World::new().with("TOKEN", "hunter2");
    let request = world
        .read(&[
            "--secret=id=a,src=app/Dockerfile",
            "--secret=id=b,env=X",
            "--secret=type=env,id=c,src=Y",
            "--secret=id=TOKEN",
            "--secret=id=d",
            "app",
        ])
        .unwrap();
    let variable = |name: &str| SecretPlace::Variable(name.to_owned());
    let expect = [
        ("TOKEN", variable("TOKEN")),
        ("a", SecretPlace::File(world.path("app/Dockerfile"))),
        ("b", variable("X")),
        ("c", variable("Y")),
        ("d", SecretPlace::File(world.path("d"))),
    ];
    let expect = expect.map(|(id, place)| (id.to_owned(), place));
    assert_eq!(request.shares.secrets, BTreeMap::from(expect));
    assert!(!format!("{request:?}").contains("hunter2"));
    for wrong in [
        "--secret=hunter2",
        "--secret=src=hunter2",
        "--secret=id=a,type=hunter2x",
    ] {
        let error = world.read(&[wrong, "app"]).unwrap_err().to_string();
        assert!(error.contains("--secret"), "{error}");
    }
}

#[test]
fn ssh_agents_are_the_user_s_own_or_at_a_socket() {
    let world = World::new();
    let request = world
        .read(&["--ssh=default", "--ssh=x=sock", "app"])
        .unwrap();
    assert_eq!(request.shares.ssh["default"], None);
    assert_eq!(request.shares.ssh["x"], Some(world.path("sock")));
    world.refused(&["--ssh=x=a,b", "app"], "ssh-add");
}
