//! The log's budget, its marks and its index.

use super::harness::{Node, is_root, not_run, skip, until};
use super::shared::record::Record;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

const MIB: u64 = 1024 * 1024;

/// Bytes on disk, holes not counted.
fn allocated(node: &Node) -> u64 {
    fs::metadata(node.dir.join("log")).unwrap().blocks() * 512
}

/// Where the holes at the beginning of the log end.
fn first_data(node: &Node) -> u64 {
    let log = File::open(node.dir.join("log")).unwrap();
    rustix::fs::seek(&log, rustix::fs::SeekFrom::Data(0)).unwrap_or(0)
}

fn size(node: &Node) -> u64 {
    fs::metadata(node.dir.join("log")).unwrap().len()
}

/// Numbered lines, whole from the first after `low`: checks that each follows the one before and returns the last.
fn check_lines(log: &[u8]) -> u64 {
    let text = std::str::from_utf8(log).unwrap();
    let lines: Vec<u64> = text.lines().skip(1).map(|it| it.parse().unwrap()).collect();
    assert!(lines.windows(2).all(|it| it[1] == it[0] + 1));
    *lines.last().unwrap()
}

#[test]
fn a_flood_is_kept_within_its_budget() {
    // About 69 MB in floods with breath between them, through 4 MiB.
    let mut node = Node::script(
        "for it in 1 2 3 4 5 6 7 8; do seq $((it * 1000000 + 1)) $((it * 1000000 + 1000000)); sleep 0.1; done; echo 9000001; echo done > done; exec sleep 1000",
    );
    node.launch.log_max_bytes = Some(4 * MIB);
    let (mut shim, _) = node.run();
    let mut low = 0;
    until("the flood is over", || {
        // Looked at in this order: what is gone from the file is already given up in the record.
        let gone = first_data(&node);
        let record = node.record();
        assert!(gone <= record.log_low && low <= record.log_low && record.log_base == 0);
        low = record.log_low;
        node.data.join("done").exists().then_some(())
    });
    let record = until("the last cut", || {
        Some(node.record()).filter(|it| size(&node) - it.log_low <= 4 * MIB)
    });
    let log = node.log();
    assert_eq!(log.len() as u64, 8_000_000 * 8 + 8);
    let low = usize::try_from(record.log_low).unwrap();
    assert!(low > 0 && low % 4096 == 0);
    assert_eq!(check_lines(&log[low..]), 9_000_001);
    until("the holes are punched", || {
        (allocated(&node) <= 4 * MIB + 64 * 1024).then_some(())
    });
    assert!(node.log()[..low].iter().all(|it| *it == 0));
    shim.stop(None);

    // The marks outlive the shim.
    node.launch.args[1] = b"echo again".to_vec();
    let (mut shim, _) = node.run();
    shim.wait();
    assert_eq!(node.record().log_low, record.log_low);
    assert!(node.log().ends_with(b"9000001\nagain\n"));
}

#[test]
fn a_small_budget_holds_at_the_end() {
    let mut node = Node::script("seq 1 100000");
    node.launch.log_max_bytes = Some(64 * 1024);
    let (mut shim, _) = node.run();
    shim.wait();
    let record = node.record();
    assert!(size(&node) - record.log_low <= 64 * 1024 && allocated(&node) <= 72 * 1024);
    assert_eq!(
        check_lines(&node.log()[usize::try_from(record.log_low).unwrap()..]),
        100_000
    );
}

#[test]
fn without_a_budget_all_is_kept() {
    let node = Node::script("seq 1 300000");
    let (mut shim, _) = node.run();
    shim.wait();
    assert_eq!(
        (node.record().log_low, check_lines(&node.log())),
        (0, 300_000)
    );
}

