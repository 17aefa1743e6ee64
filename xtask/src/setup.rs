//! What a machine needs, and how it gets it.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    command::{cargo, is_on_path, is_root, output, run},
    kubernetes,
    toolchain::{Compiler, LINKER_VERSION, LLVM_PREFIX, linker, linker_root},
};

/// Debian packages, each with what tells that its purpose is met.
const PACKAGES: [(&str, Purpose); 17] = [
    ("rustc-web", Purpose::Compiler),
    ("libstd-rust-web-dev-bpf", Purpose::Compiler),
    ("llvm-22-dev", Purpose::Linker),
    ("libpolly-22-dev", Purpose::Linker),
    ("zlib1g-dev", Purpose::Linker),
    ("libzstd-dev", Purpose::Linker),
    ("build-essential", Purpose::Program("cc")),
    ("make", Purpose::Program("make")),
    ("bpftool", Purpose::Program("bpftool")),
    ("procps", Purpose::Program("sysctl")),
    ("util-linux", Purpose::Program("setpriv")),
    ("iproute2", Purpose::Program("ip")),
    ("iputils-ping", Purpose::Program("ping")),
    ("ethtool", Purpose::Program("ethtool")),
    ("nftables", Purpose::Program("nft")),
    ("curl", Purpose::Program("curl")),
    ("dbus", Purpose::Test("dbus-daemon")),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Building for BPF.
    Compiler,
    /// Building bpf-linker.
    Linker,
    /// A program on the path.
    Program(&'static str),
    /// The same, without which some tests are skipped.
    Test(&'static str),
}

const BPFFS: &str = "/sys/fs/bpf";

/// What is missing, in a line each.
struct Missing {
    packages: Vec<&'static str>,
    linker: bool,
    bpffs: bool,
    /// Which can be built here.
    kubernetes: bool,
}

impl Missing {
    fn find() -> Result<Self> {
        let compiler = Compiler::find().is_some();
        let linker = linker()?.is_some();
        let is_needed = |purpose| match purpose {
            Purpose::Compiler => !compiler,
            Purpose::Linker => !linker,
            Purpose::Program(name) | Purpose::Test(name) => !is_on_path(name),
        };
        Ok(Self {
            packages: PACKAGES
                .iter()
                .filter(|(_, purpose)| is_needed(*purpose))
                .map(|(name, _)| *name)
                .collect(),
            linker: !linker,
            bpffs: !is_bpffs_mounted(),
            kubernetes: kubernetes::is_missing()? && kubernetes::obstacle(false)?.is_none(),
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.packages.is_empty() {
            lines.push(format!("packages: {}", self.packages.join(" ")));
        }
        if self.linker {
            lines.push(format!("bpf-linker {LINKER_VERSION}, built against the LLVM in {LLVM_PREFIX}"));
        }
        if self.bpffs {
            lines.push(format!("a BPF file system on {BPFFS}: tests of loaded programs will be skipped"));
        }
        if self.kubernetes {
            lines.push(format!("Kubernetes {} for tests, built from its modules", kubernetes::VERSION));
        }
        lines
    }

    fn set_up(&self) -> Result<()> {
        if self.lines().is_empty() {
            println!("setup: nothing is missing");
            return Ok(());
        }
        if !self.packages.is_empty() {
            install(&self.packages)?;
        }
        if self.linker {
            let root = linker_root()?;
            println!("setup: building bpf-linker {LINKER_VERSION} into {}", root.display());
            let mut command = cargo();
            command.env("LLVM_PREFIX", LLVM_PREFIX).args([
                "install",
                "bpf-linker",
                "--version",
                LINKER_VERSION,
            ]);
            command.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(&root);
            // Its lock file is what its authors have tested.
            run(command.args(["--locked", "--force"]).env_remove("RUSTC").current_dir("/"))?;
        }
        if self.bpffs && is_root() {
            println!("setup: mounting a BPF file system on {BPFFS}");
            // Not fatal: what needs it is skipped, and says so.
            if let Err(error) = run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])) {
                println!("setup: {error}");
            }
        }
        if self.kubernetes {
            kubernetes::build()?;
        }
        println!("setup: done");
        Ok(())
    }

    /// Whether the object cannot be built.
    fn stops_build(&self) -> bool {
        let is_for_tests = |name| {
            let of_tests = |purpose| matches!(purpose, Purpose::Test(_));
            PACKAGES.iter().any(|(other, purpose)| *other == name && of_tests(*purpose))
        };
        self.linker || self.packages.iter().any(|name| !is_for_tests(*name))
    }
}

/// Says what is missing.
pub fn check() -> Result<()> {
    let lines = Missing::find()?.lines();
    if lines.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    lines.iter().for_each(|line| println!("setup: missing {line}"));
    bail!("run `cargo xtask setup`");
}

/// Installs what is missing.
pub fn set_up() -> Result<()> {
    Missing::find()?.set_up()
}

/// Sets up only if the build needs it, or root could mount what tests need; what tests need beside that, those levels build that do.
pub fn if_needed() -> Result<()> {
    let missing = Missing { kubernetes: false, ..Missing::find()? };
    if missing.stops_build() || missing.bpffs && is_root() {
        missing.lines().iter().for_each(|line| println!("setup: missing {line}"));
        return missing.set_up();
    }
    Ok(())
}

/// What nodes with kubelets need beside Kubernetes: only where there can be some, for part of it are services of the machine.
const OF_KUBELETS: [(&str, &str); 4] = [
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("iptables", "/usr/sbin/iptables"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
];

/// Why there can be no nodes with kubelets here whatever is installed, if there can be none.
pub fn obstacle_to_kubelets() -> Option<&'static str> {
    if !is_root() {
        return Some("not root");
    }
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    is_v2.then_some("this machine has version 2 of cgroups, nodes of tests need version 1")
}

/// Installs what is missing of that.
pub fn for_kubelets() -> Result<()> {
    let missing: Vec<&str> =
        OF_KUBELETS.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn install(packages: &[&str]) -> Result<()> {
    let all = packages.join(" ");
    if !Path::new("/etc/debian_version").exists() {
        bail!(
            "this is not Debian or Ubuntu: install what these packages hold there: {all}\n\
             (for the compiler, rustup's nightly with rust-src will do: \
             `rustup toolchain install nightly --component rust-src`)"
        );
    }
    if !is_root() {
        bail!("not root: run `apt-get install {all}` as root, then this again");
    }
    println!("setup: installing {all}");
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run(apt().args(["update", "-q"]))?;
    run(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(packages))
}

fn is_bpffs_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS) && line.split(' ').nth(2) == Some("bpf"))
}

/// Whether programs can be loaded here; else why not.
pub fn can_load() -> Result<(), &'static str> {
    if !is_root() {
        return Err("not root");
    }
    if !is_bpffs_mounted() {
        return Err("no BPF file system on /sys/fs/bpf");
    }
    match output(Command::new("bpftool").arg("version")) {
        Some(_) => Ok(()),
        None => Err("no bpftool"),
    }
}
