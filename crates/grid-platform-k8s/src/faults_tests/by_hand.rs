//! What somebody does with the objects of a node by hand, and what else a cluster may hold that is not as it was made.

use grid_platform_api::{ErrorKind, Health, HealthCheck};

use super::*;
use crate::fake::Upset;

const CLAIMS: &str = "persistentvolumeclaims";
const RECORD: &str = "sutra.grid/record";
const NOTES: &str = "sutra.grid/notes";

/// What nodes have, but for claims, whose damage is the test's.
fn rest(bed: &Bed) -> Vec<Option<Value>> {
    let kinds = ["pods", "services", "secrets"];
    kinds.iter().map(|it| bed.fake.get(it, NAME)).collect()
}

/// A damage: the field of the claim's metadata, the key in it, and what it becomes.
const DAMAGES: [(&str, &str, &str); 4] = [
    ("annotations", RECORD, "{"),
    ("annotations", RECORD, r#"{"version":99}"#),
    ("annotations", NOTES, "?"),
    ("labels", "sutra.node_id", "z"),
];

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_spoiled_by_hand_costs_its_node_nothing() {
    for (field, key, value) in DAMAGES {
        let what = format!("{field} {key} {value}");
        let (bed, platform) = Bed::new().await;
        platform.spawn_node(request(NODE)).await.unwrap();
        let whole = bed.fake.get(CLAIMS, NAME).unwrap();
        let before = rest(&bed);
        bed.fake.edit(CLAIMS, NAME, |it| {
            it["metadata"][field][key] = value.into();
        });
        let spoiled = bed.fake.get(CLAIMS, NAME);
        sleep(SETTLED).await;
        drop(platform);
        let platform = bed.open().await.unwrap();
        sleep(SETTLED).await;
        // Nobody may guess what it was: whoever asks is told, and it goes on.
        let node = id(NODE);
        let told = [
            platform.get_node_status(&node).await.err(),
            platform.stop_node(&node).await.err(),
            platform.spawn_node(request(NODE)).await.err(),
            platform.remove_node(&node, DataPolicy::Purge).await.err(),
            platform.get_logs(&node, 1).await.err(),
        ];
        for error in told {
            let error = error.unwrap_or_else(|| panic!("{what}: not refused"));
            assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::OwnedByOther),
                "{what}: {}",
                error.report()
            );
            assert!(error.hint().is_some(), "{what}");
        }
        assert_eq!(rest(&bed), before, "{what}");
        assert_eq!(bed.fake.get(CLAIMS, NAME), spoiled, "{what}");
        // Mended by hand it is the same node again.
        bed.fake.edit(CLAIMS, NAME, |it| {
            it["metadata"][field][key] = whole["metadata"][field][key].clone();
        });
        sleep(SETTLED).await;
        bed.check_runs(&platform).await;
        assert_eq!(rest(&bed), before, "{what}");
        check_removed(&bed, &platform).await;
    }
}

