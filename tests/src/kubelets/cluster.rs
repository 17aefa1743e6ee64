//! All of it: nodes, control plane, and a client outside.

use std::{
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use super::{
    node::{KUBE_PROXY, KubeletNode, OF_NODES},
    parts::pack_pod_image,
};
use crate::{
    api_server::{ApiServer, User, apply, programs},
    lab::{Client, Host, NODES, Run, Topology, clean, pod_routes},
};

/// The cluster. It ends with the value.
pub struct Cluster {
    /// `n1` to `n3`. First, so that they end before what they need.
    pub nodes: Vec<KubeletNode>,
    controllers: Vec<Child>,
    /// On the LAN.
    pub api: ApiServer,
    topology: Topology,
    /// Last, so that what all have left is removed.
    run: Run,
}

/// Host number of the API server.
const API_SERVER: u8 = 9;
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// Those that tests need of the many.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,daemonset-controller,endpointslice-controller,\
     node-lifecycle-controller,taint-eviction-controller,serviceaccount-controller,\
     root-ca-certificate-publisher-controller,garbage-collector-controller";

impl Cluster {
    /// Starts all, and waits until the nodes are ready.
    ///
    /// # Errors
    /// Something does not start; with what it said.
    pub fn start() -> Result<Self> {
        clean()?;
        let run = Run::begin()?;
        let names = run.machines();
        let topology = Topology::build(names)?;
        let hosts: Vec<&Host> = topology.hosts.iter().take(NODES).collect();
        let users: Vec<String> = hosts.iter().map(|host| format!("system:node:{}", host.name)).collect();
        let mut known = vec![KUBE_PROXY];
        known.extend(users.iter().map(|name| User { name, group: OF_NODES }));
        let (machine, address) = topology.add_machine(names, "api", API_SERVER)?;
        for host in &hosts {
            pod_routes(&machine, host)?;
        }
        let api = ApiServer::start_for(&known, machine, address, names.directory().join("api"))?;
        let objects: Vec<Value> =
            hosts.iter().map(|host| node_object(host)).chain([slice_of(&api)]).collect();
        api.with_client(|client| async move {
            for object in &objects {
                apply(&client, object).await?;
            }
            Ok(())
        })?;
        let pods = names.directory().join("pod.tar");
        pack_pod_image(&pods)?;
        let images = [pods];
        let mut cluster = Self { nodes: Vec::new(), controllers: Vec::new(), api, topology, run };
        cluster.start_controllers()?;
        for host in cluster.topology.hosts.iter().take(NODES) {
            let node = KubeletNode::start(host, &cluster.api, cluster.run.machines(), &images)?;
            cluster.nodes.push(node);
        }
        cluster.wait_for_nodes().with_context(|| cluster.log())?;
        Ok(cluster)
    }

    /// On the LAN, and no node.
    pub fn client(&self) -> Result<&Client> {
        self.topology.clients.first().context("the lab has clients")
    }

    /// The place of a node, as if it were a client.
    pub fn client_at(&self, node: &KubeletNode) -> Result<Client> {
        let host = self.host(&node.name)?;
        let [v4, v6] = host.addresses();
        Ok(Client { name: node.name.clone(), namespace: node.namespace.clone(), v4, v6 })
    }

    /// Ends a node, as if its power and its cable were cut.
    ///
    /// # Errors
    /// There is no such node, or it has ended by itself.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.topology.lan.ip(&format!("link set {name} down"))?;
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.with_context(|| format!("there is no node {name}"))?.kill()
    }

    /// The last of what all programs have said.
    pub fn log(&self) -> String {
        self.nodes.iter().map(KubeletNode::log).collect()
    }

    fn host(&self, name: &str) -> Result<&Host> {
        let host = self.topology.hosts.iter().find(|host| host.name == name);
        host.with_context(|| format!("there is no node {name}"))
    }

    fn start_controllers(&mut self) -> Result<()> {
        let programs = programs().context("Kubernetes is not built")?;
        let kubeconfig = self.api.kubeconfig();
        let common = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
        ];
        let of_manager = [
            format!("--controllers={CONTROLLERS}"),
            format!("--root-ca-file={}", self.api.certificates().display()),
        ];
        let manager = [common.as_slice(), &of_manager].concat();
        for (name, arguments) in
            [("kube-controller-manager", manager.as_slice()), ("kube-scheduler", &common)]
        {
            let child = self.api.command(&programs.join(name), arguments)?;
            self.controllers.push(child);
        }
        Ok(())
    }

    fn wait_for_nodes(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let ready = self.api.with_client(|client| async move {
                let nodes = Api::<Node>::all(client).list(&ListParams::default()).await?;
                Ok(nodes.iter().filter(|node| is_ready(node)).count())
            })?;
            if ready == NODES {
                return Ok(());
            }
            self.nodes.iter_mut().try_for_each(KubeletNode::check)?;
            if begin.elapsed() > PATIENCE {
                bail!("{ready} of {NODES} nodes are ready");
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.controllers {
            // They have ended by themselves.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Before its kubelet: its pods' prefixes are not given by a controller, but those that its network has.
fn node_object(host: &Host) -> Value {
    let pods = host.pod_cidrs();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": host.name},
        "spec": {"podCIDR": pods[0], "podCIDRs": pods},
    })
}

/// Where the Service `kubernetes` leads to.
fn slice_of(api: &ApiServer) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": api.address().port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [api.address().ip()], "conditions": {"ready": true}}],
    })
}
