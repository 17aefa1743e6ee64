//! `.last-good/<author>.json`: what objects last said that was right, for an agent that begins while one of them is wrong.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_api::Memory;

use super::writer::{Error, component, replace};

/// The last good state of an author's objects, kept below the output directory.
pub struct LastGood {
    path: PathBuf,
    kept: String,
}

impl LastGood {
    /// What the author's earlier agent has kept; nothing if there was none, or if it cannot be read, which is logged.
    pub fn load(output: &Path, author: &str) -> (Self, Memory) {
        let path = output.join(".last-good").join(format!("{}.json", component(author)));
        let kept = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what objects last said is not known");
                String::new()
            }
        };
        let memory = match serde_json::from_str(&kept) {
            Ok(memory) => memory,
            Err(_) if kept.is_empty() => Memory::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what objects last said is not known");
                Memory::default()
            }
        };
        (Self { path, kept }, memory)
    }

    /// Keeps it, if it has changed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&mut self, memory: &Memory) -> Result<(), Error> {
        let text = serde_json::to_string(memory).map_err(|error| Error::Encode(error.to_string()))?;
        if text != self.kept {
            replace(&self.path, &text)?;
            self.kept = text;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    const POOL: &str = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: a, namespace: metallb-system}\n\
        spec: {addresses: [192.0.2.0/24]}\n";

    fn files(text: &str) -> BTreeMap<String, Vec<u8>> {
        [("pool.yaml".to_owned(), text.as_bytes().to_vec())].into()
    }

    #[test]
    fn an_agent_that_begins_knows_what_a_broken_file_last_said() -> Done {
        let output = tempfile::tempdir()?;
        let node = "n1";
        let (mut last_good, mut memory) = LastGood::load(output.path(), node);
        memory.settle(&files(POOL));
        last_good.save(&memory)?;

        let (_, mut memory) = LastGood::load(output.path(), node);
        let settled = memory.settle(&files(&POOL[..POOL.len() - 8]));
        assert_eq!(settled.snapshot.pools.len(), 1, "{:?}", settled.problems);
        assert!(!settled.problems.is_empty());

        let (_, mut stranger) = LastGood::load(output.path(), "n2");
        assert_eq!(stranger.settle(&files(&POOL[..POOL.len() - 8])).snapshot.pools.len(), 0);
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_as_nothing() -> Done {
        let output = tempfile::tempdir()?;
        let node = "n1";
        fs::create_dir(output.path().join(".last-good"))?;
        fs::write(output.path().join(".last-good/n1.json"), "[{")?;
        let (mut last_good, memory) = LastGood::load(output.path(), node);
        last_good.save(&memory)?;
        assert_eq!(fs::read_to_string(output.path().join(".last-good/n1.json"))?, "[]");
        Ok(())
    }
}
