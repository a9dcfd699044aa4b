//! The objects, their versions, and what requests do with them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{NAMESPACE, cluster::Host, request::Asked};

/// Kind and name.
type Key = (String, String);

/// Something that happened to an object.
pub(super) struct Happened {
    pub(super) version: u64,
    pub(super) at: Instant,
    pub(super) resource: String,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

/// What a backup has.
#[derive(Clone)]
pub(crate) struct Saved {
    objects: BTreeMap<Key, Value>,
    version: u64,
}

#[derive(Default)]
pub(super) struct Objects {
    all: BTreeMap<Key, Value>,
    version: u64,
    uids: u64,
    happened: Vec<Happened>,
    /// What happened up to this version is forgotten.
    compacted: u64,
    made: BTreeMap<Key, usize>,
    /// What is left of the lists that were given in part, and the version that they are of.
    pages: Vec<(u64, Vec<Value>)>,
}

impl Objects {
    pub(super) fn get(&self, resource: &str, name: &str) -> Option<&Value> {
        self.all.get(&(resource.to_owned(), name.to_owned()))
    }

    pub(super) fn all(&self, resource: &str) -> Vec<Value> {
        let of = self.all.iter().filter(|it| it.0.0 == resource);
        of.map(|it| it.1.clone()).collect()
    }

    pub(super) fn everything(&self) -> Vec<(String, String, Value)> {
        let all = self.all.iter();
        all.map(|((resource, name), it)| (resource.clone(), name.clone(), it.clone()))
            .collect()
    }

    pub(super) fn made(&self, resource: &str, name: &str) -> usize {
        let key = (resource.to_owned(), name.to_owned());
        self.made.get(&key).copied().unwrap_or_default()
    }

    pub(super) fn save(&self) -> Saved {
        Saved {
            objects: self.all.clone(),
            version: self.version,
        }
    }

