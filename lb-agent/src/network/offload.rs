//! Receive offload of VLAN tags: a NIC that takes the tag out of a frame does so before XDP sees it, and programs take the frame for
//! one without a tag. So it is turned off where VLANs are served.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use lb_core::{legs::is_link_local, model::Network};

/// Why a NIC goes on taking VLAN tags out of frames, perhaps.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// There is no such NIC any more.
    #[error("no NIC with index {ifindex}")]
    Gone {
        /// Its index.
        ifindex: u32,
    },
    /// The kernel cannot be asked, or refuses.
    #[error("{what} rx-vlan-offload of {name}: {source}")]
    Request {
        /// `reading` or `turning off`.
        what: &'static str,
        /// The NIC.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It was turned off, and is still on.
    #[error("rx-vlan-offload of {name} stays on")]
    StaysOn {
        /// The NIC.
        name: String,
    },
}

/// Leaves out VLAN links whose NIC goes on taking tags out of frames, for their frames would be taken for those of the NIC itself:
/// by name, what is to be said of each. `keep_tags` is [`keep_tags()`]. VLAN devices that nobody has given an address are no reason
/// to touch a NIC.
pub fn leave_out_untagged(
    network: &mut Network,
    keep_tags: impl Fn(u32) -> Result<(), OffloadError>,
) -> BTreeMap<String, String> {
    let mut asked: BTreeMap<u32, Option<String>> = BTreeMap::new();
    let mut left_out = BTreeMap::new();
    network.links.retain(|name, link| {
        if link.vlan == 0 || link.prefixes.iter().all(is_link_local) {
            return true;
        }
        // A bond receives nothing itself.
        let receivers = if link.ports.is_empty() { vec![link.ifindex] } else { Vec::from_iter(link.ports.clone()) };
        let why = receivers.into_iter().find_map(|receiver| {
            let answer = asked.entry(receiver).or_insert_with(|| keep_tags(receiver).err().map(|why| why.to_string()));
            answer.clone()
        });
        let Some(why) = why else { return true };
        let what = format!(
            "link {name} is not served: {why}. Programs would take frames of VLAN {} for frames without a tag. Turn it off with \
             ethtool -K NIC rx-vlan-offload off, or use a NIC that can",
            link.vlan
        );
        left_out.insert(name.clone(), what);
        false
    });
    network.neighbours.retain(|(link, _), _| !left_out.contains_key(link));
    left_out
}

/// Has a NIC leave VLAN tags in the frames that it receives. It stays so, also when programs are taken off.
///
/// # Errors
/// It goes on taking them out, or cannot be asked.
pub fn keep_tags(ifindex: u32) -> Result<(), OffloadError> {
    let mut nic = Nic::open(ifindex)?;
    let flags = nic.flags()?;
    if flags & RX_VLAN == 0 {
        return Ok(());
    }
    nic.set_flags(flags & !RX_VLAN)?;
    if nic.flags()? & RX_VLAN != 0 {
        return Err(OffloadError::StaysOn { name: nic.name });
    }
    tracing::info!(nic = nic.name, "rx-vlan-offload is off now: a VLAN of this NIC is served");
    Ok(())
}

/// `ETH_FLAG_RXVLAN` of `linux/ethtool.h`.
const RX_VLAN: u32 = 1 << 8;
/// `ETHTOOL_GFLAGS` and `ETHTOOL_SFLAGS`.
const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// A NIC that is asked by `SIOCETHTOOL`: no crate can set features by netlink.
struct Nic {
    name: String,
    request: libc::ifreq,
    socket: OwnedFd,
}

