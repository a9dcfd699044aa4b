//! The `kubectl` command, started anew for each call as people do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::bare::Bare;
use super::made::Made;
use super::peer::Peer;
use crate::Result;

/// By which `cargo xtask` knows it.
pub(super) const NAME: &str = "kubectl";

/// How long it waits.
const TIMEOUT: &str = "--timeout=300s";

/// The command, and the cluster it speaks to.
pub(super) struct Kubectl {
    path: PathBuf,
    file: PathBuf,
    namespace: String,
    /// Where it keeps what it has learnt of the API, as it does in its user's home.
    cache: PathBuf,
}

impl Kubectl {
    pub(super) fn new(path: PathBuf, file: &Path, namespace: &str, dir: &Path) -> Self {
        Self {
            path,
            file: file.to_owned(),
            namespace: namespace.to_owned(),
            cache: dir.join("kubectl-cache"),
        }
    }

    /// Runs it to its end; one that fails is an error with its words.
    pub(super) fn run(&self, args: &[&str]) -> Result<()> {
        let output = Command::new(&self.path)
            .arg("--kubeconfig")
            .arg(&self.file)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(["--namespace", &self.namespace])
            .args(args)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let what = args.first().unwrap_or(&"");
        Err(format!(
            "`kubectl {what}` ended with {}: {}",
            output.status,
            words.trim()
        )
        .into())
    }

    /// Makes many at once by a file, until all are ready.
    pub(super) fn create(&self, made: &[Made]) -> Result<()> {
        let items: Vec<&Value> = made.iter().flat_map(|it| &it.objects).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        let file = self.cache.with_file_name("many.json");
        std::fs::write(&file, list.to_string())?;
        self.run(&["create", "--filename", &file.to_string_lossy()])?;
        let ready = "--for=condition=Ready";
        self.run(&["wait", ready, TIMEOUT, "pods", "--all"])
    }
}

/// `kubectl run`, `kubectl wait` and `kubectl delete`: they make a pod alone, so what it needs is there before.
pub(super) struct Run<'a> {
    pub(super) kubectl: Kubectl,
    pub(super) bare: Bare<'a>,
}

impl Peer for Run<'_> {
    fn prepare(&self, made: &Made) -> Result<()> {
        self.bare.make_beside(made)
    }

    fn start(&self, made: &Made) -> Result<()> {
        let [_, _, pod] = &made.objects;
        let image = pod["spec"]["containers"][0]["image"].as_str();
        let image = format!("--image={}", image.ok_or("a pod without an image")?);
        let overrides = format!("--overrides={pod}");
        self.kubectl.run(&["run", &made.name, &image, &overrides])?;
        let pod = format!("pod/{}", made.name);
        self.kubectl
            .run(&["wait", "--for=condition=Ready", TIMEOUT, &pod])
    }

    fn stop(&self, made: &Made) -> Result<()> {
        let grace = format!("--grace-period={}", made.grace);
        self.kubectl.run(&["delete", "pod", &made.name, &grace])
    }
}
