//! MetalLB's old configuration, of the versions before 0.13: ConfigMap `config`, whose key `config` is a document of its own
//! (`internal/config/config.go` up to v0.12). It becomes the objects that replaced it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    crd::{
        BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, Community, CommunityAlias,
        CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec,
        v1beta2::{BGPPeer, BGPPeerSpec},
    },
    document::{Document, fitted},
    problem::{ObjectKey, ProblemKind, Report, Severity},
};

/// Whether an object is that ConfigMap.
pub(crate) fn is_config(key: &ObjectKey) -> bool {
    key.kind == "ConfigMap" && key.name == NAME
}

/// What stands in it, as the objects that replaced it; nothing of what is wrong.
pub(crate) fn objects(document: &Document, report: &mut Report<'_>) -> Vec<Document> {
    let Some(text) = document.value.pointer("/data/config").and_then(Value::as_str) else {
        report.add(Severity::Error, FIELD, ProblemKind::NoConfig);
        return Vec::new();
    };
    let value = match serde_saphyr::from_str::<Value>(text) {
        Ok(value) => value,
        Err(error) => {
            let message = error.to_string().lines().next().unwrap_or_default().to_owned();
            report.add(Severity::Error, FIELD, ProblemKind::Type { message });
            return Vec::new();
        }
    };
    let Some(config) = fitted::<Config>(&value, &format!("{FIELD}."), report) else { return Vec::new() };
    let mut made = Made { of: document, documents: Vec::new() };
    config.make(&mut made, report);
    made.documents
}

/// Where an object stands that is in it, for people.
pub(crate) fn place_in_config(file: &str, config: &ObjectKey) -> String {
    format!("{file}: {config}")
}