impl Nic {
    fn open(ifindex: u32) -> Result<Self, OffloadError> {
        // SAFETY: an all-zero request is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the buffer is as long as a name may be, and outlives the call.
        if unsafe { libc::if_indextoname(ifindex, request.ifr_name.as_mut_ptr()) }.is_null() {
            return Err(OffloadError::Gone { ifindex });
        }
        // SAFETY: the call has written a name and its end.
        let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) }.to_string_lossy().into_owned();
        // SAFETY: the call takes numbers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(OffloadError::Request { what: "reading", name, source: io::Error::last_os_error() });
        }
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(Self { name, request, socket: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn flags(&mut self) -> Result<u32, OffloadError> {
        self.ask("reading", GET_FLAGS, 0)
    }

    fn set_flags(&mut self, flags: u32) -> Result<(), OffloadError> {
        self.ask("turning off", SET_FLAGS, flags).map(drop)
    }

    fn ask(&mut self, what: &'static str, command: u32, data: u32) -> Result<u32, OffloadError> {
        let mut value = EthtoolValue { command, data };
        self.request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: both commands take an interface's name and a `struct ethtool_value`, and both outlive the call.
        let done =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut self.request) };
        if done < 0 {
            let source = io::Error::last_os_error();
            return Err(OffloadError::Request { what, name: self.name.clone(), source });
        }
        Ok(value.data)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use lb_core::model::NodeLink;

    use super::*;

    fn link(ifindex: u32, ports: &[u32], vlan: u16, prefix: &str) -> NodeLink {
        NodeLink {
            ifindex,
            device: ifindex + u32::from(vlan),
            ports: ports.iter().copied().collect(),
            vlan,
            mac: [2; 6],
            mtu: 1500,
            prefixes: prefix.parse().into_iter().collect(),
        }
    }

    #[test]
    fn a_vlan_link_is_left_out_if_a_nic_below_it_takes_tags_out_of_frames() {
        let links = [
            ("bond0", link(7, &[3, 4], 0, "192.0.2.1/24")),
            ("bond0.100", link(7, &[3, 4], 100, "198.51.100.1/24")),
            ("bond0.200", link(7, &[3, 4], 200, "203.0.113.1/24")),
            ("eth5", link(5, &[], 0, "10.0.5.1/24")),
            ("eth6.100", link(6, &[], 100, "10.0.6.1/24")),
            ("eth8.100", link(8, &[], 100, "fe80::1/64")),
        ];
        let links: BTreeMap<String, NodeLink> =
            links.into_iter().map(|(name, link)| (name.to_owned(), link)).collect();
        let neighbours =
            ["bond0.100", "eth6.100"].map(|name| ((name.to_owned(), [10, 0, 6, 2].into()), [2; 6]));
        let before = Network { links, neighbours: neighbours.into(), ..Network::default() };

        let asked = RefCell::new(Vec::new());
        let mut network = before.clone();
        let keeps = |nic| {
            asked.borrow_mut().push(nic);
            Ok(())
        };
        assert_eq!(leave_out_untagged(&mut network, keeps), BTreeMap::new());
        assert_eq!(network, before);
        assert_eq!(*asked.borrow(), [3, 4, 6], "each NIC below a VLAN with an address once, and no other");

        let strips = |nic| match nic {
            4 => Err(OffloadError::StaysOn { name: "eth4".to_owned() }),
            _ => Ok(()),
        };
        let left_out = leave_out_untagged(&mut network, strips);
        assert_eq!(left_out.keys().collect::<Vec<_>>(), ["bond0.100", "bond0.200"]);
        assert!(
            left_out["bond0.100"]
                .starts_with("link bond0.100 is not served: rx-vlan-offload of eth4 stays on.")
        );
        let left: BTreeSet<&str> = network.links.keys().map(String::as_str).collect();
        assert_eq!(left, ["bond0", "eth5", "eth6.100", "eth8.100"].into());
        assert_eq!(network.neighbours.keys().map(|(link, _)| link).collect::<Vec<_>>(), ["eth6.100"]);
    }

    #[test]
    fn a_nic_that_is_gone_is_named() {
        let refused = keep_tags(u32::MAX).err().map(|error| error.to_string());
        assert_eq!(refused.as_deref(), Some("no NIC with index 4294967295"));
    }
}
