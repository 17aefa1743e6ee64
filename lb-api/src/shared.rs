//! Texts that much is known by: names of nodes, of which thousands of endpoints name a few, and of objects.

use std::{collections::BTreeSet, sync::Arc};

/// Each text once, as long as somebody else has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedTexts {
    known: BTreeSet<Arc<str>>,
    /// How many there were when those that nobody has any more were forgotten last.
    kept: usize,
}

impl SharedTexts {
    /// A text, the same that others have.
    pub fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        if self.known.len() > 2 * self.kept.max(64) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.kept = self.known.len();
        }
        let text = Arc::from(text);
        self.known.insert(Arc::clone(&text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_there_once_and_is_forgotten_when_nobody_has_it() {
        let mut texts = SharedTexts::default();
        let first = texts.share("n1");
        assert!(Arc::ptr_eq(&first, &texts.share("n1")));
        for number in 0..1_000 {
            texts.share(&format!("gone-{number}"));
        }
        assert!(texts.known.len() < 200, "{}", texts.known.len());
        assert!(Arc::ptr_eq(&first, &texts.share("n1")));
    }
}
