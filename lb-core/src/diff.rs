//! From what the maps hold to what they should hold, in an order in which no packet sees a part without what it needs.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::layout::{Backend, backend_state};

use crate::maps::{Maps, Op, StatsPlace};

/// The operations that turn `current` into `wanted`: new things from what is named to what names it (backends, tables, services,
/// VIPs), then what is gone in reverse.
pub fn diff(current: &Maps, wanted: &Maps) -> Vec<Op> {
    let mut ops = Vec::new();
    sets(&mut ops, &current.links, &wanted.links, Op::SetLink);
    let neighbours = changes(&current.neighbours, &wanted.neighbours);
    ops.extend(neighbours.into_iter().map(|(offset, neighbours)| Op::WriteNeighbours { offset, neighbours }));
    // In a box, for it is ten times as large as any other.
    sets(&mut ops, &current.names, &wanted.names, |key, name| Op::SetName(key, Box::new(name)));
    sets(&mut ops, &current.peers, &wanted.peers, Op::SetPeer);
    sets(&mut ops, &current.sources, &wanted.sources, Op::SetSource);
    ops.extend(new_places(current, wanted).map(Op::ClearStats));
    let backends = |taking| {
        let runs = changes_if(&current.backends, &wanted.backends, move |old, new| takes(old, new) == taking);
        runs.into_iter().map(|(offset, backends)| Op::WriteBackends { offset, backends })
    };
    ops.extend(backends(false));
    sets(&mut ops, &current.local_ports, &wanted.local_ports, Op::SetLocalPort);
    let rows = wanted.rows.iter().filter(|(offset, rows)| current.rows.get(*offset) != Some(*rows));
    ops.extend(rows.map(|(offset, rows)| Op::WriteRows { offset: *offset, rows: Arc::clone(rows) }));
    if current.config != wanted.config {
        ops.push(Op::SetConfig(wanted.config));
    }
    sets(&mut ops, &current.services, &wanted.services, Op::SetService);
    sets(&mut ops, &current.spread, &wanted.spread, Op::SetSpread);
    sets(&mut ops, &current.vips, &wanted.vips, Op::SetVip);

    ops.extend(backends(true));
    removes(&mut ops, &current.vips, &wanted.vips, Op::RemoveVip);
    removes(&mut ops, &current.spread, &wanted.spread, Op::RemoveSpread);
    removes(&mut ops, &current.services, &wanted.services, Op::RemoveService);
    removes(&mut ops, &current.local_ports, &wanted.local_ports, Op::RemoveLocalPort);
    removes(&mut ops, &current.sources, &wanted.sources, Op::RemoveSource);
    removes(&mut ops, &current.peers, &wanted.peers, Op::RemovePeer);
    removes(&mut ops, &current.names, &wanted.names, Op::RemoveName);
    removes(&mut ops, &current.links, &wanted.links, Op::RemoveLink);
    ops
}

fn sets<K: Copy + Ord, V: Copy + PartialEq>(
    ops: &mut Vec<Op>,
    current: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    op: impl Fn(K, V) -> Op,
) {
    let changed = wanted.iter().filter(|(key, value)| current.get(*key) != Some(*value));
    ops.extend(changed.map(|(key, value)| op(*key, *value)));
}

fn removes<K: Copy + Ord, V>(
    ops: &mut Vec<Op>,
    current: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    op: impl Fn(K) -> Op,
) {
    ops.extend(current.keys().filter(|key| !wanted.contains_key(*key)).map(|key| op(*key)));
}

/// Places of counters that are given to somebody else than before.
fn new_places<'a>(current: &'a Maps, wanted: &'a Maps) -> impl Iterator<Item = StatsPlace> + 'a {
    let known = |address| current.vips.get(address).map_or(0, |vip| vip.stats);
    let vips = wanted.vips.iter().filter(move |(address, vip)| vip.stats != known(*address));
    let known = |key| current.services.get(key).map(|service| service.id);
    let services = wanted.services.iter().filter(move |(key, service)| {
        service.id.raw != 0 && known(*key).is_none_or(|known| known != service.id)
    });
    let backends = (0..).zip(current.backends.iter().zip(&wanted.backends));
    // What nobody has had before is zero.
    let backends = backends.filter(|(_, (old, new))| old.generation != 0 && old.generation != new.generation);
    vips.map(|(_, vip)| StatsPlace::Vip(vip.stats))
        .chain(services.map(|(_, service)| StatsPlace::Service(service.id.index())))
        .chain(backends.map(|(index, _)| StatsPlace::Backend(index)))
}

/// Whether the change takes a backend away from those that rows of before could choose.
pub(crate) fn takes(old: &Backend, new: &Backend) -> bool {
    old.state != backend_state::FREE && new.state != backend_state::READY
}

/// Runs of entries that differ. Nothing that is still named is freed by them: backends are gone for a while before they are free,
/// and rows are written to where no service looks.
fn changes<T: Copy + PartialEq>(current: &[T], wanted: &[T]) -> Vec<(u32, Vec<T>)> {
    changes_if(current, wanted, |_, _| true)
}

/// [`changes`], of those entries alone that are asked for.
pub(crate) fn changes_if<T: Copy + PartialEq>(
    current: &[T],
    wanted: &[T],
    is_asked: impl Fn(&T, &T) -> bool,
) -> Vec<(u32, Vec<T>)> {
    let mut runs: Vec<(u32, Vec<T>)> = Vec::new();
    for (index, (old, new)) in current.iter().zip(wanted).enumerate() {
        if old == new || !is_asked(old, new) {
            continue;
        }
        match runs.last_mut() {
            Some((offset, values)) if *offset as usize + values.len() == index => values.push(*new),
            _ => runs.push((index as u32, vec![*new])),
        }
    }
    runs
}
