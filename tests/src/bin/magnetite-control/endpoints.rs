//! How long it takes until an endpoint that comes or goes is in a node's maps.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData};
use futures::StreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use lb_common::layout::{Addr, Backend, Plain, Row, Service, ServiceKey, backend_state};
use magnetite_tests::lab::Node;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    addresses,
    report::{Report, Target},
    site::{NODE, Site, for_each},
};

/// Endpoints of each Service.
const ENDPOINTS: usize = 10;
const POD_PORT: u16 = 8080;
/// Between two looks at the maps: short beside what is measured, and long enough to leave the machine to it.
const LOOK: Duration = Duration::from_micros(200);
/// Between two changes, at most.
const MOST_PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(20);

/// A change of an endpoint.
pub struct Change {
    /// From when a watch of ours told of it until it was in the maps, if that was so first.
    after_event: Option<Duration>,
    /// From when the API server had answered until then; nothing if it was there before.
    after_answer: Duration,
    /// From when it was asked for until then.
    after_request: Duration,
    /// Between two watches of ours that were told of it, one of them of whole objects as the agent is: so much of the first figure is the
    /// API server's and the machine's.
    between_watches: Duration,
}

/// Creates an EndpointSlice for each Service.
pub fn create(site: &Site, services: usize) -> Result<()> {
    eprintln!("bench: {services} EndpointSlices are created, of {ENDPOINTS} endpoints each");
    site.api.with_client(|client| async move {
        let slices = slices(&client);
        for_each(services, |number| {
            let slices = slices.clone();
            async move {
                let name = addresses::name(number);
                let slice = serde_json::from_value(json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4", "ports": [{"name": "", "port": POD_PORT, "protocol": "TCP"}],
                    "endpoints": endpoints(number, ENDPOINTS),
                }))?;
                let made = slices.create(&PostParams::default(), &slice).await;
                made.with_context(|| format!("EndpointSlice {name}")).map(drop)
            }
        })
        .await
    })
}

/// Takes an endpoint from a Service and gives it back, again and again, of one Service after the other.
pub fn change(site: &Site, services: usize, count: usize) -> Result<Vec<Change>> {
    eprintln!("bench: endpoints come and go, {count} one by one");
    let maps = Watched::of(&site.node)?;
    site.api.with_client(|client| async move {
        let mut watch = Watch::begin(&client).await?;
        let mut changes = Vec::new();
        for number in 0..count {
            // Far from the one before, in whatever order they are kept.
            let service = number / 2 * 7919 % services;
            let is_added = number % 2 == 1;
            changes.push(watch.change(&client, &maps, service, is_added).await?);
            let pause = fastrand::u64(..MOST_PAUSE.as_micros() as u64);
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
        Ok(changes)
    })
}

/// Says how long it took.
pub fn report(changes: &[Change], services: usize, report: &Report) {
    let figure = |since: &str| format!("an endpoint with {services} Services: in the map {since}");
    let after_event: Vec<Duration> =
        changes.iter().map(|change| change.after_event.unwrap_or_default()).collect();
    let earlier = changes.iter().filter(|change| change.after_event.is_none()).count();
    let of = |time: fn(&Change) -> Duration| changes.iter().map(time).collect::<Vec<_>>();
    report.times(&figure("after a watch event"), &after_event, Some(Target::Under(5.0)));
    eprintln!(
        "bench: {earlier} of {} were in the map before our own watch told of them: 0 ms",
        changes.len()
    );
    report.times(
        "between two watches of ours that are told of an endpoint",
        &of(|change| change.between_watches),
        None,
    );
    report.times(&figure("after the answer"), &of(|change| change.after_answer), None);
    report.times(&figure("after the request"), &of(|change| change.after_request), None);
}

fn slices(client: &Client) -> Api<EndpointSlice> {
    Api::namespaced(client.clone(), "default")
}

/// The first endpoints of a Service.
fn endpoints(service: usize, count: usize) -> Vec<Value> {
    let endpoint = |place| {
        json!({
            "addresses": [pod(service, place)], "nodeName": NODE,
            "conditions": {"ready": true, "serving": true, "terminating": false},
        })
    };
    (0..count).map(endpoint).collect()
}

/// A pod's address, in the node's network of pods.
fn pod(service: usize, place: usize) -> IpAddr {
    let number = u32::try_from(256 + service * ENDPOINTS + place).unwrap_or(u32::MAX);
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + number).into()
}

/// What is told of slices.
struct Watch {
    sender: mpsc::UnboundedSender<Told>,
    told: mpsc::UnboundedReceiver<Told>,
}

enum Told {
    /// A watch has begun.
    Begun,
    /// By the watch of names: a slice has changed.
    Changed(String, Instant),
    /// By the watch of whole objects: the same.
    Whole(String, Instant),
    /// By the answer to a request.
    Answered(Result<Instant, kube::Error>),
}

impl Watch {
    async fn begin(client: &Client) -> Result<Self> {
        let (sender, mut told) = mpsc::unbounded_channel();
        // Their names are enough, and cost the machine less.
        let names: Api<PartialObjectMeta<EndpointSlice>> = Api::namespaced(client.clone(), "default");
        tokio::spawn(tell(names, sender.clone(), Told::Changed));
        tokio::spawn(tell(slices(client), sender.clone(), Told::Whole));
        for _ in 0..2 {
            while !matches!(told.recv().await.context("a watch has ended")?, Told::Begun) {}
        }
        Ok(Self { sender, told })
    }

