//! Ports: allocated by trying them, held by records.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind as Io,
    net::{IpAddr, TcpListener},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{Error, ErrorKind, NodeId, Result, SpawnConfig};

use crate::{
    error::{error, refused},
    install::random,
};

/// Which node of this owner has which port, whether it runs or not.
#[derive(Debug, Default)]
pub struct PortBook {
    held: Mutex<BTreeMap<u16, NodeId>>,
}

/// Ports that were taken for a node that is being made; given back unless it came to be.
pub struct Claim {
    book: Arc<PortBook>,
    id: NodeId,
    /// By the names in the request.
    pub ports: BTreeMap<String, u16>,
    kept: bool,
}

impl Claim {
    /// The node came to be.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            self.book.release(&self.id, self.ports.values());
        }
    }
}

impl PortBook {
    fn held(&self) -> MutexGuard<'_, BTreeMap<u16, NodeId>> {
        // The map is whole at every point where a panic could happen.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the ports of a node that exists.
    pub fn note<'a>(&self, id: &NodeId, ports: impl IntoIterator<Item = &'a u16>) {
        let mut held = self.held();
        for port in ports {
            held.insert(*port, id.clone());
        }
    }

    /// Gives the ports of a node back.
    pub fn release<'a>(&self, id: &NodeId, ports: impl IntoIterator<Item = &'a u16>) {
        let mut held = self.held();
        for port in ports {
            if held.get(port) == Some(id) {
                held.remove(port);
            }
        }
    }

    /// Takes the ports that a request names, and allocates those of 0. They are tried where they are `here`, on this host; elsewhere
    /// another has to say which are taken.
    ///
    /// # Errors
    /// `PortInUse` with the holder; `Exhausted` when the range is used up; `InvalidConfig` for an address that is not
    /// this host's.
    pub fn claim(
        self: &Arc<Self>,
        config: &SpawnConfig,
        range: RangeInclusive<u16>,
        here: bool,
    ) -> Result<Claim> {
        let mut claim = Claim {
            book: Arc::clone(self),
            id: config.node_id.clone(),
            ports: BTreeMap::new(),
            kept: false,
        };
        let bind = config.bind_address;
        let probe = |port: u16| match here {
            true => probe(bind, port),
            false => Ok(()),
        };
        // The named ones first, so that none of them is allocated to another name.
        for (name, port) in config.ports.iter().filter(|it| *it.1 != 0) {
            self.hold(*port, &config.node_id)?;
            claim.ports.insert(name.clone(), *port);
            probe(*port)?;
        }
        for (name, _) in config.ports.iter().filter(|it| *it.1 == 0) {
            let port = self.allocate(&config.node_id, range.clone(), probe)?;
            claim.ports.insert(name.clone(), port);
        }
        Ok(claim)
    }

    fn hold(&self, port: u16, id: &NodeId) -> Result<()> {
        let mut held = self.held();
        match held.get(&port) {
            Some(holder) => Err(in_use(port, &format!("the node `{holder}`"))),
            None => {
                held.insert(port, id.clone());
                Ok(())
            }
        }
    }

    fn allocate(
        &self,
        id: &NodeId,
        range: RangeInclusive<u16>,
        probe: impl Fn(u16) -> Result<()>,
    ) -> Result<u16> {
        let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
        let size = last.saturating_sub(first) + 1;
        // From a place of chance on, so that agents that do not know of each other seldom try the same one.
        let start = u32::from_le_bytes(random()?) % size;
        for step in 0..size {
            let Ok(port) = u16::try_from(first + (start + step) % size) else {
                continue;
            };
            if self.hold(port, id).is_err() {
                continue;
            }
            match probe(port) {
                Ok(()) => return Ok(port),
                Err(e) => {
                    self.release(id, [&port]);
                    if e.kind() == ErrorKind::InvalidConfig {
                        return Err(e);
                    }
                }
            }
        }
        Err(error(
            ErrorKind::Exhausted,
            format!("every port from {first} to {last} is taken"),
        )
        .with_hint(
            "Remove nodes that are not needed, or widen `port_range` in the agent's settings.",
        ))
    }
}

