//! Others' claims, from the data path to [`Claims`], and what follows from them to the wire.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsRawFd,
    path::Path,
    time::{Instant, SystemTime},
};

use lb_common::layout::{Addr, ClaimEvent, MAX_SEGMENTS, Vip, event_kind};
use lb_core::{
    armed::Armed,
    claims::{Claim, Claims, Say},
    liveness::Standing,
    probing::Spot,
};
use mio::{Interest, Registry, Token, unix::SourceFd};

use super::announcer::Announcer;
use crate::dataplane::{Error, Events};

/// Of no socket.
const TOKEN: Token = Token(usize::MAX);
/// Taken before the timers have their turn.
const MOST: usize = 1024;

/// Hears them.
pub(super) struct Hearer {
    events: Events,
    claims: Claims,
}

impl Hearer {
    /// With what an earlier agent has left in the maps.
    pub(super) fn new(pin_dir: &Path, vips: &BTreeMap<Addr, Vip>) -> Result<Self, Error> {
        let spots = |bits: fn(&Vip) -> u32| -> BTreeSet<_> {
            let of = move |(address, vip): (&Addr, &Vip)| {
                let (address, bits) = (*address, bits(vip));
                (0..MAX_SEGMENTS as u16)
                    .filter(move |segment| bits >> segment & 1 == 1)
                    .map(move |segment| (address, segment))
            };
            vips.iter().flat_map(of).collect()
        };
        let claims = Claims::new(spots(|vip| vip.announced), spots(|vip| vip.owned));
        Ok(Self { events: Events::pinned(pin_dir)?, claims })
    }

    pub(super) fn register(&self, registry: &Registry) -> std::io::Result<()> {
        registry.register(&mut SourceFd(&self.events.as_raw_fd()), TOKEN, Interest::READABLE)
    }

    pub(super) fn claims(&mut self) -> &mut Claims {
        &mut self.claims
    }

    /// Whether nothing is left to hear.
    pub(super) fn hear(&mut self, armed: &Armed, standing: impl FnOnce() -> Standing) -> bool {
        let Some(mut event) = self.events.take() else { return true };
        let (standing, now, time) = (standing(), Instant::now(), SystemTime::now());
        for _ in 0..MOST {
            self.claims.handle(&claim(&event, now, time), armed, &standing, now);
            match self.events.take() {
                Some(next) => event = next,
                None => return true,
            }
        }
        self.claims.handle(&claim(&event, now, time), armed, &standing, now);
        false
    }

    /// Does what is due. What is to be said again of VIPs that are spread over nodes is left to the caller: it is not for all.
    pub(super) fn run(&mut self, armed: &Armed, announcer: &mut Announcer, now: Instant) -> Vec<Spot> {
        self.claims.handle_timeout(now);
        let mut spread = Vec::new();
        while let Some(say) = self.claims.poll_transmit(now) {
            let (Say::Announcement(spot) | Say::Probe(spot) | Say::Question(spot)) = say;
            let (address, segment) = spot;
            let is_spread = armed.vips.get(&address).is_some_and(|vip| vip.tables.contains_key(&segment));
            if is_spread && matches!(say, Say::Announcement(_)) {
                spread.push(spot);
                continue;
            }
            for (device, link) in armed.segments.get(&segment).into_iter().flat_map(|segment| &segment.links)
            {
                match say {
                    Say::Announcement(_) => announcer.repeat((address, *device), now),
                    Say::Probe(_) => announcer.ask(address, *device, None),
                    Say::Question(_) => announcer.ask(address, *device, link.asks_from),
                }
            }
        }
        spread
    }

    /// A VIP as it stands in the map: without what is withheld.
    pub(super) fn masked(
        &self,
        vips: impl Iterator<Item = (Addr, Vip)>,
    ) -> impl Iterator<Item = (Addr, Vip)> {
        let withheld = self.claims.withheld_segments();
        vips.map(move |(address, vip)| {
            let withheld = withheld.get(&address).copied().unwrap_or(0);
            (address, Vip { owned: vip.owned & !withheld, ..vip })
        })
    }
}

fn claim(event: &ClaimEvent, now: Instant, time: SystemTime) -> Claim {
    let age = Events::age(event).unwrap_or_default();
    Claim {
        spot: (event.address, event.segment),
        mac: event.mac,
        is_node: event.kind == event_kind::PEER_CLAIM,
        is_answer: event.is_answer == 1,
        at: now.checked_sub(age).unwrap_or(now),
        time: time.checked_sub(age).unwrap_or(time),
    }
}
