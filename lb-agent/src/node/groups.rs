//! Solicited-node multicast groups of IPv6 VIPs: a switch that snoops MLD sends solicitations only to who has joined (RFC 4541).

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv6Addr, UdpSocket},
};

/// Memberships, each as long as its socket is open. The programs see the frames; nothing is read from the sockets.
#[derive(Default)]
pub struct Groups {
    joined: BTreeMap<(Ipv6Addr, u32), UdpSocket>,
}

impl Groups {
    /// Joins the groups of these VIPs on these links (by ifindex), and leaves all others. What fails is tried again with the next
    /// call.
    pub fn set(&mut self, vips: impl Iterator<Item = (Ipv6Addr, u32)>) {
        let mut left = std::mem::take(&mut self.joined);
        for (vip, ifindex) in vips {
            match left.remove(&(vip, ifindex)).map_or_else(|| join(vip, ifindex), Ok) {
                Ok(socket) => {
                    self.joined.insert((vip, ifindex), socket);
                }
                Err(error) => {
                    tracing::warn!(%vip, ifindex, %error, "cannot join the solicited-node group: with MLD snooping, clients will not find the VIP here");
                }
            }
        }
    }
}

fn join(vip: Ipv6Addr, ifindex: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?;
    socket.join_multicast_v6(&solicited_node(vip), ifindex)?;
    Ok(socket)
}

/// RFC 4291 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a & 0xff, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_last_24_bits() {
        let address = Ipv6Addr::new(0x4037, 0, 0, 0, 1, 0x800, 0x200e, 0x8c6c);
        assert_eq!(solicited_node(address).to_string(), "ff02::1:ff0e:8c6c");
    }
}
