//! What Prometheus' own tool says of metrics.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Lets promtool read the text; it finds nothing wrong and reads the metric of that name.
pub(crate) fn check(text: &str, metric: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let done = promtool.wait_with_output().unwrap();
    let found = String::from_utf8_lossy(&done.stderr);
    // Problems that only cost style are told, and another exit code.
    assert!(done.status.success() && found.is_empty(), "{found}\n{text}");
    // It read what was meant: the table of `--extended` has a line per metric.
    let table = String::from_utf8_lossy(&done.stdout);
    assert!(table.contains(metric), "{table}");
}
