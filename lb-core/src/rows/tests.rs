use std::{collections::BTreeSet, net::Ipv4Addr};

use proptest::prelude::*;

use super::*;

fn backend(number: u32) -> RowBackend {
    RowBackend { address: Ipv4Addr::from_bits(0x0a00_0000 + number).into(), port: Port::new(8080) }
}

fn backends(numbers: impl IntoIterator<Item = u32>) -> Vec<RowBackend> {
    numbers.into_iter().map(backend).collect()
}

fn key() -> HashKey {
    row_key(Some("4a8fd5f2-6ed3-4a0f-9d1e-1f8b0f8a3c11"))
}

fn size(length: u32) -> TableSize {
    TableSize { length, previous: None }
}

/// Every score in descending order; each slot gets its best backend that still has room.
fn by_sorting(backends: &[RowBackend], length: u32) -> Vec<Option<RowBackend>> {
    let key = key();
    let scorer = Scorer::new(&key, backends, &[]);
    let mut all = Vec::new();
    for slot in 0..length {
        for rank in 0..backends.len() {
            all.push((Reverse(scorer.score(scorer.slot_hash(slot), rank)), slot, rank));
        }
    }
    all.sort_unstable();
    let quota = (length as usize * 105).div_ceil(100 * backends.len());
    let mut held = vec![0; backends.len()];
    let mut owners = vec![None; length as usize];
    for (_, slot, rank) in all {
        if owners[slot as usize].is_none() && held[rank] < quota {
            held[rank] += 1;
            owners[slot as usize] = Some(backends[usize::from(scorer.places[rank])]);
        }
    }
    owners
}

fn resolve(row: &Row, backends: &[RowBackend]) -> Vec<RowBackend> {
    row.candidates.iter().filter_map(|place| backends.get(usize::from(*place)).copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn deferred_acceptance_gives_what_sorting_gives(numbers in proptest::collection::btree_set(0..1000_u32, 1..20)) {
        let backends = backends(numbers);
        let rows = build(&key(), &backends, &[], size(128));
        let owners: Vec<_> = rows.iter().map(|row| resolve(row, &backends).first().copied()).collect();
        prop_assert_eq!(owners, by_sorting(&backends, 128));
    }

    /// Whatever drains beside them, those that are ready share the slots among themselves as if they were alone.
    #[test]
    fn first_candidates_are_ready_and_the_draining_do_not_move_them(
        ready in proptest::collection::btree_set(0..1000_u32, 1..20),
        draining in proptest::collection::btree_set(1000..2000_u32, 0..40),
    ) {
        let (ready, draining) = (backends(ready), backends(draining));
        let all = [ready.clone(), draining.clone()].concat();
        let alone = build(&key(), &ready, &[], size(128));
        let beside = build(&key(), &ready, &draining, size(128));
        for (alone, beside) in alone.iter().zip(&beside) {
            let (alone, beside) = (resolve(alone, &ready), resolve(beside, &all));
            prop_assert_eq!(alone[0], beside[0]);
            prop_assert_eq!(beside.len(), CANDIDATES.min(all.len()));
            prop_assert_eq!(beside.iter().collect::<BTreeSet<_>>().len(), beside.len());
        }
    }

    #[test]
    fn order_does_not_show(
        (numbers, shuffled) in proptest::collection::btree_set(0..1000_u32, 1..20)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>())
            .prop_flat_map(|numbers| (Just(numbers.clone()), Just(numbers).prop_shuffle())),
    ) {
        let (one, other) = (backends(numbers), backends(shuffled));
        let size = TableSize { length: 256, previous: Some(64) };
        for (a, b) in build(&key(), &one, &[], size).iter().zip(build(&key(), &other, &[], size)) {
            prop_assert_eq!(resolve(a, &one), resolve(&b, &other));
        }
    }

    #[test]
    fn candidates_are_distinct_and_as_many_as_there_are(count in 0..10_u32, previous in proptest::option::of(Just(64))) {
        let backends = backends(0..count);
        for row in build(&key(), &backends, &[], TableSize { length: 128, previous }) {
            let candidates = resolve(&row, &backends);
            prop_assert_eq!(candidates.len(), CANDIDATES.min(count as usize));
            prop_assert_eq!(candidates.iter().collect::<BTreeSet<_>>().len(), candidates.len());
        }
    }
}

