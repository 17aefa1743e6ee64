//! A controller: the real program, beside an API server.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::agent::{agent_program, last_lines};
use crate::api_server::ApiServer;

/// A controller, as long as it is needed.
pub struct Controller {
    child: Child,
    log: PathBuf,
}

impl Controller {
    /// Starts one. All of an API server have one log.
    pub fn start(api: &ApiServer) -> Result<Self> {
        let log = api.dir().join("controller.log");
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(agent_program()?);
        command.args(["controller", "--kubeconfig"]).arg(api.kubeconfig()).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
        let child = api.namespace.run(|| command.spawn().context("starting the controller"))?;
        Ok(Self { child, log })
    }

    /// The end of what it said.
    pub fn log(&self) -> String {
        last_lines(&fs::read_to_string(&self.log).unwrap_or_default(), 30)
    }

    /// On SIGTERM it gives back its Lease, and ends.
    pub fn terminate(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the controller ended with {status}");
        Ok(())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
