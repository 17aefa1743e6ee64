//! What a step does to an object, and how kubectl says it.

use serde_json::Value;

/// Something that is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Objects are written into files.
    Backup {
        /// MetalLB's kinds that there are, as kubectl names them.
        kinds: Vec<String>,
    },
    /// An object is changed, by a merge patch.
    Patch {
        /// Which.
        object: Object,
        /// How.
        patch: Value,
    },
    /// An object is deleted.
    Delete(Object),
    /// A Secret is made that has a `secretkey`, which nobody knows.
    MakeSecret(Object),
}

/// An object to do something to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace; empty for none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What steps change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `CustomResourceDefinition`.
    Definition,
    /// `ValidatingWebhookConfiguration`.
    Webhooks,
    /// `Service`.
    Service,
    /// `Secret`.
    Secret,
    /// `Deployment`.
    Deployment,
    /// `DaemonSet`.
    DaemonSet,
}

impl Resource {
    /// Group, version, kind and plural.
    pub const fn names(self) -> [&'static str; 4] {
        match self {
            Self::Definition => {
                ["apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"]
            }
            Self::Webhooks => [
                "admissionregistration.k8s.io",
                "v1",
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
            ],
            Self::Service => ["", "v1", "Service", "services"],
            Self::Secret => ["", "v1", "Secret", "secrets"],
            Self::Deployment => ["apps", "v1", "Deployment", "deployments"],
            Self::DaemonSet => ["apps", "v1", "DaemonSet", "daemonsets"],
        }
    }
}

impl Object {
    /// As kubectl wants it: with its namespace before it.
    fn words(&self, verb: &str) -> String {
        let kind = self.resource.names()[2].to_lowercase();
        match self.namespace.as_str() {
            "" => format!("kubectl {verb} {kind} {}", self.name),
            namespace => format!("kubectl -n {namespace} {verb} {kind} {}", self.name),
        }
    }
}

impl Action {
    /// The same by kubectl, for objects in MetalLB's namespace, with the backup in that directory.
    pub fn commands(&self, namespace: &str, backup: &str) -> Vec<String> {
        match self {
            Self::Backup { kinds } => vec![
                format!("mkdir -m 700 {backup}"),
                format!(
                    "kubectl get customresourcedefinitions,validatingwebhookconfigurations,clusterroles,clusterrolebindings -o yaml >{backup}/cluster.yaml"
                ),
                format!(
                    "kubectl -n {namespace} get {} -o yaml >{backup}/{namespace}.yaml",
                    [&OTHERS.map(str::to_owned), kinds.as_slice()].concat().join(",")
                ),
                format!("kubectl get services --all-namespaces >{backup}/addresses.txt"),
            ],
            Self::Patch { object, patch } => {
                vec![format!("{} --type=merge -p '{patch}'", object.words("patch"))]
            }
            Self::Delete(object) => vec![object.words("delete")],
            Self::MakeSecret(object) => vec![format!(
                "kubectl -n {} create secret generic {} --from-literal=secretkey=\"$(openssl rand -base64 128)\"",
                object.namespace, object.name
            )],
        }
    }
}

/// What else there is of MetalLB in its namespace.
const OTHERS: [&str; 6] =
    ["configmaps", "deployments", "daemonsets", "serviceaccounts", "roles", "rolebindings"];
