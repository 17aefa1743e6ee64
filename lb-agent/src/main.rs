//! `lb-agent`: the node's agent, and what is asked of it.

mod installation;
mod log;
mod metallb;
mod roles;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_agent::{
    commands::{self, Flow, Known, ProtocolName},
    dataplane::{self, Tables},
    memory::Allocator,
    network::{self, Netlink},
};
use lb_common::layout::FlowLine;
use lb_core::host::HostMaps;

use installation::{MigrateArguments, ObjectsArguments};
use roles::{ControllerArguments, NodeArguments, OUTPUT};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

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
    Node(Box<NodeArguments>),
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
    #[arg(long, env = "MAGNETITE_PIN_DIR", default_value = "/sys/fs/bpf/magnetite")]
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

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

fn main() -> ExitCode {
    let (Arguments { command }, ignored) = metallb::parse(env::args_os());
    // Who serves, or is in the middle of something, outlives whoever reads what it says.
    let serves = match &command {
        Command::Node(arguments) => arguments.serves(),
        Command::Controller(arguments) => arguments.serves(),
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
        Command::Node(arguments) => roles::serve(&arguments, &ignored).map(|()| ExitCode::SUCCESS),
        Command::Controller(arguments) => roles::control(&arguments, &ignored).map(|()| ExitCode::SUCCESS),
        Command::Validate(objects) => installation::validate(objects),
        Command::Migrate(arguments) => installation::migrate(arguments).map(|()| ExitCode::SUCCESS),
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
