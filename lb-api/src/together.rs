//! What MetalLB refuses of objects of BGP together, where each is right by itself (`internal/config/config.go`,
//! `internal/config/validation.go`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_core::model::{AddressRange, Family, Pool, Selector};

use crate::{
    crd::BGPAdvertisementSpec,
    problem::{ObjectKey, Problem, ProblemKind, Report, Severity},
    selector::selectors,
};

/// What is known of objects of BGP, until all have been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Together {
    advertisements: Vec<Advertisement>,
    /// Peers, and their profiles.
    peers: Vec<(Place, String)>,
    /// Profiles with `echoMode`.
    echoing: BTreeSet<String>,
}

/// Where an object stands.
#[derive(Clone, Debug)]
struct Place {
    file: String,
    object: ObjectKey,
}

#[derive(Clone, Debug)]
struct Advertisement {
    place: Place,
    pools: Vec<String>,
    pool_selectors: Vec<Selector>,
    /// None for all.
    peers: Vec<String>,
    node_selectors: Vec<LabelSelector>,
    /// Of IPv4 and IPv6.
    lengths: [i32; 2],
    local_pref: u32,
    is_of_all_services: bool,
}

impl Together {
    /// An advertisement is there.
    pub fn advertisement(&mut self, spec: &BGPAdvertisementSpec, report: &mut Report<'_>) {
        let Some(pool_selectors) =
            selectors("spec.ipAddressPoolSelectors", spec.ip_address_pool_selectors.clone(), report)
        else {
            return;
        };
        self.advertisements.push(Advertisement {
            place: Place::of(report),
            pools: spec.ip_address_pools.clone(),
            pool_selectors,
            peers: spec.peers.clone(),
            node_selectors: spec.node_selectors.clone(),
            lengths: [spec.aggregation_length, spec.aggregation_length_v6],
            local_pref: spec.local_pref.unwrap_or_default(),
            is_of_all_services: spec.service_selectors.is_empty(),
        });
    }

    /// A peer has this profile.
    pub fn peer(&mut self, profile: Option<&str>, report: &Report<'_>) {
        self.peers.extend(profile.map(|profile| (Place::of(report), profile.to_owned())));
    }

    /// A profile has `echoMode`.
    pub fn echoing(&mut self, report: &Report<'_>) {
        self.echoing.insert(report.object.name.clone());
    }

    /// What is wrong with them together, with these pools.
    pub fn problems(&self, pools: &BTreeMap<String, Pool>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (place, advertisement) in self.advertisements.iter().enumerate() {
            for (name, pool) in pools.iter().filter(|(name, pool)| advertisement.selects(name, pool)) {
                problems.extend(advertisement.too_wide(name, pool));
                let before = self.advertisements[..place].iter().filter(|other| other.selects(name, pool));
                problems.extend(before.filter_map(|other| advertisement.contradicts(other, name, pool)));
            }
        }
        for (place, profile) in self.peers.iter().filter(|(_, profile)| self.echoing.contains(profile)) {
            let told = self.advertisements.iter().filter(|one| one.tells(&place.object.name));
            let told: Vec<_> = told.collect();
            let is_told = |(name, pool): &(&String, &Pool)| {
                has_family(pool, Family::V6)
                    && told.iter().any(|advertisement| advertisement.selects(name, pool))
            };
            problems.extend(pools.iter().find(is_told).map(|(pool, _)| {
                let kind = ProblemKind::EchoWithIpv6 { profile: profile.clone(), pool: pool.clone() };
                place.problem("spec.bfdProfile", kind)
            }));
        }
        problems
    }
}

impl Place {
    fn of(report: &Report<'_>) -> Self {
        Self { file: report.file.to_owned(), object: report.object.clone() }
    }

    fn problem(&self, field: &str, kind: ProblemKind) -> Problem {
        Problem {
            file: self.file.clone(),
            object: Some(self.object.clone()),
            field: field.to_owned(),
            severity: Severity::Error,
            kind,
        }
    }
}