#[test]
fn the_index_tells_when_which_byte_was_there() {
    let node =
        Node::script("echo first; sleep 1.3; echo second; sleep 1.3; echo third; exec sleep 1000");
    let (mut shim, _) = node.run();
    let entries = || -> Vec<(u64, u64)> {
        let bytes = fs::read(node.dir.join("log.index")).unwrap_or_default();
        let number = |it: &[u8]| u64::from_le_bytes(it.try_into().unwrap());
        bytes
            .chunks_exact(16)
            .map(|it| (number(&it[..8]), number(&it[8..])))
            .collect()
    };
    until("the last entry", || {
        (entries().last().map(|it| it.1) == Some(19)).then_some(())
    });
    let found = entries();
    assert!(
        found
            .windows(2)
            .all(|it| it[0].0 + 900 <= it[1].0 && it[0].1 < it[1].1),
        "{found:?}"
    );
    assert!(found.iter().any(|it| it.1 == 6), "{found:?}");
    assert!(found[0].0 >= node.record().started_ms - 100);
    shim.stop(None);
    // A torn entry does not shift those that follow.
    File::options()
        .append(true)
        .open(node.dir.join("log.index"))
        .unwrap()
        .write_all(b"torn")
        .unwrap();
    let (mut shim, _) = node.run();
    until("an entry of the second run", || {
        (entries().len() > found.len()).then_some(())
    });
    assert_eq!(entries()[..found.len()], found);
    shim.stop(None);
}

#[test]
fn a_log_that_the_program_truncates_keeps_its_offsets() {
    let node = Node::script(
        "seq 1 1000; sleep 0.5; : > $LOG; echo after; echo done > done; exec sleep 1000",
    );
    let mut node = node;
    node.launch
        .env
        .push([b"LOG=", node.dir.join("log").as_os_str().as_encoded_bytes()].concat());
    let (mut shim, _) = node.run();
    node.data("done");
    let record = until("the mark moves", || {
        Some(node.record()).filter(|it| it.log_base > 0)
    });
    assert_eq!((record.log_base, record.log_low), (3893, 3893));
    assert_eq!(node.log(), b"after\n");
    shim.stop(None);
    assert_eq!(node.record().log_base, 3893);
}

#[test]
fn a_log_that_is_lost_while_nothing_runs_keeps_its_offsets() {
    let mut node = Node::script("seq 1 100000");
    node.launch.log_max_bytes = Some(64 * 1024);
    let (mut shim, _) = node.run();
    shim.wait();
    let low = node.record().log_low;
    assert!(low > 0);
    fs::write(node.dir.join("log"), "stale").unwrap();
    node.launch.args[1] = b"echo again".to_vec();
    let (mut shim, _) = node.run();
    shim.wait();
    let record = node.record();
    assert_eq!((record.log_low, record.log_base), (low, 0));
    let log = node.log();
    assert_eq!(&log[usize::try_from(low).unwrap()..], b"again\n");
    assert!(
        log[..usize::try_from(low).unwrap()]
            .iter()
            .all(|it| *it == 0)
    );
}

#[test]
fn where_holes_cannot_be_punched_the_log_is_emptied() {
    if !is_root() {
        return skip(
            "where_holes_cannot_be_punched_the_log_is_emptied",
            "root, to mount a file system without holes",
        );
    }
    let mut node = Node::script("seq 1 200000; echo done > $DATA/done; exec sleep 1000");
    let mounted = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        std::process::Command::new(args[0])
            .args(&args[1..])
            .arg(mounted.path())
            .status()
            .is_ok_and(|it| it.success())
    };
    if !mount(&["mount", "-t", "ramfs", "none"]) {
        return not_run(
            "where_holes_cannot_be_punched_the_log_is_emptied",
            "the right to mount",
        );
    }
    node.launch
        .env
        .push([b"DATA=", node.data.as_os_str().as_encoded_bytes()].concat());
    node.dir = mounted.path().join("node");
    fs::create_dir(&node.dir).unwrap();
    node.launch.log_max_bytes = Some(128 * 1024);
    let (mut shim, _) = node.run();
    node.data("done");
    let record: Record = until("the log is emptied", || {
        Some(node.record()).filter(|it| it.log_base > 0 && size(&node) <= 128 * 1024)
    });
    assert_eq!(record.log_low, record.log_base);
    shim.stop(None);
    drop(shim);
    assert!(mount(&["umount"]));
}
