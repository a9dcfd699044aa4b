//! The conformance suite on a container engine, and on it in the clothes of every wrapper.

mod bed;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use bed::Place;
use grid_platform_api::{NodeId, Platform, Program, SpawnedNode, async_trait};
use grid_platform_testing::{
    BadProgram, Boot, Failed, Fixture, Harness, LiveProcess, Outcome, Suite, Survey, probe,
    with_wrappers,
};
use grid_testbed::Kind;

/// An engine's containers.
pub(crate) struct Containers(pub(crate) Kind);

#[async_trait]
impl Harness for Containers {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn survey(&self) -> Outcome<Survey> {
        let place = Place::new(&bed::engine(self.0)?)?;
        let platform = place.open(place.own_config()).await?;
        let mut survey = Survey::new(platform.capabilities());
        survey.log_budget = Some(bed::LOG_BUDGET);
        survey.other_user = (survey.capabilities.user && rustix::process::getuid().is_root())
            .then(|| (bed::OTHER_USER.to_string(), bed::OTHER_USER));
        Ok(survey)
    }

    async fn fixture(&self) -> Outcome<Box<dyn Fixture>> {
        let place = Place::new(&bed::engine(self.0)?)?;
        Ok(Box::new(OnEngine {
            strangers_ports: place.host.new_ports(),
            place: Arc::new(place),
        }))
    }
}

struct OnEngine {
    place: Arc<Place>,
    strangers_ports: (u16, u16),
}

impl OnEngine {
    /// Looks at the engine aside: what waits for it there would hold up a call of the adapter's that is in flight.
    async fn aside<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Place) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let place = Arc::clone(&self.place);
        match tokio::task::spawn_blocking(move || look(&place)).await {
            Ok(seen) => seen,
            Err(broken) => Err(Failed::new(broken.to_string())),
        }
    }
}

#[async_trait]
impl Fixture for OnEngine {
    async fn open(&self) -> Outcome<Arc<dyn Platform>> {
        let config = self.place.own_config();
        Ok(bed::shared(self.place.open(config).await?))
    }

    async fn open_stranger(&self) -> Outcome<Arc<dyn Platform>> {
        let home = self.place.host.stranger();
        let config = self.place.config(&home, self.strangers_ports);
        Ok(bed::shared(self.place.open(config).await?))
    }

    fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        self.place.probe(actions)
    }

    fn bad_program(&self, which: BadProgram) -> Outcome<Program> {
        let image = bed::bad_image(&self.place.api, which)?;
        Ok(Program::image(image, [""; 0]))
    }

    async fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        let id = id.clone();
        self.aside(move |place| place.census(&id)).await
    }

    async fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        let id = id.clone();
        self.aside(move |place| place.boots(&id)).await
    }

    async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        let endpoint = node.endpoint.as_ref().ok_or("the node has no endpoint")?;
        let asked = probe::ask(&endpoint.host, endpoint.port, action).await;
        let ends = action.starts_with("exit=") || action.starts_with("signal=");
        match asked {
            // The proxy of a port ends with its container, and may take the last answer with it. What did not get there
            // shows where the case waits for the end.
            Err(_) if ends => Ok("ok".to_owned()),
            asked => asked,
        }
    }

    fn storage_path(&self) -> PathBuf {
        self.place.host.new_path()
    }

    async fn put_file(&self, path: &Path) -> Outcome {
        self.place.put_file(path)
    }

    async fn clean_up(&self) -> Outcome {
        self.aside(Place::clean_up).await
    }
}

/// The suite on an engine; in the wrappers' clothes, which are shown to fit elsewhere too, with the long tests.
pub(crate) fn suite(kind: Kind) -> ExitCode {
    let mut all = with_wrappers(Arc::new(Containers(kind)));
    let bare = all.pop().into_iter().collect();
    Suite::new(bare).long(all).run()
}

fn main() -> ExitCode {
    suite(Kind::Docker)
}
