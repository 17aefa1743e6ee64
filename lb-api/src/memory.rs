//! What objects said before they went wrong: a mistake in one object must cost that object its change, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use lb_core::{
    allocate::{Allocation, allocate},
    model::{ObjectName, Snapshot},
};

use crate::{
    decode::{Decoded, decode_documents, read},
    document::Document,
    problem::{ObjectKey, Problem, ProblemKind, Severity},
};

/// The last good state of each object.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    documents: BTreeMap<ObjectKey, Document>,
}

/// What holds after files were read.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Objects as they are, or as they last were good.
    pub snapshot: Snapshot,
    /// Addresses of the services in it.
    pub allocation: Allocation,
    /// What is wrong with the files.
    pub problems: Vec<Problem>,
    /// The file in which each object stands.
    pub origins: BTreeMap<ObjectKey, String>,
    /// There is no object: nothing may be changed because of that.
    pub is_empty: bool,
}

impl Memory {
    /// What files say, with the last good state of what is wrong in them. An object that is gone is gone; one whose file cannot be
    /// read is not.
    pub fn settle(&mut self, files: &BTreeMap<String, Vec<u8>>) -> Settled {
        let (mut documents, mut problems) = read(files);
        let is_empty = documents.is_empty();
        if is_empty {
            documents.extend(self.documents.values().cloned());
            if !documents.is_empty() {
                problems.push(nothing_left());
            }
        }
        self.add_unreadable(&mut documents, &problems);
        // What was good together stays good; what is new must fit in.
        documents.sort_by_key(|document| self.has_changed(document));

        let mut decoded = decode_documents(&documents);
        let failed = failed(&decoded.problems);
        if self.fall_back(&mut documents, &failed) {
            let reported = mem::take(&mut decoded.problems);
            decoded = Decoded { problems: reported, ..decode_documents(&documents) };
        }
        let mut allocation = allocate(&decoded.snapshot);
        let unserved: BTreeSet<ObjectKey> = allocation.errors.keys().map(key_of).collect();
        let mut errors = mem::take(&mut allocation.errors);
        if self.fall_back(&mut documents, &unserved) {
            let reported = mem::take(&mut decoded.problems);
            decoded = Decoded { problems: reported, ..decode_documents(&documents) };
            allocation = allocate(&decoded.snapshot);
            errors.extend(mem::take(&mut allocation.errors));
        }
        problems.append(&mut decoded.problems);
        for (service, error) in &errors {
            let file = decoded.origins.get(&key_of(service)).map_or("", String::as_str);
            problems.push(Problem::of_allocation(file, service, error.clone()));
        }
        allocation.errors = errors;
        // What is still wrong was never good; of the rest, this is the good state.
        let still_wrong = |document: &Document| {
            failed.contains(&document.key) && !self.documents.contains_key(&document.key)
        };
        documents.retain(|document| !still_wrong(document));
        self.documents = documents.into_iter().map(|document| (document.key.clone(), document)).collect();
        Settled { snapshot: decoded.snapshot, allocation, problems, origins: decoded.origins, is_empty }
    }

    fn has_changed(&self, document: &Document) -> bool {
        self.documents.get(&document.key).is_none_or(|known| known.value != document.value)
    }

    /// Objects of files that have a part which cannot be read: they may stand in that part.
    fn add_unreadable(&self, documents: &mut Vec<Document>, problems: &[Problem]) {
        let unreadable: BTreeSet<&str> = problems
            .iter()
            .filter(|problem| matches!(problem.kind, ProblemKind::Syntax { .. } | ProblemKind::Missing))
            .map(|problem| problem.file.as_str())
            .collect();
        let present: BTreeSet<ObjectKey> = documents.iter().map(|document| document.key.clone()).collect();
        let lost = self.documents.values().filter(|document| {
            unreadable.contains(document.file.as_str()) && !present.contains(&document.key)
        });
        documents.extend(lost.cloned());
    }

    /// Puts the last good state of these objects in their place; whether there was any other than what is there.
    fn fall_back(&self, documents: &mut [Document], keys: &BTreeSet<ObjectKey>) -> bool {
        let mut has_fallen_back = false;
        for document in documents.iter_mut().filter(|document| keys.contains(&document.key)) {
            if let Some(good) = self.documents.get(&document.key)
                && good.value != document.value
            {
                document.value = good.value.clone();
                has_fallen_back = true;
            }
        }
        has_fallen_back
    }
}

fn failed(problems: &[Problem]) -> BTreeSet<ObjectKey> {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    errors.filter_map(|problem| problem.object.clone()).collect()
}

fn key_of(service: &ObjectName) -> ObjectKey {
    ObjectKey { kind: "Service".to_owned(), namespace: service.namespace.clone(), name: service.name.clone() }
}

fn nothing_left() -> Problem {
    Problem {
        file: "the source".to_owned(),
        object: None,
        field: String::new(),
        severity: Severity::Error,
        kind: ProblemKind::Empty,
    }
}

#[cfg(test)]
mod tests;
