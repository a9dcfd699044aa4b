//! Engines that cannot be reached or are none, each told with its mend. What a real engine cannot be made to do does a
//! small server on a socket.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use grid_platform_api::{Error, ErrorKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::*;

/// What a fake engine does with a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Answers a ping, with its newest version.
    Speaks(&'static str),
    /// Answers with this status and body.
    Answers(&'static str, &'static str),
    /// Reads the request and says nothing.
    Hangs,
    /// Begins an answer and goes no further.
    Stalls,
    /// Closes the connection at once, as one does that is going down.
    Closes,
}

const VERSION: &str = r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12"}"#;

/// A server on a socket that does with each connection what its plan says; the last of the plan is done again and again.
pub(crate) struct Fake {
    dir: tempfile::TempDir,
    /// The first line of each request.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(crate) fn start(plan: &'static [Does]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("engine.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heard, count) = (Arc::clone(&asked), AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let turn = count.fetch_add(1, Ordering::Relaxed).min(plan.len() - 1);
                tokio::spawn(serve(stream, plan[turn], Arc::clone(&heard)));
            }
        });
        Self { dir, asked }
    }

    pub(crate) async fn engine(&self) -> Engine {
        engine_at(&self.dir.path().join("engine.sock")).await
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut stream: UnixStream, does: Does, heard: Arc<Mutex<Vec<String>>>) -> Option<()> {
    if matches!(does, Does::Closes) {
        return None;
    }
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    heard.lock().unwrap().push(head.lines().next()?.to_owned());
    match does {
        Does::Speaks(version) => {
            let answer =
                format!("HTTP/1.1 200 OK\r\nApi-Version: {version}\r\nContent-Length: 2\r\n\r\nOK");
            stream.write_all(answer.as_bytes()).await.ok()
        }
        Does::Answers(status, body) => {
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.ok()
        }
        Does::Stalls => {
            let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Api";
            stream.write_all(begun).await.ok()?;
            std::future::pending().await
        }
        Does::Hangs => std::future::pending().await,
        Does::Closes => None,
    }
}

async fn engine_at(socket: &Path) -> Engine {
    let config = DockerConfig {
        host: Some(format!("unix://{}", socket.display())),
        ..DockerConfig::new("/s", "/d")
    };
    Engine::find(&config).await.unwrap()
}

async fn fault_of(plan: &'static [Does]) -> Error {
    let fake = Fake::start(plan);
    fake.engine().await.version().await.unwrap_err()
}

fn check(error: &Error, kind: ErrorKind, retryable: bool, hint: &str) {
    let report = error.report();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (kind, retryable),
        "{report}"
    );
    assert!(error.hint().is_some_and(|it| it.contains(hint)), "{report}");
}

#[tokio::test]
async fn an_engine_that_is_absent_is_to_be_started() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let error = engine_at(&socket).await.version().await.unwrap_err();
    check(
        &error,
        ErrorKind::Unavailable,
        true,
        "systemctl start docker",
    );
    let expect = format!(
        "cannot reach the Docker engine at `unix://{}`",
        socket.display()
    );
    assert_eq!(error.to_string(), expect);
    assert!(
        error.report().contains("No such file"),
        "{}",
        error.report()
    );

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = engine_at(&socket).await.version().await.unwrap_err();
    check(
        &error,
        ErrorKind::Unavailable,
        true,
        "systemctl start docker",
    );
    assert!(error.report().contains("refused"), "{}", error.report());
}

