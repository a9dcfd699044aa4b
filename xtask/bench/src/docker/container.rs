//! A container as the adapter makes it, for others to make the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::Result;

/// What the adapter sent to have a node's container made.
pub(super) struct Template {
    text: String,
    id: String,
    port: String,
    owner: String,
    stranger: String,
    data: PathBuf,
}

/// A container that is the template's but for its name, its data and its port.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) port: u16,
    /// The body of the call that makes it.
    pub(super) body: Value,
    data: PathBuf,
}

impl Template {
    /// Of the body that was sent for this node. `stranger` stands for its owner in what others make, so that the adapter
    /// takes none of it for its own.
    pub(super) fn new(
        body: &[u8],
        id: &str,
        port: u16,
        data: &Path,
        [owner, stranger]: [&str; 2],
    ) -> Result<Self> {
        let text = String::from_utf8(body.to_vec())?;
        let port = port.to_string();
        for part in [id, &port, owner, &data.to_string_lossy()] {
            if !text.contains(part) {
                return Err(format!("the container is made without `{part}`: {text}").into());
            }
        }
        let (id, owner, stranger) = (id.to_owned(), owner.to_owned(), stranger.to_owned());
        Ok(Self {
            text,
            id,
            port,
            owner,
            stranger,
            data: data.to_owned(),
        })
    }

    /// The container of another name and port, with data of its own.
    pub(super) fn make(&self, id: &str, port: u16) -> Result<Made> {
        let text = self
            .text
            .replace(&self.id, id)
            .replace(&format!("\"{}\"", self.port), &format!("\"{port}\""))
            .replace(&format!("={}\"", self.port), &format!("={port}\""))
            .replace(&self.owner, &self.stranger);
        let data = self.data.to_string_lossy().replace(&self.id, id);
        let owner = fs::metadata(&self.data)?;
        fs::create_dir_all(&data)?;
        chown(&data, Some(owner.uid()), Some(owner.gid()))?;
        Ok(Made {
            name: format!("sutra-bench-{id}"),
            port,
            body: serde_json::from_str(&text)?,
            data: data.into(),
        })
    }
}

impl Made {
    /// Deletes its data.
    pub(super) fn forget(&self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.data)?)
    }

    /// The part of the body that is about the host.
    pub(super) fn host(&self, key: &str) -> &Value {
        &self.body["HostConfig"][key]
    }

    /// The values of a list of text.
    pub(super) fn words(value: &Value) -> impl Iterator<Item = &str> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    /// The members of an object of text.
    pub(super) fn pairs(value: &Value) -> impl Iterator<Item = (&str, &str)> {
        let all = value.as_object().into_iter().flatten();
        all.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// The directories that are mounted: source, target, and whether it is for reading only.
    pub(super) fn mounts(&self) -> Result<Vec<(&str, &str, bool)>> {
        let all = self.host("Mounts").as_array().into_iter().flatten();
        all.map(|it| {
            if it["Type"] != "bind" {
                return Err(format!("{it} is not a directory of the host").into());
            }
            let source = it["Source"].as_str().ok_or("a mount without a source")?;
            let target = it["Target"].as_str().ok_or("a mount without a target")?;
            Ok((source, target, it["ReadOnly"] == true))
        })
        .collect()
    }

    /// The port inside, and the address outside.
    pub(super) fn published(&self) -> Result<(&str, &str)> {
        let all = self.host("PortBindings").as_object();
        let (inside, bindings) = all.and_then(|it| it.iter().next()).ok_or("no port")?;
        let address = bindings[0]["HostIp"].as_str().ok_or("no address")?;
        Ok((inside, address))
    }
}

/// What a container is to the engine, without what has to differ between two of the same kind: name, data, port, and the
/// labels that somebody adds of his own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape(BTreeMap<String, Value>);

/// The settings that are compared: all that are in any container's own settings and not about its name.
const NOT_COMPARED: &[&str] = &[
    // How data is mounted is told twice; what came of it is compared.
    "HostConfig.Binds",
    "HostConfig.Mounts",
    // The client's terminal, and who is shown its output.
    "HostConfig.ConsoleSize",
    "Config.AttachStderr",
    "Config.AttachStdin",
    "Config.AttachStdout",
    "Config.OpenStdin",
    "Config.StdinOnce",
    // The container's id, unless it is set.
    "Config.Hostname",
    // Told in whole, by a part and a whole, or not at all, all the same to the engine when nothing is in it.
    "HostConfig.VolumesFrom",
    "Config.Volumes",
];

impl Shape {
    /// Of what the engine tells of a container.
    pub(super) fn of(inspected: &Value) -> Result<Self> {
        let mut shape = BTreeMap::new();
        for part in ["Config", "HostConfig"] {
            let all = inspected[part].as_object().ok_or("no settings")?;
            for (key, value) in all {
                let name = format!("{part}.{key}");
                if !NOT_COMPARED.contains(&name.as_str()) && !is_nothing(value) {
                    shape.insert(name, value.clone());
                }
            }
        }
        let mounts = inspected["Mounts"].as_array().into_iter().flatten();
        let mounts = mounts.map(|it| json!([it["Type"], it["Destination"], it["RW"]]));
        shape.insert("Mounts".to_owned(), mounts.collect());
        let mut own = |key: &str, change: fn(&mut Value)| {
            if let Some(value) = shape.get_mut(key) {
                change(value);
            }
        };
        own("Config.Env", keep_names);
        own("Config.Labels", keep_own_labels);
        own("HostConfig.PortBindings", forget_ports);
        own("HostConfig.NetworkMode", |it| {
            // The same to the engine.
            if *it == "bridge" {
                *it = json!("default");
            }
        });
        Ok(Self(shape))
    }