    /// Takes the last endpoint from a Service or gives it back, and looks at the maps until they say so.
    async fn change(
        &mut self,
        client: &Client,
        maps: &Watched,
        service: usize,
        is_added: bool,
    ) -> Result<Change> {
        let name = addresses::name(service);
        let key = maps.key(pod(service, 0))?;
        let address = Addr::from(pod(service, ENDPOINTS - 1));
        let count = if is_added { ENDPOINTS } else { ENDPOINTS - 1 };
        let (sender, slices) = (self.sender.clone(), slices(client));
        let patch = json!({"endpoints": endpoints(service, count)});
        let begin = Instant::now();
        let asked = name.clone();
        tokio::spawn(async move {
            let answer = slices.patch(&asked, &PatchParams::default(), &Patch::Merge(patch)).await;
            // Whoever does not listen any more has failed.
            let _ = sender.send(Told::Answered(answer.map(|_| Instant::now())));
        });
        let (mut told, mut whole, mut answered, mut shown) = (None, None, None, None);
        loop {
            if shown.is_none() && maps.is_shown(&key, address, is_added)? {
                shown = Some(Instant::now());
            }
            while let Ok(said) = self.told.try_recv() {
                match said {
                    Told::Begun => {}
                    Told::Changed(changed, at) if changed == name => told = told.or(Some(at)),
                    Told::Whole(changed, at) if changed == name => whole = whole.or(Some(at)),
                    Told::Changed(..) | Told::Whole(..) => {}
                    Told::Answered(at) => answered = Some(at.with_context(|| name.clone())?),
                }
            }
            if let (Some(told), Some(whole), Some(answered), Some(shown)) = (told, whole, answered, shown) {
                let [after_event, after_answer] = [told, answered].map(|at| shown.checked_duration_since(at));
                return Ok(Change {
                    after_event,
                    after_answer: after_answer.unwrap_or_default(),
                    after_request: shown - begin,
                    between_watches: whole.max(told) - whole.min(told),
                });
            }
            if begin.elapsed() > PATIENCE {
                bail!("{name}: event {}, map {}", told.is_some(), shown.is_some());
            }
            // The runtime's own timers are too coarse.
            tokio::task::yield_now().await;
            thread::sleep(LOOK);
        }
    }
}

/// Tells of slices until nobody listens, as a watch does.
async fn tell<K>(slices: Api<K>, to: mpsc::UnboundedSender<Told>, say: fn(String, Instant) -> Told)
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    K::DynamicType: Default,
{
    let mut events = watcher(slices, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let said = match event {
            Ok(Event::InitDone) => Some(Told::Begun),
            Ok(Event::Apply(slice)) => slice.meta().name.clone().map(|name| say(name, Instant::now())),
            Ok(Event::Init | Event::InitApply(_) | Event::Delete(_)) => None,
            Err(error) => {
                eprintln!("bench: the watch of EndpointSlices: {error}");
                None
            }
        };
        if said.is_some_and(|said| to.send(said).is_err()) {
            return;
        }
    }
}

type KeyBytes = [u8; size_of::<ServiceKey>()];
type ServiceBytes = [u8; size_of::<Service>()];
type BackendBytes = [u8; size_of::<Backend>()];
type RowBytes = [u8; size_of::<Row>()];

/// The maps of a node, of which single entries are read again and again.
struct Watched {
    services: HashMap<MapData, KeyBytes, ServiceBytes>,
    backends: Array<MapData, BackendBytes>,
    table: Array<MapData, RowBytes>,
    /// Services by the addresses of their endpoints.
    keys: BTreeMap<Addr, ServiceKey>,
}

impl Watched {
    fn of(node: &Node) -> Result<Self> {
        let maps = node.tables()?.read_without_rows()?;
        let mut keys = BTreeMap::new();
        for (key, service) in &maps.services {
            let block = service.backend_offset..service.backend_offset + service.backend_length;
            for backend in block.filter_map(|place| maps.backends.get(place as usize)) {
                keys.insert(backend.address, *key);
            }
        }
        let open = |name: &str| -> Result<Map> {
            let opened = MapData::from_pin(node.pins.join(name)).and_then(Map::from_map_data);
            opened.with_context(|| format!("opening {name}"))
        };
        Ok(Self {
            services: HashMap::try_from(open("SERVICES")?)?,
            backends: Array::try_from(open("BACKENDS")?)?,
            table: Array::try_from(open("TABLE")?)?,
            keys,
        })
    }

    /// The key of the Service with an endpoint of this address.
    fn key(&self, endpoint: IpAddr) -> Result<KeyBytes> {
        let key = self.keys.get(&endpoint.into()).with_context(|| format!("{endpoint} is in no map"))?;
        Ok(key.as_bytes().try_into()?)
    }

    /// Whether new flows go to an endpoint, or do not: a backend is ready and rows have it, or none is.
    fn is_shown(&self, key: &KeyBytes, endpoint: Addr, is_added: bool) -> Result<bool> {
        let service = Service::from_bytes(&self.services.get(key, 0)?).context("a Service's bytes")?;
        let mut ready = None;
        for place in 0..service.backend_length {
            let bytes = self.backends.get(&(service.backend_offset + place), 0)?;
            let backend = Backend::from_bytes(&bytes).context("a backend's bytes")?;
            if backend.address == endpoint && backend.state == backend_state::READY {
                ready = Some(u16::try_from(place)?);
            }
        }
        let Some(place) = ready else { return Ok(!is_added) };
        if !is_added {
            return Ok(false);
        }
        // Rows come after backends; one in ten has it.
        for row in service.table_offset..service.table_offset + service.table_length {
            let row = Row::from_bytes(&self.table.get(&row, 0)?).context("a row's bytes")?;
            if row.candidates[0] == place {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
