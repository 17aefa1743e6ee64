//! What nodes tell each other, as bytes. Whoever opened the envelope knows from whom it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    description::Description,
    verdict::{Condition, Leg, Verdict},
};

/// What one node tells another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender has just begun to know the receiver. This is what it says of itself; it wants to be told everything.
    Hello(Description),
    /// The sender does not know what the receiver says of itself.
    Describe,
    /// What the sender says of itself.
    Description(Description),
    /// Asks for a burst of probes of a leg, and for what comes of it.
    Confirm {
        /// The leg.
        leg: Leg,
    },
    /// What came of a burst that was asked for.
    Found {
        /// The leg.
        leg: Leg,
        /// Whether it has answered.
        has_answered: bool,
    },
    /// Findings, the sender's own or of others.
    Verdicts(Vec<Verdict>),
    /// What SWIM tells, in foca's own encoding; at most [`MAX_SWIM`](super::MAX_SWIM) bytes.
    Swim(Vec<u8>),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// They end too soon.
    #[error("the message ends too soon")]
    Truncated,
    /// There is more than a message.
    #[error("{bytes} bytes follow the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A number stands for nothing.
    #[error("{value} is no {what}")]
    Unknown {
        /// What it should stand for.
        what: &'static str,
        /// The number.
        value: u8,
    },
    /// More findings of a leg than there can have been.
    #[error("{counter} findings of a leg are more than there can have been, {MOST_FINDINGS}")]
    Counter {
        /// How many.
        counter: u32,
    },
}

/// Findings of a leg at most: ten a second for six years. The next one can always be counted, or a leg could not change any more.
pub const MOST_FINDINGS: u32 = 1 << 31;

/// Longest message, in bytes: with its envelope it fits the smallest MTU of IPv6.
pub const MAX_MESSAGE: usize = 1_100;
/// Verdicts in one message at most: it fits the smallest MTU of IPv6 with its envelope.
pub const MAX_VERDICTS: usize = 44;

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const CONFIRM: u8 = 2;
    pub(super) const FOUND: u8 = 3;
    pub(super) const VERDICTS: u8 = 4;
    pub(super) const SWIM: u8 = 5;
    pub(super) const DESCRIBE: u8 = 6;
    pub(super) const DESCRIPTION: u8 = 7;
}

impl Message {
    /// The bytes; of verdicts no more than [`MAX_VERDICTS`].
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Hello(description) => {
                bytes.push(kind::HELLO);
                description.encode(&mut bytes);
            }
            Self::Describe => bytes.push(kind::DESCRIBE),
            Self::Description(description) => {
                bytes.push(kind::DESCRIPTION);
                description.encode(&mut bytes);
            }
            Self::Confirm { leg } => {
                bytes.push(kind::CONFIRM);
                put_address(&mut bytes, *leg);
            }
            Self::Found { leg, has_answered } => {
                bytes.push(kind::FOUND);
                put_address(&mut bytes, *leg);
                bytes.push(u8::from(*has_answered));
            }
            Self::Verdicts(verdicts) => {
                bytes.push(kind::VERDICTS);
                let verdicts = &verdicts[..verdicts.len().min(MAX_VERDICTS)];
                bytes.push(verdicts.len() as u8);
                for verdict in verdicts {
                    put_address(&mut bytes, verdict.leg);
                    bytes.extend(verdict.counter.to_be_bytes());
                    bytes.push(verdict.condition as u8);
                    bytes.push(verdict.falls);
                }
            }
            Self::Swim(swim) => {
                bytes.push(kind::SWIM);
                bytes.extend(swim);
            }
        }
        bytes
    }

    /// The message that stands in bytes.
    ///
    /// # Errors
    /// They are no message of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader { bytes };
        let message = match reader.byte()? {
            kind::HELLO => Self::Hello(Description::decode(&mut reader)?),
            kind::DESCRIBE => Self::Describe,
            kind::DESCRIPTION => Self::Description(Description::decode(&mut reader)?),
            kind::CONFIRM => Self::Confirm { leg: reader.address()? },
            kind::FOUND => Self::Found { leg: reader.address()?, has_answered: reader.truth()? },
            kind::VERDICTS => {
                let count = reader.byte()?;
                let verdicts: Result<Vec<Verdict>, MessageError> =
                    (0..count).map(|_| reader.verdict()).collect();
                Self::Verdicts(verdicts?)
            }
            kind::SWIM => Self::Swim(std::mem::take(&mut reader.bytes).to_vec()),
            value => return Err(MessageError::Unknown { what: "message", value }),
        };
        match (&message, reader.bytes.len()) {
            // What a later version says of itself beyond that is for those that know it.
            (_, 0) | (Self::Hello(_) | Self::Description(_), _) => Ok(message),
            (_, bytes) => Err(MessageError::Trailing { bytes }),
        }
    }
}

pub(super) fn put_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            bytes.push(4);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(6);
            bytes.extend(v6.octets());
        }
    }
}

