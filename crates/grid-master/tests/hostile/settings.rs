//! Settings files that are broken or worse: each ends the master before it opens a port, with a word about what and where.

use std::{fs, path::Path, process::Command};

/// Runs the master with this settings file; its status and what it complained of.
fn run(file: &Path) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_grid-master"))
        .arg("--config")
        .arg(file)
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .env_clear()
        .output()
        .unwrap();
    assert!(!dir.path().join("state").exists(), "it began all the same");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn every_kind_of_broken_settings_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("http = \"{}\"\n", "x".repeat(10 << 20));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("syntax", b"[master\n".to_vec(), "line 1"),
        ("type", b"http = 5\n".to_vec(), "http"),
        ("address", b"http = \"nowhere\"\n".to_vec(), "http"),
        (
            "unknown-key",
            b"htpp = \"127.0.0.1:1\"\n".to_vec(),
            "`http`",
        ),
        ("unknown-section", b"[master]\n".to_vec(), "master"),
        (
            "anothers-key",
            b"[agent]\nplatform = \"process\"\n".to_vec(),
            "agent",
        ),
        (
            "twice",
            b"http = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\n".to_vec(),
            "line 2",
        ),
        ("deep", deep.into_bytes(), ""),
        ("long", long.into_bytes(), "bytes"),
        ("binary", (0..=255).collect(), ""),
        ("not-utf-8", b"http = \"\xff\"\n".to_vec(), "UTF-8"),
        ("nul", b"\0".to_vec(), ""),
    ];
    for (name, content, words) in cases {
        let file = dir.path().join(format!("{name}.toml"));
        fs::write(&file, content).unwrap();
        let (status, told) = run(&file);
        assert_eq!(status, Some(2), "{name}: {told}");
        assert!(told.starts_with("error: "), "{name}: {told}");
        assert!(told.contains(words), "{name}: `{words}` is not in {told}");
        assert!(
            told.contains(&format!("{name}.toml")),
            "{name}: it does not say where: {told}"
        );
        assert!(told.len() < 8192, "{name}: {} bytes", told.len());
        assert!(!told.contains("panicked"), "{name}: {told}");
    }
}

#[test]
fn what_is_no_file_is_no_settings_file() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for file in [
        dir.path(),
        &dir.path().join("none.toml"),
        &fifo,
        Path::new("/dev/zero"),
    ] {
        let (status, told) = run(file);
        assert_eq!(status, Some(2), "{}: {told}", file.display());
        assert!(told.starts_with("error: "), "{told}");
    }
}
