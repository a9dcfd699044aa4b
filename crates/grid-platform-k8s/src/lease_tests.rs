use std::time::Duration;

use grid_platform_api::Result;
use hyper::Method;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::{
    config::KubernetesConfig,
    fake::{Fake, NAMESPACE, Upset},
    holder::Holder,
};

const NAME: &str = "sutra-grid.default";

/// A lease, and what closes it.
async fn take(fake: &Fake) -> Result<(Arc<Lease>, watch::Sender<()>)> {
    let (close, closing) = watch::channel(());
    let config = KubernetesConfig::new(NAMESPACE);
    let lease = Lease::take(&fake.access(), &config, closing).await?;
    Ok((lease, close))
}

fn holder(fake: &Fake) -> String {
    let lease = fake.get("leases", NAME).unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

/// Another host's agent has it.
fn seize(fake: &Fake) {
    fake.edit("leases", NAME, |it| {
        it["metadata"]["labels"] = json!({"sutra.grid": "true", "sutra.install": "default"});
        it["spec"]["holderIdentity"] = "far/boot/pid:[1]/7/100/nonce".into();
        it["spec"]["renewTime"] = "2020-01-01T00:00:00.000000Z".into();
    });
}

async fn until(lease: &Lease, beat: Beat) {
    let mut beats = lease.heartbeat();
    beats.wait_for(|it| *it == beat).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_and_a_dropped_one_is_not_waited_for() {
    let fake = Fake::default();
    let (first, _close) = take(&fake).await.unwrap();
    first.check().unwrap();
    let busy = take(&fake).await.err().unwrap();
    assert_eq!(busy.kind(), ErrorKind::StateLocked);
    let me = format!("process {} on `", std::process::id());
    assert!(busy.to_string().contains(&me), "{busy}");
    drop(first);
    let begin = Instant::now();
    let (second, _close) = take(&fake).await.unwrap();
    assert!(begin.elapsed() < AGAIN);
    second.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_and_given_back() {
    let fake = Fake::default();
    let (lease, close) = take(&fake).await.unwrap();
    let first = fake.get("leases", NAME).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    lease.check().unwrap();
    let later = fake.get("leases", NAME).unwrap();
    assert_ne!(first["spec"]["renewTime"], later["spec"]["renewTime"]);
    assert_eq!(later["spec"]["leaseTransitions"], 1);
    assert_eq!(later["spec"]["leaseDurationSeconds"], 15);
    drop(close);
    tokio::time::sleep(AGAIN).await;
    assert_eq!(holder(&fake), "");
    assert!(lease.check().unwrap_err().is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_of_another_host_is_waited_out() {
    let fake = Fake::default();
    seize(&fake);
    let begin = Instant::now();
    let (lease, _close) = take(&fake).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(15));
    lease.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_living_holder_of_another_host_is_named() {
    let fake = Fake::default();
    seize(&fake);
    let renewing = fake.clone();
    let other = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            seize(&renewing);
        }
    });
    let busy = take(&fake).await.err().unwrap();
    assert_eq!(busy.kind(), ErrorKind::StateLocked);
    assert_eq!(
        busy.to_string(),
        "the installation `sutra-grid.default` in the namespace `grid` is in use by process 7 on `far`"
    );
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn a_dead_process_is_not_waited_for() {
    let fake = Fake::default();
    seize(&fake);
    // Of this very process, and no adapter of it has that nonce.
    let dead = Holder::new().unwrap().to_string();
    fake.edit("leases", NAME, |it| {
        it["spec"]["holderIdentity"] = dead.into()
    });
    let begin = Instant::now();
    let (_lease, _close) = take(&fake).await.unwrap();
    assert!(begin.elapsed() < AGAIN);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_is_lost_loses_nothing() {
    for upset in [Upset::Lost, Upset::Failed] {
        let fake = Fake::default();
        let (lease, _close) = take(&fake).await.unwrap();
        fake.upset(Method::PUT, upset);
        fake.upset(Method::PUT, upset);
        until(&lease, Beat::Silent).await;
        lease.check().unwrap();
        until(&lease, Beat::Held).await;
        lease.check().unwrap();
        assert!(lease.shared.state().by.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_forbids_writes_until_it_is_taken_again() {
    let fake = Fake::default();
    let (lease, _close) = take(&fake).await.unwrap();
    seize(&fake);
    until(&lease, Beat::Lost).await;
    let refused = lease.check().unwrap_err();
    assert!(refused.is_retryable());
    assert_eq!(
        refused.to_string(),
        "the lease `sutra-grid.default` is held by process 7 on `far`"
    );
    until(&lease, Beat::Held).await;
    lease.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_one_of_the_same_name_is_somebody_else() {
    let fake = Fake::default();
    let (lease, _close) = take(&fake).await.unwrap();
    fake.edit("leases", NAME, |it| {
        it["spec"]["renewTime"] = "2020-01-01T00:00:00.000000Z".into();
    });
    until(&lease, Beat::Lost).await;
    assert!(lease.check().is_err());
}

#[tokio::test(start_paused = true)]
async fn no_write_without_a_renewal_in_time() {
    let fake = Fake::default();
    let (lease, _close) = take(&fake).await.unwrap();
    fake.silence(true);
    until(&lease, Beat::Silent).await;
    tokio::time::sleep(WRITE).await;
    let refused = lease.check().unwrap_err();
    assert!(refused.is_retryable());
    assert_eq!(
        refused.to_string(),
        "the lease `sutra-grid.default` could not be renewed in time"
    );
    fake.silence(false);
    until(&lease, Beat::Held).await;
    lease.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_is_made_again_and_a_foreign_one_left_alone() {
    let fake = Fake::default();
    let (lease, _close) = take(&fake).await.unwrap();
    fake.delete("leases", NAME);
    tokio::time::sleep(Duration::from_secs(10)).await;
    lease.check().unwrap();
    assert!(fake.get("leases", NAME).is_some());

    let fake = Fake::default();
    fake.edit("leases", NAME, |it| {
        it["spec"]["holderIdentity"] = "".into()
    });
    let before = fake.get("leases", NAME);
    let foreign = take(&fake).await.err().unwrap();
    assert_eq!(foreign.kind(), ErrorKind::OwnedByOther);
    assert_eq!(fake.get("leases", NAME), before);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_being_deleted_is_no_silence() {
    let fake = Fake::default();
    let (lease, _close) = take(&fake).await.unwrap();
    let words = "the namespace `grid` is being deleted";
    let why = error(ErrorKind::Unavailable, words).with_retryable(false);
    lease.shared.failed(why);
    // What the watches say goes on being true.
    assert_eq!(*lease.heartbeat().borrow(), Beat::Refused);
    assert_eq!(
        lease.shared.state().why.as_ref().unwrap().to_string(),
        words
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_refused_says_why() {
    let fake = Fake::default();
    let (lease, _close) = take(&fake).await.unwrap();
    fake.refuse(Method::PUT);
    until(&lease, Beat::Refused).await;
    lease.check().unwrap();
    tokio::time::sleep(WRITE).await;
    let refused = lease.check().unwrap_err();
    assert!(refused.is_retryable());
    assert_eq!(
        refused.to_string(),
        "cannot renew the Lease `sutra-grid.default`: `agent` may not update leases in the namespace `grid`"
    );
    assert!(refused.hint().unwrap().contains("verbs: [\"update\"]"));
}
