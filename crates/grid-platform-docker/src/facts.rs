//! What the engine and its host are, asked once when the platform is opened.

use bollard::models::{ContainerUpdateBody, SystemInfo, SystemInfoCgroupVersionEnum};
use grid_platform_api::Result;

use crate::{
    engine::{CALL, Engine},
    error::Fault,
};

/// What is known of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The memory of its host, in MiB; 0 where it does not tell.
    pub(crate) memory_mb: u64,
    /// A limit of memory is kept, and an end by it is told.
    pub(crate) memory_limit: bool,
    pub(crate) cpu_limit: bool,
    pub(crate) pids_limit: bool,
    /// What it can keep logs with.
    pub(crate) log_drivers: Vec<String>,
    /// Users within containers have other numbers on the host.
    pub(crate) remaps_users: bool,
    /// Its processes are processes of this host, under the same numbers.
    pub(crate) same_host: bool,
    /// A container's restart policy can be changed.
    pub(crate) updates: bool,
}

/// Reads what the engine says it is, and asks it for the rest.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn look(engine: &Engine, info: &SystemInfo) -> Result<Facts> {
    let mut facts = read(info);
    facts.same_host = engine.host.starts_with("unix://") && is_here(info);
    facts.updates = updates(engine).await?;
    Ok(facts)
}

fn read(info: &SystemInfo) -> Facts {
    let options = info.security_options.as_deref().unwrap_or_default();
    let remaps = |it: &String| it.contains("name=userns") || it.contains("name=rootless");
    let memory = info.mem_total.and_then(|it| u64::try_from(it).ok());
    Facts {
        memory_mb: memory.unwrap_or(0) >> 20,
        memory_limit: info.memory_limit.unwrap_or(false) && tells_out_of_memory(info),
        cpu_limit: info.cpu_cfs_quota.unwrap_or(false) && info.cpu_cfs_period.unwrap_or(false),
        pids_limit: info.pids_limit.unwrap_or(false),
        log_drivers: info
            .plugins
            .as_ref()
            .and_then(|it| it.log.clone())
            .unwrap_or_default(),
        remaps_users: options.iter().any(remaps),
        same_host: false,
        updates: false,
    }
}

/// Whether the engine gets to know that a container reached its limit of memory. Podman's watcher of a container, which keeps logs as
/// `k8s-file`, misses that with version 1 of cgroups.
pub(crate) fn tells_out_of_memory(info: &SystemInfo) -> bool {
    let drivers = info.plugins.as_ref().and_then(|it| it.log.as_deref());
    let is_watched = drivers.is_some_and(|it| it.iter().any(|it| it == crate::logs::PIECES));
    !is_watched || info.cgroup_version != Some(SystemInfoCgroupVersionEnum::_1)
}

/// Whether the engine's kernel and host name are this process's own: an engine in a virtual machine has another kernel, and
/// an agent in a container another name.
fn is_here(info: &SystemInfo) -> bool {
    let here = rustix::system::uname();
    let kernel = info.kernel_version.as_deref().unwrap_or_default();
    let name = info.name.as_deref().unwrap_or_default();
    here.release().to_bytes() == kernel.as_bytes() && here.nodename().to_bytes() == name.as_bytes()
}

/// Whether it can change a container, told by how it refuses to change one that is not there.
async fn updates(engine: &Engine) -> Result<bool> {
    let body = ContainerUpdateBody::default();
    let asked = engine.docker.update_container("sutra-grid.none", body);
    match engine.ask(CALL, asked).await {
        Ok(_) => Ok(true),
        Err(Fault::Refused { status, message }) => {
            Ok(status == 404 && message.to_ascii_lowercase().contains("no such container"))
        }
        Err(fault) => Err(fault.into_error("ask the engine what it can change")),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::PluginsInfo;

    use super::*;

    #[test]
    fn facts_are_read() {
        let info = SystemInfo {
            mem_total: Some(3 << 30),
            memory_limit: Some(true),
            cpu_cfs_quota: Some(true),
            pids_limit: Some(true),
            security_options: Some(vec!["name=seccomp,profile=default".into()]),
            ..SystemInfo::default()
        };
        let facts = read(&info);
        assert_eq!((facts.memory_mb, facts.remaps_users), (3072, false));
        assert!(facts.memory_limit && facts.pids_limit && !facts.cpu_limit);
        let watched = |version| SystemInfo {
            plugins: Some(PluginsInfo {
                log: Some(vec!["k8s-file".into(), "journald".into()]),
                ..PluginsInfo::default()
            }),
            cgroup_version: version,
            ..info.clone()
        };
        assert!(!read(&watched(Some(SystemInfoCgroupVersionEnum::_1))).memory_limit);
        assert!(read(&watched(Some(SystemInfoCgroupVersionEnum::_2))).memory_limit);
        let info = SystemInfo {
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_1),
            ..info
        };
        assert!(read(&info).memory_limit);
        let info = SystemInfo {
            security_options: Some(vec!["name=userns".into()]),
            ..info
        };
        assert!(read(&info).remaps_users);
    }
}
