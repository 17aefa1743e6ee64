//! The envelope of gossip: who sent a message, that nobody has changed it, and that it is new.
//!
//! Keys come from Secret `memberlist` by HKDF-SHA-256 (RFC 5869): one for each sender and start of its agent, so that a counter is
//! nonce enough for AES-256-GCM (RFC 5116). In the clear, and authenticated: version, key id, boot, counter, sender.

use std::collections::BTreeMap;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use lb_core::model::{GossipSecret, NodeName};

const VERSION: u8 = 1;
/// Version, key id, boot, counter, length of the sender's name.
const FIXED: usize = 1 + 1 + 8 + 8 + 1;
const TAG: usize = 16;
const KEY: usize = 32;
const SALT: &[u8] = b"magnetite gossip 1";

/// Why an envelope is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum OpenError {
    /// Shorter than any envelope, or than it says.
    #[error("truncated")]
    Truncated,
    /// Of another version.
    #[error("of another version")]
    Version,
    /// Sealed with a secret that this node does not have.
    #[error("sealed with another secret")]
    Secret,
    /// From a node that is not in the cluster.
    #[error("from a stranger")]
    Stranger,
    /// From before the sender's agent was started again.
    #[error("of an old generation")]
    OldBoot,
    /// It was here before, or is too old to tell.
    #[error("replayed")]
    Replayed,
    /// Changed on its way, or made by somebody else.
    #[error("forged")]
    Forged,
}

impl OpenError {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Truncated,
        Self::Version,
        Self::Secret,
        Self::Stranger,
        Self::OldBoot,
        Self::Replayed,
        Self::Forged,
    ];

    /// In metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Version => "version",
            Self::Secret => "secret",
            Self::Stranger => "stranger",
            Self::OldBoot => "old-generation",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
        }
    }
}

/// Seals this node's messages.
pub struct Sealer {
    sender: NodeName,
    boot: u64,
    counter: u64,
    id: u8,
    key: LessSafeKey,
}

/// Opens those of others.
pub struct Opener {
    /// With their ids, which may be equal.
    secrets: Vec<(u8, Prk)>,
    senders: BTreeMap<NodeName, Option<Sender>>,
}

/// A message, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The sender.
    pub sender: NodeName,
    /// When its agent began: the number grows with every start.
    pub boot: u64,
    /// Counts its messages since.
    pub counter: u64,
    /// What it says.
    pub payload: Vec<u8>,
}

struct Sender {
    boot: u64,
    /// Of all secrets together.
    window: Window,
    /// By the place of its secret, as long as secrets stay.
    key: Option<(usize, LessSafeKey)>,
}

/// Counters that were seen: the highest, and which of the [`WIDTH`] up to it (RFC 6479). A sender counts once for all that it tells: between
/// two datagrams for one receiver, by different legs, there may be hundreds.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

const WORDS: usize = 32;
/// A word less than there is room for: the one of the highest is not full.
const WIDTH: u64 = 64 * (WORDS as u64 - 1);

impl Sealer {
    /// For this node; `boot` is greater than at any earlier start of its agent. While the agent runs there is one, for all secrets:
    /// see [`Self::set_secret`].
    pub fn new(secret: &GossipSecret, sender: NodeName, boot: u64) -> Option<Self> {
        let prk = prk(&secret.current);
        let key = sender_key(&prk, &sender, boot)?;
        Some(Self { id: id(&prk)?, key, sender, boot, counter: 0 })
    }

    /// Seals with another secret from now on. It goes on counting: a secret that comes back must not see a counter twice, for that is
    /// the nonce, and others have one window for all secrets. Nothing changes, and the answer is `false`, if no key can be derived.
    pub fn set_secret(&mut self, secret: &GossipSecret) -> bool {
        let Some(new) = Self::new(secret, self.sender.clone(), self.boot) else { return false };
        *self = Self { counter: self.counter, ..new };
        true
    }

