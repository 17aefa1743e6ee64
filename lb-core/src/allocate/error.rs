//! Why a Service has no address, or not the one that it wants.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use crate::model::{Family, ObjectName, Service};

/// Why a Service has no address, or not the one that it wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum AllocationError {
    /// Wants an address that no pool has.
    #[error("{address} is in no IPAddressPool: add it to one, or {claim}")]
    OutsidePools {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
    },
    /// Wants addresses of different pools.
    #[error("{address} is not of IPAddressPool {pool}, of which the other address is: {claim}")]
    TwoPools {
        /// The second address.
        address: IpAddr,
        /// The pool of the first.
        pool: String,
        /// By what they are wanted.
        claim: Claim,
    },
    /// Asks for an address and for a pool that does not have it.
    #[error("{address} is not of IPAddressPool {pool}, which is asked for as well: ask for one of the two")]
    OtherPool {
        /// The address.
        address: IpAddr,
        /// The pool that is asked for.
        pool: String,
    },
    /// Wants an address that another Service has.
    #[error(
        "{address} belongs to Service {holder}, {precedence}, and {obstacle}: {claim}, or let that Service give it up"
    )]
    Taken {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
        /// Who has it.
        holder: ObjectName,
        /// Why it has it.
        precedence: Precedence,
        /// Why the two cannot share it.
        obstacle: Obstacle,
    },
    /// Wants an address that ends with 0 or 255.
    #[error("{address} ends with 0 or 255, and its IPAddressPool {pool} has avoidBuggyIPs: {claim}")]
    Buggy {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
        /// Its pool.
        pool: String,
    },
    /// Wants an address that must not be given to anybody.
    #[error("{address} is {purpose}: {claim}")]
    InUse {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
        /// For what it is there.
        purpose: Purpose,
    },
    /// Wants an address of a pool that is not for it.
    #[error(
        "{address} is of IPAddressPool {pool}, whose serviceAllocation does not admit this Service: {claim}"
    )]
    Reserved {
        /// The address.
        address: IpAddr,
        /// By what it is wanted.
        claim: Claim,
        /// Its pool.
        pool: String,
    },
    /// Wants addresses of other families than it has.
    #[error("the addresses are of {found}, and the Service is of {families}: {claim}")]
    Families {
        /// The families of the addresses.
        found: Families,
        /// The Service's.
        families: Families,
        /// By what they are wanted.
        claim: Claim,
    },
    /// Asks for a pool that is not there.
    #[error("there is no IPAddressPool {pool}")]
    NoPool {
        /// The pool.
        pool: String,
    },
    /// Asks for a pool that is not for it.
    #[error(
        "the serviceAllocation of IPAddressPool {pool} does not admit this Service: ask for another pool"
    )]
    NotAdmitted {
        /// The pool.
        pool: String,
    },
    /// Requires two families, and its cluster addresses are of one.
    #[error("the Service requires two families, and has no cluster address of one of them")]
    OneClusterIp,
    /// No pool has what is needed.
    #[error(
        "no IPAddressPool that is open to the Service has a free address of each family that it needs ({families})"
    )]
    Exhausted {
        /// The families.
        families: Families,
    },
}

/// By what a Service wants an address; it shows as what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Claim {
    /// Its status says that it has it.
    #[error("take it out of this status, and the Service gets another")]
    Held,
    /// Its annotation, or `spec.loadBalancerIP`.
    #[error("ask for another address")]
    Requested,
}

/// Why of two Services that want one address this one has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Precedence {
    /// By its status, and the other asks for it.
    #[error("which has it already, by its status.loadBalancer.ingress")]
    Held,
    /// It has it as before, and the other has changed.
    #[error("which has not changed, as this one has")]
    Unchanged,
    /// By `metadata.creationTimestamp`.
    #[error("which is older")]
    Older,
    /// The other has no `metadata.creationTimestamp`.
    #[error("which has a metadata.creationTimestamp, as this one has not")]
    Dated,
    /// Neither is older.
    #[error("which comes first by namespace and name")]
    First,
}

/// Why two Services cannot share an address (MetalLB: `internal/allocator/allocator.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Obstacle {
    /// That one has no sharing key.
    #[error("has no annotation metallb.io/allow-shared-ip")]
    HolderHasNoKey,
    /// This one has none.
    #[error("this one has no annotation metallb.io/allow-shared-ip")]
    NoKey,
    /// The keys differ.
    #[error("its annotation metallb.io/allow-shared-ip differs from this one's")]
    OtherKey,
    /// Only Services of the same pods share where `externalTrafficPolicy` is Local.
    #[error(
        "with externalTrafficPolicy Local two share an address only if both have it and select the same pods"
    )]
    OtherBackends,
    /// Both have this port.
    #[error("has port {port}/{protocol} as well")]
    Port {
        /// The port.
        port: NonZeroU16,
        /// Its protocol.
        protocol: &'static str,
    },
}

/// For what an address is there that no Service can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Purpose {
    /// A node has it.
    #[error("an address of Node {0}")]
    Node(String),
    /// Services have their cluster addresses there.
    #[error("in ServiceCIDR {0}")]
    ServiceCidr(String),
}

/// One family or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Families {
    /// IPv4 alone.
    #[error("IPv4")]
    V4,
    /// IPv6 alone.
    #[error("IPv6")]
    V6,
    /// Both.
    #[error("IPv4 and IPv6")]
    Both,
}

/// How a Service stands towards the addresses that it wants: the first has them before the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Has them, and wants nothing else than before.
    Unchanged,
    /// Has them.
    Held,
    /// Has none, or asks for others.
    Wanting,
}

impl Precedence {
    /// Of two Services of which the first has an address that the second wants.
    pub(super) fn of(holder: (Standing, &Service), other: (Standing, &Service)) -> Self {
        match (holder.0, other.0) {
            (Standing::Unchanged | Standing::Held, Standing::Wanting) => return Self::Held,
            (Standing::Unchanged, Standing::Held) => return Self::Unchanged,
            (Standing::Unchanged | Standing::Held | Standing::Wanting, _) => {}
        }
        match (by_age(holder.1, other.1), other.1.created) {
            (Ordering::Less, Some(_)) => Self::Older,
            (Ordering::Less, None) => Self::Dated,
            (Ordering::Equal | Ordering::Greater, _) => Self::First,
        }
    }
}

impl Families {
    /// Of these; none counts as IPv4, which is never said.
    pub(super) fn of(families: impl IntoIterator<Item = Family>) -> Self {
        let families: BTreeSet<Family> = families.into_iter().collect();
        match (families.contains(&Family::V4), families.contains(&Family::V6)) {
            (true, true) => Self::Both,
            (false, true) => Self::V6,
            (_, false) => Self::V4,
        }
    }
}

/// The oldest first, those of which that is not known last.
pub(crate) fn by_age(a: &Service, b: &Service) -> Ordering {
    let key = |service: &Service| (service.created.is_none(), service.created);
    key(a).cmp(&key(b))
}
