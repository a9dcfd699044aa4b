//! Images from a real registry into a real engine: pulled, told of, cancelled, refused, loaded.

mod registry;

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::query_parameters::RemoveImageOptions;
use futures::StreamExt;
use grid_platform_api::{ErrorKind, FailureReason, NodeId, Progress};
use tokio::sync::broadcast;

use self::registry::{PASSWORD, Registry, USER};
use super::*;

/// Longer than anything takes on a machine that is busy; what takes so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

struct Stage {
    engine: Engine,
    images: Images,
    config: DockerConfig,
    node: NodeId,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let found = grid_testbed::find(grid_testbed::Kind::Docker);
        let api = found.expect("`cargo xtask testbed up docker` raises an engine");
        let config = DockerConfig {
            host: Some(api.host().to_owned()),
            ..DockerConfig::new(dir.path().join("state"), dir.path().join("data"))
        };
        Self {
            engine: Engine::connect(&config).await.unwrap(),
            images: Images::default(),
            config,
            node: NodeId::new("n1").unwrap(),
            dir,
        }
    }

    async fn ensure(&self, reference: &str) -> Result<Arc<Image>> {
        let ensured = self
            .images
            .ensure(&self.engine, &self.config, &self.node, reference);
        tokio::time::timeout(PATIENCE, ensured)
            .await
            .expect("it takes for ever")
    }

    /// Docker's `config.json` with these credentials.
    fn log_in(&mut self, registry: &str, user: &str, password: &str) {
        let auth = STANDARD.encode(format!("{user}:{password}"));
        let json = serde_json::json!({"auths": {registry: {"auth": auth}}});
        let path = self.dir.path().join("config.json");
        std::fs::write(&path, json.to_string()).unwrap();
        self.config.config_file = Some(path);
    }

    /// Takes an image out of the engine, and out of what is known.
    async fn remove(&self, reference: &str) {
        let options = RemoveImageOptions {
            force: true,
            ..RemoveImageOptions::default()
        };
        let removed = self
            .engine
            .docker
            .remove_image(reference, Some(options), None);
        // One that never came need not go.
        drop(removed.await);
        self.images.forget(None);
    }

    async fn save(&self, reference: &str, path: &Path) {
        let mut pieces = self.engine.docker.export_image(reference);
        let mut archive = Vec::new();
        while let Some(piece) = pieces.next().await {
            archive.extend(piece.unwrap());
        }
        std::fs::write(path, archive).unwrap();
    }
}

fn reason(error: &Error) -> Option<FailureReason> {
    error.failure().map(|it| it.reason)
}