    /// The payload in its envelope; `None` for a name that no node can have.
    pub fn seal(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        self.counter += 1;
        let mut bytes = vec![VERSION, self.id];
        bytes.extend(self.boot.to_be_bytes());
        bytes.extend(self.counter.to_be_bytes());
        bytes.push(u8::try_from(self.sender.0.len()).ok()?);
        bytes.extend(self.sender.0.as_bytes());
        let mut sealed = payload.to_vec();
        let aad = Aad::from(&bytes);
        self.key.seal_in_place_append_tag(nonce(self.counter), aad, &mut sealed).ok()?;
        bytes.extend(sealed);
        Some(bytes)
    }
}

impl Opener {
    /// Opens what is sealed with the secret of now or before.
    pub fn new(secret: &GossipSecret) -> Self {
        Self { secrets: prks(secret), senders: BTreeMap::new() }
    }

    /// Opens with these from now on. What was heard is not heard again, for what is sealed with a secret that stays is still opened.
    pub fn set_secret(&mut self, secret: &GossipSecret) {
        self.secrets = prks(secret);
        for sender in self.senders.values_mut().flatten() {
            sender.key = None;
        }
    }

    /// Opens messages of these nodes alone.
    pub fn set_members<'a>(&mut self, members: impl Iterator<Item = &'a NodeName>) {
        let mut known = std::mem::take(&mut self.senders);
        self.senders = members.map(|node| (node.clone(), known.remove(node).flatten())).collect();
    }

    /// Opens an envelope.
    ///
    /// # Errors
    /// It is none, is not from who it says, or has been here before.
    pub fn open(&mut self, bytes: &[u8]) -> Result<Opened, OpenError> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>().ok_or(OpenError::Truncated)?;
        let [version, key_id, numbers @ .., length] = *fixed;
        if version != VERSION {
            return Err(OpenError::Version);
        }
        let number = |at: usize| numbers[at..at + 8].iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let (boot, counter) = (number(0), number(8));
        let (name, sealed) = rest.split_at_checked(usize::from(length)).ok_or(OpenError::Truncated)?;
        if sealed.len() < TAG {
            return Err(OpenError::Truncated);
        }
        let sender = NodeName(std::str::from_utf8(name).map_err(|_| OpenError::Stranger)?.into());
        let known = self.senders.get_mut(&sender).ok_or(OpenError::Stranger)?;
        let mut secrets = self.secrets.iter().enumerate().filter(|(_, (id, _))| *id == key_id).peekable();
        if secrets.peek().is_none() {
            return Err(OpenError::Secret);
        }
        let current = match known {
            Some(known) if boot < known.boot => return Err(OpenError::OldBoot),
            Some(known) if boot == known.boot => Some(known),
            _ => None,
        };
        let (mut window, cached) =
            current.map_or((Window::default(), None), |known| (known.window, known.key.as_ref()));
        if !window.is_new(counter) {
            return Err(OpenError::Replayed);
        }

        let aad = &bytes[..FIXED + usize::from(length)];
        let open = |key: &LessSafeKey| {
            let mut payload = sealed.to_vec();
            let length = key.open_in_place(nonce(counter), Aad::from(aad), &mut payload).ok()?.len();
            payload.truncate(length);
            Some(payload)
        };
        // An id is a byte: two secrets may have the same.
        let (payload, derived) = secrets
            .find_map(|(place, (_, prk))| match cached {
                Some((of, key)) if *of == place => Some((open(key)?, None)),
                _ => {
                    let key = sender_key(prk, &sender, boot)?;
                    Some((open(&key)?, Some((place, key))))
                }
            })
            .ok_or(OpenError::Forged)?;
        window.take(counter);
        let key = derived.or_else(|| known.take().and_then(|known| known.key));
        *known = Some(Sender { boot, window, key });
        Ok(Opened { sender, boot, counter, payload })
    }
}

impl Window {
    fn is_new(&self, counter: u64) -> bool {
        match self.highest.checked_sub(counter) {
            None => true,
            Some(age) => age < WIDTH && self.seen[word(counter)] >> (counter % 64) & 1 == 0,
        }
    }

    fn take(&mut self, counter: u64) {
        for skipped in (self.highest / 64 + 1..=counter / 64).take(WORDS) {
            self.seen[word(64 * skipped)] = 0;
        }
        self.highest = self.highest.max(counter);
        self.seen[word(counter)] |= 1 << (counter % 64);
    }
}

