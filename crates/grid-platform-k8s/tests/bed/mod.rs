//! What the tests on a cluster share: the cluster, images made of nothing, a place of their own, and eyes that do not ask the
//! adapter.
#![allow(
    dead_code,
    reason = "each test file uses its part, and all of it is for tests"
)]

pub(crate) mod role;
pub(crate) mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use grid_platform_api::{NodeId, Platform, Program};
use grid_platform_k8s::{Allow, KubernetesConfig, KubernetesPlatform};
use grid_platform_testing::{
    BadProgram, Boot, Failed, LiveProcess, Outcome, environment, parse_boot, probe,
};
use grid_testbed::{
    Image, Tar,
    kubernetes::{self, Cluster, Namespace, View},
};
use serde_json::{Value, json};

/// A user that tests may name: an image of the probe alone has no names of users.
pub(crate) const OTHER_USER: u32 = 65_534;

/// The kinds of objects that a node has, those first that hold others.
const KINDS: [&str; 4] = ["pods", "services", "secrets", "persistentvolumeclaims"];

/// What keeps a deleted object from going, for as long as a test wants it to be there.
const HELD: &str = "sutra-grid-test/held";

/// The label by which an object tells which installation it is of.
const INSTALL: &str = "sutra.install";

/// The cluster of the tests, and this program's namespace in it.
pub(crate) struct Bed {
    pub(crate) view: View,
    pub(crate) cluster: Cluster,
    pub(crate) namespace: Namespace,
}

impl Bed {
    /// The one of this program, without what killed runs left on the cluster.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn shared() -> Outcome<&'static Self> {
        // Once for all tests of this program: what a namespace costs is not paid for each.
        static FOUND: OnceLock<Result<Bed, String>> = OnceLock::new();
        let found = FOUND.get_or_init(Self::make);
        found
            .as_ref()
            .map_err(|why| Failed::new(format!("{why}; run `cargo xtask testbed up kubernetes`")))
    }

    fn make() -> Result<Self, String> {
        let view = kubernetes::find()?;
        let cluster = view.own()?;
        kubernetes::sweep_dead(&view)?;
        let namespace = Namespace::make(&view)?;
        Ok(Self {
            view,
            cluster,
            namespace,
        })
    }

    /// Has the namespace of this program deleted, at its end: what is shared is never dropped.
    pub(crate) fn end() {
        if let Ok(bed) = Self::shared() {
            // What is left of it is found by the next run.
            let _ = bed.namespace.delete();
        }
    }

    /// Brings an image to the node under a name of its content's, and gives the name.
    ///
    /// # Errors
    /// containerd's words.
    pub(crate) fn image(&self, name: &str, image: Image) -> Outcome<String> {
        static LOADED: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
        let mut loaded = LOADED.lock().unwrap_or_else(|it| it.into_inner());
        if let Some(reference) = loaded.get(name) {
            return Ok(reference.clone());
        }
        // A name with a host is the same everywhere; under this one nothing is pulled. Test programs of other versions of the
        // tree may use the same cluster at the same time.
        let mut sum = DefaultHasher::new();
        image.clone().archive(name).hash(&mut sum);
        let reference = format!("localhost/sutra-grid-test/{name}:{:016x}", sum.finish());
        self.cluster.load(image, &reference).map_err(Failed::new)?;
        loaded.insert(name.to_owned(), reference.clone());
        Ok(reference)
    }

    /// The name of the cluster's own host, which has a kubelet.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn host(&self) -> Outcome<String> {
        let all = self.view.list("/api/v1/nodes")?;
        let mut names = all.iter().filter_map(|it| it["metadata"]["name"].as_str());
        let own = names.find(|it| !it.starts_with("sutra-grid-test-"));
        Ok(own.ok_or("the cluster has no host")?.to_owned())
    }

    /// The probe as a program of the cluster: an image that holds it and nothing else.
    ///
    /// # Errors
    /// containerd's words.
    pub(crate) fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
        let image = Image::new(layer).entrypoint(&["/grid-probe"]);
        let reference = self.image("probe", image)?;
        Ok(Program::image(reference, actions.iter().copied()))
    }

    /// An image whose entrypoint cannot be executed.
    ///
    /// # Errors
    /// containerd's words.
    pub(crate) fn bad_image(&self, which: BadProgram) -> Outcome<String> {
        let garbage = b"\x01\x02 this is no program\n";
        let layer = Tar::default().file("not-executable", 0o644, garbage).file(
            "bad-format",
            0o755,
            garbage,
        );
        let name = match which {
            BadProgram::Missing => "missing",
            BadProgram::NotExecutable => "not-executable",
            BadProgram::BadFormat => "bad-format",
            BadProgram::NoImage => return Ok("localhost/sutra-grid-test/nowhere:none".to_owned()),
        };
        let image = Image::new(layer).entrypoint(&[&format!("/{name}")]);
        self.image(name, image)
    }
}

