//! `lb-agent`: the node's agent, and what is asked of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_agent::{
    cluster,
    commands::{self, Flow, Known, ProtocolName},
    controller,
    dataplane::{self, Tables},
    migrate,
    network::{self, Netlink},
    node,
    output::{self, Writer},
    source::{self, Source},
};
use lb_common::layout::FlowLine;
use lb_core::{allocate::PoolEdit, host::HostMaps, liveness::Profile, maps::Sizes, model::NodeName};
use tracing_subscriber::EnvFilter;

/// A load balancer for Kubernetes on one's own machines.
#[derive(Parser)]
#[command(name = "lb-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves as a node: keeps this machine's data path as the source says, until SIGTERM, which leaves it in place.
    Node(NodeArguments),
    /// Gives Services their addresses, and writes that into objects: status, events, conditions.
    Controller(ControllerArguments),
    /// Says what is wrong with objects, by file, object and field; exit status 1 if anything is.
    Validate(ObjectsArguments),
    /// What a MetalLB installation would become: addresses, what is not taken over, and the steps that lead there. It is read from a
    /// cluster, if no files are named.
    Migrate(MigrateArguments),
    /// What this node serves, how, and what it leaves to the kernel and why.
    #[command(args_conflicts_with_subcommands = true)]
    Status {
        #[command(subcommand)]
        of: Option<StatusOf>,
        /// Form of the answer.
        #[arg(short = 'o', value_name = "FORMAT", value_enum, default_value = "table")]
        format: Format,
        #[command(flatten)]
        place: StatusPlace,
    },
    /// Makes this node leave on purpose: other nodes own its VIPs, and it carries what it has until that ends. Holds until --undo or a
    /// restart of the machine, also when the agent is started again.
    Drain(DrainArguments),
    /// Where one flow goes and why, by the live maps, step by step.
    Explain {
        /// The client: ADDRESS:PORT.
        client: SocketAddr,
        /// The VIP: ADDRESS:PORT.
        vip: SocketAddr,
        /// tcp or udp.
        #[arg(long, default_value = "tcp")]
        proto: ProtocolName,
        /// MAC from which the flow's packets come; without it, the client's or its router's as this machine sees it.
        #[arg(long, value_parser = network::parse_mac)]
        from_mac: Option<[u8; 6]>,
        #[command(flatten)]
        pins: Pins,
        #[command(flatten)]
        place: StatusPlace,
    },
    /// Removes programs, links and pins: the machine is as before.
    Unload {
        #[command(flatten)]
        pins: Pins,
    },
}

#[derive(Args)]
struct ObjectsArguments {
    /// Directory of YAML and JSON files, or - for YAML from standard input.
    #[arg(conflicts_with = "source")]
    files: Option<PathBuf>,
    /// Where objects come from, as with the roles: kube or file:DIR.
    #[arg(long)]
    source: Option<Source>,
    #[command(flatten)]
    cluster: ClusterArguments,
}

#[derive(Args)]
struct MigrateArguments {
    #[command(flatten)]
    objects: ObjectsArguments,
    /// Form of the answer.
    #[arg(short = 'o', value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
    /// Carries the steps out, one by one, until one fails or is yours; what is done is not done again. Without it nothing is changed.
    #[arg(long, conflicts_with = "format")]
    apply: bool,
    /// Directory in which objects are saved before anything is changed.
    #[arg(long, value_name = "DIR", default_value = "metallb-backup")]
    backup: PathBuf,
    /// Goes on although Services lose what the report says they do.
    #[arg(long)]
    accept_losses: bool,
}

