//! What Services have been given, found again in the objects that were written.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, sync::Arc};

use k8s_openapi::api::core::v1;
use lb_api::ALLOCATED_FROM;
use lb_core::{
    allocate::Allocation,
    model::{ObjectName, Snapshot},
};

/// Addresses of Services and the pool that they are of, as written last: the files of a source say nothing of that.
#[derive(Debug, Default)]
pub struct Given(BTreeMap<ObjectName, Held>);

#[derive(Debug)]
struct Held {
    addresses: Vec<IpAddr>,
    pool: Option<String>,
}

impl Given {
    /// What an earlier controller has written below a directory. A file that cannot be read is logged, and its Service has nothing.
    pub fn load(output: &Path) -> Self {
        let mut given = Self::default();
        for path in files(&output.join("Service")) {
            match read(&path) {
                Ok(service) => given.0.extend(of(service)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "what the Service was given is not known");
                }
            }
        }
        given
    }

    /// Services that say nothing of what they have are told.
    pub fn fill_in(&self, snapshot: &mut Snapshot) {
        for (name, Held { addresses, pool }) in &self.0 {
            if let Some(service) =
                snapshot.services.get_mut(name).filter(|service| service.ingress.is_empty())
            {
                let service = Arc::make_mut(service);
                service.ingress.clone_from(addresses);
                service.held_pool.clone_from(pool);
            }
        }
    }

    /// From now on Services have this.
    pub fn set(&mut self, allocation: &Allocation) {
        let of = |(name, addresses): (&ObjectName, &Vec<IpAddr>)| {
            let held = Held { addresses: addresses.clone(), pool: allocation.pools.get(name).cloned() };
            (name.clone(), held)
        };
        self.0 = allocation.addresses.iter().map(of).collect();
    }

    /// Whether nobody has anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn of(service: v1::Service) -> Option<(ObjectName, Held)> {
    let name =
        ObjectName { namespace: service.metadata.namespace?.into(), name: service.metadata.name?.into() };
    let ingress = service.status?.load_balancer?.ingress.unwrap_or_default();
    let addresses: Vec<IpAddr> = ingress.into_iter().filter_map(|entry| entry.ip?.parse().ok()).collect();
    let pool = service.metadata.annotations.and_then(|mut all| all.remove(ALLOCATED_FROM));
    (!addresses.is_empty()).then_some((name, Held { addresses, pool }))
}

fn read(path: &Path) -> Result<v1::Service, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    serde_saphyr::from_str(&text)
        .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
}

/// `<namespace>/<name>.yaml` below a directory, if there is any.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries(dir).flat_map(|namespace| entries(&namespace).collect::<Vec<_>>());
    files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect()
}
