//! A real API server with its etcd, in a network namespace of its own, as long as a test needs it.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta},
};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::{
    lab::{Namespace, Run, clean, last_lines},
    manifests::NAMESPACE,
};

/// What `cargo xtask test cluster` builds.
pub const KUBERNETES_VERSION: &str = "1.34.2";

/// Nobody has it: the API server wants one that it can tell others, and its certificate is for it.
const ADVERTISED: &str = "203.0.113.1";
const PORT: u16 = 6443;
const ETCD_PORT: u16 = 2379;
const TOKEN: &str = "of-the-tests";
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// An API server.
pub struct ApiServer {
    /// Where it is.
    pub namespace: Namespace,
    address: IpAddr,
    dir: PathBuf,
    etcd: Option<Child>,
    server: Option<Child>,
    /// If the machine that it is on is there for it alone.
    run: Option<Run>,
}

/// Somebody whom an API server knows by a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// The name, which is its token as well.
    pub name: &'a str,
    /// What it belongs to.
    pub group: &'a str,
}

/// Where its programs are, if they were built.
pub fn programs() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    let dir = cache.join("magnetite").join(format!("kubernetes-{KUBERNETES_VERSION}"));
    ["etcd", "kube-apiserver"].iter().all(|name| dir.join(name).exists()).then_some(dir)
}

impl ApiServer {
    /// Starts etcd and an API server on a machine of their own, at 127.0.0.1, and waits until it is ready.
    pub fn start() -> Result<Self> {
        clean()?;
        let run = Run::begin()?;
        let names = run.machines();
        let namespace = Namespace::create(&names.namespace("api"))?;
        let dir = names.directory().join("api");
        let mut api = Self::start_on(namespace, Ipv4Addr::LOCALHOST.into(), dir)?;
        api.run = Some(run);
        Ok(api)
    }

    /// Starts both on a machine that has this address, with what they keep in a directory, and waits until the API server is ready.
    pub fn start_on(namespace: Namespace, address: IpAddr, dir: PathBuf) -> Result<Self> {
        Self::start_for(&[], namespace, address, dir)
    }

