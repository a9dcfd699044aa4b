//! Health.

use std::time::Duration;

use grid_platform_api::{Health, HealthCheck, HealthProbe, RestartMode};

use super::cases;
use crate::{Context, Outcome, quick, quickly, settle};

cases! {
    a_node_without_a_check_is_unchecked []
    a_tcp_check_is_healthy_once_the_port_is_served [health_checks]
    an_http_check_follows_the_answers [health_checks]
    one_bad_answer_below_the_threshold_is_none [health_checks]
    a_check_can_ask_another_port [health_checks port_allocation]
    an_unhealthy_node_is_not_ended [health_checks]
    a_node_that_does_not_run_has_no_health [health_checks]
    health_begins_anew_with_a_restart [health_checks on_failure]
    health_is_asked_after_a_reopen [health_checks nodes_outlive_adapter]
}

fn http() -> HealthCheck {
    quick(HealthCheck::http("/healthz"))
}

fn is_unhealthy(health: &Health) -> bool {
    matches!(health, Health::Unhealthy { message } if !message.is_empty())
}

async fn a_node_without_a_check_is_unchecked(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?).await?;
    assert_eq!(c.status(&node.node_id).await?.health, Health::Unchecked);
    Ok(())
}

async fn a_tcp_check_is_healthy_once_the_port_is_served(c: &Context) -> Outcome {
    let config = c
        .probe("n", &["wait=200"])?
        .health(quick(HealthCheck::tcp()))
        .build()?;
    let node = c.platform().spawn_node(config).await?;
    assert_ne!(node.health, Health::Healthy, "nothing is served yet");
    assert_ne!(node.health, Health::Unchecked);
    c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
        .await?;
    assert_eq!(c.ask(&node, "boot").await?, "1");
    Ok(())
}

async fn an_http_check_follows_the_answers(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.health(http())).await?;
    for _ in 0..2 {
        c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
            .await?;
        c.ask(&node, "healthy=no").await?;
        let bad = c
            .wait(&node.node_id, "bad health", |n| is_unhealthy(&n.health))
            .await?;
        assert!(bad.state.is_running());
        c.ask(&node, "healthy=yes").await?;
    }
    c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
        .await?;
    Ok(())
}

async fn one_bad_answer_below_the_threshold_is_none(c: &Context) -> Outcome {
    let mut check = http();
    check.threshold = 1000;
    let node = c.spawn(c.probe("n", &[])?.health(check)).await?;
    c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
        .await?;
    c.ask(&node, "healthy=no").await?;
    // A dozen bad answers, of a thousand.
    settle().await;
    assert_eq!(c.status(&node.node_id).await?.health, Health::Healthy);
    Ok(())
}

async fn a_check_can_ask_another_port(c: &Context) -> Outcome {
    let mut check = http();
    check.probe = HealthProbe::Http {
        path: "/healthz".to_owned(),
        port: Some("admin".to_owned()),
    };
    let node = c
        .spawn(c.probe("n", &[])?.named_port("admin", 0).health(check))
        .await?;
    c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
        .await?;
    Ok(())
}

async fn an_unhealthy_node_is_not_ended(c: &Context) -> Outcome {
    let config = c.probe("n", &["healthy=no"])?.health(http());
    let node = c.spawn(config.restart(quickly(mode(c)))).await?;
    c.wait(&node.node_id, "bad health", |n| is_unhealthy(&n.health))
        .await?;
    settle().await;
    let now = c.status(&node.node_id).await?;
    assert!(now.state.is_running(), "{:?}", now.state);
    c.booted(&node.node_id, 1).await?;
    Ok(())
}

/// A mode that the platform has, the liveliest first: it would restart an unhealthy node if any did.
fn mode(c: &Context) -> RestartMode {
    let modes = &c.survey().capabilities.restart_modes;
    modes.iter().next_back().copied().unwrap_or_default()
}

async fn a_node_that_does_not_run_has_no_health(c: &Context) -> Outcome {
    let node = c.spawn(c.probe("n", &[])?.health(http())).await?;
    c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
        .await?;
    c.platform().stop_node(&node.node_id).await?;
    let stopped = c.status(&node.node_id).await?.health;
    assert_ne!(
        stopped,
        Health::Healthy,
        "nobody is healthy who does not run"
    );
    Ok(())
}

async fn health_begins_anew_with_a_restart(c: &Context) -> Outcome {
    let config = c
        .probe("n", &["upto=1", "listen", "wait=1"])?
        .health(http());
    let node = c
        .spawn(config.restart(quickly(RestartMode::OnFailure)))
        .await?;
    c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
        .await?;
    c.ask(&node, "exit=1").await?;
    let again = c
        .wait(&node.node_id, "health again", |n| {
            n.restarts == 1 && n.health == Health::Healthy
        })
        .await?;
    assert_eq!(c.answers(&again).await?, 2);
    Ok(())
}

async fn health_is_asked_after_a_reopen(c: &Context) -> Outcome {
    let mut check = http();
    check.interval = Duration::from_millis(50);
    let node = c.spawn(c.probe("n", &[])?.health(check)).await?;
    c.wait(&node.node_id, "health", |n| n.health == Health::Healthy)
        .await?;
    c.away(c.ask(&node, "healthy=no")).await?;
    c.wait(&node.node_id, "bad health", |n| is_unhealthy(&n.health))
        .await?;
    Ok(())
}
