//! Ports and networks: which port a program binds within its container, and at which one of the host it is published.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use grid_platform_api::MAIN_PORT;
pub(crate) use grid_platform_host::health::reachable;

use crate::images::Image;

/// The address that a program binds within its container: the container's own network has no other way in, whatever the
/// address of the host is at which its ports are published.
pub(crate) const BIND: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The ports that a program binds within its container, for those that clients reach. The main one is the only TCP port that
/// its image exposes, since such a program may know no other; every other has the same number on both sides.
pub(crate) fn inside(outside: &BTreeMap<String, u16>, image: &Image) -> BTreeMap<String, u16> {
    let mut inside = outside.clone();
    if let [only] = image.exposed_tcp.as_slice()
        && !outside
            .iter()
            .any(|(name, port)| name != MAIN_PORT && port == only)
        && let Some(main) = inside.get_mut(MAIN_PORT)
    {
        *main = *only;
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposed_port_is_the_main_one() {
        let check = |exposed: &[u16], expect: [u16; 2]| {
            let image = Image {
                exposed_tcp: exposed.to_vec(),
                ..Image::default()
            };
            let ports = [("main", 20_001), ("peer", 7000)].map(|(k, v)| (k.to_owned(), v));
            let found = inside(&ports.into(), &image);
            assert_eq!([found["main"], found["peer"]], expect, "{exposed:?}");
        };
        check(&[], [20_001, 7000]);
        check(&[6379], [6379, 7000]);
        check(&[80, 443], [20_001, 7000]);
        // It is another's already.
        check(&[7000], [20_001, 7000]);
        assert!(inside(&BTreeMap::new(), &Image::default()).is_empty());
    }
}
