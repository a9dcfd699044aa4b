//! Health: the request's own check, asked at the published port, or else what the image's HEALTHCHECK says.
//!
//! The engine asks a HEALTHCHECK itself and tells what came of it with the container's state. A check of the request is asked from
//! here, as the process platform asks it, so that the same request means the same on both. A connection is not enough to know that a
//! program serves: engines hold published ports open themselves, and close what nobody in the container takes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use grid_platform_api::{Health, HealthCheck, HealthProbe, MAIN_PORT, Timestamp};
use grid_platform_host::health::{Judge, ask, reachable};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    nodes::{Node, Registry, Situation},
    platform::Inner,
    translate::Phase,
};

/// How long a connection has to stay open where nobody can look into the container.
const HELD: Duration = Duration::from_millis(500);

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
    let record = node.now().record;
    let Some(check) = record.config.health.clone() else {
        return;
    };
    let (HealthProbe::Tcp { port } | HealthProbe::Http { port, .. }) = &check.probe;
    let name = port.as_deref().unwrap_or(MAIN_PORT);
    let Some(port) = record.ports.get(name).copied() else {
        return;
    };
    let asker = Asker {
        host: host(
            &inner.engine.host,
            record.config.bind_address,
            inner.config.advertise_address.as_deref(),
        ),
        port,
        inside: record
            .inside
            .get(name)
            .copied()
            .filter(|_| inner.facts.same_host),
        check,
    };
    tokio::spawn(watch(
        Arc::downgrade(&inner.registry),
        Arc::clone(node),
        asker,
    ));
}

async fn watch(registry: Weak<Registry>, node: Arc<Node>, asker: Asker) {
    let mut news = node.subscribe();
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
            () = asker.ask_on(&registry, &node, current) => return,
            _ = news.wait_for(|it| it.removed || run(it) != Some(current)) => {}
        }
    }
}

/// Who asks, and where.
struct Asker {
    check: HealthCheck,
    host: String,
    port: u16,
    /// The port as the program binds it, where this host sees the program's sockets.
    inside: Option<u16>,
}

impl Asker {
    /// Asks until it is dropped or the platform is.
    async fn ask_on(&self, registry: &Weak<Registry>, node: &Node, current: Run) {
        let tell = |health: Health| {
            let registry = registry.upgrade()?;
            registry.update(node, |it| {
                if run(it) == Some(current) {
                    it.health = health;
                }
            });
            Some(())
        };
        let limit = self.check.timeout;
        let mut judge = Judge::new(&self.check, Instant::now());
        if tell(Health::Starting).is_none() {
            return;
        }
        loop {
            let answer = timeout(limit, self.ask(current.pid))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
            let (health, wait) = judge.hear(answer, Instant::now());
            if tell(health).is_none() {
                return;
            }
            sleep(wait).await;
        }
    }

    async fn ask(&self, pid: Option<u32>) -> Result<(), String> {
        let is_tcp = matches!(self.check.probe, HealthProbe::Tcp { .. });
        let listens = match (self.inside, pid) {
            (Some(port), Some(pid)) if is_tcp => listens(pid, port).await,
            _ => None,
        };
        if listens == Some(false) {
            return Err(format!("nothing listens at port {} yet", self.port));
        }
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|e| format!("cannot find `{}`: {e}", self.host))?;
        let mut last = Err(format!("`{}` has no address", self.host));
        for address in found {
            last = match is_tcp && listens.is_none() {
                true => hold(address).await,
                false => ask(&self.check.probe, address).await,
            };
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

/// Connects, and sees that the connection is not closed at once.
async fn hold(address: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|e| format!("cannot connect to {address}: {e}"))?;
    match timeout(HELD, stream.read(&mut [0])).await {
        Ok(Ok(0)) => Err(format!("{address} closes connections at once")),
        Ok(Err(e)) => Err(format!("{address} closes connections at once: {e}")),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Whether a socket listens at the port in the network of that process; `None` where that cannot be told.
async fn listens(pid: u32, port: u16) -> Option<bool> {
    let mut seen = None;
    for table in ["tcp", "tcp6"] {
        let table = tokio::fs::read_to_string(format!("/proc/{pid}/net/{table}")).await;
        if let Ok(table) = table {
            seen = Some(seen == Some(true) || has_listener(&table, port));
        }
    }
    seen
}

/// Reads a table of sockets, as proc_net_tcp of the kernel's documentation has it.
fn has_listener(table: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|it| it.rsplit_once(':'));
        let at = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        at == Some(port) && fields.nth(1) == Some(LISTEN)
    })
}

