//! Every interval of liveness, in one place.

use std::time::Duration;

/// How fast a dead node is noticed, and what that costs.
///
/// Probes of a leg: each of [`Self::observers`] nodes sends one every [`Self::interval`]. After [`Self::misses`] without an answer
/// the observer is suspicious: it sends [`Self::burst`] probes at once and has a second node do the same. Only if neither hears
/// anything is the leg silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Nodes that probe a leg.
    pub observers: usize,
    /// Between two probes of a leg by one observer.
    pub interval: Duration,
    /// After this, a probe is not answered any more.
    pub patience: Duration,
    /// Probes in a row without an answer that make an observer suspicious: two at least, for that a first one is missed is looked at only
    /// when the next is due.
    pub misses: u32,
    /// Probes of a burst.
    pub burst: u32,
    /// Between two probes of a burst.
    pub burst_interval: Duration,
    /// After this, a second node that was asked is not waited for any longer.
    pub second_patience: Duration,
    /// After a suspicion that came to nothing, the next has to wait for so long.
    pub hold: Duration,
    /// A leg that has never answered is suspected only after so long: its agent may just be starting.
    pub grace: Duration,
    /// Answers in a row after which a silent leg is there again.
    pub recoveries: u32,
    /// A leg that has been silent for so long is gone: what is established with it is given up.
    pub gone: Duration,
    /// A leg that is there again after a trouble owns nothing for so long, if any other can.
    pub quiet: Duration,
    /// For so long it is remembered that a leg has fallen: one that falls again and again is quiet for longer.
    pub memory: Duration,
    /// How often a verdict is told to everybody, and how long it is between.
    pub repeats: u32,
    /// See [`Self::repeats`].
    pub repeat_interval: Duration,
    /// All verdicts are told to one node, another each time: whoever has missed one has it then.
    pub exchange: Duration,
    /// Between two probes that prove where legs are, of all legs together.
    pub proof_spacing: Duration,
    /// To the next proof of a leg, for the first few times: an answer that takes longer proves nothing.
    pub proof_soon: Duration,
    /// To the next one after those.
    pub proof_later: Duration,
    /// How often each agent asks another at random whether it takes part (SWIM).
    pub swim: Duration,
    /// A node that comes to its timers later than this has been asleep, and accuses nobody of what it missed meanwhile.
    pub slip: Duration,
    /// The agent's promise to be there, renewed every third of it.
    pub lease: Duration,
}

impl Profile {
    /// How long a leg is quiet that has fallen so often within [`Self::memory`]. After the second time as long as it takes for the
    /// moves of the first to be forgotten ([`crate::moves::WINDOW`]).
    pub fn quiet_after(&self, falls: u8) -> Duration {
        match falls {
            0 | 1 => self.quiet,
            2 => 6 * self.quiet,
            _ => 10 * self.quiet,
        }
    }

    /// How long a leg is not suspected that was held to be silent so often within [`Self::memory`] though others heard it. Partitions
    /// heal, and nobody needs to wait then; but where some hear a leg and others do not for ever, its VIPs must not follow each turn.
    pub fn hold_after(&self, acquittals: u32) -> Duration {
        match acquittals {
            0..=2 => Duration::ZERO,
            more => self.hold * (1 << (more - 2).min(7)),
        }
    }

    const PRESETS: [Self; 3] = [Self::FAST, Self::CALM, Self::WAN];

    /// A dead node is routed around in about a tenth of a second. The default: for nodes on switches.
    pub const FAST: Self = Self {
        observers: 2,
        interval: Duration::from_millis(30),
        patience: Duration::from_millis(12),
        misses: 2,
        burst: 8,
        burst_interval: Duration::from_millis(2),
        second_patience: Duration::from_millis(45),
        hold: Duration::from_millis(500),
        grace: Duration::from_secs(3),
        recoveries: 3,
        gone: Duration::from_secs(5),
        quiet: Duration::from_secs(30),
        memory: Duration::from_secs(600),
        repeats: 3,
        repeat_interval: Duration::from_millis(20),
        exchange: Duration::from_secs(1),
        proof_spacing: Duration::from_millis(5),
        proof_soon: Duration::from_millis(100),
        proof_later: Duration::from_secs(10),
        swim: Duration::from_secs(1),
        slip: Duration::from_millis(60),
        lease: Duration::from_millis(1_500),
    };

    /// About half a second, at a third of the packets.
    pub const CALM: Self = Self {
        interval: Duration::from_millis(100),
        patience: Duration::from_millis(50),
        misses: 3,
        burst_interval: Duration::from_millis(10),
        second_patience: Duration::from_millis(200),
        recoveries: 5,
        repeat_interval: Duration::from_millis(50),
        slip: Duration::from_millis(200),
        lease: Duration::from_secs(3),
        ..Self::FAST
    };

    /// Seconds: for nodes that are far from each other.
    pub const WAN: Self = Self {
        interval: Duration::from_millis(500),
        patience: Duration::from_millis(400),
        burst_interval: Duration::from_millis(50),
        second_patience: Duration::from_millis(1_200),
        hold: Duration::from_secs(2),
        grace: Duration::from_secs(10),
        gone: Duration::from_secs(15),
        repeat_interval: Duration::from_millis(250),
        exchange: Duration::from_secs(5),
        proof_soon: Duration::from_secs(1),
        swim: Duration::from_secs(5),
        slip: Duration::from_secs(1),
        lease: Duration::from_secs(10),
        ..Self::CALM
    };
}

const _: () = {
    let [fast, calm, wan] = Profile::PRESETS;
    assert!(fast.misses >= 2 && calm.misses >= 2 && wan.misses >= 2);
};
