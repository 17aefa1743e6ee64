//! Contents of maps one after the other, as pods come and go.

use super::*;

/// A packet at any moment finds, behind a service, its rows, and behind its rows, backends that are there, one of them for what
/// begins.
fn assert_whole(maps: &Maps) -> Result<(), TestCaseError> {
    for service in maps.services.values().filter(|service| service.flags == 0) {
        prop_assert!(service.table_length.is_power_of_two());
        let rows = maps.rows_of(service);
        for row in rows {
            let places = row.candidates.into_iter().filter(|place| *place != NO_CANDIDATE);
            let backends: Vec<&Backend> = places
                .map(|place| &maps.backends[(service.backend_offset + u32::from(place)) as usize])
                .collect();
            prop_assert!(
                backends.iter().all(|backend| backend.state != backend_state::FREE),
                "a row names a place that is free"
            );
            prop_assert!(
                backends.iter().any(|backend| backend.state == backend_state::READY),
                "a row has nobody for what begins"
            );
        }
    }
    Ok(())
}

/// Pods that are ready, others that are not, and the seconds since the moment before.
fn moment() -> impl Strategy<Value = (BTreeSet<u8>, BTreeSet<u8>, u32)> {
    let pods = || proptest::collection::btree_set(1..40_u8, 0..20);
    (pods(), pods(), 1..400_u32)
}

fn with_draining(ready: &BTreeSet<u8>, draining: &BTreeSet<u8>) -> Snapshot {
    let mut snapshot = snapshot(ready.union(draining).copied());
    let web = snapshot.services.values_mut().map(Arc::make_mut).flat_map(|service| &mut service.endpoints);
    for endpoints in web {
        let with_condition = |mut endpoint: Endpoint| {
            let is_ready = ready.iter().any(|pod| address(*pod) == endpoint.address);
            endpoint.condition =
                if is_ready { EndpointCondition::Ready } else { EndpointCondition::NotReady };
            endpoint
        };
        *endpoints = std::mem::take(endpoints).into_iter().map(with_condition).collect();
    }
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Histories of a service: pods come and go, time passes.
    #[test]
    fn every_step_from_one_content_to_the_next_is_whole(
        history in proptest::collection::vec(moment(), 1..6),
    ) {
        let mut maps = Maps::empty(&local(0).sizes);
        let mut now = 0;
        for (ready, draining, passes) in history {
            now += passes;
            let snapshot = with_draining(&ready, &draining);
            let wanted = placed(&snapshot, &maps, now).maps;
            let ops: Vec<Op> = diff(&maps, &wanted);
            for op in &ops {
                maps.apply(op);
                assert_whole(&maps)?;
            }
            maps.rows.retain(|offset, _| wanted.rows.contains_key(offset));
            prop_assert!(maps == wanted);
        }
    }
}

/// Backends that are in a slice.
fn living(maps: &Maps) -> BTreeSet<(IpAddr, u16, u8)> {
    let is_living = |b: &&Backend| b.state != backend_state::GONE && b.state != backend_state::FREE;
    maps.backends.iter().filter(is_living).map(|b| (b.address.to_ip(), b.node, b.state)).collect()
}

/// `web` with these pods, beside another Service that stays as it is.
fn beside_another(ready: &BTreeSet<u8>, draining: &BTreeSet<u8>) -> Snapshot {
    let mut snapshot = with_draining(ready, draining);
    let mut other = service();
    other.endpoints[0] = [201, 202].map(|pod| endpoint(address(pod), &format!("n{}", pod % 3))).into();
    snapshot.services.insert(name("other"), other.into());
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Services whose endpoints alone change are placed as they would be by a look at everything, and others stay as they are.
    #[test]
    fn what_is_brought_up_to_date_is_as_if_it_were_placed_anew(
        history in proptest::collection::vec(moment(), 2..6),
    ) {
        let node = NodeName("n0".into());
        let mut known: Option<(Snapshot, Plan, Placed)> = None;
        let (mut maps, mut now) = (Maps::empty(&local(0).sizes), 0);
        for (ready, draining, passes) in history {
            now += passes;
            let snapshot = beside_another(&ready, &draining);
            let allocation = allocate(&snapshot);
            let planned = plan(&snapshot, &allocation, &node, &network());
            let previous = known.as_ref().map(|(_, plan, placed)| Previous { plan, placed });
            let anew = place_anew(&planned, &maps, &local(now), previous);
            let mut expected = maps.clone();
            diff(&maps, &anew.maps).iter().for_each(|op| expected.apply(op));
            known = match known {
                Some((before, mut plan, mut placed)) => {
                    let web = before.services[&name("web")].clone();
                    let changed = plan.update(&snapshot, &allocation, &[(name("web"), Some(web))].into());
                    let ops = changed.and_then(|changed| placed.update(&plan, &changed, &local(now)));
                    match ops {
                        Some(ops) => {
                            prop_assert!(plan == planned);
                            for op in &ops {
                                maps.apply(op);
                                assert_whole(&maps)?;
                            }
                            // Ports of pods that are gone stay until everything is placed.
                            let are_there = expected.local_ports.keys().all(|key| maps.local_ports.contains_key(key));
                            prop_assert!(are_there);
                            // Whoever has been gone for long enough is free only then as well.
                            // So a larger block may be found elsewhere.
                            prop_assert_eq!(living(&maps), living(&expected));
                            for (key, service) in &expected.services {
                                let now = maps.services[key];
                                prop_assert!(maps.rows_of(&now) == expected.rows_of(service), "other rows");
                                prop_assert_eq!((now.id, now.flags), (service.id, service.flags));
                            }
                            prop_assert!(placed.carriers == anew.carriers && placed.armed == anew.armed);
                            prop_assert!(placed.maps.services == maps.services && placed.maps.backends == maps.backends);
                            Some((snapshot, plan, placed))
                        }
                        None => {
                            maps = expected;
                            Some((snapshot, planned, anew))
                        }
                    }
                }
                None => {
                    maps = expected;
                    Some((snapshot, planned, anew))
                }
            };
            if let Some((_, _, placed)) = &mut known {
                placed.forget_written();
            }
        }
    }
}
