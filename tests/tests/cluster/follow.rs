//! A cluster in network namespaces whose nodes and controller follow a real API server.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
    runtime::{conditions::is_deleted, wait::await_condition},
};
use lb_api::crd::{ConfigurationResult, ConfigurationState, ServiceL2Status};
use magnetite_tests::{
    lab::{Endpoint, Lab, Node, WEB, controller_log, frontend, last_lines, slice},
    manifests::NAMESPACE as SYSTEM,
};
use serde_json::{Value, json};

type InLab = fn(&mut Lab) -> Result<()>;

const IN_LAB: [(&str, InLab); 3] = [
    ("a_client_reaches_pods_of_a_service_created_a_moment_before", a_new_service_is_reached),
    ("without_an_api_server_nodes_go_on_with_what_they_know", without_an_api_server),
    ("what_is_uninstalled_is_served_on", what_is_uninstalled_is_served_on),
];

/// After this, something that was to happen has not.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// Each in a lab of its own.
pub fn tests() -> impl Iterator<Item = (&'static str, impl FnOnce() -> Result<()> + Send + 'static)> {
    IN_LAB.into_iter().map(|(name, test)| (name, move || run(test)))
}

fn run(test: InLab) -> Result<()> {
    let mut lab = Lab::up_with_api_server()?;
    test(&mut lab).with_context(|| {
        let said = |node: &Node| last_lines(&node.log(), 15);
        let nodes: Vec<String> = lab.nodes.iter().map(said).collect();
        let controller =
            lab.objects.api().map(|api| last_lines(&controller_log(api), 30)).unwrap_or_default();
        format!("controller:\n{controller}\nnodes:\n{}", nodes.join("\n\n"))
    })
}

