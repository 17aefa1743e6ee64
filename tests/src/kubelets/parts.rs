//! What a cluster of kubelets is made of, and what of it is not there.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use lb_image::{Architecture, Image};

use crate::api_server::programs;

/// The image of pods that are not Magnetite's, and of sandboxes.
pub const POD_IMAGE: &str = "magnetite.test/pod:1";

/// Where Debian has the plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";
/// What `cargo xtask test kubelets` builds beside the API server and etcd.
const OF_KUBERNETES: [&str; 4] = ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];
/// Of Debian's packages containerd, runc, iptables, util-linux and mount.
const OF_SYSTEM: [&str; 6] = ["containerd", "ctr", "runc", "iptables", "unshare", "mount"];
const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// Why there can be no such cluster here, if there can be none.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let built = programs();
    let is_built = |name: &&str| built.as_ref().is_some_and(|dir| dir.join(name).exists());
    if let Some(name) = OF_KUBERNETES.iter().find(|name| !is_built(name)) {
        return Some(format!("no {name}, cargo xtask test kubelets builds it"));
    }
    if let Some(name) = OF_SYSTEM.iter().find(|name| !is_on_path(name)) {
        return Some(format!("no {name}, cargo xtask setup installs it"));
    }
    if let Some(name) = PLUGINS.iter().find(|name| !Path::new(CNI_PLUGINS).join(name).exists()) {
        return Some(format!("no CNI plugin {name} in {CNI_PLUGINS}, cargo xtask setup installs it"));
    }
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Some("this machine has version 2 of cgroups, nodes of tests need version 1".to_owned());
    }
    let needed = [agent_image(), pod_program()];
    let absent = needed.iter().find(|path| !path.exists())?;
    Some(format!("no {}, cargo xtask test kubelets builds it", absent.display()))
}

/// What `cargo xtask image` makes.
pub fn agent_image() -> PathBuf {
    image_directory().join("lb-agent.tar")
}

/// Packs the image of pods.
pub fn pack_pod_image(file: &Path) -> Result<()> {
    let path = pod_program();
    let program = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let architecture = Architecture::of(&program).with_context(|| path.display().to_string())?;
    let image = Image::of_other(POD_IMAGE, "magnetite-pod", &program, architecture)?;
    Ok(fs::write(file, image.archive()?)?)
}

/// The first process of nodes.
pub fn node_program() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let mut places = program.ancestors().skip(1).take(2).map(|dir| dir.join("magnetite-node"));
    places
        .find(|path| path.exists())
        .context("magnetite-node is not built: cargo build --package magnetite-tests")
}

/// Linked statically.
fn pod_program() -> PathBuf {
    image_directory().join("magnetite-pod")
}

fn image_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image")
}

fn is_on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
