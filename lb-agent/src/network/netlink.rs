//! Links, addresses and neighbours from the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use ipnet::IpNet;
use lb_core::model::{Network, NodeLink};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags},
    link::LinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute},
};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};

use super::links::links;

/// What can go wrong with netlink.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("opening a netlink socket")]
    Open(#[source] std::io::Error),
    /// A request failed.
    #[error("netlink: {what}")]
    Request {
        /// What was asked.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<rtnetlink::Error>,
    },
}

/// The kernel's view of the network, and news of it.
pub struct Netlink {
    handle: Handle,
    news: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Of whom the MAC is wanted.
    peers: BTreeSet<IpAddr>,
    /// MACs as last known: a node that does not answer for a while is still where it was.
    known: BTreeMap<(String, IpAddr), [u8; 6]>,
    /// Names of links, by their own interface's index.
    devices: BTreeMap<u32, String>,
    /// Addresses of this node that another machine has.
    refused: BTreeSet<IpAddr>,
}

impl Netlink {
    /// Connects; needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect() -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, handle, news) =
            rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            news,
            peers: BTreeSet::new(),
            known: BTreeMap::new(),
            devices: BTreeMap::new(),
            refused: BTreeSet::new(),
        })
    }

    /// Of whom the MAC is wanted: the addresses of nodes.
    pub fn set_peers(&mut self, peers: BTreeSet<IpAddr>) {
        self.known.retain(|(_, address), _| peers.contains(address));
        self.peers = peers;
    }

    /// Waits for news that may change [`Self::network`].
    pub async fn changed(&mut self) {
        while let Some((message, _)) = self.news.next().await {
            if self.matters(&message) {
                return;
            }
        }
        // The connection has ended, which it does not while the handle lives: the periodic pass sees what it does not tell.
        std::future::pending::<()>().await;
    }

    fn matters(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        let NetlinkPayload::InnerMessage(message) = &message.payload else { return false };
        match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                let device = self.devices.get(&neighbour.header.ifindex);
                device.is_some_and(|link| is_news(neighbour, link, &self.peers, &self.known))
            }
            // What is known of a neighbour that the kernel forgets stays true.
            RouteNetlinkMessage::DelNeighbour(_) => false,
            _ => true,
        }
    }

    /// Links and neighbours as they are.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn network(&mut self) -> Result<Network, NetlinkError> {
        let interfaces = self.handle.link().get().execute();
        let interfaces: Vec<LinkMessage> =
            interfaces.try_collect().await.map_err(request("listing links"))?;
        let mut network = Network { links: links(&interfaces), ..Network::default() };
        let names: BTreeMap<u32, String> =
            network.links.iter().map(|(name, link)| (link.device, name.clone())).collect();
        let mut refused = BTreeSet::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(request("listing addresses"))? {
            let link = names.get(&message.header.index).and_then(|name| network.links.get_mut(name));
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            if let (Some(_), Some(address)) = (&link, address)
                && message.header.flags.contains(AddressHeaderFlags::Dadfailed)
            {
                // Another machine has it (RFC 4862, section 5.4): it is no address of this node.
                refused.insert(address);
                continue;
            }
            if let (Some(link), Some(address)) = (link, address) {
                link.prefixes.extend(IpNet::new(address, message.header.prefix_len));
            }
        }
        for address in refused.difference(&self.refused) {
            tracing::error!(%address, "another machine has an address of this node: the address is not used");
        }
        self.refused = refused;
        network.links.retain(|_, link| !link.prefixes.is_empty());
        for message in self.neighbours().await? {
            let (Some(name), Some(address), Some(mac)) =
                (names.get(&message.header.ifindex), destination(&message), mac(&message))
            else {
                continue;
            };
            if self.peers.contains(&address) {
                self.known.insert((name.clone(), address), mac);
            }
        }
        self.devices = names.into_iter().filter(|(_, name)| network.links.contains_key(name)).collect();
        self.known.retain(|(name, _), _| network.links.contains_key(name));
        network.neighbours = self.known.clone();
        Ok(network)
    }

    /// Has the kernel ask for the MACs of peers, where they are on a link's network; those that are known are confirmed. But for
    /// those that are `proven` otherwise.
    pub async fn resolve(&self, network: &Network, is_proven: impl Fn(&IpAddr) -> bool) {
        for (link, address) in self.on_link(network).filter(|(_, address)| !is_proven(address)) {
            self.ask(link.device, address).await;
        }
    }

    /// As [`Self::resolve`], and waits until all have answered, but not for ever: one of them may be dead.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn resolve_all(&mut self, wait: Duration) -> Result<Network, NetlinkError> {
        let network = self.network().await?;
        self.resolve(&network, |_| false).await;
        let all = async {
            loop {
                let network = self.network().await?;
                let missing = self.on_link(&network).filter(|(link, address)| {
                    !network.neighbours.iter().any(|((name, known), _)| {
                        known == address && network.links.get(name).is_some_and(|l| l.device == link.device)
                    })
                });
                if missing.count() == 0 {
                    return Ok(network);
                }
                self.changed().await;
            }
        };
        match tokio::time::timeout(wait, all).await {
            Ok(network) => network,
            Err(_) => self.network().await,
        }
    }

    /// The MAC by which an address is reached from here: its own, or its router's. Asks for it if it is not known.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn mac_towards(&self, address: IpAddr) -> Result<Option<[u8; 6]>, NetlinkError> {
        let route = match address {
            IpAddr::V4(v4) => {
                RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(v4, 32).build()
            }
            IpAddr::V6(v6) => {
                RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(v6, 128).build()
            }
        };
        let mut routes = self.handle.route().get(route).execute();
        let Some(route) = routes.try_next().await.map_err(request("looking up a route"))? else {
            return Ok(None);
        };
        let mut next_hop = address;
        let mut ifindex = 0;
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(v4)) => next_hop = IpAddr::V4(*v4),
                RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => next_hop = IpAddr::V6(*v6),
                RouteAttribute::Oif(index) => ifindex = *index,
                _ => {}
            }
        }
        // Half a second is enough for whoever is there.
        for _ in 0..10 {
            let neighbours = self.neighbours().await?;
            let found = neighbours
                .iter()
                .find(|n| n.header.ifindex == ifindex && destination(n) == Some(next_hop))
                .and_then(mac);
            if found.is_some() {
                return Ok(found);
            }
            self.ask(ifindex, next_hop).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(None)
    }

    fn on_link<'a>(&self, network: &'a Network) -> impl Iterator<Item = (&'a NodeLink, IpAddr)> + use<'a> {
        let peers = self.peers.clone();
        network.links.values().flat_map(move |link| {
            let is_there = |address: &IpAddr| {
                link.prefixes.iter().any(|p| p.contains(address))
                    && !link.prefixes.iter().any(|p| p.addr() == *address)
            };
            peers.iter().copied().filter(is_there).map(|address| (link, address)).collect::<Vec<_>>()
        })
    }

    async fn ask(&self, ifindex: u32, address: IpAddr) {
        let request = self.handle.neighbours().add(ifindex, address);
        let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        if let Err(error) = request.execute().await {
            tracing::debug!(%address, ifindex, %error, "the kernel does not ask for the neighbour");
        }
    }

    async fn neighbours(&self) -> Result<Vec<NeighbourMessage>, NetlinkError> {
        let neighbours = self.handle.neighbours().get().execute();
        neighbours.try_collect().await.map_err(request("listing neighbours"))
    }
}

