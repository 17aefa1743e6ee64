//! Which files a node has written, so that its next agent can take back what is no more.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::writer::{Error, replace, to_yaml};

/// A node's record of files that it answers for below the output directory, kept in `.written-by/<node>.yaml`.
///
/// A file is recorded before it is written and given up before it is removed, so a crash at any point leaves none that nobody answers
/// for. What another node records is never removed: the last to give it up does that.
pub(super) struct Records {
    output: PathBuf,
    path: PathBuf,
    kept: Kept,
}

/// Paths below the output directory.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    written: BTreeSet<PathBuf>,
    /// Given up, but perhaps not removed yet.
    gone: BTreeSet<PathBuf>,
}

const DIR: &str = ".written-by";

impl Records {
    /// Those of a node's earlier agent. `node` is a file name.
    pub(super) fn of(output: &Path, node: &str) -> Self {
        let path = output.join(DIR).join(format!("{node}.yaml"));
        let kept = read(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "what an earlier agent has written is not known, and stays");
            Kept::default()
        });
        Self { output: output.to_owned(), path, kept }
    }

    /// Records these files, and gives up all others.
    ///
    /// # Errors
    /// The records cannot be written.
    pub(super) fn set(&mut self, written: BTreeSet<PathBuf>) -> Result<(), Error> {
        let known = self.kept.written.union(&self.kept.gone).cloned().collect::<BTreeSet<_>>();
        let gone = &known - &written;
        self.keep(Kept { written, gone })
    }

    /// Removes what was given up and nobody else records.
    ///
    /// # Errors
    /// A file cannot be removed, or the records of another node cannot be read.
    pub(super) fn remove_gone(&mut self) -> Result<(), Error> {
        if self.kept.gone.is_empty() {
            return Ok(());
        }
        for path in &self.kept.gone - &self.claimed_by_others()? {
            let path = self.output.join(path);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File { action: "removing", path, source });
                }
                _ => {}
            }
        }
        let written = std::mem::take(&mut self.kept.written);
        self.keep(Kept { written, gone: BTreeSet::new() })
    }

    fn keep(&mut self, kept: Kept) -> Result<(), Error> {
        if kept != self.kept || !self.path.exists() {
            replace(&self.path, &to_yaml(&kept)?)?;
            self.kept = kept;
        }
        Ok(())
    }

    fn claimed_by_others(&self) -> Result<BTreeSet<PathBuf>, Error> {
        let dir = self.output.join(DIR);
        let failed = |source| Error::File { action: "reading", path: dir.clone(), source };
        let mut claimed = BTreeSet::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // Others are being replaced.
            if path != self.path && path.extension().is_some_and(|extension| extension == "yaml") {
                claimed.extend(read(&path)?.written);
            }
        }
        Ok(claimed)
    }
}

/// Nothing if there is no such file.
fn read(path: &Path) -> Result<Kept, Error> {
    let text = match fs::read_to_string(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        text => text.map_err(|source| Error::File { action: "reading", path: path.to_owned(), source })?,
    };
    let mut kept: Kept = serde_saphyr::from_str(&text)
        .map_err(|error| Error::Decode { path: path.to_owned(), message: error.to_string() })?;
    kept.written.retain(|path| is_below(path));
    kept.gone.retain(|path| is_below(path));
    Ok(kept)
}

/// Whoever has changed the records must not make an agent remove anything else.
fn is_below(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_)))
}