/// Binds the port for a moment.
///
/// # Errors
/// `PortInUse` with the holder, where it can be known.
pub fn probe(bind: IpAddr, port: u16) -> Result<()> {
    match TcpListener::bind((bind, port)) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == Io::AddrInUse => Err(in_use(
            port,
            &holder(port).unwrap_or_else(|| "a program that cannot be seen from here".to_owned()),
        )),
        Err(e) if e.kind() == Io::AddrNotAvailable => Err(error(
            ErrorKind::InvalidConfig,
            format!("`{bind}` is not an address of this host"),
        )
        .with_hint("Set `bind_address` to one of `ip addr`, or leave it out for loopback.")),
        Err(e) if e.kind() == Io::PermissionDenied => Err(error(
            ErrorKind::PermissionDenied,
            format!("the agent's user may not bind the port {port}: it is below {}", first_free()),
        )
        .with_source(e)
        .with_hint(
            "Choose a higher port, run the agent as root, or lower the host's `net.ipv4.ip_unprivileged_port_start`.",
        )),
        Err(e) => Err(refused(format!("bind the port {port} of {bind}"), e)),
    }
}

/// The first port that takes no privilege (ip(7)).
fn first_free() -> u16 {
    const USUAL: u16 = 1024;
    fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|it| it.trim().parse().ok())
        .unwrap_or(USUAL)
}

fn in_use(port: u16, holder: &str) -> Error {
    error(
        ErrorKind::PortInUse,
        format!("the port {port} is taken by {holder}"),
    )
    .with_hint("Choose another port, or 0 to have a free one allocated.")
}

/// Who listens on the port, as far as it may be seen.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|it| fs::read_to_string(it).ok())
        .flat_map(|table| listeners(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|it| it.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let holds = fds.flatten().any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|to| inodes.iter().any(|it| to.as_os_str() == it.as_str()))
        });
        if holds {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            return Some(format!(
                "process {pid} (`{}`)",
                name.trim_end().escape_debug()
            ));
        }
    }
    None
}

/// The inodes of sockets in a `/proc/net/tcp` table that listen on the port (proc_pid_net(5)).
fn listeners(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let here = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTEN;
            here.then(|| fields.get(9)?.parse().ok()).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use grid_platform_api::Program;

    use super::*;

    fn config(id: &str, port: u16) -> SpawnConfig {
        SpawnConfig::builder(id, Program::binary("/a", [""; 0]))
            .port(port)
            .build()
            .unwrap()
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let book = Arc::new(PortBook::default());
        let error = book.claim(&config("a", port), 1..=1, true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::PortInUse);
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains(&pid), "{error}");
        drop(listener);
        let claim = book.claim(&config("a", port), 1..=1, true).unwrap();
        let error = book.claim(&config("b", port), 1..=1, true).err().unwrap();
        assert!(error.to_string().contains("node `a`"), "{error}");
        drop(claim);
        book.claim(&config("b", port), 1..=1, true).unwrap().keep();
        assert!(book.claim(&config("a", port), 1..=1, true).is_err());
    }

    #[test]
    fn a_port_of_another_host_is_not_tried_on_this_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let book = Arc::new(PortBook::default());
        let named = book.claim(&config("a", port), 1..=1, false).unwrap();
        assert_eq!(named.ports["main"], port);
        // What this owner has there is known.
        assert!(book.claim(&config("b", port), 1..=1, false).is_err());
        drop(named);
        let allocated = book.claim(&config("a", 0), port..=port, false).unwrap();
        assert_eq!(allocated.ports["main"], port);
    }

    #[test]
    fn allocation_passes_over_what_is_taken_and_says_when_nothing_is_left() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let range = port..=port.saturating_add(1);
        let book = Arc::new(PortBook::default());
        if let Ok(claim) = book.claim(&config("a", 0), range.clone(), true) {
            assert_ne!(claim.ports["main"], port);
            claim.keep();
        }
        let error = book.claim(&config("b", 0), range, true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn listening_sockets_are_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   1: 0100007F:1F90 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        assert_eq!(listeners(table, 8080), [4711]);
        assert_eq!(listeners(table, 8081), [0_u64; 0]);
    }
}
