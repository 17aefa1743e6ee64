//! By which names objects call each other, and which of them are there.

use std::collections::BTreeMap;

use crate::problem::{ObjectKey, Problem, ProblemKind, Report, Severity};

/// What objects are called, and by which names they call others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Those that are there, and the first object that has each.
    known: BTreeMap<Name, ObjectKey>,
    uses: Vec<Use>,
}

/// What a name is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Pool(String),
    Peer(String),
    Profile(String),
    /// An alias of a community.
    Community(String),
}

/// A name that is used.
#[derive(Clone, Debug)]
struct Use {
    name: Name,
    file: String,
    object: ObjectKey,
    field: String,
}

impl Names {
    /// An object has this name.
    pub fn has(&mut self, name: Name, report: &Report<'_>) {
        self.known.insert(name, report.object.clone());
    }

    /// The object that has a name.
    pub fn object(&self, name: &Name) -> Option<&ObjectKey> {
        self.known.get(name)
    }

    /// A peer is there.
    pub fn peer(&mut self, profile: Option<String>, report: &Report<'_>) {
        self.has(Name::Peer(report.object.name.clone()), report);
        if let Some(profile) = profile.filter(|profile| !profile.is_empty()) {
            self.uses(Name::Profile(profile), "spec.bfdProfile".to_owned(), report);
        }
    }

    /// An address pool is there, right or wrong.
    pub fn pool(&mut self, report: &Report<'_>) {
        self.has(Name::Pool(report.object.name.clone()), report);
    }

    /// An advertisement is of these pools.
    pub fn uses_pools(&mut self, pools: &[String], report: &Report<'_>) {
        for (i, pool) in pools.iter().enumerate() {
            self.uses(Name::Pool(pool.clone()), format!("spec.ipAddressPools[{i}]"), report);
        }
    }

    /// An object calls another by this name.
    pub fn uses(&mut self, name: Name, field: String, report: &Report<'_>) {
        let (file, object) = (report.file.to_owned(), report.object.clone());
        self.uses.push(Use { name, file, object, field });
    }

    /// Names of what is not there, when all objects have been read. Of a pool that is not there nothing is announced, and a peer that is not
    /// there is told nothing, in MetalLB without a word.
    pub fn problems(self) -> Vec<Problem> {
        let Self { known, uses } = self;
        let dangling = uses.into_iter().filter(|used| !known.contains_key(&used.name));
        let problem = |Use { name, file, object, field }| {
            let (severity, kind) = match name {
                Name::Pool(name) => {
                    (Severity::Warning, ProblemKind::NoSuchObject { kind: "IPAddressPool", name })
                }
                Name::Peer(name) => (Severity::Warning, ProblemKind::NoSuchObject { kind: "BGPPeer", name }),
                Name::Profile(name) => {
                    (Severity::Error, ProblemKind::NoSuchObject { kind: "BFDProfile", name })
                }
                Name::Community(value) => {
                    (Severity::Error, ProblemKind::Value { value, expected: COMMUNITY_OR_ALIAS })
                }
            };
            Problem { file, object: Some(object), field, severity, kind }
        };
        dangling.map(problem).collect()
    }
}

pub(crate) const COMMUNITY_OR_ALIAS: &str =
    "a community (64512:100, large:64512:100:1) or the name of one in a Community object";
