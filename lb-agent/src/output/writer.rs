//! Files `<kind>/<namespace>/<name>.yaml`, each replaced as a whole.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use lb_api::ObjectKey;
use serde::{Serialize, de::DeserializeOwned};

use super::{documents::Document, records::Records};

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
    /// A file does not hold what was written to it.
    #[error("{}: {message}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's words.
        message: String,
    },
}

/// An object as YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Kind, namespace and name: its path.
    pub key: ObjectKey,
    /// The object.
    pub text: String,
}

impl Text {
    /// Of a document.
    ///
    /// # Errors
    /// It has a form that YAML has not.
    pub fn of(document: &Document) -> Result<Self, Error> {
        Ok(Self { key: document.key.clone(), text: to_yaml(&document.value)? })
    }

    /// Of an object of ours that is one of a kind for each node.
    ///
    /// # Errors
    /// It has a form that YAML has not.
    pub fn of_node(kind: &str, node: &str, object: &impl Serialize) -> Result<Self, Error> {
        let key = ObjectKey { kind: kind.to_owned(), namespace: String::new(), name: node.to_owned() };
        Ok(Self { key, text: to_yaml(object)? })
    }
}

/// What a text is told from others by.
type Digest = [u8; aws_lc_rs::digest::SHA256_OUTPUT_LEN];

fn digest(text: &str) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    // It is as long as that.
    digest.as_ref().try_into().unwrap_or_default()
}

/// Writes objects below a directory, and takes back those that this node has written and that are no more.
pub struct Writer {
    dir: PathBuf,
    /// By digest: the texts of a large cluster are megabytes.
    written: BTreeMap<PathBuf, Digest>,
    records: Option<Records>,
}

impl Writer {
    /// Nothing is written yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), written: BTreeMap::new(), records: None }
    }

    /// Writes what has changed and removes what is gone, be it of an earlier agent of the node. Several nodes may share the
    /// directory: what another has written is left. The documents are those of one node; without any, nothing happens.
    ///
    /// # Errors
    /// A file cannot be written or removed, or it cannot be told which files are another node's.
    pub fn write(&mut self, documents: &[Document]) -> Result<(), Error> {
        let Some(author) = documents.first().map(|document| &document.author) else { return Ok(()) };
        self.write_texts(author, documents.iter().map(Text::of).collect::<Result<_, _>>()?)
    }

    /// The same with what is YAML by now, and who says it.
    ///
    /// # Errors
    /// See there.
    pub fn write_texts(&mut self, author: &str, texts: Vec<Text>) -> Result<(), Error> {
        let now: BTreeMap<PathBuf, String> =
            texts.into_iter().map(|text| (path(&text.key), text.text)).collect();
        let records = self.records.get_or_insert_with(|| Records::of(&self.dir, &component(author)));
        records.set(now.keys().cloned().collect())?;
        let mut written = BTreeMap::new();
        for (path, text) in now {
            let (file, digest) = (self.dir.join(&path), digest(&text));
            if self.written.get(&path) != Some(&digest) || !file.exists() {
                replace(&file, &text)?;
            }
            written.insert(path, digest);
        }
        self.written = written;
        records.remove_gone()
    }

    /// Writes one of the documents that were written last anew, if it has changed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn renew(&mut self, text: &Text) -> Result<(), Error> {
        let path = path(&text.key);
        let Some(written) = self.written.get_mut(&path) else { return Ok(()) };
        let digest = digest(&text.text);
        if *written != digest {
            replace(&self.dir.join(path), &text.text)?;
            *written = digest;
        }
        Ok(())
    }
}

/// The file of an object, below the output directory.
pub(super) fn path(key: &ObjectKey) -> PathBuf {
    let mut path = PathBuf::from(component(&key.kind));
    if !key.namespace.is_empty() {
        path.push(component(&key.namespace));
    }
    path.join(format!("{}.yaml", component(&key.name)))
}

/// The value as YAML.
///
/// # Errors
/// It has a form that YAML has not.
pub fn to_yaml(value: &impl Serialize) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|error| Error::Encode(error.to_string()))
}

/// What an agent has written as YAML: as long as it may be, for a node has tens of thousands of endpoints.
///
/// # Errors
/// It is no YAML, or of another form; in words.
pub fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut options = serde_saphyr::Options::default();
    options.budget = None;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Names come from objects: none may lead out of the directory.
