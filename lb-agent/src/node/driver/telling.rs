//! What the teller is told.

use std::{collections::BTreeSet, sync::Arc};

use lb_core::plan::Frontend;

use super::{Driver, Error};
use crate::{
    metrics::{services, vips},
    node::teller::{Heard, Known, News},
};

impl Driver {
    /// Tells what was planned last, as nodes stand now.
    pub(super) fn tell(&mut self) -> Result<(), Error> {
        let Some((plan, placed)) = &self.planned else { return Ok(()) };
        let known = Known {
            plan: plan.clone(),
            armed: Arc::clone(&placed.armed),
            without_room: placed.without_room.clone(),
            left_out: placed.left_out.clone(),
            settled: self.feed.settled().clone(),
            uids: self.feed.uids(),
            network: self.network.clone(),
            attached: self.dataplane.attached().clone(),
            unserved: self.unserved.values().chain(self.unattached.values()).cloned().collect(),
            map_bytes: self.dataplane.map_bytes()?,
            ports: services(plan, placed, plan.services.keys()).collect(),
            vips: vips(&placed.maps),
        };
        self.tell_news(News { pass: Some(Box::new(known)), ..News::default() })
    }

    /// Tells how nodes stand, and what else changes without a pass.
    pub(super) fn tell_standing(&mut self) -> Result<(), Error> {
        self.tell_news(News::default())
    }

    /// Tells of ports that have other endpoints.
    pub(super) fn tell_ports(&mut self, frontends: &BTreeSet<Frontend>) -> Result<(), Error> {
        let Some((plan, placed)) = &self.planned else { return Ok(()) };
        let ports = services(plan, placed, frontends.iter()).filter_map(|(frontend, facts)| {
            Some((frontend, (Arc::clone(plan.services.get(&frontend)?), facts)))
        });
        let news = News {
            ports: ports.collect(),
            problems: Some(Arc::clone(&self.feed.settled().problems)),
            heard: Some(self.heard()),
            ..News::default()
        };
        Ok(self.teller.tell(news)?)
    }

    fn tell_news(&mut self, news: News) -> Result<(), Error> {
        let seen = self.liveness.seen();
        let owned = self.planned.as_ref().map_or(0, |(_, placed)| {
            placed.armed.vips(&seen.standing).filter(|(_, vip)| vip.owned != 0).count()
        });
        self.told = Arc::clone(&seen);
        let drain = Some(self.leaving.status(owned));
        Ok(self.teller.tell(News { seen: Some(seen), drain, heard: Some(self.heard()), ..news })?)
    }

    fn heard(&self) -> Heard {
        Heard { unheard: self.feed.unheard(), facts: self.feed.facts() }
    }
}
