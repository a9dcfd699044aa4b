//! Wrong, missing and truncated tokens, at every place of the API.

use reqwest::header::{AUTHORIZATION, HeaderValue};

use crate::clients::says_why;
use crate::target::Target;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Every kind of request but the two probes, which are for everybody.
const GUARDED: [(&str, &str); 7] = [
    ("GET", "/v1/objects"),
    ("GET", "/v1/objects/kept/small"),
    ("HEAD", "/v1/objects/kept/small"),
    ("PUT", "/v1/objects/kept/small"),
    ("DELETE", "/v1/objects/kept/small"),
    // Who has no token learns no rule either.
    ("PUT", "/v1/objects/%00"),
    ("GET", "/metrics"),
];

/// The status of a request with these `authorization` headers and no other.
async fn send(target: &Target, method: &str, path: &str, headers: &[&[u8]]) -> u16 {
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    let url = format!("http://{}{path}", target.address);
    let mut request = client.request(method.parse().unwrap(), url).body("x");
    for header in headers {
        request = request.header(AUTHORIZATION, HeaderValue::from_bytes(header).unwrap());
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    if status == 401 {
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        if method != "HEAD" {
            let why = says_why(&answer.text().await.unwrap());
            assert!(!why.contains(&TOKEN[..8]), "{why}");
        }
    }
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_open_to_who_has_not_the_token() {
    let target = Target::with_token(TOKEN).await;
    let wrong: Vec<(&str, Vec<u8>)> = [
        ("empty", String::new()),
        ("a scheme alone", "Bearer".to_owned()),
        ("a scheme and nothing", "Bearer ".to_owned()),
        ("no scheme", TOKEN.to_owned()),
        ("another scheme", format!("Basic {TOKEN}")),
        ("truncated", format!("Bearer {}", &TOKEN[..31])),
        ("longer", format!("Bearer {TOKEN}0")),
        ("one digit wrong", format!("Bearer {}0", &TOKEN[..31])),
        ("in capitals", format!("Bearer {}", TOKEN.to_uppercase())),
        ("two", format!("Bearer {TOKEN}, Bearer {TOKEN}")),
        ("long", format!("Bearer {}", "x".repeat(8000))),
    ]
    .map(|(what, text)| (what, text.into_bytes()))
    .into_iter()
    .chain([("not UTF-8", b"Bearer \xff\xfe".to_vec())])
    .collect();
    let right = format!("Bearer {TOKEN}").into_bytes();
    for (method, path) in GUARDED {
        assert_eq!(
            send(&target, method, path, &[]).await,
            401,
            "{method} {path}"
        );
        for (what, header) in &wrong {
            let status = send(&target, method, path, &[header]).await;
            assert_eq!(status, 401, "{method} {path}: {what}");
        }
        // Two headers are not one that may be right.
        for both in [[right.as_slice(), b"Bearer x"], [b"Bearer x", &right]] {
            let status = send(&target, method, path, &both).await;
            assert_eq!(status, 401, "{method} {path}: two headers");
        }
    }
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(send(&target, "GET", probe, &[]).await, 200);
        assert_eq!(send(&target, "GET", probe, &[&wrong[0].1]).await, 200);
    }
    target.must_be_unharmed().await;
}

/// Not one character less opens the door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_of_the_token_is_the_token() {
    let target = Target::with_token(TOKEN).await;
    for length in 0..=TOKEN.len() {
        let header = format!("Bearer {}", &TOKEN[..length]).into_bytes();
        let expect = if length == TOKEN.len() { 200 } else { 401 };
        let status = send(&target, "GET", "/v1/objects", &[&header]).await;
        assert_eq!(status, expect, "{length}");
    }
    target.must_be_unharmed().await;
}
