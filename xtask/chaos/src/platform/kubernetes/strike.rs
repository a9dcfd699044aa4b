//! What befalls the cluster and its objects behind the agent's back.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use grid_platform_api::NATIVE_PREFIX;
use grid_testbed::kubernetes::Part;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{GivenUp, Held, Pods, Stripped, books::ticks, locked, text};
use crate::Result;
use crate::plan::{Fault, Kind};
use crate::proxy::Mode;

/// The finalizer that keeps a claim from going.
const HOLD: &str = "sutra-grid.test/hold";
/// How long what was done by hand may take to be undone.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a claim is changed that somebody else changed meanwhile.
const TRIES: usize = 20;

impl Pods {
    /// Lets a fault strike. Whether it met somebody.
    pub(super) fn hit(&self, fault: &Fault) -> Result<bool> {
        let lasts = Duration::from_millis(fault.lasts_ms);
        let pick = fault.pick;
        let done = match fault.kind {
            Kind::KillApiServer => return self.site.end(Part::ApiServer, true, lasts),
            Kind::StopKubelet => {
                return self.site.end(Part::Kubelet, pick.is_multiple_of(2), lasts);
            }
            Kind::PauseEtcd => return self.site.pause(Part::Etcd, lasts),
            Kind::CutServer => return Ok(self.site.way.disturb(Mode::Cut, lasts)),
            Kind::StallServer => return Ok(self.site.way.disturb(Mode::Stall, lasts)),
            Kind::DeletePod => self.delete(pick, Some(2)),
            Kind::ForceDeletePod => self.delete(pick, Some(0)),
            Kind::EvictPod => self.evict(pick),
            Kind::StripLabels => self.strip(pick, lasts),
            Kind::AnnotateObjects => self.annotate(pick),
            Kind::HoldClaim => self.hold(pick, lasts),
            _ => return Ok(false),
        };
        match done {
            Ok(met) => Ok(met),
            Err(error) if is_passing(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// One of the nodes' pods that run; none when there is none.
    fn running(&self, pick: u64) -> io::Result<Option<Value>> {
        let all = self.site.list(&self.site.path("pods"))?;
        let is_node = |it: &&Value| {
            let meta = &it["metadata"];
            meta["deletionTimestamp"].is_null()
                && !meta["labels"]["sutra.grid"].is_null()
                && it["status"]["containerStatuses"][0]["state"]["running"].is_object()
                && !self.decoys.has(text(&meta["uid"]))
        };
        let running: Vec<_> = all.iter().filter(is_node).collect();
        let at = pick.checked_rem(running.len() as u64);
        let at = at.and_then(|it| usize::try_from(it).ok());
        Ok(at.and_then(|at| running.get(at).copied().cloned()))
    }

    fn delete(&self, pick: u64, grace: Option<u64>) -> io::Result<bool> {
        let Some(pod) = self.running(pick)? else {
            return Ok(false);
        };
        let (name, uid) = (
            text(&pod["metadata"]["name"]),
            text(&pod["metadata"]["uid"]),
        );
        let path = self.site.path(&format!("pods/{name}"));
        let body = json!({
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": grace,
            "preconditions": { "uid": uid },
        });
        if grace == Some(0) {
            // Before it is done: its program may live on from that moment.
            let id = name.strip_prefix(NATIVE_PREFIX).unwrap_or(name).to_owned();
            let given_up = GivenUp { id, at: ticks()? };
            locked(&self.given_up).insert(uid.to_owned(), given_up);
        }
        let done = self.site.call("DELETE", &path, Some(&body));
        let until = Instant::now() + PATIENCE;
        let left = loop {
            match self.site.find(&path) {
                Err(_) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                found => break found?,
            }
        };
        let is_left = left.is_some_and(|it| {
            text(&it["metadata"]["uid"]) == uid && it["metadata"]["deletionTimestamp"].is_null()
        });
        if is_left {
            locked(&self.given_up).remove(uid);
        }
        done?;
        Ok(!is_left)
    }

    fn evict(&self, pick: u64) -> io::Result<bool> {
        let Some(pod) = self.running(pick)? else {
            return Ok(false);
        };
        let (name, uid) = (
            text(&pod["metadata"]["name"]),
            text(&pod["metadata"]["uid"]),
        );
        let version = match self.site.find("/apis/policy/v1")? {
            Some(_) => "policy/v1",
            None => "policy/v1beta1",
        };
        let body = json!({
            "apiVersion": version,
            "kind": "Eviction",
            "metadata": { "name": name, "namespace": self.site.namespace() },
            "deleteOptions": { "preconditions": { "uid": uid } },
        });
        let path = self.site.path(&format!("pods/{name}/eviction"));
        let done = self.site.call("POST", &path, Some(&body))?;
        Ok(done["status"] == "Success")
    }

    /// Takes the labels of a pod away that say whose it is, and puts them back later, as a person would.
    fn strip(&self, pick: u64, lasts: Duration) -> io::Result<bool> {
        let Some(pod) = self.running(pick)? else {
            return Ok(false);
        };
        let meta = &pod["metadata"];
        let (name, uid) = (text(&meta["name"]), text(&meta["uid"]));
        let labels = meta["labels"].as_object().cloned().unwrap_or_default();
        let ours = labels
            .into_iter()
            .filter(|(key, _)| key.starts_with("sutra."));
        let ours: serde_json::Map<_, _> = ours.collect();
        let none: serde_json::Map<_, _> = ours.keys().map(|it| (it.clone(), Value::Null)).collect();
        let path = self.site.path(&format!("pods/{name}"));
        // Before it is done: it is to be put back however this ends.
        locked(&self.stripped).push(Stripped {
            id: text(&meta["labels"]["sutra.node_id"]).to_owned(),
            path: path.clone(),
            uid: uid.to_owned(),
            labels: Value::Object(ours),
            until: Instant::now() + lasts,
            is_back: false,
        });
        let change = json!({ "metadata": { "labels": none } });
        let now = self.site.patch(&path, uid, change)?;
        Ok(now["metadata"]["labels"]["sutra.grid"].is_null())
    }

    /// Puts back the labels that are due; all of them with `all`.
    fn unstrip(&self, all: bool) -> io::Result<()> {
        let now = Instant::now();
        let due: Vec<Stripped> = locked(&self.stripped)
            .iter()
            .filter(|it| !it.is_back && (all || it.until <= now))
            .cloned()
            .collect();
        for one in due {
            let change = json!({ "metadata": { "labels": one.labels } });
            match self.site.patch(&one.path, &one.uid, change) {
                Ok(_) => {}
                // It is gone, or another one's by now.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
            for it in locked(&self.stripped).iter_mut() {
                it.is_back |= it.uid == one.uid;
            }
        }
        Ok(())
    }

    /// Adds an annotation to everything that one node has.
    fn annotate(&self, pick: u64) -> io::Result<bool> {
        let Some(pod) = self.running(pick)? else {
            return Ok(false);
        };
        let name = text(&pod["metadata"]["name"]);
        let mark = format!("{pick:016x}");
        let mut met = false;
        for kind in ["pods", "persistentvolumeclaims", "services", "secrets"] {
            let path = self.site.path(&format!("{kind}/{name}"));
            let Some(object) = self.site.find(&path)? else {
                continue;
            };
            let uid = text(&object["metadata"]["uid"]);
            if self.decoys.has(uid) {
                continue;
            }
            let change =
                json!({ "metadata": { "annotations": { "somebody.example/mark": mark } } });
            match self.site.patch(&path, uid, change) {
                Ok(now) => met |= now["metadata"]["annotations"]["somebody.example/mark"] == *mark,
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(met)
    }

    /// Keeps a node's claim from going for so long, if somebody deletes it.
    fn hold(&self, pick: u64, lasts: Duration) -> io::Result<bool> {
        let all = self.site.list(&self.site.path("persistentvolumeclaims"))?;
        let is_node = |it: &&Value| {
            let meta = &it["metadata"];
            meta["deletionTimestamp"].is_null() && !self.decoys.has(text(&meta["uid"]))
        };
        let claims: Vec<_> = all.iter().filter(is_node).collect();
        let at = pick.checked_rem(claims.len() as u64);
        let at = at.and_then(|it| usize::try_from(it).ok());
        let Some(claim) = at.and_then(|at| claims.get(at)) else {
            return Ok(false);
        };
        let name = text(&claim["metadata"]["name"]);
        let held = Held {
            path: self.site.path(&format!("persistentvolumeclaims/{name}")),
            uid: text(&claim["metadata"]["uid"]).to_owned(),
            until: Instant::now() + lasts,
        };
        locked(&self.held).push(held.clone());
        self.finalizers(&held, true)
    }

    /// Adds the finalizer to a claim, or takes it away; whether the claim is there.
    fn finalizers(&self, held: &Held, hold: bool) -> io::Result<bool> {
        for _ in 0..TRIES {
            let Some(claim) = self.site.find(&held.path)? else {
                return Ok(false);
            };
            let meta = &claim["metadata"];
            if text(&meta["uid"]) != held.uid {
                return Ok(false);
            }
            let now = meta["finalizers"].as_array().cloned().unwrap_or_default();
            let mut all: Vec<Value> = now.into_iter().filter(|it| *it != HOLD).collect();
            if hold {
                all.push(json!(HOLD));
            }
            let change = json!({ "metadata": {
                "finalizers": all,
                "resourceVersion": meta["resourceVersion"],
            } });
            match self.site.patch(&held.path, &held.uid, change) {
                Ok(_) => return Ok(true),
                Err(error) if error.to_string().contains("status 409") => {}
                Err(error) if is_gone(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!(
            "`{}` changes all the time",
            held.path
        )))
    }

    /// Lets go of the claims that are due; of all with `all`.
    fn release(&self, all: bool) -> io::Result<()> {
        let now = Instant::now();
        let is_due = |it: &Held| all || it.until <= now;
        let due: Vec<Held> = locked(&self.held)
            .iter()
            .filter(|it| is_due(it))
            .cloned()
            .collect();
        for one in due {
            self.finalizers(&one, false)?;
            locked(&self.held).retain(|it| it.uid != one.uid);
        }
        Ok(())
    }

    /// Undoes what was done by hand, as each is due, for as long as the run goes on.
    pub(super) async fn undo_in_time(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(200)).await;
            // A cluster that is away is asked again.
            let _ = self.unstrip(false);
            let _ = self.release(false);
        }
    }

    /// Ends all that lasts.
    pub(super) async fn let_go(&self) -> Result<()> {
        self.site.heal().await?;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.unstrip(true).and_then(|()| self.release(true)) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

/// The object is gone, or another one has its name.
fn is_gone(error: &io::Error) -> bool {
    let words = error.to_string();
    // The last is what a server says of a patch that has the uid of an earlier object.
    let said = ["status 404", "status 409", "metadata.uid"];
    said.iter().any(|it| words.contains(it))
}

/// The cluster is away, or the object went just then: as good as nobody met.
fn is_passing(error: &io::Error) -> bool {
    let words = error.to_string();
    let refused = [
        "status 400",
        "status 401",
        "status 403",
        "status 405",
        "status 415",
        "status 422",
    ];
    is_gone(error) || !refused.iter().any(|it| words.contains(it))
}
