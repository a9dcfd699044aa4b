//! Headers that ask for what there is not, or too much of it.

use std::fmt::Write;

use crate::clients::{answer, raw, says_why};
use crate::common::pattern;
use crate::target::{LARGE, Target};

/// The answer to a request for the large object with these headers.
async fn ask(target: &Target, method: &str, headers: &[u8], body: &str) -> Vec<u8> {
    let mut request =
        format!("{method} /v1/objects/kept/large HTTP/1.1\r\nhost: x\r\n").into_bytes();
    request.extend_from_slice(headers);
    let length = body.len();
    let rest = format!("connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    request.extend_from_slice(rest.as_bytes());
    raw(target.address, &request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_are_none_give_the_whole_or_a_refusal_and_never_more() {
    let target = Target::start().await;
    let mut many = String::from("bytes=0-");
    for n in 0..1500 {
        write!(many, ",{n}-").unwrap();
    }
    for (range, status) in [
        ("bytes=99999999999999999999999-", 416),
        ("bytes=18446744073709551615-", 416),
        ("bytes=18446744073709551616-18446744073709551617", 416),
        ("bytes=400000-", 416),
        ("bytes=-0", 416),
        ("bytes=399999-18446744073709551615", 206),
        ("bytes=-99999999999999999999999", 206),
        // No range at all, which a server may answer with everything, once.
        ("bytes=5-2", 200),
        ("bytes=--5", 200),
        ("bytes=-5-", 200),
        ("bytes=0x0-0x5", 200),
        ("bytes=+1-+2", 200),
        ("bytes=", 200),
        ("bytes", 200),
        ("cows=0-1", 200),
        ("bytes=0-1,0-1", 200),
        (many.as_str(), 200),
    ] {
        let got = ask(&target, "GET", format!("range: {range}\r\n").as_bytes(), "").await;
        let text = String::from_utf8_lossy(&got[..got.len().min(200)]).into_owned();
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{range}: {text}"
        );
        let head = got.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        let body = &got[head..];
        let whole = pattern(LARGE, 2);
        match status {
            200 => assert!(body == whole, "{range}"),
            206 => assert!(!body.is_empty() && whole.ends_with(body), "{range}"),
            _ => drop(says_why(std::str::from_utf8(body).unwrap())),
        }
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_a_write_that_cannot_be_meant_store_nothing() {
    let target = Target::start().await;
    let long = format!("content-type: {}\r\n", "x".repeat(256)).into_bytes();
    let cases: &[(&[u8], u16)] = &[
        (b"if-match: 1-ab\r\n", 400),
        (b"if-match: \"99999999999999999999-00000000\"\r\n", 400),
        (b"if-match: \"ffffffffffffffff-00000000\"\r\n", 412),
        (b"if-match: \"a-b\", \"c-d\"\r\n", 400),
        (b"if-match: \xff\r\n", 400),
        (b"if-none-match: \"1-ab\"\r\n", 400),
        (b"if-none-match: *\r\n", 412),
        (b"if-match: *\r\nif-none-match: *\r\n", 400),
        (b"x-checksum-crc32: 123\r\n", 400),
        (b"x-checksum-crc32: +1234567\r\n", 400),
        (b"x-checksum-crc32: \xc3\xa9\r\n", 400),
        (b"x-checksum-crc32: 00000000\r\n", 400),
        (b"content-range: bytes 0-0/5\r\n", 400),
        (b"content-type: \xff\r\n", 400),
        (&long, 400),
    ];
    for (headers, expect) in cases {
        let got = ask(&target, "PUT", headers, "x").await;
        let (status, body) = answer(&got);
        let headers = String::from_utf8_lossy(headers);
        assert_eq!(status, *expect, "{headers}: {body}");
        says_why(&body);
    }
    target.must_be_unharmed().await;
}
