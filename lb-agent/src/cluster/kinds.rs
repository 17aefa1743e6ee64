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
    Kind { group, version, kind, plural, scope }
}

const METALLB: &str = "metallb.io";

pub(super) const SERVICE: Kind = kind("", "v1", "Service", "services", Scope::Namespaced);

/// What a controller reads.
pub(super) const OF_CONTROLLER: [Kind; 10] = [
    SERVICE,
    kind("", "v1", "Node", "nodes", Scope::Cluster),
    kind("", "v1", "Namespace", "namespaces", Scope::Cluster),
    kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", Scope::Cluster),
    kind(METALLB, "v1beta1", "IPAddressPool", "ipaddresspools", Scope::Own),
    kind(METALLB, "v1beta1", "L2Advertisement", "l2advertisements", Scope::Own),
    kind(METALLB, "v1beta1", "BGPAdvertisement", "bgpadvertisements", Scope::Own),
    kind(METALLB, "v1beta2", "BGPPeer", "bgppeers", Scope::Own),
    kind(METALLB, "v1beta1", "BFDProfile", "bfdprofiles", Scope::Own),
    kind(METALLB, "v1beta1", "Community", "communities", Scope::Own),
];

/// What is written beside them.
pub(super) const WRITTEN: [Kind; 3] = [
    kind("", "v1", "Event", "events", Scope::Namespaced),
    kind(METALLB, "v1beta1", "ConfigurationState", "configurationstates", Scope::Own),
    kind(METALLB, "v1beta1", "ServiceL2Status", "servicel2statuses", Scope::Own),
];

impl Kind {
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

    /// The kind of that name.
    pub fn of(name: &str) -> Option<Self> {
        OF_CONTROLLER.into_iter().chain(WRITTEN).find(|kind| kind.kind == name)
    }
}
