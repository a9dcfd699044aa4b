//! The cluster of this host: raised beside whatever else runs here, and taken away whole.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::parts::{Part, Parts, Paused};
use super::pki::Pki;
use super::view::View;
use super::{host, settings};
use crate::engine::{is_own_dir, private_dir, unmount_below};
use crate::{Image, Tar};

/// How long the cluster may take to be ready after its start.
const PATIENCE: Duration = Duration::from_secs(180);

/// The directory; the programs that are built know it too.
const DIR: &str = "/tmp/sutra-grid-kubernetes";

/// A cluster of one node with a directory of its own, up or not. A host has one: a kubelet's groups, its logs and
/// kube-proxy's rules have fixed names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// The one of this host.
    pub fn of_host() -> Self {
        Self { dir: DIR.into() }
    }

    /// Its directory: each process has its log there.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki().file("admin.kubeconfig").into()
    }

    fn pki(&self) -> Pki {
        Pki(self.dir.join("pki"))
    }

    fn parts(&self) -> Parts {
        Parts::of(&self.dir)
    }

    /// A view of it, if it is up.
    ///
    /// # Errors
    /// Why not, as part of a sentence.
    pub fn look(&self) -> Result<View, String> {
        if !is_own_dir(&self.dir) || !self.pki().0.join("done").exists() {
            return Err("no cluster is up".into());
        }
        for part in Part::ALL {
            if self.parts().look(part).is_none() {
                return Err(format!(
                    "the cluster is not up: its `{}` does not run",
                    part.name()
                ));
            }
        }
        let view = View::of(&self.kubeconfig())?;
        self.is_ready(&view)
            .map_err(|why| format!("the cluster is not up: {why}"))?;
        Ok(view)
    }

    /// Raises it with these programs, unless it is up. A part that has ended is started again; where none lives, nothing
    /// that was on it is used.
    ///
    /// # Errors
    /// Why not, with the last words of what failed.
    pub fn up(&self, programs: &Path) -> Result<View, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can raise a cluster".into());
        }
        // Beside the directory, which comes and goes.
        let lock = self.dir.with_extension("lock");
        let lock = File::create(&lock).map_err(|error| broken(&lock, &error))?;
        // One at a time; the lock goes with the process that has it.
        lock.lock().map_err(|error| broken(&self.dir, &error))?;
        if let Ok(view) = self.look() {
            return Ok(view);
        }
        let parts = self.parts();
        parts.end_strays()?;
        // First of all: what is taken away is known by names that another's would have too.
        host::is_free(parts.look(Part::Kubelet).map(|it| it.pid))?;
        if Part::ALL.iter().all(|it| parts.look(*it).is_none()) {
            self.take_away()?;
        }
        private_dir(&self.dir)?;
        host::remember(&self.dir)?;
        self.write(programs)?;
        host::connect()?;
        for part in Part::ALL {
            // One that a test paused goes on.
            let _ = parts.signal(part, Signal::CONT);
        }
        parts.start(Part::Etcd)?;
        parts.start(Part::Containerd)?;
        parts.start(Part::ApiServer)?;
        self.await_containerd()?;
        let pause = programs.join("pause");
        let pause = fs::read(&pause).map_err(|error| broken(&pause, &error))?;
        let pause = Image::new(Tar::default().file("pause", 0o755, &pause)).entrypoint(&["/pause"]);
        self.load(pause, settings::PAUSE)?;
        let view = self.await_api_server()?;
        for part in Part::ALL {
            parts.start(part)?;
        }
        let class = "/apis/storage.k8s.io/v1/storageclasses";
        if view.find(&format!("{class}/standard"))?.is_none() {
            view.create(class, &settings::storage_class())?;
        }
        self.wait("the node", Part::Kubelet, || self.is_ready(&view))?;
        Ok(view)
    }

    /// Writes down what its processes are told.
    fn write(&self, programs: &Path) -> Result<(), String> {
        let (dir, pki, parts) = (&self.dir, self.pki(), self.parts());
        let names = [
            settings::NODE_ADDRESS,
            settings::FIRST_SERVICE,
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let node = [settings::NODE_ADDRESS, settings::NODE];
        pki.ensure(&settings::server(), &names, &node)?;
        let network = dir.join("network");
        fs::create_dir_all(&network).map_err(|error| broken(&network, &error))?;
        let write = |name: &str, text: String| {
            let file = dir.join(name);
            fs::write(&file, text).map_err(|error| broken(&file, &error))
        };
        write(
            "network/10-testbed.conflist",
            settings::network(dir).to_string(),
        )?;
        write("containerd.toml", settings::containerd_settings(dir))?;
        write(
            "kubelet.json",
            settings::kubelet_settings(dir, &pki).to_string(),
        )?;
        write(
            "kube-proxy.json",
            settings::proxy_settings(&pki).to_string(),
        )?;
        for part in Part::ALL {
            let command = match part {
                Part::Etcd => settings::etcd(dir),
                Part::ApiServer => settings::api_server(programs, &pki),
                Part::Containerd => settings::containerd(dir),
                Part::Controllers => settings::controllers(programs, &pki),
                Part::Scheduler => settings::scheduler(programs, &pki),
                Part::Kubelet => settings::kubelet(programs, dir, &pki),
                Part::Proxy => settings::proxy(programs, dir),
            };
            parts.define(part, &command)?;
        }
        Ok(())
    }

    /// Whether pods can be made: the node is ready, and so is the account that they have.
    fn is_ready(&self, view: &View) -> Result<(), String> {
        // A node is said to be ready for a while when its kubelet is not there any more.
        TcpStream::connect((settings::NODE_ADDRESS, settings::KUBELET_PORT))
            .map_err(|error| format!("the kubelet does not answer: {error}"))?;
        let node = format!("/api/v1/nodes/{}", settings::NODE);
        let node = view.find(&node)?.ok_or("there is no node")?;
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions.into_iter().flatten();
        let is_ready = |it: &&serde_json::Value| it["type"] == "Ready" && it["status"] == "True";
        if ready.clone().find(is_ready).is_none() {
            let why = ready
                .clone()
                .find(|it| it["type"] == "Ready")
                .and_then(|it| it["message"].as_str())
                .unwrap_or("it says nothing");
            return Err(format!("the node is not ready: {why}"));
        }
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        match view.find(account)? {
            Some(_) => Ok(()),
            None => Err("there is no account for pods".into()),
        }
    }

    fn await_containerd(&self) -> Result<(), String> {
        self.wait("containerd", Part::Containerd, || {
            self.ctr(&["version"], b"")
        })
    }

    fn await_api_server(&self) -> Result<View, String> {
        let mut view = None;
        self.wait("the API server", Part::ApiServer, || {
            let found = match view.take() {
                None => View::of(&self.kubeconfig())?,
                Some(found) => found,
            };
            let answer = found
                .api()
                .send("GET", "/readyz", "application/json", b"")
                .and_then(|it| it.ok());
            view = Some(found);
            answer
        })?;
        view.ok_or_else(|| "the API server does not answer".into())
    }

    /// Waits until something is so, or the part has ended.
    fn wait(
        &self,
        what: &str,
        part: Part,
        mut is_so: impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let Err(why) = is_so() else { return Ok(()) };
            let name = part.name();
            if self.parts().look(part).is_none() {
                let said = self.parts().last_words(part);
                return Err(format!("`{name}` ended: {said}"));
            }
            if Instant::now() > until {
                let said = self.parts().last_words(part);
                return Err(format!(
                    "{what} is not ready: {why} (`{name}` said: {said})"
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Brings an image to the node, under this name.
    ///
    /// # Errors
    /// containerd's words.
    pub fn load(&self, image: Image, name: &str) -> Result<(), String> {
        self.ctr(&["images", "import", "-"], &image.archive(name))
            .map_err(|why| format!("the image `{name}` is not loaded: {why}"))
    }

    /// Calls containerd, in the kubelet's namespace of it.
    fn ctr(&self, args: &[&str], input: &[u8]) -> Result<(), String> {
        use std::io::Write;
        let broken = |error: std::io::Error| format!("cannot run `ctr`: {error}");
        let mut child = Command::new("ctr")
            .arg("--address")
            .arg(self.dir.join("containerd.sock"))
            .args(["--connect-timeout", "2s", "--namespace", "k8s.io"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        if let Some(mut to) = child.stdin.take() {
            // What it says counts, and not that it did not listen.
            let _ = to.write_all(input);
        }
        let output = child.wait_with_output().map_err(broken)?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Ends it with all it runs, and deletes its directory and what it changed on the host.
    ///
    /// # Errors
    /// What is left.
    pub fn down(&self) -> Result<(), String> {
        if !self.dir.exists() && self.parts().strays().is_empty() {
            return Ok(());
        }
        let lock = self.dir.with_extension("lock");
        let lock = File::create(&lock).map_err(|error| broken(&lock, &error))?;
        lock.lock().map_err(|error| broken(&self.dir, &error))?;
        self.take_away()
    }

    fn take_away(&self) -> Result<(), String> {
        let parts = self.parts();
        parts.end_strays()?;
        if !self.dir.exists() {
            return Ok(());
        }
        if !is_own_dir(&self.dir) {
            return Err(format!("`{}` is not ours", self.dir.display()));
        }
        // First those that would start something again.
        for part in Part::ALL.into_iter().rev() {
            if part != Part::Containerd {
                parts.end(part)?;
            }
        }
        host::end_pods(&self.dir)?;
        parts.end(Part::Containerd)?;
        host::end_pods(&self.dir)?;
        unmount_below(&self.dir);
        host::disconnect();
        host::restore(&self.dir);
        fs::remove_dir_all(&self.dir).map_err(|error| broken(&self.dir, &error))
    }

    /// Kills a part with SIGKILL, and returns when it has ended.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn kill(&self, part: Part) -> Result<(), String> {
        let process = self.parts().signal(part, Signal::KILL)?;
        if process.wait(PATIENCE) {
            return Ok(());
        }
        Err(format!("process {} does not end", process.pid))
    }

    /// Ends a part in good order.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, part: Part) -> Result<(), String> {
        self.parts().end(part)
    }

    /// Starts a part that has ended, and returns when it serves.
    ///
    /// # Errors
    /// Why it does not.
    pub fn start(&self, part: Part) -> Result<(), String> {
        self.parts().start(part)?;
        match part {
            Part::ApiServer => self.await_api_server().map(drop),
            Part::Containerd => self.await_containerd(),
            Part::Kubelet => {
                let view = self.await_api_server()?;
                self.wait("the node", part, || self.is_ready(&view))
            }
            _ => Ok(()),
        }
    }

    /// Has a part stand still until what is returned is dropped.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, part: Part) -> Result<Paused, String> {
        self.parts().signal(part, Signal::STOP).map(Paused)
    }
}

fn broken(path: &Path, error: &std::io::Error) -> String {
    format!("cannot use `{}`: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_not_up_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster {
            dir: dir.path().join("none"),
        };
        assert_eq!(cluster.look().unwrap_err(), "no cluster is up");
        assert!(cluster.kill(Part::ApiServer).is_err());
        assert_eq!(cluster.down(), Ok(()), "nothing is nothing to take away");
    }
}
