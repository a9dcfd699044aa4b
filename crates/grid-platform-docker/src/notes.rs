//! What is known of a node and stands in no label: what is asked of it since it was made, and how it last ended.
//!
//! A note is a small file of the state, by the node's id. One of another incarnation says nothing, and neither does one that is
//! not there: then the node shall run.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use grid_platform_api::{Failure, NodeId, NodeUid, Result, Timestamp, checked};
use grid_platform_host::{
    error::Context,
    files::{self, Durable},
};
use serde::{Deserialize, Serialize};

use crate::translate::Goal;

/// The largest note: it has a node's last lines in it.
const MAX: usize = 4 * 1024 * 1024;

/// What is noted of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) uid: NodeUid,
    #[serde(flatten)]
    pub(crate) goal: Goal,
    /// How its program last ended badly, since the last spawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_failure: Option<Failure>,
    /// Somebody else stopped it, since the last spawn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stopped_by_other: bool,
    /// When the run began that was over at the last spawn: as long as the engine tells of no other, that spawn has not started
    /// the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) behind: Option<Timestamp>,
    /// When that run was over: what the log has from before is not the last spawn's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log_from: Option<Timestamp>,
}

impl Note {
    /// Nothing but that it shall run.
    pub(crate) fn new(uid: NodeUid) -> Self {
        Self {
            uid,
            goal: Goal::Running,
            last_failure: None,
            stopped_by_other: false,
            behind: None,
            log_from: None,
        }
    }
}

/// All notes.
pub(crate) struct Notes {
    dir: OwnedFd,
    known: Mutex<BTreeMap<NodeId, Arc<Mutex<Note>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Notes {
    /// Reads what is noted in a state directory.
    ///
    /// # Errors
    /// The system's refusals.
    pub(crate) fn open(state: &OwnedFd) -> Result<Self> {
        files::make_dir_at(state, "nodes", 0o700).cannot("make the directory of notes")?;
        let dir = files::open_dir_at(state, "nodes").cannot("open the directory of notes")?;
        let mut known = BTreeMap::new();
        for name in files::names(&dir).cannot("read the directory of notes")? {
            let text = name.to_string_lossy();
            let Some(id) = text
                .strip_suffix(".json")
                .and_then(NodeId::from_native_name)
            else {
                continue;
            };
            let note = files::read_at(&dir, &name, MAX)
                .ok()
                .and_then(|it| serde_json::from_slice::<Note>(checked::open(&it).ok()?).ok());
            match note {
                Some(note) => drop(known.insert(id, Arc::new(Mutex::new(note)))),
                None => tracing::warn!(
                    file = %text,
                    "a note cannot be understood: its node is taken for one that shall run"
                ),
            }
        }
        Ok(Self {
            dir,
            known: Mutex::new(known),
        })
    }

    /// What is noted of this incarnation.
    pub(crate) fn of(&self, id: &NodeId, uid: &NodeUid) -> Note {
        let entry = lock(&self.known).get(id).cloned();
        entry
            .map(|it| lock(&it).clone())
            .filter(|it| it.uid == *uid)
            .unwrap_or_else(|| Note::new(uid.clone()))
    }

    /// Changes what is noted of this incarnation, and gives what then is. Blocks on the disk, and for long where it has
    /// to be durable.
    ///
    /// # Errors
    /// The system's refusals; then nothing has changed.
    pub(crate) fn change(
        &self,
        id: &NodeId,
        uid: &NodeUid,
        durable: Durable,
        change: impl FnOnce(&mut Note),
    ) -> Result<Note> {
        let entry = {
            let mut known = lock(&self.known);
            let new = || Arc::new(Mutex::new(Note::new(uid.clone())));
            Arc::clone(known.entry(id.clone()).or_insert_with(new))
        };
        // Held while the disk is written, so that no change takes another's back; the notes of other nodes are not.
        let mut note = lock(&entry);
        let mut next = match note.uid == *uid {
            true => note.clone(),
            false => Note::new(uid.clone()),
        };
        change(&mut next);
        if next != *note {
            let what = format!("note what is asked of the node `{id}`");
            let text = serde_json::to_vec(&next)
                .map(checked::seal)
                .map_err(io::Error::from)
                .cannot(&what)?;
            files::replace_at(&self.dir, &file(id), &text, 0o600, durable).cannot(what)?;
            *note = next.clone();
        }
        Ok(next)
    }

    /// Forgets the node.
    ///
    /// # Errors
    /// The system's refusals.
    pub(crate) fn forget(&self, id: &NodeId) -> Result<()> {
        if lock(&self.known).remove(id).is_some() {
            files::remove_at(&self.dir, file(id)).cannot(format!("forget the node `{id}`"))?;
        }
        Ok(())
    }

    /// Of which nodes something is noted, and of which incarnation.
    pub(crate) fn all(&self) -> Vec<(NodeId, NodeUid)> {
        let known = lock(&self.known);
        let entry = |(id, note): (&NodeId, &Arc<Mutex<Note>>)| (id.clone(), lock(note).uid.clone());
        known.iter().map(entry).collect()
    }
}

fn file(id: &NodeId) -> String {
    format!("{}.json", id.native_name())
}

#[cfg(test)]
mod tests {
    use grid_platform_api::FailureReason;

    use super::*;

    #[test]
    fn a_note_is_kept_and_one_of_another_incarnation_says_nothing() {
        let place = tempfile::tempdir().unwrap();
        let state = files::open_dir(place.path()).unwrap();
        let (id, uid) = (NodeId::new("n1").unwrap(), NodeUid::from_bytes([1; 16]));
        let goal = Goal::Failed {
            failure: Failure::new(FailureReason::NotHealthy, "not healthy"),
        };
        let notes = Notes::open(&state).unwrap();
        let change = |note: &mut Note| note.goal = goal.clone();
        let note = notes.change(&id, &uid, Durable::Yes, change).unwrap();
        assert_eq!(note.goal, goal);
        assert_eq!(notes.of(&id, &uid), note);
        let notes = Notes::open(&state).unwrap();
        assert_eq!(notes.of(&id, &uid), note);
        let other = NodeUid::from_bytes([2; 16]);
        assert_eq!(notes.of(&id, &other), Note::new(other));
        assert_eq!(notes.all(), [(id.clone(), uid.clone())]);
        notes.forget(&id).unwrap();
        assert_eq!(Notes::open(&state).unwrap().of(&id, &uid), Note::new(uid));
    }

    #[test]
    fn damage_is_a_node_that_shall_run() {
        let place = tempfile::tempdir().unwrap();
        let state = files::open_dir(place.path()).unwrap();
        let (id, uid) = (NodeId::new("n1").unwrap(), NodeUid::from_bytes([1; 16]));
        drop(Notes::open(&state).unwrap());
        std::fs::write(place.path().join("nodes").join(file(&id)), "{").unwrap();
        assert_eq!(Notes::open(&state).unwrap().of(&id, &uid), Note::new(uid));
    }
}
