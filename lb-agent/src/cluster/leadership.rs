//! A Lease in a cluster, and whether this process holds it.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use lb_core::election::{Action, Election, Record, Term};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::chain::chain;

/// A request that takes longer has failed: there must be time for another before the deadline.
const PATIENCE: Duration = Duration::from_secs(3);

/// A candidate for a Lease, which is looked after in a task of its own: whoever acts upon it may be busy.
pub struct Leadership {
    lease: Arc<Place>,
    /// Until when this process may act, if it is renewed no more.
    until: watch::Receiver<Option<Instant>>,
    task: JoinHandle<()>,
}

struct Place {
    api: Api<Lease>,
    name: String,
    me: String,
    term: Term,
}

impl Leadership {
    /// Begins to try for a Lease.
    ///
    /// # Errors
    /// The kernel has no random numbers, by which this process is told from others.
    pub fn begin(client: Client, namespace: &str, name: &str) -> io::Result<Self> {
        let place = Place {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: identity()?,
            term: Term::DEFAULT,
        };
        let lease = Arc::new(place);
        let (sender, until) = watch::channel(None);
        let task = tokio::spawn(hold(Arc::clone(&lease), sender));
        Ok(Self { lease, until, task })
    }

    /// Whether this process may act now.
    pub fn leads(&self, now: Instant) -> bool {
        self.until.borrow().is_some_and(|until| now < until)
    }

    /// Waits until the Lease was won, renewed or lost.
    pub async fn changed(&mut self) {
        if self.until.changed().await.is_err() {
            // The task does not end before this does.
            std::future::pending::<()>().await;
        }
    }

    /// Whether the Lease still says so: to be asked before what must not be done by two.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn confirm(&self) -> Result<bool, kube::Error> {
        // Whoever asks does nothing else meanwhile.
        let read = timeout(PATIENCE, self.lease.api.get_opt(&self.lease.name)).await;
        let read = read.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())));
        let holder = read?.and_then(|lease| lease.spec?.holder_identity);
        Ok(holder.as_ref() == Some(&self.lease.me) && self.leads(Instant::now()))
    }

    /// Gives the Lease back, so that another needs not wait until it has run out.
    pub async fn release(self) {
        self.task.abort();
        if !self.leads(Instant::now()) {
            return;
        }
        let Place { api, name, me, .. } = &*self.lease;
        let released = async {
            let Some(mut lease) = api.get_opt(name).await? else { return Ok(()) };
            if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(me)) {
                spec.holder_identity = Some(String::new());
                api.replace(name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(PATIENCE / 3, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(error = %chain(&error), "the Lease is not given back: it runs out");
            }
            Err(_) => tracing::info!("the Lease is not given back in time: it runs out"),
        }
    }
}

async fn hold(place: Arc<Place>, until: watch::Sender<Option<Instant>>) {
    let mut election = Election::new(place.me.clone(), place.term, Instant::now());
    let mut last: Option<Lease> = None;
    let mut holder = None;
    let mut is_failing = false;
    loop {
        while let Some(action) = election.poll(Instant::now()) {
            let done = match action {
                Action::Read => timeout(PATIENCE, place.api.get_opt(&place.name)).await.map(|read| {
                    read.map(|lease| {
                        election.handle_read(lease.as_ref().map(record), Instant::now());
                        last = lease;
                    })
                }),
                Action::Write { version, transitions } => {
                    let lease = place.lease(last.as_ref(), version, transitions);
                    timeout(PATIENCE, place.write(&lease)).await.map(|written| {
                        written.map(|lease| {
                            election.handle_written(record(&lease), Instant::now());
                            last = Some(lease);
                        })
                    })
                }
            };
            match done {
                Ok(Ok(())) => is_failing = false,
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                    // Another was faster.
                    election.handle_failed(Instant::now());
                }
                Ok(Err(error)) => {
                    if !is_failing {
                        tracing::warn!(
                            lease = place.name,
                            error = %chain(&error),
                            "neither read nor held: nobody allocates by it; it is tried again"
                        );
                    }
                    is_failing = true;
                    election.handle_failed(Instant::now());
                }
                Err(_) => election.handle_failed(Instant::now()),
            }
        }
        let now = Instant::now();
        let leads = election.leads(now);
        if election.holder() != holder.as_deref() {
            holder = election.holder().map(str::to_owned);
            tracing::info!(lease = place.name, holder, leads, "who controls");
        }
        until.send_replace(election.leads_until().filter(|_| leads));
        match election.poll_timeout(now) {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => return,
        }
    }
}

impl Place {
    fn lease(&self, last: Option<&Lease>, version: Option<String>, transitions: u32) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = last.and_then(|lease| lease.spec.as_ref());
        let held = spec.filter(|spec| spec.holder_identity.as_ref() == Some(&self.me));
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(self.term.lease.as_secs()).ok(),
                acquire_time: held.and_then(|spec| spec.acquire_time.clone()).or(Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: i32::try_from(transitions).ok(),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        match lease.metadata.resource_version {
            Some(_) => self.api.replace(&self.name, &PostParams::default(), lease).await,
            None => self.api.create(&PostParams::default(), lease).await,
        }
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    Record {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        transitions: spec
            .and_then(|spec| spec.lease_transitions)
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// For people the machine's name, for the Lease another one for each process.
fn identity() -> io::Result<String> {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer has as many bytes as are asked for.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err(io::Error::last_os_error());
    }
    Ok(format!("{}_{:016x}", machine.trim(), u64::from_ne_bytes(bytes)))
}
