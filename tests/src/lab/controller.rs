//! A controller: the real program, beside an API server.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::agent::agent_program;
use crate::api_server::ApiServer;

/// A controller, as long as it is needed.
pub struct Controller(Child);

/// What all controllers of an API server have said.
pub fn controller_log(api: &ApiServer) -> String {
    fs::read_to_string(log_path(api)).unwrap_or_default()
}

fn log_path(api: &ApiServer) -> PathBuf {
    api.dir().join("controller.log")
}

impl Controller {
    /// Starts one as the ServiceAccount of its pods, with its rights and no more. All of an API server have one log.
    pub fn start(api: &ApiServer) -> Result<Self> {
        Self::start_with(api, &api.kubeconfig_of("controller")?)
    }

    /// The same with another kubeconfig.
    pub fn start_with(api: &ApiServer, kubeconfig: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log_path(api))?;
        let mut command = Command::new(agent_program()?);
        command.args(["controller", "--kubeconfig"]).arg(kubeconfig).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
        let child = api.namespace.run(|| command.spawn().context("starting the controller"))?;
        Ok(Self(child))
    }

    /// Stops it in the middle of whatever it does, or lets it go on.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        let signal = if is_frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        Ok(rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal)?)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// On SIGTERM it gives back its Lease, and ends.
    pub fn terminate(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "the controller ended with {status}");
        Ok(())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
