//! Whether nodes can run: the engine, its version, the rights, the images, and the mend of what is missing.

use std::sync::Arc;

use bollard::models::{SystemInfo, SystemVersion};
use grid_platform_api::{Check, CheckStatus, Error, PlatformInfo, Result};

use crate::{
    config::{Allow, DockerConfig, Pull},
    engine::{CALL, Engine},
    error::PLATFORM,
    facts,
    images::Images,
    platform::Inner,
    storage::Storage,
};

/// Images of the allow-list that are looked for; a list may be long, and each is a call.
const IMAGES: usize = 20;

/// [`Platform::probe`](grid_platform_api::Platform::probe).
pub(crate) async fn look(inner: &Arc<Inner>) -> Result<PlatformInfo> {
    let found = examine(&inner.engine, &inner.config, &inner.images).await;
    let mut checks = found.checks;
    checks.push(storage(&inner.storage));
    Ok(PlatformInfo {
        platform: PLATFORM.to_owned(),
        version: found.version,
        owner: inner.install.owner.clone(),
        capabilities: inner.capabilities(),
        checks,
    })
}

/// Where data is.
fn storage(storage: &Storage) -> Check {
    let (status, detail, hint) = match storage {
        Storage::Shared(_) => (
            CheckStatus::Ok,
            "the engine sees the agent's directories: nodes have their data there".to_owned(),
            None,
        ),
        Storage::Volumes(why) => (
            CheckStatus::Degraded,
            format!("nodes have their data in volumes of the engine: {why}"),
            Some("Run the agent as root on the engine's host, with its directories under the same paths, for data in directories.".to_owned()),
        ),
    };
    Check {
        name: "storage".to_owned(),
        status,
        detail,
        hint,
    }
}

/// What was found of an engine.
pub(crate) struct Found {
    /// The engine's name and version, as people know it.
    pub(crate) version: Option<String>,
    /// What was looked at, in the order in which it matters. Behind an engine that cannot be reached there is nothing.
    pub(crate) checks: Vec<Check>,
}

/// Looks at an engine and at what nodes need of it. Changes nothing.
pub(crate) async fn examine(engine: &Engine, config: &DockerConfig, images: &Images) -> Found {
    let mut checks = Vec::new();
    let asked = async {
        let api = engine.version().await?;
        let version = engine
            .call(
                "ask the engine for its version",
                CALL,
                engine.docker.version(),
            )
            .await?;
        let info = engine
            .call("ask the engine about itself", CALL, engine.docker.info())
            .await?;
        Ok::<_, Error>((api, version, info))
    };
    let (api, version, info) = match asked.await {
        Ok(found) => found,
        Err(error) => {
            checks.push(failed("engine", error));
            return Found {
                version: None,
                checks,
            };
        }
    };
    let name = name(&version);
    checks.push(ok(
        "engine",
        format!("{name} at `{}`, API {api}", engine.host),
    ));
    if let Some(check) = system(&info) {
        checks.push(check);
    }
    if engine.is_plain_beyond_host() {
        checks.push(degraded(
            "connection",
            format!(
                "what goes to `{}`, secrets too, can be read and changed on its way",
                engine.host
            ),
            "Start the engine with `--tlsverify`, and set `docker.cert_path` to the certificates.",
        ));
    }
    checks.push(limits(&info));
    checks.push(restarts(&info));
    if let Some(network) = &config.network {
        checks.push(of_network(engine, network).await);
    }
    checks.extend(of_images(engine, config, images).await);
    Found {
        version: Some(name),
        checks,
    }
}

fn check(name: &str, status: CheckStatus, detail: String, hint: Option<&str>) -> Check {
    Check {
        name: name.to_owned(),
        status,
        detail,
        hint: hint.map(str::to_owned),
    }
}

fn ok(name: &str, detail: String) -> Check {
    check(name, CheckStatus::Ok, detail, None)
}

fn degraded(name: &str, detail: String, hint: &str) -> Check {
    check(name, CheckStatus::Degraded, detail, Some(hint))
}

fn failed(name: &str, error: Error) -> Check {
    let report = error.to_report();
    let words: Vec<_> = std::iter::once(report.message)
        .chain(report.causes)
        .collect();
    let hint = report.hint.as_deref();
    check(name, CheckStatus::Failed, words.join(": "), hint)
}

/// What the engine calls itself, with its version.
fn name(version: &SystemVersion) -> String {
    let components = version.components.as_deref().unwrap_or_default();
    let own = components.first().map(|it| it.name.as_str());
    let name = match own {
        None | Some("Engine" | "") => "Docker Engine",
        Some(other) => other,
    };
    match &version.version {
        Some(number) => format!("{name} {number}"),
        None => name.to_owned(),
    }
}

/// An engine of another system is no place for these nodes.
fn system(info: &SystemInfo) -> Option<Check> {
    let system = info.os_type.as_deref().unwrap_or("linux");
    (system != "linux").then(|| {
        check(
            "system",
            CheckStatus::Failed,
            format!("the engine runs containers of `{system}`"),
            Some("Switch it to Linux containers, or name another engine by `docker.host`."),
        )
    })
}

