//! What a pod's limits allow an agent, as cgroups of either version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// Limits of memory and CPU, as long as the value lives, which has to be longer than whoever is in them. What was charged to them stays with what is left.
pub struct Limits {
    /// One, or one for each controller.
    groups: Vec<PathBuf>,
    memory: Memory,
}

/// Where it stands what is charged.
struct Memory {
    usage: PathBuf,
    stat: PathBuf,
    /// Of what the kernel gives up when memory is short, in `stat`.
    cache: &'static str,
}

const ROOT: &str = "/sys/fs/cgroup";
/// Microseconds in which the CPU's share is counted, as kubelet has it.
const PERIOD: u32 = 100_000;

/// Why there can be no limits here, if there can be none.
pub fn cannot_limit() -> Option<String> {
    let name = format!("magnetite-try-{}", std::process::id());
    Limits::begin(&name, 1 << 30, 1000).err().map(|error| format!("no cgroups can be made: {error:#}"))
}

impl Limits {
    /// Bytes of memory, kernel memory and thus maps among them, and thousandths of a CPU.
    ///
    /// # Errors
    /// There are no cgroups, or none can be made.
    pub fn begin(name: &str, memory: u64, milli_cpu: u32) -> Result<Self> {
        let root = Path::new(ROOT);
        let quota = u64::from(milli_cpu) * u64::from(PERIOD) / 1000;
        if root.join("cgroup.controllers").exists() {
            write(&root.join("cgroup.subtree_control"), "+cpu +memory")?;
            let group = root.join(name);
            let (usage, stat) = (group.join("memory.current"), group.join("memory.stat"));
            let limits = Self { groups: vec![group.clone()], memory: Memory { usage, stat, cache: "file" } };
            fs::create_dir(&group).with_context(|| group.display().to_string())?;
            write(&group.join("memory.max"), &memory.to_string())?;
            write(&group.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
            return Ok(limits);
        }
        let (of_memory, of_cpu) = (root.join("memory").join(name), root.join("cpu").join(name));
        let (usage, stat) = (of_memory.join("memory.usage_in_bytes"), of_memory.join("memory.stat"));
        let limits = Self {
            groups: vec![of_memory.clone(), of_cpu.clone()],
            memory: Memory { usage, stat, cache: "cache" },
        };
        for group in &limits.groups {
            fs::create_dir(group).with_context(|| group.display().to_string())?;
        }
        write(&of_memory.join("memory.limit_in_bytes"), &memory.to_string())?;
        write(&of_cpu.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
        write(&of_cpu.join("cpu.cfs_quota_us"), &quota.to_string())?;
        Ok(limits)
    }

    /// A program, which gets its arguments later, within the limits.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        let enter = self.groups.iter().map(|group| format!("echo $$ > {}/cgroup.procs", group.display()));
        let enter = enter.collect::<Vec<_>>().join(" && ");
        command.args(["-c", &format!("{enter} && exec \"$@\""), "sh", program]);
        command
    }

    /// Bytes that are charged now, without files that are only cached.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn held(&self) -> Result<u64> {
        let Memory { usage, stat, cache } = &self.memory;
        let usage: u64 = fs::read_to_string(usage)?.trim().parse()?;
        let stat = fs::read_to_string(stat)?;
        let cached = stat.lines().find_map(|line| line.strip_prefix(cache)?.strip_prefix(' '));
        let cached: u64 = cached.context("it does not say what is cached")?.parse()?;
        Ok(usage.saturating_sub(cached))
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        for group in &self.groups {
            // One with a process in it stays.
            let _ = fs::remove_dir(group);
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
