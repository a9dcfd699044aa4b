//! The `restricted` level of the Pod Security Standards, over the very pod that is sent: old servers check nothing.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, ContainerPort, EphemeralContainer, Lifecycle, LifecycleHandler,
    Pod, PodSecurityContext, PodSpec, Probe, SELinuxOptions, SeccompProfile, SecurityContext,
    Volume, WindowsSecurityContextOptions,
};

/// What annotations said of AppArmor before there was a field.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const SAFE_VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const SAFE_SELINUX_TYPES: [&str; 5] = [
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
];

/// What of the pod is against the level, a line each; nothing when it passes.
pub(crate) fn violations(pod: &Pod) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in pod.metadata.annotations.iter().flatten() {
        let safe =
            value == "runtime/default" || value.is_empty() || value.starts_with("localhost/");
        if key.starts_with(APP_ARMOR) && !safe {
            found.push(format!("the annotation `{key}` is `{value}`"));
        }
    }
    if let Some(spec) = &pod.spec {
        of_spec(spec, &mut found);
    }
    found
}

fn of_spec(spec: &PodSpec, found: &mut Vec<String>) {
    for (key, value) in [
        ("hostNetwork", spec.host_network),
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
    ] {
        if value == Some(true) {
            found.push(format!("`{key}` is true"));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        of_volume(volume, found);
    }
    let none = PodSecurityContext::default();
    let pod = spec.security_context.as_ref().unwrap_or(&none);
    of_pod(pod, found);
    let plain = spec.init_containers.iter().flatten();
    let plain = plain.chain(&spec.containers).map(Part::from);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    for part in plain.chain(ephemeral.map(Part::from)) {
        part.check(pod, found);
    }
}

fn of_volume(volume: &Volume, found: &mut Vec<String>) {
    let name = &volume.name;
    // A kind that is new is not let through unseen.
    let whole = serde_json::to_value(volume).unwrap_or_default();
    let kinds = whole.as_object().into_iter().flatten();
    for (kind, _) in kinds.filter(|it| it.0 != "name") {
        if !SAFE_VOLUMES.contains(&kind.as_str()) {
            found.push(format!("the volume `{name}` is of the kind `{kind}`"));
        }
    }
}

fn of_pod(pod: &PodSecurityContext, found: &mut Vec<String>) {
    for sysctl in pod.sysctls.iter().flatten() {
        if !SAFE_SYSCTLS.contains(&sysctl.name.as_str()) {
            found.push(format!("it sets the sysctl `{}`", sysctl.name));
        }
    }
    let of = "of the pod";
    if pod.run_as_user == Some(0) {
        found.push(format!("`runAsUser` {of} is 0"));
    }
    if pod.run_as_non_root == Some(false) {
        found.push(format!("`runAsNonRoot` {of} is false"));
    }
    seccomp(of, pod.seccomp_profile.as_ref(), found);
    app_armor(of, pod.app_armor_profile.as_ref(), found);
    selinux(of, pod.se_linux_options.as_ref(), found);
    windows(of, pod.windows_options.as_ref(), found);
}

fn seccomp(of: &str, profile: Option<&SeccompProfile>, found: &mut Vec<String>) {
    if let Some(it) = profile.filter(|it| !["RuntimeDefault", "Localhost"].contains(&&*it.type_)) {
        found.push(format!("`seccompProfile.type` {of} is `{}`", it.type_));
    }
}

fn app_armor(of: &str, profile: Option<&AppArmorProfile>, found: &mut Vec<String>) {
    if let Some(it) = profile.filter(|it| !["RuntimeDefault", "Localhost"].contains(&&*it.type_)) {
        found.push(format!("`appArmorProfile.type` {of} is `{}`", it.type_));
    }
}

fn selinux(of: &str, options: Option<&SELinuxOptions>, found: &mut Vec<String>) {
    let Some(options) = options else {
        return;
    };
    let kind = options.type_.as_deref().unwrap_or_default();
    if !SAFE_SELINUX_TYPES.contains(&kind) {
        found.push(format!("`seLinuxOptions.type` {of} is `{kind}`"));
    }
    for (key, value) in [("user", &options.user), ("role", &options.role)] {
        if let Some(value) = value.as_deref().filter(|it| !it.is_empty()) {
            found.push(format!("`seLinuxOptions.{key}` {of} is `{value}`"));
        }
    }
}

fn windows(of: &str, options: Option<&WindowsSecurityContextOptions>, found: &mut Vec<String>) {
    if options.is_some_and(|it| it.host_process == Some(true)) {
        found.push(format!("`windowsOptions.hostProcess` {of} is true"));
    }
}

/// What the level looks at of a container of any kind.
struct Part<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    ports: Option<&'a Vec<ContainerPort>>,
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

impl<'a> From<&'a Container> for Part<'a> {
    fn from(it: &'a Container) -> Self {
        Self {
            name: &it.name,
            security: it.security_context.as_ref(),
            ports: it.ports.as_ref(),
            probes: [&it.liveness_probe, &it.readiness_probe, &it.startup_probe]
                .map(Option::as_ref),
            lifecycle: it.lifecycle.as_ref(),
        }
    }
}

