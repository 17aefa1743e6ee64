//! All files of a directory to one snapshot.

use std::{collections::BTreeMap, mem, sync::Arc};

use k8s_openapi::api::core::v1;
use kube::Resource;
use lb_core::model::{NodeName, ObjectName, Snapshot};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    bgp::Bgp,
    config_map, crd,
    document::{Document, split, typed},
    names::Names,
    node::node,
    pool::{is_apart, is_configuration, is_used, l2_advertisement, labels, pool, service_cidr},
    problem::{ObjectKey, Problem, ProblemKind, Report, Severity},
    secret::gossip_secret,
    service::{Fields, service},
    shared::SharedTexts,
    slice::{join, slice},
    together::Together,
};

/// How objects are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The `loadBalancerClass` of the Services that are ours (MetalLB's flag `--lb-class`); none for those without any.
    pub lb_class: Option<String>,
    /// Whether Nodes may own VIPs that are labelled to be left out of load balancers (`--ignore-exclude-lb`).
    pub ignore_exclude_lb: bool,
    /// Not all Namespaces are known: whether a selector meets any is not said.
    pub is_without_namespaces: bool,
    /// Under which name fields are applied that are ours (server-side apply).
    pub manager: Option<String>,
}

/// What files say.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// Everything that is right.
    pub snapshot: Snapshot,
    /// What is wrong, in the order of files.
    pub problems: Vec<Problem>,
    /// The file in which each object stands.
    pub origins: BTreeMap<ObjectKey, String>,
    /// Where in each Service stands what its allocation depends on.
    pub(crate) fields: BTreeMap<ObjectName, Fields>,
    /// Names by which objects call each other, until all have been read.
    names: Names,
    /// What objects of BGP are to each other, until all have been read.
    together: Together,
    texts: SharedTexts,
}

/// Decodes files, by name; those that end with `.json` are JSON, all others YAML.
pub fn decode(files: &BTreeMap<String, Vec<u8>>) -> Decoded {
    let (documents, problems) = read(files);
    let mut decoded = decode_documents(&documents, &Reading::default());
    decoded.problems.splice(0..0, problems);
    decoded
}

/// The objects of files as they are, whatever their kinds; what cannot be read is left out, and [`decode()`] says so.
pub fn objects(files: &BTreeMap<String, Vec<u8>>) -> Vec<Value> {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for (file, bytes) in files {
        split(file, bytes, &mut documents, &mut problems);
    }
    documents.into_iter().map(|document| document.value).collect()
}

/// The objects of files.
pub(crate) fn read(files: &BTreeMap<String, Vec<u8>>) -> (Vec<Document>, Vec<Problem>) {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for (file, bytes) in files {
        split(file, bytes, &mut documents, &mut problems);
    }
    let (documents, found) = expanded(documents);
    problems.extend(found);
    (documents, problems)
}

/// Objects, each once, and in the place of MetalLB's old configuration what stands in it.
pub(crate) fn expanded(documents: Vec<Document>) -> (Vec<Document>, Vec<Problem>) {
    let mut decoded = Decoded::default();
    let (configs, mut documents): (Vec<_>, Vec<_>) =
        documents.into_iter().partition(|document| config_map::is_config(&document.key));
    for config in &configs {
        let objects = decoded.report(config, |report| config_map::objects(config, report));
        documents.extend(objects);
    }
    documents.retain(|document| decoded.is_first(document));
    (documents, decoded.problems)
}

/// Decodes objects. Where two contradict each other, the first is right.
pub(crate) fn decode_documents(documents: &[Document], reading: &Reading) -> Decoded {
    let mut decoded = Decoded::default();
    // Pools look for namespaces, and slices for their Services.
    let mut ordered: Vec<&Document> = documents.iter().collect();
    ordered.sort_by_key(|document| match document.key.kind.as_str() {
        "Namespace" => 0,
        "EndpointSlice" => 2,
        _ => 1,
    });
    for document in ordered {
        decoded.origins.insert(document.key.clone(), document.file.clone());
        decoded.add(document, reading);
    }
    let dangling = mem::take(&mut decoded.names).problems();
    decoded.problems.extend(dangling);
    let refused = mem::take(&mut decoded.together).problems(&decoded.snapshot.pools);
    decoded.problems.extend(refused);
    decoded
}

impl Decoded {
    fn is_first(&mut self, document: &Document) -> bool {
        if let Some(other) = self.origins.get(&document.key) {
            let other = other.clone();
            self.report(document, |report| report.add(Severity::Error, "", ProblemKind::Duplicate { other }));
            return false;
        }
        self.origins.insert(document.key.clone(), document.file.clone());
        true
    }

