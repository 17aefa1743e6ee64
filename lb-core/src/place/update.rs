//! Other endpoints of a few services, placed without a look at all others.
//!
//! It comes to what [`place`](super::place()) comes to for the same plan, but for `LOCAL_PORTS`, where what is gone stays until everything
//! is placed anew.

use std::{collections::BTreeSet, mem, ops::Range};

use lb_common::layout::{Backend, LocalPort, LocalPortKey, backend_state};

use super::{Local, Placed, Placer, block_of, identity, room::Used, service_key, services::carriers};
use crate::{
    diff::{changes_if, takes},
    maps::{Maps, Op, StatsPlace},
    plan::{Frontend, Plan},
};

impl Placed {
    /// Gives these services the endpoints that the plan has for them now. The operations that change the maps so, or `None` if that
    /// cannot be told without a look at everything: then what was placed here is of no use any more.
    pub fn update(&mut self, plan: &Plan, frontends: &BTreeSet<Frontend>, local: &Local) -> Option<Vec<Op>> {
        let nothing = Maps::without_arrays();
        let mut placer = Placer {
            plan,
            current: &nothing,
            local,
            previous: None,
            maps: mem::replace(&mut self.maps, Maps::without_arrays()),
            nodes: mem::take(&mut self.nodes),
            segments: mem::take(&mut self.segments),
            without_room: mem::take(&mut self.without_room),
            left_out: mem::take(&mut self.left_out),
            armed: mem::take(&mut self.armed),
            carriers: mem::take(&mut self.carriers),
        };
        let ops = placer.update(frontends);
        *self = placer.placed();
        ops.map(Ops::in_order)
    }
}

/// Operations by their place in the order: see [`diff`](crate::diff::diff).
#[derive(Default)]
struct Ops {
    /// Counters, backends that come, ports of pods.
    come: Vec<Op>,
    rows: Vec<Op>,
    services: Vec<Op>,
    /// Backends that go.
    go: Vec<Op>,
}

impl Ops {
    fn in_order(self) -> Vec<Op> {
        [self.come, self.rows, self.services, self.go].concat()
    }
}

impl Placer<'_> {
    fn update(&mut self, frontends: &BTreeSet<Frontend>) -> Option<Ops> {
        let known = self.maps.services.values().filter(|service| service.id.raw != 0);
        let mut used = Used {
            tables: known.clone().map(|s| s.table_offset..s.table_offset + s.table_length).collect(),
            blocks: known.map(block_of).collect(),
            ids: BTreeSet::new(),
        };
        let mut ops = Ops::default();
        for frontend in frontends {
            self.update_service(frontend, &mut used, &mut ops)?;
        }
        Some(ops)
    }

    fn update_service(&mut self, frontend: &Frontend, used: &mut Used, ops: &mut Ops) -> Option<()> {
        let key = service_key(frontend);
        let known = *self.maps.services.get(&key).filter(|service| service.id.raw != 0)?;
        if self.without_room.contains_key(frontend) {
            return None;
        }
        let old = block_of(&known);
        let before = self.backends(&old).to_vec();
        let service = self.place_service(frontend, known.id, Some(known), used).ok()?;
        let new = block_of(&service);
        if self.has_left_behind(frontend, &before, used) {
            return None;
        }
        self.backends_changed(&old, &before, &new, ops);
        self.ports_come(frontend, &before, &new, ops)?;
        let rows = mem::take(&mut self.maps.rows);
        ops.rows.extend(rows.into_iter().map(|(offset, rows)| Op::WriteRows { offset, rows }));
        self.maps.services.insert(key, service);
        ops.services.extend((service != known).then_some(Op::SetService(key, service)));
        if service.table_length > 0 {
            self.carriers.insert(key, carriers(&self.maps.backends, new));
        } else {
            self.carriers.remove(&key);
        }
        Some(())
    }

    /// Whether a backend that goes still has a place in a block that was too small once: whether it is gone there too depends on all
    /// services.
    fn has_left_behind(&self, frontend: &Frontend, before: &[Backend], used: &Used) -> bool {
        let lives = |b: &&Backend| matches!(b.state, backend_state::READY | backend_state::DRAINING);
        let now: BTreeSet<_> = self.plan.services[frontend].endpoints.keys().map(identity).collect();
        let were_there = before.iter().filter(lives).map(|backend| (backend.address, backend.port));
        let going: Vec<_> = were_there.filter(|backend| !now.contains(backend)).collect();
        let is_going =
            |backend: &Backend| lives(&backend) && going.contains(&(backend.address, backend.port));
        !going.is_empty()
            && used.outside_blocks(&self.maps.backends).any(|backends| backends.iter().any(is_going))
    }

    fn backends(&self, block: &Range<u32>) -> &[Backend] {
        &self.maps.backends[block.start as usize..block.end as usize]
    }

    fn backends_changed(&self, old: &Range<u32>, before: &[Backend], new: &Range<u32>, ops: &mut Ops) {
        let now = self.backends(old);
        let changed = |taking| {
            let runs = changes_if(before, now, move |old, new| takes(old, new) == taking).into_iter();
            runs.map(|(place, backends)| Op::WriteBackends { offset: old.start + place, backends })
        };
        let is_other =
            |(old, new): &(&Backend, &Backend)| old.generation != 0 && old.generation != new.generation;
        let others = (old.start..).zip(before.iter().zip(now)).filter(|(_, pair)| is_other(pair));
        ops.come.extend(others.map(|(place, _)| Op::ClearStats(StatsPlace::Backend(place))));
        ops.come.extend(changed(false));
        if new != old {
            let backends = self.backends(new).to_vec();
            let used =
                (new.start..).zip(&backends).filter(|(_, backend)| backend.state != backend_state::FREE);
            ops.come.extend(used.map(|(place, _)| Op::ClearStats(StatsPlace::Backend(place))));
            ops.come.push(Op::WriteBackends { offset: new.start, backends });
        }
        ops.go.extend(changed(true));
    }

    /// Pods of this node that were not behind the service before. `None` if there is no room for them.
    fn ports_come(
        &mut self,
        frontend: &Frontend,
        before: &[Backend],
        new: &Range<u32>,
        ops: &mut Ops,
    ) -> Option<()> {
        let node = self.maps.config.node;
        let is_here =
            |backend: &&Backend| backend.state != backend_state::FREE && u32::from(backend.node) == node;
        let key = |backend: &Backend| LocalPortKey {
            address: backend.address,
            port: backend.port,
            protocol: frontend.protocol.number(),
            pad: 0,
        };
        let known: BTreeSet<LocalPortKey> = before.iter().filter(is_here).map(key).collect();
        let now: BTreeSet<LocalPortKey> = self.backends(new).iter().filter(is_here).map(key).collect();
        for key in now.difference(&known) {
            let ports = &mut self.maps.local_ports;
            if !ports.contains_key(key) && ports.len() >= self.local.sizes.local_ports as usize {
                return None;
            }
            let port = ports.entry(*key).or_insert(LocalPort { services: 0 });
            port.services += 1;
            ops.come.push(Op::SetLocalPort(*key, *port));
        }
        Some(())
    }
}
