//! The probe: the program that is the node in the suite's cases.
//!
//! It is a small static Linux program that this crate carries in its bytes. At its start it appends a record to
//! `grid-probe.boots` in its data and syncs it, writes `boot N` to its log, does the actions of its arguments in
//! order, then binds its ports and does what it is asked over HTTP: `GET /healthz` and `GET /do/ACTION`, where the
//! action is percent-encoded. A stop signal is noted in the log as `signal NUMBER` and ends it with code 0.
//! [`Action`] lists the actions.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Failed, Outcome, eventually};

#[path = "../probe/script.rs"]
mod script;

pub use script::{
    Action, boot_line, count_line, flood_line, flood_lines, giant_line, numbered_line, signal_line,
};

/// The probe's file: static, so that an image that holds nothing else runs it.
pub const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/grid-probe"));

/// How long [`ask_soon`] waits for a way to the probe, and for one answer on the way there.
const REACHED: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(2);

/// Writes the probe into `dir`, executable for everybody, and gives its path.
///
/// # Errors
/// When the file cannot be written.
pub fn write_to(dir: &Path) -> Outcome<PathBuf> {
    let path = dir.join("grid-probe");
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(BYTES)?;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o755))?;
    // Renamed into place, so that no process has the program open for writing when it is executed.
    file.into_temp_path()
        .persist(&path)
        .map_err(|e| Failed::new(e.to_string()))?;
    Ok(path)
}

/// The path of the probe on this host, which lives as long as this process.
///
/// # Errors
/// When the file cannot be written.
pub fn path() -> Outcome<PathBuf> {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = PLACE.get() {
        return Ok(path.clone());
    }
    // By its content in the system's folder of temporary files: written once for all test programs that carry the
    // same probe, and never removed under one of them.
    let mut sum = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(BYTES, &mut sum);
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!(
        "grid-probe-{user}-{:016x}",
        std::hash::Hasher::finish(&sum)
    ));
    let path = dir.join("grid-probe");
    if std::fs::read(&path).is_ok_and(|bytes| bytes == BYTES) {
        return Ok(PLACE.get_or_init(|| path).clone());
    }
    std::fs::create_dir_all(&dir)?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
    let path = write_to(&dir)?;
    Ok(PLACE.get_or_init(|| path).clone())
}

/// Has a probe that listens there perform an action, and gives its answer.
///
/// # Errors
/// When it cannot be reached within 30 s, or says that it cannot.
pub async fn ask(host: &str, port: u16, action: &str) -> Outcome<String> {
    let asked = tokio::time::timeout(crate::PATIENCE, exchange(host, port, action));
    match asked.await {
        Ok(result) => result.map_err(|e| e.during(&format!("asking the probe to `{action}`"))),
        Err(_) => Err(Failed::new(format!(
            "the probe did not answer `{action}` within {:?}",
            crate::PATIENCE
        ))),
    }
}

/// Has the probe of a node do something that may not be reached yet: it binds its port when its first actions are done, and a
/// service's address leads to it some time after it has started, when kube-proxy has written its rules.
///
/// # Errors
/// When nothing answers there within 60 s, and those of [`ask`].
pub async fn ask_soon(host: &str, port: u16, action: &str) -> Outcome<String> {
    eventually(REACHED, "a way to the probe", || async {
        // Until then kube-proxy itself may hold a port of the host's, and let whoever comes wait.
        let asked = tokio::time::timeout(SOON, ask(host, port, "boot")).await;
        Ok(matches!(asked, Ok(Ok(_))).then_some(()))
    })
    .await?;
    ask(host, port, action).await
}

async fn exchange(host: &str, port: u16, action: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let request = format!(
        "GET /do/{} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n",
        encode(action)
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("a broken answer")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(Failed::new(body)),
    }
}

fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
