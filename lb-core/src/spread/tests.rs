use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{
    layout::Mac,
    spread::{BLOCK, share_of},
};
use proptest::prelude::*;

use super::*;
use crate::{armed::ArmedLink, liveness::Condition, rows::row_key};

fn leg(number: u32) -> Leg {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn shares(numbers: impl IntoIterator<Item = u32>) -> Shares {
    let legs: Vec<Leg> = numbers.into_iter().map(leg).collect();
    Shares::new(&row_key(Some("4a8fd5f2-6ed3-4a0f-9d1e-1f8b0f8a3c11")), &[legs])
}

fn standing(troubled: &[(u32, Condition)]) -> Standing {
    let troubled: Vec<(Leg, Condition)> =
        troubled.iter().map(|(number, condition)| (leg(*number), *condition)).collect();
    Standing::new(&troubled, BTreeSet::new(), 100)
}

fn counts(owners: &[Option<Leg>]) -> BTreeMap<Leg, usize> {
    let mut counts = BTreeMap::new();
    owners.iter().flatten().for_each(|owner| *counts.entry(*owner).or_default() += 1);
    counts
}

/// However many nodes there are, up to one for each share, none has two shares more than another: each carries.
#[test]
fn shares_are_even_over_few_and_over_many_nodes() {
    for nodes in [1, 2, 3, 5, 7, 50, 64, 65, 100, 500, 1000, 1024] {
        let owners = shares(0..nodes).owners(&Standing::default());
        let counts = counts(&owners);
        let (least, most) = (SHARES / nodes, SHARES.div_ceil(nodes));
        assert_eq!(counts.len(), nodes as usize, "{nodes} nodes");
        assert!(
            counts.values().all(|count| (least..=most).contains(&(*count as u32))),
            "{nodes} nodes: {:?}",
            counts.values().collect::<BTreeSet<_>>()
        );
    }
}

#[test]
fn blocks_are_even_too() {
    for nodes in 1..=BLOCK {
        let owners = shares(0..nodes).owners(&Standing::default());
        for block in owners.chunks(BLOCK as usize) {
            let counts = counts(block);
            let most = BLOCK.div_ceil(nodes) as usize + 1;
            assert!(counts.values().all(|count| *count <= most), "{nodes} nodes: {counts:?}");
        }
    }
}

/// The largest part of these clients that one of three nodes has, as a multiple of the mean.
fn largest(owners: &[Option<Leg>], vip: IpAddr, clients: impl IntoIterator<Item = IpAddr>) -> f64 {
    let of_clients: Vec<Option<Leg>> =
        clients.into_iter().map(|client| owners[share_of(&vip.into(), &client.into()) as usize]).collect();
    let most = counts(&of_clients).into_values().max().unwrap_or(0);
    most as f64 * 3.0 / of_clients.len() as f64
}

#[test]
fn sixty_four_clients_of_a_network_are_spread_over_three_nodes() {
    let owners = shares([11, 12, 13]).owners(&Standing::default());
    let mut worst = 0.0_f64;
    for last in 0..=255 {
        let vips: [IpAddr; 2] = [
            Ipv4Addr::new(192, 0, 2, last).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, u16::from(last)).into(),
        ];
        for first in (0..192).step_by(7) {
            let v4 = (0..64).map(|n| Ipv4Addr::new(192, 0, 2, first + n).into());
            let v6 =
                (0..64).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, u16::from(first + n)).into());
            worst = worst.max(largest(&owners, vips[0], v4)).max(largest(&owners, vips[1], v6));
        }
    }
    println!("64 consecutive clients, 3 nodes, 14,336 tries: largest share at most {worst:.3} of the mean");
    assert!(worst < 1.5, "{worst}");
}

/// By chance alone one try in a hundred is above 1.5 of the mean.
#[test]
fn clients_at_random_are_spread_as_chance_has_it() {
    let mut state = 1_u64;
    let mut random = || {
        state = lb_common::hash::mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        state
    };
    let owners = shares([11, 12, 13]).owners(&Standing::default());
    let mut above = 0;
    for _ in 0..1_000 {
        let vip: IpAddr = Ipv4Addr::from_bits(random() as u32).into();
        let clients: Vec<IpAddr> = (0..64)
            .map(|_| Ipv6Addr::from_bits(u128::from(random()) << 64 | u128::from(random())).into())
            .collect();
        above += usize::from(largest(&owners, vip, clients) >= 1.5);
    }
    println!("64 clients at random, 3 nodes: {above} of 1,000 tries with a share of 1.5 of the mean or more");
    assert!(above < 30, "{above} of 1,000");
}

