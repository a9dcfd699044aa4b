//! How long a node that does not run goes without saying why.

use std::collections::BTreeMap;
use std::time::Duration;

use grid_platform_api::{
    DataPolicy, ErrorKind, FailureReason, NodeId, Platform, PlatformExt, Program, ReadyMode,
    RestartMode, SpawnConfig, SpawnedNode,
};
use grid_platform_k8s::Overlay;
use grid_platform_testing::probe;
use grid_testbed::kubernetes::short_sum;
use grid_testbed::{Image, Tar};
use serde_json::json;

use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::program::now;
use crate::report::Row;
use crate::stats::Subject;

/// How long a reason may take, in seconds.
const BOUND: f64 = 10.0;

/// How long a reason is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A round takes seconds, most of them the kubelet's.
const EVERY: usize = 10;

/// Something that keeps a node from running.
struct Cause {
    what: &'static str,
    reason: FailureReason,
    /// Where it is so.
    place: Place,
    program: Program,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let causes = causes(bench)?;
    let subjects = causes.iter().map(|cause| {
        let row = format!("from spawn_node until the node says why: {}", cause.what);
        let mut round = 0;
        Subject::time(Row::time(row).at_most(BOUND), move || {
            round += 1;
            cause.shown(&NodeId::new(format!("cause-{round}"))?)
        })
        .every(EVERY)
    });
    bench.interleave(subjects.collect())
}

fn causes(bench: &Bench) -> Result<Vec<Cause>> {
    let place = |overlay| Place::with(bench, overlay);
    let plain = || place(Overlay::default());
    let nowhere = place(Overlay {
        node_selector: BTreeMap::from([("example.org/disk".to_owned(), "fast".to_owned())]),
        ..Overlay::default()
    })?;
    let no_class = place(Overlay {
        storage_class: Some("nowhere".to_owned()),
        ..Overlay::default()
    })?;
    let limited = plain()?;
    forbid_pods(&limited)?;
    let (no_image, failing, hungry) = (plain()?, plain()?, plain()?);
    let probes = format!(
        "localhost/sutra-grid-bench/probe:{}",
        short_sum(probe::BYTES)
    );
    let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
    let image = Image::new(layer).entrypoint(&["/grid-probe"]);
    hungry.view.own()?.load(image, &probes)?;
    let program = nowhere.program();
    let cause = |what, reason, place, program| Cause {
        what,
        reason,
        place,
        program,
    };
    let missing = Program::image("localhost/sutra-grid-bench/nowhere:1", [""; 0]);
    Ok(vec![
        cause(
            "its image is nowhere",
            FailureReason::ImagePullFailed,
            no_image,
            missing,
        ),
        cause(
            "no host takes it",
            FailureReason::Unschedulable,
            nowhere,
            program.clone(),
        ),
        cause(
            "its claim gets no volume",
            FailureReason::VolumePending,
            no_class,
            program.clone(),
        ),
        cause(
            "a quota forbids its pod",
            FailureReason::QuotaExceeded,
            limited,
            program,
        ),
        cause(
            "its program ends at once, each time",
            FailureReason::Exited,
            failing,
            Program::image(&probes, ["exit=3"]),
        ),
        cause(
            "its program wants more memory than it may have",
            FailureReason::OutOfMemory,
            hungry,
            Program::image(&probes, ["eat=512"]),
        ),
    ])
}

/// No pod may be made there any more.
fn forbid_pods(place: &Place) -> Result<()> {
    let hard = json!({ "pods": "0" });
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": { "name": "no-pods" }, "spec": { "hard": hard },
    });
    let all = place.namespace.path("resourcequotas");
    place.view.create(&all, &quota)?;
    let path = place.namespace.path("resourcequotas/no-pods");
    place.wait("the quota holds", || {
        let quota = place.view.find(&path)?.unwrap_or_default();
        Ok(quota["status"]["hard"] == hard)
    })
}

impl Cause {
    /// Spawns such a node, and gives how long it took until it said why it does not run. Nothing is left of it.
    fn shown(&self, id: &NodeId) -> Result<Duration> {
        let platform = &self.place.platform;
        let request = SpawnConfig::builder(id.as_str(), self.program.clone())
            .port(0)
            .memory_limit_mb(64)
            .restart(RestartMode::Always)
            .ready(ReadyMode::Started)
            .build()?;
        let says = |node: Option<&SpawnedNode>| {
            let failure = node.and_then(|it| it.state.failure().or(it.last_failure.as_ref()));
            failure.is_some_and(|it| it.reason == self.reason)
        };
        let from = now();
        let seen = async {
            platform.wait_for(id, PATIENCE, says).await?;
            let shown = now();
            // A start that is still waited for ends with it.
            platform.force_stop_node(id).await?;
            platform.remove_node(id, DataPolicy::Purge).await?;
            Result::Ok(shown - from)
        };
        let both = async { tokio::join!(platform.spawn_node(request), seen) };
        let (spawned, shown) = self.place.runtime.block_on(both);
        let shown = shown?;
        match spawned {
            // It ran for a moment.
            Ok(_) => Ok(shown),
            Err(e) if matches!(e.kind(), ErrorKind::SpawnFailed | ErrorKind::Superseded) => {
                Ok(shown)
            }
            Err(e) => Err(e.into()),
        }
    }
}
