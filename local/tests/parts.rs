//! Each part by itself, for real: it serves, and nothing of it is left when its owner ends.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use croft_local::{
    Access, Engine, EngineOptions, Place, Ports, Postgres, PostgresOptions, Registry,
    RegistryOptions, psql,
};

#[test]
fn each_test_gets_a_database_of_its_own_and_the_server_goes_with_its_owner() {
    let postgres = Postgres::start().unwrap();
    let (one, two) = (
        postgres.create_database().unwrap(),
        postgres.create_database().unwrap(),
    );
    postgres
        .query(&one, "CREATE TABLE only_here (x int)")
        .unwrap();
    let elsewhere = postgres.query(&two, "SELECT * FROM only_here").unwrap_err();
    assert!(
        elsewhere.to_string().contains("does not exist"),
        "{elsewhere}"
    );

    let template = postgres
        .create_database_named("migrated", "template0")
        .unwrap();
    postgres
        .query(&template, "CREATE TABLE inherited AS SELECT 7 AS x")
        .unwrap();
    let copy = postgres.create_database_from("migrated").unwrap();
    assert_eq!(
        postgres.query(&copy, "SELECT x FROM inherited").unwrap(),
        "7"
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
fn a_database_asks_for_its_password() {
    let (one, other) = (Postgres::start().unwrap(), Postgres::start().unwrap());
    let login = |url: &str| url.split('@').next().unwrap().to_owned();
    let (own, foreign) = (login(&one.url("postgres")), login(&other.url("postgres")));
    let connect = |login: &str| startup(one.address(), login.rsplit_once(':').unwrap().1);
    assert!(connect(&own).is_ok());
    assert!(
        connect(&foreign)
            .unwrap_err()
            .contains("password authentication failed")
    );
}

#[test]
fn a_part_that_cannot_start_shows_its_log() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = Ports::At(taken.local_addr().unwrap());
    thread::spawn(move || taken.incoming().for_each(drop));
    let error = Registry::start(RegistryOptions {
        ports,
        ..RegistryOptions::default()
    })
    .unwrap_err();
    assert!(
        error.to_string().contains("address already in use"),
        "{error}"
    );
}

#[test]
fn a_database_below_a_folder_that_is_closed_to_others_still_starts() {
    let closed = tempfile::tempdir().unwrap();
    let place = Place::Within(closed.path().join("farm"));
    let options = PostgresOptions {
        place,
        ..PostgresOptions::default()
    };
    let postgres = Postgres::start_with(options).unwrap();
    assert_eq!(
        postgres
            .query(&postgres.url("postgres"), "SELECT 1")
            .unwrap(),
        "1"
    );
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

/// Logs in with psql, as any client on this machine could.
fn startup(address: SocketAddr, password: &str) -> Result<(), String> {
    let mut command = psql().unwrap().command();
    command.env("PGPASSWORD", password).args([
        "-X", "-w", "-U", "croft", "-d", "postgres", "-c", "SELECT 1",
    ]);
    command.args([
        "-h",
        &address.ip().to_string(),
        "-p",
        &address.port().to_string(),
    ]);
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
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
