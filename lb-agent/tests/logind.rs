//! Shutdown, as a logind of our own tells of it, on a message bus of our own.

use std::{
    fs,
    io::{PipeReader, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use lb_agent::logind::{Bus, Logind};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::{sync::mpsc, time::timeout};
use zbus::{Connection, connection::Builder, object_server::SignalEmitter};

/// After this, something that was to happen has not.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than [`PATIENCE`]: nothing is released because of it.
const LONG: Duration = Duration::from_secs(60);

type Test = fn(&mut Daemon) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("a_shutdown_waits_until_the_node_is_drained", a_shutdown_waits_until_the_node_is_drained),
    ("a_shutdown_does_not_wait_for_ever", a_shutdown_does_not_wait_for_ever),
    ("a_shutdown_can_be_called_off", a_shutdown_can_be_called_off),
    ("a_shutdown_that_has_begun_is_noticed", a_shutdown_that_has_begun_is_noticed),
    ("logind_may_come_later_and_again", logind_may_come_later_and_again),
];

fn main() {
    let arguments = Arguments::from_args();
    let has_daemon = Command::new("dbus-daemon").arg("--version").stdout(Stdio::null()).status().is_ok();
    let trials = TESTS.iter().map(|(name, test)| {
        if !has_daemon {
            return Trial::test(format!("{name} (no dbus-daemon)"), || Ok(())).with_ignored_flag(true);
        }
        let run = || test(&mut Daemon::new()?);
        Trial::test(*name, move || run().map_err(|error| Failed::from(format!("{error:#}"))))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// A message bus.
struct Daemon {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

const CONFIGURATION: &str = r#"<busconfig>
  <type>custom</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

impl Daemon {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let text = CONFIGURATION.replace("SOCKET", &dir.path().join("bus").display().to_string());
        fs::write(dir.path().join("bus.conf"), text)?;
        Ok(Self { dir, child: None })
    }

    fn start(&mut self) -> Result<()> {
        let configuration = self.dir.path().join("bus.conf");
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--config-file").arg(configuration).arg("--print-address");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        // It prints when it listens.
        let mut address = [0; 1];
        child.stdout.as_mut().context("a pipe")?.read_exact(&mut address)?;
        self.child = Some(child);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(fs::remove_file(self.socket()).or_else(|error| {
            if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
        })?)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("bus")
    }

    fn address(&self) -> String {
        address(&self.socket())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.stop();
    }
}

fn address(socket: &Path) -> String {
    format!("unix:path={}", socket.display())
}

/// The manager object of logind.
struct Manager {
    longest: Duration,
    is_shutting_down: bool,
    locks: mpsc::UnboundedSender<Lock>,
}

/// A lock that was taken.
struct Lock {
    arguments: [String; 4],
    /// At its end when the lock is released.
    end: PipeReader,
}

impl Lock {
    async fn released(mut self) -> Result<()> {
        let end = tokio::task::spawn_blocking(move || self.end.read(&mut [0]));
        ensure!(timeout(PATIENCE, end).await.context("the lock is held")??? == 0);
        Ok(())
    }
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn inhibit(
        &self,
        what: String,
        who: String,
        why: String,
        mode: String,
    ) -> zbus::fdo::Result<zbus::OwnedFd> {
        let (end, lock) = std::io::pipe().map_err(|error| zbus::fdo::Error::Failed(error.to_string()))?;
        let _ = self.locks.send(Lock { arguments: [what, who, why, mode], end });
        Ok(OwnedFd::from(lock).into())
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> u64 {
        self.longest.as_micros() as u64
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        self.is_shutting_down
    }

    #[zbus(signal)]
    async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
}

/// A logind, as long as it is held.
struct Login {
    connection: Connection,
    locks: mpsc::UnboundedReceiver<Lock>,
}

impl Login {
    async fn start(daemon: &Daemon, longest: Duration, is_shutting_down: bool) -> Result<Self> {
        let (sender, locks) = mpsc::unbounded_channel();
        let manager = Manager { longest, is_shutting_down, locks: sender };
        let connection = Builder::address(daemon.address().as_str())
            .serve_at("/org/freedesktop/login1", manager)
            .name("org.freedesktop.login1")
            .build()
            .await?;
        Ok(Self { connection, locks })
    }

    async fn lock(&mut self) -> Result<Lock> {
        let lock = timeout(PATIENCE, self.locks.recv()).await.context("nobody takes a lock")?;
        lock.context("logind has ended")
    }

    async fn shut_down(&self, start: bool) -> Result<()> {
        let emitter = SignalEmitter::new(&self.connection, "/org/freedesktop/login1")?;
        Ok(Manager::prepare_for_shutdown(&emitter, start).await?)
    }
}

fn attend(daemon: &Daemon) -> Logind {
    Logind::start(Bus::Address(daemon.address()))
}

async fn told(logind: &mut Logind) -> Result<Option<SystemTime>> {
    timeout(PATIENCE, logind.changed()).await.context("nothing is told")
}

/// A shutdown of which the node is told, and the lock that it holds meanwhile.
async fn begin_shutdown(login: &mut Login, logind: &mut Logind) -> Result<Lock> {
    let lock = login.lock().await?;
    login.shut_down(true).await?;
    ensure!(told(logind).await?.is_some(), "the node is not told");
    Ok(lock)
}

fn run(test: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test)
}

fn a_shutdown_waits_until_the_node_is_drained(daemon: &mut Daemon) -> Result<()> {
    daemon.start()?;
    run(async {
        let mut login = Login::start(daemon, LONG, false).await?;
        let mut logind = attend(daemon);
        let lock = login.lock().await?;
        let expected = ["shutdown", "magnetite", "VIPs move to other nodes first", "delay"];
        ensure!(lock.arguments == expected, "{:?}", lock.arguments);
        login.shut_down(true).await?;
        let until = told(&mut logind).await?.context("a shutdown begins")?;
        let left = until.duration_since(SystemTime::now())?;
        ensure!(left < LONG, "logind goes on before {left:?}");
        logind.set_drained(true);
        lock.released().await
    })
}

fn a_shutdown_does_not_wait_for_ever(daemon: &mut Daemon) -> Result<()> {
    daemon.start()?;
    run(async {
        let mut login = Login::start(daemon, Duration::from_millis(100), false).await?;
        let mut logind = attend(daemon);
        let lock = begin_shutdown(&mut login, &mut logind).await?;
        lock.released().await
    })
}

fn a_shutdown_can_be_called_off(daemon: &mut Daemon) -> Result<()> {
    daemon.start()?;
    run(async {
        let mut login = Login::start(daemon, LONG, false).await?;
        let mut logind = attend(daemon);
        let lock = begin_shutdown(&mut login, &mut logind).await?;
        logind.set_drained(true);
        lock.released().await?;
        login.shut_down(false).await?;
        ensure!(told(&mut logind).await?.is_none());
        // And the next.
        logind.set_drained(false);
        let lock = begin_shutdown(&mut login, &mut logind).await?;
        logind.set_drained(true);
        lock.released().await
    })
}

/// As an agent that was started again in the middle of it sees it.
fn a_shutdown_that_has_begun_is_noticed(daemon: &mut Daemon) -> Result<()> {
    daemon.start()?;
    run(async {
        let mut login = Login::start(daemon, LONG, true).await?;
        let mut logind = attend(daemon);
        ensure!(told(&mut logind).await?.is_some());
        ensure!(login.locks.try_recv().is_err(), "it is too late for a lock");
        Ok(())
    })
}

fn logind_may_come_later_and_again(daemon: &mut Daemon) -> Result<()> {
    run(async {
        let mut logind = attend(daemon);
        // Neither a bus, nor a logind on it, nor one that stays.
        tokio::task::yield_now().await;
        daemon.start()?;
        for round in 0..2 {
            let mut login = Login::start(daemon, LONG, false).await?;
            let lock = login.lock().await.with_context(|| format!("round {round}"))?;
            login.shut_down(true).await?;
            ensure!(told(&mut logind).await?.is_some());
            drop((login, lock));
            daemon.stop()?;
            daemon.start()?;
            let mut login = Login::start(daemon, LONG, false).await?;
            login.lock().await.with_context(|| format!("round {round}, another logind"))?;
            // The machine has not shut down after all.
            ensure!(told(&mut logind).await?.is_none());
            daemon.stop()?;
            daemon.start()?;
        }
        Ok(())
    })
}
