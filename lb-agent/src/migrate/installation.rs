//! A MetalLB installation as it is found: all its objects, what we make of them, and which of them do what.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_api::{Memory, Mirror, ObjectKey, Reading, Settled};
use lb_core::allocate::{Allocator, PoolEdit};
use serde_json::Value;

/// Objects of a cluster, and what a controller of ours would decide by them.
#[derive(Debug)]
pub struct Installation {
    /// MetalLB's namespace.
    pub namespace: String,
    /// What a controller of ours would decide.
    pub settled: Settled,
    /// It is a cluster that was read: what is not there is not there.
    pub is_live: bool,
    objects: BTreeMap<ObjectKey, Value>,
}

/// Flags that mean the same with us.
pub const LB_CLASS: &str = "lb-class";
pub const IGNORE_EXCLUDE_LB: &str = "ignore-exclude-lb";

/// Which part of MetalLB, or of us, an object runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What gives addresses.
    Controller,
    /// What announces them, on each node.
    Speaker,
}

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// MetalLB's.
    MetalLb,
    /// Ours: it may have the same name.
    Ours,
}

impl Installation {
    /// From files, by name.
    pub fn of_files(files: &BTreeMap<String, Vec<u8>>, namespace: &str) -> Self {
        let (installation, mut allocator) =
            (Self::new(namespace, lb_api::objects(files), false), allocator());
        let mut memory = Memory::default();
        memory.set_reading(installation.reading());
        let settled = memory.settle_by(files, |snapshot| allocator.handle_snapshot(snapshot, Instant::now()));
        Self { settled, ..installation }
    }

    /// From objects as an API server tells of them.
    pub fn of_objects(objects: Vec<Value>, namespace: &str) -> Self {
        let (installation, mut allocator) = (Self::new(namespace, objects, true), allocator());
        let mut mirror = Mirror::new(installation.reading());
        for object in installation.objects.values().filter(|object| is_read(object, namespace)) {
            mirror.insert(object.clone());
        }
        let settled = mirror.settle(|snapshot, _, allocation| {
            *allocation = allocator.handle_snapshot(snapshot, Instant::now());
        });
        Self { settled: settled.clone(), ..installation }
    }

    fn new(namespace: &str, objects: Vec<Value>, is_live: bool) -> Self {
        let objects = objects.into_iter().map(|object| (key_of(&object), object)).collect();
        Self { namespace: namespace.to_owned(), settled: Settled::default(), is_live, objects }
    }

    /// As MetalLB reads objects, and after it we.
    fn reading(&self) -> Reading {
        let ignore = self.flag_of_either("DaemonSet", Part::Speaker, IGNORE_EXCLUDE_LB);
        Reading {
            lb_class: self.class(),
            ignore_exclude_lb: ignore.is_some_and(|value| value != "false"),
            ..Reading::default()
        }
    }

    /// The class of the Services that are served; none for those without any.
    pub fn class(&self) -> Option<String> {
        self.flag_of_either("Deployment", Part::Controller, LB_CLASS).filter(|class| !class.is_empty())
    }

    /// MetalLB's, or ours when MetalLB is gone.
    fn flag_of_either(&self, kind: &str, part: Part, flag: &str) -> Option<String> {
        let of = |whose| self.flag(kind, whose, part, flag).map(|(_, value)| value);
        of(Whose::MetalLb).or_else(|| of(Whose::Ours))
    }

    /// All objects of a kind, in the order of namespace and name.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a ObjectKey, &'a Value)> {
        self.objects.iter().filter(move |(key, _)| key.kind == kind)
    }

    /// All objects.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        self.objects.iter()
    }

    /// An object in MetalLB's namespace.
    pub fn own(&self, kind: &str, name: &str) -> Option<&Value> {
        let key =
            ObjectKey { kind: kind.to_owned(), namespace: self.namespace.clone(), name: name.to_owned() };
        self.objects.get(&key)
    }

    /// Deployments, DaemonSets or Pods that run a part; MetalLB's are in its namespace, ours anywhere.
    pub fn running<'a>(
        &'a self,
        kind: &'a str,
        whose: Whose,
        part: Part,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Value)> {
        self.of_kind(kind).filter(move |(key, object)| {
            let is_here = whose == Whose::Ours || key.namespace == self.namespace;
            is_here && self::whose(object) == Some(whose) && self::part(object) == Some(part)
        })
    }

    /// The definitions of MetalLB's kinds that are installed.
    pub fn definitions(&self) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        self.of_kind("CustomResourceDefinition").filter(|(key, _)| is_of_metallb(&key.name))
    }

    /// MetalLB's webhook configurations: all that they are for are its kinds, and whom they ask is in its namespace.
    pub fn webhooks(&self) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        let is_of_metallb = |webhook: &Value| {
            let rules = webhook["rules"].as_array().into_iter().flatten();
            let groups = rules.flat_map(|rule| rule["apiGroups"].as_array().into_iter().flatten());
            let groups: Vec<&Value> = groups.collect();
            let is_group = !groups.is_empty() && groups.iter().all(|group| **group == "metallb.io");
            is_group && webhook["clientConfig"]["service"]["namespace"] == self.namespace.as_str()
        };
        self.of_kind("ValidatingWebhookConfiguration").filter(move |(_, object)| {
            let webhooks = object["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
            !webhooks.is_empty() && webhooks.iter().all(is_of_metallb)
        })
    }

    /// Whether anything of MetalLB's is there: what runs, or objects that configure it.
    pub fn is_there(&self) -> bool {
        let is_configured = self.settled.origins.keys().any(|key| key.kind == "IPAddressPool");
        is_configured
            || self.running("Deployment", Whose::MetalLb, Part::Controller).next().is_some()
            || self.running("DaemonSet", Whose::MetalLb, Part::Speaker).next().is_some()
    }

    /// The value of a flag of a part: `--flag=value` or `--flag value`, and empty if it stands alone.
    pub fn flag(&self, kind: &str, whose: Whose, part: Part, flag: &str) -> Option<(&ObjectKey, String)> {
        let kind = if kind == "Deployment" { "Deployment" } else { "DaemonSet" };
        self.running(kind, whose, part).find_map(|(key, object)| {
            let words = containers(object).flat_map(arguments).collect::<Vec<_>>();
            let at = words.iter().position(|word| {
                let word = word.trim_start_matches('-');
                word == flag || word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))
            })?;
            let value = match words[at].split_once('=') {
                Some((_, value)) => value,
                None => words.get(at + 1).filter(|next| !next.starts_with('-')).copied().unwrap_or_default(),
            };
            Some((key, value.to_owned()))
        })
    }
}

