//! Eyes on a cluster that are not the adapter's: `kubectl` reaches it, whatever its kubeconfig asks for.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::Cluster;
use crate::Api;

/// The longest that a cluster may be silent when it is only looked for.
const LOOK: Duration = Duration::from_secs(10);

/// A way to call a cluster as its administrator, by a `kubectl proxy` of this process's own.
#[derive(Debug, Clone)]
pub struct View {
    kubeconfig: PathBuf,
    api: Api,
    // Ends with the last clone.
    _proxy: Arc<Proxy>,
}

/// The proxy, under a shell that ends it when this process is gone, however it went: then its input has ended.
#[derive(Debug)]
struct Proxy(Mutex<Child>);

const SCRIPT: &str = r#"
dir=$(mktemp -d)
kubectl --kubeconfig "$0" proxy --unix-socket="$dir/api" --accept-hosts=. --reject-paths=^$ --reject-methods=^$ >"$dir/said" 2>&1 </dev/null &
until [ -S "$dir/api" ]; do
    kill -0 $! 2>/dev/null || { cat "$dir/said" >&2; rm -r "$dir"; exit 1; }
    sleep 0.01
done
echo "$dir/api"
read end
kill $!
rm -r "$dir"
"#;

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut child = self.0.lock().unwrap_or_else(|it| it.into_inner());
        drop(child.stdin.take());
        let _ = child.wait();
    }
}

impl View {
    /// The cluster that a kubeconfig leads to.
    ///
    /// # Errors
    /// Why it cannot be reached, as part of a sentence.
    pub fn of(kubeconfig: &Path) -> Result<Self, String> {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("cannot run `sh`: {error}"))?;
        let mut socket = String::new();
        if let Some(said) = child.stdout.take() {
            let _ = BufReader::new(said).read_line(&mut socket);
        }
        let proxy = Arc::new(Proxy(Mutex::new(child)));
        if socket.is_empty() {
            return Err(format!(
                "`kubectl proxy` with `{}` does not run",
                kubeconfig.display()
            ));
        }
        let view = Self {
            kubeconfig: kubeconfig.to_owned(),
            api: Api::new(&format!("unix://{}", socket.trim()))?,
            _proxy: proxy,
        };
        let hurried = view.api.clone().patient_for(LOOK);
        let until = Instant::now() + LOOK;
        let answer = loop {
            let answer = hurried.send("GET", "/readyz/ping", "application/json", b"");
            // The proxy's socket is there a moment before anybody listens at it.
            match &answer {
                Err(why) if why.contains("os error 111") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => break answer,
            }
        };
        answer.and_then(|it| it.ok()).map_err(|why| {
            let file = kubeconfig.display();
            format!("the cluster of `{file}` does not answer: {why}")
        })?;
        Ok(view)
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// This host's own cluster, if it is the one that is looked at: there its pods' processes and volumes are, and images can be
    /// brought there.
    ///
    /// # Errors
    /// That it is another one.
    pub fn own(&self) -> Result<Cluster, String> {
        let own = Cluster::of_host();
        if self.kubeconfig == own.kubeconfig() {
            return Ok(own);
        }
        Err(format!(
            "`{}` leads to another cluster than this host's own, where tests bring images to and look at processes",
            self.kubeconfig.display()
        ))
    }

    /// Where the API server is, and the file of its authority.
    pub(super) fn place(&self) -> Result<(String, String), String> {
        let output = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["config", "view", "--minify", "--output", "json"])
            .output()
            .map_err(|error| format!("cannot run `kubectl`: {error}"))?;
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let cluster = &shown["clusters"][0]["cluster"];
        let field = |name: &str| cluster[name].as_str().map(str::to_owned);
        field("server")
            .zip(field("certificate-authority"))
            .ok_or_else(|| format!("`{}` names no server", self.kubeconfig.display()))
    }

    /// The API, called by its paths.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The version of the server, as it says.
    ///
    /// # Errors
    /// Its words.
    pub fn version(&self) -> Result<String, String> {
        let version = self.api.get("/version")?;
        Ok(version["gitVersion"]
            .as_str()
            .unwrap_or("of no version")
            .to_owned())
    }

    /// One object, or none where there is none of this path.
    ///
    /// # Errors
    /// The server's words.
    pub fn find(&self, path: &str) -> Result<Option<Value>, String> {
        let answer = self.api.send("GET", path, "application/json", b"")?;
        if answer.status == 404 {
            return Ok(None);
        }
        answer
            .json()
            .map(Some)
            .map_err(|why| format!("GET {path}: {why}"))
    }

    /// The objects of a list.
    ///
    /// # Errors
    /// The server's words.
    pub fn list(&self, path: &str) -> Result<Vec<Value>, String> {
        let mut all = self.api.get(path)?;
        match all["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Err(format!("GET {path}: no list")),
        }
    }

    /// Makes an object in the list of this path.
    ///
    /// # Errors
    /// The server's words.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value, String> {
        self.api.call("POST", path, Some(object))
    }

    /// Changes an object as a merge patch says (RFC 7386).
    ///
    /// # Errors
    /// The server's words.
    pub fn patch(&self, path: &str, change: &Value) -> Result<Value, String> {
        let body = change.to_string();
        let kind = "application/merge-patch+json";
        self.api
            .send("PATCH", path, kind, body.as_bytes())?
            .json()
            .map_err(|why| format!("PATCH {path}: {why}"))
    }

    /// Has an object deleted, and does not wait until it is gone. That there is none is as good.
    ///
    /// # Errors
    /// The server's words.
    pub fn delete(&self, path: &str) -> Result<(), String> {
        let answer = self.api.send("DELETE", path, "application/json", b"")?;
        if answer.status == 404 {
            return Ok(());
        }
        answer.ok().map_err(|why| format!("DELETE {path}: {why}"))
    }
}
