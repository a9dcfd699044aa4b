//! The objects of a node as the adapter makes them, for others to make the same.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Result;

/// What the adapter sent to have a node's objects made.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) service: String,
    pub(super) claim: String,
    pub(super) pod: String,
    /// The change of a claim by which its node was stopped.
    pub(super) stopped: Value,
    id: String,
    owner: String,
    uid: String,
    namespace: String,
}

/// Objects that are the template's but for their name, and whose they are.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) service: Service,
    pub(super) claim: PersistentVolumeClaim,
    pub(super) pod: Pod,
    /// All three, as they are sent.
    pub(super) objects: [Value; 3],
    /// How long its program may take to end, in seconds.
    pub(super) grace: u32,
}

impl Template {
    /// Of what was sent for this node: service, claim, pod, and the change by which it was stopped.
    pub(super) fn new([service, claim, pod, stopped]: [&[u8]; 4], id: &str) -> Result<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        let parsed: Value = serde_json::from_slice(claim)?;
        let meta = &parsed["metadata"];
        let label = |name: &str| {
            let value = meta["labels"][name].as_str().map(str::to_owned);
            value.ok_or(format!("a claim without `{name}`: {parsed}"))
        };
        let namespace = meta["namespace"].as_str().map(str::to_owned);
        Ok(Self {
            service: text(service)?,
            claim: text(claim)?,
            pod: text(pod)?,
            stopped: serde_json::from_slice(stopped)?,
            id: id.to_owned(),
            owner: label("sutra.owner")?,
            uid: label("sutra.node_uid")?,
            namespace: namespace.ok_or("a claim without a namespace")?,
        })
    }

    /// The objects of another name in another namespace, which the adapter takes for nobody's it knows.
    pub(super) fn make(&self, id: &str, namespace: &str) -> Result<Made> {
        let stranger: String = self.owner.chars().rev().collect();
        let other = |text: &String| -> Result<Value> {
            let text = text
                .replace(&self.id, id)
                .replace(&self.namespace, namespace)
                .replace(&self.owner, &stranger);
            Ok(serde_json::from_str(&text)?)
        };
        let objects = [
            other(&self.service)?,
            other(&self.claim)?,
            other(&self.pod)?,
        ];
        let [service, claim, pod] = &objects;
        let name = pod["metadata"]["name"].as_str();
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
        Ok(Made {
            name: name.ok_or("a pod without a name")?.to_owned(),
            grace: u32::try_from(grace.ok_or("a pod without a grace period")?)?,
            service: typed(service)?,
            claim: typed(claim)?,
            pod: typed(pod)?,
            objects,
        })
    }

    /// The claim of another node of the adapter's own, which is stopped. Its uid is the number in hexadecimal digits.
    pub(super) fn stopped_node(&self, id: &str, uid: u32) -> Result<Value> {
        let text = self
            .claim
            .replace(&self.id, id)
            .replace(&self.uid, &format!("{uid:032x}"));
        let mut claim: Value = serde_json::from_str(&text)?;
        let changed = self.stopped["metadata"]["annotations"].as_object();
        for (key, value) in changed.ok_or("a stop that changes no annotation")? {
            claim["metadata"]["annotations"][key] = value.clone();
        }
        Ok(claim)
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T> {
    Ok(serde_json::from_value(value.clone())?)
}

/// What a pod is to the cluster, without what has to differ between two of the same kind: its name, and its host.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape(BTreeMap<String, Value>);

impl Shape {
    /// Of what the API shows of the pod of this id.
    pub(super) fn of(pod: &Value, id: &str) -> Result<Self> {
        let text = pod["spec"].to_string().replace(id, "ID");
        let mut spec: BTreeMap<String, Value> = serde_json::from_str(&text)?;
        spec.remove("nodeName");
        let containers = spec.remove("containers").unwrap_or_default();
        let [container] = containers.as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(
                format!("a pod of another number of containers than 1: {containers}").into(),
            );
        };
        for (key, value) in container.as_object().into_iter().flatten() {
            spec.insert(format!("container.{key}"), value.clone());
        }
        Ok(Self(spec))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OWNER: &str = "0123456789abcdef0123456789abcdef";
    const UID: &str = "fedcba9876543210fedcba9876543210";

    fn template() -> Template {
        let meta = json!({
            "name": "sutra-grid-sample",
            "namespace": "here",
            "labels": { "sutra.owner": OWNER, "sutra.node_uid": UID, "sutra.node_id": "sample" },
            "annotations": { "sutra.grid/record": json!({ "id": "sample", "uid": UID }).to_string() },
        });
        let pod = json!({
            "metadata": meta,
            "spec": { "containers": [], "terminationGracePeriodSeconds": 10 },
        });
        let object = json!({ "metadata": meta });
        let stopped = json!({ "metadata": { "annotations": { "sutra.grid/notes": "stopped" } } });
        let [object, pod, stopped] = [object, pod, stopped].map(|it| it.to_string().into_bytes());
        Template::new([&object, &object, &pod, &stopped], "sample").unwrap()
    }

    #[test]
    fn another_ones_objects_differ_by_name_place_and_owner_alone() {
        let made = template().make("other", "there").unwrap();
        assert_eq!((made.name.as_str(), made.grace), ("sutra-grid-other", 10));
        for object in &made.objects {
            let meta = &object["metadata"];
            assert_eq!(meta["namespace"], "there");
            assert_eq!(meta["labels"]["sutra.node_id"], "other");
            assert_eq!(
                meta["labels"]["sutra.owner"],
                "fedcba9876543210fedcba9876543210"
            );
        }
    }

    #[test]
    fn a_stopped_node_is_the_adapters_with_a_uid_of_its_own() {
        let claim = template().stopped_node("other", 0x1f).unwrap();
        let meta = &claim["metadata"];
        assert_eq!(meta["namespace"], "here");
        assert_eq!(meta["labels"]["sutra.owner"], OWNER);
        let uid = "0000000000000000000000000000001f";
        assert_eq!(meta["labels"]["sutra.node_uid"], uid);
        let record = json!({ "id": "other", "uid": uid }).to_string();
        assert_eq!(meta["annotations"]["sutra.grid/record"], record);
        assert_eq!(meta["annotations"]["sutra.grid/notes"], "stopped");
    }

    #[test]
    fn shapes_differ_by_what_counts() {
        let shape = |id: &str, host: &str, image: &str| {
            let spec = json!({
                "nodeName": host,
                "containers": [{ "image": image, "env": [{ "name": "ID", "value": id }] }],
            });
            Shape::of(&json!({ "spec": spec }), id).unwrap()
        };
        let one = shape("a1", "h1", "i");
        assert_eq!(
            one.differences(&shape("b2", "h2", "i")),
            Vec::<String>::new()
        );
        assert_eq!(
            one.differences(&shape("b2", "h1", "j")),
            ["`container.image` is \"j\" and not \"i\""]
        );
        assert!(Shape::of(&json!({ "spec": {} }), "a").is_err());
    }
}
