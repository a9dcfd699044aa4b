//! Nodes as processes of this host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, ready};
use grid_client::{Client, NodeSettings};
use grid_platform_api::{NATIVE_PREFIX, NodeId, RestartMode, RestartPolicy};

use super::{
    Census, Ground, LastFault, Manner, Place, Positions, Records, data_folders, sealed_json,
};
use crate::plan::{BETWEEN, END, Fault, Kind, Point, STEP, Weight};
use crate::report::Counts;
use crate::{Args, Result, proc};

/// How deep cgroups are looked for.
const DEPTH: usize = 6;

/// The points in the adapter and in its shim.
pub(super) const POINTS: &[Point] = &[
    Point {
        name: "spawn-before-intent",
        orders: STEP,
    },
    Point {
        name: "spawn-after-intent",
        orders: STEP,
    },
    Point {
        name: "spawn-after-fork",
        orders: BETWEEN,
    },
    Point {
        name: "spawn-before-answer",
        orders: END,
    },
    Point {
        name: "stop-before-intent",
        orders: STEP,
    },
    Point {
        name: "stop-after-intent",
        orders: BETWEEN,
    },
    Point {
        name: "stop-after-end",
        orders: STEP,
    },
    Point {
        name: "stop-before-answer",
        orders: END,
    },
    Point {
        name: "remove-after-end",
        orders: STEP,
    },
    Point {
        name: "remove-after-kept",
        orders: STEP,
    },
    Point {
        name: "remove-after-rename",
        orders: STEP,
    },
    Point {
        name: "remove-before-purge",
        orders: STEP,
    },
    Point {
        name: "remove-before-answer",
        orders: END,
    },
    Point {
        name: "shim-before-record",
        orders: STEP,
    },
    Point {
        name: "shim-after-record",
        orders: STEP,
    },
    Point {
        name: "shim-after-fork",
        orders: BETWEEN,
    },
    Point {
        name: "shim-before-report",
        orders: BETWEEN,
    },
    Point {
        name: "shim-before-stopped",
        orders: BETWEEN,
    },
];

/// What is done, and how often beside the others.
const KINDS: [Weight; 10] = [
    (Kind::KillAgent, 7),
    (Kind::KillMaster, 5),
    (Kind::KillShim, 6),
    (Kind::KillNode, 6),
    (Kind::KillShimAndNode, 3),
    (Kind::CutLink, 4),
    (Kind::StallLink, 3),
    (Kind::FillDisk, 3),
    (Kind::Point, 16),
    (Kind::RecyclePid, 3),
];

pub(super) struct Processes {
    place: Place,
    state: PathBuf,
    /// The storage server.
    program: PathBuf,
    probe: String,
}

impl Processes {
    pub(super) fn new(args: &Args, place: &Place) -> Result<Self> {
        let probe =
            grid_platform_testing::probe::write_to(&place.dir).map_err(|e| e.to_string())?;
        Ok(Self {
            state: place.agent().join("process"),
            place: place.clone(),
            program: args.programs.join("grid"),
            probe: probe.display().to_string(),
        })
    }

    fn nodes(&self) -> PathBuf {
        self.state.join("nodes")
    }

    fn is_ours(&self, process: &proc::Process) -> bool {
        let beneath = |path: &str| Path::new(path).starts_with(&self.place.dir);
        self.place.own_namespaces
            || process
                .cwd
                .as_ref()
                .is_some_and(|it| it.starts_with(&self.place.dir))
            || process.variable("SUTRA_DATA_PATH").is_some_and(beneath)
    }

    /// The cgroups of this run's owner: each hierarchy's parent, with those of nodes in it.
    fn cgroups(&self) -> io::Result<Vec<PathBuf>> {
        let install = sealed_json(&self.state.join("install.json"))?;
        let owner = install["owner"].as_str().unwrap_or_default();
        // Of the install id so much as the adapter takes.
        let name = format!("{NATIVE_PREFIX}{}", owner.get(..12).unwrap_or("x"));
        let mut found = Vec::new();
        find(Path::new("/sys/fs/cgroup"), &name, DEPTH, &mut found);
        Ok(found)
    }
}

/// Directories of that name, not deeper than so many levels.
fn find(dir: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
    for dir in subdirectories(dir) {
        if dir.file_name().is_some_and(|it| it == name) {
            found.push(dir);
        } else if depth > 1 {
            find(&dir, name, depth - 1, found);
        }
    }
}

/// What cannot be read, such as a cgroup that is just going, has none.
fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|it| it.path())
        .collect()
}

impl Ground for Processes {
    fn manner(&self) -> Manner {
        Manner::default()
    }

    fn kinds(&self) -> Vec<Weight> {
        let root = self.place.own_namespaces;
        let all = KINDS.into_iter();
        all.filter(|(kind, _)| root || !kind.needs_root()).collect()
    }

    fn points(&self) -> Vec<Point> {
        POINTS.to_vec()
    }

    fn settings(&self, of_the_host: &str) -> String {
        format!(
            "[storage]\nbinary_path = '{}'\nargs = ['storage', '--data-path', '{{data_path}}', '--listen', '{{bind}}:{{port}}']\nprograms = 'any'\n{of_the_host}",
            self.program.display(),
        )
    }

