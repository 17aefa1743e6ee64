//! The controller on files: what it gives is found again by the next one, and stays.

use std::{collections::BTreeMap, error::Error, fs, path::Path, time::Duration};

use lb_agent::controller::{self, Options};
use lb_api::Reading;
use lb_core::allocate::PoolEdit;
use serde_json::Value;

type Done = Result<(), Box<dyn Error>>;

const POOL: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: main, namespace: metallb-system}
spec: {addresses: [192.0.2.1-192.0.2.9]}
";

fn service(name: &str, created: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, creationTimestamp: '{created}'}}, \
         spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}"
    )
}

struct Place {
    source: tempfile::TempDir,
    output: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self, std::io::Error> {
        Ok(Self { source: tempfile::tempdir()?, output: tempfile::tempdir()? })
    }

    fn put(&self, file: &str, text: &str) -> Result<(), std::io::Error> {
        fs::write(self.source.path().join(file), text)
    }

    fn remove(&self, file: &str) -> Result<(), std::io::Error> {
        fs::remove_file(self.source.path().join(file))
    }

    /// A controller that begins anew, for one pass.
    fn run(&self) -> Result<(), Box<dyn Error>> {
        let options = Options {
            reading: Reading::default(),
            source: self.source.path().to_owned(),
            output: self.output.path().to_owned(),
            rest: Duration::from_secs(60),
            pool_edit: PoolEdit::Keep,
            once: true,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(controller::run(options))?)
    }

    fn read(&self, path: &str) -> Result<Value, Box<dyn Error>> {
        let path = self.output.path().join(path);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(serde_saphyr::from_str(&text)?)
    }

    /// The first address of each Service.
    fn given(&self) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
        let dir = self.output.path().join("Service/default");
        let mut given = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let service = self.read(&Path::new("Service/default").join(&name).to_string_lossy())?;
            let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or("none");
            given.insert(name.trim_end_matches(".yaml").to_owned(), ip.to_owned());
        }
        Ok(given)
    }
}

fn expected(given: &[(&str, &str)]) -> BTreeMap<String, String> {
    given.iter().map(|(name, ip)| ((*name).to_owned(), (*ip).to_owned())).collect()
}

#[test]
fn what_was_given_stays_whoever_comes_and_whatever_becomes_of_the_pool() -> Done {
    let place = Place::new()?;
    place.put("pool.yaml", POOL)?;
    place.put("b.yaml", &service("b", "2026-07-02T00:00:00Z"))?;
    place.run()?;
    assert_eq!(place.given()?, expected(&[("b", "192.0.2.1")]));
    let event = |of: &str| place.read(&format!("Event/default/{of}.controller.yaml"));
    assert_eq!(event("b.ipallocated")?["message"], "Assigned IP [\"192.0.2.1\"]");
    assert_eq!(place.read("IPAddressPool/metallb-system/main.yaml")?["status"]["availableIPv4"], 8);
    assert_eq!(place.read("ConfigurationState/metallb-system/controller.yaml")?["status"]["result"], "Valid");

    place.put("a.yaml", &service("a", "2026-07-01T00:00:00Z"))?;
    place.run()?;
    let both = expected(&[("a", "192.0.2.2"), ("b", "192.0.2.1")]);
    assert_eq!(place.given()?, both, "who is older comes too late");
    assert_eq!(event("b.ipallocated")?["count"], 1, "it is no news to the next controller");

    place.put("pool.yaml", &POOL.replace("192.0.2.1-", "192.0.2.2-"))?;
    place.run()?;
    assert_eq!(place.given()?, both);
    assert_eq!(event("b.addressstranded")?["type"], "Warning");

    place.remove("pool.yaml")?;
    place.run()?;
    assert_eq!(place.given()?, both);

    place.remove("a.yaml")?;
    place.remove("b.yaml")?;
    place.run()?;
    assert_eq!(place.given()?, both, "an empty source takes nothing away");
    let state = place.read("ConfigurationState/metallb-system/controller.yaml")?;
    assert_eq!(state["status"]["result"], "Invalid");
    Ok(())
}

#[test]
fn who_has_to_wait_is_told_once_and_served_when_somebody_goes() -> Done {
    let place = Place::new()?;
    place.put("pool.yaml", &POOL.replace("192.0.2.1-192.0.2.9", "192.0.2.1/32"))?;
    place.put("a.yaml", &service("a", "2026-07-01T00:00:00Z"))?;
    place.put("b.yaml", &service("b", "2026-07-02T00:00:00Z"))?;
    place.run()?;
    assert_eq!(place.given()?, expected(&[("a", "192.0.2.1")]));
    let failed = place.read("Event/default/b.allocationfailed.controller.yaml")?;
    assert_eq!((&failed["type"], &failed["involvedObject"]["name"]), (&"Warning".into(), &"b".into()));
    place.put("a.yaml", &service("a", "2026-07-01T00:00:00Z").replace("LoadBalancer", "ClusterIP"))?;
    place.run()?;
    assert_eq!(place.given()?, expected(&[("b", "192.0.2.1")]));
    Ok(())
}
