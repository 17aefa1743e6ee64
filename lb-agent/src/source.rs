//! Where objects come from: a directory of files.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{self, Path, PathBuf},
    str::FromStr,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// `--source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `kube`: an API server.
    Kube,
    /// `file:DIR`: the objects in the YAML and JSON files of a directory.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("file", dir)) if !dir.is_empty() => Ok(Self::File(dir.into())),
            None if text == "kube" => Ok(Self::Kube),
            _ => Err("expected kube or file:DIR"),
        }
    }
}

/// What can go wrong with a directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The directory, or a file in it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is more than anybody means.
    #[error("{} has more than {limit} bytes in its files: is it the right directory?", path.display())]
    TooLarge {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// There is none.
    #[error("directory does not exist: {}", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be watched.
    #[error("watching {}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
}

/// Bytes in all files together: 50,000 endpoints take about 20 MiB.
const LIMIT: u64 = 256 << 20;

/// The YAML and JSON files of a directory, by name. Hidden ones and those in directories below are left out, as `kubectl apply -f`
/// does.
///
/// # Errors
/// The directory or a file cannot be read, or there is too much.
pub fn read(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    };
    let mut files = BTreeMap::new();
    let mut room = LIMIT;
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_objects =
            [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) && !name.starts_with('.');
        // Opening what is no file could wait for ever.
        if !is_objects || !fs::metadata(&path).map_err(failed(&path))?.is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(failed(&path))?;
        file.take(room + 1).read_to_end(&mut bytes).map_err(failed(&path))?;
        room = room
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| Error::TooLarge { path: dir.to_owned(), limit: LIMIT })?;
        files.insert(name, bytes);
    }
    Ok(files)
}

/// Tells when a directory changes: a file in it, or what its name stands for, be that a directory or a symbolic link.
pub struct Watch {
    dir: PathBuf,
    sender: mpsc::Sender<()>,
    receiver: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel's, or the directory is not there.
    pub fn new(dir: &Path) -> Result<Self, Error> {
        // One place: a change that is not yet looked at stands for all that follow.
        let (sender, receiver) = mpsc::channel(1);
        let mut watch = Self { dir: dir.to_owned(), sender, receiver, watcher: None };
        watch.renew()?;
        Ok(watch)
    }

    /// Waits for a change. What changed before the directory is read again needs not be waited for.
    pub async fn changed(&mut self) {
        // The sender lives as long as this: the channel does not close.
        let _ = self.receiver.recv().await;
    }

    /// Watches what is there now: to be called before the directory is read again, because its name may stand for another.
    ///
    /// # Errors
    /// The kernel's, or the directory is not there.
    pub fn renew(&mut self) -> Result<(), Error> {
        // The errors' own paths would be said twice.
        let failed = |notify::Error { kind, .. }| match kind {
            notify::ErrorKind::PathNotFound => Error::Missing { path: self.dir.clone() },
            kind => Error::Watch { path: self.dir.clone(), source: notify::Error::new(kind) },
        };
        let dir = path::absolute(&self.dir).map_err(notify::Error::io).map_err(failed)?;
        let (sender, watched) = (self.sender.clone(), dir.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, |event| is_change(event, &watched)) {
                // Full: a change is waiting already.
                let _ = sender.try_send(());
            }
        })
        .map_err(failed)?;
        // First what has the name: a swap between the two is heard of.
        if let Some(parent) = dir.parent().filter(|_| dir.file_name().is_some()) {
            watcher.watch(parent, RecursiveMode::NonRecursive).map_err(failed)?;
        }
        watcher.watch(&dir, RecursiveMode::NonRecursive).map_err(failed)?;
        self.watcher = Some(watcher);
        Ok(())
    }
}

/// Of what happens in the directory that holds it, only what happens to the directory itself.
fn is_change(event: &notify::Event, dir: &Path) -> bool {
    let is_ours = event.need_rescan() || event.paths.iter().any(|path| path.starts_with(dir));
    is_ours && !matches!(event.kind, EventKind::Access(_))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use notify::{
        Event,
        event::{AccessKind, CreateKind, Flag},
    };
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn files_of_objects_are_read_and_nothing_else() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for name in ["a.yaml", "b.json", "c.yml", ".hidden.yaml", "d.txt"] {
            fs::write(dir.path().join(name), name)?;
        }
        fs::create_dir(dir.path().join("e.yaml"))?;
        let files = read(dir.path())?;
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.yaml", "b.json", "c.yml"]);
        assert_eq!(files["b.json"], b"b.json");
        assert!(matches!(read(&dir.path().join("nowhere")), Err(Error::Read { .. })));
        Ok(())
    }

    #[tokio::test]
    async fn a_swapped_link_is_a_change_and_so_is_what_follows() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let (one, two, link) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("now"));
        for (path, text) in [(&one, "1"), (&two, "2")] {
            fs::create_dir(path)?;
            fs::write(path.join("a.yaml"), text)?;
        }
        symlink(&one, &link)?;
        let mut watch = Watch::new(&link)?;
        symlink(&two, dir.path().join("next"))?;
        fs::rename(dir.path().join("next"), &link)?;
        watch.changed().await;
        watch.renew()?;
        assert_eq!(read(&link)?["a.yaml"], b"2");
        fs::write(two.join("a.yaml"), "3")?;
        watch.changed().await;
        assert_eq!(read(&link)?["a.yaml"], b"3");
        Ok(())
    }

    #[tokio::test]
    async fn a_swapped_directory_is_a_change_and_so_is_what_follows() -> Result<(), Box<dyn std::error::Error>>
    {
        let dir = tempfile::tempdir()?;
        let (objects, new) = (dir.path().join("objects"), dir.path().join("new"));
        for (path, text) in [(&objects, "1"), (&new, "2")] {
            fs::create_dir(path)?;
            fs::write(path.join("a.yaml"), text)?;
        }
        let mut watch = Watch::new(&objects)?;
        fs::rename(&objects, dir.path().join("old"))?;
        timeout(PATIENCE, watch.changed()).await?;
        assert!(matches!(watch.renew(), Err(Error::Missing { .. })));
        fs::rename(&new, &objects)?;
        timeout(PATIENCE, watch.changed()).await?;
        watch.renew()?;
        assert_eq!(read(&objects)?["a.yaml"], b"2");
        fs::write(objects.join("a.yaml"), "3")?;
        timeout(PATIENCE, watch.changed()).await?;
        assert_eq!(read(&objects)?["a.yaml"], b"3");
        Ok(())
    }

    #[test]
    fn neighbours_and_readers_change_nothing() {
        let dir = Path::new("/srv/objects");
        let is_change = |kind, path: &str| is_change(&Event::new(kind).add_path(path.into()), dir);
        let created = EventKind::Create(CreateKind::Any);
        assert!(is_change(created, "/srv/objects"));
        assert!(is_change(created, "/srv/objects/a.yaml"));
        assert!(!is_change(created, "/srv/objects-2"));
        assert!(!is_change(created, "/srv/log"));
        assert!(!is_change(EventKind::Access(AccessKind::Any), "/srv/objects/a.yaml"));
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(super::is_change(&lost, dir), "the kernel's queue was full");
    }

    #[test]
    fn a_missing_directory_is_called_that() {
        let said = Watch::new(Path::new("/nowhere/objects")).err().map(|error| error.to_string());
        assert_eq!(said.as_deref(), Some("directory does not exist: /nowhere/objects"));
    }
}