fn word(counter: u64) -> usize {
    (counter / 64 % WORDS as u64) as usize
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn prk(secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, SALT).extract(secret)
}

fn prks(secret: &GossipSecret) -> Vec<(u8, Prk)> {
    let secrets = [Some(&secret.current), secret.previous.as_ref()].into_iter().flatten();
    let prks = secrets.map(|secret| prk(secret));
    prks.filter_map(|prk| Some((id(&prk)?, prk))).collect()
}

fn expand<const N: usize>(prk: &Prk, info: &[&[u8]]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    prk.expand(info, Bytes(N)).ok()?.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Tells secrets apart, and nothing of them.
fn id(prk: &Prk) -> Option<u8> {
    expand::<1>(prk, &[b"id"]).map(|[id]| id)
}

fn sender_key(prk: &Prk, sender: &NodeName, boot: u64) -> Option<LessSafeKey> {
    let key = expand::<KEY>(prk, &[b"sender", &boot.to_be_bytes(), sender.0.as_bytes()])?;
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?))
}

/// Unique for a key: the counter of its only sender.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(current: &[u8], previous: Option<&[u8]>) -> GossipSecret {
        GossipSecret { current: current.to_vec(), previous: previous.map(<[u8]>::to_vec) }
    }

    fn name(name: &str) -> NodeName {
        NodeName(name.into())
    }

    fn sealer(secret: &GossipSecret, boot: u64) -> Sealer {
        Sealer::new(secret, name("n1"), boot).expect("a key")
    }

    fn opener(secret: &GossipSecret) -> Opener {
        let mut opener = Opener::new(secret);
        opener.set_members([name("n1"), name("n2")].iter());
        opener
    }

    const ONE: &[u8] = b"the first of all secrets";
    const TWO: &[u8] = b"the second of all secrets";

    #[test]
    fn what_is_sealed_is_opened_once() {
        let one = secret(ONE, None);
        let (mut sealer, mut opener) = (sealer(&one, 7), opener(&one));
        let sealed: Vec<Vec<u8>> = (0..3).filter_map(|n| sealer.seal(&[n; 10])).collect();
        for n in [2, 0, 1] {
            let opened = opener.open(&sealed[usize::from(n)]);
            let expected =
                Opened { sender: name("n1"), boot: 7, counter: u64::from(n) + 1, payload: vec![n; 10] };
            assert_eq!(opened, Ok(expected));
        }
        for bytes in &sealed {
            assert_eq!(opener.open(bytes), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn old_generations_and_what_is_too_old_are_refused() {
        let one = secret(ONE, None);
        let mut opener = opener(&one);
        let (mut before, mut now) = (sealer(&one, 7), sealer(&one, 8));
        let old = before.seal(b"old").unwrap_or_default();
        let first = now.seal(b"first").unwrap_or_default();
        let later: Vec<Vec<u8>> = (0..WIDTH).filter_map(|_| now.seal(b"later")).collect();
        let last = later.len() - 1;
        assert!(opener.open(&later[last]).is_ok());
        assert_eq!(opener.open(&first), Err(OpenError::Replayed), "too far behind the highest");
        assert!(later[..last].iter().all(|bytes| opener.open(bytes).is_ok()), "in whatever order");
        assert!(later.iter().all(|bytes| opener.open(bytes) == Err(OpenError::Replayed)));
        assert_eq!(opener.open(&old), Err(OpenError::OldBoot));
        // After a leap nothing of before is taken for new, and the window is empty.
        now.counter += 10 * WIDTH;
        let leap = now.seal(b"leap").unwrap_or_default();
        now.counter -= WIDTH / 2;
        let between = now.seal(b"between").unwrap_or_default();
        assert!(opener.open(&leap).is_ok() && opener.open(&between).is_ok());
        assert_eq!([&leap, &between, &later[last]].map(|bytes| opener.open(bytes).is_err()), [true; 3]);
    }

    #[test]
    fn a_secret_is_changed_in_two_steps_while_nodes_talk() {
        // Each node reads each step at its own time, but no step begins before all have read the one before.
        let steps = [secret(ONE, None), secret(ONE, Some(TWO)), secret(TWO, Some(ONE)), secret(TWO, None)];
        let (mut early_sealer, mut late_sealer) = (sealer(&steps[0], 7), sealer(&steps[0], 7));
        let (mut early, mut late) = (opener(&steps[0]), opener(&steps[0]));
        for step in &steps {
            assert!(early_sealer.set_secret(step));
            early.set_secret(step);
            for _ in 0..3 {
                let sealed = early_sealer.seal(b"x").unwrap_or_default();
                assert!(late.open(&sealed).is_ok(), "the late one hears the early one");
                let sealed = late_sealer.seal(b"x").unwrap_or_default();
                assert!(early.open(&sealed).is_ok(), "the early one hears the late one");
            }
            assert!(late_sealer.set_secret(step));
            late.set_secret(step);
        }
        let old = Sealer::new(&steps[0], name("n2"), 7).and_then(|mut sealer| sealer.seal(b"x"));
        assert_eq!(early.open(&old.unwrap_or_default()), Err(OpenError::Secret));
    }

    #[test]
    fn a_secret_that_changes_or_comes_back_lets_nothing_be_heard_again() {
        let (one, both, two) = (secret(ONE, None), secret(TWO, Some(ONE)), secret(TWO, None));
        let (mut before, mut sealer) = (sealer(&one, 6), sealer(&one, 7));
        let old = before.seal(b"old").unwrap_or_default();
        let mut said: Vec<Vec<u8>> = (0..70).filter_map(|_| sealer.seal(b"x")).collect();
        let mut opener = opener(&one);
        assert!(said.iter().all(|sealed| opener.open(sealed).is_ok()));
        for secret in [&both, &one, &two, &both, &one] {
            opener.set_secret(secret);
            opener.set_members([name("n1"), name("n2")].iter());
            assert!(sealer.set_secret(secret));
            for sealed in &said {
                assert!(matches!(opener.open(sealed), Err(OpenError::Replayed | OpenError::Secret)));
            }
            assert!(matches!(opener.open(&old), Err(OpenError::OldBoot | OpenError::Secret)));
            let sealed = sealer.seal(b"x").unwrap_or_default();
            assert!(opener.open(&sealed).is_ok(), "what is new is heard");
            assert!(
                said.iter().all(|earlier| earlier[..18] != sealed[..18]),
                "a nonce is used once for a key"
            );
            said.push(sealed);
        }
    }

    #[test]
    fn secrets_whose_ids_are_equal_are_told_apart() {
        let of = |n: u32| format!("secret number {n:10}").into_bytes();
        let id_of = |n| id(&prk(&of(n)));
        let twin = (1..10_000).find(|n| id_of(*n) == id_of(0)).expect("one of 256 has the same");
        let (old, new) = (secret(&of(0), None), secret(&of(twin), None));
        let both = secret(&of(twin), Some(&of(0)));
        let (mut n1, mut n2) = (sealer(&old, 7), Sealer::new(&new, name("n2"), 7).expect("a key"));
        let mut opener = opener(&both);
        for sealer in [&mut n1, &mut n2] {
            for _ in 0..3 {
                assert!(opener.open(&sealer.seal(b"x").unwrap_or_default()).is_ok());
            }
        }
        // Also when a sender goes over to the other.
        assert!(n1.set_secret(&new));
        assert!(opener.open(&n1.seal(b"x").unwrap_or_default()).is_ok());
        let stranger = sealer(&secret(&of(twin + 1), None), 8).seal(b"x").unwrap_or_default();
        let mut forged = stranger;
        forged[1] = id_of(0).expect("an id");
        assert_eq!(opener.open(&forged), Err(OpenError::Forged));
    }

    #[test]
    fn strangers_and_every_changed_byte_are_refused() {
        let one = secret(ONE, None);
        let sealed = sealer(&one, 7).seal(b"payload").unwrap_or_default();
        let mut stranger = Sealer::new(&one, name("n9"), 7).expect("a key");
        assert_eq!(opener(&one).open(&stranger.seal(b"x").unwrap_or_default()), Err(OpenError::Stranger));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(opener(&one).open(&changed).is_err(), "byte {at}");
            assert!(opener(&one).open(&sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(opener(&one).open(&sealed).is_ok());
    }
}
