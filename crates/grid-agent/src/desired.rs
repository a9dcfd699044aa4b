//! The last desired set, on disk, and what was done about it.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use grid_platform_api::{
    DataPolicy, Error, ErrorKind, ErrorReport, NodeId, Result, SpawnConfig, checked, fault,
};
use grid_proto::{Fence, Want, Wish, durable, seal::SealKey, v1};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// How a generation was acted on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Of the wish.
    pub(crate) generation: u64,
    /// Why it could not be done and is not tried again; `None` is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorReport>,
}

/// A node's wish and what the agent remembers about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) wish: Wish,
    pub(crate) applied: Option<Applied>,
    /// Ports that the node had before an update, for those that its request leaves open.
    pub(crate) ports: BTreeMap<String, u16>,
}

impl Entry {
    pub(crate) fn new(wish: Wish) -> Self {
        Self {
            wish,
            applied: None,
            ports: BTreeMap::new(),
        }
    }

    /// Whether the newest generation was acted on, well or badly.
    pub(crate) fn is_applied(&self) -> bool {
        let applied = self.applied.as_ref();
        applied.is_some_and(|it| it.generation == self.wish.generation)
    }
}

/// All wishes and the place in the grid's history at which they hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Desired {
    /// `None` before the first set.
    pub(crate) fence: Option<Fence>,
    pub(crate) nodes: BTreeMap<NodeId, Entry>,
}

impl Desired {
    /// Takes a wish. What is remembered of the node stays, unless it is another node under the same name, or another
    /// wish under the same generation, as a restored store may have it.
    pub(crate) fn accept(&mut self, wish: Wish) {
        match self.nodes.get_mut(&wish.node_id) {
            Some(entry) if !matches!(entry.wish.want, Want::Removed(_)) => {
                if entry.wish.generation == wish.generation && entry.wish != wish {
                    entry.applied = None;
                }
                entry.wish = wish;
            }
            _ => drop(self.nodes.insert(wish.node_id.clone(), Entry::new(wish))),
        }
    }
}

/// The file of a [`Desired`].
#[derive(Debug)]
pub(crate) struct DesiredFile {
    path: PathBuf,
    key: Arc<SealKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    fence: Option<Fence>,
    nodes: BTreeMap<NodeId, StoredEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEntry {
    generation: u64,
    want: StoredWant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<SpawnConfig>,
    /// The values that `spec` withholds: sealed, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ports: BTreeMap<String, u16>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredWant {
    Running,
    Stopped,
    Removed,
    RemovedPurged,
}

impl DesiredFile {
    /// `desired.json` in the agent's state directory, sealed by `seal.key` there. Blocks.
    ///
    /// # Errors
    /// Those of the key.
    pub(crate) fn new(state_dir: &Path) -> Result<Self> {
        Ok(Self {
            path: state_dir.join("desired.json"),
            key: Arc::new(SealKey::load_or_create(&state_dir.join("seal.key"))?),
        })
    }