impl Advertisement {
    fn selects(&self, name: &str, pool: &Pool) -> bool {
        self.pools.is_empty() && self.pool_selectors.is_empty()
            || self.pools.iter().any(|of| of == name)
            || self.pool_selectors.iter().any(|selector| selector.matches(&pool.labels))
    }

    /// An aggregate that no prefix of a range fills would draw traffic for addresses that are not the pool's.
    fn too_wide(&self, name: &str, pool: &Pool) -> Option<Problem> {
        pool.ranges.iter().find_map(|range| {
            let (place, field) = match range.first() {
                IpAddr::V4(_) => (0, "spec.aggregationLength"),
                IpAddr::V6(_) => (1, "spec.aggregationLengthV6"),
            };
            let (length, prefix) = (self.lengths[place], widest_prefix(range));
            (length < prefix).then(|| {
                let range = format!("{}-{}", range.first(), range.last());
                let kind = ProblemKind::TooWide { length, prefix, range, pool: name.to_owned() };
                self.place.problem(field, kind)
            })
        })
    }

    fn tells(&self, peer: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|of| of == peer)
    }

    /// One node cannot tell one peer of the same prefix with two preferences. Which nodes two different selectors have in common is not
    /// known here.
    fn contradicts(&self, other: &Self, name: &str, pool: &Pool) -> Option<Problem> {
        let families = [Family::V4, Family::V6].into_iter().zip(self.lengths.iter().zip(&other.lengths));
        let is_same_prefix = families.into_iter().any(|(family, (a, b))| a == b && has_family(pool, family));
        let have_peers = self.peers.is_empty() || other.peers.is_empty();
        let is_same_peer = have_peers || self.peers.iter().any(|peer| other.tells(peer));
        let nodes = [&self.node_selectors, &other.node_selectors];
        let is_same_node = nodes[0] == nodes[1] || nodes.iter().any(|selectors| selectors.is_empty());
        let are_checked = self.is_of_all_services && other.is_of_all_services;
        let is_same = is_same_prefix && is_same_peer && is_same_node && are_checked;
        (is_same && self.local_pref != other.local_pref).then(|| {
            let kind = ProblemKind::OtherPreference {
                other: other.place.object.to_string(),
                theirs: other.local_pref,
                pool: name.to_owned(),
            };
            self.place.problem("spec.localPref", kind)
        })
    }
}

fn has_family(pool: &Pool, family: Family) -> bool {
    pool.ranges.iter().any(|range| Family::of(&range.first()) == family)
}