#[test]
fn where_none_of_the_first_few_is_well_the_others_take_turns() {
    let shares = shares(0..20);
    let silent: Vec<(u32, Condition)> = (0..15).map(|number| (number, Condition::Silent)).collect();
    let owners = shares.owners(&standing(&silent));
    let counts = counts(&owners);
    let alive: BTreeSet<Leg> = (15..20).map(leg).collect();
    assert_eq!(counts.keys().copied().collect::<BTreeSet<_>>(), alive);
    assert!(counts.values().all(|count| (150..=260).contains(count)), "{counts:?}");
    // If nobody is well, those that are least bad.
    let mut all: Vec<(u32, Condition)> = (0..20).map(|number| (number, Condition::Silent)).collect();
    all[7].1 = Condition::Yielding;
    let owners = shares.owners(&standing(&all));
    assert!(owners.iter().all(|owner| *owner == Some(leg(7))));
    assert!(Shares::new(&row_key(None), &[vec![]]).owners(&Standing::default()).iter().all(Option::is_none));
    assert!(Shares::new(&row_key(None), &[]).owners(&Standing::default()).iter().all(Option::is_none));
}

#[test]
fn a_class_shares_only_if_none_of_those_before_it_is_well() {
    use Condition::{Returning, Silent, Yielding};
    let shares = Shares::new(&row_key(None), &[vec![leg(4), leg(1)], vec![leg(2), leg(3)], vec![leg(5)]]);
    for (troubled, expected) in [
        (&[][..], &[1, 4][..]),
        (&[(1, Silent)], &[4]),
        (&[(1, Silent), (4, Returning)], &[2, 3]),
        (&[(1, Yielding), (4, Silent), (2, Silent)], &[3]),
        (&[(1, Silent), (4, Silent), (2, Returning), (3, Returning)], &[5]),
        // Nobody is well.
        (&[(1, Silent), (4, Silent), (2, Returning), (3, Returning), (5, Silent)], &[2, 3]),
        (&[(1, Silent), (2, Silent), (3, Silent), (4, Silent), (5, Silent)], &[1, 4]),
    ] {
        let owners = shares.owners(&standing(troubled));
        let counts = counts(&owners);
        assert_eq!(
            counts.keys().copied().collect::<Vec<_>>(),
            expected.iter().map(|n| leg(*n)).collect::<Vec<_>>()
        );
        assert!(
            counts.values().all(|count| *count == SHARES as usize / expected.len()),
            "{troubled:?}: {counts:?}"
        );
    }
    assert_eq!([1, 3, 5, 6].map(|number| shares.class_of(leg(number))), [Some(0), Some(1), Some(2), None]);
}

/// A client of a VIP, with its share.
fn client(vip: &SpreadKey, number: u32, segment: u16) -> (ClientKey, Client) {
    let key = ClientKey { client: leg(number).into(), vip: vip.vip };
    (
        key,
        Client {
            mac: [2, 0, 0, 0, 1, number as u8].into(),
            segment,
            ifindex: 7 + u32::from(segment),
            time: 0,
        },
    )
}

