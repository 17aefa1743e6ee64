//! Magnetite as its users install it, on a cluster of nodes with kubelets.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{Pod, Service},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
    core::NamespaceResourceScope,
    runtime::wait::{Condition, await_condition},
};
use lb_api::crd::{ConfigurationState, ServiceL2Status};
use libtest_mimic::{Arguments, Failed, Trial};
use magnetite_tests::{
    api_server::apply,
    kubelets::{Cluster, POD_IMAGE, missing},
    lab::{POD_PORT, lost},
    manifests::{self, NAMESPACE as SYSTEM},
};
use serde::de::DeserializeOwned;
use serde_json::json;

type Test = fn(&mut Cluster) -> Result<()>;

/// One for all tests, in their order: the last one kills a node.
#[derive(Default)]
enum Shared {
    #[default]
    NotStarted,
    Started(Box<Cluster>),
    Failed,
}

/// For images to be started, for probes, and for what Kubernetes' controllers do.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(200);
/// Pods of the Service `web`.
const PODS: usize = 3;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let cannot_run = missing();
    let tests: [(&str, Test); 5] = [
        ("pods_of_the_manifests_become_ready", pods_of_the_manifests_become_ready),
        ("a_service_is_reached_from_outside_from_a_pod_and_from_a_node", a_service_is_reached),
        ("pods_are_refused_nothing_and_keep_their_limits", pods_are_refused_nothing_and_keep_their_limits),
        ("what_a_pod_alone_says_goes_with_it", what_a_pod_alone_says_goes_with_it),
        ("a_node_that_is_killed_is_replaced", a_node_that_is_killed_is_replaced),
    ];
    let shared = Arc::new(Mutex::new(Shared::default()));
    let trials = tests.map(|(name, test)| match &cannot_run {
        None => {
            let shared = Arc::clone(&shared);
            Trial::test(name, move || on(&shared, test).map_err(|error| Failed::from(format!("{error:#}"))))
        }
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    // Ends before the process does.
    drop(std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner)));
    conclusion.exit();
}

/// On the cluster, which is started if it is not there, with what its nodes said if the test fails.
fn on(shared: &Mutex<Shared>, test: Test) -> Result<()> {
    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*shared, Shared::NotStarted) {
        *shared = Shared::Failed;
        *shared = Shared::Started(Box::new(Cluster::start()?));
    }
    let Shared::Started(cluster) = &mut *shared else { bail!("the cluster has not started") };
    test(cluster).map_err(|error| anyhow!("{error:#}\n{}\n{}", pods(cluster), cluster.log()))
}

/// How all pods are.
fn pods(cluster: &Cluster) -> String {
    let listed = cluster.api.with_client(|client| async move {
        let pods: Api<Pod> = Api::all(client);
        let mut text = String::new();
        for pod in pods.list(&ListParams::default()).await? {
            let status = pod.status.unwrap_or_default();
            let name = pod.metadata.name.unwrap_or_default();
            text += &format!(
                "{name}: {} {}\n",
                status.phase.unwrap_or_default(),
                status.message.unwrap_or_default()
            );
            for container in status.container_statuses.iter().flatten() {
                let states = serde_json::to_string(&[&container.state, &container.last_state])?;
                let (ready, restarts) = (container.ready, container.restart_count);
                text += &format!("  {}: ready {ready}, restarts {restarts}, {states}\n", container.name);
            }
        }
        Ok(text)
    });
    let said = cluster.nodes.iter().filter_map(|node| node.pod_logs(SYSTEM).ok());
    let said: Vec<String> = said.map(|log| magnetite_tests::lab::last_lines(&log, 8)).collect();
    format!("{}{}", listed.unwrap_or_else(|error| format!("{error:#}")), said.join("\n"))
}

/// Waits until an object is as it is to be.
async fn wait<K>(client: &Client, namespace: &str, name: &str, is_met: impl Condition<K>) -> Result<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Send
        + DeserializeOwned
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let waited = tokio::time::timeout(PATIENCE, await_condition(api, name, is_met)).await;
    let Ok(waited) = waited else { bail!("{} {name} is not as it is to be", K::kind(&())) };
    waited?.with_context(|| format!("{} {name} is gone", K::kind(&())))
}

fn is_deployed(deployment: Option<&Deployment>) -> bool {
    deployment.is_some_and(|deployment| {
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas);
        ready == deployment.spec.as_ref().and_then(|spec| spec.replicas)
    })
}

