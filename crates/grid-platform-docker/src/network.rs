//! Ports and networks: which port a program binds within its container, and at which one of the host it is published.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address at which this host reaches what is bound to `bind`.
pub(crate) fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
