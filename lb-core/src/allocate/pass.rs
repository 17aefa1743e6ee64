//! One allocation for one snapshot.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Allocation, PoolEdit, Remark,
    error::{AllocationError, Claim, Families, Precedence, Standing, by_age},
    holders::{Holder, Holders, Terms},
    intervals::AddressSet,
    past::Past,
    pools::{NamedPool, Pools, is_buggy},
};
use crate::model::{Family, FamilyPolicy, ObjectName, Pool, Service, Snapshot};

/// On the way to an [`Allocation`].
pub(super) struct Pass<'a> {
    snapshot: &'a Snapshot,
    past: &'a Past,
    pool_edit: PoolEdit,
    pools: Pools<'a>,
    holders: Holders<'a>,
    /// Addresses that somebody has, or nobody may have.
    busy: AddressSet,
    /// Those, and the ones that rest.
    avoided: AddressSet,
    allocation: Allocation,
}

/// Addresses and the pool that they are of.
type Found = (Vec<IpAddr>, String);

impl<'a> Pass<'a> {
    pub fn new(
        snapshot: &'a Snapshot,
        past: &'a Past,
        resting: impl IntoIterator<Item = IpAddr>,
        pool_edit: PoolEdit,
    ) -> Self {
        let pools = Pools::new(snapshot);
        let busy = pools.never().clone();
        let mut avoided = busy.clone();
        resting.into_iter().for_each(|address| avoided.insert(address));
        let (holders, allocation) = Default::default();
        Self { snapshot, past, pool_edit, pools, holders, busy, avoided, allocation }
    }

    pub fn run(mut self) -> Allocation {
        let mut has: Vec<Holder<'a>> =
            self.snapshot.services.iter().map(|(name, service)| self.holder(name, service)).collect();
        let mut wants: Vec<Holder<'a>> =
            has.extract_if(.., |holder| holder.standing == Standing::Wanting).collect();
        for holder in &wants {
            // What it gives up rests as well.
            self.held(holder).iter().for_each(|address| self.avoided.insert(*address));
        }
        // Stable, here and below: by namespace and name where nothing else decides.
        has.sort_by(|a, b| a.standing.cmp(&b.standing).then_with(|| by_age(a.service, b.service)));
        for holder in has {
            match self.keep(holder) {
                Ok(true) => {}
                Ok(false) => wants.push(holder),
                Err(error) => {
                    self.allocation.remarks.insert(holder.name.clone(), Remark::Cleared(error));
                    self.held(&holder).iter().for_each(|address| self.avoided.insert(*address));
                    wants.push(Holder { standing: Standing::Wanting, ..holder });
                }
            }
        }
        let is_open = |holder: &Holder<'_>| holder.service.requested.is_empty();
        wants.sort_by(|a, b| {
            let order = is_open(a).cmp(&is_open(b)).then_with(|| by_age(a.service, b.service));
            order.then_with(|| a.name.cmp(b.name))
        });
        for holder in wants {
            if self.allocation.addresses.contains_key(holder.name) {
                self.complete(holder);
                continue;
            }
            let found = if is_open(&holder) { self.choose(&holder) } else { self.requested(&holder) };
            match found {
                Ok(found) => self.give(holder, found),
                Err(error) => {
                    self.allocation.errors.insert(holder.name.clone(), error);
                }
            }
        }
        self.allocation.counts = self.pools.counts(self.holders.addresses());
        self.allocation
    }

