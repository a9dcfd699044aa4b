//! Programs that take what they can: processes and memory.

use grid_platform_api::{DataPolicy, Platform};

use crate::{
    common::{Place, census, eventually, id, sh},
    not_run,
};

/// Forks without end, and goes on when a fork fails.
const BOMB: &str = "bomb() { while :; do bomb & sleep 0.01; done; }; bomb 2>/dev/null";

#[tokio::test]
async fn a_program_that_forks_without_end_stays_within_its_limit_and_is_stopped() {
    let place = Place::new();
    let platform = place.open().await;
    if !platform.capabilities().pids_limit {
        not_run(
            "limits::a_program_that_forks_without_end",
            "writable cgroups",
        );
        return;
    }
    let node = platform
        .spawn_node(sh("a", BOMB).pids_limit(40).build().unwrap())
        .await
        .unwrap();
    eventually("many processes", || census(node.uid.as_str()).len() > 20).await;
    assert!(
        census(node.uid.as_str()).len() <= 41,
        "the shim is beside its limit"
    );
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
}

#[tokio::test]
async fn hundreds_of_processes_in_sessions_of_their_own_are_stopped() {
    let place = Place::new();
    let platform = place.open().await;
    let script = "for i in $(seq 200); do setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & wait' & done; echo all; wait";
    let node = platform
        .spawn_node(sh("a", script).build().unwrap())
        .await
        .unwrap();
    eventually("all processes", || census(node.uid.as_str()).len() > 400).await;
    platform.stop_node(&id("a")).await.unwrap();
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    platform
        .remove_node(&id("a"), DataPolicy::Purge)
        .await
        .unwrap();
}
