//! Kubernetes' own programs, built from its Go modules: the API server that tests need, and its etcd.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::{
    command::{is_on_path, root, run},
    toolchain::built_tools,
};

/// The version of Kubernetes; the modules are in `xtask/kubernetes`.
const VERSION: &str = "1.34.2";
/// What sets the version that the programs say they have.
const VERSION_PACKAGE: &str = "k8s.io/component-base/version";

/// Builds what is missing, outside the checkout.
///
/// # Errors
/// There is no Go, or it cannot build them.
pub fn build() -> Result<()> {
    // By version, so that another one is built anew.
    let place = built_tools()?.join(format!("kubernetes-{VERSION}"));
    let modules = root().join("xtask/kubernetes");
    let programs = [
        ("etcd", modules.join("etcd"), "go.etcd.io/etcd/server/v3"),
        ("kube-apiserver", modules, "k8s.io/kubernetes/cmd/kube-apiserver"),
    ];
    for (name, module, package) in programs {
        if place.join(name).exists() {
            continue;
        }
        if !is_on_path("go") {
            bail!("{name} {VERSION} has to be built, and there is no Go: install Go 1.24 or later");
        }
        fs::create_dir_all(&place)?;
        println!(
            "setup: building {name} of Kubernetes {VERSION} into {}: this takes some minutes",
            place.display()
        );
        let flags = format!(
            "-s -w -X {VERSION_PACKAGE}.gitVersion=v{VERSION} -X {VERSION_PACKAGE}.gitMajor=1 -X {VERSION_PACKAGE}.gitMinor=34"
        );
        let mut go = Command::new("go");
        go.current_dir(module).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
        // Under another name until it is whole.
        let unfinished = place.join(format!(".{name}"));
        go.args(["build", "-trimpath", "-ldflags", &flags, "-o"]).arg(&unfinished).arg(package);
        run(&mut go)?;
        fs::rename(&unfinished, place.join(name))?;
    }
    Ok(())
}