fn limits(info: &SystemInfo) -> Check {
    if !facts::tells_out_of_memory(info) {
        return degraded(
            "limits",
            "the engine does not tell that a node reached its limit of memory, so that none is accepted".to_owned(),
            "Boot the engine's host with cgroup version 2 (`systemd.unified_cgroup_hierarchy=1`).",
        );
    }
    let limits = [
        ("memory", info.memory_limit),
        ("swap", info.swap_limit),
        ("processor", info.cpu_cfs_quota),
        ("processes", info.pids_limit),
    ];
    // What an engine does not tell of it is not known to lack.
    let missing: Vec<_> = limits
        .into_iter()
        .filter(|(_, there)| *there == Some(false))
        .map(|(name, _)| name)
        .collect();
    match missing.as_slice() {
        [] => ok(
            "limits",
            "memory, processor and processes can be limited".to_owned(),
        ),
        missing => degraded(
            "limits",
            format!("the engine's host cannot limit: {}", missing.join(", ")),
            "Have the host's kernel count it: boot with `cgroup_enable=memory swapaccount=1`, or with cgroup version 2; a rootless engine needs its controllers delegated.",
        ),
    }
}

fn restarts(info: &SystemInfo) -> Check {
    match info.live_restore_enabled {
        Some(true) => ok(
            "live restore",
            "nodes go on while the engine is restarted".to_owned(),
        ),
        _ => check(
            "live restore",
            CheckStatus::Ok,
            "off: nodes end with the engine, and come back by their restart policy".to_owned(),
            Some("`\"live-restore\": true` in the engine's `daemon.json` lets them go on."),
        ),
    }
}

async fn of_network(engine: &Engine, network: &str) -> Check {
    let asked = engine
        .ask(CALL, engine.docker.inspect_network(network, None))
        .await;
    match asked {
        Ok(_) => ok("network", format!("`{network}` is there")),
        Err(fault) if fault.status() == Some(404) => check(
            "network",
            CheckStatus::Failed,
            format!("the engine has no network `{network}`"),
            Some("Make it by `docker network create NAME`, or change `docker.network`."),
        ),
        Err(fault) => failed("network", fault.into_error("look for the network")),
    }
}

/// The images that are allowed by name: whether each is there, or how it would come.
async fn of_images(engine: &Engine, config: &DockerConfig, images: &Images) -> Vec<Check> {
    let list = match &config.images {
        Allow::Any => return vec![ok("images", "any image may be a node".to_owned())],
        Allow::Only(list) if list.is_empty() => {
            return vec![check(
                "images",
                CheckStatus::Failed,
                "no image may be a node".to_owned(),
                Some("Set `storage.docker_image`, or name more by `docker.images`."),
            )];
        }
        Allow::Only(list) => list,
    };
    let mut checks = Vec::new();
    for reference in list.iter().take(IMAGES) {
        let found = images.look(engine, reference).await;
        checks.push(match found {
            Ok(Some(image)) => {
                let digest = image.digest.as_ref().unwrap_or(&image.id);
                ok("image", format!("`{reference}` is there, as `{digest}`"))
            }
            Ok(None) if config.image_archive.is_some() => ok(
                "image",
                format!("`{reference}` is not there yet, and its archive will be loaded"),
            ),
            Ok(None) if config.pull == Pull::Never => degraded(
                "image",
                format!("`{reference}` is not there, and `docker.pull` is `never`"),
                &format!("Get it by `docker pull {reference}`, or make it by `docker build -t {reference} .`."),
            ),
            Ok(None) => ok("image", format!("`{reference}` will be pulled")),
            Err(error) => failed("image", error),
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use bollard::models::SystemVersionComponents;

    use super::*;

    #[test]
    fn engines_are_called_what_they_call_themselves() {
        let check = |component: Option<&str>, version: Option<&str>, expect: &str| {
            let version = SystemVersion {
                version: version.map(str::to_owned),
                components: component.map(|it| {
                    vec![SystemVersionComponents {
                        name: it.to_owned(),
                        ..SystemVersionComponents::default()
                    }]
                }),
                ..SystemVersion::default()
            };
            assert_eq!(name(&version), expect);
        };
        check(Some("Engine"), Some("20.10.24"), "Docker Engine 20.10.24");
        check(Some("Podman Engine"), Some("4.3.1"), "Podman Engine 4.3.1");
        check(None, None, "Docker Engine");
    }

    #[test]
    fn what_cannot_be_limited_is_named() {
        let info = SystemInfo {
            memory_limit: Some(true),
            swap_limit: Some(false),
            pids_limit: Some(false),
            ..SystemInfo::default()
        };
        let found = limits(&info);
        assert_eq!(found.status, CheckStatus::Degraded);
        assert!(found.detail.ends_with("swap, processes"), "{found:?}");
        assert_eq!(limits(&SystemInfo::default()).status, CheckStatus::Ok);
        let windows = SystemInfo {
            os_type: Some("windows".into()),
            ..SystemInfo::default()
        };
        assert_eq!(system(&windows).unwrap().status, CheckStatus::Failed);
        assert!(system(&info).is_none());
    }
}
