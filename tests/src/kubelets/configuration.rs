//! What containerd, kubelet, kube-proxy and the CNI plugins of a node are told.

use std::{net::IpAddr, path::Path};

use serde_json::{Value, json};

use super::parts::{CNI_PLUGINS, POD_IMAGE};

/// containerd's, in TOML, with the CNI configuration in a directory.
pub fn containerd(cni: &Path) -> String {
    // They would only look for file systems that are not there.
    let unused =
        ["aufs", "btrfs", "devmapper", "zfs"].map(|name| format!("io.containerd.snapshotter.v1.{name}"));
    format!(
        r#"version = 2
disabled_plugins = {unused:?}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{POD_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{}"
"#,
        cni.display()
    )
}

/// A bridge, with addresses of the node's own pods.
pub fn cni(pods: &[String; 2]) -> Value {
    let ranges: Vec<Value> = pods.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    json!({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// kubelet's. Nobody asks it for anything: it has no server.
pub fn kubelet() -> Value {
    let nothing = ["memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"];
    let mut eviction: serde_json::Map<String, Value> =
        nothing.into_iter().map(|signal| (signal.to_owned(), json!("0%"))).collect();
    eviction.insert("imagefs.inodesFree".to_owned(), json!("0%"));
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "enableServer": false,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs", "cgroupRoot": "/",
        "failSwapOn": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": eviction,
        "clusterDomain": "cluster.local", "clusterDNS": ["10.96.0.10"],
    })
}

/// kube-proxy's.
pub fn kube_proxy(node: &str, kubeconfig: &Path, pods: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": node,
        "clusterCIDR": pods,
        // Limits of the whole machine stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

/// kubelet's arguments beside its configuration.
pub fn kubelet_arguments(
    node: &str,
    directory: &Path,
    kubeconfig: &Path,
    addresses: &[IpAddr],
) -> Vec<String> {
    let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    vec![
        format!("--config={}", directory.join("kubelet.json").display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={node}"),
        format!("--node-ip={addresses}"),
    ]
}