/// Whether a definition is of one of MetalLB's kinds, by its name.
pub fn is_of_metallb(definition: &str) -> bool {
    definition.split_once('.').is_some_and(|(_, group)| group == "metallb.io")
}

/// A text in an object.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An annotation of an object.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

/// A label of an object.
pub fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["labels"][name].as_str()
}

/// Kind, namespace and name of an object.
fn key_of(object: &Value) -> ObjectKey {
    let kind = text(object, "/kind");
    let namespace = match (text(object, "/metadata/namespace"), kind) {
        ("", "Node" | "Namespace" | "ServiceCIDR" | "CustomResourceDefinition") => "",
        ("", "ValidatingWebhookConfiguration" | "ClusterRole" | "ClusterRoleBinding") => "",
        ("", _) => "default",
        (namespace, _) => namespace,
    };
    ObjectKey {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: text(object, "/metadata/name").to_owned(),
    }
}

/// Nothing rests, for nothing was given before.
fn allocator() -> Allocator {
    Allocator::new(Duration::ZERO, PoolEdit::Keep)
}

/// Whether a controller of ours reads it.
fn is_read(object: &Value, namespace: &str) -> bool {
    let is_own = text(object, "/metadata/namespace") == namespace;
    match text(object, "/kind") {
        "Service" | "Node" | "Namespace" | "ServiceCIDR" => true,
        "IPAddressPool" | "L2Advertisement" | "BGPAdvertisement" | "BGPPeer" | "BFDProfile" | "Community" => {
            is_own
        }
        "ConfigMap" => is_own && text(object, "/metadata/name") == "config",
        _ => false,
    }
}

fn whose(object: &Value) -> Option<Whose> {
    let is_image = containers(object).any(|container| {
        let image = container["image"].as_str().unwrap_or_default();
        ["metallb/controller", "metallb/speaker"].iter().any(|name| image.contains(name))
    });
    if is_image {
        return Some(Whose::MetalLb);
    }
    let is_ours = containers(object).any(|container| {
        let image = container["image"].as_str().unwrap_or_default();
        let name = image.rsplit('/').next().unwrap_or_default();
        let is_role = arguments(container).next().is_some_and(|word| matches!(word, "controller" | "node"));
        name.starts_with("lb-agent") || name.starts_with("magnetite") || is_role
    });
    if is_ours {
        return Some(Whose::Ours);
    }
    let is_labelled =
        ["app", "app.kubernetes.io/name"].iter().any(|name| label(object, name) == Some("metallb"));
    is_labelled.then_some(Whose::MetalLb)
}

fn part(object: &Value) -> Option<Part> {
    let of = |name: &str| match name {
        "controller" => Some(Part::Controller),
        "speaker" | "node" => Some(Part::Speaker),
        _ => None,
    };
    let labels = ["component", "app.kubernetes.io/component"];
    let labelled = labels.iter().find_map(|name| of(label(object, name)?));
    labelled.or_else(|| containers(object).find_map(|container| of(container["name"].as_str()?)))
}

/// Of a workload or of a pod.
fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    let places = ["/spec/template/spec/containers", "/spec/containers"];
    places.into_iter().filter_map(|place| object.pointer(place)?.as_array()).flatten()
}

fn arguments(container: &Value) -> impl Iterator<Item = &str> {
    let words = ["command", "args"].into_iter().filter_map(|field| container[field].as_array()).flatten();
    let words = words.filter_map(Value::as_str);
    // The program itself is none.
    words.filter(|word| !word.contains('/') || word.starts_with('-'))
}
