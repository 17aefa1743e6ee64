//! What objects of BGP say of each other. What one of them says alone is in the definitions, what they may not say together in
//! [`Together`].

use crate::{
    crd::{BFDProfile, BGPAdvertisement, Community, v1beta1, v1beta2},
    names::{Name, Names},
    problem::{ProblemKind, Report, Severity},
    together::Together,
};

/// An object of BGP.
pub(crate) trait Bgp {
    /// Takes the names in it, and what depends on others; reports names that are there already.
    fn name(self, names: &mut Names, together: &mut Together, report: &mut Report<'_>);
}

impl Bgp for v1beta1::BGPPeer {
    fn name(self, names: &mut Names, together: &mut Together, report: &mut Report<'_>) {
        together.peer(self.spec.bfd_profile.as_deref(), report);
        names.peer(self.spec.bfd_profile, report);
    }
}

impl Bgp for v1beta2::BGPPeer {
    fn name(self, names: &mut Names, together: &mut Together, report: &mut Report<'_>) {
        together.peer(self.spec.bfd_profile.as_deref(), report);
        names.peer(self.spec.bfd_profile, report);
    }
}

impl Bgp for BFDProfile {
    fn name(self, names: &mut Names, together: &mut Together, report: &mut Report<'_>) {
        if self.spec.echo_mode == Some(true) {
            together.echoing(report);
        }
        names.has(Name::Profile(report.object.name.clone()), report);
    }
}

impl Bgp for BGPAdvertisement {
    fn name(self, names: &mut Names, together: &mut Together, report: &mut Report<'_>) {
        together.advertisement(&self.spec, report);
        names.uses_pools(&self.spec.ip_address_pools, report);
        for (i, peer) in self.spec.peers.into_iter().enumerate() {
            names.uses(Name::Peer(peer), format!("spec.peers[{i}]"), report);
        }
        for (i, text) in self.spec.communities.into_iter().enumerate().filter(|(_, text)| !is_community(text))
        {
            names.uses(Name::Community(text), format!("spec.communities[{i}]"), report);
        }
    }
}

impl Bgp for Community {
    fn name(self, names: &mut Names, _: &mut Together, report: &mut Report<'_>) {
        for (i, alias) in self.spec.communities.into_iter().enumerate() {
            let field = format!("spec.communities[{i}]");
            if !is_community(&alias.value) {
                report.bad_value(format!("{field}.value"), &alias.value, COMMUNITY);
                continue;
            }
            let name = Name::Community(alias.name);
            if let Some(other) = names.object(&name) {
                let kind = ProblemKind::NamedTwice { other: other.to_string() };
                report.add(Severity::Error, format!("{field}.name"), kind);
                continue;
            }
            names.has(name, report);
        }
    }
}

const COMMUNITY: &str = "a community (64512:100, large:64512:100:1)";
/// RFC 1997, RFC 8092.
fn is_community(text: &str) -> bool {
    // Rust takes a plus sign.
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["large", ref numbers @ ..] => {
            numbers.len() == 3 && numbers.iter().all(|part| is_number(part) && part.parse::<u32>().is_ok())
        }
        [a, b] => [a, b].iter().all(|part| is_number(part) && part.parse::<u16>().is_ok()),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{decode::decode, names::COMMUNITY_OR_ALIAS};

    /// An object of MetalLB's, in a document of its own, with a label that says its name.
    pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
        let version = if kind == "BGPPeer" { "v1beta2" } else { "v1beta1" };
        format!(
            "---\n{{apiVersion: metallb.io/{version}, kind: {kind}, metadata: {{name: {name}, labels: {{of: {name}}}}}, spec: {{{spec}}}}}\n"
        )
    }

    #[test]
    fn communities_are_of_two_numbers_or_large() {
        for good in ["0:0", "65535:65535", "064512:1", "large:0:0:0", "large:4294967295:1:2"] {
            assert!(is_community(good), "{good}");
        }
        for bad in
            ["", ":", "1:", "+1:1", "65536:1", "1:2:3", "large:1:2", "large:1:2:4294967296", "small:1:2:3"]
        {
            assert!(!is_community(bad), "{bad}");
        }
    }

    #[test]
    fn names_of_what_is_not_there_are_reported_in_any_order() {
        let good = [
            object("BGPAdvertisement", "adv", "peers: [tor], communities: ['1:1', ours]"),
            object("BGPPeer", "tor", "myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, bfdProfile: fast"),
            object("BFDProfile", "fast", ""),
            object("Community", "named", "communities: [{name: ours, value: '1:2'}]"),
        ];
        let said = |objects: &[String]| {
            let decoded = decode(&[("a.yaml".to_owned(), objects.concat().into_bytes())].into());
            let problems = decoded.problems.into_iter();
            let others = problems.filter(|problem| problem.kind != ProblemKind::NotAnnounced);
            others.map(|problem| problem.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(said(&good), [""; 0]);
        let without = |i: usize| {
            let mut objects = good.to_vec();
            objects.remove(i);
            said(&objects)
        };
        let not_there = "make it, or check the name";
        assert_eq!(
            [without(1), without(2), without(3)].concat(),
            [
                format!(
                    "warning: a.yaml: BGPAdvertisement default/adv: spec.peers[0]: there is no BGPPeer \"tor\": {not_there}"
                ),
                format!(
                    "error: a.yaml: BGPPeer default/tor: spec.bfdProfile: there is no BFDProfile \"fast\": {not_there}"
                ),
                format!(
                    "error: a.yaml: BGPAdvertisement default/adv: spec.communities[1]: \"ours\" is not {COMMUNITY_OR_ALIAS}"
                ),
            ]
        );
        let mut twice = good.to_vec();
        twice.push(object(
            "Community",
            "again",
            "communities: [{name: ours, value: '1:3'}, {name: x, value: '1'}]",
        ));
        let found = [
            "error: a.yaml: Community default/again: spec.communities[0].name: Community default/named has a community of this \
             name already: leave out one of them",
            "error: a.yaml: Community default/again: spec.communities[1].value: \"1\" is not a community (64512:100, \
             large:64512:100:1)",
        ];
        assert_eq!(said(&twice), found);
    }
}
