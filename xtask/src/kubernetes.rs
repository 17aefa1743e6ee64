//! Programs of others, built from their Go modules: Kubernetes' API server and its etcd, which tests need, what nodes need beside, and
//! MetalLB's controller, which ours is measured next to.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

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
/// What the modules need.
const GO: (u32, u32) = (1, 24);

/// Of etcd's module.
const ETCD: [(&str, &str); 1] = [("etcd", "go.etcd.io/etcd/server/v3")];
/// Of Kubernetes' module.
const API_SERVER: [(&str, &str); 1] = [("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver")];
/// Of the same, for clusters whose nodes have kubelets.
const OF_NODES: [(&str, &str); 4] = [
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
];

/// Builds what is missing of the API server and its etcd, outside the checkout.
///
/// # Errors
/// There is no Go, or it cannot build them.
pub fn build() -> Result<()> {
    let modules = root().join("xtask/kubernetes");
    build_missing(&modules.join("etcd"), &ETCD)?;
    build_missing(&modules, &API_SERVER)
}

/// The same, and what is missing of the programs of nodes.
///
/// # Errors
/// There is no Go, or it cannot build them.
pub fn build_with_nodes() -> Result<()> {
    build()?;
    build_missing(&root().join("xtask/kubernetes"), &OF_NODES)
}

/// Whether the API server or its etcd is still to be built.
///
/// # Errors
/// There is no place for them.
pub fn is_missing() -> Result<bool> {
    let place = place()?;
    Ok(ETCD.iter().chain(&API_SERVER).any(|(name, _)| !place.join(name).exists()))
}

/// Why what is missing cannot be built here, the programs of nodes or not, if it cannot.
///
/// # Errors
/// There is no place for it.
pub fn obstacle(with_nodes: bool) -> Result<Option<String>> {
    let place = place()?;
    let of_nodes = if with_nodes { OF_NODES.as_slice() } else { &[] };
    let wanted = ETCD.iter().chain(&API_SERVER).chain(of_nodes);
    let Some((name, _)) = wanted.into_iter().find(|(name, _)| !place.join(name).exists()) else {
        return Ok(None);
    };
    let (major, minor) = GO;
    let needed = format!("{name} of Kubernetes {VERSION} has to be built with Go {major}.{minor} or later");
    let version = output(Command::new("go").args(["env", "GOVERSION"]));
    Ok(match version.as_deref().and_then(go_version) {
        None => Some(format!("{needed}, and there is no Go")),
        Some(found) if found < GO => Some(format!("{needed}, and this is Go {}.{}", found.0, found.1)),
        Some(_) => None,
    })
}

/// MetalLB's controller, built outside the checkout if it is missing; none where it cannot be.
///
/// # Errors
/// Go fails.
pub fn build_metallb() -> Result<Option<PathBuf>> {
    let place = built_tools()?.join(format!("metallb-{METALLB_VERSION}"));
    let program = place.join("controller");
    if program.exists() {
        return Ok(Some(program));
    }
    let version = output(Command::new("go").args(["env", "GOVERSION"]));
    if version.as_deref().and_then(go_version).is_none_or(|found| found < GO) {
        return Ok(None);
    }
    eprintln!("bench: building the controller of MetalLB {METALLB_VERSION}: this takes some minutes");
    fs::create_dir_all(&place)?;
    // Under another name until it is whole.
    let unfinished = place.join(".controller");
    let mut go = go_build(&root().join("xtask/kubernetes/metallb"), "-s -w", &unfinished);
    run(go.arg("go.universe.tf/metallb/controller"))?;
    fs::rename(&unfinished, &program)?;
    Ok(Some(program))
}

/// Of packages that are still to be named.
fn go_build(module: &Path, flags: &str, output: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(module).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
    go.args(["build", "-trimpath", "-ldflags", flags, "-o"]).arg(output);
    go
}

/// Of `go1.26.8`, or `go1.27-rc1`, the first two numbers.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("go")?.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// By version, so that another one is built anew.
fn place() -> Result<PathBuf> {
    Ok(built_tools()?.join(format!("kubernetes-{VERSION}")))
}

/// With one command, which builds once what they have in common.
fn build_missing(module: &Path, programs: &[(&str, &str)]) -> Result<()> {
    let place = place()?;
    let missing: Vec<_> = programs.iter().filter(|(name, _)| !place.join(name).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    println!(
        "setup: building {names} of Kubernetes {VERSION} into {}: this takes some minutes",
        place.display()
    );
    // Elsewhere until they are whole.
    let unfinished = place.join(format!(".{}", std::process::id()));
    fs::create_dir_all(&unfinished)?;
    let flags = format!(
        "-s -w -X {VERSION_PACKAGE}.gitVersion=v{VERSION} -X {VERSION_PACKAGE}.gitMajor=1 -X {VERSION_PACKAGE}.gitMinor=34"
    );
    // A directory: Go names what it puts there.
    let mut go = go_build(module, &flags, &unfinished.join(""));
    go.args(missing.iter().map(|(_, package)| package));
    let built = run(&mut go).and_then(|()| {
        for (name, package) in missing {
            // Go calls a program as its package, without a version.
            let last = package.rsplit('/').find(|part| !is_version(part)).unwrap_or(name);
            fs::rename(unfinished.join(last), place.join(name))?;
        }
        Ok(())
    });
    fs::remove_dir_all(&unfinished)?;
    built
}

fn is_version(part: &str) -> bool {
    part.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::go_version;

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        for (text, expected) in [
            ("go1.26.8\n", Some((1, 26))),
            ("go1.9", Some((1, 9))),
            ("go1.27-rc1", Some((1, 27))),
            ("devel", None),
        ] {
            assert_eq!(go_version(text), expected, "{text}");
        }
        assert!(go_version("go1.9") < go_version("go1.24"));
    }
}
