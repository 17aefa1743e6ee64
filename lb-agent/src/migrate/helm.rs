//! What Helm remembers of a release: by that, and by nothing that stands in the objects, it deletes.

use std::{collections::BTreeMap, io::Read};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::installation::{Installation, annotation, is_of_metallb, label, text};

/// A release that MetalLB was installed as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `metallb-0.14.9`, of what it installed; empty if nothing says so.
    pub chart: String,
    /// What Helm has written of it.
    pub record: Record,
}

/// What stands in Helm's newest record of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// There is none: Helm deletes nothing.
    None,
    /// It names the definitions of MetalLB's kinds: to uninstall the release deletes them, and with them every object of theirs.
    WithDefinitions,
    /// It does not name them, or is told there to keep them.
    WithoutDefinitions,
    /// It is not among what was read, or cannot be read.
    Unseen,
}

/// The label by which Helm finds its records, and its value.
pub const OWNER: (&str, &str) = ("owner", "helm");
/// What Helm leaves alone; in objects it counts on an upgrade, and not when the release is uninstalled.
pub const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");

/// More of a record is not read, in bytes.
const MAX_RECORD: u64 = 64 << 20;

/// The release by which MetalLB was installed, if it was Helm that did.
pub fn release(installation: &Installation) -> Option<Release> {
    let of_kinds = ["Deployment", "DaemonSet", "ValidatingWebhookConfiguration"];
    let workloads = of_kinds.into_iter().flat_map(|kind| installation.of_kind(kind));
    let objects =
        workloads.filter(|(key, _)| key.namespace.is_empty() || key.namespace == installation.namespace);
    let is_metallb = |object: &Value| label(object, "app.kubernetes.io/name") == Some("metallb");
    let objects = objects.filter(|(_, object)| is_metallb(object)).chain(installation.definitions());
    let (name, namespace, chart) = objects.into_iter().find_map(|(_, object)| {
        let name = annotation(object, "meta.helm.sh/release-name")?;
        let namespace = annotation(object, "meta.helm.sh/release-namespace")?;
        Some((name, namespace, label(object, "helm.sh/chart").unwrap_or_default()))
    })?;
    Some(Release {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        chart: chart.to_owned(),
        record: record(installation, name, namespace),
    })
}

fn record(installation: &Installation, name: &str, namespace: &str) -> Record {
    let records = installation.of_kind("Secret").filter(|(key, object)| {
        key.namespace == namespace
            && label(object, OWNER.0) == Some(OWNER.1)
            && label(object, "name") == Some(name)
    });
    // Helm uninstalls by the newest, whatever has become of it.
    let newest = records.max_by_key(|(_, object)| version(object));
    let Some((_, newest)) = newest else {
        // Records stand where the release does; files mostly have none.
        let is_seen = installation.is_live && namespace == installation.namespace;
        return if is_seen { Record::None } else { Record::Unseen };
    };
    match manifest(newest) {
        None => Record::Unseen,
        Some(manifest) if has_definitions(&manifest) => Record::WithDefinitions,
        Some(_) => Record::WithoutDefinitions,
    }
}

/// The number of a record.
fn version(record: &Value) -> u64 {
    label(record, "version").and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// In base64 of its own, packed.
fn manifest(secret: &Value) -> Option<String> {
    let packed = STANDARD.decode(secret["data"]["release"].as_str()?).ok()?;
    let packed = STANDARD.decode(packed).ok()?;
    let mut bytes = Vec::new();
    GzDecoder::new(packed.as_slice()).take(MAX_RECORD).read_to_end(&mut bytes).ok()?;
    let release: Value = serde_json::from_slice(&bytes).ok()?;
    Some(release["manifest"].as_str()?.to_owned())
}

fn has_definitions(manifest: &str) -> bool {
    let files = BTreeMap::from([("manifest.yaml".to_owned(), manifest.as_bytes().to_vec())]);
    lb_api::objects(&files).iter().any(|object| {
        text(object, "/kind") == "CustomResourceDefinition"
            && is_of_metallb(text(object, "/metadata/name"))
            && annotation(object, KEEP.0) != Some(KEEP.1)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use serde_json::json;

    use super::*;

    fn record_of(manifest: &str, version: u32) -> Value {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(json!({"manifest": manifest}).to_string().as_bytes()).expect("memory");
        let release = STANDARD.encode(STANDARD.encode(packed.finish().expect("memory")));
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": format!("v{version}"), "namespace": "metallb-system",
                "labels": {"owner": "helm", "name": "metallb", "version": version.to_string()},
            },
            "data": {"release": release},
        })
    }

    fn found(records: &[Value]) -> Option<Record> {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "communities.metallb.io", "annotations": {
                "meta.helm.sh/release-name": "metallb", "meta.helm.sh/release-namespace": "metallb-system",
                KEEP.0: KEEP.1,
            }},
        });
        let objects = [&[definition], records].concat();
        release(&Installation::of_objects(objects, "metallb-system")).map(|release| release.record)
    }

    #[test]
    fn the_newest_record_says_what_helm_would_delete() {
        let definition = "kind: CustomResourceDefinition\nmetadata: {name: communities.metallb.io}\n";
        let kept = "kind: CustomResourceDefinition\napiVersion: apiextensions.k8s.io/v1\n\
                    metadata: {name: communities.metallb.io, annotations: {helm.sh/resource-policy: keep}}\n";
        let definition = &format!("---\napiVersion: apiextensions.k8s.io/v1\n{definition}");
        let other = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
                     metadata: {name: frrconfigurations.frrk8s.metallb.io}\n";
        assert_eq!(found(&[]), Some(Record::None));
        // What is annotated in the cluster does not count.
        assert_eq!(found(&[record_of(definition, 1)]), Some(Record::WithDefinitions));
        assert_eq!(found(&[record_of(kept, 1)]), Some(Record::WithoutDefinitions));
        assert_eq!(found(&[record_of(other, 1)]), Some(Record::WithoutDefinitions));
        assert_eq!(
            found(&[record_of(definition, 9), record_of(other, 10)]),
            Some(Record::WithoutDefinitions)
        );
        assert_eq!(found(&[record_of(other, 9), record_of(definition, 10)]), Some(Record::WithDefinitions));
        let mut broken = record_of(definition, 1);
        broken["data"]["release"] = json!("!");
        assert_eq!(found(&[broken]), Some(Record::Unseen));
    }
}
