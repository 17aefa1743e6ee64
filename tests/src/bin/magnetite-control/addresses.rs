//! How long it takes until Services have their addresses.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    process::Usage,
    site::{Site, for_each},
};

/// After this, an address that was to be given has not been.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a controller has started with Services that wait.
pub struct Cold {
    services: usize,
    /// From the controller's start until the last Service had its address.
    pub wall: Duration,
    /// CPU time of the controller by then.
    pub cpu: Duration,
}

impl Cold {
    /// Addresses in a second.
    pub fn rate(&self) -> f64 {
        self.services as f64 / self.wall.as_secs_f64()
    }
}

/// The name of one of the Services that are there all the time.
pub fn name(number: usize) -> String {
    format!("s{number}")
}

/// Creates Services; nobody gives them addresses yet.
pub fn create(site: &Site, count: usize) -> Result<()> {
    eprintln!("bench: {count} Services are created");
    site.api.with_client(|client| async move {
        let services = services(&client);
        for_each(count, |number| {
            let services = services.clone();
            async move { create_one(&services, &name(number)).await }
        })
        .await
    })
}

/// Creates Services one by one; how long each has waited for its address.
pub fn one_by_one(site: &Site, prefix: &str, count: usize) -> Result<Vec<Duration>> {
    eprintln!("bench: {count} Services are created one by one");
    site.api.with_client(|client| async move {
        let mut addresses = Addresses::watch(&client).await?;
        let services = services(&client);
        let mut times = Vec::new();
        for number in 0..count {
            let name = format!("{prefix}-{number}");
            let begin = Instant::now();
            create_one(&services, &name).await?;
            times.push(addresses.wait_for(&name).await? - begin);
        }
        // The first one waits for the controller's start.
        times.remove(0);
        Ok(times)
    })
}

/// Deletes what was created one by one.
pub fn delete(site: &Site, prefix: &str, count: usize) -> Result<()> {
    site.api.with_client(|client| async move {
        let services = services(&client);
        for_each(count, |number| {
            let (services, name) = (services.clone(), format!("{prefix}-{number}"));
            async move { Ok(services.delete(&name, &DeleteParams::default()).await.map(drop)?) }
        })
        .await
    })
}

/// Starts a controller beside Services that wait, and waits until the last of them has its address.
pub fn cold_start<C: Send>(
    site: &Site,
    services: usize,
    start: impl FnOnce() -> Result<C> + Send,
    id: impl Fn(&C) -> u32 + Send,
) -> Result<(C, Cold)> {
    eprintln!("bench: a controller starts, and {services} Services wait");
    site.api.with_client(|client| async move {
        let mut addresses = Addresses::watch(&client).await?;
        let begin = Instant::now();
        let controller = start()?;
        let last = addresses.wait_for_count(services).await?;
        let cpu = Usage::of(id(&controller))?.cpu;
        Ok((controller, Cold { services, wall: last - begin, cpu }))
    })
}

fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "default")
}

async fn create_one(services: &Api<Service>, name: &str) -> Result<()> {
    // There are not enough node ports for thousands.
    let service = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    }))?;
    services.create(&PostParams::default(), &service).await.with_context(|| format!("Service {name}"))?;
    Ok(())
}

/// Services that have addresses, as a watch tells of them.
struct Addresses {
    told: mpsc::UnboundedReceiver<Told>,
}

enum Told {
    /// The watch has begun.
    Begun,
    /// A Service has an address.
    Given(String, Instant),
}

impl Addresses {
    /// Begins to watch.
    async fn watch(client: &Client) -> Result<Self> {
        let (sender, mut told) = mpsc::unbounded_channel();
        let mut events = watcher(services(client), watcher::Config::default()).default_backoff().boxed();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let said = match event {
                    Ok(Event::InitDone) => Some(Told::Begun),
                    Ok(Event::Apply(service) | Event::InitApply(service)) => given(&service),
                    Ok(Event::Init | Event::Delete(_)) => None,
                    Err(error) => {
                        eprintln!("bench: the watch of Services: {error}");
                        None
                    }
                };
                if said.is_some_and(|said| sender.send(said).is_err()) {
                    return;
                }
            }
        });
        while !matches!(told.recv().await.context("the watch has ended")?, Told::Begun) {}
        Ok(Self { told })
    }

    async fn next(&mut self) -> Result<(String, Instant)> {
        loop {
            let told = timeout(PATIENCE, self.told.recv()).await.context("no Service gets an address")?;
            if let Told::Given(name, at) = told.context("the watch has ended")? {
                return Ok((name, at));
            }
        }
    }

    /// When it has its address.
    async fn wait_for(&mut self, name: &str) -> Result<Instant> {
        loop {
            let (given, at) = self.next().await?;
            if given == name {
                return Ok(at);
            }
        }
    }

    /// When so many have theirs.
    async fn wait_for_count(&mut self, count: usize) -> Result<Instant> {
        let mut known = BTreeSet::new();
        loop {
            let (name, at) = self.next().await?;
            known.insert(name);
            if known.len() >= count {
                return Ok(at);
            }
        }
    }
}

fn given(service: &Service) -> Option<Told> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    ingress.first()?.ip.as_ref()?;
    Some(Told::Given(service.metadata.name.clone()?, Instant::now()))
}
