//! Files `<kind>/<namespace>/<name>.yaml`, each replaced as a whole.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::documents::Document;

/// What can go wrong with the output.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A value has no form in YAML.
    #[error("{0}")]
    Encode(String),
}

/// Writes objects below a directory, and takes back those that it has written and that are no more.
pub struct Writer {
    dir: PathBuf,
    written: BTreeMap<PathBuf, String>,
}

impl Writer {
    /// Nothing is written yet. Objects of an earlier agent stay until they are written again.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), written: BTreeMap::new() }
    }

    /// Writes what has changed and removes what is gone. Several agents may share the directory: what another has written is left.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, documents: &[Document]) -> Result<(), Error> {
        let mut now = BTreeMap::new();
        for document in documents {
            let mut path = self.dir.join(component(&document.key.kind));
            if !document.key.namespace.is_empty() {
                path.push(component(&document.key.namespace));
            }
            path.push(format!("{}.yaml", component(&document.key.name)));
            now.insert(path, to_yaml(&document.value)?);
        }
        for (path, text) in &now {
            if self.written.get(path) != Some(text) || !path.exists() {
                replace(path, text)?;
            }
        }
        for path in self.written.keys().filter(|path| !now.contains_key(*path)) {
            match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File { action: "removing", path: path.clone(), source });
                }
                _ => {}
            }
        }
        self.written = now;
        Ok(())
    }
}

/// The value as YAML.
///
/// # Errors
/// It has a form that YAML has not.
pub fn to_yaml(value: &impl Serialize) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| Error::Encode(error.to_string()))
}

/// Names come from objects: none may lead out of the directory.
fn component(name: &str) -> String {
    let name = name.replace(['/', '\0'], "_");
    if name.starts_with('.') { format!("_{name}") } else { name }
}

fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("making", parent))?;
    }
    // The process in the name: agents that share a directory do not meet.
    let next = path.with_extension(format!("yaml.{}", std::process::id()));
    fs::write(&next, text).map_err(failed("writing", &next))?;
    fs::rename(&next, path).map_err(failed("writing", path))
}

#[cfg(test)]
mod tests {
    use lb_api::ObjectKey;
    use serde_json::json;

    use super::*;

    fn document(name: &str, value: u32) -> Document {
        let key = ObjectKey { kind: "K".to_owned(), namespace: "n".to_owned(), name: name.to_owned() };
        Document { key, value: json!({ "value": value }) }
    }

    #[test]
    fn what_is_gone_is_removed_and_what_others_wrote_is_left() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let (mut one, mut two) = (Writer::new(dir.path()), Writer::new(dir.path()));
        one.write(&[document("a", 1), document("b", 1)])?;
        two.write(&[document("c", 1)])?;
        one.write(&[document("b", 2)])?;
        let mut names: Vec<_> =
            fs::read_dir(dir.path().join("K/n"))?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["b.yaml", "c.yaml"]);
        assert_eq!(fs::read_to_string(dir.path().join("K/n/b.yaml"))?.trim(), "value: 2");
        Ok(())
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        for name in ["..", "../x", "a/../../b", ".", "/etc"] {
            let component = component(name);
            assert!(!component.contains('/') && !component.starts_with('.'), "{component}");
        }
    }
}
