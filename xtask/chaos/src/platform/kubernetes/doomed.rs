//! A namespace that is deleted under an agent: it goes with all that is in it, and its agent says so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use grid_client::{Client, CreateToken, Node, NodeSettings, Role, SpawnRequest, State};
use grid_platform_api::{NATIVE_PREFIX, NodeId, StopPolicy};
use grid_testbed::kubernetes::Namespace;
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::super::{Ground, Place};
use super::{PROBE, Pods};
use crate::daemon::{Daemon, Recipe};
use crate::{Args, Result};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The agent, and its node.
const NAME: &str = "doomed";
/// What its agent says.
const SAID: &str = "is being deleted";
/// What keeps the namespace until it was seen to go.
const HOLD: &str = "sutra-grid.test/hold";

/// Whose agent it is.
pub(super) struct Origin {
    program: PathBuf,
    master: String,
    place: Place,
}

impl Origin {
    pub(super) fn new(args: &Args, place: &Place) -> Result<Self> {
        Ok(Self {
            program: args.programs.join("grid-agent"),
            // As the run gives its ports out.
            master: format!("127.0.0.1:{}", args.ports()? + 1),
            place: place.clone(),
        })
    }

    fn recipe(&self, namespace: &str, kubeconfig: &str, token: &str) -> Result<Recipe> {
        let place = &self.place;
        let file = place.dir.join("token-of-doomed");
        fs::write(&file, token)?;
        // As an agent wants it.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let text = format!(
            "[agent]\nagent_id = '{NAME}'\nplatform = 'kubernetes'\nmaster_host = '{}'\nstate_dir = '{}'\ntoken_file = '{}'\n\
             [kubernetes]\nimages = ['{}']\n[kubernetes.overlay]\nstorage_size_mb = 16\n\
             [storage]\nk8s_namespace = '{namespace}'\nk8s_kubeconfig = '{kubeconfig}'\n",
            self.master,
            place.disk.join(NAME).display(),
            file.display(),
            PROBE.as_str(),
        );
        let settings = place.dir.join("grid-agent-doomed.toml");
        fs::write(&settings, text)?;
        Ok(Recipe {
            name: NAME,
            program: self.program.clone(),
            args: vec!["--config".to_owned(), settings.display().to_string()],
            log: place.log(NAME),
        })
    }
}

/// Waits until a node is so.
async fn wait(
    client: &Client,
    id: &NodeId,
    what: &str,
    is_so: impl Fn(&Node) -> bool,
) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let told = client.node(id).await;
        match &told {
            Ok(node) if is_so(node) => return Ok(()),
            _ if Instant::now() >= until => {
                return Err(format!("`{id}` is not {what}: {told:?}").into());
            }
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
}

impl Pods {
    /// Has the namespace of an agent of its own deleted; what is wrong then.
    pub(super) async fn end_namespace(&self, client: &Client) -> Result<Vec<String>> {
        let namespace = self.site.another()?;
        let hold = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "hold", "finalizers": [HOLD] },
        });
        self.site
            .call("POST", &namespace.path("configmaps"), Some(&hold))?;
        // The administrator's: an account of the namespace goes first of all that is in it.
        let kubeconfig = self.site.view().kubeconfig().display().to_string();
        let token = CreateToken {
            role: Role::Agent,
            note: None,
        };
        // The run's own is bound to its agent.
        let token = client.create_token(&token).await?.value;
        let recipe = self.origin.recipe(namespace.name(), &kubeconfig, &token)?;
        let agent = Daemon::start(recipe);
        let seen = self.see_it_end(client, &namespace).await;
        let path = namespace.path("configmaps/hold");
        let body = json!({ "metadata": { "finalizers": [] } });
        block_in_place(|| self.site.view().patch(&path, &body))?;
        agent.stop().await?;
        seen
    }

    async fn see_it_end(&self, client: &Client, namespace: &Namespace) -> Result<Vec<String>> {
        let id = NodeId::new(NAME)?;
        let mut settings = NodeSettings {
            stop: Some(StopPolicy {
                grace: Duration::from_secs(2),
                ..StopPolicy::default()
            }),
            ..NodeSettings::default()
        };
        self.dress(Some(vec!["count=20".to_owned()]), &mut settings);
        let request = SpawnRequest {
            node_id: Some(id.clone()),
            agent_id: Some(NAME.to_owned()),
            settings,
            ..SpawnRequest::default()
        };
        let until = Instant::now() + PATIENCE;
        while let Err(error) = client.spawn(&request, NAME).await {
            // Its agent is on the way.
            if Instant::now() >= until {
                return Err(format!("`{id}` cannot be wished: {error}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
        let runs = |it: &Node| it.state == State::Running;
        wait(client, &id, "running", runs).await?;
        block_in_place(|| namespace.delete())?;
        let mut wrong = Vec::new();
        let is_no_more = |it: &Node| it.state != State::Running;
        let shown = wait(client, &id, "shown as what it is", is_no_more).await;
        wrong.extend(shown.err().map(|it| it.to_string()));
        let until = Instant::now() + PATIENCE;
        let is_so = || -> Result<Option<String>> {
            let log = fs::read_to_string(self.origin.place.log(NAME))?;
            Ok(if !log.contains(SAID) {
                Some(format!(
                    "the agent of `{id}` does not say that its namespace {SAID}"
                ))
            } else if self.census()?.nodes.contains_key(NAME) {
                Some(format!("`{id}` runs on in a namespace that is deleted"))
            } else {
                self.made_meanwhile(namespace)?
            })
        };
        while let Some(words) = is_so()? {
            if Instant::now() >= until {
                wrong.push(words);
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(wrong)
    }

    /// What is there of a node in a namespace that is deleted.
    fn made_meanwhile(&self, namespace: &Namespace) -> Result<Option<String>> {
        for kind in ["pods", "services", "secrets", "persistentvolumeclaims"] {
            let left = self.site.list(&namespace.path(kind))?;
            let name = format!("{NATIVE_PREFIX}{NAME}");
            if let Some(left) = left.iter().find(|it| it["metadata"]["name"] == *name) {
                let meta = &left["metadata"];
                return Ok(Some(format!(
                    "in a namespace that is deleted there is {kind} {meta}"
                )));
            }
        }
        Ok(None)
    }
}