impl<'a> From<&'a EphemeralContainer> for Part<'a> {
    fn from(it: &'a EphemeralContainer) -> Self {
        Self {
            name: &it.name,
            security: it.security_context.as_ref(),
            ports: it.ports.as_ref(),
            probes: [&it.liveness_probe, &it.readiness_probe, &it.startup_probe]
                .map(Option::as_ref),
            lifecycle: it.lifecycle.as_ref(),
        }
    }
}

impl Part<'_> {
    fn check(&self, pod: &PodSecurityContext, found: &mut Vec<String>) {
        let of = &*format!("of the container `{}`", self.name);
        let none = SecurityContext::default();
        let its = self.security.unwrap_or(&none);
        if its.privileged == Some(true) {
            found.push(format!("`privileged` {of} is true"));
        }
        if its.allow_privilege_escalation != Some(false) {
            found.push(format!("`allowPrivilegeEscalation` {of} is not false"));
        }
        if its.run_as_user == Some(0) {
            found.push(format!("`runAsUser` {of} is 0"));
        }
        if its.run_as_non_root.or(pod.run_as_non_root) != Some(true) {
            found.push(format!("`runAsNonRoot` {of} is not true"));
        }
        if its.seccomp_profile.is_none() && pod.seccomp_profile.is_none() {
            found.push(format!("`seccompProfile` {of} is not set"));
        }
        seccomp(of, its.seccomp_profile.as_ref(), found);
        app_armor(of, its.app_armor_profile.as_ref(), found);
        selinux(of, its.se_linux_options.as_ref(), found);
        windows(of, its.windows_options.as_ref(), found);
        if let Some(mount) = its.proc_mount.as_deref().filter(|it| *it != "Default") {
            found.push(format!("`procMount` {of} is `{mount}`"));
        }
        self.capabilities(of, its, found);
        for port in self.ports.into_iter().flatten() {
            if let Some(port) = port.host_port.filter(|it| *it != 0) {
                found.push(format!("`hostPort` {of} is {port}"));
            }
        }
        self.hosts(of, found);
    }

    fn capabilities(&self, of: &str, its: &SecurityContext, found: &mut Vec<String>) {
        let capabilities = its.capabilities.as_ref();
        let mut dropped = capabilities
            .and_then(|it| it.drop.as_ref())
            .into_iter()
            .flatten();
        if !dropped.any(|it| it == "ALL") {
            found.push(format!("`capabilities.drop` {of} is without `ALL`"));
        }
        let added = capabilities.and_then(|it| it.add.as_ref());
        for name in added
            .into_iter()
            .flatten()
            .filter(|it| *it != "NET_BIND_SERVICE")
        {
            found.push(format!("`capabilities.add` {of} has `{name}`"));
        }
    }

    /// Probes and hooks that ask another host than the pod.
    fn hosts(&self, of: &str, found: &mut Vec<String>) {
        let probes = self.probes.iter().flatten();
        let of_probes = probes.flat_map(|it| {
            let http = it.http_get.as_ref().and_then(|it| it.host.as_ref());
            [http, it.tcp_socket.as_ref().and_then(|it| it.host.as_ref())]
        });
        let hooks = self.lifecycle.into_iter();
        let hooks = hooks.flat_map(|it| [&it.post_start, &it.pre_stop].map(Option::as_ref));
        let of_hooks = hooks.flatten().flat_map(|it: &LifecycleHandler| {
            let http = it.http_get.as_ref().and_then(|it| it.host.as_ref());
            [http, it.tcp_socket.as_ref().and_then(|it| it.host.as_ref())]
        });
        let hosts = of_probes.chain(of_hooks).flatten();
        for host in hosts.filter(|it| !it.is_empty()) {
            found.push(format!("a probe or hook {of} asks the host `{host}`"));
        }
    }
}

#[cfg(test)]
#[path = "restricted_tests.rs"]
mod tests;