/// Waits until the API server says it.
fn wait<T: Send>(lab: &Lab, what: &str, ask: impl AsyncFn(Client) -> Result<Option<T>> + Send) -> Result<T> {
    lab.objects.api()?.with_client(|client| async move {
        let begin = Instant::now();
        loop {
            if let Some(answer) = ask(client.clone()).await? {
                return Ok(answer);
            }
            if begin.elapsed() > PATIENCE {
                bail!("in vain it is waited for {what}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

fn shop() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": 8080},
            {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8080},
        ]},
    })
}

/// Of IPv4, with the pods of `web`.
fn endpoints(lab: &Lab) -> Value {
    let endpoint =
        |pod: &String| Endpoint { address: lab.pods[pod].address(false), node: lab.node_of(pod).to_owned() };
    slice("shop", false, &lab.web().iter().map(endpoint).collect::<Vec<_>>())
}

async fn address(client: Client, name: &str) -> Result<Option<IpAddr>> {
    let service = Api::<Service>::namespaced(client, "default").get(name).await?;
    let ingress = service.status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
    ingress.first().and_then(|first| first.ip.as_ref()).map(|ip| Ok(ip.parse()?)).transpose()
}

/// The `ServiceL2Status` objects of a Service: node and interfaces.
async fn announced(client: Client, name: &str) -> Result<Vec<(String, Vec<String>)>> {
    let of = ListParams::default().labels(&format!("metallb.io/service-name={name}"));
    let listed = Api::<ServiceL2Status>::namespaced(client, SYSTEM).list(&of).await?;
    let statuses = listed.items.into_iter().filter_map(|object| {
        let status = object.status?;
        Some((status.node?, status.interfaces.into_iter().filter_map(|interface| interface.name).collect()))
    });
    Ok(statuses.collect())
}

fn a_new_service_is_reached(lab: &mut Lab) -> Result<()> {
    lab.objects.put(&endpoints(lab))?;
    lab.objects.put(&shop())?;
    let vip = wait(lab, "an address", async |client| address(client, "shop").await)?;
    let shown = vip.to_string();
    lab.wait_all("the new Service", |status| {
        let service = status.services.get(&format!("{shown}:80/TCP"));
        service.is_some_and(|service| service.endpoints.len() == 6)
    })?;
    lab.wait_for_nodes()?;
    let mut pods = BTreeSet::new();
    for client in lab.clients() {
        for connection in client.connect_many(SocketAddr::new(vip, 80), 20)? {
            ensure!(connection.seen == client.v4, "{} is seen as {}", client.v4, connection.seen);
            pods.insert(connection.pod);
        }
    }
    ensure!(pods.len() == 6, "only {pods:?} were reached");

    let owner = lab.owner(vip)?;
    let said = wait(lab, "ServiceL2Status", async |client| {
        Ok(Some(announced(client, "shop").await?).filter(|said| !said.is_empty()))
    })?;
    ensure!(said == [(owner.clone(), vec!["eth0".to_owned()])], "{said:?}, and the owner is {owner}");
    let assigned = wait(lab, "the event nodeAssigned", async |client| {
        let of = ListParams::default().fields("involvedObject.name=shop,reason=nodeAssigned");
        let events = Api::<Event>::namespaced(client, "default").list(&of).await?;
        Ok(events.items.into_iter().next())
    })?;
    let (message, uid) = (assigned.message.unwrap_or_default(), assigned.involved_object.uid);
    ensure!(message.contains(&owner) && message.contains("layer2") && uid.is_some(), "{message}, {uid:?}");
    wait(lab, "all nodes' ConfigurationState", async |client| {
        let states =
            Api::<ConfigurationState>::namespaced(client, SYSTEM).list(&ListParams::default()).await?;
        let is_valid = |state: &ConfigurationState| {
            state.status.as_ref().is_some_and(|status| status.result == Some(ConfigurationResult::Valid))
        };
        Ok((states.items.iter().filter(|state| is_valid(state)).count() == 4).then_some(()))
    })?;

    // An API server that has just begun refuses what it allows later: elsewhere this says nothing.
    let said = lab.nodes.iter().map(Node::log).chain([controller_log(lab.objects.api()?)]);
    let refused: Vec<String> = said.filter(|log| log.contains("is forbidden")).collect();
    ensure!(refused.is_empty(), "a right is missing: {}", refused.join("\n"));

    lab.objects.remove(&shop())?;
    lab.wait_all("the Service to be gone", |status| !status.vips.contains_key(&shown))?;
    wait(lab, "ServiceL2Status to be gone", async |client| {
        Ok(announced(client, "shop").await?.is_empty().then_some(()))
    })
}

fn without_an_api_server(lab: &mut Lab) -> Result<()> {
    let c1 = lab.clients()[0].clone();
    let mut before = c1.connect_many(frontend(WEB), 10)?;
    lab.objects.api_mut()?.stop_server()?;
    lab.wait_all("that it does not hear", |status| {
        status.problems.iter().any(|problem| problem.contains("the API server is not heard"))
    })?;
    for connection in &mut before {
        connection.ask("still there")?;
    }
    let vip = frontend(WEB);
    c1.connect_many(vip, 10)?;
    // An agent that begins without an API server changes nothing of what the last one left.
    let owner = lab.owner(WEB)?;
    let node = lab.node_mut(&owner)?;
    node.stop()?;
    node.spawn()?;
    node.wait_for_log("no object is known yet")?;
    c1.connect_many(vip, 10)?;

    lab.objects.api_mut()?.start_server()?;
    lab.node_mut(&owner)?.wait_for_pass()?;
    lab.wait_all("that it hears again", |status| {
        status.problems.iter().all(|problem| !problem.contains("is not heard"))
    })?;
    for connection in &mut before {
        connection.ask("still there")?;
    }
    lab.objects.put(&endpoints(lab))?;
    lab.objects.put(&shop())?;
    let vip = wait(lab, "an address", async |client| address(client, "shop").await)?;
    lab.wait_all("a new Service", |status| status.vips.contains_key(&vip.to_string()))
}

/// As `helm uninstall` of MetalLB does it: definitions go one after the other, and before each its objects.
fn what_is_uninstalled_is_served_on(lab: &mut Lab) -> Result<()> {
    /// Longer than it takes until a deleted object is believed to be gone.
    const BELIEVED: Duration = Duration::from_secs(12);
    let c1 = lab.clients()[0].clone();
    let mut before = c1.connect_many(frontend(WEB), 10)?;
    lab.objects.api()?.with_client(|client| async move {
        let definitions: Api<CustomResourceDefinition> = Api::all(client);
        for kind in ["l2advertisements", "ipaddresspools"] {
            let name = format!("{kind}.metallb.io");
            let uid = definitions.get(&name).await?.metadata.uid.context("a definition has a UID")?;
            definitions.delete(&name, &DeleteParams::default()).await?;
            let gone = await_condition(definitions.clone(), &name, is_deleted(&uid));
            tokio::time::timeout(PATIENCE, gone).await.with_context(|| format!("{name} stays"))??;
        }
        Ok(())
    })?;
    lab.wait_all("that the definitions are gone", |status| {
        let is_said = |kind| status.problems.iter().any(|problem| problem.contains(kind));
        is_said("L2Advertisement") && is_said("IPAddressPool")
    })?;
    let begin = Instant::now();
    while begin.elapsed() < BELIEVED {
        for node in &lab.nodes {
            ensure!(node.status()?.vips.contains_key(&WEB.to_string()), "{} has withdrawn it", node.name);
        }
        std::thread::sleep(PAUSE * 20);
    }
    for connection in &mut before {
        connection.ask("still there")?;
    }
    c1.connect_many(frontend(WEB), 10).map(drop)
}