    /// What is not the same in another one.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let keys = self.0.keys().chain(other.0.keys());
        let mut all: Vec<_> = keys
            .filter(|it| self.0.get(*it) != other.0.get(*it))
            .map(|it| {
                let show = |of: &Self| of.0.get(it).unwrap_or(&Value::Null).to_string();
                format!("`{it}` is {} and not {}", show(other), show(self))
            })
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Null, false, 0 and what is empty are what is not given.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(it) => !it,
        Value::Number(it) => it.as_i64() == Some(0),
        Value::String(it) => it.is_empty(),
        Value::Array(it) => it.iter().all(is_nothing),
        Value::Object(it) => it.values().all(is_nothing),
    }
}

/// The variables' names: their values have the name and the port in them.
fn keep_names(env: &mut Value) {
    let mut names: Vec<_> = Made::words(env)
        .map(|it| it.split('=').next().unwrap_or(it).to_owned())
        .collect();
    names.sort();
    *env = json!(names);
}

/// The grid's labels' names.
fn keep_own_labels(labels: &mut Value) {
    let own: Map<String, Value> = Made::pairs(labels)
        .filter(|(key, _)| key.starts_with("sutra."))
        .map(|(key, _)| (key.to_owned(), Value::Null))
        .collect();
    *labels = Value::Object(own);
}

fn forget_ports(bindings: &mut Value) {
    for binding in bindings.as_object_mut().into_iter().flatten() {
        let all = binding.1.as_array_mut().into_iter().flatten();
        all.for_each(|it| it["HostPort"] = Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(dir: &Path) -> Template {
        let data = dir.join("sample");
        fs::create_dir(&data).unwrap();
        let body = json!({
            "Env": ["SUTRA_PORT=20001", "SUTRA_NODE_ID=sample"],
            "Labels": {"sutra.owner": "own1", "sutra.spec": "{\"node_id\":\"sample\"}"},
            "HostConfig": {
                "Mounts": [{"Type": "bind", "Source": data, "Target": "/data", "ReadOnly": false}],
                "PortBindings": {"20001/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20001"}]},
            },
        });
        let body = body.to_string();
        Template::new(body.as_bytes(), "sample", 20001, &data, ["own1", "1nwo"]).unwrap()
    }

    #[test]
    fn another_container_differs_by_name_data_owner_and_port_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = template(dir.path()).make("other", 20002).unwrap();
        assert_eq!(made.body["Env"][0], "SUTRA_PORT=20002");
        assert_eq!(made.body["Labels"]["sutra.owner"], "1nwo");
        assert_eq!(made.body["Labels"]["sutra.spec"], "{\"node_id\":\"other\"}");
        let data = dir.path().join("other");
        assert!(data.is_dir());
        let mounts = made.mounts().unwrap();
        assert_eq!(mounts, [(data.to_str().unwrap(), "/data", false)]);
        assert_eq!(made.published().unwrap(), ("20001/tcp", "127.0.0.1"));
        assert_eq!(
            made.host("PortBindings")["20001/tcp"][0]["HostPort"],
            "20002"
        );
        made.forget().unwrap();
        assert!(!data.exists());
    }

    #[test]
    fn a_template_without_what_is_replaced_is_none() {
        let check = |id, port, owner| {
            let text = b"{\"a\":\"sample 20001 own1 /d\"}";
            Template::new(text, id, port, Path::new("/d"), [owner, "x"]).is_ok()
        };
        assert!(check("sample", 20001, "own1"));
        assert!(!check("other", 20001, "own1"));
        assert!(!check("sample", 20002, "own1"));
        assert!(!check("sample", 20001, "own2"));
    }

    #[test]
    fn shapes_differ_by_what_counts() {
        let inspected = |port: &str, memory: u64, label: &str| {
            Shape::of(&json!({
                "Config": {
                    "Hostname": label, "Env": [format!("P={port}")], "Tty": false,
                    "Labels": {"sutra.x": port, label: "1"},
                },
                "HostConfig": {
                    "Memory": memory, "CapAdd": null, "NetworkMode": "bridge",
                    "PortBindings": {"1/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]},
                },
                "Mounts": [{"Type": "bind", "Destination": "/data", "RW": true, "Source": port}],
            }))
            .unwrap()
        };
        let one = inspected("1", 64, "a");
        assert_eq!(
            one.differences(&inspected("2", 64, "b")),
            Vec::<String>::new()
        );
        let other = inspected("2", 65, "b");
        assert_eq!(
            one.differences(&other),
            ["`HostConfig.Memory` is 65 and not 64"]
        );
    }
}