#[tokio::test]
async fn one_that_is_too_old_or_too_new_is_told_with_its_version() {
    const NEW: &str = r#"{"ApiVersion":"3.0","MinAPIVersion":"2.9"}"#;
    for plan in [
        &[Does::Speaks("1.40")][..],
        // Its ping does not tell.
        &[Does::Answers("200 OK", r#"{"ApiVersion":"1.40"}"#)],
    ] {
        let error = fault_of(plan).await;
        check(&error, ErrorKind::Unsupported, false, "20.10");
        assert!(error.report().contains("1.40"), "{}", error.report());
    }
    let error = fault_of(&[Does::Speaks("3.0"), Does::Answers("200 OK", NEW)]).await;
    check(&error, ErrorKind::Unsupported, false, "agent");
}

#[tokio::test]
async fn what_is_no_engine_is_told_so() {
    let error = fault_of(&[Does::Answers("404 Not Found", "<html>nothing</html>")]).await;
    check(&error, ErrorKind::InvalidConfig, false, "docker.host");
    let error = fault_of(&[Does::Answers(
        "400 Bad Request",
        "Client sent an HTTP request to an HTTPS server.\n",
    )])
    .await;
    check(&error, ErrorKind::InvalidConfig, false, "docker.cert_path");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_or_stalls_is_given_up_in_time() {
    let error = fault_of(&[Does::Hangs]).await;
    check(&error, ErrorKind::Timeout, true, "restart");
    let error = fault_of(&[Does::Stalls]).await;
    check(&error, ErrorKind::Timeout, true, "restart");

    // It answers, and then no more.
    let fake = Fake::start(&[Does::Speaks("1.41"), Does::Hangs]);
    let engine = fake.engine().await;
    engine.version().await.unwrap();
    let call = engine.call("ask about it", CALL, engine.docker.info());
    check(
        &call.await.unwrap_err(),
        ErrorKind::Timeout,
        true,
        "restart",
    );
    let mut stream = Box::pin(engine.docker.events(None));
    let silent = engine.next(CALL, &mut stream).await;
    assert!(matches!(silent, Err(Fault::Silent(_))), "{silent:?}");
}

#[tokio::test]
async fn one_that_restarts_is_spoken_to_again_and_in_the_version_that_it_has_then() {
    let fake = Fake::start(&[
        Does::Answers("404 Not Found", "no ping here"),
        Does::Answers("200 OK", VERSION),
        Does::Answers("200 OK", "{}"),
        Does::Closes,
        Does::Speaks("1.52"),
        Does::Answers("200 OK", "{}"),
    ]);
    let engine = fake.engine().await;
    let info = async || engine.call("ask", CALL, engine.docker.info()).await;
    info().await.unwrap();
    let error = info().await.unwrap_err();
    check(&error, ErrorKind::Unavailable, true, "restarting");
    info().await.unwrap();
    assert_eq!(
        fake.asked(),
        [
            "GET /_ping HTTP/1.1",
            "GET /version HTTP/1.1",
            "GET /v1.41/info HTTP/1.1",
            "GET /_ping HTTP/1.1",
            "GET /v1.52/info HTTP/1.1",
        ]
    );
}

#[tokio::test]
async fn a_refusal_of_the_engine_is_the_callers_to_judge() {
    let fake = Fake::start(&[
        Does::Speaks("1.41"),
        Does::Answers("404 Not Found", r#"{"message":"No such image: x"}"#),
        Does::Answers("500 Internal Server Error", "no JSON\n"),
        Does::Answers("403 Forbidden", r#"{"message":"by a plugin"}"#),
    ]);
    let engine = fake.engine().await;
    let fault = async || {
        let asked = engine.ask(CALL, engine.docker.inspect_image("x"));
        asked.await.unwrap_err()
    };
    let first = fault().await;
    assert_eq!(
        (first.status(), first.to_string()),
        (Some(404), "No such image: x".to_owned())
    );
    let second = fault().await;
    assert_eq!(
        (second.status(), second.to_string()),
        (Some(500), "no JSON".to_owned())
    );
    let third = fault().await.into_error("do it");
    check(&third, ErrorKind::PermissionDenied, false, "plugins");
}

/// Where another user than root runs this very test again.
const AS_OTHER: &str = "GRID_TEST_FORBIDDEN_SOCKET";

#[tokio::test]
async fn one_that_may_not_be_reached_names_the_group() {
    if let Some(socket) = std::env::var_os(AS_OTHER) {
        let engine = engine_at(&PathBuf::from(socket)).await;
        let error = engine.version().await.unwrap_err();
        check(&error, ErrorKind::PermissionDenied, false, "`docker` group");
        return;
    }
    let fake = Fake::start(&[Does::Speaks("1.41")]);
    let socket = fake.dir.path().join("engine.sock");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&socket, 0o600);
    mode(fake.dir.path(), 0o755);
    // Root may reach any socket, so that the same is tried as nobody, by a copy that nobody can read.
    let copy = fake.dir.path().join("again");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    mode(&copy, 0o755);
    let mut command = tokio::process::Command::new(&copy);
    command
        .args([
            "--exact",
            "engine::tests::one_that_may_not_be_reached_names_the_group",
        ])
        .current_dir("/")
        .env(AS_OTHER, &socket);
    if is_root() {
        command.uid(65_534).gid(65_534);
    } else {
        mode(&socket, 0o000);
    }
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
