use grid_platform_api::ErrorKind;

use super::*;
use crate::translate::{
    ContainerState, Goal, PodPhase,
    tests::{claim_view, pod_view, record, request},
};

fn id() -> NodeId {
    NodeId::new("n1").unwrap()
}

fn claim(uid: &str, version: &str) -> ClaimView {
    ClaimView {
        uid: uid.to_owned(),
        resource_version: version.to_owned(),
        ..claim_view(&record(request().build().unwrap()), Goal::Running)
    }
}

fn pod(uid: &str, version: &str) -> PodView {
    PodView {
        uid: uid.to_owned(),
        resource_version: version.to_owned(),
        ..pod_view(PodPhase::Running, ContainerState::Unknown)
    }
}

/// Uid and version of the claim that is known.
fn known(registry: &Registry) -> Option<(String, String)> {
    let claim = registry.get(&id()).claim?;
    Some((claim.uid.clone(), claim.resource_version.clone()))
}

fn is(uid: &str, version: &str) -> Option<(String, String)> {
    Some((uid.to_owned(), version.to_owned()))
}

#[test]
fn the_later_version_counts_whatever_comes_last() {
    let registry = Registry::new();
    assert!(registry.learn_claim(claim("a", "9")));
    assert!(!registry.learn_claim(claim("a", "8")));
    assert_eq!(known(&registry), is("a", "9"));
    assert!(registry.learn_claim(claim("a", "10")));
    assert_eq!(known(&registry), is("a", "10"));
}

#[test]
fn what_is_gone_for_good_does_not_come_back() {
    let registry = Registry::new();
    registry.learn_claim(claim("a", "9"));
    registry.learn_pod(pod("p", "9"), None);
    registry.forget_claim(&id(), "a", Farewell::ForGood);
    registry.forget_pod(&id(), "p", Farewell::ForGood);
    // An answer that was under way, and what a watch tells late.
    assert!(!registry.learn_claim(claim("a", "12")));
    assert!(!registry.learn_pod(pod("p", "12"), None));
    registry.reset_claims(vec![claim("a", "12")], "13");
    registry.reset_pods(vec![(pod("p", "12"), None)], "13");
    assert!(registry.list().is_empty() && registry.get(&id()).pod.is_none());
    // Another one of the name does.
    assert!(registry.learn_claim(claim("b", "14")));
}

#[test]
fn what_was_not_ours_for_a_while_comes_back_with_a_later_version() {
    let registry = Registry::new();
    registry.learn_claim(claim("a", "9"));
    registry.forget_claim(&id(), "a", Farewell::At("11".to_owned()));
    assert!(!registry.learn_claim(claim("a", "11")), "it is older");
    assert!(registry.learn_claim(claim("a", "12")));
    // Left out by a list: its labels were taken away, or nobody could read it.
    registry.reset_claims(Vec::new(), "20");
    assert_eq!(known(&registry), None);
    assert!(!registry.learn_claim(claim("a", "19")));
    registry.reset_claims(vec![claim("a", "21")], "22");
    assert_eq!(known(&registry), is("a", "21"));
}

#[test]
fn a_list_leaves_what_was_made_behind_it() {
    let registry = Registry::new();
    registry.learn_claim(claim("a", "30"));
    registry.learn_pod(pod("p", "31"), None);
    registry.reset_claims(Vec::new(), "29");
    registry.reset_pods(Vec::new(), "29");
    assert_eq!(known(&registry), is("a", "30"));
    assert!(registry.get(&id()).pod.is_some());
}

#[test]
fn a_cluster_that_was_set_back_is_believed() {
    let registry = Registry::new();
    registry.reset_claims(vec![claim("a", "50"), claim("a", "60")], "70");
    registry.forget_claim(&id(), "b", Farewell::ForGood);
    registry.reset_pods(vec![(pod("p", "60"), None)], "70");
    // Played back from a backup: versions begin at what they were then.
    registry.reset_claims(vec![claim("a", "40")], "45");
    registry.reset_pods(Vec::new(), "45");
    assert_eq!(known(&registry), is("a", "40"));
    assert!(registry.get(&id()).pod.is_none());
    assert!(registry.learn_claim(claim("a", "46")));
    registry.reset_claims(Vec::new(), "47");
    // What had been deleted behind the backup is there again.
    assert!(registry.learn_claim(claim("b", "48")));
}

#[test]
fn watchers_hear_of_each_change_once() {
    let registry = Registry::new();
    let mut changes = registry.changes();
    registry.learn_claim(claim("a", "1"));
    registry.learn_claim(claim("a", "2"));
    registry.forget_claim(&id(), "a", Farewell::At("3".to_owned()));
    registry.forget_claim(&id(), "a", Farewell::ForGood);
    let mut heard = Vec::new();
    while let Ok(change) = changes.try_recv() {
        heard.push(match change {
            Change::Changed(_) => "changed",
            Change::Removed(..) => "removed",
            Change::Said(..) | Change::Resync(_) => "other",
        });
    }
    // The second version shows nothing else.
    assert_eq!(heard, ["changed", "removed"]);
}

#[test]
fn a_refusal_is_told_for_as_long_as_it_lasts() {
    let registry = Registry::new();
    let why = Error::new(ErrorKind::PermissionDenied, "no list");
    registry.set_refused("pods", Some(why));
    assert_eq!(
        registry.refused().unwrap().kind(),
        ErrorKind::PermissionDenied
    );
    registry.set_refused("pods", None);
    assert!(registry.refused().is_none());
}
