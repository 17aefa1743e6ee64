//! What objects said before they went wrong: a mistake in one object must cost that object its change, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use lb_core::{
    allocate::{Allocation, allocate},
    model::Snapshot,
};
use serde::{Deserialize, Serialize};

use crate::{
    allocation::of_allocation,
    config_map::{is_config, place_in_config},
    decode::{Decoded, Reading, decode_documents, expanded, read},
    document::Document,
    objects::Objects,
    pool::is_configuration,
    problem::{ObjectKey, Problem, ProblemKind, Severity},
};

/// The last good state of each object.
///
/// It can be written down for the next agent; Secrets are left out of that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Document>", into = "Vec<Document>")]
pub struct Memory {
    documents: BTreeMap<ObjectKey, Document>,
    reading: Reading,
}

/// What holds after files were read.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Objects as they are, or as they last were good.
    pub snapshot: Snapshot,
    /// Addresses of the services in it.
    pub allocation: Allocation,
    /// What is wrong with the files.
    pub problems: Arc<[Problem]>,
    /// The file in which each object stands.
    pub origins: BTreeMap<ObjectKey, String>,
    /// There is no object: nothing may be changed because of that.
    pub is_empty: bool,
}

impl Settled {
    /// Whether there is something by which we are configured.
    pub fn is_configured(&self) -> bool {
        !self.snapshot.pools.is_empty()
    }

    /// Whether we are configured by something else than what is there now: what is wrong there has its last good state.
    pub fn is_stale(&self) -> bool {
        self.configuration_errors().next().is_some()
    }

    /// What is wrong with what we are configured by. What is wrong with a Service is said in events there, to whom it belongs.
    pub fn configuration_errors(&self) -> impl Iterator<Item = &Problem> {
        let concerns = |problem: &Problem| problem.object.as_ref().is_none_or(is_configuration);
        self.problems.iter().filter(move |problem| problem.severity == Severity::Error && concerns(problem))
    }
}

impl From<Vec<Document>> for Memory {
    fn from(documents: Vec<Document>) -> Self {
        let documents = documents.into_iter().map(|document| (document.key.clone(), document)).collect();
        Self { documents, reading: Reading::default() }
    }
}

impl From<Memory> for Vec<Document> {
    fn from(memory: Memory) -> Self {
        memory.documents.into_values().filter(|document| document.key.kind != "Secret").collect()
    }
}

impl Memory {
    /// From now on objects are read in this way.
    pub fn set_reading(&mut self, reading: Reading) {
        self.reading = reading;
    }

    /// What files say, with the last good state of what is wrong in them, and addresses for the Services in it. An object that is gone is
    /// gone; one whose file cannot be read is not. A Service whose new state gets no address stays as it was, if that one gets some.
    pub fn settle(&mut self, files: &BTreeMap<String, Vec<u8>>) -> Settled {
        self.settle_with(read(files), Terms::NODE, |snapshot| allocate(snapshot))
    }

    /// The same with addresses from elsewhere. A Service that gets none stays as it is now: it may have had to give up what it had.
    pub fn settle_by(
        &mut self,
        files: &BTreeMap<String, Vec<u8>>,
        allocate: impl FnMut(&mut Snapshot) -> Allocation,
    ) -> Settled {
        self.settle_with(read(files), Terms::CONTROLLER, allocate)
    }

    /// What the objects say by which we are configured, and no Services.
    pub(crate) fn settle_configuration(&mut self, objects: &Objects) -> Settled {
        let read = expanded(objects.documents().collect());
        self.settle_with(read, Terms::CONFIGURATION, |_| Allocation::default())
    }

    fn settle_with(
        &mut self,
        (mut documents, mut problems): (Vec<Document>, Vec<Problem>),
        terms: Terms,
        mut allocate: impl FnMut(&mut Snapshot) -> Allocation,
    ) -> Settled {
        let is_empty = documents.is_empty();
        problems.extend(self.freeze(&mut documents, terms));
        self.add_unreadable(&mut documents, &problems);
        let mut said = Said::default();
        let (decoded, allocation) = loop {
            let mut decoded = self.decode(&mut documents, &mut said);
            let allocation = allocate(&mut decoded.snapshot);
            said.all(of_allocation(&allocation, &decoded.origins, &decoded.fields, ""));
            let unserved = allocation.errors.keys().map(ObjectKey::of_service).collect();
            if !terms.keeps_served || !self.fall_back(&mut documents, &unserved, &mut said) {
                break (decoded, allocation);
            }
        };
        problems.append(&mut said.problems);
        // What is still wrong was never good; of the rest, this is the good state.
        documents.retain(|document| {
            !said.wrong.contains(&document.key) || self.documents.contains_key(&document.key)
        });
        self.documents = documents.into_iter().map(|document| (document.key.clone(), document)).collect();
        let problems = problems.into();
        Settled { snapshot: decoded.snapshot, allocation, problems, origins: decoded.origins, is_empty }
    }