/// Whether a peer has another MAC than was known. In a large cluster neighbours are confirmed and grow old all the time.
fn is_news(
    neighbour: &NeighbourMessage,
    link: &str,
    peers: &BTreeSet<IpAddr>,
    known: &BTreeMap<(String, IpAddr), [u8; 6]>,
) -> bool {
    let Some(address) = destination(neighbour).filter(|address| peers.contains(address)) else {
        return false;
    };
    mac(neighbour).is_some_and(|mac| known.get(&(link.to_owned(), address)) != Some(&mac))
}

fn request(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError::Request { what, source: Box::new(source) }
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

/// `None` of one that has not answered.
fn mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    if matches!(
        message.header.state,
        NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None
    ) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_neighbours_only_another_mac_of_a_peer_is_news() {
        let [peer, other] = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        let [known, new] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let told = |address: IpAddr, mac: [u8; 6], state| {
            let IpAddr::V4(address) = address else { panic!("{address} is not IPv4") };
            let mut message = NeighbourMessage::default();
            (message.header.family, message.header.ifindex, message.header.state) =
                (AddressFamily::Inet, 7, state);
            message.attributes = vec![
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
                NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
            ];
            is_news(&message, "eth0", &[peer].into(), &[(("eth0".to_owned(), peer), known)].into())
        };
        assert!(!told(peer, known, NeighbourState::Reachable));
        assert!(!told(peer, known, NeighbourState::Stale));
        assert!(told(peer, new, NeighbourState::Stale));
        assert!(!told(peer, new, NeighbourState::Failed));
        assert!(!told(other, new, NeighbourState::Reachable));
    }
}
