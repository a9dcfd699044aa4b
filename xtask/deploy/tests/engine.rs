//! The engines of the tests' own: what a crash leaves is used again, and taken away whole.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use grid_platform_testing::probe;
use grid_testbed::{Api, Engine, Image, Kind, Options, Tar, processes};
use serde_json::json;

const PROBE: &str = "localhost/sutra-grid-test/engine:latest";

/// Runs a probe, and gives its container's id.
fn run(api: &Api) -> String {
    let layer = Tar::default()
        .file("grid-probe", 0o755, probe::BYTES)
        .dir("data", 0o755, 0);
    Image::new(layer)
        .entrypoint(&["/grid-probe"])
        .load(api, PROBE)
        .unwrap();
    let body = json!({
        "Image": PROBE,
        "Cmd": ["deaf"],
        "Env": ["SUTRA_DATA_PATH=/data"],
        "HostConfig": { "RestartPolicy": { "Name": "always" } },
    });
    let made = api.call("POST", "/containers/create", Some(&body)).unwrap();
    let id = made["Id"].as_str().unwrap().to_owned();
    api.call("POST", &format!("/containers/{id}/start"), None)
        .unwrap();
    id
}

#[test]
fn an_engine_that_was_killed_is_raised_again_and_leaves_nothing() {
    if let Err(why) = grid_testbed::can_raise(Kind::Docker) {
        eprintln!("not run: an engine that was killed: needs {why}");
        return;
    }
    let engine = Engine::temporary(Kind::Docker, Options { live_restore: true }).unwrap();
    let (dir, options) = (engine.dir().to_owned(), Options { live_restore: true });
    let api = engine.look().unwrap();
    let id = run(&api);
    engine.kill().unwrap();
    assert!(engine.look().is_err());
    let alive = || processes(|it| it.is_in_group(&id)).len();
    assert_eq!(alive(), 1, "the container lives on");
    let api = engine.up(options).unwrap();
    let found = api.get(&format!("/containers/{id}/json")).unwrap();
    assert_eq!(found["State"]["Running"], true);
    engine.kill().unwrap();
    // What a run that was killed itself leaves: an engine without a daemon, and its containers.
    engine.down().unwrap();
    assert_eq!(alive(), 0);
    assert!(!dir.exists());
    let left = processes(|it| it.mentions(&dir));
    assert_eq!(left, []);
}
