//! The objects of the lab's cluster: files, or in an API server.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    api_server::{ApiServer, apply, delete},
    manifests,
};

/// Where objects are: in a directory, a file for each, or in an API server.
pub struct Objects {
    dir: PathBuf,
    api: Option<ApiServer>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// Its node's name.
    pub node: String,
}

impl Objects {
    /// In a directory that is made if it is not there.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, api: None })
    }

    /// In an API server that has nothing yet.
    pub fn of_cluster(api: ApiServer) -> Result<Self> {
        api.with_client(|client| async move { manifests::apply(&client).await })?;
        Ok(Self { dir: PathBuf::new(), api: Some(api) })
    }

    /// The API server.
    pub fn api(&self) -> Result<&ApiServer> {
        self.api.as_ref().context("the objects of this lab are files")
    }

    /// The same, to end it and start it again.
    pub fn api_mut(&mut self) -> Result<&mut ApiServer> {
        self.api.as_mut().context("the objects of this lab are files")
    }

    /// The place of a file.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Writes or replaces a file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        // Not read: it begins with a point.
        let next = self.dir.join(format!(".{file}"));
        fs::write(&next, text)?;
        Ok(fs::rename(next, self.dir.join(file))?)
    }

    /// Writes or replaces an object.
    pub fn put(&self, object: &Value) -> Result<()> {
        if let Some(api) = &self.api {
            return api.with_client(|client| async move { apply(&client, object).await });
        }
        self.write(&file_name(object), &serde_json::to_string_pretty(object)?)
    }

    /// Removes an object.
    pub fn remove(&self, object: &Value) -> Result<()> {
        if let Some(api) = &self.api {
            return api.with_client(|client| async move { delete(&client, object).await });
        }
        Ok(fs::remove_file(self.dir.join(file_name(object)))?)
    }
}

fn file_name(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_lowercase();
    format!("{}-{}.json", text("/kind"), text("/metadata/name"))
}

/// A Node; those of the segment `lan` may own VIPs.
pub fn node(name: &str, addresses: &[IpAddr], pod_cidrs: &[String], segment: &str) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"segment": segment, "kubernetes.io/hostname": name}},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {"addresses": addresses},
    })
}

/// An IPAddressPool and an L2Advertisement for it.
pub fn pool(ranges: &[&str]) -> [Value; 2] {
    let metadata = json!({"name": "lab", "namespace": "metallb-system"});
    [
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": metadata, "spec": {"addresses": ranges},
        }),
        json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement",
            "metadata": metadata, "spec": {"nodeSelectors": [{"matchLabels": {"segment": "lan"}}]},
        }),
    ]
}

/// What is in the lab's Secret.
pub const SECRET: &str = "of this lab, and of nobody else";

/// The Secret with which nodes prove to each other that they belong together.
pub fn memberlist() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "memberlist", "namespace": "metallb-system"},
        "stringData": {"secretkey": SECRET},
    })
}

/// A Service with TCP and UDP at port 80, and the addresses that it asks for.
pub fn service(name: &str, addresses: &[IpAddr], annotations: &[(&str, &str)]) -> Value {
    let families: Vec<&str> = addresses.iter().map(|a| if a.is_ipv6() { "IPv6" } else { "IPv4" }).collect();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
    let addresses = addresses.join(",");
    annotations.insert("metallb.io/loadBalancerIPs", &addresses);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "type": "LoadBalancer", "ipFamilies": families,
            "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080},
                {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8080},
            ],
        },
    })
}

/// The EndpointSlice of a Service for a family.
pub fn slice(service: &str, is_v6: bool, endpoints: &[Endpoint]) -> Value {
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint.address], "nodeName": endpoint.node,
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [
            {"name": "tcp", "port": 8080, "protocol": "TCP"},
            {"name": "udp", "port": 8080, "protocol": "UDP"},
        ],
        "endpoints": endpoints,
    })
}
