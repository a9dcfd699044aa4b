//! Secrets.

use grid_platform_api::{ErrorKind, RestartMode, SpawnConfigBuilder};

use super::cases;
use crate::{Context, Outcome, fails, quickly};

cases! {
    a_secret_is_a_file_for_its_owner_alone [secrets]
    a_secret_shows_nowhere_else [secrets]
    a_secret_is_in_the_environment_by_name_only [secrets secret_env]
    another_secret_is_another_request [secrets]
    a_secret_is_there_after_a_restart [secrets on_failure]
    a_secret_is_there_after_a_start [secrets]
    a_node_without_secrets_has_no_folder_of_them [secrets]
}

/// No part of this is found by chance.
const VALUE: &str = "s3cr3t-7f1c9d2e";

fn with_secret(c: &Context, value: &str) -> Outcome<SpawnConfigBuilder> {
    Ok(c.probe("n", &["note={secrets_dir}"])?
        .secret("api.key", value.into()))
}

async fn a_secret_is_a_file_for_its_owner_alone(c: &Context) -> Outcome {
    let config = with_secret(c, VALUE)?.secret("second", "other\nlines".into());
    let node = c.spawn(config).await?;
    let mode = c.survey().secret_mode();
    assert_eq!(
        c.ask(&node, "secret=api.key").await?,
        format!("{mode} {VALUE}")
    );
    assert_eq!(
        c.ask(&node, "secret=second").await?,
        format!("{mode} other\nlines")
    );
    Ok(())
}

async fn a_secret_shows_nowhere_else(c: &Context) -> Outcome {
    let node = c.spawn(with_secret(c, VALUE)?.label("a", "b")).await?;
    c.ask(&node, "say=hello").await?;
    let platform = c.platform();
    let status = c.status(&node.node_id).await?;
    let seen = [
        ("the environment", c.ask(&node, "env").await?),
        ("the arguments", c.ask(&node, "argv").await?),
        (
            "the processes",
            format!("{:?}", c.census(&node.node_id).await?),
        ),
        ("the status", format!("{status:?}")),
        ("the list", format!("{:?}", platform.list_nodes().await?)),
        ("the data", format!("{:?}", platform.list_data().await?)),
        (
            "the log",
            platform.get_logs(&node.node_id, 100).await?.concat(),
        ),
        ("the probe", format!("{:?}", platform.probe().await?)),
    ];
    for (place, text) in seen {
        assert!(!text.contains(VALUE), "the secret shows in {place}");
    }
    Ok(())
}

async fn a_secret_is_in_the_environment_by_name_only(c: &Context) -> Outcome {
    let config = with_secret(c, VALUE)?.secret("quiet", "unseen".into());
    let node = c.spawn(config.secret_env("API_KEY", "api.key")).await?;
    let env = c.ask(&node, "env").await?;
    assert!(
        env.lines().any(|l| l == format!("API_KEY={VALUE}")),
        "it was asked for"
    );
    assert!(!env.contains("unseen"), "the other was not");
    assert!(!c.ask(&node, "argv").await?.contains(VALUE));
    Ok(())
}

async fn another_secret_is_another_request(c: &Context) -> Outcome {
    let node = c.spawn(with_secret(c, VALUE)?).await?;
    let other = with_secret(c, "another")?.build()?;
    let error = fails(c.platform().spawn_node(other).await, ErrorKind::Conflict)?;
    assert!(
        !format!("{error:?} {}", error.report()).contains("another\""),
        "{error:?}"
    );
    assert_eq!(
        c.ask(&node, "secret=api.key").await?,
        format!("{} {VALUE}", c.survey().secret_mode())
    );
    c.reopen_if_possible().await?;
    let same = with_secret(c, VALUE)?.build()?;
    assert_eq!(c.platform().spawn_node(same).await?.uid, node.uid);
    Ok(())
}

async fn a_secret_is_there_after_a_restart(c: &Context) -> Outcome {
    let mut config = with_secret(c, VALUE)?.restart(quickly(RestartMode::OnFailure));
    let in_env = c.survey().capabilities.secret_env;
    if in_env {
        config = config.secret_env("API_KEY", "api.key");
    }
    let node = c.spawn(config).await?;
    c.ask(&node, "exit=1").await?;
    let again = c
        .wait(&node.node_id, "a restart", |n| {
            n.restarts == 1 && n.state.is_running()
        })
        .await?;
    assert_eq!(c.answers(&again).await?, 2);
    assert_eq!(
        c.ask(&again, "secret=api.key").await?,
        format!("{} {VALUE}", c.survey().secret_mode())
    );
    assert_eq!(c.ask(&again, "env").await?.contains(VALUE), in_env);
    Ok(())
}

async fn a_secret_is_there_after_a_start(c: &Context) -> Outcome {
    let node = c.spawn(with_secret(c, VALUE)?).await?;
    c.platform().stop_node(&node.node_id).await?;
    c.reopen_if_possible().await?;
    let again = c.spawn(with_secret(c, VALUE)?).await?;
    assert_eq!(again.uid, node.uid);
    assert_eq!(
        c.ask(&again, "secret=api.key").await?,
        format!("{} {VALUE}", c.survey().secret_mode())
    );
    Ok(())
}

async fn a_node_without_secrets_has_no_folder_of_them(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &["note={secrets_dir}"])?).await?;
    assert_eq!(c.ask(&node, "argv").await?, "note={secrets_dir}\n");
    assert!(!c.ask(&node, "env").await?.contains("SUTRA_SECRETS_DIR"));
    Ok(())
}
