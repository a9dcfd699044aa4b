//! What pods are on this host: processes, and the folders of volumes.

use std::path::PathBuf;

use serde_json::Value;

use super::view::View;
use crate::proc::{Process, processes};

/// The live processes of the containers of a pod with this uid, by the groups that the kubelet puts them in.
pub fn processes_of(uid: &str) -> Vec<Process> {
    // With systemd as the groups' keeper there are no dashes in names.
    let groups = [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))];
    processes(|it| {
        // What holds the pod together is none of its containers.
        it.name != "pause" && groups.iter().any(|group| it.is_in_group(group))
    })
}

/// The folder on this host of a claim's data, if the claim (as the API shows it) has one.
///
/// # Errors
/// The server's words, or that the volume is no folder of a host.
pub fn folder_of(view: &View, claim: &Value) -> Result<Option<PathBuf>, String> {
    let Some(volume) = claim["spec"]["volumeName"].as_str() else {
        return Ok(None);
    };
    let Some(volume) = view.find(&format!("/api/v1/persistentvolumes/{volume}"))? else {
        return Ok(None);
    };
    let spec = &volume["spec"];
    let path = [&spec["hostPath"]["path"], &spec["local"]["path"]];
    match path.into_iter().find_map(Value::as_str) {
        Some(path) => Ok(Some(path.into())),
        None => Err(format!(
            "the volume of the claim `{}` is no folder of a host",
            claim["metadata"]["name"]
        )),
    }
}