#[test]
fn ladder_is_a_power_of_two_within_bounds() {
    let lengths = [0, 1, 16, 17, 100, 1000, 1_000_000].map(|backends| ladder(backends).length);
    assert_eq!(lengths, [1024, 1024, 1024, 2048, 8192, 65_536, 65_536]);
}

/// Nodes of different versions must agree on rows: these are frozen with [`lb_common::layout::ALGORITHM_VERSION`].
#[test]
fn rows_are_frozen() {
    let rows = build(&key(), &backends(0..7), &[], TableSize { length: 256, previous: Some(128) });
    let sum = rows.iter().fold(0_u64, |sum, row| {
        row.candidates.iter().fold(sum, |sum, candidate| mix(sum.wrapping_add(u64::from(*candidate))))
    });
    assert_eq!(sum, FROZEN, "{sum:#x}");
}

const FROZEN: u64 = 0x6797_7999_d042_8b46;

/// How a change of backends disturbs flows: shares in parts of 10,000 of the flows whose pod lives on, but which candidates 1 to
/// k no longer reach, for k = 2, 3, 4; and the busiest backend's share of slots in percent of the mean.
#[derive(Debug)]
struct Disturbance {
    unreached: [u32; 3],
    busiest: u32,
}

fn disturbance(before: &[RowBackend], after: &[RowBackend], length: u32) -> Disturbance {
    let (old, new) = (build(&key(), before, &[], size(length)), build(&key(), after, &[], size(length)));
    let mut unreached = [0; 3];
    let mut living = 0;
    for (old, new) in old.iter().zip(&new) {
        let pod = resolve(old, before)[0];
        if !after.contains(&pod) {
            continue;
        }
        living += 1;
        let candidates = resolve(new, after);
        for (count, k) in unreached.iter_mut().zip(2..) {
            *count += u32::from(!candidates[..k].contains(&pod));
        }
    }
    let mut slots = vec![0_u32; after.len()];
    new.iter().for_each(|row| slots[usize::from(row.candidates[0])] += 1);
    let busiest = slots.iter().max().copied().unwrap_or(0);
    Disturbance {
        unreached: unreached.map(|n| n * 10_000 / living),
        busiest: busiest * after.len() as u32 * 100 / length,
    }
}

/// The table in the design document, with 16,384 slots for its 16,381; bounds are its shares and a fifth, for chance.
#[test]
fn changes_disturb_as_little_as_designed() {
    for (what, before, after, bounds) in [
        ("12 added", 0..100, 0..112, [200, 50, 10]),
        ("12 replaced", 0..100, 12..112, [200, 45, 15]),
        ("24 replaced", 0..100, 24..124, [460, 115, 40]),
    ] {
        let found = disturbance(&backends(before), &backends(after), 16_384);
        println!("{what}: {found:?}");
        for (share, bound) in found.unreached.iter().zip(bounds) {
            assert!(*share <= bound, "{what}: {found:?}, expected at most {bounds:?}");
        }
        assert!((100..=107).contains(&found.busiest), "{what}: {found:?}");
    }
}

#[test]
fn growing_loses_little_while_the_previous_length_is_named() {
    let backends = backends(0..100);
    let old = build(&key(), &backends, &[], size(4096));
    let lost = |size| {
        let new = build(&key(), &backends, &[], size);
        let lost =
            |(slot, row): (usize, &Row)| !row.candidates.contains(&old[slot % old.len()].candidates[0]);
        new.iter().enumerate().filter(|row| lost(*row)).count() * 1000 / new.len()
    };
    let (without, with) = (lost(size(8192)), lost(TableSize { length: 8192, previous: Some(4096) }));
    println!("growing from 4,096 to 8,192: {without} ‰ lost without, {with} ‰ with the previous length");
    assert!(without > 400 && with == 0);
}

#[test]
fn stranded_slots_are_those_that_lost_a_living_pod() {
    let (before, after) = (backends(0..10), backends(3..13));
    let (old, new) = (build(&key(), &before, &[], size(1024)), build(&key(), &after, &[], size(1024)));
    let stranded = stranded((&old, &before), (&new, &after));
    let expected: Vec<u32> = (0..1024)
        .filter(|slot| {
            let pod = resolve(&old[*slot as usize], &before)[0];
            after.contains(&pod) && !resolve(&new[*slot as usize], &after).contains(&pod)
        })
        .collect();
    assert_eq!(stranded, expected);
}
