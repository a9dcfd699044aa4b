//! What of one owner is on an engine.

use serde_json::Value;

use crate::Api;
use crate::api::encode;

/// Says each container, volume and network that carries the owner's label, by the engine's own lists.
///
/// # Errors
/// When the engine cannot be asked; never answers short.
pub fn owned(api: &Api, owner: &str) -> Result<Vec<String>, String> {
    let all = objects(api, owner)?;
    Ok(all
        .into_iter()
        .map(|(kind, name)| format!("{kind} `{name}`"))
        .collect())
}

/// Deletes all of the owner's, and says what it was.
///
/// # Errors
/// When the engine cannot be asked, or keeps something.
pub fn sweep(api: &Api, owner: &str) -> Result<Vec<String>, String> {
    let found = owned(api, owner)?;
    // Containers come first: they hold the others.
    for (kind, name) in objects(api, owner)? {
        let path = match kind {
            "container" => format!("/containers/{name}?force=true&v=true"),
            "volume" => format!("/volumes/{name}?force=true"),
            _ => format!("/networks/{name}"),
        };
        // It may have gone by itself: what counts is what is left.
        let _ = api.call("DELETE", &path, None);
    }
    let left = owned(api, owner)?;
    if left.is_empty() {
        Ok(found)
    } else {
        Err(format!("the engine keeps {}", left.join(", ")))
    }
}

fn objects(api: &Api, owner: &str) -> Result<Vec<(&'static str, String)>, String> {
    let filter = encode(&format!("{{\"label\":[\"sutra.owner={owner}\"]}}"));
    let mut found = Vec::new();
    let mut add = |kind: &'static str, all: &Value, key: &str| {
        let all = all.as_array().into_iter().flatten();
        found.extend(all.filter_map(|it| Some((kind, it[key].as_str()?.to_owned()))));
    };
    add(
        "container",
        &api.get(&format!("/containers/json?all=true&filters={filter}"))?,
        "Id",
    );
    add(
        "volume",
        &api.get(&format!("/volumes?filters={filter}"))?["Volumes"],
        "Name",
    );
    add(
        "network",
        &api.get(&format!("/networks?filters={filter}"))?,
        "Id",
    );
    Ok(found)
}
