//! Images of other shapes than the probe's, and engines that do not see the agent's files or are spoken to over a network.

#![allow(clippy::unwrap_used, reason = "all of it is for tests")]

mod bed;

use std::{path::Path, time::Duration};

use bed::Place;
use grid_platform_api::{
    DataPolicy, Error, ErrorKind, FailureReason, HealthCheck, NodeId, NodeState, Platform,
    PlatformExt, Program, ReadyMode, RestartMode, SpawnConfig, SpawnConfigBuilder,
};
use grid_platform_docker::DockerPlatform;
use grid_platform_testing::probe;
use grid_testbed::{Image, Kind, Tar};
use serde_json::json;

/// The longest that is waited for a state.
const PATIENCE: Duration = Duration::from_secs(60);

const USERS: &str = "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nredis:x:999:998::/:/bin/sh\n";

fn place() -> Place {
    Place::new(&bed::engine(Kind::Docker).unwrap()).unwrap()
}

/// An id that no other run has on the engine.
fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// The probe in an image with users and a file of this name in `/keep`.
fn files(mark: &str) -> Tar {
    Tar::default()
        .file("grid-probe", 0o755, probe::BYTES)
        .file("etc/passwd", 0o644, USERS.as_bytes())
        .dir("keep", 0o755, 999)
        .file(&format!("keep/{mark}"), 0o644, b"")
}

fn image(place: &Place, name: &str, change: impl FnOnce(Image) -> Image) -> Program {
    let image = Image::new(files(name)).entrypoint(&["/grid-probe"]);
    let reference = bed::image(&place.api, name, change(image)).unwrap();
    Program::image(reference, [] as [&str; 0])
}

fn node(name: &str, program: Program) -> SpawnConfigBuilder {
    SpawnConfig::builder(unique(name), program)
        .port(0)
        .restart(RestartMode::Never)
        .ready(ReadyMode::Healthy { timeout: PATIENCE })
        .health(HealthCheck::tcp())
}

/// Whether a volume of the engine holds a file of this name.
fn is_in_a_volume(place: &Place, mark: &str) -> bool {
    let volumes = place.volumes().unwrap();
    volumes.iter().any(|(_, path)| path.join(mark).exists())
}

fn has_volume(place: &Place, name: &str) -> bool {
    place.volumes().unwrap().iter().any(|it| it.0 == name)
}

async fn gone(platform: &DockerPlatform, id: &NodeId) {
    let gone = platform.wait_for(id, PATIENCE, |it| it.is_none());
    gone.await.unwrap();
}

fn check_failure(error: &Error, reason: FailureReason, hint: &str) {
    assert_eq!(error.kind(), ErrorKind::SpawnFailed, "{error:?}");
    assert_eq!(error.failure().unwrap().reason, reason, "{error:?}");
    assert!(error.hint().unwrap().contains(hint), "{error:?}");
}

#[tokio::test]
async fn an_image_with_several_volumes_is_refused() {
    let place = place();
    let platform = place.open(place.own_config()).await.unwrap();
    let program = image(&place, "several", |it| {
        it.set("Volumes", json!({ "/data": {}, "/keep": {} }))
    });
    let config = node("several", program).build().unwrap();
    let id = config.node_id.clone();
    let error = platform.spawn_node(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.hint().unwrap().contains("VOLUME"), "{error:?}");
    assert!(place.containers(&id).unwrap().is_empty());
    place.clean_up().unwrap();
}

#[tokio::test]
async fn an_image_of_a_named_user_leaves_nothing_but_its_node() {
    let place = place();
    let platform = place.open(place.own_config()).await.unwrap();
    let mark = unique("named");
    let program = image(&place, &mark, |it| {
        it.set("Volumes", json!({ "/keep": {} }))
            .set("User", json!("redis"))
    });
    let config = node("named", program).build().unwrap();
    let id = config.node_id.clone();
    platform.spawn_node(config).await.unwrap();
    let containers = place.containers(&id).unwrap();
    assert_eq!(containers.len(), 1);
    let container = containers[0]["Id"].as_str().unwrap();
    let path = format!("/containers/{container}/json");
    let made = place.api.get(&path).unwrap();
    assert_eq!(made["Config"]["User"], "999:998");
    // By its id, as its name may be another's by then.
    assert_eq!(made["Config"]["Image"], made["Image"]);
    // What looked into it took the nameless volume of the image along.
    assert!(!is_in_a_volume(&place, &mark));
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn an_image_whose_user_is_root_by_another_name_does_not_run_as_root() {
    let place = place();
    let platform = place.open(place.own_config()).await.unwrap();
    for user in ["toor", "00"] {
        let name = format!("root-as-{user}");
        let program = image(&place, &name, |it| it.set("User", json!(user)));
        let config = node(&name, program).build().unwrap();
        let id = config.node_id.clone();
        platform.spawn_node(config).await.unwrap();
        let live = place.census(&id).unwrap();
        assert_eq!(live.len(), 1, "{live:?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", live[0].pid)).unwrap();
        let users = status.lines().find(|it| it.starts_with("Uid:")).unwrap();
        assert!(!users.contains("\t0"), "{user}: {users}");
        platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    }
    place.clean_up().unwrap();
}

