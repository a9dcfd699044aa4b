//! What the agent's host has, for the nodes that run there.

use std::{fs, thread};

/// Memory in MiB; 0 where it cannot be known, as that of a cluster cannot: its own scheduler does, and changes it.
pub(crate) fn memory_mb(platform: &str) -> u64 {
    if platform == "kubernetes" {
        return 0;
    }
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse_memory(&text).unwrap_or(0)
}

/// Processors in thousandths; 0 where it cannot be known.
pub(crate) fn cpu_millis(platform: &str) -> u32 {
    if platform == "kubernetes" {
        return 0;
    }
    let count = thread::available_parallelism().map_or(0, |count| count.get());
    u32::try_from(count).unwrap_or(0).saturating_mul(1000)
}

/// `MemTotal` of proc(5)'s meminfo, which counts in KiB.
fn parse_memory(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_not_the_host_that_its_agent_is_on() {
        assert_eq!((memory_mb("kubernetes"), cpu_millis("kubernetes")), (0, 0));
        assert!(memory_mb("process") > 0 && cpu_millis("process") > 0);
    }

    #[test]
    fn memory_is_read_in_mib() {
        let check = |text, expect| assert_eq!(parse_memory(text), expect, "{text}");
        check("MemTotal:        2048000 kB\nMemFree: 1 kB\n", Some(2000));
        check("MemFree: 1 kB\n", None);
        check("", None);
    }
}
