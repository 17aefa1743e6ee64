//! A node: a machine of the lab in namespaces of mounts, processes, host name, IPC and cgroups of its own.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    boot::Boot,
    configuration,
    parts::{agent_image, node_program},
};
use crate::{
    api_server::{ApiServer, User, programs},
    lab::{CGROUPS, Host, Machines, Namespace, last_lines},
};

/// A node, as long as the value lives.
pub struct KubeletNode {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub namespace: Namespace,
    /// Its MAC on the LAN.
    pub mac: String,
    logs: PathBuf,
    /// `unshare`, with which everything of the node ends.
    process: Option<Child>,
}

/// Of all nodes' pods.
const ALL_PODS: &str = "10.244.0.0/16,fd00:10:244::/48";

/// Whom kube-proxy is for an API server.
pub const KUBE_PROXY: User<'_> = User { name: "system:kube-proxy", group: "system:authenticated" };
/// In which kubelets are, as `system:node:` and their nodes' names.
pub const OF_NODES: &str = "system:nodes";

impl KubeletNode {
    /// Starts it; containerd gets its images first, these and Magnetite's.
    ///
    /// # Errors
    /// Its files or cgroups cannot be made.
    pub fn start(host: &Host, api: &ApiServer, names: Machines<'_>, images: &[PathBuf]) -> Result<Self> {
        let name = host.name.clone();
        let directory = names.directory().join(format!("{name}-files"));
        let logs = directory.join("log");
        fs::create_dir_all(&logs)?;
        let boot = write_configuration(host, api, names, &directory, images)?;
        fs::write(directory.join("boot.json"), serde_json::to_vec(&boot)?)?;
        let groups = make_cgroups(names, &name, &directory)?;
        for family in ["iptables", "ip6tables"] {
            // Some kernels have no bridge netfilter. kube-proxy needs it for pods that are on one bridge.
            let _ = host.namespace.sysctl(&format!("net/bridge/bridge-nf-call-{family}"), "1");
        }
        let log = File::create(logs.join("node.log"))?;
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "while read -r group; do echo $$ > \"$group/cgroup.procs\" || exit 1; done < \"$0\"; exec \"$@\"",
        ]);
        command.arg(groups).args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork"]);
        command.args(["--kill-child", "--mount-proc"]).arg(node_program()?).arg(directory.join("boot.json"));
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let process = host.namespace.run(|| command.spawn().context("starting a node"))?;
        Ok(Self { name, namespace: host.namespace.clone(), mac: host.mac(), logs, process: Some(process) })
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    /// # Errors
    /// It was started, and has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
            Some(status) => bail!("node {} has ended with {status}", self.name),
            None => Ok(()),
        }
    }

    /// Ends all of it at once, as a machine ends whose power is cut.
    ///
    /// # Errors
    /// It has ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// What containers of pods have said whose names begin so: in each line after the time.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn pod_logs(&self, pods: &str) -> Result<String> {
        let mut text = String::new();
        let entries = fs::read_dir(self.logs.join("pods")).into_iter().flatten().flatten();
        for pod in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(pods)) {
            for container in fs::read_dir(pod.path())?.flatten() {
                for log in fs::read_dir(container.path())?.flatten() {
                    text += &fs::read_to_string(log.path())?;
                }
            }
        }
        Ok(text)
    }

    /// The last of all that its programs have said.
    pub fn log(&self) -> String {
        let mut text = String::new();
        for name in ["node", "containerd", "kubelet", "kube-proxy"] {
            let log = fs::read_to_string(self.logs.join(format!("{name}.log"))).unwrap_or_default();
            text += &format!("{} {name}:\n{}\n", self.name, last_lines(&log, 8));
        }
        text
    }
}

impl Drop for KubeletNode {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

/// Files for all programs of a node, and with what it begins.
fn write_configuration(
    host: &Host,
    api: &ApiServer,
    names: Machines<'_>,
    directory: &Path,
    images: &[PathBuf],
) -> Result<Boot> {
    let user = format!("system:node:{}", host.name);
    let kubeconfig = api.kubeconfig_of_user(&User { name: &user, group: OF_NODES })?;
    let of_proxy = api.kubeconfig_of_user(&KUBE_PROXY)?;
    let cni = directory.join("cni");
    fs::create_dir_all(&cni)?;
    let json = |path: PathBuf, value: &Value| -> Result<()> { Ok(fs::write(path, value.to_string())?) };
    json(cni.join("pods.conflist"), &configuration::cni(&host.pod_cidrs()))?;
    json(directory.join("kubelet.json"), &configuration::kubelet())?;
    let proxy = directory.join("kube-proxy.json");
    json(proxy.clone(), &configuration::kube_proxy(&host.name, &of_proxy, ALL_PODS))?;
    let containerd = directory.join("containerd.toml");
    fs::write(&containerd, configuration::containerd(&cni))?;
    let programs = programs().context("Kubernetes is not built")?;
    let program = |name: &str| programs.join(name).display().to_string();
    let mut kubelet = vec![program("kubelet")];
    kubelet.extend(configuration::kubelet_arguments(&host.name, directory, &kubeconfig, &host.addresses()));
    let mut all = vec![copy_of_agent_image(names)?];
    all.extend_from_slice(images);
    Ok(Boot {
        name: host.name.clone(),
        files: names.directory(),
        logs: directory.join("log"),
        runtime: vec!["containerd".to_owned(), format!("--config={}", containerd.display())],
        images: all,
        services: vec![kubelet, vec![program("kube-proxy"), format!("--config={}", proxy.display())]],
    })
}

/// Beside the other files, which nodes see wherever the checkout is.
fn copy_of_agent_image(names: Machines<'_>) -> Result<PathBuf> {
    let copy = names.directory().join("lb-agent.tar");
    if !copy.exists() {
        let image = agent_image();
        fs::copy(&image, &copy).with_context(|| format!("copying {}", image.display()))?;
    }
    Ok(copy)
}

/// One below each in which this process is: their paths are in the file, a line each.
fn make_cgroups(names: Machines<'_>, node: &str, directory: &Path) -> Result<PathBuf> {
    let mut groups = Vec::new();
    for line in fs::read_to_string("/proc/self/cgroup")?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next().unwrap_or_default();
        let path = fields.next().unwrap_or_default();
        if controllers.is_empty() {
            continue;
        }
        let controllers = controllers.strip_prefix("name=").unwrap_or(controllers);
        let parent = Path::new("/sys/fs/cgroup").join(controllers).join(path.trim_start_matches('/'));
        groups.push(parent.join(names.namespace(node)));
    }
    let text: String = groups.iter().map(|group| format!("{}\n", group.display())).collect();
    // Known to whoever removes them before they are there.
    let mut known = File::options().create(true).append(true).open(names.directory().join(CGROUPS))?;
    known.write_all(text.as_bytes())?;
    for group in &groups {
        fs::create_dir(group).with_context(|| format!("making {}", group.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // Empty in a new one, and nobody may enter it.
            if let (Some(parent), true) = (group.parent(), group.join(file).exists()) {
                fs::write(group.join(file), fs::read_to_string(parent.join(file))?)?;
            }
        }
    }
    let file = directory.join(CGROUPS);
    fs::write(&file, text)?;
    Ok(file)
}
