//! What a node uses.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{NodeId, NodeUsage, Result, Timestamp};

use crate::{platform::Inner, sys::proc};
use grid_platform_host::work::blocking;

/// [`Platform::get_usage`](grid_platform_api::Platform::get_usage): the sum over the shim's descendants.
pub(crate) async fn read(inner: &Arc<Inner>, id: &NodeId) -> Result<NodeUsage> {
    let node = inner.node(id)?;
    inner.learn(&node, node.now().intent.generation, |_| {});
    let inner = Arc::clone(inner);
    blocking(move || {
        let now = node.now();
        let runs = node.shown().pid.is_some();
        let shim = now.record().filter(|_| runs).map(|it| it.shim_pid);
        let (mut ticks, mut pages, mut processes) = (0_u64, 0_u64, 0_u32);
        for pid in shim.map(proc::descendants).unwrap_or_default() {
            if let Some(stat) = proc::stat(pid).filter(|it| it.state != 'Z') {
                ticks = ticks.saturating_add(stat.ticks);
                pages = pages.saturating_add(stat.pages);
                processes += 1;
            }
        }
        let tick = Duration::from_secs(1)
            / u32::try_from(rustix::param::clock_ticks_per_second())
                .unwrap_or(100)
                .max(1);
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let limit = now.intent.config.memory_limit_mb;
        let disk = inner
            .data
            .site(&now.intent.data_path)
            .ok()
            .and_then(|site| site.disk_bytes().ok());
        Ok(NodeUsage {
            at: Timestamp::now(),
            cpu_time_ms: Some(ticks.saturating_mul(u64::try_from(tick.as_millis()).unwrap_or(10))),
            memory_bytes: Some(pages.saturating_mul(page)),
            memory_limit_bytes: limit.map(|mb| mb.saturating_mul(1024 * 1024)),
            disk_bytes: disk,
            processes: Some(processes),
        })
    })
    .await
}