    /// Decodes until nothing falls back any more. This ends, because an object falls back once at most.
    fn decode(&self, documents: &mut [Document], said: &mut Said) -> Decoded {
        loop {
            // What was good together stays good, and so does what has fallen back; what is new must fit in.
            documents.sort_by_key(|document| self.has_changed(document));
            let mut decoded = decode_documents(documents, &self.reading);
            let failed = failed(&decoded.problems);
            said.all(mem::take(&mut decoded.problems));
            if !self.fall_back(documents, &failed, said) {
                return decoded;
            }
        }
    }

    /// Where there is nothing any more, be it of everything or of what configures us, there is what there was.
    fn freeze(&self, documents: &mut Vec<Document>, terms: Terms) -> Option<Problem> {
        if documents.iter().any(|document| is_configuration(&document.key)) {
            return None;
        }
        let is_all = terms.is_whole && documents.is_empty();
        let lost = self.documents.values().filter(|document| is_all || is_configuration(&document.key));
        let before = documents.len();
        documents.extend(lost.cloned());
        let kind = if is_all { ProblemKind::Empty } else { ProblemKind::Unconfigured };
        (documents.len() > before).then(|| Problem {
            file: "the source".to_owned(),
            object: None,
            field: String::new(),
            severity: Severity::Error,
            kind,
        })
    }

    fn has_changed(&self, document: &Document) -> bool {
        self.documents.get(&document.key).is_none_or(|known| known.value != document.value)
    }

    /// Objects of files that have a part which cannot be read: they may stand in that part.
    fn add_unreadable(&self, documents: &mut Vec<Document>, problems: &[Problem]) {
        let unreadable: BTreeSet<String> = problems.iter().filter_map(unreadable).collect();
        let present: BTreeSet<ObjectKey> = documents.iter().map(|document| document.key.clone()).collect();
        let lost = self
            .documents
            .values()
            .filter(|document| unreadable.contains(&document.file) && !present.contains(&document.key));
        documents.extend(lost.cloned());
    }

    /// Puts the last good state of these objects in their place; whether there was any other than what is there.
    fn fall_back(&self, documents: &mut [Document], keys: &BTreeSet<ObjectKey>, said: &mut Said) -> bool {
        said.wrong.extend(keys.iter().cloned());
        let mut has_fallen_back = false;
        for document in documents.iter_mut().filter(|document| keys.contains(&document.key)) {
            if let Some(good) = self.documents.get(&document.key)
                && good.value != document.value
            {
                document.value = good.value.clone();
                said.fallen_back.insert(document.key.clone());
                has_fallen_back = true;
            }
        }
        has_fallen_back
    }
}

/// For whom it is settled.
#[derive(Clone, Copy)]
struct Terms {
    /// A Service whose new state gets no address stays as it was.
    keeps_served: bool,
    /// It is all there is, not only what we are configured by.
    is_whole: bool,
}

impl Terms {
    const NODE: Self = Self { keeps_served: true, is_whole: true };
    const CONTROLLER: Self = Self { keeps_served: false, is_whole: true };
    const CONFIGURATION: Self = Self { keeps_served: false, is_whole: false };
}

/// What was said of the files, over all attempts to make something of them.
#[derive(Default)]
struct Said {
    problems: Vec<Problem>,
    known: BTreeSet<Problem>,
    wrong: BTreeSet<ObjectKey>,
    fallen_back: BTreeSet<ObjectKey>,
}

impl Said {
    /// Each problem once. Warnings about a last good state are left out: they are about what no file says any more.
    fn all(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems {
            let is_old = problem.severity == Severity::Warning
                && problem.object.as_ref().is_some_and(|object| self.fallen_back.contains(object));
            if !is_old && self.known.insert(problem.clone()) {
                self.problems.push(problem);
            }
        }
    }
}

fn failed(problems: &[Problem]) -> BTreeSet<ObjectKey> {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
    errors.filter_map(|problem| problem.object.clone()).collect()
}

/// Where objects stand of which this problem leaves nothing.
fn unreadable(problem: &Problem) -> Option<String> {
    match (&problem.kind, &problem.object) {
        (ProblemKind::Syntax { .. } | ProblemKind::Missing, _) => Some(problem.file.clone()),
        (_, Some(object)) if is_config(object) && problem.severity == Severity::Error => {
            Some(place_in_config(&problem.file, object))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