#[tokio::test]
async fn a_volume_is_the_nodes_and_holds_nothing_of_the_image() {
    if !bed::is_apart("a_volume_is_the_nodes_and_holds_nothing_of_the_image").unwrap() {
        return;
    }
    let place = place();
    place.hide().unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let mark = unique("copied");
    let program = image(&place, &mark, |it| {
        it.set("Volumes", json!({ "/keep": {} }))
    });
    // It writes into its data when it boots.
    let config = node("copied", program).build().unwrap();
    let id = config.node_id.clone();
    platform.spawn_node(config).await.unwrap();
    assert!(has_volume(&place, &id.native_name()));
    assert!(!is_in_a_volume(&place, &mark));
    assert_eq!(place.boots(&id).unwrap().len(), 1);
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_not_hidden_by_another_form_of_it() {
    if !bed::is_apart("data_is_not_hidden_by_another_form_of_it").unwrap() {
        return;
    }
    let place = place();
    let config = node("forms", place.probe(&[]).unwrap()).build().unwrap();
    let id = config.node_id.clone();
    for hidden_first in [false, true] {
        if hidden_first {
            place.hide().unwrap();
        }
        let platform = place.open(place.own_config()).await.unwrap();
        platform.spawn_node(config.clone()).await.unwrap();
        platform.remove_node(&id, DataPolicy::Keep).await.unwrap();
        drop(platform);
        match hidden_first {
            true => place.show().unwrap(),
            false => place.hide().unwrap(),
        }
        let platform = opened(&place).await;
        let error = platform.spawn_node(config.clone()).await.unwrap_err();
        check_failure(&error, FailureReason::DataUnavailable, "grid doctor");
        assert!(place.containers(&id).unwrap().is_empty());
        assert_eq!(platform.list_data().await.unwrap().len(), 1);
        // Once it is purged there is nothing to hide.
        platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
        platform.spawn_node(config.clone()).await.unwrap();
        platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
        drop(platform);
        if !hidden_first {
            place.show().unwrap();
        }
    }
    place.clean_up().unwrap();
}

/// Opens the place's own adapter behind one that was just dropped, which may still let go of the state.
async fn opened(place: &Place) -> DockerPlatform {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match place.open(place.own_config()).await {
            Ok(platform) => return platform,
            Err(e) if tokio::time::Instant::now() > deadline => panic!("{e:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[tokio::test]
async fn secrets_in_volumes_go_with_their_node() {
    if !bed::is_apart("secrets_in_volumes_go_with_their_node").unwrap() {
        return;
    }
    let place = place();
    place.hide().unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let config = node("secret", place.probe(&[]).unwrap())
        .secret("key", "hunter2".into())
        .build()
        .unwrap();
    let id = config.node_id.clone();
    let (data, secrets) = (id.native_name(), format!("{}.secrets", id.native_name()));
    // As after a remove that was killed behind the end of the container.
    let lose = async |platform: &DockerPlatform| {
        platform.spawn_node(config.clone()).await.unwrap();
        assert!(has_volume(&place, &secrets));
        let container = place.containers(&id).unwrap()[0]["Id"].clone();
        let path = format!("/containers/{}?force=true", container.as_str().unwrap());
        place.api.call("DELETE", &path, None).unwrap();
        gone(platform, &id).await;
    };
    lose(&platform).await;
    platform.remove_node(&id, DataPolicy::Keep).await.unwrap();
    assert!(!has_volume(&place, &secrets));
    assert!(has_volume(&place, &data));
    lose(&platform).await;
    drop(platform);
    let platform = opened(&place).await;
    assert!(!has_volume(&place, &secrets));
    assert!(has_volume(&place, &data));
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn helpers_of_a_killed_adapter_keep_no_data() {
    if !bed::is_apart("helpers_of_a_killed_adapter_keep_no_data").unwrap() {
        return;
    }
    let place = place();
    place.hide().unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let config = node("helped", place.probe(&[]).unwrap()).build().unwrap();
    let id = config.node_id.clone();
    let owner = platform.probe().await.unwrap().owner;
    let Program::Image { image, .. } = &config.program else {
        panic!("it is an image");
    };
    let leave = |of: &str| {
        let body = json!({
            "Image": image,
            "Labels": { "sutra.owner": owner.as_str(), "sutra.helper": of },
            "HostConfig": { "Mounts": [
                { "Type": "volume", "Source": id.native_name(), "Target": "/x" },
            ] },
        });
        let made = place.api.call("POST", "/containers/create", Some(&body));
        made.unwrap()["Id"].as_str().unwrap().to_owned()
    };
    let is_there = |container: &str| {
        let path = format!("/containers/{container}/json");
        place.api.get(&path).is_ok()
    };
    platform.spawn_node(config.clone()).await.unwrap();
    let own = leave(id.as_str());
    let other = leave("-");
    drop(platform);
    let platform = opened(&place).await;
    assert!(!is_there(&own) && !is_there(&other));
    let own = leave(id.as_str());
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    assert!(!is_there(&own));
    assert!(!has_volume(&place, &id.native_name()));
    place.clean_up().unwrap();
}

#[tokio::test]
async fn a_node_with_secrets_whose_image_was_removed_says_so() {
    if !bed::is_apart("a_node_with_secrets_whose_image_was_removed_says_so").unwrap() {
        return;
    }
    let place = place();
    place.hide().unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let program = image(&place, &unique("removed"), |it| it);
    let config = node("removed", program)
        .secret("key", "hunter2".into())
        .build()
        .unwrap();
    let id = config.node_id.clone();
    let Program::Image { image, .. } = &config.program else {
        panic!("it is an image");
    };
    platform.spawn_node(config.clone()).await.unwrap();
    platform.stop_node(&id).await.unwrap();
    let path = format!("/images/{image}?force=true");
    place.api.call("DELETE", &path, None).unwrap();
    let error = platform.spawn_node(config.clone()).await.unwrap_err();
    check_failure(&error, FailureReason::ImageNotFound, "docker pull");
    let seen = platform.get_node_status(&id).await.unwrap();
    assert!(matches!(seen.state, NodeState::Stopped { .. }), "{seen:?}");
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test]
async fn a_storage_root_that_the_engine_does_not_see_is_not_used() {
    if !bed::is_apart("a_storage_root_that_the_engine_does_not_see_is_not_used").unwrap() {
        return;
    }
    let (place, other) = (place(), place());
    other.hide().unwrap();
    let mut settings = place.own_config();
    settings.storage_roots = vec![place.host.path().into(), other.host.path().into()];
    let platform = place.open(settings).await.unwrap();
    let at = |path: &Path| {
        let mut config = node("rooted", place.probe(&[]).unwrap()).build().unwrap();
        config.storage_path = Some(path.to_owned());
        config
    };
    let error = platform.spawn_node(at(&other.host.new_path())).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.hint().unwrap().contains("storage root"), "{error:?}");
    let config = at(&place.host.new_path());
    let id = config.node_id.clone();
    platform.spawn_node(config).await.unwrap();
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    place.clean_up().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_over_a_network_is_given_no_secrets_and_asked_where_it_is() {
    let place = place();
    // An address of this host that is not its loopback.
    let bridge = place.api.get("/networks/bridge").unwrap();
    let address = bridge["IPAM"]["Config"][0]["Gateway"].as_str().unwrap();
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = place.api.host().strip_prefix("unix://").unwrap().to_owned();
    let passing = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let mut settings = place.own_config();
    settings.host = Some(format!("tcp://{address}:{port}"));
    let platform = place.open(settings).await.unwrap();
    assert!(!platform.capabilities().secrets);
    let mut config = node("far", place.probe(&[]).unwrap())
        .secret("key", "hunter2".into())
        .build()
        .unwrap();
    let error = platform.spawn_node(config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed, "{error:?}");
    assert!(error.hint().unwrap().contains("cert_path"), "{error:?}");
    config.secrets.clear();
    let error = platform.spawn_node(config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    assert!(error.hint().unwrap().contains("bind_address"), "{error:?}");
    config.bind_address = "0.0.0.0".parse().unwrap();
    // Its health is asked at the engine's address.
    let id = config.node_id.clone();
    platform.spawn_node(config).await.unwrap();
    platform.remove_node(&id, DataPolicy::Purge).await.unwrap();
    drop(platform);
    passing.abort();
    place.clean_up().unwrap();
}
