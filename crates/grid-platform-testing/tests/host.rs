//! The census of this host's processes, with the real probe and no platform in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use grid_platform_api::NodeId;
use grid_platform_testing::{HostPlace, eventually, probe, probe_path};

/// Starts the probe as a platform would.
fn start(data: &PathBuf, id: &str, port: u16, args: &[&str]) -> Child {
    std::fs::create_dir_all(data).unwrap();
    Command::new(probe_path().unwrap())
        .args(args)
        .env_clear()
        .env("SUTRA_NODE_ID", id)
        .env("SUTRA_DATA_PATH", data)
        .env("SUTRA_PORT", port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn asked(port: u16, action: &str) -> String {
    let asked = probe::ask_soon("127.0.0.1", port, action);
    asked.await.unwrap()
}

#[tokio::test]
async fn the_census_sees_a_tree_and_tells_nodes_apart() {
    let place = HostPlace::new().unwrap();
    let (id, other) = (NodeId::new("n1").unwrap(), NodeId::new("n2").unwrap());
    let port = free_port();
    let mut node = start(
        &place.state().join("d1"),
        "n1",
        port,
        &["orphan", "put=key:value"],
    );
    let mut foreign = start(&place.stranger().join("d1"), "n1", free_port(), &[]);
    assert_eq!(asked(port, "boot").await, "1");
    assert_eq!(asked(port, "get=key").await, "value");
    assert_eq!(
        place.processes(&id).unwrap().len(),
        2,
        "the program and its orphan"
    );
    assert_eq!(place.processes(&other).unwrap(), []);
    assert_eq!(place.all().unwrap().len(), 3, "the other owner's too");

    let boots = place.boots(&id).unwrap();
    assert_eq!(boots.len(), 1);
    assert_eq!((boots[0].number, boots[0].pid), (1, node.id()));
    assert_eq!(boots[0].argv, ["orphan", "put=key:value"]);
    let names = ["SUTRA_DATA_PATH", "SUTRA_NODE_ID", "SUTRA_PORT"];
    assert_eq!(boots[0].env_names, names);

    // A zombie does not live: it is waited for only behind the census.
    asked(port, "exit=3").await;
    let ended = eventually(Duration::from_secs(20), "the program's end", || async {
        Ok((place.processes(&id)?.len() == 1).then_some(()))
    });
    ended.await.unwrap();
    assert_eq!(node.wait().unwrap().code(), Some(3));

    // The orphan and the foreign node are what was left behind.
    let left = place.clean_up().await.unwrap_err().to_string();
    assert!(left.contains("left behind"), "{left}");
    assert_eq!(foreign.wait().unwrap().code(), None, "killed");
    let gone = eventually(Duration::from_secs(20), "nothing to live", || async {
        Ok(place.all()?.is_empty().then_some(()))
    });
    gone.await.unwrap();
    place.clean_up().await.unwrap();
}

#[tokio::test]
async fn a_place_that_is_dropped_leaves_nothing() {
    let place = HostPlace::new().unwrap();
    let port = free_port();
    let mut node = start(&place.state().join("d1"), "n1", port, &["ignore=15"]);
    asked(port, "boot").await;
    let path = place.path().to_owned();
    drop(place);
    assert_eq!(node.wait().unwrap().code(), None, "killed");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_probe_that_is_told_to_end_answers_first_whatever_else_it_is_asked() {
    let place = HostPlace::new().unwrap();
    for round in 0..10 {
        let port = free_port();
        let data = place.state().join(format!("d{round}"));
        let mut node = start(&data, "n1", port, &[]);
        assert_eq!(asked(port, "boot").await, "1");
        // As a health check does: it connects, and hangs up.
        let others = async {
            loop {
                drop(tokio::net::TcpStream::connect(("127.0.0.1", port)).await);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answer = probe::ask("127.0.0.1", port, "exit=3") => drop(answer.unwrap()),
            () = others => {}
        }
        assert_eq!(node.wait().unwrap().code(), Some(3));
    }
}
