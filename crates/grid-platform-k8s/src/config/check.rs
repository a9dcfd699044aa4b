//! What is wrong with settings.

use std::path::Path;

use grid_platform_api::{ErrorKind, Result, printable};
use k8s_openapi::api::core::v1::Affinity;
use serde_json::Value;

use super::{Allow, KubernetesConfig, Overlay, Toleration, pair};
use crate::error::error;

/// More than any volume has: 1 PiB in MiB. Greater figures are slips of the unit.
const MAX_MB: u64 = 1 << 30;
/// A day.
const MAX_START_S: u64 = 24 * 60 * 60;
/// How much annotations may have together, in bytes: of the 256 KiB of an object, most is for a node's record.
const ANNOTATIONS_MAX: usize = 32 * 1024;
/// What our own annotations begin with.
const OWN: &str = "sutra.grid/";
/// The longest label's value and last part of a key, and the longest name of a namespace.
const LABEL_MAX: usize = 63;
/// The longest name of an object.
const NAME_MAX: usize = 253;

fn invalid<T>(message: String, hint: &str) -> Result<T> {
    Err(error(ErrorKind::InvalidConfig, message).with_hint(hint))
}

pub(super) fn check(config: &KubernetesConfig) -> Result<()> {
    if !is_label_name(&config.namespace) {
        return invalid(
            format!("`namespace` is `{}`", printable(&config.namespace)),
            "Name a namespace: up to 63 lower-case letters, digits and `-`.",
        );
    }
    // It stands behind `sutra-grid.` in the names of objects, and in a label.
    if !is_label_name(&config.install) {
        return invalid(
            format!("`install` is `{}`", printable(&config.install)),
            "Use up to 63 lower-case letters, digits and `-`, one name for each agent of the namespace.",
        );
    }
    if let Some(path) = &config.kubeconfig {
        check_path(path)?;
    }
    if let Some(context) = &config.context
        && (context.is_empty() || context.contains(char::is_control))
    {
        return invalid(
            format!("`context` is `{}`", printable(context)),
            "`kubectl config get-contexts` lists the contexts of a kubeconfig.",
        );
    }
    if let Allow::Only(images) = &config.images {
        let fault = |it: &&String| {
            it.is_empty() || it.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if let Some(image) = images.iter().find(fault) {
            return invalid(
                format!("`images` names `{}`, which is no image", printable(image)),
                "Write images as requests do: `registry/name:tag` or `name:tag`.",
            );
        }
    }
    if config.account().is_none() {
        return invalid(
            format!("`user` is `{}`", printable(&config.user)),
            "Give a number that is not root's, and a group behind `:` if it is another.",
        );
    }
    if let Some(user) = config.users.iter().find(|it| pair(it).is_none()) {
        return invalid(
            format!("`users` names `{}`", printable(user)),
            "Give numbers that are not root's, as `UID` or `UID:GID`: a cluster knows no users by name.",
        );
    }
    if let Some(address) = &config.advertise_address {
        check_address(address)?;
    }
    if !(1..=MAX_START_S).contains(&config.start_timeout_s) {
        return invalid(
            format!("`start_timeout_s` is {}", config.start_timeout_s),
            "Give seconds, from 1 to 86400.",
        );
    }
    check_overlay(&config.overlay)
}

fn check_path(path: &Path) -> Result<()> {
    let Some(text) = path.to_str().filter(|it| !it.contains(char::is_control)) else {
        return invalid(
            format!(
                "`kubeconfig` holds {:?}, which is no line of text",
                path.as_os_str()
            ),
            "Name a path in UTF-8 without control characters.",
        );
    };
    if !path.is_absolute() || path.components().any(|it| it.as_os_str() == "..") {
        return invalid(
            format!("`kubeconfig` is `{text}`"),
            "Give an absolute path without `..`.",
        );
    }
    Ok(())
}

fn check_address(address: &str) -> Result<()> {
    let ip: Result<std::net::IpAddr, _> = address.parse();
    if ip.is_ok() || is_name(&address.to_ascii_lowercase()) {
        return Ok(());
    }
    invalid(
        format!("`advertise_address` is `{}`", printable(address)),
        "Give a host name or an address, without a port.",
    )
}

fn check_overlay(overlay: &Overlay) -> Result<()> {
    if let Some(mb) = overlay
        .storage_size_mb
        .filter(|it| !(1..=MAX_MB).contains(it))
    {
        return invalid(
            format!("`overlay.storage_size_mb` is {mb}"),
            "The figure is in MiB: 1024 is 1 GiB.",
        );
    }
    let names = [
        ("storage_class", overlay.storage_class.as_slice()),
        ("service_account", overlay.service_account.as_slice()),
        ("pull_secrets", overlay.pull_secrets.as_slice()),
    ];
    for (key, names) in names {
        if let Some(name) = names.iter().find(|it| !is_name(it)) {
            return invalid(
                format!("`overlay.{key}` names `{}`", printable(name)),
                "Names of objects are lower-case letters, digits, `-` and `.`.",
            );
        }
    }
    for (key, value) in &overlay.node_selector {
        if !is_key(key) || !is_label_value(value) {
            return invalid(
                format!(
                    "`overlay.node_selector` has `{}={}`, which is no label",
                    printable(key),
                    printable(value)
                ),
                "`kubectl get nodes --show-labels` lists the labels of hosts.",
            );
        }
    }
    for toleration in &overlay.tolerations {
        check_toleration(toleration)?;
    }
    if let Some(affinity) = &overlay.affinity {
        check_affinity(affinity)?;
    }
    check_annotations(overlay)
}

fn check_toleration(it: &Toleration) -> Result<()> {
    let shown = serde_json::to_string(it).unwrap_or_default();
    let wrong = |what: &str, hint: &str| {
        invalid(format!("`overlay.tolerations` has `{shown}`, {what}"), hint)
    };
    if let Some(key) = it.key.as_ref().filter(|it| !is_key(it)) {
        let what = format!("whose key `{}` is none of a taint", printable(key));
        return wrong(&what, "`kubectl describe nodes` shows the taints of hosts.");
    }
    if it.value.as_ref().is_some_and(|it| !is_label_value(it)) {
        return wrong(
            "whose value is none of a taint",
            "`kubectl describe nodes` shows the taints of hosts.",
        );
    }
    if it.key.is_none() && it.value.is_some() {
        return wrong(
            "which has a value and no key",
            "Name the taint's key, or leave `value` out for every taint.",
        );
    }
    let effect = it.effect.as_deref();
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if effect.is_some_and(|it| !known.contains(&it)) {
        return wrong(
            "whose effect is none",
            "Use `NoSchedule`, `PreferNoSchedule` or `NoExecute`, or leave `effect` out for all.",
        );
    }
    if it.seconds.is_some() && effect != Some("NoExecute") {
        return wrong(
            "which has `seconds` without the effect `NoExecute`",
            "Only a taint with this effect ends pods, after that time.",
        );
    }
    Ok(())
}

fn check_affinity(affinity: &Value) -> Result<()> {
    const HINT: &str = "`kubectl explain pod.spec.affinity --recursive` shows its form.";
    let read = match serde_json::from_value::<Affinity>(affinity.clone()) {
        Ok(read) => serde_json::to_value(read).unwrap_or_default(),
        Err(e) => {
            let what = format!("`overlay.affinity` is none of a pod: {e}");
            return invalid(what, HINT);
        }
    };
    // What is unknown would be left out without a word, and the pods would be anywhere.
    match difference("overlay.affinity".to_owned(), affinity, &read) {
        Some(what) => invalid(what, HINT),
        None => Ok(()),
    }
}

/// Where what was read differs from what was given: a key that is unknown, or one that is missing.
fn difference(at: String, given: &Value, read: &Value) -> Option<String> {
    match (given, read) {
        (Value::Object(given), Value::Object(read)) => {
            let unknown = given
                .iter()
                .find(|(key, value)| !value.is_null() && !read.contains_key(*key));
            if let Some((key, _)) = unknown {
                return Some(format!(
                    "`{at}` has the key `{}`, which is unknown",
                    printable(key)
                ));
            }
            if let Some((key, _)) = read.iter().find(|it| !given.contains_key(it.0)) {
                return Some(format!("`{at}` has no `{key}`"));
            }
            read.iter()
                .find_map(|(key, read)| difference(format!("{at}.{key}"), given.get(key)?, read))
        }
        (Value::Array(given), Value::Array(read)) => {
            let mut pairs = given.iter().zip(read).enumerate();
            pairs.find_map(|(n, (given, read))| difference(format!("{at}[{n}]"), given, read))
        }
        _ => None,
    }
}

fn check_annotations(overlay: &Overlay) -> Result<()> {
    let mut bytes = 0;
    for (key, value) in &overlay.annotations {
        if key.starts_with(OWN) {
            return invalid(
                format!("`overlay.annotations` has `{}`", printable(key)),
                "Keys that start with `sutra.grid/` are taken.",
            );
        }
        if !is_key(key) {
            return invalid(
                format!(
                    "`overlay.annotations` has `{}`, which is no key",
                    printable(key)
                ),
                "Use up to 63 letters, digits, `-`, `_` and `.`, behind a domain and `/` if there is one.",
            );
        }
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_MAX {
        return invalid(
            format!("`overlay.annotations` has {bytes} bytes, more than {ANNOTATIONS_MAX}"),
            "Leave room for the records of nodes, which are annotations too.",
        );
    }
    Ok(())
}

/// A name of one part: lower-case letters, digits and `-` within.
fn is_label_name(text: &str) -> bool {
    let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    (1..=LABEL_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A name of an object: parts of lower-case letters, digits and `-`, with dots between.
fn is_name(text: &str) -> bool {
    let part = |it: &str| {
        let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
        !it.is_empty() && it.bytes().all(inner) && !it.starts_with('-') && !it.ends_with('-')
    };
    text.len() <= NAME_MAX && text.split('.').all(part)
}

/// The value of a label, which may be empty.
fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified(text)
}

/// The key of a label or an annotation: a name, behind a domain and `/` if there is one.
fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_name(domain) && is_qualified(name),
        None => is_qualified(text),
    }
}

fn is_qualified(text: &str) -> bool {
    let edge = |it: u8| it.is_ascii_alphanumeric();
    let inner = |it: u8| edge(it) || matches!(it, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    text.len() <= LABEL_MAX
        && bytes.iter().copied().all(inner)
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
