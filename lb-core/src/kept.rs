//! Which backends are used although their nodes are in trouble: new flows avoid no more than half of a service's nodes, for the others
//! could not carry it, and a verdict may be wrong.
//!
//! [`Standing`] bounds what is avoided in the whole cluster; a service may have all its pods on nodes that are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::layout::{Kept, MAX_SEGMENTS, ServiceKey, node_state};

use crate::{armed::Armed, few::Few, liveness::Standing};

/// The nodes on which a service has endpoints that take new flows, by index, with the places of all its backends there.
pub type Carriers = Few<u16, Box<[u32]>>;

/// Those of all services. They change with every endpoint, and others keep them as they were: what has not changed is shared, part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllCarriers([Arc<BTreeMap<ServiceKey, Arc<Carriers>>>; PARTS]);

/// A service changes one of so many parts: of some thousands of services, both the parts and what is in one are few.
const PARTS: usize = 32;

impl AllCarriers {
    /// Those of a service are these now.
    pub fn insert(&mut self, service: ServiceKey, carriers: Carriers) {
        self.part(&service).insert(service, Arc::new(carriers));
    }

    /// A service has none any more.
    pub fn remove(&mut self, service: &ServiceKey) {
        self.part(service).remove(service);
    }

    /// Those of each service.
    pub fn values(&self) -> impl Iterator<Item = &Carriers> {
        self.0.iter().flat_map(|part| part.values()).map(|carriers| &**carriers)
    }

    fn part(&mut self, service: &ServiceKey) -> &mut BTreeMap<ServiceKey, Arc<Carriers>> {
        let [.., low] = service.address.words[3].to_ne_bytes();
        Arc::make_mut(&mut self.0[usize::from(low ^ service.port.number() as u8) % PARTS])
    }
}

impl FromIterator<(ServiceKey, Carriers)> for AllCarriers {
    fn from_iter<I: IntoIterator<Item = (ServiceKey, Carriers)>>(carriers: I) -> Self {
        let mut all = Self::default();
        carriers.into_iter().for_each(|(service, carriers)| all.insert(service, carriers));
        all
    }
}

/// What `KEPT` holds, as nodes stand; of backends that are kept nowhere nothing. Of the nodes that can carry a service in a segment those
/// are avoided that have been in trouble for longest, up to half.
pub fn kept(armed: &Armed, carriers: &AllCarriers, standing: &Standing) -> BTreeMap<u32, Kept> {
    let mut kept: BTreeMap<u32, Kept> = BTreeMap::new();
    let trouble = |place| standing.trouble(armed.neighbours.get(&place)?.leg?);
    let troubled = armed.neighbours.keys().filter(|place| trouble(**place).is_some());
    let segments: BTreeSet<u32> = troubled.map(|place| place % MAX_SEGMENTS).collect();
    for segment in segments {
        for service in carriers.values() {
            let place = |node: u16| u32::from(node) * MAX_SEGMENTS + segment;
            let takes_flows = |node: &u16| {
                armed.neighbours.get(&place(*node)).is_some_and(|n| n.entry.state == node_state::READY)
            };
            let carriers: Vec<u16> = service.keys().copied().filter(takes_flows).collect();
            let mut avoided: Vec<(usize, u16)> =
                carriers.iter().filter_map(|node| Some((trouble(place(*node))?, *node))).collect();
            avoided.sort_unstable();
            let over = avoided.into_iter().skip(carriers.len() / 2).map(|(_, node)| node);
            for backend in over.flat_map(|node| &service[&node]) {
                kept.entry(*backend).or_default().segments |= 1 << segment;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::layout::{Neighbour, ServiceKey, reach};

    use super::*;
    use crate::{armed::ArmedNeighbour, liveness::Condition};

    fn leg(segment: u8, node: u16) -> IpAddr {
        IpAddr::from([10, segment, 0, node as u8])
    }

    /// Nodes 0 to 5, of which 0 is this one, in two segments; node 5 is in the first alone.
    fn armed() -> Armed {
        let mut armed = Armed::default();
        for segment in 0..2_u8 {
            for node in 0..if segment == 0 { 6 } else { 5 } {
                let reach = if node == 0 { reach::SELF } else { reach::SEGMENT };
                let entry = Neighbour { reach, state: node_state::READY, ..Neighbour::default() };
                let leg = (node != 0).then(|| leg(segment, node));
                let place = u32::from(node) * MAX_SEGMENTS + u32::from(segment);
                armed.neighbours.insert(place, ArmedNeighbour { entry, leg });
            }
        }
        armed
    }

    /// A service has two backends on each of the nodes that are named: 10 and 11 on node 1, 20 and 21 on node 2, and so on.
    fn carriers(services: &[&[u16]]) -> AllCarriers {
        let backends = |node: &u16| (*node, [u32::from(*node) * 10, u32::from(*node) * 10 + 1].into());
        let key = |place: usize| ServiceKey {
            address: IpAddr::from([192, 0, 2, place as u8]).into(),
            ..ServiceKey::default()
        };
        let carriers = services.iter().map(|nodes| nodes.iter().map(backends).collect::<Carriers>());
        carriers.enumerate().map(|(place, carriers)| (key(place), carriers)).collect()
    }

    /// With these legs in trouble, those first that have been so for longest.
    fn troubled(legs: &[IpAddr]) -> Standing {
        let conditions: Vec<_> = legs.iter().map(|leg| (*leg, Condition::Silent)).collect();
        Standing::new(&conditions, BTreeSet::new(), 12)
    }

    fn kept_in(services: &[&[u16]], legs: &[IpAddr]) -> Vec<(u32, u32)> {
        let kept = kept(&armed(), &carriers(services), &troubled(legs)).into_iter();
        kept.map(|(backend, kept)| (backend, kept.segments)).collect()
    }

    #[test]
    fn of_a_services_nodes_up_to_half_are_avoided_those_first_that_have_been_in_trouble_for_longest() {
        let (one, two, three) = (leg(0, 1), leg(0, 2), leg(0, 3));
        assert_eq!(kept_in(&[&[0, 1, 2, 3]], &[]), []);
        assert_eq!(kept_in(&[&[0, 1, 2, 3]], &[one, two]), [], "two of four");
        assert_eq!(kept_in(&[&[0, 1, 2, 3]], &[two, three, one]), [(10, 1), (11, 1)]);
        assert_eq!(kept_in(&[&[1, 2, 3]], &[three, one]), [(10, 1), (11, 1)], "one of three may be avoided");
        assert_eq!(kept_in(&[&[1, 2]], &[two]), []);
        assert_eq!(kept_in(&[&[1]], &[one]), [(10, 1), (11, 1)], "its only node");
        assert_eq!(kept_in(&[&[0, 1, 2, 3], &[1, 4], &[0, 4]], &[one, two, leg(0, 4)]), [(40, 1), (41, 1)]);
    }

    #[test]
    fn segments_are_judged_each_for_itself() {
        let both = [leg(0, 1), leg(1, 1), leg(1, 2)];
        assert_eq!(kept_in(&[&[0, 1, 2]], &both), [(20, 2), (21, 2)]);
        let without_leg = [leg(1, 1), leg(1, 2)];
        assert_eq!(
            kept_in(&[&[0, 1, 2, 5]], &without_leg),
            [(20, 2), (21, 2)],
            "node 5 carries nothing there"
        );
        assert_eq!(kept_in(&[&[0, 1, 2, 5]], &[leg(0, 1), leg(0, 2)]), []);
    }
}
