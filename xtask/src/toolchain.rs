//! Compilers that build for `bpfel-unknown-none`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::command::{cargo, output};

/// The version of bpf-linker that is installed.
pub const LINKER_VERSION: &str = "0.13.0";
/// The LLVM that Debian's compiler and the linker have in common.
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler for the BPF target.
pub enum Compiler {
    /// rustup's nightly with the component rust-src; builds `core` itself.
    Nightly,
    /// Debian's `rustc-web`, with `core` from `libstd-rust-web-dev-bpf`.
    Debian,
}

impl Compiler {
    /// The first that is there.
    pub fn find() -> Option<Self> {
        if has_nightly() {
            return Some(Self::Nightly);
        }
        has_debian().then_some(Self::Debian)
    }

    /// What it is, for people.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Nightly => "rustup's nightly with rust-src",
            Self::Debian => "Debian's rustc-web with libstd-rust-web-dev-bpf",
        }
    }

    /// `cargo build` with this compiler, as far as the compiler goes.
    pub fn cargo_build(&self) -> Command {
        let mut command = cargo();
        match self {
            Self::Nightly => {
                command.env_remove("RUSTC").env("RUSTUP_TOOLCHAIN", "nightly").args([
                    "build",
                    "-Z",
                    "build-std=core",
                ]);
            }
            Self::Debian => {
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg("build");
            }
        }
        command
    }
}

fn has_nightly() -> bool {
    let mut sysroot = Command::new("rustc");
    sysroot.env("RUSTUP_TOOLCHAIN", "nightly").env("RUSTUP_AUTO_INSTALL", "0").args(["--print", "sysroot"]);
    output(&mut sysroot)
        .is_some_and(|path| Path::new(path.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn has_debian() -> bool {
    let mut libraries = Command::new(DEBIAN_RUSTC);
    libraries.args(["--print", "target-libdir", "--target", "bpfel-unknown-none"]);
    output(&mut libraries).is_some_and(|path| Path::new(path.trim()).is_dir())
}

/// Where `setup` installs the linker: outside the checkout, by version.
pub fn linker_root() -> Result<PathBuf> {
    Ok(built_tools()?.join(format!("bpf-linker-{LINKER_VERSION}")))
}

/// Where tools are that were built: outside the checkout.
pub fn built_tools() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let Some(cache) = cache else {
        bail!("neither XDG_CACHE_HOME nor HOME is set: no place for built tools")
    };
    Ok(cache.join("magnetite"))
}

/// The linker that `setup` has installed, if it runs: the LLVM that it was built against may have gone.
pub fn linker() -> Result<Option<PathBuf>> {
    let path = linker_root()?.join("bin/bpf-linker");
    Ok(output(Command::new(&path).arg("--version")).map(|_| path))
}
