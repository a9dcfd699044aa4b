//! What an idle shim costs.

use super::harness::{Node, SHIM, Shim, until};
use std::fs;

/// KiB that are each shim's alone, whatever else runs.
const PRIVATE_MAX: u64 = 160;
const COUNT: usize = 100;

fn private_dirty(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text
        .lines()
        .find_map(|it| it.strip_prefix("Private_Dirty:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_hundred_idle_shims_are_small_even_when_their_binary_is_gone() {
    let tmp = tempfile::tempdir().unwrap();
    let shim = tmp.path().join("shim");
    fs::copy(SHIM, &shim).unwrap();
    // Pages of a file that was not written back yet count as dirty; an adapter syncs what it installs.
    fs::File::open(&shim).unwrap().sync_all().unwrap();
    let nodes: Vec<(Node, Shim)> = (0..COUNT)
        .map(|_| {
            let mut node = Node::program("/bin/sleep", &["1000"]);
            node.launch.env = (0..50)
                .map(|it| format!("VARIABLE_{it}=a value of common length").into_bytes())
                .collect();
            fs::write(node.dir.join("launch"), node.launch.encode().unwrap()).unwrap();
            let shim = node.start_shim(&shim);
            assert!(shim.report.is_some());
            (node, shim)
        })
        .collect();
    fs::remove_file(&shim).unwrap();
    let measure = || {
        nodes
            .iter()
            .map(|(_, it)| private_dirty(it.pid()))
            .collect::<Vec<_>>()
    };
    let all = until("each shim is small", || {
        Some(measure()).filter(|it| it.iter().all(|it| *it <= PRIVATE_MAX))
    });
    println!(
        "Private_Dirty of {COUNT} idle shims: at most {} KiB",
        all.iter().max().unwrap()
    );
}
