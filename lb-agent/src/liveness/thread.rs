//! The thread itself: inputs first, then timers, then what follows from both.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use lb_common::layout::{Addr, ClientKey, Mac, SpreadKey, Vip, vip_flags};
use lb_core::{
    announce::Place,
    kept::kept,
    liveness::{Description, Leg, Liveness, Message, Standing, Transmit},
    model::{GossipSecret, NodeName},
    moves::{self, Moves},
    probing::Spot,
    spread::{Own, clients_of, gained, is_among},
};
use mio::{Events, Poll, Token, Waker};
use tokio::sync::watch;

use super::{
    Error, Handle, Inbox, Options, Orders, Seen, Shared,
    announcer::Announcer,
    boot,
    envelope::{OpenError, Opener, Sealer},
    hearer::Hearer,
    raw::RawSocket,
    snapshot::{self, Ownership, Snapshot, Snapshots},
    sockets::{Received, Sockets},
    written::Written,
};
use crate::dataplane::LiveMaps;

/// Before what else the machine does: it needs little, and all others measure how late it is.
const PRIORITY: i32 = -15;
const WAKER: Token = Token(0);
/// Rounds of receiving before the timers have their turn: about a thousand datagrams of each socket.
const MOST_ROUNDS: usize = 4;
/// The longest that the thread sleeps: which VIPs the map says that it owns is looked at again.
const RESYNC: Duration = Duration::from_secs(10);
/// All maps are looked at again after so many of these: a pass may have failed half-way.
const READS_ALL_AFTER: u64 = 6;

pub(super) fn start(options: Options) -> Result<Handle, Error> {
    let failed = |what| move |source| Error::Start { what, source };
    let poll = Poll::new().map_err(failed("poll"))?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(failed("waker"))?;
    let shared = Arc::new(Shared { orders: Mutex::new(None), waker });
    let (sender, seen) = watch::channel(Arc::default());
    let mut seed = [0; 32];
    // SAFETY: the buffer has as many bytes as are asked for.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if got != seed.len() as isize {
        return Err(failed("random numbers")(io::Error::last_os_error()));
    }
    let maps = LiveMaps::pinned(&options.pin_dir)?;
    maps.renew_lease(options.profile.lease)?;
    let hearer = Hearer::new(&options.pin_dir, &maps.vips()?)?;
    hearer.register(poll.registry()).map_err(failed("events"))?;
    let announcer = Announcer::new().map_err(failed("a packet socket"))?;
    let raw = RawSocket::new().map_err(failed("a packet socket"))?;
    let now = Instant::now();
    let snapshots = Snapshots::new(now);
    let boot = boot::begin(&options.state, &options.node, SystemTime::now());
    let thread = Thread {
        liveness: Liveness::new(options.profile, seed, boot, now),
        boot,
        options,
        shared: Arc::clone(&shared),
        seen: sender,
        poll,
        sockets: Sockets::default(),
        hearer,
        announcer,
        raw,
        orders: Orders::default(),
        members: BTreeMap::new(),
        sealer: None,
        opener: None,
        refused: BTreeMap::new(),
        refused_told: BTreeMap::new(),
        written: Written::new(maps),
        moves: Moves::new(now),
        next_renewal: now,
        next_resync: now + RESYNC,
        resyncs: 0,
        obeyed: 0,
        told: Own::new(),
        silent: 0,
        snapshots: snapshots.clone(),
        next_snapshot: now,
    };
    let builder = std::thread::Builder::new().name("liveness".to_owned());
    let thread = builder.spawn(move || thread.run()).map_err(failed("thread"))?;
    Ok(Handle { shared, seen, snapshots, thread: Some(thread), ordered: 0 })
}