#[derive(Subcommand)]
enum StatusOf {
    /// Each node as each sees it: its condition, since when, who observes it, when it last answered; who owns what, since when and why.
    Members {
        /// Form of the answer.
        #[arg(short = 'o', value_name = "FORMAT", value_enum, default_value = "table")]
        format: Format,
        /// Directories in which agents write their status, of this node or copied from others: what they see is laid side by side.
        #[arg(default_value = OUTPUT)]
        outputs: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct DrainArguments {
    /// The node stays after all.
    #[arg(long, conflicts_with_all = ["deadline", "wait"])]
    undo: bool,
    /// When it should be drained, from now on, like 10m: after that it is said what is left, and nothing is cut.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// Shows how far it has come until it is drained, with exit status 0, or the deadline has passed, with exit status 3.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    place: StatusPlace,
}

#[derive(Args)]
struct Pins {
    /// Where programs and maps are pinned, on a BPF file system.
    #[arg(long, default_value = "/sys/fs/bpf/magnetite")]
    pin_dir: PathBuf,
}

#[derive(Args)]
struct StatusPlace {
    /// Directory in which the agent writes its status.
    #[arg(long, default_value = OUTPUT)]
    output: PathBuf,
    /// The node, if the directory has the status of several.
    #[arg(long)]
    node_name: Option<String>,
}

const OUTPUT: &str = "/run/magnetite";
const STATE: &str = "/var/lib/magnetite";

#[derive(Args)]
struct NodeArguments {
    /// Where objects come from: kube, the API server of a cluster; or file:DIR, the YAML and JSON files of a directory.
    #[arg(long, default_value = "kube")]
    source: Source,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// This node's name; the machine's if it is not given.
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    #[command(flatten)]
    pins: Pins,
    /// Where status is written, as <kind>/<namespace>/<name>.yaml; a dry run without it prints.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Where is kept what has to outlast the machine's restarts: by it other nodes tell what this one says from what it has said before.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// How fast nodes notice that one of them has died: in a tenth of a second, in half a second at a third of the packets, or for
    /// nodes that are far from each other.
    #[arg(long, value_enum, default_value = "fast")]
    liveness: Pace,
    /// Where /metrics, /healthz and /readyz are to be had, as ADDRESS:PORT; MetalLB's port is 9120. Nowhere if it is not given.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "dry_run")]
    metrics_bind: Option<SocketAddr>,
    /// On SIGTERM, other nodes own this node's VIPs first, and the agent ends when nothing goes through it any more or after this time,
    /// like 50s: less than the pod's terminationGracePeriodSeconds. A second SIGTERM ends it at once. Without it the agent ends at
    /// once, and for an upgrade that is right: the data path goes on, and nothing has to move.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    drain_on_sigterm: Option<Duration>,
    /// One pass, then the end; the data path stays.
    #[arg(long)]
    once: bool,
    /// Only say what would be done, up to the content of each map: needs no privilege.
    #[arg(long)]
    dry_run: bool,
    /// Links, prefixes, MACs and neighbours of each node, for a dry run; without it, this machine's.
    #[arg(long, requires = "dry_run")]
    links: Option<PathBuf>,
    /// Entries of a map, as NAME=NUMBER; TABLE, SERVICES and others as in `bpftool map`. May be repeated.
    #[arg(long = "map-size", value_name = "NAME=NUMBER")]
    map_sizes: Vec<String>,
}

#[derive(Args)]
struct ClusterArguments {
    /// Namespace of MetalLB's objects in the cluster.
    #[arg(long, env = "METALLB_NAMESPACE", default_value = "metallb-system")]
    namespace: String,
    /// How the API server is reached: a kubeconfig; without it the pod's service account, or what kubectl would use.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
}

#[derive(Args)]
struct ControllerArguments {
    /// Where objects come from: kube, the API server of a cluster; or file:DIR, the YAML and JSON files of a directory.
    #[arg(long, default_value = "kube")]
    source: Source,
    /// Where objects are written that come from files, as <kind>/<namespace>/<name>.yaml; what Services have been given is found again
    /// there.
    #[arg(long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArguments,
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
enum Format {
    Table,
    Json,
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

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // Who serves, or is in the middle of something, outlives whoever reads what it says.
    let serves = match &command {
        Command::Node(arguments) => !arguments.dry_run,
        Command::Controller(arguments) => !arguments.once,
        Command::Migrate(arguments) => arguments.apply,
        Command::Validate(_)
        | Command::Status { .. }
        | Command::Drain(_)
        | Command::Explain { .. }
        | Command::Unload { .. } => false,
    };
    if !serves {
        commands::end_with_reader();
    }
    let result = match command {
        Command::Node(arguments) => serve(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Controller(arguments) => control(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Validate(objects) => validate(objects),
        Command::Migrate(arguments) => migrate(arguments).map(|()| ExitCode::SUCCESS),
        Command::Status { of: Some(StatusOf::Members { format, outputs }), .. } => {
            members(format, &outputs).map(|()| ExitCode::SUCCESS)
        }
        Command::Status { of: None, format, place } => status(format, &place).map(|()| ExitCode::SUCCESS),
        Command::Drain(arguments) => drain(&arguments),
        Command::Explain { client, vip, proto, from_mac, pins, place } => {
            explain(client, vip, proto, from_mac, &pins.pin_dir, &place).map(|()| ExitCode::SUCCESS)
        }
        Command::Unload { pins } => unload(&pins.pin_dir).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

/// The log goes to standard error until what is returned is dropped. Whoever reads it slowly keeps nobody waiting: lines that find the
/// queue full are left out.
fn log() -> tracing_appender::non_blocking::WorkerGuard {
    // What a request fails of is said by whoever made it.
    let quiet = "info,kube_client=off";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    let (writer, written_at_end) = tracing_appender::non_blocking(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // It would say on standard error that standard error is closed, and panic.
    let log = log.log_internal_errors(false);
    log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    written_at_end
}

fn control(arguments: &ControllerArguments) -> Result<()> {
    let _written_at_end = log();
    let (rest, pool_edit) = (arguments.address_rest, arguments.pool_edit.edit());
    match arguments.source.clone() {
        Source::Kube => {
            if arguments.once || arguments.output.is_some() {
                bail!("--once and --output are for objects from files: --source file:DIR");
            }
            let kubeconfig = arguments.cluster.kubeconfig.clone();
            let namespace = arguments.cluster.namespace.clone();
            let options = controller::ClusterOptions { kubeconfig, namespace, rest, pool_edit };
            Ok(runtime()?.block_on(controller::run_in_cluster(options))?)
        }
        Source::File(source) => {
            let output = arguments.output.clone().context("--output says where objects are written")?;
            let options = controller::Options { source, output, rest, pool_edit, once: arguments.once };
            Ok(runtime()?.block_on(controller::run(options))?)
        }
    }
}

fn serve(arguments: &NodeArguments) -> Result<()> {
    let _written_at_end = log();
    let node = NodeName(match &arguments.node_name {
        Some(name) => name.clone(),
        None => machine_name()?,
    });
    let mut sizes = Sizes::default();
    for text in &arguments.map_sizes {
        sizes.set(text)?;
    }
    if arguments.dry_run {
        let Source::File(source) = &arguments.source else {
            bail!("--dry-run is for objects from files: --source file:DIR");
        };
        let network = match &arguments.links {
            Some(path) => network::read(path, &node)?,
            None => runtime()?.block_on(async { Netlink::connect()?.network().await })?,
        };
        let documents = node::dry_run(source, &node, &network, sizes)?;
        if let Some(dir) = &arguments.output {
            return Ok(Writer::new(dir).write(&documents)?);
        }
        for document in documents {
            println!("---\n{}", output::to_yaml(&document.value)?.trim_end());
        }
        return Ok(());
    }
    let cluster = &arguments.cluster;
    let feed = node::FeedOptions {
        source: arguments.source.clone(),
        kubeconfig: cluster.kubeconfig.clone(),
        namespace: cluster.namespace.clone(),
    };
    let options = node::Options {
        feed,
        node,
        pin_dir: arguments.pins.pin_dir.clone(),
        output: arguments.output.clone().unwrap_or(OUTPUT.into()),
        state: arguments.state.clone(),
        sizes,
        once: arguments.once,
        profile: arguments.liveness.profile(),
        metrics: arguments.metrics_bind,
        drain_on_sigterm: arguments.drain_on_sigterm,
    };
    Ok(runtime()?.block_on(node::run(options))?)
}

fn machine_name() -> Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("reading this machine's name")?;
    Ok(name.trim().to_owned())
}

/// Objects that are looked at once.
enum Objects {
    Files(BTreeMap<String, Vec<u8>>),
    Cluster,
}

impl ObjectsArguments {
    /// As named; if nothing is, a cluster's.
    fn read(&self) -> Result<Objects> {
        let dir = match (&self.files, &self.source) {
            (Some(path), _) if path == Path::new("-") => return standard_input(),
            (Some(dir), _) | (None, Some(Source::File(dir))) => dir,
            (None, Some(Source::Kube) | None) => return Ok(Objects::Cluster),
        };
        Ok(Objects::Files(source::read(dir)?))
    }
}

fn standard_input() -> Result<Objects> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
    Ok(Objects::Files([("standard input".to_owned(), bytes)].into()))
}

fn validate(arguments: ObjectsArguments) -> Result<ExitCode> {
    let is_named = arguments.files.is_some() || arguments.source.is_some();
    let objects = if is_named { arguments.read()? } else { standard_input()? };
    let problems = match objects {
        Objects::Files(files) => commands::validate(&files),
        Objects::Cluster => {
            let ClusterArguments { namespace, kubeconfig } = arguments.cluster;
            runtime()?.block_on(async {
                let client = cluster::connect(kubeconfig.as_deref()).await?;
                anyhow::Ok(commands::validate_objects(cluster::objects(&client, &namespace).await?))
            })?
        }
    };
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn migrate(arguments: MigrateArguments) -> Result<()> {
    let ClusterArguments { namespace, kubeconfig } = &arguments.objects.cluster;
    let options = migrate::Options {
        namespace: namespace.clone(),
        backup: arguments.backup,
        accepts_losses: arguments.accept_losses,
    };
    let installation = match arguments.objects.read()? {
        Objects::Files(_) if arguments.apply => bail!("--apply is for a cluster: --source kube"),
        Objects::Files(files) => migrate::Installation::of_files(&files, namespace),
        Objects::Cluster => {
            let runtime = runtime()?;
            let client = runtime.block_on(cluster::connect(kubeconfig.as_deref()))?;
            if arguments.apply {
                let applied = migrate::apply(&client, &options, |line| println!("{line}"));
                return match runtime.block_on(applied)? {
                    migrate::Applied::Whole => Ok(()),
                    migrate::Applied::Yours => {
                        println!("that is yours to do; then run it again");
                        Ok(())
                    }
                };
            }
            runtime.block_on(migrate::read(&client, namespace))?
        }
    };
    let report = migrate::report(&installation, &options.circumstances());
    match arguments.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => print!("{}", migrate::text(&report)),
    }
    Ok(())
}

fn status(format: Format, place: &StatusPlace) -> Result<()> {
    let object = commands::read_status(&place.output, place.node_name.as_deref())?;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&object)?),
        Format::Table => {
            let node = object.metadata.get("name").map_or("", String::as_str);
            print!("{}", commands::table(node, &object.status, commands::is_alive(&object.status)));
        }
    }
    Ok(())
}

fn members(format: Format, outputs: &[PathBuf]) -> Result<()> {
    let views = commands::read_views(outputs)?;
    match format {
        Format::Json => println!("{}", commands::members_json(&views)?),
        Format::Table => print!("{}", commands::members_table(&views, jiff::Timestamp::now())),
    }
    Ok(())
}

/// Exit status of a drain that has not come to its end in time.
const OVERDUE: u8 = 3;

fn drain(arguments: &DrainArguments) -> Result<ExitCode> {
    let place = &arguments.place;
    let drain = commands::Drain::of(&place.output, place.node_name.as_deref())?;
    if arguments.undo {
        println!("{}", drain.undo()?);
        return Ok(ExitCode::SUCCESS);
    }
    let request = drain.ask(arguments.deadline)?;
    if !arguments.wait {
        println!("{}", drain.asked());
        return Ok(ExitCode::SUCCESS);
    }
    let waited = runtime()?.block_on(drain.wait(&request, |line| println!("{line}")))?;
    Ok(match waited {
        commands::Waited::Drained => ExitCode::SUCCESS,
        commands::Waited::Overdue => ExitCode::from(OVERDUE),
    })
}

fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    lb_api::duration(text).ok_or("expected a duration like 90s, 10m or 1h30m")
}

fn explain(
    client: SocketAddr,
    vip: SocketAddr,
    proto: ProtocolName,
    from_mac: Option<[u8; 6]>,
    pin_dir: &Path,
    place: &StatusPlace,
) -> Result<()> {
    let mut flow = Flow::new(client, vip, proto.0)?;
    let tables = Tables::pinned(pin_dir)?;
    flow.sender = match from_mac {
        Some(mac) => Some(mac),
        None => {
            runtime()?.block_on(async { Netlink::connect()?.mac_towards(client.ip()).await }).unwrap_or(None)
        }
    };
    let mut maps = HostMaps::new(tables.read()?);
    maps.flows = vec![FlowLine::default(); maps.maps.config.flow_lines as usize];
    maps.kept = tables.kept()?;
    maps.conns = tables.conns()?;
    maps.reverse = tables.reverse()?;
    maps.tick = dataplane::tick(pin_dir, maps.maps.config.tick_shift)?;
    let known = Known { maps, flows: tables.flows()? };
    let status = match commands::read_status(&place.output, place.node_name.as_deref()) {
        Ok(object) => Some(object.status),
        Err(error) => {
            eprintln!("note: {error}: owners and reasons are left out");
            None
        }
    };
    print!("{}", commands::explain(&known, &flow, status.as_ref()));
    Ok(())
}

fn unload(pin_dir: &Path) -> Result<()> {
    let unloaded = dataplane::unload(pin_dir)?;
    if unloaded.maps == 0 {
        bail!("nothing was loaded in {}", pin_dir.display());
    }
    println!("removed: programs from {} links, {} maps", unloaded.links.len(), unloaded.maps);
    Ok(())
}
