//! Programs of others, built from their Go modules: Kubernetes' API server and its etcd, which tests need, and MetalLB's controller, which
//! ours is measured next to.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    command::{output, root, run},
    toolchain::built_tools,
};

/// The version of Kubernetes; the modules are in `xtask/kubernetes`.
pub const VERSION: &str = "1.34.2";
/// What sets the version that the programs say they have.
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";
/// The version of MetalLB; the module is in `xtask/kubernetes/metallb`.
const METALLB_VERSION: &str = "0.15.2";
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
    for (name, module, package) in PROGRAMS.iter().filter(|(name, ..)| !place.join(name).exists()) {
        eprintln!(
            "setup: building {name} of Kubernetes {VERSION} into {}: this takes some minutes",
            place.display()
        );
        let flags = format!(
            "-s -w -X {VERSION_PACKAGE}.gitVersion=v{VERSION} -X {VERSION_PACKAGE}.gitMajor=1 -X {VERSION_PACKAGE}.gitMinor=34"
        );
        build_program(&modules.join(module), package, &flags, &place.join(name))?;
    }
    Ok(())
}

/// MetalLB's controller, built outside the checkout if it is missing; none where it cannot be.
///
/// # Errors
/// Go fails.
pub fn build_metallb() -> Result<Option<PathBuf>> {
    let program = built_tools()?.join(format!("metallb-{METALLB_VERSION}")).join("controller");
    if program.exists() {
        return Ok(Some(program));
    }
    if obstacle().is_some() {
        return Ok(None);
    }
    eprintln!("bench: building the controller of MetalLB {METALLB_VERSION}: this takes some minutes");
    let module = root().join("xtask/kubernetes/metallb");
    build_program(&module, "go.universe.tf/metallb/controller", "-s -w", &program)?;
    Ok(Some(program))
}

fn build_program(module: &Path, package: &str, flags: &str, program: &Path) -> Result<()> {
    if let Some(place) = program.parent() {
        fs::create_dir_all(place)?;
    }
    // Under another name until it is whole.
    let unfinished = program.with_extension("unfinished");
    let mut go = Command::new("go");
    go.current_dir(module).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
    go.args(["build", "-trimpath", "-ldflags", flags, "-o"]).arg(&unfinished).arg(package);
    run(&mut go)?;
    Ok(fs::rename(&unfinished, program)?)
}

/// By version, so that another one is built anew.
fn place() -> Result<PathBuf> {
    Ok(built_tools()?.join(format!("kubernetes-{VERSION}")))
}
