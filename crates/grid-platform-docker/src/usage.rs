//! What a node uses: the engine's statistics, once, and the size of its data where this host sees it.

use std::sync::Arc;

use bollard::{
    models::{ContainerMemoryStats, ContainerStatsResponse},
    query_parameters::StatsOptions,
};
use futures::StreamExt;
use grid_platform_api::{Error, NodeId, NodeUsage, Result, Timestamp};

use grid_platform_host::work::blocking;

use crate::{engine::CALL, error::Fault, platform::Inner, translate::DataPlace};

/// [`Platform::get_usage`](grid_platform_api::Platform::get_usage).
pub(crate) async fn read(inner: &Arc<Inner>, id: &NodeId) -> Result<NodeUsage> {
    let node = inner.node(id).await?;
    let options = StatsOptions {
        stream: false,
        // Two samples for a percentage would take a second, and nobody asks for one.
        one_shot: true,
    };
    let mut stats = inner.engine.docker.stats(&node.container, Some(options));
    let asked = inner
        .engine
        .ask(CALL, async { stats.next().await.transpose() })
        .await;
    let stats = match asked {
        Ok(stats) => stats.unwrap_or_default(),
        Err(fault @ Fault::Refused { status: 404, .. }) => {
            return Err(Error::not_found(id).with_source(fault));
        }
        Err(fault) => return Err(fault.into_error(format!("ask what the node `{id}` uses"))),
    };
    let record = node.now().record;
    let limit = record.config.memory_limit_mb;
    let disk_bytes = match &record.data {
        DataPlace::Volume { .. } => None,
        DataPlace::Path { path, .. } => {
            let (inner, path) = (Arc::clone(inner), path.clone());
            // What cannot be counted is not told.
            let count = move || Ok(inner.data.site(&path)?.disk_bytes().ok());
            blocking(count).await.ok().flatten()
        }
    };
    Ok(NodeUsage {
        disk_bytes,
        memory_limit_bytes: limit.map(|mb| mb.saturating_mul(1024 * 1024)),
        ..used(&stats)
    })
}

/// What the statistics say; of a container that does not run they say nothing, and it uses nothing.
fn used(stats: &ContainerStatsResponse) -> NodeUsage {
    let cpu = stats
        .cpu_stats
        .as_ref()
        .and_then(|it| it.cpu_usage.as_ref());
    let nanos = cpu.and_then(|it| it.total_usage).unwrap_or(0);
    let processes = stats.pids_stats.as_ref().and_then(|it| it.current);
    NodeUsage {
        at: Timestamp::now(),
        cpu_time_ms: Some(nanos / 1_000_000),
        memory_bytes: Some(stats.memory_stats.as_ref().map_or(0, memory)),
        memory_limit_bytes: None,
        disk_bytes: None,
        processes: Some(u32::try_from(processes.unwrap_or(0)).unwrap_or(u32::MAX)),
    }
}

/// Memory as `docker stats` shows it: without the part of the file cache that can be taken away at once.
fn memory(stats: &ContainerMemoryStats) -> u64 {
    let detail = |name| stats.stats.as_ref().and_then(|it| it.get(name)).copied();
    // By its names in control groups of version 1 and 2.
    let cache = detail("total_inactive_file").or_else(|| detail("inactive_file"));
    let usage = stats.usage.unwrap_or(0);
    usage.saturating_sub(cache.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_as_people_know_them() {
        let check = |json: serde_json::Value, cpu: u64, memory: u64, processes: u32| {
            let used = used(&serde_json::from_value(json).unwrap());
            assert_eq!(
                (used.cpu_time_ms, used.memory_bytes, used.processes),
                (Some(cpu), Some(memory), Some(processes))
            );
        };
        check(serde_json::json!({}), 0, 0, 0);
        // As an engine says it of a container that is stopped.
        check(
            serde_json::json!({
                "cpu_stats": {"cpu_usage": {"total_usage": 0}},
                "memory_stats": {},
                "pids_stats": {},
            }),
            0,
            0,
            0,
        );
        let of = |stats: serde_json::Value| {
            serde_json::json!({
                "cpu_stats": {"cpu_usage": {"total_usage": 12_345_678_u64}},
                "memory_stats": {"usage": 1000, "stats": stats},
                "pids_stats": {"current": 3},
            })
        };
        check(
            of(serde_json::json!({"total_inactive_file": 300})),
            12,
            700,
            3,
        );
        check(of(serde_json::json!({"inactive_file": 400})), 12, 600, 3);
        check(of(serde_json::json!({"inactive_file": 4000})), 12, 0, 3);
        check(of(serde_json::json!({})), 12, 1000, 3);
    }
}