    fn dress(&self, probe: Option<Vec<String>>, settings: &mut NodeSettings) {
        settings.restart = Some(RestartPolicy {
            mode: RestartMode::Always,
            max_restarts: None,
            initial_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_millis(500),
            reset_after: Duration::from_secs(5),
        });
        settings.binary = probe.is_some().then(|| self.probe.clone());
        settings.args = probe;
    }

    fn begin(&self) {}

    fn strike<'a>(&'a self, _: &'a Fault) -> BoxFuture<'a, Result<bool>> {
        ready(Ok(false)).boxed()
    }

    fn calm(&self) -> BoxFuture<'_, Result<()>> {
        ready(Ok(())).boxed()
    }

    fn census(&self) -> io::Result<Census> {
        let mut census = Census::default();
        for process in proc::all()? {
            let id = process.variable("SUTRA_NODE_ID").map(str::to_owned);
            let shim_of = process
                .cwd
                .as_ref()
                .filter(|cwd| cwd.parent() == Some(&self.nodes()))
                .and_then(|cwd| cwd.file_name()?.to_str()?.strip_prefix(NATIVE_PREFIX))
                .filter(|_| {
                    process
                        .args
                        .first()
                        .is_some_and(|it| it == "sutra-grid-shim")
                })
                .map(str::to_owned);
            match (id, shim_of) {
                _ if process.is_zombie() => census.others.push(process),
                (Some(id), _) if self.is_ours(&process) => {
                    let living = census.nodes.entry(id).or_default();
                    match process.args.get(1) {
                        // Between a program and its orphan, for a moment.
                        Some(it) if it == "--orphan-parent" => census.others.push(process),
                        Some(it) if it == "--orphan" => living.orphans.push(process),
                        _ => living.programs.push(process),
                    }
                }
                (_, Some(id)) => census
                    .nodes
                    .entry(id)
                    .or_default()
                    .supervisors
                    .push(process),
                _ if self.is_ours(&process) => census.others.push(process),
                _ => {}
            }
        }
        for living in census.nodes.values_mut() {
            let pids: Vec<_> = living.programs.iter().map(|it| it.pid).collect();
            // A program's own child, which is about to become something else.
            let children = living
                .programs
                .extract_if(.., |it| pids.contains(&it.parent));
            census.others.extend(children);
        }
        Ok(census)
    }

    fn records(&self) -> io::Result<Records> {
        let mut records = Records {
            data: data_folders(&self.place),
            ..Records::default()
        };
        for dir in subdirectories(&self.nodes()) {
            let name = dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let Some(id) = name.strip_prefix(NATIVE_PREFIX) else {
                records.left.push(format!("`{}`", dir.display()));
                continue;
            };
            let intent = sealed_json(&dir.join("intent.json"))?;
            let uid = intent["uid"].as_str().unwrap_or_default().to_owned();
            records.nodes.insert(id.to_owned(), uid);
        }
        let quarantine = self.state.join("quarantine");
        if quarantine.exists() {
            records.left.push(format!("`{}`", quarantine.display()));
        }
        for parent in self.cgroups()? {
            for cgroup in subdirectories(&parent) {
                records.outside += 1;
                let uid = cgroup
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                if !records.nodes.values().any(|it| *it == uid) {
                    records
                        .left
                        .push(format!("the cgroup `{}`", cgroup.display()));
                }
            }
        }
        Ok(records)
    }

    fn has_data(&self, id: &NodeId) -> io::Result<bool> {
        Ok(self.place.data().join(id.as_str()).exists())
    }

    fn address(&self, _: &NodeId, port: u16) -> Option<String> {
        Some(format!("127.0.0.1:{port}"))
    }

    fn log(&self, id: &NodeId) -> io::Result<Vec<u8>> {
        fs::read(self.nodes().join(id.native_name()).join("log"))
    }

    fn positions(&self) -> Positions {
        Positions::Offsets
    }

    fn loses_lines(&self) -> bool {
        false
    }

    fn excuses(&self) -> &'static [&'static str] {
        &[
            "its supervisor ended before the program was started",
            "its supervisor was killed before it was ready",
        ]
    }

    fn mend<'a>(&'a self, _: &'a NodeId, _: Option<u16>, _: &str) -> BoxFuture<'a, Result<bool>> {
        // It is a part of the grid.
        async { Ok(false) }.boxed()
    }

    fn mended(&self) -> Counts {
        Counts::new()
    }

    fn taken(&self) -> Vec<NodeId> {
        Vec::new()
    }

    fn last_fault<'a>(&'a self, _: &'a Client) -> BoxFuture<'a, Result<LastFault>> {
        async { Ok(None) }.boxed()
    }

    fn ends(&self) -> Counts {
        Counts::new()
    }

    fn keep_evidence(&self) {}

    fn clean_up(&self) -> BoxFuture<'_, Result<()>> {
        for parent in self.cgroups().unwrap_or_default() {
            for cgroup in subdirectories(&parent).into_iter().chain([parent]) {
                // One that is in use stays, and was told of by the census.
                let _ = fs::remove_dir(cgroup);
            }
        }
        ready(Ok(())).boxed()
    }
}
