//! The two roles: what they are told on the command line and in the environment, and how they are begun.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use lb_agent::{
    cluster::OwnPod,
    controller, dataplane,
    metrics::Listen,
    network::{self, Netlink},
    node,
    output::{self, Writer},
    source::Source,
};
use lb_api::Reading;
use lb_core::{allocate::PoolEdit, liveness::Profile, maps::Sizes, model::NodeName};

use crate::{Pins, log::log, metallb, parse_duration, runtime};

/// Where status is written.
pub const OUTPUT: &str = "/run/magnetite";
const STATE: &str = "/var/lib/magnetite";

/// MetalLB's ports (`speaker/main.go`, `controller/main.go`).
const METRICS_PORT: u16 = 9120;
const HEALTH_PORT: u16 = 17472;

/// Which cluster, and what in it.
#[derive(Args)]
pub struct ClusterArguments {
    /// Namespace of MetalLB's objects in the cluster.
    #[arg(long, env = "METALLB_NAMESPACE", default_value = "metallb-system")]
    pub namespace: String,
    /// How the API server is reached: a kubeconfig; without it the pod's service account, or what kubectl would use.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
}

/// In which pod it runs: what only this one writes goes with it.
#[derive(Args)]
struct PodArguments {
    /// Name of the pod in which this runs; with its UID, what only this one writes (ServiceL2Status, ConfigurationState) is deleted when
    /// the pod is.
    #[arg(long, env = "METALLB_POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// Its UID.
    #[arg(long, env = "MAGNETITE_POD_UID", value_name = "UID")]
    pod_uid: Option<String>,
}

impl PodArguments {
    fn own(&self) -> Option<OwnPod> {
        Some(OwnPod { name: self.pod_name.clone()?, uid: self.pod_uid.clone()? })
    }
}

/// What both roles are told.
#[derive(Args)]
pub struct RoleArguments {
    /// Where objects come from: kube, the API server of a cluster; or file:DIR, the YAML and JSON files of a directory.
    #[arg(long, default_value = "kube")]
    source: Source,
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    pod: PodArguments,
    /// The loadBalancerClass of the Services that are served; without it those that have none.
    #[arg(long, value_name = "CLASS")]
    lb_class: Option<String>,
    /// Where /metrics, /healthz and /readyz are to be had, as ADDRESS:PORT.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "port")]
    metrics_bind: Option<SocketAddr>,
    /// The same at all addresses, as with MetalLB but without TLS; 0 for nowhere. In a cluster it is 9120 if nothing else is said, with
    /// files it is nowhere.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Where /healthz and /readyz are to be had as well, as with MetalLB: of a node at 127.0.0.1, of a controller at all addresses; 0 for
    /// nowhere. In a cluster it is 17472 if nothing else is said, with files it is nowhere.
    #[arg(long, value_name = "PORT")]
    health_probe_port: Option<u16>,
    /// What is logged, by MetalLB's names; without it what RUST_LOG says, or info.
    #[arg(long, value_enum)]
    log_level: Option<LogLevel>,
}

/// MetalLB's levels (`internal/logging/logging.go`).
#[derive(Clone, Copy, ValueEnum)]
pub enum LogLevel {
    /// Everything.
    All,
    /// What explains decisions.
    Debug,
    /// What changes.
    Info,
    /// What is not as it should be.
    Warn,
    /// What fails.
    Error,
    /// Nothing.
    None,
}

impl LogLevel {
    /// By the names of the log's own filter.
    pub const fn filter(self) -> &'static str {
        match self {
            Self::All => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::None => "off",
        }
    }
}

impl RoleArguments {
    /// What is logged from now on.
    fn log(&self) -> tracing_appender::non_blocking::WorkerGuard {
        let written_at_end = log(self.log_level.map(LogLevel::filter));
        metallb::warn_of_environment();
        written_at_end
    }

    fn reading(&self, ignore_exclude_lb: bool) -> Reading {
        Reading { lb_class: self.lb_class.clone(), ignore_exclude_lb, ..Reading::default() }
    }