/// All of `manifests/`, and a pool.
fn install(cluster: &Cluster) -> Result<()> {
    let nodes = i32::try_from(cluster.nodes.len())?;
    cluster.api.with_client(|client| async move {
        manifests::apply(&client).await?;
        let metadata = json!({"name": "lan", "namespace": SYSTEM});
        let pool = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": metadata,
            "spec": {"addresses": ["192.0.2.200-192.0.2.219", "2001:db8:0:1::200-2001:db8:0:1::21f"]},
        });
        let advertisement =
            json!({"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": metadata});
        for object in [pool, advertisement] {
            apply(&client, &object).await?;
        }
        wait(&client, SYSTEM, "controller", is_deployed).await?;
        wait(&client, SYSTEM, "speaker", move |set: Option<&DaemonSet>| {
            let status = set.and_then(|set| set.status.as_ref());
            status.is_some_and(|status| {
                status.number_ready == nodes && status.desired_number_scheduled == nodes
            })
        })
        .await?;
        Ok(())
    })
}

/// A Deployment with a pod on every node, and its Service: where clients find it, in both families.
fn deploy(cluster: &Cluster) -> Result<[SocketAddr; 2]> {
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": PODS, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": labels},
                    }],
                    "containers": [{
                        "name": "web", "image": POD_IMAGE, "imagePullPolicy": "Never", "args": ["serve"],
                        "env": [{
                            "name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
                        }],
                        "readinessProbe": {"tcpSocket": {"port": POD_PORT}, "periodSeconds": 1},
                    }],
                },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer", "selector": labels, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80, "targetPort": POD_PORT}],
        },
    });
    let vips = cluster.api.with_client(|client| async move {
        for object in [deployment, service] {
            apply(&client, &object).await?;
        }
        wait(&client, "default", "web", is_deployed).await?;
        let has_addresses = |service: Option<&Service>| service.and_then(addresses).is_some();
        let service = wait(&client, "default", "web", has_addresses).await?;
        addresses(&service).context("it has addresses")
    })?;
    Ok(vips.map(|vip| SocketAddr::new(vip, 80)))
}

fn addresses(service: &Service) -> Option<[IpAddr; 2]> {
    let given = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.iter();
    let given: Vec<IpAddr> = given.filter_map(|one| one.ip.as_deref()?.parse().ok()).collect();
    given.try_into().ok()
}

/// Pods of the Service, by name: their nodes and their addresses.
fn web_pods(cluster: &Cluster) -> Result<Vec<(String, String, IpAddr)>> {
    cluster.api.with_client(|client| async move {
        let pods: Api<Pod> = Api::namespaced(client, "default");
        let listed = pods.list(&ListParams::default().labels("app=web")).await?;
        let known = listed.into_iter().map(|pod| {
            let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
            let ip = status.pod_ip.context("it has an address")?.parse()?;
            Ok((pod.metadata.name.context("a name")?, spec.node_name.context("a node")?, ip))
        });
        known.collect()
    })
}