/// Length of the shortest prefix all of whose addresses are in a range.
fn widest_prefix(range: &AddressRange) -> i32 {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let (first, last) = (number(range.first()), number(range.last()));
    let bits = if range.first().is_ipv4() { 32 } else { 128 };
    let fits = |length: &i32| {
        // All but the addresses of the prefix's hosts.
        let hosts = u128::MAX.checked_shr((128 - bits + length) as u32).unwrap_or(0);
        let begin = first.checked_add(hosts).map(|above| above & !hosts);
        begin.and_then(|begin| begin.checked_add(hosts)).is_some_and(|end| end <= last)
    };
    (0..=bits).find(fits).unwrap_or(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bgp::tests::object, decode::decode};

    #[test]
    fn a_range_has_a_widest_prefix() -> Result<(), std::net::AddrParseError> {
        for (first, last, length) in [
            ("192.0.2.0", "192.0.2.255", 24),
            ("192.0.2.1", "192.0.2.254", 26),
            ("192.0.2.7", "192.0.2.7", 32),
            ("0.0.0.0", "255.255.255.255", 0),
            ("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff", 64),
            ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 128),
        ] {
            let range = AddressRange::new(first.parse()?, last.parse()?);
            assert_eq!(range.as_ref().map(widest_prefix), Some(length), "{first}-{last}");
        }
        Ok(())
    }

    #[test]
    fn what_metallb_refuses_together_is_reported_in_any_order() {
        let pool =
            |name: &str, range: &str| object("IPAddressPool", name, &format!("addresses: ['{range}']"));
        let advertisement = |name: &str, spec: &str| object("BGPAdvertisement", name, spec);
        let said = |objects: &[String]| {
            let mut said = Vec::new();
            for is_reversed in [false, true] {
                let mut objects = objects.to_vec();
                if is_reversed {
                    objects.reverse();
                }
                let decoded = decode(&[("a.yaml".to_owned(), objects.concat().into_bytes())].into());
                let errors = decoded.problems.into_iter().filter(|one| one.severity == Severity::Error);
                said.push(errors.map(|one| one.field).collect::<Vec<_>>());
            }
            assert_eq!(said[0], said[1], "{objects:?}");
            said.remove(0)
        };
        let small = pool("small", "192.0.2.0/28");
        let (hundred, other) = (advertisement("a", "localPref: 100"), advertisement("b", "localPref: 200"));
        assert_eq!(said(&[small.clone(), hundred.clone(), other.clone()]), ["spec.localPref"]);
        assert_eq!(said(&[hundred.clone(), other]), [""; 0], "there is nothing to announce");
        let elsewhere = "localPref: 200, ipAddressPoolSelectors: [{matchLabels: {of: large}}]";
        assert_eq!(said(&[small.clone(), hundred.clone(), advertisement("b", elsewhere)]), [""; 0]);
        let of_some = "localPref: 200, serviceSelectors: [{matchLabels: {a: b}}]";
        assert_eq!(said(&[small.clone(), hundred.clone(), advertisement("b", of_some)]), [""; 0]);
        let lengths = "localPref: 200, aggregationLength: 30";
        assert_eq!(
            said(&[small.clone(), hundred.clone(), advertisement("b", lengths)]),
            [""; 0],
            "it has IPv4 alone"
        );
        assert_eq!(
            said(&[pool("six", "2001:db8::/64"), hundred, advertisement("b", lengths)]),
            ["spec.localPref"]
        );
        let at = |name: &str, local_pref: u32, rest: &str| {
            advertisement(name, &format!("localPref: {local_pref}, {rest}"))
        };
        let peers = [at("a", 1, "peers: [p, q]"), at("b", 2, "peers: [r]"), at("c", 2, "peers: [q]")];
        let peer = |name: &str| object("BGPPeer", name, "myASN: 1, peerASN: 2, peerAddress: 192.0.2.1");
        let three = ["p", "q", "r"].map(peer).concat();
        assert_eq!(said(&[small.clone(), three.clone(), peers[0].clone(), peers[1].clone()]), [""; 0]);
        assert_eq!(said(&[small.clone(), three, peers[0].clone(), peers[2].clone()]), ["spec.localPref"]);
        let nodes = |zone: &str| format!("nodeSelectors: [{{matchLabels: {{zone: {zone}}}}}]");
        let zones = [at("a", 1, &nodes("a")), at("b", 2, &nodes("b")), at("c", 2, &nodes("a"))];
        assert_eq!(said(&[small.clone(), zones[0].clone(), zones[1].clone()]), [""; 0]);
        assert_eq!(said(&[small.clone(), zones[0].clone(), zones[2].clone()]), ["spec.localPref"]);
        let wide = advertisement("a", "aggregationLength: 24");
        assert_eq!(said(&[small.clone(), wide.clone()]), ["spec.aggregationLength"]);
        assert_eq!(said(&[pool("large", "192.0.2.0/24"), wide]), [""; 0]);
        let simple_peer = peer;
        let peer = object("BGPPeer", "tor", "myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, bfdProfile: echo");
        let profile = object("BFDProfile", "echo", "echoMode: true");
        assert_eq!(said(&[small, peer.clone(), profile.clone()]), [""; 0]);
        let six = pool("six", "2001:db8::/64");
        assert_eq!(said(&[six.clone(), peer.clone(), profile.clone()]), [""; 0], "it is told of nothing");
        let of = |peers: &str| advertisement("a", peers);
        assert_eq!(said(&[six.clone(), peer.clone(), profile.clone(), of("")]), ["spec.bfdProfile"]);
        assert_eq!(
            said(&[six.clone(), peer.clone(), profile.clone(), of("peers: [tor]")]),
            ["spec.bfdProfile"]
        );
        assert_eq!(said(&[six, peer, profile, of("peers: [p]"), simple_peer("p")]), [""; 0]);
    }
}