    /// Where metrics and health are to be had, with `health` as the address of the latter.
    fn listens(&self, health: IpAddr) -> Vec<Listen> {
        let is_cluster = self.source == Source::Kube;
        let port =
            |given: Option<u16>, usual| given.or(is_cluster.then_some(usual)).filter(|port| *port != 0);
        let anywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let metrics = match self.metrics_bind {
            Some(address) => Some(Listen { address, flag: "--metrics-bind" }),
            None => port(self.port, METRICS_PORT)
                .map(|port| Listen { address: SocketAddr::new(anywhere, port), flag: "--port" }),
        };
        let health = port(self.health_probe_port, HEALTH_PORT)
            .map(|port| Listen { address: SocketAddr::new(health, port), flag: "--health-probe-port" });
        metrics.into_iter().chain(health).collect()
    }
}

/// What a node is told. Switches of MetalLB's may be written as Go programs have them: `--flag`, `--flag=true` or `--flag=false`.
#[derive(Args)]
pub struct NodeArguments {
    #[command(flatten)]
    role: RoleArguments,
    /// This node's name; if it is not given, METALLB_NODE_NAME, or the machine's.
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// Nodes may own VIPs that are labelled node.kubernetes.io/exclude-from-external-load-balancers.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_name = "BOOL")]
    ignore_exclude_lb: bool,
    #[command(flatten)]
    pins: Pins,
    /// Where status is written, as <kind>/<namespace>/<name>.yaml; a dry run without it prints.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where is kept what has to outlast the machine's restarts: by it other nodes tell what this one says from what it has said before.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// How fast nodes notice that one of them has died: in a tenth of a second, in half a second at a third of the packets, or for
    /// nodes that are far from each other. It is fast if nothing else is said.
    #[arg(long, value_enum)]
    liveness: Option<Pace>,
    /// The same as --liveness wan, by MetalLB's name.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    ml_wan_config: bool,
    /// On SIGTERM, other nodes own this node's VIPs first, and the agent ends when nothing goes through it any more or after this time,
    /// like 50s: less than the pod's terminationGracePeriodSeconds. A second SIGTERM ends it at once. Without it the agent ends at
    /// once, and for an upgrade that is right: the data path goes on, and nothing has to move.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    drain_on_sigterm: Option<Duration>,
    /// One pass, then the end; the data path stays.
    #[arg(long)]
    once: bool,
    /// Only say what would be done, up to the content of each map: needs no privilege.
    #[arg(long, conflicts_with_all = ["metrics_bind", "once"])]
    dry_run: bool,
    /// Links, prefixes, MACs and neighbours of each node, for a dry run; without it, this machine's.
    #[arg(long, requires = "dry_run")]
    links: Option<PathBuf>,
    /// Entries of a map, as NAME=NUMBER; TABLE, SERVICES and others as in `bpftool map`. May be repeated. Without it all maps take
    /// less than 48 MiB.
    #[arg(long = "map-size", value_name = "NAME=NUMBER")]
    map_sizes: Vec<String>,
}

