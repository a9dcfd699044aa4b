//! `grid storage` in places where it cannot be: each ends it before it listens, with a word about what, where, and what
//! mends it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{eventually, told};

/// `grid storage` with these arguments, started by `by`; what it told when it refused.
fn refuses(by: &[&str], data: &Path, more: &[&str]) -> String {
    let grid = env!("CARGO_BIN_EXE_grid");
    let mut command = Command::new(by.first().unwrap_or(&"env"));
    // Whatever it waits for, the test does not.
    command
        .args(by.iter().skip(1))
        .args(["timeout", "60", grid]);
    let output: Output = command
        .args(["storage", "--listen", "127.0.0.1:0", "--data-path"])
        .arg(data)
        .args(more)
        .env("SUTRA_LOG", "off")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(
        words.starts_with("error: ") && words.contains("\nhint: "),
        "{words}"
    );
    words
}

/// Whether this host lets tests be root; a word about the test where it does not, and a failure in CI, which has to.
fn needs_root(test: &str) -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        let _ = writeln!(std::io::stderr(), "not run: {test}: needs root");
        let ci = std::env::var("CI").is_ok_and(|it| it == "true" || it == "1");
        assert!(!ci, "{test} needs root");
    }
    root
}

#[test]
fn a_data_directory_that_is_read_only_or_anothers_is_refused_by_name() {
    if !needs_root("storage::a_data_directory_that_is_read_only_or_anothers_is_refused_by_name") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    // Root, but for the right to pass by every permission.
    let plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    let closed = place("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let theirs = place("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65534), Some(65534)).unwrap();
    let file = place("file");
    fs::write(&file, "mine").unwrap();
    for (data, why) in [
        (&closed, "Permission denied"),
        (&theirs, "Permission denied"),
        (&theirs.join("below"), "Permission denied"),
        (&file, "File exists"),
        (&file.join("below"), "Not a directory"),
    ] {
        let words = refuses(&plain, data, &[]);
        assert!(words.contains(data.to_str().unwrap()), "{words}");
        assert!(words.contains(why), "{words}");
    }
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");

    // A disk that was mounted to be read.
    let disk = place("disk");
    fs::create_dir(&disk).unwrap();
    let mount = "mount -t tmpfs -o ro tmpfs \"$0\"; exec \"$@\"";
    let mounted = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        mount,
        disk.to_str().unwrap(),
    ];
    let words = refuses(&mounted, &disk, &[]);
    assert!(words.contains(disk.to_str().unwrap()), "{words}");
    assert!(words.contains("Read-only file system"), "{words}");
}

#[test]
fn what_is_no_token_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let write = |name: &str, content: &[u8]| {
        fs::write(place(name), content).unwrap();
        place(name)
    };
    let fifo = place("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for (file, why) in [
        (place("none"), "cannot be read"),
        (dir.path().to_owned(), "is no file"),
        (fifo, "is no file"),
        ("/dev/zero".into(), "is no file"),
        (write("empty", b""), "holds fewer than 16 bytes"),
        (write("short", b"hunter2\n"), "holds fewer than 16 bytes"),
        (
            write("lines", b"0123456789abcdef\n0123456789abcdef\n"),
            "does not hold one line",
        ),
        (write("long", &[b'x'; 2 << 20]), "does not hold one line"),
        (write("binary", &[0; 100]), "does not hold one line"),
        (write("bytes", &[0xff; 100]), "cannot be read"),
    ] {
        let data = place("data");
        let file = file.to_str().unwrap();
        let words = refuses(&[], &data, &["--token-file", file]);
        assert!(
            words.contains(&format!("the token file `{file}` {why}")),
            "{words}"
        );
        assert!(
            !words.contains("hunter2") && !words.contains("0123456789"),
            "{words}"
        );
        assert!(!data.exists(), "it began all the same");
    }
}

/// The usual limit of 1024 open files leaves a server 512 connections: it takes as many as its host allows.
#[test]
fn a_storage_server_raises_its_number_of_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Command::new("sh")
        .args(["-c", "ulimit -Sn 200; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_grid"))
        .args(["storage", "--listen", "127.0.0.1:0", "--data-path"])
        .arg(dir.path().join("data"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let path = format!("/proc/{}/limits", server.id());
    let raised = || {
        let limits = fs::read_to_string(&path).ok()?;
        let line = limits.lines().find(|it| it.starts_with("Max open files"))?;
        let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
        (numbers[0] == numbers[1] && numbers[0] != "200").then_some(())
    };
    eventually("the limit to be raised", raised);
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn who_has_no_room_for_a_log_goes_on_serving() {
    let dir = tempfile::tempdir().unwrap();
    let grid = env!("CARGO_BIN_EXE_grid");
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (data, state) = (place("data"), place("state"));
    let (port, grpc) = (free_port(), free_port());
    let (port, grpc) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{grpc}"));
    let servers = [
        vec!["storage", "--listen", &port, "--data-path", &data],
        vec![
            "__master", "--dir", &state, "--http", &port, "--grpc", &grpc,
        ],
    ];
    for args in servers {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut server = Command::new(grid)
            .args(&args)
            .env("SUTRA_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(full)
            .spawn()
            .unwrap();
        eventually("an answer", || {
            let ended = server.try_wait().unwrap();
            assert_eq!(ended, None, "{args:?}");
            answers(&port).then_some(())
        });
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether a server there answers a request, whatever it says.
fn answers(address: &str) -> bool {
    let Ok(mut stream) = std::net::TcpStream::connect(address) else {
        return false;
    };
    let asked = stream.write_all(b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 ")
}
