//! Runs of labs: each has an id, a directory and a lock that tells whether it is alive.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::namespace::Namespace;

/// Directories of all labs.
const ROOT: &str = "/run/magnetite-lab";
/// Where pins are.
const BPFFS: &str = "/sys/fs/bpf";
const LOCK: &str = "lock";
/// In the directory of a lab: its cgroups, a path a line.
pub const CGROUPS: &str = "cgroups";
/// For whoever has been killed to be gone from its cgroups.
const PATIENCE: Duration = Duration::from_secs(10);

/// One lab's names and files, as long as it lives.
pub struct Run {
    id: String,
    /// Held until the process ends, however it ends.
    _lock: File,
}

impl Run {
    /// A run that no other one can be taken for.
    pub fn begin() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Nobody must see it without its lock.
        let hidden = Path::new(ROOT).join(format!(".{id}"));
        fs::create_dir_all(&hidden).with_context(|| format!("making {}", hidden.display()))?;
        let lock = File::create(hidden.join(LOCK))?;
        lock.lock()?;
        fs::write(hidden.join("pid"), std::process::id().to_string())?;
        fs::rename(&hidden, directory(&id))?;
        Ok(Self { id, _lock: lock })
    }

    /// Its names.
    pub fn machines(&self) -> Machines<'_> {
        Machines::of(&self.id)
    }
}

/// What belongs to a lab, by name.
#[derive(Clone, Copy, Debug)]
pub struct Machines<'a> {
    id: &'a str,
}

impl<'a> Machines<'a> {
    /// Of the lab with this id.
    pub fn of(id: &'a str) -> Self {
        Self { id }
    }

    /// The lab's id.
    pub fn id(self) -> &'a str {
        self.id
    }

    /// The lab's files.
    pub fn directory(self) -> PathBuf {
        directory(self.id)
    }

    /// The namespace of a machine.
    pub fn namespace(self, machine: &str) -> String {
        format!("{}{machine}", namespace_prefix(self.id))
    }

    /// The pins of a node's agent.
    pub fn pins(self, node: &str) -> PathBuf {
        Path::new(BPFFS).join(format!("{}{node}", pin_prefix(self.id)))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.id) {
            eprintln!("lab {}: {error:#}", self.id);
        }
    }
}

/// Where a process keeps what is said before its lab has a directory.
pub fn early_log() -> Result<PathBuf> {
    fs::create_dir_all(ROOT).with_context(|| format!("making {ROOT}"))?;
    Ok(Path::new(ROOT).join(format!(".{}.log", std::process::id())))
}

/// Ids and processes of the labs that are alive.
pub fn runs() -> Result<Vec<(String, u32)>> {
    let mut alive = Vec::new();
    for id in ids()? {
        if lock_of_dead(&id)?.is_none() {
            let pid = fs::read_to_string(directory(&id).join("pid"))?;
            alive.push((id, pid.trim().parse()?));
        }
    }
    Ok(alive)
}

/// Removes what labs have left whose process has ended.
pub fn clean() -> Result<()> {
    for id in ids()? {
        if let Some(_lock) = lock_of_dead(&id)? {
            eprintln!("removing what lab {id} has left");
            remove(&id)?;
        }
    }
    Ok(())
}

fn ids() -> Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Ok(Vec::new()) };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| !name.starts_with('.')).collect())
}

/// The lock, if nobody holds it.
fn lock_of_dead(id: &str) -> Result<Option<File>> {
    match File::open(directory(id).join(LOCK)) {
        Ok(lock) => Ok(lock.try_lock().is_ok().then_some(lock)),
        // It has just been removed by another process.
        Err(_) => Ok(None),
    }
}

/// Namespaces, with what runs in them, then cgroups, pins and files.
fn remove(id: &str) -> Result<()> {
    for name in names_in("/run/netns", &namespace_prefix(id)) {
        Namespace::existing(&name).remove()?;
    }
    for group in fs::read_to_string(directory(id).join(CGROUPS)).unwrap_or_default().lines() {
        remove_group(Path::new(group))?;
    }
    for name in names_in(BPFFS, &pin_prefix(id)) {
        fs::remove_dir_all(Path::new(BPFFS).join(name))?;
    }
    Ok(fs::remove_dir_all(directory(id))?)
}

/// With those in it, deepest first.
fn remove_group(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_group(&entry.path())?;
    }
    let begin = Instant::now();
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // Its processes are still ending.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && begin.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result.with_context(|| format!("removing {}", group.display())),
        }
    }
}

fn names_in(dir: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|n| n.starts_with(prefix))
        .collect()
}

fn directory(id: &str) -> PathBuf {
    Path::new(ROOT).join(id)
}

fn namespace_prefix(id: &str) -> String {
    format!("mg-{id}-")
}

fn pin_prefix(id: &str) -> String {
    format!("magnetite-lab-{id}-")
}
