//! What a node says of itself: its links, and what it can do.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::layout::{ALGORITHM_VERSION, Mac};

use super::message::{MessageError, Reader, put_address};

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Counts the descriptions of a node: the generation of its agent, and the number of this description in it. Later is higher.
    pub version: (u64, u32),
    /// [`ALGORITHM_VERSION`] that it would use.
    pub algorithm: u32,
    /// Bits of [`capability`].
    pub capabilities: u32,
    /// Its links, at most [`MAX_LINKS`].
    pub links: Vec<LinkDescription>,
}

/// A link of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkDescription {
    /// Its name, at most [`MAX_NAME`] bytes.
    pub name: String,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses with their prefixes, at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpNet>,
}

/// What a node can do that not every version can.
pub mod capability {
    /// Answers its share of the clients of a VIP that is spread.
    pub const SPREAD: u32 = 1;
}

/// Longest name of a link (kernel: `IFNAMSIZ`, without the NUL).
pub const MAX_NAME: usize = 15;
/// Links that are described.
pub const MAX_LINKS: usize = 8;
/// Addresses of a link that are described.
pub const MAX_ADDRESSES: usize = 6;

impl Default for Description {
    /// Of a node of this version that has said nothing of its links.
    fn default() -> Self {
        Self {
            version: (0, 0),
            algorithm: ALGORITHM_VERSION,
            capabilities: capability::SPREAD,
            links: Vec::new(),
        }
    }
}

impl Description {
    /// The MAC of the link that has an address.
    pub fn mac_of(&self, address: IpAddr) -> Option<Mac> {
        let has_it = |link: &&LinkDescription| link.addresses.iter().any(|known| known.addr() == address);
        self.links.iter().find(has_it).map(|link| link.mac)
    }

    /// The networks of its links.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.links.iter().flat_map(|link| &link.addresses).map(IpNet::trunc)
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.version.0.to_be_bytes());
        bytes.extend(self.version.1.to_be_bytes());
        bytes.extend(self.algorithm.to_be_bytes());
        bytes.extend(self.capabilities.to_be_bytes());
        let links = &self.links[..self.links.len().min(MAX_LINKS)];
        bytes.push(links.len() as u8);
        for link in links {
            let name = &link.name[..link.name.floor_char_boundary(MAX_NAME)];
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
            bytes.extend(link.mac.octets());
            let addresses = &link.addresses[..link.addresses.len().min(MAX_ADDRESSES)];
            bytes.push(addresses.len() as u8);
            for address in addresses {
                put_address(bytes, address.addr());
                bytes.push(address.prefix_len());
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let version = (u64::from_be_bytes(reader.take()?), u32::from_be_bytes(reader.take()?));
        let algorithm = u32::from_be_bytes(reader.take()?);
        let capabilities = u32::from_be_bytes(reader.take()?);
        let count = reader.byte_up_to(MAX_LINKS, "number of links")?;
        let links = (0..count).map(|_| LinkDescription::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { version, algorithm, capabilities, links })
    }
}

impl LinkDescription {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let name = reader.text(MAX_NAME, "name of a link")?;
        let mac = Mac::from(reader.take::<6>()?);
        let count = reader.byte_up_to(MAX_ADDRESSES, "number of addresses")?;
        let address = |_| {
            let address = reader.address()?;
            let length = reader.byte()?;
            IpNet::new(address, length)
                .map_err(|_| MessageError::Unknown { what: "prefix length", value: length })
        };
        let addresses = (0..count).map(address).collect::<Result<_, _>>()?;
        Ok(Self { name, mac, addresses })
    }
}
