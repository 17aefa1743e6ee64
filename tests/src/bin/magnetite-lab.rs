//! A lab to work in: it stays up until it is told to end.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use lb_agent::commands::end_with_reader;
use magnetite_tests::lab::{Lab, Machines, agent_program, clean, early_log, last_lines, runs};
use tokio::signal::unix::{SignalKind, signal};

/// A cluster in network namespaces: nodes n1 to n3 with agents, clients c1 to c3, the router r, the switch lan, pods p1 to p7.
#[derive(Parser)]
#[command(name = "cargo xtask lab", bin_name = "cargo xtask lab")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Makes a lab, and returns when it serves.
    Up,
    /// Ends a lab.
    Down {
        /// Its id, if there are several.
        #[arg(long)]
        lab: Option<String>,
    },
    /// What the labs are, and what their agents say.
    Status,
    /// Runs a command on a machine: exec c1 curl http://192.0.2.200
    Exec {
        /// The lab's id, if there are several.
        #[arg(long)]
        lab: Option<String>,
        /// The machine: n1, c1, r, lan, p1 and so on.
        machine: String,
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Makes a lab, and ends it at SIGTERM.
    #[command(hide = true)]
    Serve,
}

const READY: &str = "ready: lab ";

fn main() -> Result<()> {
    let task = Arguments::parse().command;
    // The lab that serves outlives whoever reads what it says.
    if !matches!(task, Task::Serve) {
        end_with_reader();
    }
    match task {
        Task::Up => up(),
        Task::Down { lab } => down(lab),
        Task::Status => status(),
        Task::Exec { lab, machine, command } => exec(lab, &machine, &command),
        Task::Serve => serve(),
    }
}

fn up() -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    // Of a session of its own: what ends the terminal does not end the lab.
    command.arg("serve").process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
    // And whoever reads our output does not wait for the lab's end.
    let log = early_log()?;
    let mut child = command.stderr(File::create(&log)?).spawn()?;
    let stdout = child.stdout.take().context("the output is a pipe")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(id) = line.strip_prefix(READY) {
            fs::rename(&log, Machines::of(id).directory().join("lab.log"))?;
            println!("lab {id} serves 192.0.2.200 and 2001:db8:0:1::200, TCP and UDP port 80");
            println!("try: cargo xtask lab exec c1 curl http://192.0.2.200/");
            println!("     cargo xtask lab exec c1 ping 192.0.2.200");
            println!("     cargo xtask lab status");
            println!("     edit {}", Machines::of(id).directory().join("objects").display());
            println!("     cargo xtask lab down");
            return Ok(());
        }
    }
    let status = child.wait()?;
    let said = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    bail!("the lab has ended before it was ready, {status}:\n{}", last_lines(&said, 15));
}

#[tokio::main(flavor = "current_thread")]
async fn serve() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let lab = Lab::up()?;
    println!("{READY}{}", lab.id());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(lab);
    Ok(())
}

fn down(lab: Option<String>) -> Result<()> {
    clean()?;
    let (id, pid) = choose(lab)?;
    // SAFETY: the process holds the lab's lock, so it is the lab's.
    if unsafe { libc::kill(pid as i32, libc::SIGTERM) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("ending process {pid}"));
    }
    let begin = Instant::now();
    while Machines::of(&id).directory().exists() {
        if begin.elapsed() > Duration::from_secs(30) {
            bail!("lab {id} does not end; its process is {pid}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("lab {id} is down");
    Ok(())
}

fn status() -> Result<()> {
    for (id, pid) in labs()? {
        let machines = Machines::of(&id);
        println!("lab {id}, process {pid}, {}", machines.directory().display());
        let mut nodes: Vec<PathBuf> = fs::read_dir(machines.directory().join("output/NodeStatus"))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        nodes.sort();
        for node in nodes.iter().filter_map(|path| path.file_stem()?.to_str()) {
            println!();
            let mut command = Command::new(agent_program()?);
            command
                .args(["status", "--node-name", node, "--output"])
                .arg(machines.directory().join("output"));
            command.status()?;
        }
    }
    Ok(())
}

fn exec(lab: Option<String>, machine: &str, command: &[String]) -> Result<()> {
    let (id, _) = choose(lab)?;
    let path = PathBuf::from("/run/netns").join(Machines::of(&id).namespace(machine));
    if !path.exists() {
        bail!("lab {id} has no machine {machine}");
    }
    // Not `ip netns exec`, which hides the BPF file system.
    let net = format!("--net={}", path.display());
    Err(Command::new("nsenter").arg(net).arg("--").args(command).exec()).context("starting nsenter")
}

/// The labs that were made by `up`.
fn labs() -> Result<Vec<(String, u32)>> {
    let mut labs = runs()?;
    labs.retain(|(_, pid)| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "magnetite-lab")
    });
    Ok(labs)
}

fn choose(lab: Option<String>) -> Result<(String, u32)> {
    let mut labs = labs()?;
    if let Some(lab) = &lab {
        labs.retain(|(id, _)| id == lab);
    }
    match labs.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("there is no such lab: cargo xtask lab up makes one"),
        _ => {
            let ids: Vec<&str> = labs.iter().map(|(id, _)| id.as_str()).collect();
            bail!("there are several labs, choose with --lab: {}", ids.join(", "))
        }
    }
}
