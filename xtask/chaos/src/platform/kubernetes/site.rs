//! The cluster that a run is on: asked by way of `kubectl`, reached by the agent through a proxy, and stopped part by part.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grid_testbed::Api;
use grid_testbed::kubernetes::{Cluster, Namespace, Part, View, sweep_dead};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, sleep};

use super::super::Place;
use super::locked;
use crate::Result;
use crate::proxy::{Mode, Proxy};

/// How long the cluster may be silent.
const SILENCE: Duration = Duration::from_secs(5);
/// How long it may take to be whole again.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Site {
    cluster: Cluster,
    view: View,
    api: Api,
    /// Where all nodes are.
    namespace: Namespace,
    /// How the agent reaches the API server.
    pub(super) way: Arc<Proxy>,
    /// What the agent is told of.
    pub(super) kubeconfig: PathBuf,
    /// A part is away, and no other one is ended before that is back.
    is_hurt: Arc<AtomicBool>,
    healing: Mutex<Vec<JoinHandle<std::result::Result<(), String>>>>,
}

/// What the agent may do: the rules of the role that its documentation has people give it, and nothing else.
fn rules(view: &View) -> Result<Value> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/kubernetes/role.yaml"
    );
    let output = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(view.kubeconfig())
        .args([
            "create",
            "--dry-run=client",
            "--output=json",
            "--filename",
            file,
        ])
        .output()
        .map_err(|e| format!("cannot run `kubectl`: {e}"))?;
    // One object behind the other.
    for object in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>() {
        let mut object = object?;
        if object["kind"] == "Role" {
            return Ok(object["rules"].take());
        }
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{file}` has no role: {}", said.trim()).into())
}

impl Site {
    /// Takes a namespace of its own in the host's cluster.
    pub(super) async fn open(place: &Place) -> Result<Self> {
        let cluster = Cluster::of_host();
        let view = block_in_place(|| cluster.look())?;
        block_in_place(|| sweep_dead(&view))?;
        let namespace = block_in_place(|| Namespace::make(&view))?;
        let rules = block_in_place(|| rules(&view))?;
        let account = block_in_place(|| namespace.account("agent", &rules, &place.dir))?;
        let text = fs::read_to_string(&account)?;
        let server = text
            .split("https://")
            .nth(1)
            .and_then(|it| it.split(['"', '\'', '\n', ',']).next())
            .ok_or("the kubeconfig names no server")?
            .trim()
            .to_owned();
        let (way, address) = Proxy::start(server.parse()?).await?;
        // The server's certificate has this address too.
        fs::write(&account, text.replace(&server, &address.to_string()))?;
        Ok(Self {
            api: view.api().clone().patient_for(SILENCE),
            cluster,
            view,
            namespace,
            way: Arc::new(way),
            kubeconfig: account,
            is_hurt: Arc::default(),
            healing: Mutex::default(),
        })
    }

    pub(super) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// One more namespace of the run's own.
    pub(super) fn another(&self) -> std::result::Result<Namespace, String> {
        block_in_place(|| Namespace::make(&self.view))
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The path of something of the core API in the namespace.
    pub(super) fn path(&self, what: &str) -> String {
        self.namespace.path(what)
    }

    /// The path of something of another API in it.
    pub(super) fn path_of(&self, api: &str, what: &str) -> String {
        self.namespace.path_of(api, what)
    }

    /// One object; none where there is none.
    pub(super) fn find(&self, path: &str) -> io::Result<Option<Value>> {
        let answer = block_in_place(|| self.api.send("GET", path, "application/json", b""));
        let answer = answer.map_err(io::Error::other)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let told = |why| io::Error::other(format!("GET {path}: {why}"));
        answer.json().map(Some).map_err(told)
    }

    /// All objects of a list.
    pub(super) fn list(&self, path: &str) -> io::Result<Vec<Value>> {
        let mut all = self.call("GET", path, None)?;
        match all["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Err(io::Error::other(format!("GET {path}: no list"))),
        }
    }

    pub(super) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Value> {
        block_in_place(|| self.api.call(method, path, body)).map_err(io::Error::other)
    }

    /// Changes an object as a merge patch says, if that is still the one of this uid.
    pub(super) fn patch(&self, path: &str, uid: &str, mut change: Value) -> io::Result<Value> {
        change["metadata"]["uid"] = json!(uid);
        let (body, kind) = (change.to_string(), "application/merge-patch+json");
        let answer = block_in_place(|| self.api.send("PATCH", path, kind, body.as_bytes()));
        let told = |why| io::Error::other(format!("PATCH {path}: {why}"));
        answer.and_then(|it| it.json()).map_err(told)
    }

    /// Ends a part by `kill -9`, or in good order, and starts it again after so long. Whether it ended.
    pub(super) fn end(&self, part: Part, kill: bool, lasts: Duration) -> Result<bool> {
        if self.is_hurt.swap(true, Ordering::SeqCst) {
            return Ok(false);
        }
        let ended = block_in_place(|| match kill {
            true => self.cluster.kill(part),
            false => self.cluster.stop(part),
        });
        let (cluster, is_hurt) = (self.cluster.clone(), Arc::clone(&self.is_hurt));
        let healed = tokio::spawn(async move {
            sleep(lasts).await;
            let started = tokio::task::spawn_blocking(move || cluster.start(part)).await;
            is_hurt.store(false, Ordering::SeqCst);
            started.map_err(|e| e.to_string())?
        });
        locked(&self.healing).push(healed);
        // One that somebody else has ended is started all the same.
        Ok(ended.is_ok())
    }

    /// Has a part stand still for so long. Whether it did, by what the kernel says.
    pub(super) fn pause(&self, part: Part, lasts: Duration) -> Result<bool> {
        if self.is_hurt.swap(true, Ordering::SeqCst) {
            return Ok(false);
        }
        let Ok(paused) = self.cluster.pause(part) else {
            self.is_hurt.store(false, Ordering::SeqCst);
            return Ok(false);
        };
        let pid = paused.pid();
        let is_hurt = Arc::clone(&self.is_hurt);
        let healed = tokio::spawn(async move {
            sleep(lasts).await;
            drop(paused);
            is_hurt.store(false, Ordering::SeqCst);
            Ok(())
        });
        locked(&self.healing).push(healed);
        let until = std::time::Instant::now() + SILENCE;
        // It is told at once, and each of its threads hears it in its own time.
        while std::time::Instant::now() < until {
            if crate::proc::look(pid).is_some_and(|it| it.state == 'T') {
                return Ok(true);
            }
            std::thread::yield_now();
        }
        Err(format!("process {pid} does not stand still").into())
    }

    /// Waits until the cluster is whole.
    pub(super) async fn heal(&self) -> Result<()> {
        self.way.set(Mode::Pass);
        let healing = std::mem::take(&mut *locked(&self.healing));
        for healed in healing {
            healed.await??;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let cluster = self.cluster.clone();
            match tokio::task::spawn_blocking(move || cluster.look()).await? {
                Ok(_) => return Ok(()),
                Err(why) if Instant::now() >= until => return Err(why.into()),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Has the namespace deleted.
    pub(super) fn leave(&self) -> std::result::Result<(), String> {
        self.namespace.delete()
    }

    /// Writes down what the cluster says of the namespace, and where its parts' logs are.
    pub(super) fn keep_evidence(&self, place: &Place) {
        let kinds = "pods,persistentvolumeclaims,services,events,leases,configmaps";
        let output = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.view.kubeconfig())
            .args(["--request-timeout=20s", "--namespace", self.namespace()])
            .args(["get", kinds, "--output", "yaml"])
            .output();
        // Without it there are the logs.
        let _ = output.map(|it| fs::write(place.dir.join("cluster.yaml"), it.stdout));
        for name in ["kube-apiserver", "kubelet", "kube-controller-manager"] {
            let log = fs::read(self.cluster.dir().join(format!("{name}.log"))).unwrap_or_default();
            let from = log.len().saturating_sub(2 << 20);
            let _ = fs::write(place.log(name), &log[from..]);
        }
    }
}