    pub(super) fn restore(&mut self, saved: Saved) {
        (self.all, self.version) = (saved.objects, saved.version);
        let version = self.version;
        self.happened.retain(|it| it.version <= version);
        self.compacted = self.compacted.min(version);
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether what happened after a version is forgotten.
    pub(super) fn is_forgotten(&self, version: u64) -> bool {
        version < self.compacted
    }

    /// What happened to objects of a kind after a version.
    pub(super) fn since(&self, resource: &str, version: u64) -> impl Iterator<Item = &Happened> {
        let happened = self.happened.iter();
        happened.filter(move |it| it.version > version && it.resource == resource)
    }

    /// Puts an object in its place, with a version of its own; `None` takes it away.
    fn put(&mut self, resource: &str, name: &str, mut object: Option<Value>) -> Option<Value> {
        let key = (resource.to_owned(), name.to_owned());
        let before = self.all.remove(&key);
        if before.is_none() && object.is_none() {
            return None;
        }
        self.version += 1;
        if let Some(object) = &mut object {
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.all.insert(key, object.clone());
        }
        self.happened.push(Happened {
            version: self.version,
            at: Instant::now(),
            resource: resource.to_owned(),
            before,
            after: object.clone(),
        });
        object
    }

    fn fresh(&mut self, resource: &str, mut object: Value) -> Value {
        self.uids += 1;
        object["metadata"]["uid"] = format!("uid-{}", self.uids).into();
        object["metadata"]["namespace"] = NAMESPACE.into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        *self.made.entry((resource.to_owned(), name)).or_default() += 1;
        object
    }

    pub(super) fn edit(&mut self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = match self.get(resource, name) {
            Some(object) => object.clone(),
            None => self.fresh(resource, json!({"metadata": {"name": name}})),
        };
        change(&mut object);
        self.put(resource, name, Some(object));
    }

    pub(super) fn remove(&mut self, resource: &str, name: &str) {
        self.put(resource, name, None);
    }

    /// Does what is asked: the status and the answer.
    pub(super) fn act(&mut self, asked: &Asked, host: &Host) -> (u16, Value) {
        let resource = asked.resource.as_str();
        if resource == "/version" {
            return (
                200,
                json!({"major": "1", "minor": "30", "gitVersion": "v1.30.0"}),
            );
        }
        if resource.starts_with('/') {
            return refusal(404, "NotFound", "the server could not find it");
        }
        match (asked.verb, asked.name.as_deref()) {
            ("GET", Some(name)) if asked.below.as_deref() == Some("log") => {
                self.log(name, asked, host)
            }
            ("GET", Some(name)) => match self.get(resource, name) {
                Some(object) => (200, object.clone()),
                None => absent(resource, name),
            },
            ("LIST", None) => self.list(asked),
            ("POST", None) => self.create(resource, &asked.body, host),
            ("PUT", Some(name)) => {
                let meta = &asked.body["metadata"];
                self.change(resource, name, meta, |_| asked.body.clone())
            }
            ("PATCH", Some(name)) => {
                let meta = &asked.body["metadata"];
                self.change(resource, name, meta, |there| {
                    let mut object = there.clone();
                    merge(&mut object, &asked.body);
                    object
                })
            }
            ("DELETE", Some(name)) => self.delete(resource, name, &asked.body),
            _ => refusal(405, "MethodNotAllowed", resource),
        }
    }

    /// A list, or as much of it as is asked for. All of its pages are of one version.
    fn list(&mut self, asked: &Asked) -> (u16, Value) {
        let (version, mut items) = match asked.query.get("continue") {
            Some(page) => self.pages[page.parse::<usize>().unwrap()].clone(),
            None => {
                let mut items = self.all(&asked.resource);
                items.retain(|it| asked.selects(it));
                (self.version, items)
            }
        };
        if self.is_forgotten(version) {
            let words =
                "The provided continue parameter is too old to display a consistent list result.";
            return refusal(410, "Expired", words);
        }
        let limit = asked.query.get("limit").map(|it| it.parse().unwrap());
        let rest = items.split_off(items.len().min(limit.unwrap_or(usize::MAX)));
        let mut meta = json!({"resourceVersion": version.to_string()});
        if !rest.is_empty() {
            meta["continue"] = self.pages.len().to_string().into();
            self.pages.push((version, rest));
        }
        (200, json!({"metadata": meta, "items": items}))
    }

    fn create(&mut self, resource: &str, body: &Value, host: &Host) -> (u16, Value) {
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        if self.get(resource, &name).is_some() {
            let words = format!("{resource} \"{name}\" already exists");
            return refusal(409, "AlreadyExists", &words);
        }
        let mut object = self.fresh(resource, body.clone());
        host.admit(resource, &mut object);
        let object = self.put(resource, &name, Some(object));
        (201, object.unwrap_or_default())
    }

    /// Changes an object that is still as `meta` says that it was read.
    fn change(
        &mut self,
        resource: &str,
        name: &str,
        meta: &Value,
        change: impl FnOnce(&Value) -> Value,
    ) -> (u16, Value) {
        let Some(there) = self.get(resource, name) else {
            return absent(resource, name);
        };
        let same = |field: &str| meta[field].is_null() || meta[field] == there["metadata"][field];
        if !same("resourceVersion") || !same("uid") {
            let words = format!(
                "Operation cannot be fulfilled on {resource} \"{name}\": the object has been modified"
            );
            return refusal(409, "Conflict", &words);
        }
        let object = change(there);
        let object = self.put(resource, name, Some(object));
        (200, object.unwrap_or_default())
    }

    fn delete(&mut self, resource: &str, name: &str, options: &Value) -> (u16, Value) {
        let Some(there) = self.get(resource, name) else {
            return absent(resource, name);
        };
        let wanted = &options["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != there["metadata"]["uid"] {
            let words = format!("the UID in the precondition ({wanted}) does not match");
            return refusal(409, "Conflict", &words);
        }
        let grace = &options["gracePeriodSeconds"];
        let is_kept = there["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|it| !it.is_empty());
        if is_kept || resource == "pods" && *grace != 0 {
            let mut going = there.clone();
            let meta = &mut going["metadata"];
            meta["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
            if !grace.is_null() {
                meta["deletionGracePeriodSeconds"] = grace.clone();
            }
            let going = self.put(resource, name, Some(going));
            return (200, going.unwrap_or_default());
        }
        self.put(resource, name, None);
        (200, json!({"kind": "Status", "status": "Success"}))
    }

    fn log(&self, name: &str, asked: &Asked, host: &Host) -> (u16, Value) {
        let Some(pod) = self.get("pods", name) else {
            return absent("pods", name);
        };
        let all = pod["spec"]["containers"].as_array();
        let of = match (asked.query.get("container"), all.map(Vec::as_slice)) {
            (Some(of), _) => of.clone(),
            (None, Some([one])) => one["name"].as_str().unwrap_or_default().to_owned(),
            (None, _) => {
                return refusal(400, "BadRequest", "a container name must be specified");
            }
        };
        (200, host.log(&of).into())
    }
}

/// RFC 7386.
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
            value => merge(&mut object[name], value),
        }
    }
}

fn absent(resource: &str, name: &str) -> (u16, Value) {
    refusal(404, "NotFound", &format!("{resource} \"{name}\" not found"))
}

pub(super) fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (code, status)
}
