//! Nodes, and where they are in each segment.

use std::{collections::BTreeSet, sync::Arc};

use lb_common::layout::{
    MAX_SEGMENTS, NO_NODE, NameKey, Neighbour, Peer, PeerKey, backend_state, name_kind, node_state, reach,
};

use super::{Placer, name_of, name_text};
use crate::{armed::ArmedNeighbour, model::NodeName, plan::NodePlan};

impl Placer<'_> {
    /// A node keeps its index as long as a backend is on it, in the source or not.
    pub(super) fn place_nodes(&mut self) {
        let in_use: BTreeSet<u16> =
            self.current.backends.iter().filter(|b| b.state != backend_state::FREE).map(|b| b.node).collect();
        let mut taken = BTreeSet::new();
        for (key, name) in self.current.names.iter().filter(|(key, _)| key.kind == name_kind::NODE) {
            let (Some(text), Ok(index)) = (name_text(name), u16::try_from(key.index)) else { continue };
            let node = NodeName(text.into());
            if self.plan.nodes.contains_key(&node) || in_use.contains(&index) {
                taken.insert(index);
                self.nodes.insert(node, index);
            }
        }
        for node in self.plan.nodes.keys() {
            if !self.nodes.contains_key(node) {
                let free = (0..self.local.sizes.nodes.min(u32::from(NO_NODE)) as u16)
                    .find(|index| !taken.contains(index));
                let Some(free) = free else {
                    *self.left_out.entry("NEIGHBOURS").or_default() += 1;
                    continue;
                };
                taken.insert(free);
                self.nodes.insert(node.clone(), free);
            }
        }
        for (node, index) in self.nodes.clone() {
            let name = NameKey { kind: name_kind::NODE, index: u32::from(index) };
            self.maps.names.insert(name, name_of(&node.0));
            self.place_node(&node, index);
        }
    }

    fn place_node(&mut self, node: &NodeName, index: u16) {
        let base = (u32::from(index) * MAX_SEGMENTS) as usize;
        let is_self = *node == self.plan.node;
        let Some(planned) = self.plan.nodes.get(node) else {
            // Gone from the source: where it was, it stays for the flows that it has.
            for place in base..base + MAX_SEGMENTS as usize {
                let mut known = self.current.neighbours[place];
                known.state = node_state::SUSPECT;
                self.maps.neighbours[place] =
                    if known.reach == reach::NONE { Neighbour::default() } else { known };
            }
            self.maps
                .peers
                .extend(self.current.peers.iter().filter(|(_, peer)| peer.node == u32::from(index)));
            return;
        };
        for (name, mac) in &planned.legs {
            let Some(segment) = self.segments.get(name).copied() else { continue };
            let entry = Neighbour {
                mac: (*mac).into(),
                reach: if is_self { reach::SELF } else { reach::SEGMENT },
                state: if planned.in_source { node_state::READY } else { node_state::SUSPECT },
                dsr_capable: (planned.other_algorithm.is_none() && !planned.is_absent).into(),
                pad: [0; 3],
            };
            let leg = planned.addresses.get(name).copied().filter(|_| !is_self);
            Arc::make_mut(&mut self.armed)
                .neighbours
                .insert((base + usize::from(segment)) as u32, ArmedNeighbour { entry, leg });
            if !is_self {
                self.maps
                    .peers
                    .insert(PeerKey { segment, mac: (*mac).into() }, Peer { node: u32::from(index) });
            }
        }
        if !is_self {
            self.keep_unproven(planned, index);
        }
    }

    /// A node that has come back to the source, or that a new agent has not found yet: until it is known where it is, it stays where it
    /// was, for the flows that it has.
    fn keep_unproven(&mut self, planned: &NodePlan, index: u16) {
        let unproven = planned.addresses.iter().filter(|(name, _)| !planned.legs.contains_key(*name));
        for (name, leg) in unproven {
            let Some(segment) = self.segments.get(name).copied() else { continue };
            let place = u32::from(index) * MAX_SEGMENTS + u32::from(segment);
            let entry = self.current.neighbours[place as usize];
            if entry.reach != reach::SEGMENT {
                continue;
            }
            // Whether it has died is for its verdict to say.
            let state = if entry.state == node_state::GONE { node_state::SUSPECT } else { entry.state };
            let entry = Neighbour { state, ..entry };
            Arc::make_mut(&mut self.armed)
                .neighbours
                .insert(place, ArmedNeighbour { entry, leg: Some(*leg) });
            let was_there =
                |(key, peer): &(&PeerKey, &Peer)| key.segment == segment && peer.node == u32::from(index);
            for (key, peer) in self.current.peers.iter().filter(was_there) {
                // Another may have that MAC now, and has proven it.
                self.maps.peers.entry(*key).or_insert(*peer);
            }
        }
    }

    pub(super) fn bound_peers(&mut self) {
        let room = self.room("PEERS", self.local.sizes.peers, self.maps.peers.len());
        while self.maps.peers.len() > room {
            self.maps.peers.pop_last();
        }
    }
}
