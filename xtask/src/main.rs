//! `cargo xtask …`: everything that is not `cargo build`.

mod command;
mod crds;
mod ebpf;
mod image;
mod kubernetes;
mod lab;
mod layout;
mod object_file;
mod setup;
mod test;
mod tidy;
mod toolchain;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Set-up, builds and tests of Magnetite.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Makes this machine able to build and test everything; says what it does.
    Setup {
        /// Only say what is missing; exit status 1 if anything is.
        #[arg(long)]
        check: bool,
    },
    /// Builds the BPF objects and holds them against the budget of stack and instructions.
    BuildEbpf,
    /// Runs the tests, after `setup` if something is missing. Ends with `N passed, N failed, N skipped`.
    Test {
        /// Levels to run; all if none is given.
        #[arg(value_enum)]
        levels: Vec<test::Level>,
    },
    /// Shows what Magnetite does, on a cluster in network namespaces: real agents, pods and clients. Needs root.
    Demo,
    /// A cluster in network namespaces to work in: `up`, `down`, `status`, `exec`; see `lab --help`. Needs root.
    Lab {
        /// What the lab is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What a packet costs, as ratios in one interleaved run; `bench failover`: how long a client waits for another owner; `bench spread`:
    /// how evenly clients come in by the nodes that a VIP is spread over; `bench cost`: what liveness costs a node of 500; `bench control`:
    /// how fast Services get addresses and endpoints come into the maps, next to MetalLB's controller, and what it costs. They need root. `bench liveness`: how fast and how rightly clusters of up to 500 nodes judge, simulated.
    Bench {
        /// What the benchmark is told: --json, --rounds N; failover --json, --runs N; spread --json, --clients N; cost --json, --nodes
        /// N, --seconds N; control --json, --services N, --without-metallb; liveness --json, --runs N, --hours N.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Writes the definitions of MetalLB's kinds into `manifests/crds`.
    Crds,
    /// Builds the container image: an archive with the static agent, for `ctr images import` or a registry. It needs no container daemon.
    Image {
        /// Where the archive is written; `target/image/lb-agent.tar` if it is not given.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Checks formatting, lints and the invariants that a program can check.
    Tidy,
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Arguments::parse().task {
        Task::Setup { check: true } => setup::check().map(done),
        Task::Setup { check: false } => setup::set_up().map(done),
        Task::BuildEbpf => ebpf::build().map(done),
        Task::Test { levels } => test::run(&levels).map(done),
        Task::Demo => lab::demo().map(ExitCode::from),
        Task::Lab { arguments } => lab::tell(&arguments).map(ExitCode::from),
        Task::Bench { arguments } => lab::bench(&arguments).map(ExitCode::from),
        Task::Crds => crds::write().map(done),
        Task::Image { output } => image::build(output.as_deref()).map(done),
        Task::Tidy => tidy::run().map(done),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
