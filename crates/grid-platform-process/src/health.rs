//! Health checks.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
};

use grid_platform_api::{HealthCheck, HealthProbe, MAIN_PORT};
use grid_platform_host::health::{Judge, ask, reachable};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    node::{Node, Registry, Situation},
    shared::record::State,
    translate::Shim,
};

/// Which run of which start is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    pid: u32,
    start: u64,
}

fn run(situation: &Situation, generation: u64) -> Option<Run> {
    let record = situation.record()?;
    let runs = situation.shim == Shim::Alive
        && record.state == State::Running
        && situation.intent.generation == generation;
    runs.then_some(Run {
        pid: record.pid,
        start: record.pid_start,
    })
}

/// Asks after the node's health through all runs of one start.
pub(crate) async fn watch(registry: Weak<Registry>, node: Arc<Node>, generation: u64) {
    let mut news = node.subscribe();
    loop {
        let over = |it: &Situation| {
            it.removed || it.intent.generation != generation || it.shim == Shim::Gone
        };
        let Ok(situation) = news
            .wait_for(|it| over(it) || run(it, generation).is_some())
            .await
            .map(|it| it.clone())
        else {
            return;
        };
        if over(&situation) {
            return;
        }
        let Some(current) = run(&situation, generation) else {
            continue;
        };
        tokio::select! {
            () = ask_on(&registry, &node, &situation, current, generation) => return,
            _ = news.wait_for(|it| run(it, generation) != Some(current)) => {}
        }
    }
}

/// Asks until it is dropped or the platform is.
async fn ask_on(
    registry: &Weak<Registry>,
    node: &Node,
    situation: &Situation,
    current: Run,
    generation: u64,
) {
    let Some((check, address)) = target(situation) else {
        return;
    };
    let mut judge = Judge::new(check, Instant::now());
    loop {
        let answer = timeout(check.timeout, ask(&check.probe, address))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)));
        let (health, wait) = judge.hear(answer, Instant::now());
        let Some(registry) = registry.upgrade() else {
            return;
        };
        registry.update(node, |it| {
            if run(it, generation) == Some(current) {
                it.health = health;
            }
        });
        drop(registry);
        sleep(wait).await;
    }
}

fn target(situation: &Situation) -> Option<(&HealthCheck, SocketAddr)> {
    let config = &situation.intent.config;
    let check = config.health.as_ref()?;
    let (HealthProbe::Tcp { port } | HealthProbe::Http { port, .. }) = &check.probe;
    let port = situation
        .intent
        .ports
        .get(port.as_deref().unwrap_or(MAIN_PORT))?;
    Some((
        check,
        SocketAddr::new(reachable(config.bind_address), *port),
    ))
}
