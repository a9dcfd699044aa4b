//! The conformance suite on a cluster, and on it in the clothes of every wrapper.

mod bed;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use bed::{Bed, Place};
use grid_platform_api::{NodeId, Platform, Program, SpawnedNode, async_trait};
use grid_platform_testing::{
    BadProgram, Boot, Failed, Fixture, Harness, LiveProcess, Outcome, Suite, Survey, eventually,
    probe, with_wrappers,
};

/// How long the rules for a service's address may take behind its pod.
const RULES: Duration = Duration::from_secs(5);

/// A cluster's pods.
struct Pods;

#[async_trait]
impl Harness for Pods {
    fn name(&self) -> &str {
        "kubernetes"
    }

    fn case_limit(&self) -> Duration {
        // The kubelet of the tests' cluster takes up to 11 s for each pod that is deleted, and longer where many are.
        Duration::from_secs(180)
    }

    fn clean_limit(&self) -> Duration {
        Duration::from_secs(120)
    }

    async fn survey(&self) -> Outcome<Survey> {
        let place = aside(Place::new).await?;
        let platform = place.open(place.own_config()).await?;
        let mut survey = Survey::new(platform.capabilities());
        survey.other_user = survey
            .capabilities
            .user
            .then(|| (bed::OTHER_USER.to_string(), bed::OTHER_USER));
        // A kubelet that removes a container before it has told how it ended says "could not be located when the pod was
        // deleted" instead.
        survey.ends_get_lost = true;
        // containerd copies each output by itself.
        survey.outputs_are_apart = true;
        // An old kubelet looks for pods that never ran once a minute; see `case_limit` for the others.
        survey.patience = Duration::from_secs(90);
        // A kubelet gives no file to a user that is not root: its group reads it.
        survey.secrets_by_group = true;
        drop(platform);
        aside(move || place.clean_up()).await?;
        Ok(survey)
    }

    async fn fixture(&self) -> Outcome<Box<dyn Fixture>> {
        let place = Arc::new(aside(Place::new).await?);
        Ok(Box::new(OnCluster(place)))
    }
}

/// Looks at the cluster aside: what waits for it there would hold up a call of the adapter's that is in flight.
async fn aside<T: Send + 'static>(
    look: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    match tokio::task::spawn_blocking(look).await {
        Ok(seen) => seen,
        Err(broken) => Err(Failed::new(broken.to_string())),
    }
}

struct OnCluster(Arc<Place>);

impl OnCluster {
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Place) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let place = Arc::clone(&self.0);
        aside(move || look(&place)).await
    }
}

#[async_trait]
impl Fixture for OnCluster {
    async fn open(&self) -> Outcome<Arc<dyn Platform>> {
        Ok(bed::shared(self.0.open(self.0.own_config()).await?))
    }

    async fn open_stranger(&self) -> Outcome<Arc<dyn Platform>> {
        Ok(bed::shared(self.0.open(self.0.strangers_config()).await?))
    }

    fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        self.0.bed.probe(actions)
    }

    fn bad_program(&self, which: BadProgram) -> Outcome<Program> {
        Ok(Program::image(self.0.bed.bad_image(which)?, [""; 0]))
    }

    async fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        let id = id.clone();
        self.look(move |place| place.census(&id)).await
    }

    async fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        let id = id.clone();
        self.look(move |place| place.boots(&id)).await
    }

    async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        let endpoint = node.endpoint.as_ref().ok_or("the node has no endpoint")?;
        let id = node.node_id.clone();
        // A service leads to pods that are ready. The probe is asked also while it is not, at the pod's own address, where it
        // binds the port that its service has.
        let aside = self.look(move |place| place.unready(&id)).await?;
        let host = aside.as_ref().unwrap_or(&endpoint.host);
        if aside.is_none() {
            reached(host, endpoint.port).await;
        }
        let asked = probe::ask(host, endpoint.port, action).await;
        let ends = action.starts_with("exit=") || action.starts_with("signal=");
        match asked {
            // A pod's network may go with its last process, and take the last answer with it. What did not get there shows
            // where the case waits for the end.
            Err(_) if ends => Ok("ok".to_owned()),
            asked => asked,
        }
    }

    fn storage_path(&self) -> PathBuf {
        // Asked for only by cases that this platform has no capability for.
        PathBuf::new()
    }

    async fn clean_up(&self) -> Outcome {
        self.look(Place::clean_up).await
    }
}

/// Waits a moment until something is reached there: kube-proxy hears some time after a client that a pod is ready, and writes
/// its rules after that.
async fn reached(host: &str, port: u16) {
    let look = || async {
        let reached = tokio::net::TcpStream::connect((host, port)).await;
        Ok(reached.is_ok().then_some(()))
    };
    // What is not reached by then is told by who asks.
    let _ = eventually(RULES, "a way to the pod", look).await;
}

/// In the wrappers' clothes, which are shown to fit elsewhere too, with the long tests.
fn main() -> ExitCode {
    let mut all = with_wrappers(Arc::new(Pods));
    let bare = all.pop().into_iter().collect();
    let ended = Suite::new(bare).long(all).run();
    Bed::end();
    ended
}