/// The first news that is as wanted.
async fn told(
    news: &mut broadcast::Receiver<(NodeId, Progress)>,
    wanted: impl Fn(&Progress) -> bool,
) -> Progress {
    let found = async {
        loop {
            match news.recv().await {
                Ok((_, progress)) if wanted(&progress) => return progress,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(closed) => panic!("{closed}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .expect("nobody tells of it")
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_images_are_pulled_and_told_of() {
    let registry = Registry::start(None).await;
    let mut stage = Stage::new().await;
    let reference = registry.push("team/app", "1");
    stage.config.pull = Pull::Never;
    let error = stage.ensure(&reference).await.unwrap_err();
    assert_eq!(
        reason(&error),
        Some(FailureReason::ImageNotFound),
        "{}",
        error.report()
    );

    stage.config.pull = Pull::IfMissing;
    registry.hold_behind(Registry::LAYER * 3 / 2);
    let mut news = stage.images.progress();
    let (image, seen) = tokio::join!(stage.ensure(&reference), async {
        let seen = told(&mut news, |it| it.bytes_done > 0 && it.parts == 3).await;
        registry.let_through();
        seen
    });
    let image = image.unwrap();
    assert!(
        seen.parts_done < 3 && seen.bytes_done < 3 * Registry::LAYER,
        "{seen:?}"
    );
    assert!(seen.message.contains(&reference), "{seen:?}");
    let name = reference::split(&reference).0;
    let digest = image.digest.clone().unwrap();
    assert_eq!(
        digest,
        format!("{name}@{}", registry.digest("team/app", "1"))
    );
    assert_eq!(image.exposed_tcp, [7070]);

    // By its digest it is the same image; another version is another.
    let by_digest = stage.ensure(&digest).await.unwrap();
    assert_eq!(by_digest.id, image.id);
    let moved = registry.push("team/app", "1");
    assert_eq!(moved, reference);
    assert_eq!(
        stage.ensure(&reference).await.unwrap().id,
        image.id,
        "it is there"
    );
    stage.config.pull = Pull::Always;
    let newer = stage.ensure(&reference).await.unwrap();
    assert_ne!(newer.id, image.id, "its tag was moved");
    stage.remove(&digest).await;
    stage.remove(&reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_a_pull_that_nobody_waits_for_ends() {
    let registry = Registry::start(None).await;
    let stage = Stage::new().await;
    let reference = registry.push("app", "1");
    registry.hold_behind(Registry::LAYER / 2);
    let mut news = stage.images.progress();
    {
        let ensuring = stage.ensure(&reference);
        tokio::pin!(ensuring);
        tokio::select! {
            ended = &mut ensuring => panic!("{ended:?}"),
            _ = async {
                told(&mut news, |it| it.bytes_done > 0).await;
                registry.is_waited_for(true).await;
            } => {}
        }
    }
    // An engine that is stopped in the middle of a read closes its connection behind it, whatever comes; one that goes on
    // has the whole image in the end.
    let ended = registry.is_waited_for(false);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => registry.let_some_through(),
        }
    }
    registry.let_through();
    assert!(
        stage
            .images
            .look(&stage.engine, &reference)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_credentials_are_taken_from_dockers_file() {
    let registry = Registry::start(Some((USER, PASSWORD))).await;
    let mut stage = Stage::new().await;
    let reference = registry.push("private/app", "1");
    let host = registry.host();

    let error = stage.ensure(&reference).await.unwrap_err();
    assert_eq!(
        reason(&error),
        Some(FailureReason::ImagePullFailed),
        "{}",
        error.report()
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains(&format!("docker login {host}"))
    );
    assert!(!error.is_retryable());

    stage.log_in(&host, USER, "wrong");
    let error = stage.ensure(&reference).await.unwrap_err();
    assert_eq!(
        reason(&error),
        Some(FailureReason::ImagePullFailed),
        "{}",
        error.report()
    );
    assert!(!error.report().contains("wrong"), "{}", error.report());

    stage.log_in(&host, USER, PASSWORD);
    stage.ensure(&reference).await.unwrap();
    let error = stage
        .ensure(&format!("{host}/private/none:1"))
        .await
        .unwrap_err();
    assert_eq!(
        reason(&error),
        Some(FailureReason::ImageNotFound),
        "{}",
        error.report()
    );
    stage.remove(&reference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_that_is_away_may_come_back() {
    let stage = Stage::new().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let error = stage
        .ensure(&format!("127.0.0.1:{port}/app:1"))
        .await
        .unwrap_err();
    assert_eq!(
        reason(&error),
        Some(FailureReason::ImagePullFailed),
        "{}",
        error.report()
    );
    assert!(error.is_retryable());
    let error = stage.ensure("Not/A/Reference").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_is_not_needed_for_an_archive() {
    let registry = Registry::start(None).await;
    let mut stage = Stage::new().await;
    let reference = registry.push("app", "saved");
    let id = stage.ensure(&reference).await.unwrap().id.clone();
    let archive = stage.dir.path().join("images.tar");
    stage.save(&reference, &archive).await;
    stage.remove(&reference).await;
    drop(registry);

    stage.config.pull = Pull::Never;
    stage.config.image_archive = Some(archive.clone());
    let mut news = stage.images.progress();
    assert_eq!(stage.ensure(&reference).await.unwrap().id, id);
    let seen = told(&mut news, |_| true).await;
    assert!(seen.bytes > Some(3 * Registry::LAYER), "{seen:?}");

    let error = stage.ensure("nobody/has:it").await.unwrap_err();
    assert_eq!(reason(&error), Some(FailureReason::ImageNotFound));
    assert!(error.to_string().contains(&reference), "{error}");

    stage.remove(&reference).await;
    std::fs::write(&archive, vec![7; 100_000]).unwrap();
    let error = stage.ensure(&reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.report());
    std::fs::remove_file(&archive).unwrap();
    let error = stage.ensure(&reference).await.unwrap_err();
    assert!(
        error.hint().unwrap().contains("image_archive"),
        "{}",
        error.report()
    );
}