/// What a controller is told.
#[derive(Args)]
pub struct ControllerArguments {
    #[command(flatten)]
    role: RoleArguments,
    /// Where objects are written that come from files, as <kind>/<namespace>/<name>.yaml; what Services have been given is found again
    /// there.
    #[arg(long)]
    output: Option<PathBuf>,
    /// How long an address that was given up rests before another Service gets it, like 60s, unless its pool has no other.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    address_rest: Duration,
    /// What becomes of an address that its pool does not give any more: its Service keeps it until it asks for another, or gets
    /// another at once, as with MetalLB.
    #[arg(long, value_enum, default_value = "keep")]
    pool_edit: PoolEditName,
    /// One pass over files, then the end.
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolEditName {
    Keep,
    Reassign,
}

impl PoolEditName {
    const fn edit(self) -> PoolEdit {
        match self {
            Self::Keep => PoolEdit::Keep,
            Self::Reassign => PoolEdit::Reassign,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Pace {
    Fast,
    Calm,
    Wan,
}

impl Pace {
    const fn profile(self) -> Profile {
        match self {
            Self::Fast => Profile::FAST,
            Self::Calm => Profile::CALM,
            Self::Wan => Profile::WAN,
        }
    }
}

impl NodeArguments {
    /// Whether it goes on until it is ended.
    pub fn serves(&self) -> bool {
        !self.dry_run
    }

    fn name(&self) -> Result<NodeName> {
        let name = self.node_name.clone().or_else(|| env::var("METALLB_NODE_NAME").ok());
        let name = name.map_or_else(machine_name, Ok)?;
        Ok(NodeName(name.into()))
    }

    fn profile(&self) -> Profile {
        let usual = if self.ml_wan_config { Pace::Wan } else { Pace::Fast };
        self.liveness.unwrap_or(usual).profile()
    }
}

impl ControllerArguments {
    /// Whether it goes on until it is ended.
    pub fn serves(&self) -> bool {
        !self.once
    }
}

/// Controls until it is ended.
pub fn control(arguments: &ControllerArguments, ignored: &[String]) -> Result<()> {
    let role = &arguments.role;
    let _written_at_end = role.log();
    metallb::warn_of_flags(ignored);
    let (rest, pool_edit) = (arguments.address_rest, arguments.pool_edit.edit());
    match role.source.clone() {
        Source::Kube => {
            if arguments.once || arguments.output.is_some() {
                bail!("--once and --output are for objects from files: --source file:DIR");
            }
            let options = controller::ClusterOptions {
                kubeconfig: role.cluster.kubeconfig.clone(),
                namespace: role.cluster.namespace.clone(),
                pod: role.pod.own(),
                rest,
                pool_edit,
                reading: role.reading(false),
                listens: role.listens(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            };
            Ok(runtime()?.block_on(controller::run_in_cluster(options))?)
        }
        Source::File(source) => {
            let output = arguments.output.clone().context("--output says where objects are written")?;
            let reading = role.reading(false);
            let options =
                controller::Options { source, output, rest, pool_edit, reading, once: arguments.once };
            Ok(runtime()?.block_on(controller::run(options))?)
        }
    }
}

/// Serves as a node until it is ended.
pub fn serve(arguments: &NodeArguments, ignored: &[String]) -> Result<()> {
    let role = &arguments.role;
    let _written_at_end = role.log();
    metallb::warn_of_flags(ignored);
    let node = arguments.name()?;
    // Of a machine that a file describes nobody knows how many CPUs it has.
    let mut sizes = match arguments.links {
        Some(_) => Sizes::default(),
        None => Sizes::of_cpus(dataplane::cpus()?),
    };
    for text in &arguments.map_sizes {
        sizes.set(text)?;
    }
    let reading = role.reading(arguments.ignore_exclude_lb);
    if arguments.dry_run {
        return dry_run(arguments, &node, sizes, reading);
    }
    let feed = node::FeedOptions {
        source: role.source.clone(),
        kubeconfig: role.cluster.kubeconfig.clone(),
        namespace: role.cluster.namespace.clone(),
        reading,
    };
    let options = node::Options {
        feed,
        node,
        pod: role.pod.own(),
        pin_dir: arguments.pins.pin_dir.clone(),
        output: arguments.output.clone().unwrap_or(OUTPUT.into()),
        state: arguments.state.clone(),
        sizes,
        once: arguments.once,
        profile: arguments.profile(),
        listens: role.listens(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        drain_on_sigterm: arguments.drain_on_sigterm,
    };
    Ok(runtime()?.block_on(node::run(options))?)
}

fn dry_run(arguments: &NodeArguments, node: &NodeName, sizes: Sizes, reading: Reading) -> Result<()> {
    let Source::File(source) = &arguments.role.source else {
        bail!("--dry-run is for objects from files: --source file:DIR");
    };
    let network = match &arguments.links {
        Some(path) => network::read(path, node)?,
        None => runtime()?.block_on(async { Netlink::connect()?.network().await })?,
    };
    let documents = node::dry_run(source, node, &network, sizes, reading)?;
    if let Some(dir) = &arguments.output {
        return Ok(Writer::new(dir).write(&documents)?);
    }
    for document in documents {
        println!("---\n{}", output::to_yaml(&document.value)?.trim_end());
    }
    Ok(())
}

fn machine_name() -> Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("reading this machine's name")?;
    Ok(name.trim().to_owned())
}
