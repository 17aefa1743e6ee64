//! `--links FILE`: what each node's network looks like, for plans without that network. What stands there of other nodes is what they
//! would say of their links.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use lb_core::{
    liveness::{Description, LinkDescription},
    model::{Network, NodeLink, NodeName},
};
use serde::{Deserialize, Deserializer, de::Error as _};

/// What can go wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {message}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The decoder's words, with the line.
        message: String,
    },
    /// It has nothing of this node.
    #[error("{} has no links of node {node}: its nodes are {known}", path.display())]
    NoNode {
        /// The file.
        path: PathBuf,
        /// The node.
        node: NodeName,
        /// Those that it has.
        known: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Links {
    nodes: BTreeMap<String, Node>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    /// What it says of itself to others; if not given, the same as this program's.
    algorithm: Option<u32>,
    links: BTreeMap<String, Link>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    /// Of the NIC.
    ifindex: u32,
    /// Of the link, if that is another.
    device: Option<u32>,
    #[serde(default)]
    ports: BTreeSet<u32>,
    #[serde(default)]
    vlan: u16,
    mac: Mac,
    #[serde(default = "ethernet_mtu")]
    mtu: u32,
    prefixes: BTreeSet<IpNet>,
    #[serde(default)]
    neighbours: BTreeMap<IpAddr, Mac>,
}

/// A node's network.
///
/// # Errors
/// The file cannot be read or decoded, or has nothing of the node.
pub fn read(path: &Path, node: &NodeName) -> Result<Network, FileError> {
    let text =
        fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let mut links: Links = serde_saphyr::from_str(&text)
        .map_err(|error| FileError::Decode { path: path.to_owned(), message: error.to_string() })?;
    let Some(own) = links.nodes.remove(&*node.0) else {
        let known = links.nodes.into_keys().collect::<Vec<_>>().join(", ");
        return Err(FileError::NoNode { path: path.to_owned(), node: node.clone(), known });
    };
    let mut network = Network::default();
    for (name, link) in own.links {
        let Link { ifindex, device, ports, vlan, mac, mtu, prefixes, neighbours } = link;
        for (address, mac) in neighbours {
            network.neighbours.insert((name.clone(), address), mac.0);
        }
        let device = device.unwrap_or(ifindex);
        network.links.insert(name, NodeLink { ifindex, device, ports, vlan, mac: mac.0, mtu, prefixes });
    }
    for (peer, node) in links.nodes {
        network.algorithms.extend(node.algorithm.map(|version| (NodeName(peer.as_str().into()), version)));
        let links = node.links.into_iter();
        let links = links.map(|(name, link)| LinkDescription::new(name, link.mac.0.into(), link.prefixes));
        network.hear(NodeName(peer.into()), &Description::of(links.collect()));
    }
    Ok(network)
}

const fn ethernet_mtu() -> u32 {
    1500
}

#[derive(Clone, Copy)]
struct Mac([u8; 6]);

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_mac(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

/// Not a MAC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC like 02:00:00:00:00:01")]
pub struct MacError(String);

/// Six bytes in hexadecimal, with colons between.
///
/// # Errors
/// They are not.
pub fn parse_mac(text: &str) -> Result<[u8; 6], MacError> {
    let bytes: Vec<u8> = text.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mac = (text.split(':').count() == 6).then(|| bytes.try_into().ok()).flatten();
    mac.ok_or_else(|| MacError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    const LINKS: &str = "
nodes:
  n1:
    links:
      eth0:
        ifindex: 2
        mac: 02:00:00:00:00:01
        prefixes: [192.0.2.11/24]
        neighbours: {192.0.2.12: 02:00:00:00:00:02}
  n2:
    algorithm: 7
    links:
      bond0.100: {ifindex: 5, vlan: 100, mac: 02:00:00:00:00:02, prefixes: [192.0.2.12/24]}
";

    fn read_text(text: &str, node: &str) -> Result<Network, FileError> {
        let dir = tempfile::tempdir().map_err(|source| FileError::Read { path: "".into(), source })?;
        let path = dir.path().join("links.yaml");
        fs::write(&path, text).map_err(|source| FileError::Read { path: path.clone(), source })?;
        read(&path, &NodeName(node.into()))
    }

    #[test]
    fn a_node_has_its_links_and_neighbours() -> Done {
        let network = read_text(LINKS, "n1")?;
        let link = &network.links["eth0"];
        assert_eq!((link.ifindex, link.vlan, link.mtu), (2, 0, 1500));
        assert_eq!(link.mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(link.prefixes, BTreeSet::from(["192.0.2.11/24".parse()?]));
        let peer = network.neighbours[&("eth0".into(), "192.0.2.12".parse()?)];
        assert_eq!(peer, [2, 0, 0, 0, 0, 2]);
        let said = [("bond0.100".to_owned(), BTreeSet::from(["192.0.2.12/24".parse()?]))].into();
        assert_eq!(network.peers, [(NodeName("n2".into()), said)].into());
        assert_eq!(network.algorithms, [(NodeName("n2".into()), 7)].into());
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let unknown_node = read_text(LINKS, "n9").map(|_| ()).map_err(|error| error.to_string());
        assert!(
            unknown_node.is_err_and(|error| error.ends_with("has no links of node n9: its nodes are n1, n2"))
        );
        for (from, to, expected) in [
            ("mac: 02:00:00:00:00:01", "mac: 02:00", "is not a MAC"),
            ("ifindex: 2", "ifindex: two", "links.yaml"),
            ("prefixes", "prefix", "prefix"),
        ] {
            let result =
                read_text(&LINKS.replace(from, to), "n1").map(|_| ()).map_err(|error| error.to_string());
            let error = result.err().unwrap_or_else(|| format!("{to:?} is taken"));
            assert!(error.contains(expected), "{to:?}: {error}");
        }
    }
}