    /// The same; beside the tests it knows these.
    pub fn start_for(
        users: &[User<'_>],
        namespace: Namespace,
        address: IpAddr,
        dir: PathBuf,
    ) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let key = KeyPair::generate().context("a key for service accounts")?;
        fs::write(dir.join("accounts.key"), key.serialize_pem())?;
        fs::write(dir.join("accounts.pub"), key.public_key_pem())?;
        let mut tokens = format!("{TOKEN},tests,tests,\"system:masters\"\n");
        for User { name, group } in users {
            writeln!(tokens, "{name},{name},{name},\"{group}\"")?;
        }
        fs::write(dir.join("tokens.csv"), tokens)?;
        let mut api = Self { namespace, address, dir, etcd: None, server: None, run: None };
        let programs = programs().context("Kubernetes is not built: cargo xtask test cluster does it")?;
        let etcd = api.command(
            &programs.join("etcd"),
            &[
                format!("--data-dir={}", api.dir.join("etcd").display()),
                format!("--listen-client-urls=http://127.0.0.1:{ETCD_PORT}"),
                format!("--advertise-client-urls=http://127.0.0.1:{ETCD_PORT}"),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
                // What is lost with the machine is lost with the test.
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        api.etcd = Some(etcd);
        api.start_server()?;
        Ok(api)
    }

    /// Starts the API server, and waits until it is ready.
    pub fn start_server(&mut self) -> Result<()> {
        let programs = programs().context("Kubernetes is not built: cargo xtask test cluster does it")?;
        let path = |name: &str| self.dir.join(name).display().to_string();
        let server = self.command(
            &programs.join("kube-apiserver"),
            &[
                format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
                format!("--bind-address={}", self.address),
                format!("--secure-port={PORT}"),
                format!("--advertise-address={ADVERTISED}"),
                "--endpoint-reconciler-type=none".to_owned(),
                format!("--cert-dir={}", path("certs")),
                "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", path("accounts.pub")),
                format!("--service-account-signing-key-file={}", path("accounts.key")),
                format!("--token-auth-file={}", path("tokens.csv")),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement".to_owned(),
            ],
        )?;
        self.server = Some(server);
        self.wait_until_ready()
    }

    /// Ends the API server, and leaves etcd.
    pub fn stop_server(&mut self) -> Result<()> {
        end(&mut self.server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
    }

    /// Has etcd forget all that was and is no more.
    pub fn compact(&self) -> Result<()> {
        let ask = |path: &str, body: &Value| -> Result<Value> {
            let (url, body) = (format!("http://127.0.0.1:{ETCD_PORT}/v3/kv/{path}"), body.to_string());
            let output =
                self.namespace.command("curl", &["-s", "-S", "--fail-with-body", "-d", &body, &url])?;
            ensure!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stdout));
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        // Any key: what counts is the revision.
        let revision = ask("range", &json!({"key": "AA=="}))?["header"]["revision"].take();
        ask("compaction", &json!({"revision": revision, "physical": true})).map(drop)
    }

    /// A kubeconfig of somebody who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// A kubeconfig of one of the ServiceAccounts of `manifests/`, which have been applied: with the rights that a pod has.
    pub fn kubeconfig_of(&self, account: &'static str) -> Result<PathBuf> {
        let token = self.with_client(|client| async move {
            let accounts: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
            let (parameters, request) = (PostParams::default(), TokenRequest::default());
            let made = accounts.create_token_request(account, &parameters, &request).await;
            let status = made.with_context(|| format!("a token of {account}"))?.status;
            Ok(status.context("there is no token")?.token)
        })?;
        let path = self.dir.join(format!("kubeconfig-{account}"));
        fs::write(&path, self.kubeconfig_with(&token))?;
        Ok(path)
    }

    /// A kubeconfig of one of those for whom it was started.
    pub fn kubeconfig_of_user(&self, user: &User<'_>) -> Result<PathBuf> {
        let path = self.dir.join(format!("kubeconfig-{}", user.name.replace(':', "-")));
        fs::write(&path, self.kubeconfig_with(user.name))?;
        Ok(path)
    }

    /// What its certificate is known by.
    pub fn certificates(&self) -> PathBuf {
        self.dir.join("certs/apiserver.crt")
    }

    /// Where files of a test can be.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Does something in the API server's namespace, with a client of it.
    pub fn with_client<T: Send, F: Future<Output = Result<T>>>(
        &self,
        act: impl FnOnce(Client) -> F + Send,
    ) -> Result<T> {
        let kubeconfig = self.kubeconfig().display().to_string();
        self.namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { act(lb_agent::cluster::connect(Some(&kubeconfig)).await?).await })
        })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        fs::write(self.kubeconfig(), self.kubeconfig_with(TOKEN))?;
        let begin = Instant::now();
        loop {
            let is_ready = self.with_client(|client| async move {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                Ok(client.request_text(request).await?)
            });
            match is_ready {
                Ok(_) => return Ok(()),
                Err(error) if begin.elapsed() > PATIENCE => {
                    bail!("the API server is not ready: {error:#}\n{}", self.log())
                }
                Err(_) => {}
            }
            if let Some(status) = self.server.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("the API server has ended with {status}:\n{}", self.log());
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn kubeconfig_with(&self, token: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: it, contexts: [{{name: it, context: {{cluster: it, user: it}}}}], \
             users: [{{name: it, user: {{token: {token}}}}}], clusters: [{{name: it, cluster: {{server: 'https://{}:{PORT}', \
             tls-server-name: {ADVERTISED}, certificate-authority: '{}'}}}}]}}\n",
            self.address,
            self.certificates().display()
        )
    }

    fn log(&self) -> String {
        last_lines(&fs::read_to_string(self.dir.join("kube-apiserver.log")).unwrap_or_default(), 15)
    }

    /// Starts a program beside it, which has a log of its name.
    pub(crate) fn command(&self, program: &Path, arguments: &[String]) -> Result<Child> {
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        let log = File::options().create(true).append(true).open(self.dir.join(format!("{name}.log")))?;
        let mut command = Command::new(program);
        command.args(arguments).stderr(log.try_clone()?).stdout(log);
        self.namespace.run(|| command.spawn().with_context(|| format!("starting {name}")))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.etcd] {
            if let Err(error) = end(child) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Applies an object, and its status if it has one.
pub async fn apply(client: &Client, object: &Value) -> Result<()> {
    let api = api_of(client, object)?;
    let name = object["metadata"]["name"].as_str().context("an object has a name")?;
    let params = PatchParams::apply("tests").force();
    let mut spec = object.clone();
    let status = spec.as_object_mut().and_then(|fields| fields.remove("status"));
    let said = || format!("{} {name}", object["kind"]);
    api.patch(name, &params, &Patch::Apply(&spec)).await.with_context(said)?;
    if let Some(status) = status {
        // Two addresses of one type of a Node cannot be applied.
        let status = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &status).await.with_context(said)?;
    }
    Ok(())
}

/// Deletes an object.
pub async fn delete(client: &Client, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().context("an object has a name")?;
    api_of(client, object)?.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

fn api_of(client: &Client, object: &Value) -> Result<Api<DynamicObject>> {
    let types: TypeMeta =
        serde_json::from_value(json!({"apiVersion": object["apiVersion"], "kind": object["kind"]}))?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let namespace = object["metadata"]["namespace"].as_str();
    Ok(match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// On SIGTERM an API server waits for a minute.
fn end(child: &mut Option<Child>) -> Result<()> {
    let Some(mut child) = child.take() else { return Ok(()) };
    child.kill()?;
    let status = child.wait()?;
    ensure!(!status.success(), "it has ended by itself");
    Ok(())
}
