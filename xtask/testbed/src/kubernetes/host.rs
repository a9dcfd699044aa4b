//! What a cluster changes on its host, and how that is taken back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::settings::{BRIDGE, GATEWAY, NODE_ADDRESS, PODS, SERVICES};
use crate::network::ip;
use crate::proc;

/// Settings of the kernel that the kubelet, kube-proxy or the network's plugin change.
const SYSCTLS: [&str; 9] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
];

/// Directories that the kubelet and the network's library make, and nobody can have elsewhere.
const PLACES: [&str; 6] = [
    "/var/log/pods",
    "/var/log/containers",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/run/kubernetes",
    "/run/containerd",
];

/// What its groups are called, in each hierarchy.
const GROUP: &str = "kubepods";

/// Notes what is as yet unchanged, for [`restore`].
pub(super) fn remember(dir: &Path) -> Result<(), String> {
    let file = dir.join("host.json");
    if file.exists() {
        return Ok(());
    }
    let read = |it: &&str| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(it)).ok()?;
        Some(((*it).to_owned(), value.trim().into()))
    };
    let before: serde_json::Map<_, _> = SYSCTLS.iter().filter_map(read).collect();
    let absent: Vec<_> = PLACES.iter().filter(|it| !Path::new(it).exists()).collect();
    let text = serde_json::json!({ "sysctls": before, "absent": absent }).to_string();
    fs::write(&file, text).map_err(|error| format!("cannot write `{}`: {error}", file.display()))
}

/// Puts back what [`remember`] has noted.
pub(super) fn restore(dir: &Path) {
    let text = fs::read_to_string(dir.join("host.json")).unwrap_or_default();
    let noted: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    for (name, value) in noted["sysctls"].as_object().into_iter().flatten() {
        let file = Path::new("/proc/sys").join(name);
        let value = value.as_str().unwrap_or_default();
        // One that was not changed is not touched.
        if fs::read_to_string(&file).is_ok_and(|now| now.trim() != value) {
            let _ = fs::write(file, value);
        }
    }
    for place in noted["absent"].as_array().into_iter().flatten() {
        let place = place.as_str().unwrap_or_default();
        // A container engine that came meanwhile has things of its own in there.
        let is_ours = place != "/run/containerd" || is_empty_below(Path::new(place));
        if PLACES.contains(&place) && is_ours {
            let _ = fs::remove_dir_all(place);
        }
    }
}

/// Whether there is nothing in it but directories and sockets that nobody listens at.
fn is_empty_below(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|it| it.path()).all(|it| {
        if it.is_dir() {
            return is_empty_below(&it);
        }
        let refused = std::os::unix::net::UnixStream::connect(&it);
        refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

/// Whether a cluster can be here: there is one kubelet's place on a host.
pub(super) fn is_free(own: Option<u32>) -> Result<(), String> {
    let others = proc::processes(|it| it.name == "kubelet" && Some(it.pid) != own);
    if let Some(other) = others.first() {
        return Err(format!(
            "another kubelet runs on this host, as process {}",
            other.pid
        ));
    }
    Ok(())
}

/// Makes the network of pods, and the node's address.
pub(super) fn connect() -> Result<(), String> {
    let shown = ip(&["-o", "-4", "addr", "show"])?;
    let others: Vec<&str> = shown
        .lines()
        .filter(|it| it.contains(" 10.214.") && !it.contains(BRIDGE) && !it.contains(NODE_ADDRESS))
        .collect();
    if !others.is_empty() {
        return Err(format!("10.214.0.0/16 is taken: {}", others.join("; ")));
    }
    if !shown.contains(&format!(" {NODE_ADDRESS}/32 ")) {
        ip(&["addr", "add", &format!("{NODE_ADDRESS}/32"), "dev", "lo"])?;
    }
    // It may be there without an address, if the one who made it was killed.
    let _ = ip(&["link", "add", "name", BRIDGE, "type", "bridge"]);
    ip(&["addr", "replace", GATEWAY, "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"])?;
    // Whatever ways the host has to elsewhere: what is for services stays here, and comes from the bridge's address.
    ip(&["route", "replace", SERVICES, "dev", BRIDGE])?;
    Ok(())
}

/// Takes the network away, with kube-proxy's rules.
pub(super) fn disconnect() {
    let _ = ip(&["link", "delete", BRIDGE]);
    let _ = ip(&["addr", "delete", &format!("{NODE_ADDRESS}/32"), "dev", "lo"]);
    for program in ["iptables", "ip6tables"] {
        for table in ["nat", "filter", "mangle"] {
            clear(program, table);
        }
    }
    // Connections to the pods that the kernel still knows of would lead others' packets astray.
    let _ = Command::new("conntrack")
        .args(["--delete", "--orig-dst", PODS])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Deletes kube-proxy's chains of a table, and the rules that lead there.
fn clear(program: &str, table: &str) {
    let rules = |args: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-w", "5", "-t", table]).args(args);
        let output = command.stderr(Stdio::null()).output();
        let bytes = output.map(|it| it.stdout).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let all = rules(&["-S"]);
    let chains: Vec<&str> = all
        .lines()
        .filter_map(|it| it.strip_prefix("-N "))
        .filter(|it| it.starts_with("KUBE-"))
        .collect();
    for line in all.lines() {
        if let Some(rule) = line.strip_prefix("-A ")
            && !rule.starts_with("KUBE-")
            && rule.contains("-j KUBE-")
        {
            let words = unquote(rule);
            let mut args = vec!["-D"];
            args.extend(words.iter().map(String::as_str));
            rules(&args);
        }
    }
    for verb in ["-F", "-X"] {
        for chain in &chains {
            rules(&[verb, chain]);
        }
    }
}

/// The words of a line that has some of them in double quotes.
fn unquote(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(number, part)| {
            if number % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}

/// Kills every process of every pod, with what holds it, and removes their groups.
pub(super) fn end_pods(dir: &Path) -> Result<(), String> {
    let is_its = |it: &proc::Process| {
        it.is_in_group(&format!("/{GROUP}/"))
            || it.name.starts_with("containerd-shim") && it.mentions(dir)
    };
    // One may start another while it is being ended; a few rounds find that too.
    for _ in 0..5 {
        let left = proc::processes(is_its);
        if left.is_empty() {
            break;
        }
        for process in &left {
            process.signal(Signal::KILL);
        }
        for process in &left {
            process.wait(Duration::from_secs(5));
        }
    }
    let left = proc::processes(is_its);
    if !left.is_empty() {
        return Err(format!("processes of pods are left: {left:?}"));
    }
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let _ = remove_groups(&Path::new(root).join(GROUP));
        for hierarchy in fs::read_dir(root).into_iter().flatten().flatten() {
            let _ = remove_groups(&hierarchy.path().join(GROUP));
        }
    }
    Ok(())
}

/// Removes a group and those below it.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    let below: Vec<PathBuf> = fs::read_dir(group)?
        .flatten()
        .filter(|it| it.file_type().is_ok_and(|it| it.is_dir()))
        .map(|it| it.path())
        .collect();
    for each in below {
        remove_groups(&each)?;
    }
    fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_taken_apart() {
        assert_eq!(
            unquote("OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES"),
            [
                "OUTPUT",
                "-m",
                "comment",
                "--comment",
                "kubernetes service portals",
                "-j",
                "KUBE-SERVICES"
            ]
        );
    }
}