#[test]
fn those_are_told_whose_shares_are_new() {
    let vip = SpreadKey { vip: Ipv4Addr::new(192, 0, 2, 200).into(), segment: 0 };
    let elsewhere = SpreadKey { segment: 1, ..vip };
    let known: BTreeMap<ClientKey, Client> = (0..200).map(|number| client(&vip, number, 0)).collect();
    let shares = shares([1, 2, 3]);
    let own =
        |standing: &Standing| Own::from([(vip, shares.of(leg(1), standing)), (elsewhere, Spread::default())]);
    let before = own(&Standing::default());
    let after = own(&standing(&[(2, Condition::Silent)]));

    assert_eq!(gained(&before, &before), Own::new());
    assert_eq!(gained(&after, &before), Own::new(), "what is lost is nothing new");
    assert_eq!(gained(&Own::new(), &before)[&vip], before[&vip], "at the beginning all are new");
    let new = gained(&before, &after);
    // Frames of the link 20 arrive by the NIC 7, as those of a VLAN device do.
    let link = |arrival: u32| ArmedLink { mac: Mac::default(), asks_from: None, arrivals: [arrival].into() };
    let segment = |links| ArmedSegment {
        name: "lan".to_owned(),
        own: None,
        claims_as: None,
        legs: BTreeMap::new(),
        stand_ins: BTreeMap::new(),
        links,
    };
    let segments = [
        (0, segment([(20, link(7)), (21, link(9))].into())),
        (1, segment([(30, link(7)), (31, link(8))].into())),
    ]
    .into();
    let told = clients_of(&new, &known, &segments);
    let expected: Vec<(Place, Recipient)> = known
        .iter()
        .filter(|(key, _)| {
            let share = share_of(&key.vip, &key.client);
            after[&vip].has(share) && !before[&vip].has(share)
        })
        .map(|(key, client)| ((vip.vip, 20), Recipient { address: key.client, mac: client.mac }))
        .collect();
    assert_eq!(told, expected);
    // Half of the third that was the dead node's.
    assert!((20..50).contains(&told.len()), "{} of 200", told.len());
    // In another segment this node has no share.
    let known: BTreeMap<ClientKey, Client> = (0..200).map(|number| client(&vip, number, 1)).collect();
    assert_eq!(clients_of(&new, &known, &segments), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The order in which nodes are told does not count, nor does one that is told twice.
    #[test]
    fn a_table_is_a_function_of_the_set_of_nodes(
        numbers in proptest::collection::btree_set(0..1000_u32, 1..20),
        seed in any::<u64>(),
    ) {
        let mut shuffled: Vec<u32> = numbers.iter().copied().collect();
        shuffled.sort_by_key(|number| lb_common::hash::mix(u64::from(*number) ^ seed));
        shuffled.push(shuffled[0]);
        prop_assert_eq!(shares(numbers), shares(shuffled));
    }

    /// Nodes that hold the same of all others divide all shares among themselves, and each share has one of them.
    #[test]
    fn each_share_has_one_owner_among_those_that_agree(
        numbers in proptest::collection::btree_set(0..1000_u32, 1..20),
        conditions in proptest::collection::vec(0..3_u8, 20),
    ) {
        let shares = shares(numbers.iter().copied());
        let troubled: Vec<(u32, Condition)> = numbers
            .iter()
            .zip(conditions)
            .filter_map(|(number, condition)| match condition {
                0 => None,
                1 => Some((*number, Condition::Yielding)),
                _ => Some((*number, Condition::Silent)),
            })
            .collect();
        let standing = standing(&troubled);
        let all = numbers.iter().map(|number| shares.of(leg(*number), &standing));
        let mut seen = Spread::default();
        for own in all {
            for (seen, own) in seen.words.iter_mut().zip(own.words) {
                prop_assert_eq!(*seen & own, 0, "a share has two owners");
                *seen |= own;
            }
        }
        prop_assert_eq!(seen.count(), SHARES);
        // Nobody who is worse than another owns anything but what nobody better could.
        let best = numbers.iter().map(|number| standing.condition(leg(*number))).min();
        prop_assert!(shares.owners(&standing).into_iter().flatten().all(|leg| Some(standing.condition(leg)) == best));
    }

    /// A node that dies takes its own shares with it and moves no other, and its shares are divided among all that live.
    #[test]
    fn a_death_moves_the_shares_of_the_dead_alone(
        numbers in proptest::collection::btree_set(0..1000_u32, 3..12),
        place in 0..3_usize,
    ) {
        let shares = shares(numbers.iter().copied());
        let dead = numbers.iter().nth(place).copied().unwrap_or_default();
        let before = shares.owners(&Standing::default());
        let after = shares.owners(&standing(&[(dead, Condition::Silent)]));
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before == after || *before == Some(leg(dead)));
            prop_assert_ne!(*after, Some(leg(dead)));
        }
        let counts = counts(&after);
        prop_assert_eq!(counts.len(), numbers.len() - 1);
        let mean = SHARES as usize / (numbers.len() - 1);
        prop_assert!(counts.values().all(|count| *count < mean * 3 / 2), "{:?}", counts);
    }

    /// A node that leaves the source makes another table; few shares move that were not its own.
    #[test]
    fn a_node_that_leaves_moves_few_other_shares(numbers in proptest::collection::btree_set(0..1000_u32, 3..20)) {
        let gone = numbers.first().copied().unwrap_or_default();
        let before = shares(numbers.iter().copied()).owners(&Standing::default());
        let after = shares(numbers.iter().copied().filter(|number| *number != gone)).owners(&Standing::default());
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after && **before != Some(leg(gone)));
        let moved = moved.count();
        prop_assert!(moved < SHARES as usize / 5, "{} of {} moved beside those of the node", moved, SHARES);
    }
}
