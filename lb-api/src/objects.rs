//! Objects of a cluster as they are: those of which there are few.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{document::Document, problem::ObjectKey};

/// Where objects of a cluster stand, for people.
pub const CLUSTER: &str = "cluster";
/// Parts of an object that say nothing that is read, and are large or change all the time: where, and which.
const BALLAST: [(&str, &str); 4] = [
    ("/metadata", "managedFields"),
    ("/metadata", "resourceVersion"),
    // Of `kubectl apply`: the whole object once more.
    ("/metadata/annotations", "kubectl.kubernetes.io/last-applied-configuration"),
    // Of a Node.
    ("/status", "images"),
];

/// Objects of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects(BTreeMap<ObjectKey, Value>);

impl Objects {
    /// An object is there, or is otherwise than before; whether that is news.
    pub fn insert(&mut self, mut object: Value) -> bool {
        let key = key_of(&object);
        for (place, part) in BALLAST {
            if let Some(Value::Object(fields)) = object.pointer_mut(place) {
                fields.remove(part);
            }
        }
        if let Some(Value::Array(conditions)) = object.pointer_mut("/status/conditions") {
            let fields = conditions.iter_mut().filter_map(Value::as_object_mut);
            fields.for_each(|fields| drop(fields.remove("lastHeartbeatTime")));
        }
        if self.0.get(&key) == Some(&object) {
            return false;
        }
        self.0.insert(key, object);
        true
    }

    /// An object is gone; whether it was there.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        self.0.remove(key).is_some()
    }

    /// All objects of a kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &ObjectKey> {
        self.0.keys().filter(move |key| key.kind == kind)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An object as it is.
    pub fn get(&self, key: &ObjectKey) -> Option<&Value> {
        self.0.get(key)
    }

    pub fn documents(&self) -> impl Iterator<Item = Document> + '_ {
        let of = |(key, value): (&ObjectKey, &Value)| Document {
            file: CLUSTER.to_owned(),
            key: key.clone(),
            value: value.clone(),
        };
        self.0.iter().map(of)
    }
}

/// Kind, namespace and name of an object as an API server tells of it.
pub fn key_of(object: &Value) -> ObjectKey {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    ObjectKey { kind: text("/kind"), namespace: text("/metadata/namespace"), name: text("/metadata/name") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_reads_is_no_news() {
        let node = |version: &str, beat: &str, ready: &str| {
            json!({
                "kind": "Node",
                "metadata": {"name": "n1", "resourceVersion": version, "managedFields": [{"manager": "kubelet"}]},
                "status": {"images": [{"names": ["a"]}], "conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": beat}]},
            })
        };
        let mut objects = Objects::default();
        assert!(objects.insert(node("1", "a", "True")));
        assert!(!objects.insert(node("2", "b", "True")));
        assert!(objects.insert(node("3", "b", "False")));
        let key = ObjectKey { kind: "Node".to_owned(), namespace: String::new(), name: "n1".to_owned() };
        assert_eq!(objects.get(&key).map(|node| &node["metadata"]), Some(&json!({"name": "n1"})));
        assert!(objects.remove(&key) && !objects.remove(&key));
    }
}
