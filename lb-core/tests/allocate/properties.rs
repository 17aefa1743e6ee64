//! What holds of every allocation, whatever Services want and have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_core::{
    allocate::{Allocation, Allocator, PoolEdit, allocate},
    model::{Family, FamilyPolicy, Service, Snapshot, TrafficPolicy},
};
use proptest::prelude::*;

use super::objects::{name, pool, sharing, with_pools};

fn any_service() -> impl Strategy<Value = Service> {
    let policies = [FamilyPolicy::SingleStack, FamilyPolicy::PreferDualStack, FamilyPolicy::RequireDualStack];
    (
        (0..3_usize, any::<bool>(), proptest::option::of(0..4_i64)),
        (0..3_usize, 80..83_u16, any::<bool>()),
        proptest::option::of(0..8_u8),
        (proptest::option::of(0..8_u8), proptest::option::of(0..8_u8), any::<bool>()),
        proptest::option::of(0..3_usize),
    )
        .prop_map(
            move |((policy, is_v6, created), (key, port, is_local), asked, (v4, v6, is_ours), pool)| {
                let mut service = sharing(["", "k", "l"][key], port);
                service.created = created;
                service.family_policy = policies[policy];
                service.families = match (policy, is_v6) {
                    (0, true) => vec![Family::V6],
                    (0, false) => vec![Family::V4],
                    (_, true) => vec![Family::V6, Family::V4],
                    (_, false) => vec![Family::V4, Family::V6],
                };
                if is_local {
                    service.policy = TrafficPolicy::Local;
                }
                let of = |n: u8| IpAddr::from([192, 0, 2, n]);
                let of_v6 = |n: u8| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]);
                service.requested = asked.map(of).into_iter().collect();
                service.ingress = v4.map(of).into_iter().chain(v6.map(of_v6)).collect();
                service.held_pool = is_ours.then(|| "a".to_owned());
                service.requested_pool = pool.map(|pool| ["a", "b", "none"][pool].to_owned());
                service
            },
        )
}

/// Services by name, in a pool that has fewer addresses than they want.
fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    proptest::collection::btree_map(0..12_u8, any_service(), 0..10).prop_map(|services| {
        let pools = [
            ("a", pool("192.0.2.0-192.0.2.3,2001:db8::-2001:db8::2")),
            ("b", pool("192.0.2.4-192.0.2.6,2001:db8::3-2001:db8::5")),
        ];
        let services =
            services.into_iter().map(|(number, service)| (name(&format!("s{number}")), Arc::new(service)));
        Snapshot { services: services.collect(), ..with_pools(&pools, &[]) }
    })
}

/// What the snapshot looks like when everybody has written what was decided.
fn written(snapshot: &Snapshot, allocation: &Allocation) -> Snapshot {
    let mut written = snapshot.clone();
    for (name, service) in &mut written.services {
        let service = Arc::make_mut(service);
        service.ingress = allocation.addresses.get(name).cloned().unwrap_or_default();
        service.held_pool = allocation.pools.get(name).cloned();
    }
    written
}

fn check(snapshot: &Snapshot, allocation: &Allocation) -> Result<(), TestCaseError> {
    let mut ports: BTreeSet<(IpAddr, &str, NonZeroU16)> = BTreeSet::new();
    let mut keys: BTreeMap<IpAddr, Vec<(&str, bool)>> = BTreeMap::new();
    for (name, service) in &snapshot.services {
        let addresses = allocation.addresses.get(name);
        prop_assert!(addresses.is_some() != allocation.errors.contains_key(name), "one of the two: {}", name);
        for address in addresses.into_iter().flatten() {
            prop_assert!(service.families.contains(&Family::of(address)));
            for port in &service.ports {
                prop_assert!(ports.insert((*address, port.protocol.name(), port.port)), "{} twice", address);
            }
            let is_local = service.policy == TrafficPolicy::Local;
            keys.entry(*address).or_default().push((&service.sharing_key, is_local));
        }
        if let Some(addresses) = addresses {
            let families: BTreeSet<Family> = addresses.iter().map(Family::of).collect();
            prop_assert_eq!(families.len(), addresses.len());
        }
    }
    for (address, keys) in keys {
        let is_one = keys.iter().all(|key| *key == keys[0]);
        prop_assert!(keys.len() == 1 || is_one && !keys[0].0.is_empty(), "{}: {:?}", address, keys);
    }
    Ok(())
}

proptest! {
    #[test]
    fn nobody_has_what_another_has_unless_they_share(snapshot in any_snapshot()) {
        let allocation = allocate(&snapshot);
        check(&snapshot, &allocation)?;
    }

    #[test]
    fn what_is_written_stays(snapshot in any_snapshot()) {
        let allocation = allocate(&snapshot);
        let again = allocate(&written(&snapshot, &allocation));
        // Who prefers two families may have got one alone, and get the second when another has given it up.
        for (name, addresses) in &allocation.addresses {
            let kept = again.addresses.get(name).cloned().unwrap_or_default();
            prop_assert!(addresses.iter().all(|address| kept.contains(address)), "{} {:?} {:?}", name, addresses, kept);
            prop_assert_eq!(&again.pools[name], &allocation.pools[name]);
        }
    }

    #[test]
    fn an_unrelated_change_moves_nothing(
        snapshot in any_snapshot(),
        other in any_service(),
        gone in 0..12_u8,
        is_written in any::<bool>(),
    ) {
        let mut allocator = Allocator::new(Duration::from_secs(60), PoolEdit::Keep);
        let now = Instant::now();
        let before = allocator.handle_snapshot(&snapshot, now);
        let mut changed = if is_written { written(&snapshot, &before) } else { snapshot.clone() };
        let gone = name(&format!("s{gone}"));
        changed.services.remove(&gone);
        // One that has nothing yet: an address that is in its status may be another's, and older Services keep theirs.
        changed.services.insert(name("other"), Service { ingress: Vec::new(), ..other }.into());
        let after = allocator.handle_snapshot(&changed, now);
        check(&changed, &after)?;
        for (name, addresses) in before.addresses.iter().filter(|(name, _)| **name != gone) {
            let kept = after.addresses.get(name).cloned().unwrap_or_default();
            prop_assert!(addresses.iter().all(|address| kept.contains(address)), "{} {:?} {:?}", name, addresses, kept);
        }
    }
}
