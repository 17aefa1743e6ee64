//! What the first process of a node does: mounts as a machine has them, then programs that are kept running.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{WaitOptions, wait};
use serde::{Deserialize, Serialize};

use crate::lab::run;

/// How a node begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Boot {
    /// The node's name.
    pub name: String,
    /// Files of all machines, which are where they are outside.
    pub files: PathBuf,
    /// Where the node's log files are.
    pub logs: PathBuf,
    /// containerd.
    pub runtime: Vec<String>,
    /// Archives of images that containerd has.
    pub images: Vec<PathBuf>,
    /// Programs that are started when it has them.
    pub services: Vec<Vec<String>>,
}

const CGROUPS: &str = "/sys/fs/cgroup";
/// kubelet wants these values, which are the whole machine's: it is shown what it wants to read.
const WANTED: [(&str, &str); 3] =
    [("kernel/panic", "10"), ("kernel/panic_on_oops", "1"), ("vm/overcommit_memory", "1")];
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// Before a program that has ended is started again.
const RESPAWN: Duration = Duration::from_millis(500);

impl Boot {
    /// Reads it from a file.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Begins, and goes on until it is killed.
    ///
    /// # Errors
    /// It is not the first process of its namespaces, cannot mount something, or containerd does not start.
    pub fn run(&self) -> Result<()> {
        ensure!(
            std::process::id() == 1,
            "this would change the mounts of the machine: it is for a node's first process"
        );
        fs::write("/proc/sys/kernel/hostname", &self.name).context("the host's name")?;
        self.mount_all()?;
        let mut running = BTreeMap::new();
        let pid = self.start(&self.runtime)?;
        running.insert(pid, &self.runtime);
        self.import()?;
        for service in &self.services {
            running.insert(self.start(service)?, service);
        }
        loop {
            // Orphans, which are the first process's, or one of ours.
            let Some((pid, status)) = wait(WaitOptions::empty())? else { continue };
            if let Some(service) = running.remove(&pid.as_raw_nonzero().get()) {
                eprintln!("{}: {status:?}", service[0]);
                thread::sleep(RESPAWN);
                running.insert(self.start(service)?, service);
            }
        }
    }

    fn mount_all(&self) -> Result<()> {
        mount(&["--make-rshared", "/"])?;
        mount(&["-t", "sysfs", "sysfs", "/sys"])?;
        mount(&["-t", "bpf", "bpf", "/sys/fs/bpf"])?;
        mount_cgroups()?;
        // What is below /run goes out of sight.
        let files = File::open(&self.files)?;
        mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
        fs::create_dir_all(&self.files)?;
        // By its path it is no more: `mount` must not look for it.
        let open = format!("/proc/{}/fd/{}", std::process::id(), files.as_raw_fd());
        mount(&["--no-canonicalize", "--bind", &open, &self.files.display().to_string()])?;
        mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib"])?;
        mount(&["--bind", &self.logs.display().to_string(), "/var/log"])?;
        for (number, (key, value)) in WANTED.into_iter().enumerate() {
            let file = format!("/run/wanted-{number}");
            fs::write(&file, format!("{value}\n"))?;
            mount(&["--bind", &file, &format!("/proc/sys/{key}")])?;
        }
        Ok(())
    }

    fn start(&self, words: &[String]) -> Result<i32> {
        let (program, arguments) = words.split_first().context("a program")?;
        let name = Path::new(program).file_name().context("a program has a name")?.to_string_lossy();
        let log = File::options().create(true).append(true).open(self.logs.join(format!("{name}.log")))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let child = command.spawn().with_context(|| format!("starting {program}"))?;
        Ok(i32::try_from(child.id())?)
    }

    fn import(&self) -> Result<()> {
        let begin = Instant::now();
        while !Command::new("ctr")
            .arg("version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success()
        {
            if begin.elapsed() > PATIENCE {
                bail!("containerd does not start");
            }
            thread::sleep(PAUSE);
        }
        for image in &self.images {
            run(Command::new("ctr").args(["--namespace=k8s.io", "images", "import"]).arg(image))?;
        }
        Ok(())
    }
}

/// Of every controller what this process's cgroup namespace has.
fn mount_cgroups() -> Result<()> {
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", CGROUPS])?;
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let Some(controllers) = line.split(':').nth(1).filter(|controllers| !controllers.is_empty()) else {
            continue;
        };
        let (options, name) = match controllers.strip_prefix("name=") {
            Some(name) => (format!("none,{controllers}"), name),
            None => (controllers.to_owned(), controllers),
        };
        let place = format!("{CGROUPS}/{name}");
        fs::create_dir(&place)?;
        mount(&["-t", "cgroup", "-o", &options, "cgroup", &place])?;
    }
    Ok(())
}

fn mount(arguments: &[&str]) -> Result<()> {
    run(Command::new("mount").args(arguments)).map(drop)
}
