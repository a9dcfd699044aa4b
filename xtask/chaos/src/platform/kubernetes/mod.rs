//! Nodes as pods of a cluster.

mod books;
mod decoys;
mod doomed;
mod site;
mod strike;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use grid_client::{Client, NodeSettings};
use grid_platform_api::{NodeId, RestartMode, SecretValue};
use grid_testbed::kubernetes::short_sum;
use grid_testbed::{Image, Tar};
use serde_json::Value;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::{Census, Ground, LastFault, Manner, Place, Positions, Records};
use crate::plan::{BETWEEN, END, Fault, Kind, Point, STEP, Weight};
use crate::report::{Counts, count};
use crate::{Args, Result, proc};
use books::Seen;
use decoys::Decoys;
use doomed::Origin;
use site::Site;

/// The image of probes: by its content, as a run beside this one may have been built otherwise.
static PROBE: LazyLock<String> = LazyLock::new(|| {
    let sum = short_sum(grid_platform_testing::probe::BYTES);
    format!("localhost/sutra-grid-chaos/probe:{sum}")
});
/// In the environment of nodes' programs: the run that they are of, by its namespace.
const RUN: &str = "CHAOS_RUN";
/// Who keeps a container running.
const SHIM: &str = "containerd-shim-runc-v2";
/// Where the kubelet keeps logs.
const LOGS: &str = "/var/log/pods";
/// How long a call of the API server may take, in milliseconds.
const CALL_LIMIT_MS: u64 = 4000;

/// What is done, and how often beside the others. What hits the link and the agent's disk is the same on every platform, and not
/// tried here.
const KINDS: [Weight; 15] = [
    (Kind::KillAgent, 6),
    (Kind::KillMaster, 2),
    (Kind::KillNode, 3),
    (Kind::Point, 18),
    (Kind::CutServer, 4),
    (Kind::StallServer, 4),
    (Kind::DeletePod, 4),
    (Kind::ForceDeletePod, 2),
    (Kind::EvictPod, 3),
    (Kind::StripLabels, 3),
    (Kind::AnnotateObjects, 3),
    (Kind::HoldClaim, 3),
    (Kind::KillApiServer, 2),
    (Kind::PauseEtcd, 2),
    (Kind::StopKubelet, 2),
];

/// The points in the adapter.
pub(super) const POINTS: &[Point] = &[
    // Around each call of the API server, whichever comes by next. An error behind it is an answer that was lost.
    Point {
        name: "k8s-call-before",
        orders: STEP,
    },
    Point {
        name: "k8s-call-after",
        orders: STEP,
    },
    Point {
        name: "k8s-spawn-after-secret",
        orders: STEP,
    },
    Point {
        name: "k8s-spawn-before-claim",
        orders: STEP,
    },
    Point {
        name: "k8s-spawn-after-claim",
        orders: STEP,
    },
    Point {
        name: "k8s-spawn-after-pod",
        orders: STEP,
    },
    Point {
        name: "k8s-spawn-before-answer",
        orders: END,
    },
    Point {
        name: "k8s-start-after-note",
        orders: STEP,
    },
    Point {
        name: "k8s-start-after-pod",
        orders: STEP,
    },
    Point {
        name: "k8s-stop-after-note",
        orders: STEP,
    },
    Point {
        name: "k8s-stop-after-end",
        orders: STEP,
    },
    Point {
        name: "k8s-stop-before-answer",
        orders: END,
    },
    Point {
        name: "k8s-remove-after-note",
        orders: STEP,
    },
    Point {
        name: "k8s-remove-after-end",
        orders: STEP,
    },
    Point {
        name: "k8s-remove-after-service",
        orders: STEP,
    },
    Point {
        name: "k8s-remove-before-claim",
        orders: STEP,
    },
    Point {
        name: "k8s-remove-before-answer",
        orders: END,
    },
    // A place that is somebody else's is given up, and what was made there before that was seen goes.
    Point {
        name: "k8s-take-back-before-claim",
        orders: STEP,
    },
    Point {
        name: "k8s-heal-after-services",
        orders: BETWEEN,
    },
];

pub(super) struct Pods {
    place: Place,
    storage: String,
    origin: Origin,
    site: Site,
    decoys: Decoys,
    /// The cluster's own parts are left alone.
    spare_cluster: bool,
    /// Pods that were taken out of the books by force, by their uids: their programs may live on beside the next one's.
    given_up: Mutex<BTreeMap<String, GivenUp>>,
    /// Pods that were robbed of their labels.
    stripped: Mutex<Vec<Stripped>>,
    /// Claims that may not go.
    held: Mutex<Vec<Held>>,
    /// Programs as they were seen, by their nodes.
    seen: Mutex<BTreeMap<String, Vec<Seen>>>,
    /// What was wrong in the books once, for good.
    wrong: Mutex<BTreeSet<String>>,
    mended: Mutex<Counts>,
    is_over: AtomicBool,
}