pub(crate) fn component(name: &str) -> String {
    let name = name.replace(['/', '\0'], "_");
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// The file as a whole, or as it was.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Error> {
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
    use serde_json::json;

    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn what_a_node_with_fifty_thousand_endpoints_says_is_read_again() -> Done {
        let endpoints: BTreeMap<String, BTreeMap<&str, &str>> =
            (0..60_000).map(|n| (n.to_string(), [("node", "n1"), ("ready", "true")].into())).collect();
        let read: BTreeMap<String, BTreeMap<String, String>> = from_yaml(&to_yaml(&endpoints)?)?;
        assert_eq!(read.len(), endpoints.len());
        Ok(())
    }

    fn document(node: &str, name: &str, value: u32) -> Document {
        let key = ObjectKey { kind: "K".to_owned(), namespace: "n".to_owned(), name: name.to_owned() };
        Document { author: node.to_owned(), key, value: json!({ "value": value }) }
    }

    fn names(dir: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(dir.join("K/n"))?.flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn what_is_gone_is_removed_and_what_others_wrote_is_left() -> Done {
        let dir = tempfile::tempdir()?;
        let (mut one, mut two) = (Writer::new(dir.path()), Writer::new(dir.path()));
        one.write(&[document("1", "a", 1), document("1", "b", 1)])?;
        two.write(&[document("2", "c", 1)])?;
        one.write(&[document("1", "b", 2)])?;
        assert_eq!(names(dir.path())?, ["b.yaml", "c.yaml"]);
        assert_eq!(fs::read_to_string(dir.path().join("K/n/b.yaml"))?.trim(), "value: 2");
        Ok(())
    }

    #[test]
    fn what_changes_often_is_written_alone_and_nothing_comes_back_by_it() -> Done {
        let dir = tempfile::tempdir()?;
        let mut writer = Writer::new(dir.path());
        writer.write(&[document("1", "a", 1), document("1", "b", 1)])?;
        writer.renew(&Text::of(&document("1", "b", 2))?)?;
        writer.renew(&Text::of(&document("1", "c", 2))?)?;
        assert_eq!(names(dir.path())?, ["a.yaml", "b.yaml"]);
        assert_eq!(fs::read_to_string(dir.path().join("K/n/b.yaml"))?.trim(), "value: 2");
        // What is said next replaces what was written meanwhile.
        writer.write(&[document("1", "b", 1)])?;
        assert_eq!(fs::read_to_string(dir.path().join("K/n/b.yaml"))?.trim(), "value: 1");
        Ok(())
    }

    #[test]
    fn an_earlier_agents_files_are_removed_and_those_of_other_nodes_are_left() -> Done {
        let dir = tempfile::tempdir()?;
        Writer::new(dir.path()).write(&[document("1", "a", 1), document("1", "b", 1)])?;
        Writer::new(dir.path()).write(&[document("2", "c", 1)])?;
        Writer::new(dir.path()).write(&[document("1", "b", 1)])?;
        assert_eq!(names(dir.path())?, ["b.yaml", "c.yaml"]);
        Ok(())
    }

    #[test]
    fn a_file_of_several_nodes_is_removed_by_the_last() -> Done {
        let dir = tempfile::tempdir()?;
        let shared = |node| [document(node, "a", 1), document(node, node, 1)];
        Writer::new(dir.path()).write(&shared("1"))?;
        Writer::new(dir.path()).write(&shared("2"))?;
        Writer::new(dir.path()).write(&[document("1", "1", 1)])?;
        assert_eq!(names(dir.path())?, ["1.yaml", "2.yaml", "a.yaml"]);
        Writer::new(dir.path()).write(&[document("2", "2", 1)])?;
        assert_eq!(names(dir.path())?, ["1.yaml", "2.yaml"]);
        Ok(())
    }

    #[test]
    fn a_crash_leaves_no_file_that_nobody_answers_for() -> Done {
        let dir = tempfile::tempdir()?;
        let of =
            |names: &[&str]| names.iter().map(|name| PathBuf::from(format!("K/n/{name}.yaml"))).collect();
        Writer::new(dir.path()).write(&[document("1", "a", 1)])?;
        // Given up, but not removed; claimed and written, but not heard of again.
        Records::of(dir.path(), "1").set(of(&["b"]))?;
        fs::write(dir.path().join("K/n/b.yaml"), "")?;
        Writer::new(dir.path()).write(&[document("1", "c", 1)])?;
        assert_eq!(names(dir.path())?, ["c.yaml"]);
        Ok(())
    }

    #[test]
    fn claims_that_were_tampered_with_remove_nothing() -> Done {
        let dir = tempfile::tempdir()?;
        let (output, records) = (dir.path().join("output"), dir.path().join("output/.written-by/1.yaml"));
        fs::write(dir.path().join("mine"), "")?;
        Writer::new(&output).write(&[document("1", "a", 1)])?;
        for text in ["written: [../mine]\ngone: []\n", "written: [\n"] {
            fs::write(&records, text)?;
            Writer::new(&output).write(&[document("1", "b", 1)])?;
            assert_eq!(names(&output)?, ["a.yaml", "b.yaml"]);
            assert!(dir.path().join("mine").exists());
        }
        // What another node records cannot be told.
        fs::write(&records, "written: [\n")?;
        let mut other = Writer::new(&output);
        other.write(&[document("2", "c", 1)])?;
        assert!(matches!(other.write(&[document("2", "d", 1)]), Err(Error::Decode { .. })));
        assert_eq!(names(&output)?, ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]);
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