    fn holder(&self, name: &'a ObjectName, service: &'a Service) -> Holder<'a> {
        let holder = Holder { name, service, standing: Standing::Wanting };
        let kept = self.kept(&holder);
        let standing = if kept.is_empty() || self.asks_for_others(&holder, &kept) {
            Standing::Wanting
        } else if self.past.is_unchanged(name, service) {
            Standing::Unchanged
        } else {
            Standing::Held
        };
        Holder { standing, ..holder }
    }

    /// What a Service has: what it was given last, whether its status says so yet or not.
    fn held(&self, holder: &Holder<'a>) -> &'a [IpAddr] {
        self.past.given(holder.name).unwrap_or(&holder.service.ingress)
    }

    /// Of what a Service has, those of its families, one of each.
    fn kept(&self, holder: &Holder<'a>) -> Vec<IpAddr> {
        let mut kept: Vec<IpAddr> = Vec::new();
        for address in self.held(holder) {
            let family = Family::of(address);
            if holder.service.families.contains(&family)
                && kept.iter().all(|other| Family::of(other) != family)
            {
                kept.push(*address);
            }
        }
        kept
    }

    fn asks_for_others(&self, holder: &Holder<'a>, kept: &[IpAddr]) -> bool {
        let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<IpAddr>>();
        if !holder.service.requested.is_empty() {
            return set(&holder.service.requested) != set(kept);
        }
        let pool = kept.first().and_then(|address| self.pools.of(address)).map(|(pool, _)| pool);
        let pool = pool.or_else(|| self.pool_before(holder));
        holder.service.requested_pool.as_deref().is_some_and(|asked| pool != Some(asked))
    }

    /// The pool of which a Service got what it has.
    fn pool_before(&self, holder: &Holder<'a>) -> Option<&'a str> {
        self.past.pool(holder.name).or(holder.service.held_pool.as_deref())
    }

    /// Leaves a Service what it has; whether that is all that it needs.
    ///
    /// # Errors
    /// It may not have it.
    fn keep(&mut self, holder: Holder<'a>) -> Result<bool, AllocationError> {
        let service = holder.service;
        let kept = self.kept(&holder);
        needs_families(service)?;
        self.is_free(&holder, &kept, Claim::Held)?;
        let pool = match (self.pool_of(&holder, &kept, Claim::Held), self.pool_before(&holder)) {
            (Ok(pool), _) => pool.to_owned(),
            (Err(error), Some(pool)) if self.pool_edit == PoolEdit::Keep => {
                self.allocation.remarks.insert(holder.name.clone(), Remark::Stranded(error));
                pool.to_owned()
            }
            (Err(error), _) => return Err(error),
        };
        let is_complete = kept.len() == service.families.len();
        if !is_complete && !service.requested.is_empty() {
            let error = families_differ(&kept, service, Claim::Requested);
            self.allocation.remarks.insert(holder.name.clone(), Remark::OneFamily(error));
        }
        self.held(&holder).iter().for_each(|address| self.avoided.insert(*address));
        self.give(holder, (kept, pool));
        Ok(is_complete || !service.requested.is_empty())
    }

    /// Looks for an address of the family that a Service has none of.
    fn complete(&mut self, holder: Holder<'a>) {
        let (name, service) = (holder.name, holder.service);
        let (Some(kept), Some(pool)) =
            (self.allocation.addresses.get(name).cloned(), self.allocation.pools.get(name).cloned())
        else {
            return;
        };
        let Some(missing) =
            service.families.iter().find(|family| kept.iter().all(|a| Family::of(a) != **family))
        else {
            return;
        };
        let of_pool = self.pools.get(&pool).filter(|(_, pool)| self.pools.admits(pool, name, service));
        let found = of_pool.and_then(|(_, pool)| self.pick(pool, *missing, &Terms::of(service)));
        if let Some(address) = found {
            return self.replace(holder, ([kept, vec![address]].concat(), pool));
        }
        let exhausted = AllocationError::Exhausted { families: Families::of([*missing]) };
        // Who requires both gets both of another pool, and then gives up what it has.
        let others = (service.family_policy == FamilyPolicy::RequireDualStack).then(|| self.choose(&holder));
        let remark = match others {
            Some(Ok(found)) => {
                self.replace(holder, found);
                Remark::Cleared(exhausted)
            }
            Some(Err(_)) | None => Remark::OneFamily(exhausted),
        };
        self.allocation.remarks.insert(name.clone(), remark);
    }

    fn requested(&self, holder: &Holder<'a>) -> Result<Found, AllocationError> {
        let service = holder.service;
        needs_families(service)?;
        let requested = &service.requested;
        if Families::of(requested.iter().map(Family::of)) != Families::of(service.families.iter().copied()) {
            return Err(families_differ(requested, service, Claim::Requested));
        }
        let pool = self.pool_of(holder, requested, Claim::Requested)?;
        if let (Some(asked), Some(address)) = (&service.requested_pool, requested.first())
            && asked != pool
        {
            return Err(AllocationError::OtherPool { address: *address, pool: asked.clone() });
        }
        self.is_free(holder, requested, Claim::Requested)?;
        Ok((requested.clone(), pool.to_owned()))
    }

    fn choose(&self, holder: &Holder<'a>) -> Result<Found, AllocationError> {
        let (name, service) = (holder.name, holder.service);
        needs_families(service)?;
        let groups = match &service.requested_pool {
            None => self.pools.open_to(name, service),
            Some(pool) => match self.pools.get(pool) {
                None => return Err(AllocationError::NoPool { pool: pool.clone() }),
                Some((_, found)) if !self.pools.admits(found, name, service) => {
                    return Err(AllocationError::NotAdmitted { pool: pool.clone() });
                }
                Some(found) => [vec![found], Vec::new()],
            },
        };
        let terms = Terms::of(service);
        let found = self.former(holder, &groups.concat(), &terms);
        let found = found.or_else(|| groups.iter().find_map(|pools| self.best(pools, service, &terms)));
        found.ok_or_else(|| AllocationError::Exhausted {
            families: Families::of(service.families.iter().copied()),
        })
    }

    /// What a Service of this name had before, if that is still to be had.
    fn former(&self, holder: &Holder<'a>, pools: &[NamedPool<'a>], terms: &Terms) -> Option<Found> {
        let free = self.past.former(holder.name).filter(|address| !self.busy.contains(address));
        let free: Vec<(IpAddr, NamedPool<'a>)> =
            free.filter_map(|address| Some((address, self.pools.of(&address)?))).collect();
        let (first, rest) = holder.service.families.split_first()?;
        let of_family = |(address, (name, pool)): &&(IpAddr, NamedPool<'a>)| {
            let is_open = pools.iter().any(|(open, _)| open == name);
            Family::of(address) == *first && is_open && !(pool.avoid_buggy && is_buggy(address))
        };
        let (address, (name, pool)) = free.iter().find(of_family)?;
        let mut addresses = vec![*address];
        for family in rest {
            let same = free.iter().find(|(other, (of, _))| Family::of(other) == *family && of == name);
            let same = same.map(|(other, _)| *other).filter(|other| !(pool.avoid_buggy && is_buggy(other)));
            addresses.push(same.or_else(|| self.pick(pool, *family, terms))?);
        }
        Some((addresses, (*name).to_owned()))
    }

    /// Of the first pool that has all families; if the Service only prefers to have both, else of the first that has its first
    /// family, or at least the second (MetalLB: `findBestPoolForService`).
    fn best(&self, pools: &[NamedPool<'a>], service: &Service, terms: &Terms) -> Option<Found> {
        let mut with_one: [Option<Found>; 2] = [None, None];
        for (name, pool) in pools {
            let picked: Vec<Option<IpAddr>> =
                service.families.iter().map(|family| self.pick(pool, *family, terms)).collect();
            if let Some(all) = picked.iter().copied().collect::<Option<Vec<IpAddr>>>() {
                return Some((all, (*name).to_owned()));
            }
            for (one, picked) in with_one.iter_mut().zip(picked) {
                *one = one.take().or_else(|| Some((vec![picked?], (*name).to_owned())));
            }
        }
        let [first, second] = with_one;
        first.or(second).filter(|_| service.family_policy == FamilyPolicy::PreferDualStack)
    }

    /// The lowest address of a pool that is free, or shared on these terms, in the first of its ranges that has one. One that rests only if
    /// there is no other.
    fn pick(&self, pool: &Pool, family: Family, terms: &Terms) -> Option<IpAddr> {
        let suits = |address: &IpAddr| !(pool.avoid_buggy && is_buggy(address));
        let ranges = || pool.ranges.iter().filter(|range| Family::of(&range.first()) == family);
        [&self.avoided, &self.busy].into_iter().find_map(|taken| {
            ranges().find_map(|range| {
                let free = taken.lowest_outside(range, suits);
                let shared = self.holders.lowest_shared(range, terms).filter(suits);
                free.into_iter().chain(shared).min()
            })
        })
    }

    /// The pool that has these addresses and gives them to the Service.
    fn pool_of(
        &self,
        holder: &Holder<'a>,
        addresses: &[IpAddr],
        claim: Claim,
    ) -> Result<&'a str, AllocationError> {
        let mut found: Option<&'a str> = None;
        for address in addresses.iter().copied() {
            let Some((name, pool)) = self.pools.of(&address) else {
                return Err(AllocationError::OutsidePools { address, claim });
            };
            if pool.avoid_buggy && is_buggy(&address) {
                return Err(AllocationError::Buggy { address, claim, pool: name.to_owned() });
            }
            if let Some(purpose) = self.pools.purpose_of(&address) {
                return Err(AllocationError::InUse { address, claim, purpose: purpose.clone() });
            }
            if !self.pools.admits(pool, holder.name, holder.service) {
                return Err(AllocationError::Reserved { address, claim, pool: name.to_owned() });
            }
            match found {
                Some(first) if first != name => {
                    return Err(AllocationError::TwoPools { address, claim, pool: first.to_owned() });
                }
                Some(_) | None => found = Some(name),
            }
        }
        // Nobody asks for the pool of nothing.
        found.ok_or_else(|| AllocationError::Exhausted {
            families: Families::of(holder.service.families.iter().copied()),
        })
    }

    /// Whether nobody has the addresses who cannot share them with the Service.
    fn is_free(
        &self,
        holder: &Holder<'a>,
        addresses: &[IpAddr],
        claim: Claim,
    ) -> Result<(), AllocationError> {
        let terms = Terms::of(holder.service);
        for address in addresses.iter().copied() {
            if let Some((other, obstacle)) = self.holders.obstacle(&address, &terms) {
                let precedence =
                    Precedence::of((other.standing, other.service), (holder.standing, holder.service));
                let name = other.name.clone();
                return Err(AllocationError::Taken { address, claim, holder: name, precedence, obstacle });
            }
        }
        Ok(())
    }

    fn replace(&mut self, holder: Holder<'a>, found: Found) {
        for address in self.allocation.addresses.remove(holder.name).unwrap_or_default() {
            self.holders.remove(&address, holder.name);
        }
        self.give(holder, found);
    }

    fn give(&mut self, holder: Holder<'a>, (mut addresses, pool): Found) {
        addresses.sort();
        let terms = Terms::of(holder.service);
        for address in &addresses {
            self.busy.insert(*address);
            self.avoided.insert(*address);
            self.holders.insert(*address, holder, terms.clone());
        }
        self.allocation.addresses.insert(holder.name.clone(), addresses);
        self.allocation.pools.insert(holder.name.clone(), pool);
    }
}

fn needs_families(service: &Service) -> Result<(), AllocationError> {
    match service.family_policy {
        FamilyPolicy::RequireDualStack if service.families.len() < 2 => Err(AllocationError::OneClusterIp),
        FamilyPolicy::SingleStack | FamilyPolicy::PreferDualStack | FamilyPolicy::RequireDualStack => Ok(()),
    }
}

fn families_differ(addresses: &[IpAddr], service: &Service, claim: Claim) -> AllocationError {
    AllocationError::Families {
        found: Families::of(addresses.iter().map(Family::of)),
        families: Families::of(service.families.iter().copied()),
        claim,
    }
}
