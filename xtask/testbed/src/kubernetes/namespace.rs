//! Namespaces of tests, made for a run and deleted behind it, by the next one if need be.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pki::{kubeconfig, write_private};
use super::view::View;
use crate::proc;

/// How long a namespace may take to be as it was asked to be.
const PATIENCE: Duration = Duration::from_secs(120);

/// The labels by which a namespace tells whose it is: the process, and when that started.
const PID: &str = "sutra-grid-test/pid";
const START: &str = "sutra-grid-test/start";

/// Where namespaces are.
const ALL: &str = "/api/v1/namespaces";

/// Where it says which APIs are served by services of the cluster.
const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// A namespace of this process's own. It is deleted when this is dropped, and what a killed process left by
/// [`sweep_dead`].
#[derive(Debug)]
pub struct Namespace {
    view: View,
    name: String,
}

impl Namespace {
    /// A new one, with nothing in it, in which pods can be made.
    ///
    /// # Errors
    /// The server's words.
    pub fn make(view: &View) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = proc::look(std::process::id()).ok_or("there is no `/proc`")?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sutra-grid-test-{}-{}-{number}", own.pid, own.start_time);
        let labels = json!({ PID: own.pid.to_string(), START: own.start_time.to_string() });
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": labels },
        });
        view.create(ALL, &object)?;
        let made = Self {
            view: view.clone(),
            name,
        };
        // No pod is let in before.
        made.wait("the account for pods", || {
            view.find(&made.path("serviceaccounts/default"))
                .map(|it| it.is_some())
        })?;
        Ok(made)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The view of the cluster that it is in.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The path of something of the core API in it: `pods`, `pods/NAME`.
    pub fn path(&self, what: &str) -> String {
        format!("{ALL}/{}/{what}", self.name)
    }

    /// The path of something of another API in it: of `apis/coordination.k8s.io/v1` the `leases`.
    pub fn path_of(&self, api: &str, what: &str) -> String {
        format!("/{api}/namespaces/{}/{what}", self.name)
    }

    /// Makes an account that may do what these rules (of a Role) say and nothing else, and writes its kubeconfig into `dir`.
    ///
    /// # Errors
    /// The server's words.
    pub fn account(&self, name: &str, rules: &Value, dir: &Path) -> Result<PathBuf, String> {
        let rbac = "apis/rbac.authorization.k8s.io/v1";
        let api = "rbac.authorization.k8s.io";
        let meta = json!({ "name": name });
        self.view.create(
            &self.path("serviceaccounts"),
            &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta }),
        )?;
        let version = format!("{api}/v1");
        self.view.create(
            &self.path_of(rbac, "roles"),
            &json!({ "apiVersion": version, "kind": "Role", "metadata": meta, "rules": rules }),
        )?;
        self.view.create(
            &self.path_of(rbac, "rolebindings"),
            &json!({
                "apiVersion": version,
                "kind": "RoleBinding",
                "metadata": meta,
                "roleRef": { "apiGroup": api, "kind": "Role", "name": name },
                "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": self.name }],
            }),
        )?;
        let token = self.view.create(
            &self.path(&format!("serviceaccounts/{name}/token")),
            &json!({
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": { "audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 7200 },
            }),
        )?;
        let token = token["status"]["token"].as_str().ok_or("no token")?;
        let (server, ca) = self.view.place()?;
        let file = dir.join(format!("{name}.kubeconfig"));
        write_private(&file, &kubeconfig(&server, &ca, token))?;
        Ok(file)
    }

    /// Has it deleted with all that is in it; whoever wants to know when it is gone, asks.
    ///
    /// # Errors
    /// The server's words.
    pub fn delete(&self) -> Result<(), String> {
        self.view.delete(&format!("{ALL}/{}", self.name))
    }

    fn wait(
        &self,
        what: &str,
        mut is_so: impl FnMut() -> Result<bool, String>,
    ) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while !is_so()? {
            if Instant::now() > until {
                return Err(format!("{what} in `{}` is not there", self.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is left of it is found by the next run.
        let _ = self.delete();
    }
}

/// An API of the cluster that a service serves; it is gone again when this is dropped, or by [`sweep_dead`].
#[derive(Debug)]
pub struct ServedApi<'a> {
    namespace: &'a Namespace,
    path: String,
}

impl<'a> ServedApi<'a> {
    /// Has the API server ask this port of the host's loopback, over TLS, for all of one version of an API's group.
    ///
    /// # Errors
    /// The server's words.
    pub fn make(
        namespace: &'a Namespace,
        group: &str,
        version: &str,
        port: u16,
    ) -> Result<Self, String> {
        let name = format!("{version}.{group}");
        // Nothing but a service can be named, and this one is no more than an address.
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": version },
            "spec": { "type": "ExternalName", "externalName": "127.0.0.1" },
        });
        namespace
            .view
            .create(&namespace.path("services"), &service)?;
        let served = json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": { "name": name },
            "spec": {
                "group": group,
                "version": version,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": true,
                "service": { "namespace": namespace.name, "name": version, "port": port },
            },
        });
        namespace.view.create(API_SERVICES, &served)?;
        let path = format!("{API_SERVICES}/{name}");
        Ok(Self { namespace, path })
    }
}

impl Drop for ServedApi<'_> {
    fn drop(&mut self) {
        // What is left of it is found by the next run.
        let _ = self.namespace.view.delete(&self.path);
    }
}

/// Has the namespaces of tests of processes that have ended deleted, with the APIs that were served from there, and says which.
///
/// # Errors
/// The server's words.
pub fn sweep_dead(view: &View) -> Result<Vec<String>, String> {
    let mut dead = Vec::new();
    for namespace in view.list(&format!("{ALL}?labelSelector={PID}"))? {
        let meta = &namespace["metadata"];
        let label = |label: &str| meta["labels"][label].as_str();
        let number = |name: &str| label(name).and_then(|it| it.parse::<u64>().ok());
        let (Some(pid), Some(start)) = (number(PID), number(START)) else {
            continue;
        };
        let lives = u32::try_from(pid)
            .ok()
            .and_then(proc::look)
            .is_some_and(|it| it.start_time == start);
        if !lives {
            let name = meta["name"].as_str().unwrap_or_default().to_owned();
            dead.push((name, !meta["deletionTimestamp"].is_null()));
        }
    }
    if dead.is_empty() {
        return Ok(Vec::new());
    }
    // First: no namespace goes while an API does not answer, and one that is on its way out may wait for that.
    for api in view.list(API_SERVICES)? {
        let from = api["spec"]["service"]["namespace"].as_str();
        if dead.iter().any(|(name, _)| from == Some(name)) {
            let name = api["metadata"]["name"].as_str().unwrap_or_default();
            view.delete(&format!("{API_SERVICES}/{name}"))?;
        }
    }
    let mut found = Vec::new();
    for (name, is_going) in dead {
        if !is_going {
            view.delete(&format!("{ALL}/{name}"))?;
            found.push(name);
        }
    }
    Ok(found)
}
