//! A host with nothing left to give: no room on the disk, no descriptors.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clients::{LONG, answer, chunk, open, raw, read_to_close, says_why};
use crate::common::{eventually, pattern};
use crate::target::{LARGE, Target};

/// Whether this host lets tests be root; a word about the test where it does not, past the capture of libtest, and a
/// failure in CI, which has to.
fn needs_root(test: &str) -> bool {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        let _ = writeln!(std::io::stderr(), "not run: {test}: needs root");
        let ci = std::env::var("CI").is_ok_and(|it| it == "true" || it == "1");
        assert!(!ci, "{test} needs root");
    }
    root
}

/// This program behind a shell's `prepare`, in a mount namespace of its own; `$dir` is the server's directory.
fn prepared(prepare: &str) -> Command {
    let script = format!("set -e; dir=$GRID_STORAGE_TEST_CHILD; {prepare}; exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap());
    command
}

/// Changes the size of the server's disk.
fn resize(target: &Target, size: &str) {
    let pid = target.pid().to_string();
    let place = target.data();
    let place = place.to_str().unwrap();
    let place = place.strip_prefix(&format!("/proc/{pid}/root")).unwrap();
    let status = Command::new("nsenter")
        .args(["--target", &pid, "--mount", "mount", "-o"])
        .arg(format!("remount,size={size}"))
        .arg(place)
        .status()
        .unwrap();
    assert!(status.success());
}

async fn must_be_full(answer: reqwest::Response) {
    assert_eq!(answer.status(), 507);
    let why = says_why(&answer.text().await.unwrap());
    assert!(why.starts_with("no room left on the disk"), "{why}");
}

/// A disk of 24 MiB, with and without a margin that is kept free: uploads that do not fit are refused, before their body
/// or in its middle; what was acknowledged is read; deletes are taken; and all is well once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_serves_and_takes_more_once_there_is_room() {
    if !needs_root("exhausted::a_full_disk_refuses_and_serves_and_takes_more_once_there_is_room") {
        return;
    }
    for free in [0, 4 << 20] {
        let disk = "mkdir \"$dir/data\"; mount -t tmpfs -o size=24m,mode=700 tmpfs \"$dir/data\"";
        let mut target = Target::start_by(prepared(disk), &format!("free={free}")).await;
        // One whose length is known is refused before it is sent, one in chunks in its middle.
        must_be_full(target.put("kept/large", vec![1; 30 << 20]).await).await;
        let mut whole = b"PUT /v1/objects/kept/large HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        whole.extend(chunk().repeat(30));
        let (status, body) = answer(&raw(target.address, &whole).await);
        assert_eq!(status, 507, "{body}");
        says_why(&body);
        target.until_content_files(1).await;

        // Objects of both kinds until none fits any more.
        let (mut small, mut large) = (0, 0);
        for (length, count) in [(1 << 20, &mut large), (10_000, &mut small)] {
            loop {
                let key = format!("fill/{length}/{count}");
                let body = pattern(length, *count);
                let answer = target.put(&key, body.clone()).await;
                if answer.status() != 201 {
                    must_be_full(answer).await;
                    break;
                }
                *count += 1;
                assert!(*count < 5000, "the disk does not fill up");
            }
        }
        assert!(large > 5 && small > 5, "{large} and {small}");
        let check = async |target: &Target| {
            for (length, count) in [(1 << 20, large), (10_000, small)] {
                for n in 0..count {
                    let key = format!("fill/{length}/{n}");
                    assert!(target.object(&key).await == pattern(length, n), "{key}");
                }
            }
        };
        check(&target).await;
        must_be_full(target.put("kept/small", vec![2; 10_000]).await).await;

        // With more room it goes on by itself.
        resize(&target, "64m");
        eventually("a write is taken again", async || {
            target
                .put("kept/more", pattern(10_000, 5))
                .await
                .status()
                .is_success()
        })
        .await;
        target.keep("kept/more", pattern(LARGE, 5)).await;
        check(&target).await;
        for (length, count) in [(1 << 20, large), (10_000, small)] {
            for n in 0..count {
                let path = format!("/v1/objects/fill/{length}/{n}");
                assert_eq!(target.send("DELETE", &path, Vec::new()).await.status(), 204);
            }
        }
        target.must_be_unharmed().await;
    }
}

/// What is deleted on a full disk makes room: nobody needs a larger one to get out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_gives_a_full_disk_room_again() {
    if !needs_root("exhausted::deleting_gives_a_full_disk_room_again") {
        return;
    }
    let disk = "mkdir \"$dir/data\"; mount -t tmpfs -o size=24m,mode=700 tmpfs \"$dir/data\"";
    let target = Target::start_by(prepared(disk), "free=4194304").await;
    let mut count = 0;
    loop {
        let answer = target
            .put(&format!("fill/{count}"), pattern(1 << 20, count))
            .await;
        if answer.status() != 201 {
            must_be_full(answer).await;
            break;
        }
        count += 1;
        assert!(count < 50, "the disk does not fill up");
    }
    for n in 0..count {
        let path = format!("/v1/objects/fill/{n}");
        assert_eq!(target.send("DELETE", &path, Vec::new()).await.status(), 204);
    }
    eventually("a write is taken again", async || {
        target.put("kept/large", pattern(LARGE, 2)).await.status() == 200
    })
    .await;
    target.must_be_unharmed().await;
}

/// When there is no descriptor for one more upload, that one is told so; idle clients make room for others; and all is
/// well once descriptors are given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_out_of_descriptors_refuses_in_words_and_recovers() {
    const UPLOADS: usize = 5;
    let target = Target::start().await;
    let upload = async |n: usize| {
        let mut socket = TcpStream::connect(target.address).await.unwrap();
        let head = format!(
            "PUT /v1/objects/new/{n} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut first = vec![0; 12];
        let reading = timeout(LONG, socket.read_exact(&mut first)).await;
        reading.expect("no answer").unwrap();
        (socket, first)
    };
    // For each upload its connection and its file; and a connection for the one that is refused.
    // The limit is one of their numbers, of which some are taken.
    let taken: Vec<usize> = std::fs::read_dir(format!("/proc/{}/fd", target.pid()))
        .unwrap()
        .map(|it| it.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let free = (0..).filter(|number| !taken.contains(number));
    let most = free.take(2 * UPLOADS + 1).last().unwrap() + 1;
    let limited = Command::new("prlimit")
        .arg(format!("--pid={}", target.pid()))
        .arg(format!("--nofile={most}:{most}"))
        .status()
        .unwrap();
    assert!(limited.success());
    let mut uploads = Vec::new();
    for n in 0..UPLOADS {
        let (socket, first) = upload(n).await;
        assert_eq!(first, b"HTTP/1.1 100");
        uploads.push(socket);
    }
    for n in 0..3 {
        let (mut socket, mut got) = upload(n).await;
        assert_eq!(got, b"HTTP/1.1 503");
        got.extend(read_to_close(&mut socket).await);
        let (status, body) = answer(&got);
        assert_eq!(status, 503, "{body}");
        let why = says_why(&body);
        assert!(why.contains("open files"), "{why}");
        assert!(body.contains("ulimit -n"), "{body}");
    }
    // A large object takes a descriptor to read too.
    let read = target
        .send("GET", "/v1/objects/kept/large", Vec::new())
        .await;
    assert_eq!(read.status(), 503);
    let flood = open(target.address, 40).await;
    assert_eq!(target.object("kept/small").await.len(), 1000);
    drop(flood);
    drop(uploads);
    target.must_be_unharmed().await;
}