const NAME: &str = "config";
const FIELD: &str = "data.config";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Config {
    peers: Vec<Peer>,
    bgp_communities: BTreeMap<String, String>,
    address_pools: Vec<AddressPool>,
    bfd_profiles: Vec<Profile>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Peer {
    my_asn: u32,
    peer_asn: u32,
    peer_address: String,
    source_address: Option<String>,
    peer_port: Option<u16>,
    hold_time: Option<String>,
    keepalive_time: Option<String>,
    router_id: Option<String>,
    password: Option<String>,
    #[serde(default)]
    node_selectors: Vec<NodeSelector>,
    /// MetalLB's own sample has the second spelling, which its parser refuses.
    #[serde(alias = "bfdProfile")]
    bfd_profile: Option<String>,
    ebgp_multihop: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct NodeSelector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<LabelSelectorRequirement>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AddressPool {
    name: String,
    protocol: Protocol,
    addresses: Vec<String>,
    auto_assign: Option<bool>,
    #[serde(default)]
    avoid_buggy_ips: bool,
    #[serde(default)]
    bgp_advertisements: Vec<Advertisement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Layer2,
    Bgp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Advertisement {
    aggregation_length: Option<i32>,
    aggregation_length_v6: Option<i32>,
    localpref: Option<u32>,
    communities: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Profile {
    name: String,
    receive_interval: Option<u32>,
    transmit_interval: Option<u32>,
    detect_multiplier: Option<u32>,
    echo_interval: Option<u32>,
    echo_mode: Option<bool>,
    passive_mode: Option<bool>,
    minimum_ttl: Option<u32>,
}

/// The objects so far.
struct Made<'a> {
    of: &'a Document,
    documents: Vec<Document>,
}

impl Made<'_> {
    fn add<T: Resource<DynamicType = ()> + Serialize>(&mut self, mut object: T) {
        let namespace = self.of.key.namespace.clone();
        let name = object.meta().name.clone().unwrap_or_default();
        object.meta_mut().namespace = Some(namespace.clone());
        let key = ObjectKey { kind: T::kind(&()).into_owned(), namespace, name };
        // A derived type is always a value.
        if let Ok(value) = serde_json::to_value(object) {
            let file = place_in_config(&self.of.file, &self.of.key);
            self.documents.push(Document { file, key, value });
        }
    }
}

impl Config {
    /// Names and numbers are those of MetalLB's converter (`configmaptocrs/main.go`): who has converted once finds the same objects.
    fn make(self, made: &mut Made<'_>, report: &mut Report<'_>) {
        for (number, peer) in (1..).zip(self.peers) {
            made.add(BGPPeer::new(&format!("peer{number}"), peer.spec()));
        }
        let (mut l2, mut bgp) = (0, 0);
        for (i, pool) in self.address_pools.into_iter().enumerate() {
            let name = normalised(&pool.name);
            let spec = IPAddressPoolSpec {
                addresses: pool.addresses,
                auto_assign: pool.auto_assign.unwrap_or(true),
                avoid_buggy_ips: pool.avoid_buggy_ips,
                service_allocation: None,
            };
            made.add(IPAddressPool::new(&name, spec));
            match pool.protocol {
                Protocol::Layer2 => {
                    if !pool.bgp_advertisements.is_empty() {
                        let field = format!("{FIELD}.address-pools[{i}].bgp-advertisements");
                        report.add(Severity::Error, field, ProblemKind::NotWithLayer2);
                    }
                    l2 += 1;
                    let spec = L2AdvertisementSpec { ip_address_pools: vec![name], ..Default::default() };
                    made.add(L2Advertisement::new(&format!("l2advertisement{l2}"), spec));
                }
                Protocol::Bgp => {
                    let mut advertisements = pool.bgp_advertisements;
                    if advertisements.is_empty() {
                        advertisements.push(Advertisement::default());
                    }
                    for advertisement in advertisements {
                        bgp += 1;
                        let spec = advertisement.spec(name.clone());
                        made.add(BGPAdvertisement::new(&format!("bgpadvertisement{bgp}"), spec));
                    }
                }
            }
        }
        if !self.bgp_communities.is_empty() {
            let aliases = self.bgp_communities.into_iter();
            let communities = aliases.map(|(name, value)| CommunityAlias { name, value }).collect();
            made.add(Community::new("communities", CommunitySpec { communities }));
        }
        for profile in self.bfd_profiles {
            made.add(BFDProfile::new(&normalised(&profile.name), profile.spec()));
        }
    }
}

impl Peer {
    fn spec(self) -> BGPPeerSpec {
        BGPPeerSpec {
            my_asn: self.my_asn,
            peer_asn: Some(self.peer_asn),
            peer_address: Some(self.peer_address),
            source_address: self.source_address,
            peer_port: self.peer_port.unwrap_or(179),
            hold_time: self.hold_time,
            keepalive_time: self.keepalive_time,
            router_id: self.router_id,
            password: self.password,
            node_selectors: self.node_selectors.into_iter().map(NodeSelector::selector).collect(),
            bfd_profile: self.bfd_profile.map(|name| normalised(&name)),
            ebgp_multi_hop: self.ebgp_multihop,
            ..Default::default()
        }
    }
}

impl NodeSelector {
    fn selector(self) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.match_labels).filter(|labels| !labels.is_empty()),
            match_expressions: Some(self.match_expressions).filter(|expressions| !expressions.is_empty()),
        }
    }
}

impl Advertisement {
    fn spec(self, pool: String) -> BGPAdvertisementSpec {
        BGPAdvertisementSpec {
            aggregation_length: self.aggregation_length.unwrap_or(32),
            aggregation_length_v6: self.aggregation_length_v6.unwrap_or(128),
            local_pref: self.localpref,
            communities: self.communities,
            ip_address_pools: vec![pool],
            ip_address_pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            peers: Vec::new(),
            service_selectors: Vec::new(),
        }
    }
}

impl Profile {
    fn spec(&self) -> BFDProfileSpec {
        BFDProfileSpec {
            receive_interval: self.receive_interval,
            transmit_interval: self.transmit_interval,
            detect_multiplier: self.detect_multiplier,
            echo_interval: self.echo_interval,
            echo_mode: self.echo_mode,
            passive_mode: self.passive_mode,
            minimum_ttl: self.minimum_ttl,
        }
    }
}

/// A name as an object can have it.
fn normalised(name: &str) -> String {
    let name = name.to_lowercase().replace('_', "-");
    name.trim_start_matches(|first: char| !first.is_ascii_lowercase()).chars().take(63).collect()
}

#[cfg(test)]
mod tests {
    use lb_core::model::Pool;

    use crate::{Decoded, Memory, decode};

