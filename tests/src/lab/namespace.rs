//! Network namespaces: made by `ip`, entered by threads.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsRawFd,
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

/// A network namespace, by its name below `/run/netns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with its loopback link up and everything switched off that sends packets by itself.
    pub fn create(name: &str) -> Result<Self> {
        ip(["netns", "add", name])?;
        let namespace = Self { name: name.to_owned() };
        namespace.ip("link set lo up")?;
        // Some kernels have no bridge netfilter.
        let _ = namespace.sysctl("net/bridge/bridge-nf-call-iptables", "0");
        let _ = namespace.sysctl("net/bridge/bridge-nf-call-ip6tables", "0");
        for family in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{family}/accept_dad"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{family}/accept_ra"), "0")?;
            namespace.sysctl(&format!("net/ipv4/conf/{family}/send_redirects"), "0")?;
            namespace.sysctl(&format!("net/ipv4/conf/{family}/accept_redirects"), "0")?;
        }
        Ok(namespace)
    }

    /// One that is there.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `act` in it, on a thread of its own. Sockets that are made there stay there wherever they are used.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let run = || {
                self.enter()?;
                act()
            };
            scope.spawn(run).join().map_err(|_| anyhow::anyhow!("a thread in {} has panicked", self.name))?
        })
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        // SAFETY: the descriptor is open, and the call changes nothing but this thread's namespace.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("entering {}", self.name));
        }
        Ok(())
    }

    /// `ip` with these arguments, separated by spaces.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        ip(["-n", &self.name].into_iter().chain(arguments.split(' '))).map(drop)
    }

    /// The answer of `ip -j` with these arguments.
    pub fn ip_json(&self, arguments: &str) -> Result<serde_json::Value> {
        let output = ip(["-n", &self.name, "-j"].into_iter().chain(arguments.split(' ')))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Sets a variable below `/proc/sys`, of which `net` is the calling thread's.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value).with_context(|| format!("writing {path}")))
    }

    /// A command in it.
    pub fn command(&self, program: impl AsRef<OsStr> + Send + Sync, arguments: &[&str]) -> Result<Output> {
        self.run(|| {
            let output = Command::new(&program).args(arguments).output();
            output.with_context(|| format!("starting {}", program.as_ref().display()))
        })
    }

    /// Has the kernel take these rules of nftables, all or none.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run(|| {
            let mut command = Command::new("nft");
            let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            child.stdin.take().context("the input is a pipe")?.write_all(rules.as_bytes())?;
            let output = child.wait_with_output()?;
            if !output.status.success() {
                bail!("nft: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(())
        })
    }

    /// Removes it, after ending what still runs in it.
    pub fn remove(&self) -> Result<()> {
        let pids = ip(["netns", "pids", &self.name])?;
        for pid in String::from_utf8_lossy(&pids.stdout).lines().filter_map(|line| line.parse::<i32>().ok()) {
            if pid.unsigned_abs() != std::process::id() {
                // SAFETY: the process is in a namespace of the lab's, so it is the lab's.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        ip(["netns", "delete", &self.name]).map(drop)
    }
}

/// Runs `ip`.
pub fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Output> {
    run(Command::new("ip").args(arguments))
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}
