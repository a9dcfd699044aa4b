//! A network of an engine's own, in a range that nothing on this host has.

use std::process::Command;

/// The first two numbers of the addresses.
const RANGE: &str = "10.213";

/// Makes the bridge, unless it is there, and gives its network.
pub(crate) fn ensure(bridge: &str) -> Result<String, String> {
    let shown = ip(&["-o", "-4", "addr", "show"])?;
    if let Some(network) = of_bridge(&shown, bridge) {
        return Ok(network);
    }
    let network = choose(bridge)?;
    let gateway = network.replace(".0/24", ".1/24");
    // It may be there without an address, if the one who made it was killed.
    let _ = ip(&["link", "add", "name", bridge, "type", "bridge"]);
    ip(&["addr", "add", &gateway, "dev", bridge])?;
    ip(&["link", "set", bridge, "up"])?;
    Ok(network)
}

/// A network that no interface of this host has, by the name the same each time if it can be.
pub(crate) fn choose(bridge: &str) -> Result<String, String> {
    let shown = ip(&["-o", "-4", "addr", "show"])?;
    if let Some(network) = of_bridge(&shown, bridge) {
        return Ok(network);
    }
    let routes = ip(&["-o", "-4", "route", "show"])?;
    let begin = bridge
        .bytes()
        .fold(0_u8, |sum, it| sum.wrapping_mul(31).wrapping_add(it));
    (0..=u8::MAX)
        .map(|it| format!("{RANGE}.{}", begin.wrapping_add(it)))
        .find(|it| {
            let part = format!("{it}.");
            !shown.contains(&part) && !routes.contains(&part)
        })
        .map(|it| format!("{it}.0/24"))
        .ok_or_else(|| format!("all networks of {RANGE}.0.0/16 are taken"))
}

/// Deletes the bridge, if it is there.
pub(crate) fn remove(bridge: &str) {
    let _ = ip(&["link", "delete", bridge]);
}

/// Podman's default network, as its file.
pub(crate) fn podman(bridge: &str, network: &str) -> String {
    serde_json::json!({
        "name": "podman",
        "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "bridge",
        "network_interface": bridge,
        "created": "2026-01-01T00:00:00Z",
        "subnets": [{ "subnet": network, "gateway": network.replace(".0/24", ".1") }],
        "ipv6_enabled": false,
        "internal": false,
        "dns_enabled": false,
        "ipam_options": { "driver": "host-local" },
    })
    .to_string()
}

/// The network of an interface, of what `ip -o -4 addr show` shows.
fn of_bridge(shown: &str, bridge: &str) -> Option<String> {
    let line = shown
        .lines()
        .find(|it| it.split_whitespace().nth(1) == Some(bridge))?;
    let address = line.split_whitespace().nth(3)?.split('/').next()?;
    let (network, _) = address.rsplit_once('.')?;
    Some(format!("{network}.0/24"))
}

pub(crate) fn ip(args: &[&str]) -> Result<String, String> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .map_err(|error| format!("cannot run `ip`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("`ip {}`: {}", args.join(" "), why.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridges_network_is_read() {
        let shown = "1: lo    inet 127.0.0.1/8 scope host lo\n\
            7: sgab    inet 10.213.7.1/24 scope global sgab\\       valid_lft forever\n";
        assert_eq!(of_bridge(shown, "sgab"), Some("10.213.7.0/24".into()));
        assert_eq!(of_bridge(shown, "sga"), None);
        assert_eq!(of_bridge("", "sgab"), None);
    }
}
