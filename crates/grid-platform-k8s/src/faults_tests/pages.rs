//! Lists that come in more than one page.

use grid_platform_api::{PlatformExt, SpawnedNode};

use super::*;
use crate::fake::{Upset, WatchUpset};

/// So many nodes that a list of them has three pages.
const MANY: usize = 1201;
const CLAIMS: &str = "persistentvolumeclaims";
const LIST: &str = "LIST persistentvolumeclaims";

fn name(number: usize) -> String {
    format!("many-{number:04}")
}

/// A cluster with many nodes that are stopped.
async fn crowd() -> (Bed, KubernetesPlatform) {
    let (bed, platform) = Bed::new().await;
    let sample = id("sample-of-many");
    let builder = builder(sample.as_str());
    let spawned = platform.spawn_node(builder.build().unwrap()).await.unwrap();
    platform.stop_node(&sample).await.unwrap();
    let claim = bed.fake.get(CLAIMS, &sample.native_name()).unwrap();
    platform
        .remove_node(&sample, DataPolicy::Purge)
        .await
        .unwrap();
    for number in 0..MANY {
        let uid = format!("{number:032x}");
        let text = claim
            .to_string()
            .replace(sample.as_str(), &name(number))
            .replace(spawned.uid.as_str(), &uid);
        let mut claim: Value = serde_json::from_str(&text).unwrap();
        let native = id(&name(number)).native_name();
        bed.fake.edit(CLAIMS, &native, |it| {
            claim["metadata"]["uid"] = it["metadata"]["uid"].take();
            *it = claim;
        });
    }
    let last = id(&name(MANY - 1));
    let is_seen = |it: Option<&SpawnedNode>| it.is_some();
    platform.wait_for(&last, SETTLED, is_seen).await.unwrap();
    (bed, platform)
}

/// How many of the many are listed, each of them once.
async fn count(platform: &KubernetesPlatform) -> usize {
    let all = platform.list_nodes().await.unwrap();
    let many = all
        .iter()
        .filter(|it| it.node_id.as_str().starts_with("many-"))
        .inspect(|it| assert_eq!(it.state.as_str(), "stopped", "{it:?}"));
    let ids: std::collections::BTreeSet<_> = many.map(|it| &it.node_id).collect();
    assert_eq!(
        all.len(),
        ids.len() + 1,
        "beside the one that is always there"
    );
    ids.len()
}

#[tokio::test(start_paused = true)]
async fn all_pages_are_read() {
    let (bed, platform) = crowd().await;
    assert_eq!(count(&platform).await, MANY);
    drop(platform);
    bed.fake.count(Counted::All);
    let platform = bed.open().await.unwrap();
    let calls = bed.fake.calls();
    assert_eq!(
        calls.iter().filter(|it| *it == LIST).count(),
        3,
        "{calls:?}"
    );
    assert_eq!(count(&platform).await, MANY);
    platform.spawn_node(request(NODE)).await.unwrap();
    bed.check_runs(&platform).await;
    check_removed(&bed, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_between_two_pages_nothing_is_lost_and_nothing_told_twice() {
    // How the server meets the second page, and whether it forgets meanwhile what the first one was of.
    let meets = [
        (None, false),
        (None, true),
        (Some(Upset::Cut), false),
        (Some(Upset::Failed), false),
        (Some(Upset::Busy), false),
        (Some(Upset::Busy), true),
    ];
    let (bed, platform) = crowd().await;
    let mut left = MANY;
    for (upset, is_forgotten) in meets {
        let what = format!("{upset:?}, forgotten: {is_forgotten}");
        let mut events = Events::of(&platform).await;
        events.settled().await;
        bed.fake.count(Counted::All);
        // The first page is made at once, and comes a second later.
        bed.fake
            .upset_call(LIST, Upset::Late(Duration::from_secs(1)));
        if let Some(upset) = upset {
            bed.fake.upset_call(LIST, upset);
        }
        bed.fake.upset_watch(CLAIMS, WatchUpset::Error(410));
        bed.fake.edit(CLAIMS, "sutra-grid-b", |it| {
            it["metadata"]["annotations"]["somebody"] = "was here".into();
        });
        bed.fake.asked(LIST).await;
        // One of the last page, and one of the first.
        let gone = [name(left - 1), name(MANY - left)];
        for it in &gone {
            bed.fake.delete(CLAIMS, &id(it).native_name());
        }
        if is_forgotten {
            bed.fake.compact();
        }
        left -= 1;
        let told = events.settled().await;
        for it in &gone {
            assert_eq!(removals(&told, it), 1, "{what}");
        }
        let all = told.iter();
        let all = all.filter(|it| matches!(it, NodeEvent::Removed { .. }));
        assert_eq!(all.count(), 2, "{what}");
        assert_eq!(resyncs(&told), 1, "{what}");
        assert_eq!(count(&platform).await, 2 * left - MANY, "{what}");
        bed.check_others(&platform).await;
    }
}