struct Thread {
    options: Options,
    shared: Arc<Shared>,
    seen: watch::Sender<Arc<Seen>>,
    poll: Poll,
    sockets: Sockets,
    hearer: Hearer,
    announcer: Announcer,
    raw: RawSocket,
    liveness: Liveness,
    boot: u64,
    orders: Orders,
    members: BTreeMap<Leg, NodeName>,
    /// Both since the first secret: what they count and know outlasts the time without one.
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    /// Envelopes that were not opened, by reason.
    refused: BTreeMap<OpenError, u64>,
    /// As many of them are in the log.
    refused_told: BTreeMap<OpenError, u64>,
    written: Written,
    moves: Moves,
    next_renewal: Instant,
    next_resync: Instant,
    resyncs: u64,
    /// The number of the last orders; 0 before the first.
    obeyed: u64,
    /// Shares whose clients know, or are being told, that this node answers them.
    told: Own,
    /// Legs that were silent when this thread last acted.
    silent: usize,
    snapshots: Snapshots,
    next_snapshot: Instant,
}

impl Thread {
    fn run(mut self) {
        // Of this thread: Linux gives each a priority of its own.
        if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
            tracing::info!(%error, "liveness runs with the priority of everything else");
        }
        let mut events = Events::with_capacity(64);
        let mut is_drained = true;
        loop {
            let due = self.poll_timeout().map(|at| at.saturating_duration_since(Instant::now()));
            // What is left in the sockets is told of no more.
            let timeout = if is_drained { due } else { Some(Duration::ZERO) };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "liveness cannot wait for its sockets");
                std::thread::sleep(Duration::from_millis(10));
            }
            events.iter().for_each(|event| self.sockets.is_readable(event.token()));
            match self.take_orders() {
                Some(Inbox::End) => return,
                Some(Inbox::Orders(number, orders)) => self.obey(number, *orders),
                None => {}
            }
            // From before what has come in was taken: what comes later has not missed a timer that is due by then.
            let now = Instant::now();
            is_drained = self.receive(now);
            let standing = || self.liveness.standing(Instant::now());
            is_drained &= self.hearer.hear(&self.orders.armed, standing);
            if self.liveness.poll_timeout().is_some_and(|due| due <= now) {
                self.liveness.handle_timeout(now);
            }
            self.return_to_duty(now);
            self.transmit();
            if self.liveness.poll_change() {
                self.act(now);
            }
            let contested = self.hearer.run(&self.orders.armed, &mut self.announcer, now);
            self.tell_again(&contested, now);
            if self.hearer.claims().poll_change() {
                self.act(now);
            } else if self.hearer.claims().poll_news(now) {
                self.report(self.liveness.standing(now));
            }
            self.announcer.run(now);
            self.renew(now);
            if self.next_snapshot <= now {
                self.publish(now);
            }
        }
    }

    /// Own legs that have been well for long enough own again, unless VIPs have moved too often.
    fn return_to_duty(&mut self, now: Instant) {
        while let Some(leg) = self.liveness.poll_return(now) {
            let standing = self.liveness.standing(now);
            let falls = |leg| self.liveness.view().falls(leg, moves::WINDOW, now);
            match self.moves.earliest_return(&self.orders.armed, &standing, leg, falls, now) {
                None => self.liveness.settle(leg, now),
                Some(until) => self.liveness.postpone(leg, until),
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let all = [
            self.hearer.claims().poll_timeout(),
            self.liveness.poll_timeout(),
            self.announcer.poll_timeout(),
            Some(self.next_renewal),
            Some(self.next_resync),
        ];
        all.into_iter().flatten().min()
    }

    fn take_orders(&self) -> Option<Inbox> {
        match self.shared.orders.lock() {
            Ok(mut place) => place.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        }
    }

    fn obey(&mut self, number: u64, orders: Orders) {
        if self.obeyed > 0 && orders.differ_in_carriers_alone(&self.orders) {
            (self.orders, self.obeyed) = (orders, number);
            let standing = self.liveness.standing(Instant::now());
            self.written.set_kept(&kept(&self.orders.armed, &self.orders.carriers, &standing));
            self.report(standing);
            return;
        }
        if let Some(secret) = orders.secret.as_ref().filter(|_| orders.secret != self.orders.secret) {
            self.set_secret(secret);
        }
        let talks = orders.secret.is_some();
        let segments = orders.armed.segments.values().filter(|_| talks);
        let segments: Vec<(Leg, BTreeSet<Leg>)> = segments
            .filter_map(|segment| Some((segment.own?, segment.legs.keys().copied().collect())))
            .collect();
        self.members = orders.armed.segments.values().flat_map(|segment| segment.legs.clone()).collect();
        if let Some(opener) = &mut self.opener {
            opener.set_members(self.members.values());
        }
        self.sockets.set(segments.iter().map(|(own, _)| *own), self.poll.registry());
        let now = Instant::now();
        self.liveness.describe(orders.description.clone(), now);
        self.liveness.set_segments(&segments, now);
        self.liveness.leave(orders.is_leaving, now);
        self.announcer.retain(|address| orders.armed.vips.contains_key(address));
        self.orders = orders;
        self.obeyed = number;
        // Whatever the pass has written from older news is put right.
        self.written.read_back();
        self.act(now);
    }

    fn set_secret(&mut self, secret: &GossipSecret) {
        match &mut self.opener {
            Some(opener) => opener.set_secret(secret),
            None => self.opener = Some(Opener::new(secret)),
        }
        let has_key = match &mut self.sealer {
            Some(sealer) => sealer.set_secret(secret),
            None => {
                self.sealer = Sealer::new(secret, self.options.node.clone(), self.boot);
                self.sealer.is_some()
            }
        };
        if !has_key {
            tracing::error!(
                "no key can be derived from the secret: what this node says is not sealed with it"
            );
        }
    }

    /// Takes what has come in, but not for ever: under a flood the timers go on. Whether nothing is left.
    fn receive(&mut self, now: Instant) -> bool {
        for _ in 0..MOST_ROUNDS {
            let (received, is_drained) = self.sockets.receive();
            for received in received {
                match received {
                    Received::Answer { from, nonce, lease_holds } => {
                        self.liveness.handle_answer(from, nonce, lease_holds, now);
                    }
                    Received::Gossip { from, bytes } => self.hear(from, &bytes, now),
                }
            }
            if is_drained {
                return true;
            }
        }
        false
    }

    fn hear(&mut self, from: Leg, bytes: &[u8], now: Instant) {
        let Some(opener) = self.opener.as_mut().filter(|_| self.orders.secret.is_some()) else { return };
        let opened = match opener.open(bytes) {
            Ok(opened) => opened,
            Err(error) => {
                *self.refused.entry(error).or_default() += 1;
                return;
            }
        };
        if self.members.get(&from) != Some(&opened.sender) {
            *self.refused.entry(OpenError::Stranger).or_default() += 1;
            return;
        }
        // What cannot be decoded is of another version: its sender says so to those who understand it.
        if let Ok(message) = Message::decode(&opened.payload) {
            self.liveness.handle_message(from, &message, now);
        }
    }

    fn transmit(&mut self) {
        while let Some(transmit) = self.liveness.poll_transmit() {
            // A network that does not take a packet is a loss like any other.
            let _ = match transmit {
                Transmit::Probe { to, nonce } => {
                    self.own_leg_towards(to).map(|own| self.sockets.send_probe(own, to, nonce))
                }
                Transmit::Proof { to, mac, nonce } => self.send_proof(to, mac, nonce),
                Transmit::Message { to, message } => {
                    let sealed = self.sealer.as_mut().and_then(|sealer| sealer.seal(&message.encode()));
                    self.own_leg_towards(to)
                        .zip(sealed)
                        .map(|(own, sealed)| self.sockets.send_gossip(own, to, &sealed))
                }
            };
        }
    }

    /// To the MAC that a node names, past ARP and NDP.
    fn send_proof(&self, to: Leg, mac: Mac, nonce: u64) -> Option<io::Result<()>> {
        let segment = self.orders.armed.segments.values().find(|segment| segment.legs.contains_key(&to))?;
        let (device, link) = segment.links.iter().next()?;
        let frame = self.sockets.probe_frame((segment.own?, link.mac), (to, mac), nonce)?;
        Some(self.raw.send(*device, &frame))
    }

    fn own_leg_towards(&self, to: Leg) -> Option<Leg> {
        let segment = self.orders.armed.segments.values().find(|segment| segment.legs.contains_key(&to))?;
        segment.own
    }

    /// Writes what the maps should hold as nodes stand, announces, and tells the driver.
    fn act(&mut self, now: Instant) {
        let standing = self.liveness.standing(now);
        let described = self.described_macs();
        self.hearer.claims().describe(described);
        self.hearer.claims().set(&self.orders.armed, &standing, now);
        let spread = self.own_shares(&standing);
        let armed = &self.orders.armed;
        self.written.set_neighbours(armed.neighbours(&standing));
        self.written.set_spread(&spread);
        self.written.set_vips(self.hearer.masked(armed.vips(&standing)));
        if standing.silent() > self.silent {
            self.announcer.forget_lost();
        }
        self.announce(&standing, now);
        self.moves.observe(&self.orders.armed, &standing, now);
        // Somebody is heard again: whoever was cut off, this node or the other, may have missed what was said.
        let silent = standing.silent();
        if silent < self.silent {
            self.announcer.repeat_all(now);
            self.told.clear();
        }
        self.silent = silent;
        self.tell_clients(spread, now);
        self.announcer.run(Instant::now());
        // After all that is urgent, for there may be much of it.
        self.written.set_kept(&kept(&self.orders.armed, &self.orders.carriers, &standing));
        // Before the driver hears of it: it looks there.
        self.publish(now);
        self.report(standing);
    }

    /// MACs of the links that nodes describe: what they say is sealed, so it is theirs to say.
    fn described_macs(&self) -> Vec<(Mac, NodeName)> {
        let described =
            self.members.iter().filter_map(|(leg, node)| Some((node, self.liveness.description(*leg)?)));
        let macs = described.flat_map(|(node, description)| {
            description.links.iter().map(move |link| (link.mac, node.clone()))
        });
        macs.collect()
    }

    /// Shares of spread VIPs that this node answers, but for those that somebody else has as an address of its own.
    fn own_shares(&self, standing: &Standing) -> Own {
        let vips: BTreeMap<Addr, Vip> = self.hearer.masked(self.orders.armed.vips(standing)).collect();
        let is_owned =
            |key: &SpreadKey| vips.get(&key.vip).is_some_and(|vip| vip.owned >> key.segment & 1 == 1);
        self.orders.armed.spread(standing).filter(|(key, _)| is_owned(key)).collect()
    }

    /// Tells all clients of spread VIPs that somebody else claims.
    fn tell_again(&mut self, contested: &[Spot], now: Instant) {
        for (vip, segment) in contested {
            self.told.remove(&SpreadKey { vip: *vip, segment: u32::from(*segment) });
        }
        if !contested.is_empty() {
            self.tell_clients(self.own_shares(&self.liveness.standing(now)), now);
        }
    }

    /// Tells the driver how nodes stand.
    fn report(&mut self, standing: Standing) {
        // By each of its legs a node says the same, but not always at the same time.
        let mut described: Vec<(&NodeName, &Description)> = self
            .members
            .iter()
            .filter_map(|(leg, node)| Some((node, self.liveness.description(*leg)?)))
            .collect();
        described.sort_by_key(|(_, description)| description.version);
        let described = described.into_iter().map(|(node, description)| (node.clone(), description.clone()));
        let seen = Seen {
            standing,
            counts: self.liveness.counts(),
            moves: self.moves.total(),
            proven: self.liveness.proven(),
            descriptions: described.collect(),
            algorithm: self.orders.secret.is_some().then(|| self.liveness.algorithm()),
            claims: self.hearer.claims().report(),
            obeyed: self.obeyed,
        };
        self.seen.send_if_modified(|known| {
            let has_changed = known.standing != seen.standing
                || known.neighbourhood() != seen.neighbourhood()
                || known.claims != seen.claims
                || known.obeyed != seen.obeyed;
            *known = Arc::new(seen);
            has_changed
        });
    }

    /// Says what there is to see. If somebody is looking at the last that was said, it is said a little later.
    fn publish(&mut self, now: Instant) {
        let owners = self.moves.owners().iter().map(|(place, owner)| {
            let since = now.saturating_duration_since(owner.since);
            (*place, Ownership { leg: owner.leg, since })
        });
        let snapshot = Snapshot {
            at: now,
            legs: self.liveness.report(now),
            owners: owners.collect(),
            counts: self.liveness.counts(),
            moves: self.moves.total(),
            refused: self.refused.clone(),
            claims: self.hearer.claims().report(),
            announced: self.announcer.sent().clone(),
            taken_over: self.announcer.taken_over(),
        };
        if self.snapshots.put(snapshot) {
            self.next_snapshot = now + snapshot::PERIOD;
        }
    }

    fn announce(&mut self, standing: &Standing, now: Instant) {
        let segments = &self.orders.armed.segments;
        let mut owned: BTreeSet<Place> = BTreeSet::new();
        let alone = |(_, vip): &(Addr, Vip)| vip.flags & vip_flags::SPREAD == 0;
        for (address, vip) in self.hearer.masked(self.orders.armed.vips(standing)).filter(alone) {
            for (_, segment) in segments.iter().filter(|(segment, _)| vip.owned >> **segment & 1 == 1) {
                owned.extend(segment.links.keys().map(|device| (address, *device)));
            }
        }
        let links = segments.values().flat_map(|segment| &segment.links);
        self.announcer.set(&owned, links.map(|(device, link)| (*device, link.mac)).collect(), now);
    }

    /// Tells the clients of shares that this node has taken over.
    fn tell_clients(&mut self, spread: Own, now: Instant) {
        let segments = &self.orders.armed.segments;
        self.announcer.retain_told(|(vip, device), recipient| {
            let of_link = segments.iter().filter(|(_, segment)| segment.links.contains_key(device));
            let key = ClientKey { client: recipient.address, vip: *vip };
            of_link.map(|(segment, _)| *segment).any(|segment| is_among(&spread, u32::from(segment), &key))
        });
        let gained = gained(&self.told, &spread);
        if !gained.is_empty() {
            match self.written.clients() {
                Ok(clients) => self.announcer.tell(clients_of(&gained, &clients, segments), now),
                Err(error) => {
                    tracing::error!(%error, "clients are not told of their node; it is tried again");
                    return;
                }
            }
        }
        self.told = spread;
    }

    fn renew(&mut self, now: Instant) {
        if self.next_renewal <= now {
            let is_back = now >= self.next_renewal + self.options.profile.lease * 2 / 3;
            self.next_renewal = now + self.options.profile.lease / 3;
            self.written.renew_lease(self.options.profile.lease);
            if is_back && self.obeyed > 0 {
                // Without a lease the data path gives VIPs up to nodes that claim them.
                self.written.read_back_vips();
                self.act(now);
            }
        }
        if self.next_resync <= now {
            self.next_resync = now + RESYNC;
            self.resyncs += 1;
            if self.obeyed > 0 {
                let is_other = if self.resyncs.is_multiple_of(READS_ALL_AFTER) {
                    self.written.read_back()
                } else {
                    self.written.read_back_vips()
                };
                if self.written.take_failure() || is_other {
                    self.act(now);
                }
            }
            for (reason, count) in &self.refused {
                let told = self.refused_told.insert(*reason, *count).unwrap_or(0);
                if *count > told {
                    tracing::warn!(%reason, count = count - told, "gossip was refused");
                }
            }
            let announced: u64 = self.announcer.sent().values().sum();
            tracing::debug!(counts = ?self.liveness.counts(), announced, legs = self.sockets.legs().count(), "liveness");
        }
    }
}
