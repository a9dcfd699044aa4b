//! Settings of other platforms than the one that an agent is of: they would do nothing, and are refused.

use super::{Programs, Settings};

/// The first key that is given and that the platform has no use for, with the platform that it is of.
pub(super) fn first(settings: &Settings, platform: &str) -> Option<(&'static str, &'static str)> {
    let storage = &settings.storage;
    let programs = ["process", "systemd"];
    let of_host = ["process", "docker", "systemd"];
    let docker = settings.docker.first_given();
    let kubernetes = settings.kubernetes.first_given();
    let foreign = [
        (
            "storage.binary_path",
            storage.binary_path.is_some(),
            &programs[..],
        ),
        (
            "storage.programs",
            storage.programs != Programs::default(),
            &programs,
        ),
        ("storage.data_path", storage.data_path.is_some(), &of_host),
        (
            "storage.storage_roots",
            !storage.storage_roots.is_empty(),
            &of_host,
        ),
        ("storage.port_range", storage.port_range.is_some(), &of_host),
        (docker.unwrap_or("docker"), docker.is_some(), &["docker"]),
        (
            "storage.docker_image",
            storage.docker_image.is_some(),
            &["docker", "kubernetes"],
        ),
        (
            "storage.k8s_namespace",
            storage.k8s_namespace.is_some(),
            &["kubernetes"],
        ),
        (
            "storage.k8s_kubeconfig",
            storage.k8s_kubeconfig.is_some(),
            &["kubernetes"],
        ),
        (
            kubernetes.unwrap_or("kubernetes"),
            kubernetes.is_some(),
            &["kubernetes"],
        ),
    ];
    let found =
        |(_, given, platforms): &(_, bool, &[&str])| *given && !platforms.contains(&platform);
    let (key, _, platforms) = foreign.into_iter().find(found)?;
    Some((key, platforms.first().copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_platform_has_no_use_for_is_found() {
        let check = |toml: &str, platform: &str, expect: Option<(&str, &str)>| {
            let json: serde_json::Value = serde_json::from_str(toml).unwrap();
            let settings: Settings = serde_json::from_value(json).unwrap();
            assert_eq!(first(&settings, platform), expect, "{toml} on {platform}");
        };
        let image = r#"{"storage": {"docker_image": "x"}}"#;
        check(image, "process", Some(("storage.docker_image", "docker")));
        check(image, "docker", None);
        check(image, "kubernetes", None);
        let data = r#"{"storage": {"data_path": "/d"}}"#;
        check(data, "docker", None);
        check(data, "kubernetes", Some(("storage.data_path", "process")));
        let ports = r#"{"storage": {"port_range": "1-2"}}"#;
        check(ports, "kubernetes", Some(("storage.port_range", "process")));
        let class = r#"{"kubernetes": {"overlay": {"storage_class": "fast"}}}"#;
        check(class, "kubernetes", None);
        check(class, "docker", Some(("kubernetes.overlay", "kubernetes")));
        let context = r#"{"docker": {"context": "far"}}"#;
        check(context, "kubernetes", Some(("docker.context", "docker")));
        check("{}", "kubernetes", None);
    }
}