    /// As MetalLB's documentation has it for 0.9, and some of what came until 0.12.
    const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {namespace: metallb-system, name: config}
data:
  config: |
    peers:
    - {peer-address: 10.0.0.1, peer-asn: 64501, my-asn: 64500, bfdProfile: fast, node-selectors: [{match-labels: {rack: a}}]}
    bgp-communities: {no-export: '65535:65281'}
    bfd-profiles: [{name: fast, transmit-interval: 50}]
    address-pools:
    - name: Default_Pool
      protocol: layer2
      addresses: [192.168.10.0/24, 192.168.9.1-192.168.9.5, 'fc00:f853:0ccd:e799::/124']
    - name: public
      protocol: bgp
      auto-assign: false
      avoid-buggy-ips: true
      addresses: [198.51.100.0/24]
      bgp-advertisements: [{aggregation-length: 24, localpref: 100, communities: [no-export]}]
";

    fn decoded(text: &str) -> Decoded {
        decode(&[("config.yaml".to_owned(), text.as_bytes().to_vec())].into())
    }

    fn words(decoded: &Decoded) -> Vec<String> {
        decoded.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_becomes_the_objects_that_replaced_it() {
        let decoded = decoded(CONFIG);
        let errors: Vec<_> = words(&decoded).into_iter().filter(|words| words.starts_with("error")).collect();
        assert_eq!(errors, Vec::<String>::new());
        let shown = |pool: &Pool| (pool.ranges.len(), pool.auto_assign, pool.avoid_buggy);
        assert_eq!(shown(&decoded.snapshot.pools["default-pool"]), (3, true, false));
        assert_eq!(shown(&decoded.snapshot.pools["public"]), (1, false, true));
        let l2 = &decoded.snapshot.l2_advertisements;
        assert_eq!(
            l2.keys().collect::<Vec<_>>(),
            ["l2advertisement1"],
            "what BGP announces is not announced by ARP"
        );
        assert!(l2["l2advertisement1"].pools.contains("default-pool"));
        let kinds: Vec<_> = decoded.origins.keys().map(|key| format!("{} {}", key.kind, key.name)).collect();
        for object in [
            "BGPPeer peer1",
            "BGPAdvertisement bgpadvertisement1",
            "Community communities",
            "BFDProfile fast",
        ] {
            assert!(kinds.contains(&object.to_owned()), "{object}: {kinds:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_it_is_said_with_its_place() {
        for (right, wrong, expected) in [
            (
                "protocol: layer2",
                "protocol: osi",
                "data.config.address-pools[0].protocol: unknown variant `osi`",
            ),
            (
                "      avoid-buggy-ips",
                "      avoid-bugs",
                "data.config.address-pools[1].avoid-bugs: is no field",
            ),
            ("    peers:", "    peers: [", "data.config: "),
            (
                "protocol: bgp",
                "protocol: layer2",
                "data.config.address-pools[1].bgp-advertisements: is for protocol bgp",
            ),
            ("  config: |", "  other: |", "data.config: is missing"),
        ] {
            let said = words(&decoded(&CONFIG.replace(right, wrong)));
            let place = format!(": config.yaml: ConfigMap metallb-system/config: {expected}");
            assert!(said.iter().any(|words| words.contains(&place)), "{said:#?}\nexpected {place}");
        }
        let said = words(&decoded(&CONFIG.replace("192.168.10.0/24", "192.168.10.0/33")));
        let place = "error: config.yaml: ConfigMap metallb-system/config: IPAddressPool metallb-system/default-pool: spec.addresses[0]: ";
        assert!(said.iter().any(|words| words.starts_with(place)), "{said:#?}");
    }

    #[test]
    fn what_goes_wrong_later_stays_as_it_was() {
        let mut memory = Memory::default();
        let mut settle = |text: &str| {
            let other = "{apiVersion: v1, kind: Node, metadata: {name: n1}}";
            let files = [("config.yaml", text), ("node.yaml", other)];
            let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into();
            let settled = memory.settle(&files);
            settled.snapshot.pools.len()
        };
        assert_eq!(settle(CONFIG), 2);
        assert_eq!(settle(&CONFIG.replace("    peers:", "    peers: [")), 2);
        assert_eq!(settle(&CONFIG.replace("protocol: layer2", "protocol: osi")), 2);
        assert_eq!(settle(CONFIG), 2);
    }
}