    fn report<T>(&mut self, document: &Document, act: impl FnOnce(&mut Report<'_>) -> T) -> T {
        act(&mut Report { file: &document.file, object: &document.key, problems: &mut self.problems })
    }

    fn add(&mut self, document: &Document, reading: &Reading) {
        let ObjectKey { kind, namespace: _, name } = document.key.clone();
        let object_name = document.key.object_name();
        let value = &document.value;
        if is_configuration(&document.key) && is_foreign(value) {
            self.report(document, |report| report.add(Severity::Warning, "kind", ProblemKind::UnusedKind));
            return;
        }
        match kind.as_str() {
            "Namespace" => {
                let object: Option<v1::Namespace> = self.report(document, |report| typed(value, report));
                let Some(metadata) = object.map(|object| object.metadata) else { return };
                if name == "kube-system" {
                    self.snapshot.cluster_uid = metadata.uid;
                }
                self.snapshot.namespaces.insert(name, labels(metadata.labels));
            }
            "Node" => {
                let node = self.report(document, |report| node(typed(value, report)?, reading, report));
                self.snapshot.nodes.extend(node.map(|node| (NodeName(name.into()), node)));
            }
            "Service" => {
                let service = self.report(document, |report| service(typed(value, report)?, reading, report));
                if let Some((service, fields)) = service {
                    self.fields.insert(object_name.clone(), fields);
                    self.snapshot.services.insert(object_name, service.into());
                }
            }
            "EndpointSlice" => self.add_slice(document, &object_name.namespace),
            "IPAddressPool" => {
                let Snapshot { namespaces, pools, .. } = &mut self.snapshot;
                let known = (!reading.is_without_namespaces).then_some(&*namespaces);
                let report =
                    &mut Report { file: &document.file, object: &document.key, problems: &mut self.problems };
                self.names.pool(report);
                let pool = typed::<crd::IPAddressPool>(value, report)
                    .and_then(|object| pool(object, known, report))
                    .filter(|pool| is_apart(pool, &*pools, report));
                pools.extend(pool.map(|pool| (name, pool)));
            }
            "L2Advertisement" => {
                let report =
                    &mut Report { file: &document.file, object: &document.key, problems: &mut self.problems };
                let Some(object) = typed::<crd::L2Advertisement>(value, report) else { return };
                self.names.uses_pools(&object.spec.ip_address_pools, report);
                let advertisement = l2_advertisement(object, report);
                self.snapshot
                    .l2_advertisements
                    .extend(advertisement.map(|advertisement| (name, advertisement)));
            }
            "ServiceCIDR" => {
                let networks = self.report(document, |report| service_cidr(typed(value, report)?, report));
                self.snapshot.service_cidrs.extend(networks.map(|networks| (name, networks)));
            }
            "BGPPeer" => match value["apiVersion"].as_str() {
                Some("metallb.io/v1beta1") => self.add_bgp::<crd::v1beta1::BGPPeer>(document),
                _ => self.add_bgp::<crd::v1beta2::BGPPeer>(document),
            },
            "BGPAdvertisement" => self.add_bgp::<crd::BGPAdvertisement>(document),
            "Community" => self.add_bgp::<crd::Community>(document),
            "BFDProfile" => self.add_bgp::<crd::BFDProfile>(document),
            // What agents write.
            "ServiceL2Status" | "ServiceBGPStatus" | "ConfigurationState" => {}
            "Secret" if name == "memberlist" => {
                let secret = self.report(document, |report| gossip_secret(value, report));
                self.snapshot.gossip_secret = secret.or(self.snapshot.gossip_secret.take());
            }
            _ if is_used(&document.key) => {}
            _ => {
                self.report(document, |report| {
                    report.add(Severity::Warning, "kind", ProblemKind::UnusedKind);
                });
            }
        }
    }

    fn add_bgp<T: Bgp + DeserializeOwned + Resource<DynamicType = ()>>(&mut self, document: &Document) {
        let report =
            &mut Report { file: &document.file, object: &document.key, problems: &mut self.problems };
        if let Some(object) = typed::<T>(&document.value, report) {
            report.add(Severity::Warning, "", ProblemKind::NotAnnounced);
            object.name(&mut self.names, &mut self.together, report);
        }
    }

    fn add_slice(&mut self, document: &Document, namespace: &str) {
        let Some(object) = self.report(document, |report| typed(&document.value, report)) else { return };
        let mut problems = Vec::new();
        let report = &mut Report { file: &document.file, object: &document.key, problems: &mut problems };
        // A slice of a Service that is not ours is nothing to speak of.
        if let Some(slice) = slice(object, namespace, &mut self.texts, report)
            && let Some(service) = self.snapshot.services.get_mut(&slice.service)
        {
            join(&slice, Arc::make_mut(service), report);
            self.problems.append(&mut problems);
        }
    }
}

/// Others have kinds of the same names, as Calico has a BGPPeer.
fn is_foreign(value: &Value) -> bool {
    let group = value["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    group.is_some_and(|(group, _)| group != "metallb.io")
}

#[cfg(test)]
mod tests;
