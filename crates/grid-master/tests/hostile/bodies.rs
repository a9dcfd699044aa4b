//! Bodies without end.

use std::time::Duration;

use crate::{
    clients::{answer, chunk, raw, says_why, send_without_end},
    target::Target,
};

const GIGABYTE: u64 = 1 << 30;
/// Far below a body, far above what answers need.
const ROOM: u64 = 32 << 20;

fn head(target: &Target, headers: &str) -> String {
    let token = target.grid.token("admin");
    format!(
        "POST /api/grid/spawn HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{headers}\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_that_is_announced_is_refused_before_it_is_sent() {
    let target = Target::start().await;
    let before = target.memory("VmHWM");
    let request = head(&target, &format!("content-length: {GIGABYTE}\r\n"));
    let (status, body) = answer(&raw(target.http, request.as_bytes()).await);
    assert_eq!(status, 413, "{body}");
    says_why(&body);
    assert!(target.memory("VmHWM") - before < ROOM);
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end_is_refused_on_the_way_and_cut_off() {
    let target = Target::start().await;
    let before = target.memory("VmHWM");
    let request = head(&target, "transfer-encoding: chunked\r\n");
    // The answer comes on the way; a sender that goes on all the same is cut off.
    let got = send_without_end(target.http, &request, &chunk(), 1 << 20, Duration::ZERO).await;
    let (status, body) = answer(&got);
    assert_eq!(status, 413, "{body}");
    says_why(&body);
    assert!(target.memory("VmHWM") - before < ROOM);
    target.must_be_unharmed().await;
}
