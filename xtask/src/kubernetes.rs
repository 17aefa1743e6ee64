//! Kubernetes' own programs, built from its Go modules: the API server that tests need, and its etcd.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    command::{output, root, run},
    toolchain::built_tools,
};

/// The version of Kubernetes; the modules are in `xtask/kubernetes`.
pub const VERSION: &str = "1.34.2";
/// What sets the version that the programs say they have.
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";
/// The Go that they need, at least: 1 and this.
const GO: u32 = 24;

/// A program: its name, the directory of its module below `xtask/kubernetes`, and its package.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", ".", "k8s.io/kubernetes/cmd/kube-apiserver"),
];

/// Whether some are still to be built.
pub fn is_missing() -> Result<bool> {
    let place = place()?;
    Ok(PROGRAMS.iter().any(|(name, ..)| !place.join(name).exists()))
}

/// Why they cannot be built here, if they cannot.
pub fn obstacle() -> Option<String> {
    let needs = format!("Kubernetes {VERSION} needs Go 1.{GO} or later");
    let Some(said) = output(Command::new("go").arg("version")) else {
        return Some(format!("{needs}, and there is none"));
    };
    // go version go1.26.0 linux/amd64
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("go1.")).unwrap_or_default();
    let minor = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|minor| minor.parse().ok());
    let is_enough = minor.is_some_and(|minor: u32| minor >= GO);
    (!is_enough).then(|| format!("{needs}, and this is {}", said.trim()))
}

/// Builds what is missing, outside the checkout.
///
/// # Errors
/// There is no Go that could, or it fails.
pub fn build() -> Result<()> {
    if !is_missing()? {
        return Ok(());
    }
    if let Some(why) = obstacle() {
        bail!("{why}");
    }
    let (place, modules) = (place()?, root().join("xtask/kubernetes"));
    fs::create_dir_all(&place)?;
    for (name, module, package) in PROGRAMS.iter().filter(|(name, ..)| !place.join(name).exists()) {
        println!(
            "setup: building {name} of Kubernetes {VERSION} into {}: this takes some minutes",
            place.display()
        );
        let flags = format!(
            "-s -w -X {VERSION_PACKAGE}.gitVersion=v{VERSION} -X {VERSION_PACKAGE}.gitMajor=1 -X {VERSION_PACKAGE}.gitMinor=34"
        );
        let mut go = Command::new("go");
        go.current_dir(modules.join(module)).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
        // Under another name until it is whole.
        let unfinished = place.join(format!(".{name}"));
        go.args(["build", "-trimpath", "-ldflags", &flags, "-o"]).arg(&unfinished).arg(package);
        run(&mut go)?;
        fs::rename(&unfinished, place.join(name))?;
    }
    Ok(())
}

/// By version, so that another one is built anew.
fn place() -> Result<PathBuf> {
    Ok(built_tools()?.join(format!("kubernetes-{VERSION}")))
}
