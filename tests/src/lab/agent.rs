//! Agents: the real program, in a node's namespace.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{PipeReader, Write, pipe},
    net::SocketAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lb_agent::{commands::read_status, dataplane::Tables, output::NodeStatus};
use lb_common::Reason;

use super::{
    limits::Limits,
    namespace::{Namespace, run},
};

/// A node: its namespace, its agent, and where that keeps its things.
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub namespace: Namespace,
    /// Its MAC on the LAN.
    pub mac: String,
    /// Pins of its agent.
    pub pins: PathBuf,
    /// What its agent is started with, beside what every agent is.
    pub arguments: Vec<String>,
    /// Where objects come from.
    source: Vec<String>,
    /// Within which it is started, if within any.
    pub limits: Option<Limits>,
    /// Where its agent writes, as all others.
    pub output: PathBuf,
    /// What its agent keeps.
    pub state: PathBuf,
    log: PathBuf,
    agent: Option<Child>,
}

/// What `manifests/` gives an agent.
const CAPABILITIES: &str = "+bpf,+net_admin,+net_raw,+perfmon";

/// In each node's own namespace.
const METRICS: &str = "127.0.0.1:9120";

/// After this, something that was to happen has not.
const PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    /// Without an agent.
    pub fn new(name: &str, namespace: Namespace, mac: String, pins: PathBuf, dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            namespace,
            mac,
            pins,
            arguments: Vec::new(),
            source: vec!["--source".to_owned(), format!("file:{}", dir.join("objects").display())],
            limits: None,
            output: dir.join("output"),
            state: dir.join("state"),
            log: dir.join(format!("{name}.log")),
            agent: None,
        }
    }

    /// Its objects come from an API server.
    pub fn follow(&mut self, kubeconfig: &Path) {
        self.source = ["--source", "kube", "--kubeconfig"].map(str::to_owned).into();
        self.source.push(kubeconfig.display().to_string());
    }

    /// Starts the agent, and waits for its first pass.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_for_pass()
    }

    /// Starts the agent.
    pub fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.serve(&self.name)?;
        command.stderr(log.try_clone()?).stdout(log);
        let child = self.namespace.run(|| command.spawn().context("starting the agent"))?;
        self.agent = Some(child);
        Ok(())
    }

    /// Starts the agent with a log that is full and that nobody reads; it has a reader as long as what is returned.
    pub fn spawn_unread(&mut self) -> Result<PipeReader> {
        let (reader, mut writer) = pipe()?;
        // SAFETY: the descriptor is open.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
        ensure!(size > 0, "{}", std::io::Error::last_os_error());
        writer.write_all(&vec![b'.'; size as usize])?;
        let mut command = self.serve(&self.name)?;
        command.env("RUST_LOG", "trace").stderr(writer).stdout(Stdio::null());
        self.agent = Some(self.namespace.run(|| command.spawn().context("starting the agent"))?);
        Ok(reader)
    }

    fn serve(&self, name: &str) -> Result<Command> {
        // As in its pod: root, with these capabilities and no other.
        let mut command = match &self.limits {
            Some(limits) => limits.command("setpriv"),
            None => Command::new("setpriv"),
        };
        command
            .arg(format!("--bounding-set=-all,{CAPABILITIES}"))
            .args(["--inh-caps=-all", "--no-new-privs"]);
        command.arg(agent_program()?);
        command.arg("node").args(&self.source);
        command
            .args(["--node-name", name])
            .arg("--pin-dir")
            .arg(&self.pins)
            .arg("--output")
            .arg(&self.output)
            .arg("--state")
            .arg(&self.state)
            .args(["--metrics-bind", METRICS]);
        command.args(&self.arguments).env("NO_COLOR", "1");
        Ok(command)
    }

    /// One pass with `--once`, on the pins and in the namespace of this node.
    pub fn serve_once(&self, name: &str) -> Result<()> {
        let mut command = self.serve(name)?;
        self.namespace.run(|| run(command.arg("--once"))).map(drop)
    }

    /// Waits for the first pass of the agent that was started last.
    pub fn wait_for_pass(&mut self) -> Result<()> {
        let pid = self.agent.as_ref().map(Child::id);
        self.wait("the agent's first pass", |status| status.agent.as_ref().map(|agent| agent.pid) == pid)
            .map(drop)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
            agent.wait()?;
        }
        Ok(())
    }

    /// Stops the agent in the middle of whatever it does, or lets it go on.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        let agent = self.agent.as_ref().context("the agent does not run")?;
        let signal = if is_frozen { libc::SIGSTOP } else { libc::SIGCONT };
        // SAFETY: the process is ours, and has not been waited for.
        unsafe { libc::kill(agent.id() as i32, signal) };
        Ok(())
    }

    /// SIGTERM.
    pub fn terminate(&self) -> Result<()> {
        let agent = self.agent.as_ref().context("the agent does not run")?;
        // SAFETY: the process is ours, and has not been waited for.
        unsafe { libc::kill(agent.id() as i32, libc::SIGTERM) };
        Ok(())
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) -> Result<()> {
        if self.agent.is_some() {
            self.terminate()?;
        }
        self.wait_for_end()
    }

    /// Waits until the agent has ended.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = agent.try_wait()? {
                break status;
            }
            if begin.elapsed() > PATIENCE {
                self.agent = Some(agent);
                bail!("the agent of {} does not end:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if !status.success() {
            bail!("the agent of {} ended with {status}", self.name);
        }
        Ok(())
    }

    /// What the agent says of itself.
    pub fn status(&self) -> Result<NodeStatus> {
        Ok(read_status(&self.output, Some(&self.name))?.status)
    }

    /// What stands in a file below the output directory, which all nodes share; `None` if it is not there.
    pub fn document(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.output.join(path)).ok()
    }

    /// `lb-agent status members`, for scripts or for people.
    pub fn ask_members(&self, is_json: bool) -> Result<String> {
        let output = self.output.display().to_string();
        self.ask(&["status", "members", "-o", if is_json { "json" } else { "table" }, &output])
    }

    /// What the agent answers to a request of a path of its metrics' address, its header included.
    pub fn get(&self, path: &str) -> Result<String> {
        let url = format!("http://{METRICS}{path}");
        let output = self.namespace.command("curl", &["-s", "-S", "-i", &url])?;
        ensure!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The agent's series with their values.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.get("/metrics")?;
        ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
        let series = text.lines().filter(|line| line.starts_with('m')).map(|line| {
            let (series, value) = line.rsplit_once(' ').with_context(|| format!("{line:?} has no value"))?;
            Ok((series.to_owned(), value.parse()?))
        });
        series.collect()
    }

    /// Waits until the status is as it should be.
    pub fn wait(&mut self, what: &str, is_met: impl Fn(&NodeStatus) -> bool) -> Result<NodeStatus> {
        let begin = Instant::now();
        loop {
            if let Ok(status) = self.status()
                && is_met(&status)
            {
                return Ok(status);
            }
            if let Some(agent) = &mut self.agent
                && let Some(status) = agent.try_wait()?
            {
                bail!("the agent of {} has ended with {status}:\n{}", self.name, self.log_tail());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{} waits in vain for {what}:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the agent that was started last has written this to its log.
    pub fn wait_for_log(&self, text: &str) -> Result<()> {
        let begin = Instant::now();
        while !self.log().rsplit("data path opened").next().is_some_and(|log| log.contains(text)) {
            if begin.elapsed() > PATIENCE {
                bail!("{} does not say {text:?}:\n{}", self.name, self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What the agent has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        last_lines(&self.log(), 15)
    }

    /// The pinned maps.
    pub fn tables(&self) -> Result<Tables> {
        Ok(Tables::pinned(&self.pins)?)
    }

    /// Packets that were counted with a reason.
    pub fn count(&self, reason: Reason) -> Result<u64> {
        Ok(self.tables()?.reasons()?.get(&reason).map_or(0, |count| count.packets))
    }

    /// Bytes of the packets that were counted with any of these reasons.
    pub fn bytes(&self, of: &[Reason]) -> Result<u64> {
        let reasons = self.tables()?.reasons()?;
        Ok(of.iter().filter_map(|reason| reasons.get(reason)).map(|count| count.bytes).sum())
    }

    /// `lb-agent` with these arguments, in the node's namespace.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let program = agent_program()?;
        let output = self.namespace.run(|| run(Command::new(&program).args(arguments)))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `lb-agent status`, as a person sees it.
    pub fn ask_status(&self) -> Result<String> {
        let output = self.output.display().to_string();
        self.ask(&["status", "--output", &output, "--node-name", &self.name])
    }

    /// `lb-agent drain` with these arguments, begun.
    pub fn drain(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(agent_program()?);
        command
            .arg("drain")
            .args(arguments)
            .args(["--node-name", &self.name])
            .arg("--output")
            .arg(&self.output);
        command.stdout(Stdio::piped());
        self.namespace.run(|| command.spawn().context("starting lb-agent drain"))
    }

    /// `lb-agent explain` of a flow.
    pub fn explain(&self, client: SocketAddr, vip: SocketAddr) -> Result<String> {
        let (client, vip) = (client.to_string(), vip.to_string());
        let (pins, output) = (self.pins.display().to_string(), self.output.display().to_string());
        self.ask(&[
            "explain",
            &client,
            &vip,
            "--pin-dir",
            &pins,
            "--output",
            &output,
            "--node-name",
            &self.name,
        ])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.kill();
    }
}

/// The end of a log.
pub fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Beside the running program, or one directory up for tests.
pub fn agent_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let places = program.ancestors().skip(1).take(2).map(|dir| dir.join("lb-agent"));
    let found = places.into_iter().find(|path| path.exists());
    found.context("lb-agent is not built: cargo build --release --package lb-agent")
}
