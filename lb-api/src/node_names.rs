//! Names of nodes: thousands of endpoints name a few.

use std::{collections::BTreeSet, sync::Arc};

use lb_core::model::NodeName;

/// Each name once, as long as somebody else has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeNames {
    known: BTreeSet<NodeName>,
    /// How many there were when those that nobody has any more were forgotten last.
    kept: usize,
}

impl NodeNames {
    /// A name, with the text that others have of it.
    pub fn share(&mut self, name: &str) -> NodeName {
        let name = NodeName(name.into());
        if let Some(known) = self.known.get(&name) {
            return known.clone();
        }
        if self.known.len() > 2 * self.kept.max(64) {
            self.known.retain(|name| Arc::strong_count(&name.0) > 1);
            self.kept = self.known.len();
        }
        self.known.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_there_once_and_is_forgotten_when_nobody_has_it() {
        let mut names = NodeNames::default();
        let first = names.share("n1");
        assert!(Arc::ptr_eq(&first.0, &names.share("n1").0));
        for number in 0..1_000 {
            names.share(&format!("gone-{number}"));
        }
        assert!(names.known.len() < 200, "{}", names.known.len());
        assert!(Arc::ptr_eq(&first.0, &names.share("n1").0));
    }
}
