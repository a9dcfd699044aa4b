//! Health: the request's own check, asked at the published port, or else what the image's HEALTHCHECK says.
//!
//! The engine asks a HEALTHCHECK itself and tells what came of it with the container's state. A check of the request is asked from
//! here, as the process platform asks it, so that the same request means the same on both.

use std::{
    net::IpAddr,
    sync::{Arc, Weak},
};

use grid_platform_api::{Health, HealthCheck, HealthProbe, MAIN_PORT, Timestamp};
use grid_platform_host::health::{Judge, ask, reachable};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    nodes::{Node, Registry, Situation},
    platform::Inner,
    translate::Phase,
};

/// Which run of a container is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    pid: Option<u32>,
    started_at: Option<Timestamp>,
}

/// The run that can answer now: a paused one cannot.
fn run(situation: &Situation) -> Option<Run> {
    let observed = &situation.observed;
    (observed.phase == Phase::Running).then_some(Run {
        pid: observed.pid,
        started_at: observed.started_at,
    })
}

/// Asks after a node's health through all its runs, until it is removed or the platform is dropped.
pub(crate) fn attend(inner: &Arc<Inner>, node: &Arc<Node>) {
    if node.now().record.config.health.is_some() {
        let registry = Arc::downgrade(&inner.registry);
        let engine = inner.engine.host.clone();
        tokio::spawn(watch(registry, Arc::clone(node), engine));
    }
}

async fn watch(registry: Weak<Registry>, node: Arc<Node>, engine: String) {
    let mut news = node.subscribe();
    let record = Arc::clone(&news.borrow().record);
    let Some(check) = &record.config.health else {
        return;
    };
    let (HealthProbe::Tcp { port } | HealthProbe::Http { port, .. }) = &check.probe;
    let port = record.ports.get(port.as_deref().unwrap_or(MAIN_PORT));
    let Some(port) = port.copied() else {
        return;
    };
    let host = host(&engine, record.config.bind_address);
    loop {
        let ready = news.wait_for(|it| it.removed || run(it).is_some()).await;
        // Without a sender the platform is closed.
        let Ok(current) = ready.map(|it| run(&it).filter(|_| !it.removed)) else {
            return;
        };
        let Some(current) = current else {
            return;
        };
        tokio::select! {
            () = ask_on(&registry, &node, check, (&host, port), current) => return,
            _ = news.wait_for(|it| it.removed || run(it) != Some(current)) => {}
        }
    }
}

/// Asks until it is dropped or the platform is.
async fn ask_on(
    registry: &Weak<Registry>,
    node: &Node,
    check: &HealthCheck,
    address: (&str, u16),
    current: Run,
) {
    let tell = |health: Health| {
        let registry = registry.upgrade()?;
        registry.update(node, |it| {
            if run(it) == Some(current) {
                it.health = health;
            }
        });
        Some(())
    };
    let mut judge = Judge::new(check, Instant::now());
    if tell(Health::Starting).is_none() {
        return;
    }
    loop {
        let answer = timeout(check.timeout, ask_at(&check.probe, address))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", check.timeout)));
        let (health, wait) = judge.hear(answer, Instant::now());
        if tell(health).is_none() {
            return;
        }
        sleep(wait).await;
    }
}

async fn ask_at(probe: &HealthProbe, (host, port): (&str, u16)) -> Result<(), String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|e| format!("cannot find `{host}`: {e}"))?;
    let mut last = Err(format!("`{host}` has no address"));
    for address in found {
        last = ask(probe, address).await;
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Where ports are that are published at `bind`: on this host, or where the engine is.
fn host(engine: &str, bind: IpAddr) -> String {
    let over_network = engine
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "tcp" | "http" | "https"))
        .and_then(|(_, rest)| rest.split('/').next()?.rsplit_once(':'))
        .map(|(host, _)| host.trim_start_matches('[').trim_end_matches(']'));
    match over_network {
        Some(host) if bind.is_unspecified() => host.to_owned(),
        _ => reachable(bind).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_asked_where_it_is_published() {
        let check = |engine: &str, bind: &str, expect: &str| {
            assert_eq!(
                host(engine, bind.parse().unwrap()),
                expect,
                "{engine} {bind}"
            );
        };
        check("unix:///var/run/docker.sock", "127.0.0.1", "127.0.0.1");
        check("unix:///var/run/docker.sock", "0.0.0.0", "127.0.0.1");
        check("tcp://db.example:2376", "0.0.0.0", "db.example");
        check("tcp://[fd00::1]:2376", "::", "fd00::1");
        check("tcp://db.example:2376", "10.0.0.1", "10.0.0.1");
    }
}
