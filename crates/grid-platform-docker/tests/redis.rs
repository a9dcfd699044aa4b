//! A stock server as a node: Debian's redis-server in an image of its own, and in one of the official images' shape, whose
//! entrypoint begins as root, takes the data over and drops its rights.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod bed;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use bed::{Place, programs::Files};
use grid_platform_api::{
    DataPolicy, ErrorKind, FailureReason, HealthCheck, Platform, PlatformExt, Program, ReadyMode,
    RestartMode, SpawnConfig, SpawnConfigBuilder, SpawnedNode,
};
use grid_platform_docker::Security;
use grid_testbed::{Api, Image, Kind};
use serde_json::json;

const SERVER: &str = "/usr/bin/redis-server";

/// What the official image's entrypoint does.
const ENTRYPOINT: &str = "#!/bin/sh
set -e
if [ \"$1\" = redis-server ] && [ \"$(id -u)\" = 0 ]; then
    find . ! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups -- \"$0\" \"$@\"
fi
exec \"$@\"
";

/// An entrypoint that is of no use to anybody but root.
const INSISTING: &str = "#!/bin/sh
set -e
chown redis .
exec setpriv --reuid=redis --regid=redis --clear-groups -- \"$@\"
";

const USERS: &str = "root:x:0:0::/:/bin/sh\nredis:x:999:999::/data:/bin/sh\n";

fn plain(api: &Api) -> String {
    let files = Files::default().program(SERVER).unwrap();
    let image = Image::new(files.layer())
        .entrypoint(&[SERVER])
        .set("ExposedPorts", json!({ "6379/tcp": {} }));
    bed::image(api, "redis", image).unwrap()
}

/// An image of the official one's shape.
fn official(api: &Api, name: &str, script: &str) -> String {
    let mut files = Files::default()
        .file("entrypoint.sh", 0o755, script.as_bytes())
        .file("etc/passwd", 0o644, USERS.as_bytes())
        .file("etc/group", 0o644, b"root:x:0:\nredis:x:999:\n");
    for program in [
        "/bin/sh",
        "/usr/bin/find",
        "/bin/chown",
        "/usr/bin/setpriv",
        "/usr/bin/id",
        SERVER,
    ] {
        files = files.program(program).unwrap();
    }
    let image = Image::new(files.layer().dir("data", 0o755, 999))
        .entrypoint(&["/entrypoint.sh"])
        .set("Cmd", json!(["redis-server"]))
        .set("Env", json!(["PATH=/usr/bin:/bin"]))
        .set("WorkingDir", json!("/data"))
        .set("Volumes", json!({ "/data": {} }))
        .set("ExposedPorts", json!({ "6379/tcp": {} }));
    bed::image(api, name, image).unwrap()
}

/// What a redis-server is told, behind what runs it.
fn arguments(first: &[&str]) -> Vec<String> {
    let rest = [
        "--port",
        "{port}",
        "--bind",
        "{bind}",
        "--dir",
        "{data_path}",
    ];
    let rest = rest
        .iter()
        .chain(&["--appendonly", "yes", "--protected-mode", "no"]);
    first
        .iter()
        .chain(rest)
        .map(|it| (*it).to_owned())
        .collect()
}

fn node(id: &str, image: &str, first: &[&str]) -> SpawnConfigBuilder {
    let mut check = HealthCheck::tcp();
    check.interval = Duration::from_millis(100);
    SpawnConfig::builder(id, Program::image(image, arguments(first)))
        .port(0)
        .health(check)
        .restart(RestartMode::Never)
        .ready(ReadyMode::Healthy {
            timeout: Duration::from_secs(30),
        })
}

/// An id that no other run has on the engine.
fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// Asks a server that answers, and does so again as long as it still reads its data: it listens before it has.
fn ask(node: &SpawnedNode, command: &str) -> std::io::Result<String> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = ask_once(node, command)?;
        if !answer.starts_with("-LOADING") || Instant::now() > deadline {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a command in the inline form, and gives the first line of the answer.
fn ask_once(node: &SpawnedNode, command: &str) -> std::io::Result<String> {
    let endpoint = node.endpoint.as_ref().unwrap();
    let mut stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n") && stream.read(&mut byte)? == 1 {
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

#[tokio::test]
async fn redis_keeps_its_data_over_stop_start_and_update() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let config = node(&unique("redis"), &plain(&api), &[]).build().unwrap();
    let id = config.node_id.clone();
    let first = platform.spawn_node(config.clone()).await.unwrap();
    assert_eq!(ask(&first, "SET key kept").unwrap(), "+OK");
    platform.stop_node(&id).await.unwrap();
    assert!(ask(&first, "PING").is_err());
    let second = platform.spawn_node(config.clone()).await.unwrap();
    assert_eq!(
        (&second.uid, &second.endpoint),
        (&first.uid, &first.endpoint)
    );
    assert_eq!(ask(&second, "STRLEN key").unwrap(), ":4");
    // An update is another request over the same data.
    platform.remove_node(&id, DataPolicy::Keep).await.unwrap();
    let mut other = config;
    other.memory_limit_mb = Some(128);
    let third = platform.spawn_node(other).await.unwrap();
    assert_ne!(third.uid, first.uid);
    assert_eq!(ask(&third, "STRLEN key").unwrap(), ":4");
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn redis_beyond_its_memory_limit_is_out_of_memory() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let config = node(&unique("redis-oom"), &plain(&api), &[]).memory_limit_mb(64);
    let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
    // Each is a value of 16 MiB; it is ended before it has answered all.
    for number in 0..16 {
        if ask(&node, &format!("SETRANGE key{number} 16777215 x")).is_err() {
            break;
        }
    }
    platform
        .wait_for(&node.node_id, Duration::from_secs(30), |it| {
            it.is_some_and(|it| it.state.is_ended())
        })
        .await
        .unwrap();
    let ended = platform.get_node_status(&node.node_id).await.unwrap();
    let reason = ended.state.failure().map(|it| it.reason);
    assert_eq!(
        reason,
        Some(FailureReason::OutOfMemory),
        "{:?}",
        ended.state
    );
    platform
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await
        .unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn redis_of_the_official_shape_runs_as_the_nodes_user() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let image = official(&api, "redis-official", ENTRYPOINT);
    let config = node(&unique("redis-as-node"), &image, &["redis-server"]);
    let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
    assert_eq!(ask(&node, "SET key value").unwrap(), "+OK");
    platform
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await
        .unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn redis_of_the_official_shape_has_its_data_in_a_volume_of_the_engine() {
    let test = "redis_of_the_official_shape_has_its_data_in_a_volume_of_the_engine";
    if !bed::is_apart(test).unwrap() {
        return;
    }
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    place.hide().unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let image = official(&api, "redis-official", ENTRYPOINT);
    let config = node(&unique("redis-in-volume"), &image, &["redis-server"])
        .build()
        .unwrap();
    let id = config.node_id.clone();
    let first = platform.spawn_node(config.clone()).await.unwrap();
    // The volume is the node's, whoever has that directory in the image.
    assert_eq!(ask(&first, "SET key kept").unwrap(), "+OK");
    platform.remove_node(&id, DataPolicy::Keep).await.unwrap();
    let second = platform.spawn_node(config).await.unwrap();
    assert_eq!(ask(&second, "STRLEN key").unwrap(), ":4");
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn redis_that_keeps_its_data_where_its_image_says_has_it_after_an_update() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let files = Files::default().program(SERVER).unwrap();
    let image = Image::new(files.layer())
        .entrypoint(&[SERVER])
        .set("Volumes", json!({ "/var/lib/redis": {} }));
    let image = bed::image(&api, "redis-volume", image).unwrap();
    let mut config = node(&unique("redis-own"), &image, &[]).build().unwrap();
    let Program::Image { args, .. } = &mut config.program else {
        panic!("it is an image");
    };
    for arg in args.iter_mut().filter(|it| *it == "{data_path}") {
        "/var/lib/redis".clone_into(arg);
    }
    let id = config.node_id.clone();
    let first = platform.spawn_node(config.clone()).await.unwrap();
    assert_eq!(ask(&first, "SET key kept").unwrap(), "+OK");
    platform.remove_node(&id, DataPolicy::Keep).await.unwrap();
    config.memory_limit_mb = Some(128);
    let second = platform.spawn_node(config).await.unwrap();
    assert_ne!(second.uid, first.uid);
    assert_eq!(ask(&second, "STRLEN key").unwrap(), ":4");
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn redis_that_takes_its_data_over_as_root_works_where_the_settings_let_it() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let mut settings = place.own_config();
    let capabilities = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];
    settings.security = Security {
        run_as_image_user: true,
        cap_add: capabilities.map(str::to_owned).to_vec(),
        ..Security::default()
    };
    let platform = place.open(settings).await.unwrap();
    let image = official(&api, "redis-official", ENTRYPOINT);
    let config = node(&unique("redis-as-root"), &image, &["redis-server"])
        .build()
        .unwrap();
    let id = config.node_id.clone();
    let first = platform.spawn_node(config.clone()).await.unwrap();
    assert_eq!(ask(&first, "SET key kept").unwrap(), "+OK");
    let live = place.census(&id).unwrap();
    assert_eq!(live.len(), 1, "{live:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", live[0].pid)).unwrap();
    let users = status.lines().find(|it| it.starts_with("Uid:")).unwrap();
    assert_eq!(
        users, "Uid:\t999\t999\t999\t999",
        "it has dropped its rights"
    );
    platform.stop_node(&id).await.unwrap();
    let second = platform.spawn_node(config).await.unwrap();
    assert_eq!(ask(&second, "STRLEN key").unwrap(), ":4");
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

/// Spawns an image that needs more than it is given, and gives the hint of the failure.
async fn refused(name: &str, script: &str, security: Security) -> String {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let mut settings = place.own_config();
    settings.security = security;
    let platform = place.open(settings).await.unwrap();
    let image = official(&api, name, script);
    let config = node(&unique(name), &image, &["redis-server"])
        .build()
        .unwrap();
    let id = config.node_id.clone();
    let error = platform.spawn_node(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SpawnFailed, "{error:?}");
    let failure = error.failure().unwrap();
    assert_eq!(failure.reason, FailureReason::Exited, "{failure:?}");
    let said = failure.log_tail.concat();
    assert!(said.contains("Operation not permitted"), "{failure:?}");
    let hint = error.hint().unwrap().to_owned();
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
    hint
}

#[tokio::test]
async fn redis_that_insists_on_root_names_the_setting() {
    let hint = refused("redis-insists", INSISTING, Security::default()).await;
    assert!(hint.contains("security.run_as_image_user"), "{hint}");
}

#[tokio::test]
async fn redis_as_root_without_capabilities_names_the_setting() {
    let security = Security {
        run_as_image_user: true,
        ..Security::default()
    };
    let hint = refused("redis-official", ENTRYPOINT, security).await;
    assert!(hint.contains("security.cap_add"), "{hint}");
}