/// Bytes that are left to read.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(MessageError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, MessageError> {
        self.take().map(|[byte]| byte)
    }

    /// A number that must not be higher.
    pub(super) fn byte_up_to(&mut self, most: usize, what: &'static str) -> Result<u8, MessageError> {
        let value = self.byte()?;
        if usize::from(value) > most { Err(MessageError::Unknown { what, value }) } else { Ok(value) }
    }

    /// A text after its length.
    pub(super) fn text(&mut self, most: usize, what: &'static str) -> Result<String, MessageError> {
        let length = self.byte_up_to(most, what)?;
        let (text, rest) = self.bytes.split_at_checked(usize::from(length)).ok_or(MessageError::Truncated)?;
        self.bytes = rest;
        let text = str::from_utf8(text).map_err(|_| MessageError::Unknown { what, value: length })?;
        Ok(text.to_owned())
    }

    fn truth(&mut self) -> Result<bool, MessageError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(MessageError::Unknown { what: "truth", value }),
        }
    }

    pub(super) fn address(&mut self) -> Result<IpAddr, MessageError> {
        match self.byte()? {
            4 => Ok(Ipv4Addr::from(self.take::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.take::<16>()?).into()),
            value => Err(MessageError::Unknown { what: "address family", value }),
        }
    }

    fn verdict(&mut self) -> Result<Verdict, MessageError> {
        Ok(Verdict {
            leg: self.address()?,
            counter: match u32::from_be_bytes(self.take()?) {
                counter if counter > MOST_FINDINGS => return Err(MessageError::Counter { counter }),
                counter => counter,
            },
            condition: match self.byte()? {
                0 => Condition::Answering,
                1 => Condition::Returning,
                2 => Condition::Leaving,
                3 => Condition::Yielding,
                4 => Condition::Absent,
                5 => Condition::Silent,
                value => return Err(MessageError::Unknown { what: "condition", value }),
            },
            falls: self.byte()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::{
        super::{
            MAX_SWIM,
            description::{LinkDescription, MAX_ADDRESSES, MAX_LINKS},
        },
        *,
    };

    fn leg() -> impl Strategy<Value = Leg> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        let condition = prop_oneof![
            Just(Condition::Answering),
            Just(Condition::Returning),
            Just(Condition::Leaving),
            Just(Condition::Yielding),
            Just(Condition::Absent),
            Just(Condition::Silent)
        ];
        (leg(), 0..=MOST_FINDINGS, condition, any::<u8>())
            .prop_map(|(leg, counter, condition, falls)| Verdict { leg, counter, condition, falls })
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (leg(), 0..=32_u8).prop_map(|(address, length)| IpNet::new_assert(address, length))
    }

    fn description() -> impl Strategy<Value = Description> {
        let link =
            ("[a-z0-9.@]{0,15}", any::<[u8; 6]>(), prop::collection::vec(network(), 0..=MAX_ADDRESSES))
                .prop_map(|(name, mac, addresses)| LinkDescription { name, mac: mac.into(), addresses });
        let links = prop::collection::vec(link, 0..=MAX_LINKS);
        (any::<(u64, u32)>(), any::<u32>(), any::<u32>(), links).prop_map(
            |(version, algorithm, capabilities, links)| Description {
                version,
                algorithm,
                capabilities,
                ..Description::of(links)
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            description().prop_map(Message::Hello),
            Just(Message::Describe),
            description().prop_map(Message::Description),
            leg().prop_map(|leg| Message::Confirm { leg }),
            (leg(), any::<bool>()).prop_map(|(leg, has_answered)| Message::Found { leg, has_answered }),
            prop::collection::vec(verdict(), 0..=MAX_VERDICTS).prop_map(Message::Verdicts),
            prop::collection::vec(any::<u8>(), 0..MAX_SWIM).prop_map(Message::Swim),
        ]
    }

    /// As many links as a node has segments, with names as VLAN devices have them.
    fn links(count: usize, addresses: &[&str]) -> Vec<LinkDescription> {
        let of = |number| {
            let addresses = addresses.iter().filter_map(|address| address.parse().ok());
            LinkDescription::new(format!("bond0.{number}"), [2; 6].into(), addresses)
        };
        (1_000..1_000 + count).map(of).collect()
    }

    #[test]
    fn a_node_with_all_segments_that_there_can_be_has_room_for_its_links() {
        let description = Description::of(links(MAX_LINKS, &["192.0.2.10/24", "fe80::10/64"]));
        assert_eq!((description.links.len(), description.has_more), (32, false));
        let description = Description::of(links(24, &["192.0.2.10/24", "2001:db8::10/64"]));
        assert_eq!((description.links.len(), description.has_more), (24, false));
        let message = Message::Description(description);
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn a_node_with_more_links_than_there_is_room_for_says_so() {
        for (count, addresses) in
            [(MAX_LINKS, vec!["192.0.2.10/24", "2001:db8::10/64"]), (MAX_LINKS + 1, vec!["192.0.2.10/24"])]
        {
            let all = links(count, &addresses);
            let cut = Description::of(all.clone());
            assert!(cut.has_more && cut.links.len() < count && all.starts_with(&cut.links));
            let whole = Description { links: all, ..Description::default() };
            let bytes = Message::Description(whole).encode();
            assert!(bytes.len() <= MAX_MESSAGE, "{} bytes", bytes.len());
            assert_eq!(Message::decode(&bytes), Ok(Message::Description(cut)));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(message in message()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX_MESSAGE, "{} bytes", bytes.len());
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn a_part_or_more_than_a_message_is_none(message in message(), cut in any::<prop::sample::Index>()) {
            prop_assume!(!matches!(message, Message::Swim(_)), "how long it is, foca knows");
            let mut bytes = message.encode();
            let cut = cut.index(bytes.len());
            prop_assert!(Message::decode(&bytes[..cut]).is_err());
            bytes.push(0);
            // A later version may say more of itself.
            let expected = match &message {
                Message::Hello(_) | Message::Description(_) => Ok(message),
                _ => Err(MessageError::Trailing { bytes: 1 }),
            };
            prop_assert_eq!(Message::decode(&bytes), expected);
        }

        #[test]
        fn a_finding_after_which_none_could_be_counted_is_none(verdict in verdict(), counter in MOST_FINDINGS + 1..) {
            let bytes = Message::Verdicts(vec![Verdict { counter, ..verdict }]).encode();
            prop_assert_eq!(Message::decode(&bytes), Err(MessageError::Counter { counter }));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
        }
    }
}