/// A pod that was taken out of the books by force.
struct GivenUp {
    id: String,
    /// When, in the kernel's ticks since boot.
    at: u64,
}

/// A pod that was robbed of its labels.
#[derive(Clone)]
struct Stripped {
    id: String,
    path: String,
    uid: String,
    labels: Value,
    until: Instant,
    is_back: bool,
}

/// A claim that may not go.
#[derive(Clone)]
struct Held {
    path: String,
    uid: String,
    until: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Pods {
    pub(super) async fn open(args: &Args, place: &Place) -> Result<Arc<Self>> {
        let program = args
            .static_program
            .as_ref()
            .ok_or("images need `--static-program`")?;
        // Where fault points are armed, figures are looked for too: some stalls outlast this.
        fs::write(place.dir.join("k8s-limit-ms"), CALL_LIMIT_MS.to_string())?;
        let site = Site::open(place).await?;
        let server = fs::read(program)?;
        let storage = format!("localhost/sutra-grid-chaos/storage:{}", short_sum(&server));
        let probe = grid_platform_testing::probe::BYTES.to_vec();
        let images = [
            (PROBE.as_str(), "grid-probe", probe, vec!["/grid-probe"]),
            (&storage, "grid", server, vec!["/grid", "storage"]),
        ];
        for (name, file, bytes, entrypoint) in images {
            let layer = Tar::default().file(file, 0o755, &bytes);
            let image = Image::new(layer).entrypoint(&entrypoint);
            block_in_place(|| site.cluster().load(image, name))?;
        }
        let pods = Arc::new(Self {
            place: place.clone(),
            storage,
            origin: Origin::new(args, place)?,
            decoys: Decoys::make(&site).await?,
            site,
            spare_cluster: args.spare_cluster,
            given_up: Mutex::default(),
            stripped: Mutex::default(),
            held: Mutex::default(),
            seen: Mutex::default(),
            wrong: Mutex::default(),
            mended: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let undoing = Arc::clone(&pods);
        tokio::spawn(async move { undoing.undo_in_time().await });
        Ok(pods)
    }

    /// The folder of a pod's logs, if the kubelet has one.
    fn logs(&self, id: &NodeId) -> io::Result<PathBuf> {
        let path = self.site.path(&format!("pods/{}", id.native_name()));
        let pod = self.site.find(&path)?;
        let pod = pod.ok_or_else(|| io::Error::other(format!("`{id}` has no pod")))?;
        let name = format!(
            "{}_{}_{}",
            self.site.namespace(),
            id.native_name(),
            text(&pod["metadata"]["uid"])
        );
        Ok(PathBuf::from(LOGS).join(name).join("node"))
    }
}

impl Ground for Pods {
    fn manner(&self) -> Manner {
        Manner {
            patience: Duration::from_secs(180),
            rest: Duration::from_secs(240),
            look_every: Duration::from_millis(500),
            watch_every: Duration::from_millis(200),
            slower: 4,
            persists: Duration::from_secs(60),
            insists: true,
            points_wait: Duration::from_secs(15),
            pause_ms: 1500..12_000,
            // Where a log is kept for as long as its pod is, there is nothing to compare with what was read before.
            followed: 0,
            shows_pids: false,
        }
    }

    fn kinds(&self) -> Vec<Weight> {
        let of_cluster = [Kind::KillApiServer, Kind::PauseEtcd, Kind::StopKubelet];
        let all = KINDS.into_iter();
        all.filter(|(kind, _)| !(self.spare_cluster && of_cluster.contains(kind)))
            .collect()
    }

    fn points(&self) -> Vec<Point> {
        POINTS.to_vec()
    }

    fn settings(&self, _: &str) -> String {
        format!(
            "[kubernetes]\ninstall = 'chaos'\nimages = ['{}']\nstart_timeout_s = 90\n[kubernetes.overlay]\nstorage_size_mb = 16\n\
             [storage]\nk8s_namespace = '{}'\nk8s_kubeconfig = '{}'\ndocker_image = '{}'\n\
             args = ['--data-path', '{{data_path}}', '--listen', '{{bind}}:{{port}}', '--published', '{{published}}']\n",
            PROBE.as_str(),
            self.site.namespace(),
            self.site.kubeconfig.display(),
            self.storage,
        )
    }

    fn dress(&self, probe: Option<Vec<String>>, settings: &mut NodeSettings) {
        // How long it waits before it starts one again is the kubelet's own.
        settings.restart = Some(RestartMode::Always.into());
        settings.image = probe.is_some().then(|| PROBE.clone());
        let run = (RUN.to_owned(), self.site.namespace().to_owned());
        settings.env.get_or_insert_default().extend([run]);
        // Storage servers have none, so that a secret of their names is somebody else's.
        let secret = ("chaos".to_owned(), SecretValue::new("told to nobody"));
        settings.secrets = probe.is_some().then(|| [secret].into());
        settings.args = probe;
    }

    fn begin(&self) {}

    fn strike<'a>(&'a self, fault: &'a Fault) -> BoxFuture<'a, Result<bool>> {
        async move { self.hit(fault) }.boxed()
    }

    fn calm(&self) -> BoxFuture<'_, Result<()>> {
        self.let_go().boxed()
    }

    fn census(&self) -> io::Result<Census> {
        let at = books::ticks()?;
        let mut census = Census::default();
        let mut shims = Vec::new();
        for process in proc::all()? {
            let name = process.args.first().and_then(|it| it.rsplit('/').next());
            if name == Some(SHIM) {
                shims.push(process);
            } else if process.variable(RUN) == Some(self.site.namespace()) && !process.is_zombie() {
                self.place_in(&mut census, process);
            }
        }
        for living in census.nodes.values_mut() {
            let of = |it: &&proc::Process| living.programs.iter().any(|one| one.parent == it.pid);
            let its: Vec<_> = shims.iter().filter(of).cloned().collect();
            living.supervisors = its;
        }
        self.note(&census, at);
        Ok(census)
    }

    fn records(&self) -> io::Result<Records> {
        self.read_books()
    }

    fn has_data(&self, id: &NodeId) -> io::Result<bool> {
        let path = format!("persistentvolumeclaims/{}", id.native_name());
        self.site
            .find(&self.site.path(&path))
            .map(|it| it.is_some())
    }

    fn address(&self, id: &NodeId, _: u16) -> Option<String> {
        let path = self.site.path(&format!("services/{}", id.native_name()));
        let service = self.site.find(&path).ok()??;
        let (host, port) = (&service["spec"]["clusterIP"], &service["spec"]["ports"][0]);
        Some(format!("{}:{}", host.as_str()?, port["port"].as_u64()?))
    }

    fn log(&self, id: &NodeId) -> io::Result<Vec<u8>> {
        let mut files: Vec<_> = fs::read_dir(self.logs(id)?)?
            .flatten()
            .map(|it| it.path())
            .collect();
        files.sort();
        let mut log = Vec::new();
        for file in files {
            // One that is just taken away is not read.
            log.append(&mut fs::read(file).unwrap_or_default());
        }
        Ok(log)
    }

    fn positions(&self) -> Positions {
        Positions::Opaque
    }

    fn loses_lines(&self) -> bool {
        true
    }

    fn excuses(&self) -> &'static [&'static str] {
        &["somebody deleted its pod before it was ready"]
    }

    fn mend<'a>(
        &'a self,
        id: &'a NodeId,
        _: Option<u16>,
        why: &str,
    ) -> BoxFuture<'a, Result<bool>> {
        // It was not to be seen whose its pod was.
        let is_foreign = why.starts_with("owned_by_other: ");
        let was_stripped = locked(&self.stripped)
            .iter()
            .any(|it| it.is_back && it.id == id.as_str());
        let mended = is_foreign && was_stripped;
        if mended {
            count(&mut locked(&self.mended), "labels that somebody took away");
        }
        async move { Ok(mended) }.boxed()
    }

    fn mended(&self) -> Counts {
        locked(&self.mended).clone()
    }

    fn taken(&self) -> Vec<NodeId> {
        Decoys::taken()
    }

    fn last_fault<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<LastFault>> {
        async move {
            Ok(Some((
                "delete namespace",
                self.end_namespace(client).await?,
            )))
        }
        .boxed()
    }

    fn ends(&self) -> Counts {
        Counts::new()
    }

    fn keep_evidence(&self) {
        self.site.keep_evidence(&self.place);
    }

    fn clean_up(&self) -> BoxFuture<'_, Result<()>> {
        self.is_over.store(true, Ordering::SeqCst);
        async move {
            self.let_go().await?;
            block_in_place(|| self.site.leave())?;
            Ok(())
        }
        .boxed()
    }
}
