//! What is wrong with an object, for the person who can mend it.

use std::{collections::BTreeSet, fmt};

use lb_core::{
    allocate::{AllocationError, Purpose, Remark},
    model::{ObjectName, Protocol},
};
use serde::{Deserialize, Serialize};

/// Kind, namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Kind.
    pub kind: String,
    /// Namespace, `default` if a namespaced object names none; empty for others.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Of a Service.
    pub fn of_service(service: &ObjectName) -> Self {
        Self {
            kind: "Service".to_owned(),
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
        }
    }

    /// Its namespace and name.
    pub fn object_name(&self) -> ObjectName {
        ObjectName { namespace: self.namespace.as_str().into(), name: self.name.as_str().into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Whether an object is used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is used, without what is wrong.
    Warning,
    /// It is not used.
    Error,
}

/// Something that is wrong with an object, or with a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The object, as far as it could be read.
    pub object: Option<ObjectKey>,
    /// The field, as a path from the object; empty for the whole.
    pub field: String,
    /// Whether the object is used.
    pub severity: Severity,
    /// What is wrong.
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: ", self.file)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        self.kind.fmt(f)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ProblemKind {
    /// Neither YAML nor JSON.
    #[error("cannot be read: {message}")]
    Syntax {
        /// The parser's words.
        message: String,
    },
    /// No `kind`, `apiVersion` or `metadata.name`.
    #[error("is missing: every object has apiVersion, kind and metadata.name")]
    Missing,
    /// A Secret does not hold what it should; what it holds is never said.
    #[error("is not what it should be: {expected}")]
    Secret {
        /// What it should be.
        expected: &'static str,
    },
    /// Another version of the kind, or the same kind of another group.
    #[error("{value:?} is not {expected}, the version of this kind that is read")]
    ApiVersion {
        /// What is there.
        value: String,
        /// What could be there.
        expected: String,
    },
    /// ConfigMap `config` does not have what it is there for.
    #[error("is missing: MetalLB's configuration stands there")]
    NoConfig,
    /// A pool of the old configuration is announced by ARP and NDP, and says how it were to be announced by BGP.
    #[error("is for protocol bgp: leave it out, or change the protocol")]
    NotWithLayer2,
    /// An object of BGP: it is read, and nothing more.
    #[error("is read, and nothing is announced by BGP yet")]
    NotAnnounced,
    /// Of another type than the field has.
    #[error("{message}")]
    Type {
        /// The decoder's words.
        message: String,
    },
    /// A field that the kind does not have.
    #[error("is no field of this kind: check its spelling")]
    UnknownField,
    /// An annotation with our prefix that means nothing.
    #[error("is none of the annotations that are read, {}: check its spelling", known.join(", "))]
    UnknownAnnotation {
        /// Those that mean something.
        known: &'static [&'static str],
    },
    /// An annotation with MetalLB's old prefix.
    #[error("has the old prefix: it holds, and {new} is its name now")]
    OldPrefix {
        /// The annotation.
        annotation: String,
        /// Its name now.
        new: String,
    },
    /// A selector of namespaces that none of the source's Namespaces meets.
    #[error(
        "selects no Namespace of the source: by it no Service gets an address; add the Namespaces to the source, or name them in spec.serviceAllocation.namespaces"
    )]
    NoNamespace,
    /// A kind that is not read.
    #[error("this kind is not used")]
    UnusedKind,
    /// An object by which MetalLB is configured, in another namespace than ours: MetalLB's webhooks refuse it.
    #[error(
        "is not {own}, the only namespace of a cluster in which objects of this kind are read (--namespace)"
    )]
    OtherNamespace {
        /// Our own namespace.
        own: String,
    },
    /// The same object once more.
    #[error("the same object stands in {other}: remove one; that one is used")]
    Duplicate {
        /// The file that has it too.
        other: String,
    },
    /// Not what the field can have.
    #[error("{value:?} is not {expected}")]
    Value {
        /// What is there.
        value: String,
        /// What could be there.
        expected: &'static str,
    },
    /// A pool without addresses.
    #[error("is empty: a pool has one CIDR or range at least")]
    NoAddresses,
    /// Values of a requirement that do not go with its operator.
    #[error("has to be there for operators In and NotIn, and for no others")]
    ValuesOfOperator,
    /// An entry of a list, once more.
    #[error("is in the list already: leave it out")]
    Repeated,
    /// A name by which an object is to be found.
    #[error("there is no {kind} {name:?}: make it, or check the name")]
    NoSuchObject {
        /// The kind.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A name of which there can be one.
    #[error("{other} has a community of this name already: leave out one of them")]
    NamedTwice {
        /// The object that has the other.
        other: String,
    },
    /// An aggregate with addresses that are not the pool's.
    #[error("{length} is too short for {range} of IPAddressPool {pool}: its widest prefix has {prefix}")]
    TooWide {
        /// What is there.
        length: i32,
        /// What could be there at least.
        prefix: i32,
        /// The range.
        range: String,
        /// Its pool.
        pool: String,
    },
    /// Two preferences for the same prefixes.
    #[error(
        "{other} announces IPAddressPool {pool} with aggregates of the same length and localPref {theirs}: say the same in both"
    )]
    OtherPreference {
        /// The other advertisement.
        other: String,
        /// What it says.
        theirs: u32,
        /// The pool.
        pool: String,
    },
    /// BFD's echo function is not there for IPv6.
    #[error(
        "BFDProfile {profile} has echoMode, which IPv6 does not have, and IPAddressPool {pool} has IPv6 addresses"
    )]
    EchoWithIpv6 {
        /// The profile.
        profile: String,
        /// The pool.
        pool: String,
    },
    /// Addresses of two pools.
    #[error("{range} overlaps with IPAddressPool {other}: an address belongs to one pool")]
    Overlap {
        /// The range.
        range: String,
        /// The other pool.
        other: String,
    },
    /// Addresses of one pool, twice.
    #[error("{range} overlaps with another range of the same pool: leave out one of them")]
    OverlapWithin {
        /// The range.
        range: String,
    },
    /// A port of a slice that its Service does not have: the endpoints behind it get nothing.
    #[error("no port of the Service has the name {port:?} and protocol {protocol}")]
    NoSuchPort {
        /// Name of the slice's port, empty if it has none.
        port: String,
        /// Its protocol.
        protocol: Protocol,
    },
    /// Two fields say the same thing, and neither goes before the other.
    #[error("says what {other} says as well: leave out one of the two")]
    AskedTwice {
        /// The other field.
        other: &'static str,
    },
    /// Parts of a pool that nobody is given.
    #[error("{part} is {purpose}: no Service gets an address of it")]
    InUse {
        /// The addresses, as a range.
        part: String,
        /// For what they are there.
        purpose: Purpose,
    },
    /// The Service gets no address.
    #[error("{0}")]
    Allocation(AllocationError),
    /// The Service gets an address, or keeps one, with something to say about it.
    #[error("{0}")]
    Remark(Remark),
    /// No object at all, where some were meant to be.
    #[error("there is no object: is it the right place, and do its files end with .yaml, .yml or .json?")]
    NoObject,
    /// No object at all, where there were some.
    #[error("there is no object any more: everything stays as it is until there is one")]
    Empty,
    /// No object of MetalLB's any more, where there were some.
    #[error(
        "there is no IPAddressPool, advertisement or other object of MetalLB's any more: what they said last holds until there is one"
    )]
    Unconfigured,
}

/// Problems of one object.
pub(crate) struct Report<'a> {
    pub file: &'a str,
    pub object: &'a ObjectKey,
    pub problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    pub fn add(&mut self, severity: Severity, field: impl Into<String>, kind: ProblemKind) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            object: Some(self.object.clone()),
            field: field.into(),
            severity,
            kind,
        });
    }

    /// Entries that are there twice, which changes nothing.
    pub fn repeated<T: Ord>(&mut self, field: &str, entries: impl IntoIterator<Item = T>) {
        let mut known = BTreeSet::new();
        for (i, entry) in entries.into_iter().enumerate() {
            if !known.insert(entry) {
                self.add(Severity::Warning, format!("{field}[{i}]"), ProblemKind::Repeated);
            }
        }
    }

    /// The object is not used because of this value.
    pub fn bad_value(&mut self, field: impl Into<String>, value: impl Into<String>, expected: &'static str) {
        self.add(Severity::Error, field, ProblemKind::Value { value: value.into(), expected });
    }
}
