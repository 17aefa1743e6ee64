//! Which addresses Services get: a function of what is there and of what was given before.
//!
//! Services keep what they have; then those that ask for an address get it; then all others, the lowest that is free of the first
//! pool that is open to them. In each of the three the oldest comes first, and those whose age is not known come last, by namespace and
//! name. What a change costs depends on how many Services there are, never on how large pools are.
//!
//! [`allocate()`] looks at a snapshot alone, so that nodes without a controller agree. An [`Allocator`] also remembers, while it lives,
//! what it has given: it gives the same again whether that shows in the snapshot yet or not, lets addresses rest that were given up,
//! and gives a Service back what one of its name has had.

mod error;
mod held;
mod holders;
mod intervals;
mod pass;
mod past;
mod pools;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

pub use error::{AllocationError, Claim, Families, Obstacle, Precedence, Purpose};
pub use pools::{Count, PoolCounts};

pub(crate) use error::by_age;

use pass::Pass;
use past::Past;

use crate::model::{ObjectName, Snapshot};

/// Addresses of Services, and why others have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// By Service: one of each family at most, IPv4 first.
    pub addresses: BTreeMap<ObjectName, Vec<IpAddr>>,
    /// The pool of each Service that has addresses; where its pool does not have them any more, the one that had them.
    pub pools: BTreeMap<ObjectName, String>,
    /// Why Services have none, by Service.
    pub errors: BTreeMap<ObjectName, AllocationError>,
    /// What else there is to say of a Service.
    pub remarks: BTreeMap<ObjectName, Remark>,
    /// How full each pool is.
    pub counts: BTreeMap<String, PoolCounts>,
}

/// What there is to say of a Service and its addresses, whether it has any or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// It could not keep what it had.
    Cleared(AllocationError),
    /// It keeps what it has, though it would not get it any more.
    Stranded(AllocationError),
    /// It has an address of one family, and would rather have both.
    OneFamily(AllocationError),
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cleared(error) => write!(f, "the Service gives up what it had: {error}"),
            Self::Stranded(error) => {
                write!(f, "the Service keeps what it has until it asks for something else, though {error}")
            }
            Self::OneFamily(error) => write!(f, "the Service has an address of one family alone: {error}"),
        }
    }
}

/// What becomes of an address that its pool does not give to its Service any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolEdit {
    /// The Service keeps it until it asks for another.
    #[default]
    Keep,
    /// The Service gets another at once, as with MetalLB.
    Reassign,
}

/// Addresses for a snapshot, with no regard to what was before it.
pub fn allocate(snapshot: &Snapshot) -> Allocation {
    Pass::new(snapshot, &Past::default(), [], PoolEdit::default()).run()
}

/// Gives addresses, and remembers.
#[derive(Clone, Debug)]
pub struct Allocator {
    rest: Duration,
    pool_edit: PoolEdit,
    past: Past,
}

impl Allocator {
    /// One that has given nothing yet. An address that is given up rests before somebody else gets it, unless nothing else is free in its
    /// pool.
    pub fn new(rest: Duration, pool_edit: PoolEdit) -> Self {
        Self { rest, pool_edit, past: Past::default() }
    }

    /// Addresses for what is there now.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot, now: Instant) -> Allocation {
        self.past.forget_gone(snapshot, now);
        // A clock that began less than a rest ago: all of them rest.
        let since = now.checked_sub(self.rest);
        let resting: Vec<IpAddr> = self.past.freed_since(since).collect();
        let allocation = Pass::new(snapshot, &self.past, resting, self.pool_edit).run();
        self.past.settle(snapshot, &allocation, now);
        allocation
    }
}