/// What of the cluster is one test's: the nodes of its installations, and an eye on what is there. What is left when it is
/// dropped is deleted.
pub(crate) struct Place {
    pub(crate) bed: &'static Bed,
    name: String,
    /// A namespace that no other test has, where one is wanted.
    own: Option<Namespace>,
    installs: Mutex<BTreeSet<String>>,
}

impl Place {
    /// A place with nothing in it, in this program's namespace.
    ///
    /// # Errors
    /// Why there is no cluster.
    pub(crate) fn new() -> Outcome<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            bed: Bed::shared()?,
            name: format!("t{number}"),
            own: None,
            installs: Mutex::new(BTreeSet::new()),
        })
    }

    /// A place in a namespace of its own, for what would meet all that is in one.
    ///
    /// # Errors
    /// Why there is no cluster, or no such namespace.
    pub(crate) fn apart() -> Outcome<Self> {
        let mut place = Self::new()?;
        place.own = Some(Namespace::make(&place.bed.view).map_err(Failed::new)?);
        Ok(place)
    }

    /// The namespace that it is in.
    pub(crate) fn namespace(&self) -> &Namespace {
        self.own.as_ref().unwrap_or(&self.bed.namespace)
    }

    /// The id of a node that is called so here: many places are in one namespace.
    pub(crate) fn id(&self, name: &str) -> NodeId {
        let id = format!("{name}-{}", self.name);
        NodeId::new(&id).unwrap_or_else(|e| panic!("`{id}` is no id: {e}"))
    }

    /// The path of a node's object of this kind, or of a part of one (`pods`, `status`).
    pub(crate) fn path(&self, kind: &str, id: &NodeId) -> String {
        self.namespace()
            .path(&format!("{kind}/{}", id.native_name()))
    }

    /// A node's object of this kind, if there is one.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn find(&self, kind: &str, id: &NodeId) -> Outcome<Option<Value>> {
        let found = self.bed.view.find(&self.path(kind, id));
        found.map_err(Failed::new)
    }

    /// A node's object of this kind.
    ///
    /// # Errors
    /// The server's words; that there is none.
    pub(crate) fn object(&self, kind: &str, id: &NodeId) -> Outcome<Value> {
        let found = self.find(kind, id)?;
        found.ok_or_else(|| Failed::new(format!("`{id}` has none of the {kind}")))
    }

    /// Makes an object of the core API here.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn make(&self, kind: &str, object: &Value) -> Outcome<Value> {
        let made = self.bed.view.create(&self.namespace().path(kind), object);
        made.map_err(Failed::new)
    }

    /// Changes a node's object as a merge patch says.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn change(&self, kind: &str, id: &NodeId, change: &Value) -> Outcome<Value> {
        let changed = self.bed.view.patch(&self.path(kind, id), change);
        changed.map_err(Failed::new)
    }

    /// Has an object stay when it is deleted, until it is [released](Self::release).
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn hold(&self, kind: &str, id: &NodeId) -> Outcome {
        self.finalizers(kind, id, |all| all.push(json!(HELD)))
    }

    /// Lets an object go that is [held](Self::hold).
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn release(&self, kind: &str, id: &NodeId) -> Outcome {
        self.finalizers(kind, id, |all| all.retain(|it| *it != HELD))
    }

    fn finalizers(&self, kind: &str, id: &NodeId, change: impl Fn(&mut Vec<Value>)) -> Outcome {
        loop {
            let mut meta = self.object(kind, id)?["metadata"].take();
            let mut all = meta["finalizers"].as_array().cloned().unwrap_or_default();
            change(&mut all);
            // Others have theirs there too, which come and go.
            let version = meta["resourceVersion"].take();
            let change = json!({ "metadata": { "finalizers": all, "resourceVersion": version } });
            match self.change(kind, id, &change) {
                Err(why) if why.to_string().contains("(status 409)") => {}
                done => return done.map(drop),
            }
        }
    }

    /// Has a node's object deleted, as somebody does by hand; with `now`, without waiting for its program.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn delete(&self, kind: &str, id: &NodeId, now: bool) -> Outcome {
        let how = if now { "?gracePeriodSeconds=0" } else { "" };
        let path = format!("{}{how}", self.path(kind, id));
        self.bed.view.delete(&path).map_err(Failed::new)
    }

    /// Settings of an adapter that allows what tests ask for.
    pub(crate) fn config(&self, install: &str) -> KubernetesConfig {
        KubernetesConfig {
            install: install.to_owned(),
            kubeconfig: Some(self.bed.view.kubeconfig().to_owned()),
            images: Allow::Any,
            users: vec![OTHER_USER.to_string()],
            // What finds no place here finds none later.
            start_timeout_s: 30,
            ..KubernetesConfig::new(self.namespace().name())
        }
    }

    /// The settings of the place's own adapter.
    pub(crate) fn own_config(&self) -> KubernetesConfig {
        self.config(&self.name)
    }

    /// The settings of another owner's.
    pub(crate) fn strangers_config(&self) -> KubernetesConfig {
        self.config(&format!("{}-stranger", self.name))
    }

    /// Opens an adapter, whose installation is noted.
    ///
    /// # Errors
    /// The adapter's.
    pub(crate) async fn open(&self, config: KubernetesConfig) -> Outcome<KubernetesPlatform> {
        self.installs().insert(config.install.clone());
        Ok(KubernetesPlatform::open(config).await?)
    }

    /// Notes an installation that was opened elsewhere, whose objects are the place's to delete.
    pub(crate) fn note(&self, install: &str) {
        self.installs().insert(install.to_owned());
    }

    fn installs(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.installs.lock().unwrap_or_else(|it| it.into_inner())
    }

    /// The objects of a kind that have this label.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn labelled(&self, kind: &str, label: &str, value: &str) -> Outcome<Vec<Value>> {
        let path = self.namespace().path(kind);
        let asked = format!("{path}?labelSelector={label}%3D{value}");
        self.bed.view.list(&asked).map_err(Failed::new)
    }

    /// The pods of a node, as the cluster lists them.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn pods(&self, id: &NodeId) -> Outcome<Vec<Value>> {
        self.labelled("pods", "sutra.node_id", id.as_str())
    }

    /// The address of the node's pod, if that has one and is not ready.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn unready(&self, id: &NodeId) -> Outcome<Option<String>> {
        let pods = self.pods(id)?;
        let is_ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|it| it["type"] == "Ready" && it["status"] == "True")
        };
        if pods.iter().any(|it| is_ready(&it)) {
            return Ok(None);
        }
        let mut all = pods.iter().filter_map(|it| it["status"]["podIP"].as_str());
        Ok(all.next().map(str::to_owned))
    }

    /// The node's processes: those in the control groups of its pods, and those whose environment names it.
    ///
    /// # Errors
    /// When the cluster cannot be asked.
    pub(crate) fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        let mut live = Vec::new();
        for pod in self.pods(id)? {
            let uid = pod["metadata"]["uid"]
                .as_str()
                .ok_or("a pod without a uid")?;
            live.extend(kubernetes::processes_of(uid));
        }
        let name = format!("SUTRA_NODE_ID={id}").into_bytes();
        live.extend(grid_testbed::processes(|it| {
            environment(it.pid).is_ok_and(|it| it.split(|b| *b == 0).any(|it| it == name))
        }));
        live.sort_by_key(|it| it.pid);
        live.dedup();
        let seen = |it: grid_testbed::Process| LiveProcess {
            pid: it.pid,
            start_time: it.start_time,
            command: it.name,
        };
        Ok(live.into_iter().map(seen).collect())
    }

    /// The probe's records of the node in the folder of its claim's volume.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        let view = &self.bed.view;
        let Some(claim) = self.find("persistentvolumeclaims", id)? else {
            return Ok(Vec::new());
        };
        let Some(folder) = kubernetes::folder_of(view, &claim).map_err(Failed::new)? else {
            return Ok(Vec::new());
        };
        let text = match fs::read_to_string(folder.join("grid-probe.boots")) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let mut boots = Vec::new();
        for line in text.lines() {
            let (of, boot) = parse_boot(line).ok_or("a broken boot record")?;
            if of == id.as_str() {
                boots.push(boot);
            }
        }
        Ok(boots)
    }

    /// Deletes what is left of the test on the cluster, and names it.
    ///
    /// # Errors
    /// Names what was left.
    pub(crate) fn clean_up(&self) -> Outcome {
        let (view, namespace) = (&self.bed.view, self.namespace());
        let delete = |path: &str| view.delete(path).map_err(Failed::new);
        let installs = std::mem::take(&mut *self.installs());
        let mut left = Vec::new();
        for install in installs {
            let own = format!("sutra-grid.{install}");
            for kind in KINDS {
                for object in self.labelled(kind, INSTALL, &install)? {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    if name == own {
                        continue;
                    }
                    if !is_kept_data(kind, &object) {
                        left.push(format!("{kind} `{name}`"));
                    }
                    if object["metadata"]["finalizers"].to_string().contains(HELD)
                        && let Some(id) = NodeId::from_native_name(name)
                    {
                        self.release(kind, &id)?;
                    }
                    delete(&namespace.path(&format!("{kind}/{name}?gracePeriodSeconds=0")))?;
                }
            }
            for kind in ["configmaps", "secrets"] {
                delete(&namespace.path(&format!("{kind}/{own}")))?;
            }
            let leases = "apis/coordination.k8s.io/v1";
            delete(&namespace.path_of(leases, &format!("leases/{own}")))?;
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(Failed::new(format!("was left behind: {}", left.join(", "))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that panics comes by here only.
        let _ = self.clean_up();
    }
}

/// A claim that is no record of a node is what a test kept on purpose.
fn is_kept_data(kind: &str, object: &Value) -> bool {
    let record = &object["metadata"]["annotations"]["sutra.grid/record"];
    kind == "persistentvolumeclaims" && *record == json!(null)
}

/// As the suite takes platforms.
pub(crate) fn shared(platform: KubernetesPlatform) -> Arc<dyn Platform> {
    Arc::new(platform)
}
