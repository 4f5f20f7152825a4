//! Each part by itself, for real: it serves, and nothing of it is left when its owner ends.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use croft_local::{Access, Engine, EngineOptions, Postgres, Registry, RegistryOptions};

#[test]
fn each_test_gets_a_database_of_its_own_and_the_server_goes_with_its_owner() {
    let postgres = Postgres::start().unwrap();
    let (one, two) = (
        postgres.create_database().unwrap(),
        postgres.create_database().unwrap(),
    );
    query(&one, "CREATE TABLE only_here (x int)").unwrap();
    assert!(
        query(&two, "SELECT * FROM only_here")
            .unwrap_err()
            .contains("does not exist")
    );

    let template = postgres
        .create_database_named("migrated", "template0")
        .unwrap();
    query(&template, "CREATE TABLE migrated_table (x int)").unwrap();
    let copy = postgres.create_database_from("migrated").unwrap();
    query(&copy, "SELECT * FROM migrated_table").unwrap();

    let stranger = copy.replacen(':', ":x", 2).replacen(":x", ":", 1);
    assert!(
        query(&stranger, "SELECT 1")
            .unwrap_err()
            .contains("password authentication failed")
    );

    let (address, home) = (
        postgres.address(),
        postgres.log().parent().unwrap().to_owned(),
    );
    drop(postgres);
    assert!(TcpStream::connect(address).is_err());
    assert!(!home.exists());
}

#[test]
fn a_private_registry_wants_its_password_and_an_open_one_none() {
    let open = Registry::start(RegistryOptions::default()).unwrap();
    assert!(open.credentials().is_none());
    assert_eq!(registry_status(&open, None), 200);

    let access = Access::Password("someone".to_owned());
    let private = Registry::start(RegistryOptions {
        access,
        ..RegistryOptions::default()
    })
    .unwrap();
    assert_eq!(registry_status(&private, None), 401);
    assert_eq!(registry_status(&private, Some("someone:wrong")), 401);
    let credentials = private.credentials().unwrap();
    assert_eq!(
        registry_status(&private, Some(&format!("someone:{}", credentials.password))),
        200
    );
    assert!(!format!("{credentials:?}").contains(&credentials.password));
}

#[test]
fn an_engine_starts_and_leaves_no_bridge_cgroup_or_mount() {
    let engine = Engine::start(EngineOptions::default()).unwrap();
    let home = engine.home().to_owned();
    let settings = std::fs::read_to_string(home.join("daemon.json")).unwrap();
    let bridge = settings
        .split('"')
        .find(|word| word.starts_with("croft") && !word.contains('-'))
        .unwrap()
        .to_owned();
    assert!(
        std::path::Path::new("/sys/class/net")
            .join(&bridge)
            .exists()
    );
    drop(engine);
    assert!(
        !std::path::Path::new("/sys/class/net")
            .join(&bridge)
            .exists()
    );
    assert!(!home.exists());
    assert!(
        !std::fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(home.to_str().unwrap())
    );
}

fn query(url: &str, statement: &str) -> Result<String, String> {
    let output = Command::new("psql")
        .args(["-X", url, "-c", statement])
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn registry_status(registry: &Registry, login: Option<&str>) -> u16 {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    let login = login.map_or(String::new(), |login| {
        format!("Authorization: Basic {}\r\n", STANDARD.encode(login))
    });
    stream
        .write_all(format!("GET /v2/ HTTP/1.0\r\n{login}\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}