#[tokio::test(start_paused = true)]
async fn labels_that_are_taken_off_and_put_back_by_hand_cost_nothing() {
    for kind in [CLAIMS, "pods"] {
        let (bed, platform) = Bed::new().await;
        platform.spawn_node(request(NODE)).await.unwrap();
        let labels = bed.fake.get(kind, NAME).unwrap()["metadata"]["labels"].clone();
        let mut events = Events::of(&platform).await;
        events.settled().await;
        bed.fake.edit(kind, NAME, |it| {
            it["metadata"]["labels"]["sutra.owner"] = "somebody".into();
        });
        events.settled().await;
        let node = listed(&platform, NODE).await;
        assert_ne!(node, Some(NodeState::Running), "{kind}");
        bed.fake
            .edit(kind, NAME, |it| it["metadata"]["labels"] = labels);
        events.settled().await;
        bed.check_runs(&platform).await;
        bed.check_others(&platform).await;
        check_removed(&bed, &platform).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_about_an_id_that_there_was_not_takes_no_new_node_away() {
    let (bed, platform) = Bed::new().await;
    let mut events = Events::of(&platform).await;
    events.settled().await;
    let platform = std::sync::Arc::new(platform);
    bed.fake
        .upset_call("GET persistentvolumeclaims", Upset::Late(SETTLED / 10));
    let asking = std::sync::Arc::clone(&platform);
    let asked = tokio::spawn(async move { asking.get_node_status(&id(NODE)).await });
    sleep(Duration::from_millis(10)).await;
    platform.spawn_node(request(NODE)).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().state, NodeState::Running);
    let told = events.settled().await;
    assert_eq!(removals(&told, NODE), 0, "{told:?}");
    bed.check_runs(&platform).await;
    platform.stop_node(&id(NODE)).await.unwrap();
    bed.check_stopped(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_deleted_by_hand_stays_until_its_node_is_stopped() {
    let (bed, platform) = Bed::new().await;
    platform.spawn_node(request(NODE)).await.unwrap();
    // As `kubectl delete pvc` does it: what uses it keeps it.
    bed.fake.edit(CLAIMS, NAME, |it| {
        it["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
    });
    sleep(SETTLED).await;
    bed.check_runs(&platform).await;
    let refused = platform.spawn_node(request(NODE)).await.unwrap_err();
    assert!(refused.to_string().contains("deleted the claim"));
    platform.stop_node(&id(NODE)).await.unwrap();
    sleep(SETTLED).await;
    assert_eq!(bed.pods(NODE).len(), 0);
    assert_eq!(bed.fake.get(CLAIMS, NAME), None);
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_claim_is_gone_is_told_of_and_can_be_ended() {
    for restart in [false, true] {
        let (bed, mut platform) = Bed::new().await;
        platform.spawn_node(request(NODE)).await.unwrap();
        bed.fake.delete(CLAIMS, NAME);
        sleep(Duration::from_secs(1)).await;
        if restart {
            // The next one has no record to go by, and nobody is to run on data that is gone.
            drop(platform);
            platform = bed.open().await.unwrap();
            sleep(SETTLED).await;
            assert_eq!(bed.pods(NODE).len(), 0);
        } else {
            let node = id(NODE);
            let told = [
                platform.get_node_status(&node).await.err(),
                platform.stop_node(&node).await.err(),
            ];
            for error in told {
                let error = error.unwrap();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains("runs on"), "{error}");
                assert!(error.hint().unwrap().contains("grid rm"));
            }
        }
        check_removed(&bed, &platform).await;
        platform.spawn_node(request(NODE)).await.unwrap();
        bed.check_runs(&platform).await;
        check_removed(&bed, &platform).await;
    }
}

#[tokio::test(start_paused = true)]
async fn extreme_figures_are_figures() {
    let (bed, platform) = Bed::new().await;
    let day = Duration::from_secs(24 * 60 * 60);
    let ever = Duration::from_millis(u64::MAX);
    let health = HealthCheck {
        interval: ever,
        timeout: Duration::MAX,
        threshold: u32::MAX,
        ..HealthCheck::tcp()
    };
    let request = builder(NODE)
        .health(health)
        .ready(ReadyMode::Healthy { timeout: day })
        .stop(StopPolicy {
            grace: day,
            ..StopPolicy::default()
        })
        .build()
        .unwrap();
    let node = platform.spawn_node(request.clone()).await.unwrap();
    assert_eq!(node.health, Health::Healthy);
    let pod = bed.pods(NODE).remove(0);
    let probe = &pod["spec"]["containers"][0]["readinessProbe"];
    for figure in ["periodSeconds", "timeoutSeconds", "failureThreshold"] {
        assert_eq!(probe[figure], i32::MAX, "{figure}");
    }
    // The same request is the same node, also for the next adapter, which reads it from the record.
    drop(platform);
    let platform = bed.open().await.unwrap();
    platform.spawn_node(request).await.unwrap();
    assert_eq!(bed.fake.made("pods", NAME), 1);
    platform.stop_node(&id(NODE)).await.unwrap();
    bed.check_stopped(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_puts_beside_it_is_not_the_node() {
    let (bed, platform) = Bed::new().await;
    bed.fake.host(|it| it.has_sidecar = true);
    let request = builder(NODE)
        .health(HealthCheck::tcp())
        .ready(ReadyMode::Healthy {
            timeout: Duration::from_secs(10),
        })
        .build()
        .unwrap();
    let node = platform.spawn_node(request).await.unwrap();
    let containers = &bed.pods(NODE)[0]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 2);
    assert_eq!(node.health, Health::Healthy);
    let lines = platform.get_logs(&id(NODE), 10).await.unwrap();
    assert_eq!(lines, ["node says so"]);
    bed.check_runs(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_somebody_elses_is_neither_used_nor_touched() {
    let (bed, platform) = Bed::new().await;
    let theirs = id("c");
    let refused = [
        platform.spawn_node(request("c")).await.err(),
        platform.stop_node(&theirs).await.err(),
        platform.get_node_status(&theirs).await.err(),
    ];
    for error in refused {
        assert_eq!(error.unwrap().kind(), ErrorKind::OwnedByOther);
    }
    assert_eq!(listed(&platform, "c").await, None);
    // There is none of ours: that is what was asked for.
    platform
        .remove_node(&theirs, DataPolicy::Purge)
        .await
        .unwrap();
    drop(platform);
    let platform = bed.open().await.unwrap();
    sleep(SETTLED).await;
    bed.check_others(&platform).await;
}