/// Where ports are that are published at `bind`: on this host, or where the engine is, which may have a better name.
fn host(engine: &str, bind: IpAddr, advertised: Option<&str>) -> String {
    match over_network(engine) {
        Some(host) if bind.is_unspecified() => advertised.unwrap_or(host).to_owned(),
        _ => reachable(bind).to_string(),
    }
}

/// The host of an engine that is spoken to over a network.
fn over_network(engine: &str) -> Option<&str> {
    let (scheme, rest) = engine.split_once("://")?;
    let (host, _) = rest.split('/').next()?.rsplit_once(':')?;
    let is_network = matches!(scheme, "tcp" | "http" | "https");
    is_network.then(|| host.trim_start_matches('[').trim_end_matches(']'))
}

/// Whether ports that are published at `bind` are within the engine's host alone, and that is another one than this.
pub(crate) fn is_out_of_reach(engine: &str, bind: IpAddr) -> bool {
    let is_here =
        |host: &str| host == "localhost" || host.parse().is_ok_and(|it: IpAddr| it.is_loopback());
    bind.is_loopback() && over_network(engine).is_some_and(|it| !is_here(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_tables_of_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n   \
             0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000\n   \
             1: 0100007F:1F91 0100007F:C001 01 00000000:00000000 00:00000000\n";
        assert!(has_listener(table, 8080));
        assert!(
            !has_listener(table, 8081),
            "it is connected, and does not listen"
        );
        assert!(!has_listener(table, 8082));
        let six = "   0: 00000000000000000000000000000000:1F92 00000000000000000000000000000000:0000 0A\n";
        assert!(has_listener(six, 8082));
        assert!(!has_listener("", 8082));
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_at_once_is_no_answer() {
        let own = std::process::id();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        assert!(hold(address).await.unwrap_err().contains("cannot connect"));
        assert_eq!(listens(own, address.port()).await, Some(false));
        let listener = socket.listen(8).unwrap();
        assert_eq!(listens(own, address.port()).await, Some(true));
        let closing = async { drop(listener.accept().await.unwrap()) };
        let (held, ()) = tokio::join!(hold(address), closing);
        assert!(held.unwrap_err().contains("closes connections at once"));
        // Accepted by the kernel, and left open.
        hold(address).await.unwrap();
        assert_eq!(listens(u32::MAX, address.port()).await, None);
    }

    #[test]
    fn a_port_is_asked_where_it_is_published() {
        let check = |engine: &str, bind: &str, expect: &str| {
            assert_eq!(
                host(engine, bind.parse().unwrap(), None),
                expect,
                "{engine} {bind}"
            );
        };
        let named = host("tcp://e:1", "0.0.0.0".parse().unwrap(), Some("db.example"));
        assert_eq!(named, "db.example");
        let alone = |engine, bind: &str| is_out_of_reach(engine, bind.parse().unwrap());
        assert!(alone("tcp://db.example:2376", "127.0.0.1"));
        assert!(alone("tcp://10.0.0.1:2376", "::1"));
        assert!(!alone("tcp://db.example:2376", "0.0.0.0"));
        // Most likely a tunnel, or this host.
        assert!(!alone("tcp://localhost:2376", "127.0.0.1"));
        assert!(!alone("tcp://[::1]:2376", "127.0.0.1"));
        assert!(!alone("unix:///var/run/docker.sock", "127.0.0.1"));
        check("unix:///var/run/docker.sock", "127.0.0.1", "127.0.0.1");
        check("unix:///var/run/docker.sock", "0.0.0.0", "127.0.0.1");
        check("tcp://db.example:2376", "0.0.0.0", "db.example");
        check("tcp://[fd00::1]:2376", "::", "fd00::1");
        check("tcp://db.example:2376", "10.0.0.1", "10.0.0.1");
    }
}
