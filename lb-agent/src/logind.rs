//! Shutdown of the machine: logind tells before, and waits for a while until this node is drained (systemd: "Inhibitor Locks",
//! `org.freedesktop.login1(5)`).

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tokio::{sync::watch, task::AbortHandle};
use zbus::{OwnedFd, connection::Builder, proxy::CacheProperties};

/// Where logind is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// The machine's system bus; its address can be set with `DBUS_SYSTEM_BUS_ADDRESS`.
    #[default]
    System,
    /// Another, by its address.
    Address(String),
}

/// Tells when the machine shuts down, and holds that up; as long as it is held.
pub struct Logind {
    shutdown: watch::Receiver<Option<SystemTime>>,
    is_drained: watch::Sender<bool>,
    task: AbortHandle,
}

/// After the first failure, the next attempt comes so much later, then twice as long, and so on.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// No longer than that.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// After this, an answer does not come any more.
const PATIENCE: Duration = Duration::from_secs(10);

impl Logind {
    /// Begins to attend. That there is no logind is no error: it is logged once, and looked for again and again.
    pub fn start(bus: Bus) -> Self {
        let (sender, shutdown) = watch::channel(None);
        let (is_drained, receiver) = watch::channel(false);
        let attendant = Attendant { bus, shutdown: sender, is_drained: receiver };
        Self { shutdown, is_drained, task: tokio::spawn(attendant.run()).abort_handle() }
    }

    /// Waits until a shutdown begins, or is called off. Until when it can be held up, or `None`.
    pub async fn changed(&mut self) -> Option<SystemTime> {
        if self.shutdown.changed().await.is_err() {
            // Nobody attends any more.
            std::future::pending::<()>().await;
        }
        *self.shutdown.borrow_and_update()
    }

    /// Whether nothing keeps this node from shutting down.
    pub fn set_drained(&self, is_drained: bool) {
        self.is_drained.send_replace(is_drained);
    }
}

impl Drop for Logind {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> zbus::Result<bool>;
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

struct Attendant {
    bus: Bus,
    shutdown: watch::Sender<Option<SystemTime>>,
    is_drained: watch::Receiver<bool>,
}

impl Attendant {
    async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        let mut is_said = false;
        loop {
            let mut was_there = false;
            let error = match self.attend(&mut was_there).await {
                Ok(()) => "the connection has ended".to_owned(),
                Err(error) => error.to_string(),
            };
            if was_there {
                (wait, is_said) = (FIRST_WAIT, false);
            }
            if !is_said {
                tracing::info!(%error, "no logind: a shutdown of the machine does not wait until this node is drained; tried again");
                is_said = true;
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }

    /// Until the connection ends.
    async fn attend(&mut self, was_there: &mut bool) -> zbus::Result<()> {
        let Self { bus, shutdown, is_drained } = self;
        let builder = match bus {
            Bus::System => Builder::system(),
            Bus::Address(address) => Builder::address(address.as_str()),
        };
        let connection = builder.method_timeout(PATIENCE).build().await?;
        let manager =
            ManagerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?;
        // First: a shutdown that begins meanwhile is heard of.
        let mut signals = manager.receive_prepare_for_shutdown().await?;
        // It is said at the time of the shutdown what holds then; but then is no time to ask.
        let longest = Duration::from_micros(manager.inhibit_delay_max_usec().await?);
        // Released a little before logind would go on anyway.
        let longest = longest - longest / 10;
        let is_late = manager.preparing_for_shutdown().await?;
        let mut lock = if is_late { None } else { Some(inhibit(&manager).await?) };
        *was_there = true;
        let mut until = is_late.then(|| begin(shutdown, longest));
        if !is_late {
            call_off(shutdown);
            tracing::info!(
                seconds = longest.as_secs_f32(),
                "logind waits with a shutdown of the machine until this node is drained, at most so long"
            );
        }
        loop {
            let holds_up = lock.is_some() && until.is_some();
            let deadline = until.unwrap_or_else(tokio::time::Instant::now);
            tokio::select! {
                signal = signals.next() => match signal {
                    None => return Ok(()),
                    Some(signal) if signal.args()?.start => until = Some(begin(shutdown, longest)),
                    Some(_) => {
                        until = None;
                        call_off(shutdown);
                        if lock.is_none() {
                            lock = Some(inhibit(&manager).await?);
                        }
                    }
                },
                is_told = drained(is_drained), if holds_up => {
                    if !is_told {
                        return Ok(());
                    }
                    tracing::info!("drained: the shutdown of the machine goes on");
                    lock = None;
                }
                () = tokio::time::sleep_until(deadline), if holds_up => {
                    tracing::warn!("not drained: the shutdown of the machine goes on nevertheless, for logind waits no longer");
                    lock = None;
                }
            }
        }
    }
}

/// Waits until nothing keeps this node; `false` if nobody is there any more to say so.
async fn drained(is_drained: &mut watch::Receiver<bool>) -> bool {
    is_drained.wait_for(|is_drained| *is_drained).await.is_ok()
}

/// The shutdown begins; until when it is held up.
fn begin(shutdown: &watch::Sender<Option<SystemTime>>, longest: Duration) -> tokio::time::Instant {
    shutdown.send_replace(Some(SystemTime::now() + longest));
    tokio::time::Instant::now() + longest
}

/// There is no shutdown.
fn call_off(shutdown: &watch::Sender<Option<SystemTime>>) {
    shutdown.send_if_modified(|until| until.take().is_some());
}

/// The lock, which ends when it is closed.
async fn inhibit(manager: &ManagerProxy<'_>) -> zbus::Result<OwnedFd> {
    manager.inhibit("shutdown", "magnetite", "VIPs move to other nodes first", "delay").await
}