/// Does it until it succeeds.
fn eventually<T>(mut act: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match act() {
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

fn pods_of_the_manifests_become_ready(cluster: &mut Cluster) -> Result<()> {
    install(cluster)
}

fn a_service_is_reached(cluster: &mut Cluster) -> Result<()> {
    install(cluster)?;
    let vips = deploy(cluster)?;
    let pods = web_pods(cluster)?;
    let nodes: BTreeSet<&String> = pods.iter().map(|(_, node, _)| node).collect();
    ensure!(nodes.len() == PODS, "{pods:?}");
    for vip in vips {
        reach(cluster, vip, &pods).with_context(|| vip.to_string())?;
    }
    Ok(())
}

fn reach(cluster: &Cluster, vip: SocketAddr, pods: &[(String, String, IpAddr)]) -> Result<()> {
    let names: BTreeSet<&str> = pods.iter().map(|(name, ..)| name.as_str()).collect();
    let client = cluster.client()?;
    let mut reached = BTreeSet::new();
    eventually(|| {
        let connection = client.connect(vip)?;
        let address = client.address(&vip);
        ensure!(connection.seen == address, "{} sees {} for {address}", connection.pod, connection.seen);
        reached.insert(connection.pod);
        ensure!(reached.iter().eq(&names), "{reached:?} answer of {names:?}");
        Ok(())
    })
    .context("from outside")?;
    for node in &cluster.nodes {
        let at_node = cluster.client_at(node)?;
        let from_node = eventually(|| at_node.connect(vip));
        let from_node = from_node.with_context(|| format!("from node {}", node.name))?;
        ensure!(names.contains(from_node.pod.as_str()), "{} is no pod", from_node.pod);
    }
    let at_node = cluster.client_at(&cluster.nodes[0])?;
    for (name, _, address) in pods {
        let mut to_pod = at_node.connect(SocketAddr::new(*address, POD_PORT))?;
        let answer = to_pod.ask(&format!("ask {vip}")).with_context(|| format!("from pod {name}"))?;
        ensure!(names.contains(answer.pod.as_str()) && answer.text == "hello", "{answer:?}");
    }
    Ok(())
}

fn pods_are_refused_nothing_and_keep_their_limits(cluster: &mut Cluster) -> Result<()> {
    install(cluster)?;
    deploy(cluster)?;
    for node in &cluster.nodes {
        let log = node.pod_logs(SYSTEM)?;
        ensure!(!log.is_empty(), "the pods on {} say nothing", node.name);
        let refused = log.lines().find(|line| line.contains("is forbidden"));
        ensure!(refused.is_none(), "{refused:?}");
    }
    cluster.api.with_client(|client| async move {
        let pods: Api<Pod> = Api::namespaced(client, SYSTEM);
        for pod in pods.list(&ListParams::default()).await? {
            let status = pod.status.unwrap_or_default();
            for container in status.container_statuses.iter().flatten() {
                let last = &container.last_state;
                ensure!(container.restart_count == 0, "{}: {last:?}", container.name);
            }
        }
        Ok(())
    })
}

/// It is owned by the pod, by which Kubernetes deletes it; the next pod takes over what is still said.
fn what_a_pod_alone_says_goes_with_it(cluster: &mut Cluster) -> Result<()> {
    install(cluster)?;
    deploy(cluster)?;
    let node = cluster.nodes[0].name.clone();
    cluster.api.with_client(|client| async move {
        let state = format!("speaker-{node}");
        let speaker = speaker_on(&client, &node).await?;
        said_by(&client, &state, speaker.clone()).await?;
        Api::<Pod>::namespaced(client.clone(), SYSTEM).delete(&speaker.0, &DeleteParams::default()).await?;
        let begin = Instant::now();
        let next = loop {
            match speaker_on(&client, &node).await {
                Ok(next) if next != speaker => break next,
                _ if begin.elapsed() > PATIENCE => bail!("no other pod serves {node}"),
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        said_by(&client, &state, next).await?;
        let statuses: Api<ServiceL2Status> = Api::namespaced(client.clone(), SYSTEM);
        for status in statuses.list(&ListParams::default()).await? {
            let said_on = status.status.and_then(|status| status.node).unwrap_or_default();
            let speaker = speaker_on(&client, &said_on).await?;
            let owners = status.metadata.owner_references.unwrap_or_default();
            ensure!(
                owners.iter().any(|owner| owner.uid == speaker.1),
                "{said_on}: {owners:?}, not {speaker:?}"
            );
        }
        Ok(())
    })
}

/// Name and UID of the pod that serves a node.
async fn speaker_on(client: &Client, node: &str) -> Result<(String, String)> {
    let speakers = ListParams::default().labels("component=speaker").fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM).list(&speakers).await?;
    let metadata = pods.items.into_iter().map(|pod| pod.metadata).next();
    let metadata = metadata.with_context(|| format!("no pod serves {node}"))?;
    Ok((metadata.name.context("a name")?, metadata.uid.context("a UID")?))
}

/// Waits until an object goes with that pod.
async fn said_by(client: &Client, state: &str, (pod, uid): (String, String)) -> Result<()> {
    let is_owned = move |state: Option<&ConfigurationState>| {
        let owners = state.and_then(|state| state.metadata.owner_references.as_deref()).unwrap_or_default();
        owners.iter().map(|owner| &*owner.uid).eq([&*uid])
    };
    wait(client, SYSTEM, state, is_owned).await.map(drop).with_context(|| format!("by {pod}"))
}

fn a_node_that_is_killed_is_replaced(cluster: &mut Cluster) -> Result<()> {
    install(cluster)?;
    let [vip, _] = deploy(cluster)?;
    let client = cluster.client()?.clone();
    let mut connections = Vec::new();
    eventually(|| {
        connections.push(client.connect(vip)?);
        let reached: BTreeSet<&String> = connections.iter().map(|connection| &connection.pod).collect();
        ensure!(reached.len() == PODS, "only {reached:?} answer");
        Ok(())
    })?;
    let mac = client.neighbour(vip.ip())?.context("the client has a MAC for the VIP")?;
    let owner = cluster.nodes.iter().find(|node| node.mac == mac);
    let owner = owner.with_context(|| format!("{mac} is no node's"))?.name.clone();
    let pods = web_pods(cluster)?;
    let alive: BTreeSet<String> =
        pods.into_iter().filter(|(_, node, _)| *node != owner).map(|(name, ..)| name).collect();
    cluster.kill(&owner)?;
    let connection = eventually(|| client.connect(vip)).context("a new connection")?;
    ensure!(alive.contains(&connection.pod), "{} is on the node that was killed", connection.pod);
    let next = client.neighbour(vip.ip())?.context("the client has a MAC for the VIP")?;
    let is_alive = cluster.nodes.iter().any(|node| node.is_alive() && node.mac == next);
    ensure!(is_alive, "{next} is not the MAC of a node that lives");
    let kept = connections.iter_mut().filter(|connection| alive.contains(&connection.pod));
    let broken: Vec<String> = lost(kept, "still here").into_iter().map(|(_, why)| why).collect();
    ensure!(broken.is_empty(), "connections to pods that live are broken: {broken:?}");
    Ok(())
}
