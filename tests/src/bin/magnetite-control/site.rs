//! A machine that is a node, and one with its cluster's API server and controllers.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use magnetite_tests::{
    api_server::{ApiServer, apply},
    lab::{Namespace, Node, Run, clean, memberlist, node, pool},
    manifests,
};
use tokio::task::JoinSet;

/// The node's name.
pub const NODE: &str = "n1";
/// Its pods' network.
const PODS: &str = "10.128.0.0/14";
const ADDRESS: [u8; 4] = [172, 16, 0, 11];
/// Of the API server.
const CONTROL: [u8; 4] = [172, 16, 0, 2];
/// In the node's segment, 172.16.0.0/16.
const POOL: &str = "172.16.128.0-172.16.191.255";
const MAC: &str = "02:6d:67:00:00:0b";
/// So that 12,000 Services with ten endpoints each fit.
const SIZES: [&str; 8] = [
    "TABLE=12582912",
    "BACKENDS=131072",
    "BACKEND_STATS=131072",
    "LOCAL_PORTS=131072",
    "SERVICES=16384",
    "SERVICE_STATS=16384",
    "VIPS=16384",
    "VIP_STATS=16385",
];
/// Requests that are under way at once.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(500);

/// Both machines. The agent's end comes before its namespace's.
pub struct Site {
    /// The agent, which is not started.
    pub node: Node,
    /// An API server with MetalLB's kinds, a pool and an advertisement.
    pub api: ApiServer,
    _run: Run,
}

impl Site {
    /// Makes it.
    pub fn up() -> Result<Self> {
        clean()?;
        let run = Run::begin()?;
        let names = run.machines();
        let [machine, control] = [NODE, "control"].map(|name| Namespace::create(&names.namespace(name)));
        let (machine, control) = (machine?, control?);
        let name = machine.name();
        control.ip(&format!("link add {NODE} type veth peer name eth0 address {MAC} netns {name}"))?;
        control.ip(&format!("link set {NODE} up"))?;
        machine.ip("link set eth0 up")?;
        for (of, [a, b, c, d], link) in [(&machine, ADDRESS, "eth0"), (&control, CONTROL, NODE)] {
            of.ip(&format!("addr add {a}.{b}.{c}.{d}/16 dev {link}"))?;
        }
        machine.sysctl("net/ipv4/ip_forward", "1")?;
        let directory = names.directory();
        let api = ApiServer::start_on(control, CONTROL.into(), directory.join("api"))?;
        api.with_client(|client| async move {
            manifests::apply(&client).await?;
            apply(&client, &node(NODE, &[ADDRESS.into()], &[PODS.to_owned()], "lan")).await?;
            apply(&client, &memberlist()).await?;
            for object in pool(&[POOL]) {
                apply(&client, &object).await?;
            }
            Ok(())
        })?;
        let mut node = Node::new(NODE, machine, MAC.to_owned(), names.pins(NODE), &directory);
        node.follow(&api.kubeconfig_of("speaker")?);
        node.arguments = SIZES.iter().flat_map(|size| ["--map-size", size]).map(str::to_owned).collect();
        Ok(Self { node, api, _run: run })
    }

    /// Starts the agent, and waits until it has so many Services in its maps, each with all of its endpoints.
    pub fn start_node(&mut self, services: usize) -> Result<()> {
        self.node.spawn()?;
        let begin = Instant::now();
        loop {
            thread::sleep(PAUSE);
            // There are none before the first pass.
            let maps = self.node.tables().ok().and_then(|tables| tables.read_without_rows().ok());
            let known = maps.map_or(0, |maps| maps.services.len());
            // It is said when it is done.
            if known >= services
                && let Ok(status) = self.node.status()
            {
                ensure!(status.problems.is_empty(), "{}", status.problems.join("\n"));
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("the node has {known} of {services} Services in its maps");
            }
        }
    }
}

/// MetalLB's controller, as long as it is needed.
pub struct Metallb(Child);

impl Metallb {
    /// Starts it as somebody who may do everything, without its webhooks.
    pub fn start(site: &Site, program: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(site.api.dir().join("metallb.log"))?;
        let mut command = Command::new(program);
        command.args(["--webhook-mode=disabled", "--disable-cert-rotation=true"]);
        command.env("KUBECONFIG", site.api.kubeconfig()).env("METALLB_NAMESPACE", manifests::NAMESPACE);
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let start = || command.spawn().context("starting MetalLB's controller");
        Ok(Self(site.api.namespace.run(start)?))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Metallb {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does something for each number, many at once.
pub async fn for_each<F>(count: usize, act: impl Fn(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        if tasks.len() >= AT_ONCE
            && let Some(done) = tasks.join_next().await
        {
            done??;
        }
        tasks.spawn(act(number));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
