//! What a node says of itself: its links, and what it can do.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::layout::{ALGORITHM_VERSION, MAX_SEGMENTS, Mac};

use super::message::{MAX_MESSAGE, MessageError, Reader, put_address};
use crate::legs::is_link_local;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Counts the descriptions of a node: the generation of its agent, and the number of this description in it. Later is higher.
    pub version: (u64, u32),
    /// [`ALGORITHM_VERSION`] that it would use.
    pub algorithm: u32,
    /// Bits of [`capability`].
    pub capabilities: u32,
    /// Its links, at most [`MAX_LINKS`] and as many as there is room for in a message.
    pub links: Vec<LinkDescription>,
    /// Whether it has more than these.
    pub has_more: bool,
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
pub const MAX_LINKS: usize = MAX_SEGMENTS as usize;
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
            has_more: false,
        }
    }
}

/// In the number of links: there are more.
const MORE: u8 = 0x80;

impl Description {
    /// Of these links, or the first of them if there is no room for all.
    pub fn of(links: Vec<LinkDescription>) -> Self {
        let mut description = Self { links, ..Self::default() };
        let said = description.room();
        description.has_more = said < description.links.len();
        description.links.truncate(said);
        description
    }

    /// For how many of the links there is room.
    fn room(&self) -> usize {
        let mut bytes = Vec::new();
        self.encode_head(&mut bytes);
        let fits = |link: &&LinkDescription| {
            link.encode(&mut bytes);
            // Before the number of links stands the kind of the message.
            bytes.len() + 2 <= MAX_MESSAGE
        };
        self.links.iter().take(MAX_LINKS).take_while(fits).count()
    }

    /// The MAC of the link that has an address.
    pub fn mac_of(&self, address: IpAddr) -> Option<Mac> {
        let has_it = |link: &&LinkDescription| link.addresses.iter().any(|known| known.addr() == address);
        self.links.iter().find(has_it).map(|link| link.mac)
    }

    /// The networks of its links.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.links.iter().flat_map(|link| &link.addresses).map(IpNet::trunc)
    }

    fn encode_head(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.version.0.to_be_bytes());
        bytes.extend(self.version.1.to_be_bytes());
        bytes.extend(self.algorithm.to_be_bytes());
        bytes.extend(self.capabilities.to_be_bytes());
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        self.encode_head(bytes);
        let links = &self.links[..self.room()];
        let has_more = self.has_more || links.len() < self.links.len();
        bytes.push(links.len() as u8 | if has_more { MORE } else { 0 });
        links.iter().for_each(|link| link.encode(bytes));
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let version = (u64::from_be_bytes(reader.take()?), u32::from_be_bytes(reader.take()?));
        let algorithm = u32::from_be_bytes(reader.take()?);
        let capabilities = u32::from_be_bytes(reader.take()?);
        let value = reader.byte()?;
        let (has_more, count) = (value & MORE != 0, value & !MORE);
        if usize::from(count) > MAX_LINKS {
            return Err(MessageError::Unknown { what: "number of links", value });
        }
        let links = (0..count).map(|_| LinkDescription::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { version, algorithm, capabilities, links, has_more })
    }
}

impl LinkDescription {
    /// Of a link with these addresses; those that say nothing of the network are left out.
    pub fn new(name: String, mac: Mac, addresses: impl IntoIterator<Item = IpNet>) -> Self {
        let addresses = addresses.into_iter().filter(|prefix| !is_link_local(prefix)).take(MAX_ADDRESSES);
        Self { name, mac, addresses: addresses.collect() }
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        let name = &self.name[..self.name.floor_char_boundary(MAX_NAME)];
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
        bytes.extend(self.mac.octets());
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        bytes.push(addresses.len() as u8);
        for address in addresses {
            put_address(bytes, address.addr());
            bytes.push(address.prefix_len());
        }
    }

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