    /// What the file holds; nothing when there is none. Blocks.
    ///
    /// # Errors
    /// `Corrupt` for a file that is damaged or of another version. Without it the agent would not know which grid it
    /// belongs to, so that nothing is guessed.
    pub(crate) fn load(&self) -> Result<Desired> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Desired::default()),
            Err(error) => return Err(self.fault("read", error)),
        };
        let damaged = |error: Error| {
            Error::new(
                ErrorKind::Corrupt,
                format!("`{}` cannot be used", self.path.display()),
            )
            .with_source(error)
            .with_hint(
                "Restore it from a backup, or move it away: nodes go on running, and the master sends what is wanted again.",
            )
        };
        let text = checked::open(&bytes).map_err(damaged)?;
        let stored: Stored = serde_json::from_slice(text)
            .map_err(|e| damaged(Error::new(ErrorKind::Corrupt, e.to_string())))?;
        if stored.version != VERSION {
            let message = format!("it is of version {}, not {VERSION}", stored.version);
            return Err(damaged(Error::new(ErrorKind::Corrupt, message)));
        }
        let mut nodes = BTreeMap::new();
        for (id, entry) in stored.nodes {
            nodes.insert(id.clone(), self.open(id, entry).map_err(damaged)?);
        }
        Ok(Desired {
            fence: stored.fence,
            nodes,
        })
    }

    /// Puts `desired` on disk for good. Blocks.
    ///
    /// # Errors
    /// `Internal` when the file system fails; the old file is then as it was.
    pub(crate) fn save(&self, desired: &Desired) -> Result<()> {
        let nodes = desired.nodes.iter();
        let stored = Stored {
            version: VERSION,
            fence: desired.fence.clone(),
            nodes: nodes
                .map(|(id, entry)| Ok((id.clone(), self.seal(entry)?)))
                .collect::<Result<_>>()?,
        };
        let bytes = serde_json::to_vec(&stored).map_err(|e| {
            Error::new(ErrorKind::Internal, "wishes have no JSON form").with_source(e)
        })?;
        fault::point("desired-before-save")
            .and_then(|()| durable::write(&self.path, &checked::seal(bytes)))
            .and_then(|()| fault::point("desired-after-save"))
            .map_err(|e| self.fault("write", e))
    }

    fn seal(&self, entry: &Entry) -> Result<StoredEntry> {
        let wish = &entry.wish;
        let config = wish.want.config();
        let mut secrets = BTreeMap::new();
        for (name, value) in config.iter().flat_map(|config| &config.secrets) {
            if let Some(bytes) = value.expose() {
                secrets.insert(name.clone(), hex(&self.key.seal(bytes)?));
            }
        }
        Ok(StoredEntry {
            generation: wish.generation,
            want: match wish.want {
                Want::Running(_) => StoredWant::Running,
                Want::Stopped(_) => StoredWant::Stopped,
                Want::Removed(DataPolicy::Keep) => StoredWant::Removed,
                Want::Removed(DataPolicy::Purge) => StoredWant::RemovedPurged,
            },
            spec: config.cloned(),
            secrets,
            applied: entry.applied.clone(),
            ports: entry.ports.clone(),
        })
    }

    fn open(&self, node_id: NodeId, stored: StoredEntry) -> Result<Entry> {
        let mut secrets = HashMap::new();
        for (name, sealed) in &stored.secrets {
            let sealed = unhex(sealed)
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a secret is not hexadecimal"))?;
            secrets.insert(name.clone(), self.key.open(&sealed)?);
        }
        let (state, data) = match stored.want {
            StoredWant::Running => (v1::DesiredState::Running, v1::DataPolicy::Unspecified),
            StoredWant::Stopped => (v1::DesiredState::Stopped, v1::DataPolicy::Unspecified),
            StoredWant::Removed => (v1::DesiredState::Removed, v1::DataPolicy::Keep),
            StoredWant::RemovedPurged => (v1::DesiredState::Removed, v1::DataPolicy::Purge),
        };
        let spec = stored.spec.as_ref().map(serde_json::to_string).transpose();
        // The wire's reader checks a wish; what comes from disk is checked no less.
        let wish = Wish::try_from(v1::DesiredNode {
            fence: None,
            node_id: node_id.to_string(),
            generation: stored.generation,
            state: state.into(),
            spec_json: spec.unwrap_or_default().unwrap_or_default(),
            secrets,
            data: data.into(),
        })?;
        Ok(Entry {
            wish,
            applied: stored.applied,
            ports: stored.ports,
        })
    }

    fn fault(&self, what: &str, error: io::Error) -> Error {
        let (kind, hint) = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                ErrorKind::Exhausted,
                "Free some disk space, or raise the quota.",
            ),
            _ => (
                ErrorKind::Internal,
                "Look at the disk of the agent's state directory.",
            ),
        };
        Error::new(kind, format!("cannot {what} `{}`", self.path.display()))
            .with_source(error)
            .with_hint(hint)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Program, SpawnConfig};

    use super::*;

    fn desired() -> Desired {
        let config = SpawnConfig::builder("n1", Program::binary("/bin/true", [""; 0]))
            .port(0)
            .secret("token", "hunter2-hunter2".into())
            .build()
            .unwrap();
        let mut desired = Desired {
            fence: Some(Fence {
                grid_id: "g".into(),
                epoch: 1,
                revision: 7,
                lineage: "abc".into(),
            }),
            ..Desired::default()
        };
        desired.accept(Wish {
            node_id: config.node_id.clone(),
            generation: 3,
            want: Want::Running(Box::new(config)),
        });
        desired.accept(Wish {
            node_id: NodeId::new("n2").unwrap(),
            generation: 1,
            want: Want::Removed(DataPolicy::Purge),
        });
        let entry = desired.nodes.get_mut(&NodeId::new("n1").unwrap()).unwrap();
        entry.ports.insert("main".into(), 4000);
        entry.applied = Some(Applied {
            generation: 2,
            error: Some(Error::new(ErrorKind::PortInUse, "taken").to_report()),
        });
        desired
    }

    #[test]
    fn what_is_saved_is_loaded_and_secrets_do_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let file = DesiredFile::new(dir.path()).unwrap();
        assert_eq!(file.load().unwrap(), Desired::default());
        file.save(&desired()).unwrap();
        let text = fs::read_to_string(dir.path().join("desired.json")).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        let again = DesiredFile::new(dir.path()).unwrap();
        assert_eq!(again.load().unwrap(), desired());
    }

    #[test]
    fn what_is_remembered_is_of_this_node_and_this_wish() {
        let id = NodeId::new("n1").unwrap();
        let mut desired = desired();
        let config = desired.nodes[&id].wish.want.config().unwrap().clone();
        let accept = |desired: &mut Desired, generation, want| {
            let node_id = id.clone();
            desired.accept(Wish {
                node_id,
                generation,
                want,
            });
            desired.nodes[&id].clone()
        };
        let running = || Want::Running(Box::new(config.clone()));
        let done = |generation| {
            Some(Applied {
                generation,
                error: None,
            })
        };
        let entry = accept(&mut desired, 4, running());
        assert!(entry.applied.is_some() && !entry.ports.is_empty());

        desired.nodes.get_mut(&id).unwrap().applied = done(4);
        assert!(accept(&mut desired, 4, running()).is_applied());
        let other = accept(&mut desired, 4, Want::Stopped(Box::new(config.clone())));
        assert!(!other.is_applied(), "another wish of the same generation");

        accept(&mut desired, 5, Want::Removed(DataPolicy::Keep));
        desired.nodes.get_mut(&id).unwrap().applied = done(5);
        let entry = accept(&mut desired, 5, running());
        assert!(!entry.is_applied() && entry.ports.is_empty(), "a new node");
    }

    #[test]
    fn damage_is_refused_with_a_mend() {
        let dir = tempfile::tempdir().unwrap();
        let file = DesiredFile::new(dir.path()).unwrap();
        let path = dir.path().join("desired.json");
        file.save(&desired()).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let check = |what: &str, text: &str| {
            fs::write(&path, text).unwrap();
            let error = file.load().expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
            assert!(error.hint().is_some(), "{what}");
        };
        check("cut", &good[..good.len() / 2]);
        check(
            "a newer version",
            &good.replace("\"version\":1", "\"version\":2"),
        );
        file.save(&desired()).unwrap();
        fs::remove_file(dir.path().join("seal.key")).unwrap();
        let other = DesiredFile::new(dir.path()).unwrap();
        assert_eq!(other.load().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = DesiredFile::new(dir.path()).unwrap();
        for (error, kind) in [
            (io::ErrorKind::StorageFull, ErrorKind::Exhausted),
            (io::ErrorKind::Other, ErrorKind::Internal),
        ] {
            let told = file.fault("write", error.into());
            assert_eq!(told.kind(), kind);
            assert!(told.hint().is_some());
        }
    }

    #[test]
    fn no_cut_and_no_flipped_bit_of_wishes_or_key_makes_other_wishes() {
        let dir = tempfile::tempdir().unwrap();
        let expect = desired();
        DesiredFile::new(dir.path()).unwrap().save(&expect).unwrap();
        for name in ["desired.json", "seal.key"] {
            let path = dir.path().join(name);
            let good = fs::read(&path).unwrap();
            let check = |what: String, bytes: &[u8]| {
                fs::write(&path, bytes).unwrap();
                match DesiredFile::new(dir.path()).and_then(|file| file.load()) {
                    Ok(found) => assert_eq!(found, expect, "{name}: {what}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {what}");
                        assert!(error.hint().is_some(), "{name}: {what}");
                    }
                }
            };
            for at in 0..good.len() {
                check(format!("cut to {at}"), &good[..at]);
                let mut bytes = good.clone();
                bytes[at] ^= 1 << (at % 8);
                check(format!("a bit of byte {at}"), &bytes);
            }
            check("whole again".to_owned(), &good);
        }
    }
}
