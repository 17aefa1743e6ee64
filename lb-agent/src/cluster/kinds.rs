//! The kinds that are read and written, as the API server has them.

use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject},
};

/// A kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub scope: Scope,
    /// The one object that is read, by its name; all if there is none.
    pub only: Option<&'static str>,
}

/// Where objects of a kind stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// In no namespace.
    Cluster,
    /// In any.
    Namespaced,
    /// In any, and only those of our own count.
    Own,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
) -> Kind {
    Kind { group, version, kind, plural, scope, only: None }
}

/// One object of our own namespace: the right to read others is not needed.
const fn only(kind: &'static str, plural: &'static str, name: &'static str) -> Kind {
    Kind { group: "", version: "v1", kind, plural, scope: Scope::Own, only: Some(name) }
}

const METALLB: &str = "metallb.io";
const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) const SERVICE: Kind = kind("", "v1", "Service", "services", Scope::Namespaced);
const SLICES: Kind = kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", Scope::Namespaced);
const POOL: Kind = kind(METALLB, "v1beta1", "IPAddressPool", "ipaddresspools", Scope::Own);
/// Of which a node writes its own, and nobody else.
pub(super) const L2_STATUS: Kind =
    kind(METALLB, "v1beta1", "ServiceL2Status", "servicel2statuses", Scope::Own);

/// What both roles read.
const COMMON: [Kind; 9] = [
    SERVICE,
    kind("", "v1", "Node", "nodes", Scope::Cluster),
    POOL,
    kind(METALLB, "v1beta1", "L2Advertisement", "l2advertisements", Scope::Own),
    kind(METALLB, "v1beta1", "BGPAdvertisement", "bgpadvertisements", Scope::Own),
    kind(METALLB, "v1beta2", "BGPPeer", "bgppeers", Scope::Own),
    kind(METALLB, "v1beta1", "BFDProfile", "bfdprofiles", Scope::Own),
    kind(METALLB, "v1beta1", "Community", "communities", Scope::Own),
    // MetalLB's configuration before it had kinds of its own.
    only("ConfigMap", "configmaps", "config"),
];

/// What a controller reads beside that.
const OF_CONTROLLER: [Kind; 3] = [
    // How many backends a table is for.
    SLICES,
    kind("", "v1", "Namespace", "namespaces", Scope::Cluster),
    kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", Scope::Cluster),
];

/// What a node reads beside that.
const OF_NODE: [Kind; 3] = [
    // Its UID is the cluster's.
    Kind { only: Some("kube-system"), ..kind("", "v1", "Namespace", "namespaces", Scope::Cluster) },
    SLICES,
    only("Secret", "secrets", "memberlist"),
];

/// How an agent finds its configuration.
pub(super) const CONFIGURATION_STATE: Kind =
    kind(METALLB, "v1beta1", "ConfigurationState", "configurationstates", Scope::Own);

/// What is written.
const WRITTEN: [Kind; 5] =
    [SERVICE, POOL, kind("", "v1", "Event", "events", Scope::Namespaced), CONFIGURATION_STATE, L2_STATUS];

/// What the two roles read together, each kind once.
pub(super) fn of_both() -> impl Iterator<Item = Kind> {
    COMMON.into_iter().chain(OF_CONTROLLER).chain(OF_NODE)
}

/// What there is of a MetalLB installation beside what a controller reads.
pub(super) const OF_INSTALLATION: [Kind; 11] = [
    kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", Scope::Namespaced),
    kind("apps", "v1", "Deployment", "deployments", Scope::Own),
    kind("apps", "v1", "DaemonSet", "daemonsets", Scope::Own),
    kind("", "v1", "Pod", "pods", Scope::Own),
    kind("", "v1", "ConfigMap", "configmaps", Scope::Own),
    kind("", "v1", "ServiceAccount", "serviceaccounts", Scope::Own),
    kind(RBAC, "v1", "Role", "roles", Scope::Own),
    kind(RBAC, "v1", "RoleBinding", "rolebindings", Scope::Own),
    kind(RBAC, "v1", "ClusterRole", "clusterroles", Scope::Cluster),
    kind(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", Scope::Cluster),
    kind(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        Scope::Cluster,
    ),
];
/// Of frr-k8s, which MetalLB may speak BGP by.
pub(super) const FRR_CONFIGURATION: Kind =
    kind("frrk8s.metallb.io", "v1beta1", "FRRConfiguration", "frrconfigurations", Scope::Namespaced);
/// Of which there are many, and large ones.
pub(super) const DEFINITION: Kind = kind(
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    Scope::Cluster,
);
/// What is in them is nobody's business but for the one that is asked for.
pub(super) const SECRET: Kind = kind("", "v1", "Secret", "secrets", Scope::Own);

/// What a controller reads.
pub(super) fn of_controller() -> impl Iterator<Item = Kind> {
    COMMON.into_iter().chain(OF_CONTROLLER)
}

/// What a node reads: Nodes as a whole, for of each it needs its addresses, the networks of its pods, its taints and conditions.
pub(super) fn of_node() -> impl Iterator<Item = Kind> {
    COMMON.into_iter().chain(OF_NODE)
}

impl Kind {
    /// Whether its definition may go, and with it all its objects, though nobody wants to be without them: MetalLB's chart uninstalls both.
    pub fn is_defined(self) -> bool {
        self.group == METALLB
    }

    /// As objects name it.
    pub fn api_version(self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// Objects that are read, with `own` as our own namespace.
    pub fn read(self, client: Client, own: &str) -> Api<DynamicObject> {
        match self.scope {
            Scope::Cluster | Scope::Namespaced => Api::all_with(client, &self.resource()),
            Scope::Own => Api::namespaced_with(client, own, &self.resource()),
        }
    }

    /// Objects of a namespace that are written; empty for none.
    pub fn write(self, client: Client, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(client, &self.resource()),
            namespace => Api::namespaced_with(client, namespace, &self.resource()),
        }
    }

    /// The kind of that name among those that are written.
    pub fn written(name: &str) -> Option<Self> {
        WRITTEN.into_iter().find(|kind| kind.kind == name)
    }
}
