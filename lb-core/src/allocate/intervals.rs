//! Sets of addresses as intervals: what a set costs depends on how often it begins and ends, never on how many addresses are in it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::model::{AddressRange, Family};

/// Addresses of both families.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressSet {
    v4: Intervals,
    v6: Intervals,
}

impl AddressSet {
    pub fn insert(&mut self, address: IpAddr) {
        let number = number(address);
        self.of_mut(Family::of(&address)).insert(number, number);
    }

    pub fn insert_range(&mut self, range: &AddressRange) {
        self.of_mut(Family::of(&range.first())).insert(number(range.first()), number(range.last()));
    }

    pub fn contains(&self, address: &IpAddr) -> bool {
        self.of(Family::of(address)).end_around(number(*address)).is_some()
    }

    /// The lowest address of a range that is not in the set and that suits.
    ///
    /// Each one that does not suit costs a step: the caller sees to it that there are few in a row.
    pub fn lowest_outside(&self, range: &AddressRange, suits: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let family = Family::of(&range.first());
        let (mut next, last) = (number(range.first()), number(range.last()));
        while next <= last {
            let end = match self.of(family).end_around(next) {
                Some(end) => end,
                None => {
                    let found = address(family, next);
                    if suits(&found) {
                        return Some(found);
                    }
                    next
                }
            };
            next = end.checked_add(1)?;
        }
        None
    }

    /// The parts of a range that are in the set.
    pub fn within(&self, range: &AddressRange) -> impl Iterator<Item = AddressRange> + '_ {
        let family = Family::of(&range.first());
        let parts = self.of(family).overlapping(number(range.first()), number(range.last()));
        parts
            .filter_map(move |(first, last)| AddressRange::new(address(family, first), address(family, last)))
    }

    fn of(&self, family: Family) -> &Intervals {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, family: Family) -> &mut Intervals {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// How many addresses are in a range; the largest number if they are too many to be counted.
pub(super) fn len(range: &AddressRange) -> u128 {
    size(number(range.first()), number(range.last()))
}

/// How many addresses of a range end with 0 or 255 in IPv4.
pub(super) fn count_buggy(range: &AddressRange) -> u128 {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) else { return 0 };
    // Of those up to an address, itself included: one that ends with 0 for each block begun, one with 255 for each block full.
    let up_to = |address: u64| address / 256 + 1 + (address + 1) / 256;
    let (first, last) = (u64::from(first.to_bits()), u64::from(last.to_bits()));
    u128::from(up_to(last) - first.checked_sub(1).map_or(0, up_to))
}

/// Disjoint intervals, by their first number, none of which ends where another begins.
#[derive(Clone, Debug, Default)]
struct Intervals(BTreeMap<u128, u128>);

impl Intervals {
    fn insert(&mut self, mut first: u128, mut last: u128) {
        // Those that touch it become part of it.
        while let Some((begin, end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            let (begin, end) = (*begin, *end);
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&begin);
            (first, last) = (first.min(begin), last.max(end));
        }
        self.0.insert(first, last);
    }

    /// The end of the interval in which a number is.
    fn end_around(&self, number: u128) -> Option<u128> {
        self.0.range(..=number).next_back().map(|(_, end)| *end).filter(|end| *end >= number)
    }

    /// The parts that are between two numbers.
    fn overlapping(&self, first: u128, last: u128) -> impl Iterator<Item = (u128, u128)> + '_ {
        let before = self.end_around(first).map(|end| (first, end.min(last)));
        let after = first.checked_add(1).filter(|next| *next <= last);
        let after = after.into_iter().flat_map(move |next| self.0.range(next..=last));
        before.into_iter().chain(after.map(move |(begin, end)| (*begin, (*end).min(last))))
    }
}

fn size(first: u128, last: u128) -> u128 {
    (last - first).saturating_add(1)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        // Within a range of IPv4 there is none that is longer.
        Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn range(first: u8, last: u8) -> AddressRange {
        AddressRange::new(v4(first.min(last)), v4(first.max(last))).expect("in order")
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            inserted in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..40),
            (first, last) in any::<(u8, u8)>(),
        ) {
            let mut set = AddressSet::default();
            let mut model = BTreeSet::new();
            for (a, b) in inserted {
                let b = a.saturating_add(b % 8);
                set.insert_range(&range(a, b));
                model.extend(a..=b);
            }
            let asked = range(first, last);
            let within = || (first.min(last)..=first.max(last)).filter(|n| asked.contains(&v4(*n)));
            for n in 0..=255 {
                prop_assert_eq!(set.contains(&v4(n)), model.contains(&n));
            }
            let lowest = within().find(|n| !model.contains(n) && !n.is_multiple_of(3)).map(v4);
            let suits = |address: &IpAddr| !(number(*address) as u8).is_multiple_of(3);
            prop_assert_eq!(set.lowest_outside(&asked, suits), lowest);
            let count: u128 = set.within(&asked).map(|part| len(&part)).sum();
            prop_assert_eq!(count, within().filter(|n| model.contains(n)).count() as u128);
            let ends: Vec<_> = set.v4.0.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < *pair[1].0), "{:?}", ends);
        }

        #[test]
        fn buggy_addresses_are_counted_without_a_look_at_each(first in 0_u32..2_000, length in 0_u32..2_000) {
            let ends = [first, first + length].map(|bits| Ipv4Addr::from_bits(bits).into());
            let range = AddressRange::new(ends[0], ends[1]).expect("in order");
            let counted = (first..=first + length).filter(|bits| matches!(bits % 256, 0 | 255)).count();
            prop_assert_eq!(count_buggy(&range), counted as u128);
        }
    }

    #[test]
    fn the_ends_of_the_families_are_no_trouble() {
        let all = |first: &str, last: &str| {
            AddressRange::new(first.parse().expect("an address"), last.parse().expect("an address"))
                .expect("in order")
        };
        for range in [all("0.0.0.0", "255.255.255.255"), all("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
        {
            let mut set = AddressSet::default();
            assert_eq!(set.lowest_outside(&range, |_| true), Some(range.first()));
            set.insert_range(&range);
            assert_eq!(set.lowest_outside(&range, |_| true), None);
            assert_eq!(set.within(&range).collect::<Vec<_>>(), [range]);
        }
        let v4 = all("0.0.0.0", "255.255.255.255");
        assert_eq!((len(&v4), count_buggy(&v4)), (1 << 32, 1 << 25));
    }
}
