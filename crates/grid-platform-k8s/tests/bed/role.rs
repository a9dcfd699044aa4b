//! The role of an agent's account, as its file has it.

#![allow(clippy::unwrap_used, reason = "all of it is for tests")]

use std::{fs, path::Path};

use grid_platform_k8s::KubernetesConfig;
use serde_json::{Value, json};

use super::Place;

/// The repository.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// One rule of the role.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) verbs: Vec<String>,
}

/// The rules of the role, as its file has them.
pub(crate) fn rules() -> Vec<Rule> {
    let text = fs::read_to_string(Path::new(ROOT).join("deploy/kubernetes/role.yaml")).unwrap();
    let value = |line: &str, name: &str| {
        let line = line.trim().trim_start_matches("- ");
        let list = line.strip_prefix(name)?.strip_prefix(": [")?;
        let list = list.strip_suffix(']')?.replace('"', "");
        Some(list.split(", ").map(str::to_owned).collect::<Vec<_>>())
    };
    let of = |name| text.lines().filter_map(move |line| value(line, name));
    let parts = of("apiGroups").zip(of("resources")).zip(of("verbs"));
    let rules: Vec<Rule> = parts
        .map(|((group, resource), verbs)| Rule {
            group: group[0].clone(),
            resource: resource[0].clone(),
            verbs,
        })
        .collect();
    assert!(rules.len() > 5);
    rules
}

/// As a Role has them.
pub(crate) fn as_json(rules: &[Rule]) -> Value {
    rules
        .iter()
        .filter(|it| !it.verbs.is_empty())
        .map(|it| json!({"apiGroups": [it.group], "resources": [it.resource], "verbs": it.verbs}))
        .collect()
}

/// Settings of an adapter that acts as this account.
pub(crate) fn config(place: &Place, account: &str, rules: &Value, dir: &Path) -> KubernetesConfig {
    let namespace = &place.bed.namespace;
    let kubeconfig = namespace.account(account, rules, dir).unwrap();
    KubernetesConfig {
        kubeconfig: Some(kubeconfig),
        ..place.config(account)
    }
}
