//! Ports: taken, privileged, out of range.

use std::net::TcpListener;

use grid_platform_api::{ErrorKind, Platform};
use grid_platform_process::ProcessPlatform;

use crate::{
    common::{Place, SLEEP, clean, sh},
    config, inner, refused, run_inner, says,
};

#[tokio::test]
async fn a_taken_port_names_its_holder() {
    let place = Place::new();
    let platform = place.open().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let words = format!("{port}");
    let expect = (ErrorKind::PortInUse, words.as_str(), "port");
    refused(&place, &platform, sh("a", SLEEP).port(port), expect).await;
    let error = platform
        .spawn_node(sh("a", SLEEP).port(port).build().unwrap())
        .await
        .unwrap_err();
    let own = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&own), "{error}");
}

#[tokio::test]
async fn all_ports_of_the_range_taken_is_said() {
    let mut place = Place::new();
    let taken: Vec<_> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let port = taken[0].local_addr().unwrap().port();
    place.config.port_range = (port, port);
    let platform = place.open().await;
    let expect = (ErrorKind::Exhausted, "port", "port_range");
    refused(&place, &platform, sh("a", SLEEP).port(0), expect).await;
}

#[tokio::test]
async fn a_privileged_port_without_the_privilege() {
    let place = Place::new();
    // The right to bind low ports is taken from the inner half, as from an agent that is not root.
    let prepare =
        "as_whom=\"setpriv --bounding-set=-net_bind_service --inh-caps=-net_bind_service\"";
    run_inner(&place, prepare, "ports::privileged");
}

/// The inner half: it may not bind low ports.
#[ignore = "an inner half"]
#[tokio::test]
async fn privileged() {
    let Some(home) = inner("ports::privileged") else {
        return;
    };
    let platform = ProcessPlatform::open(config(&home)).await.unwrap();
    let error = platform
        .spawn_node(sh("a", SLEEP).port(7).build().unwrap())
        .await
        .unwrap_err();
    says(
        &error,
        ErrorKind::PermissionDenied,
        "may not bind the port 7: it is below 1024",
        "Choose a higher port",
    );
    clean(&platform).await;
    assert_eq!(platform.list_data().await.unwrap(), []);
}
