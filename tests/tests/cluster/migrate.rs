//! A MetalLB installation in a real API server becomes ours, step by step, and nothing is lost.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use k8s_openapi::{
    api::core::v1::{Secret, Service},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use lb_api::crd::IPAddressPool;
use magnetite_tests::{
    api_server::{ApiServer, apply},
    lab::agent_program,
    manifests::{NAMESPACE as SYSTEM, apply_definitions},
};
use serde_json::{Value, json};

use super::Test;

pub const TESTS: [(&str, Test); 3] = [
    ("an_installation_is_taken_over_step_by_step", an_installation_is_taken_over_step_by_step),
    ("what_would_be_lost_is_not_lost_by_accident", what_would_be_lost_is_not_lost_by_accident),
    ("a_cluster_is_validated_like_files", a_cluster_is_validated_like_files),
];

/// What the agent says, asked for something about the cluster.
fn agent(api: &ApiServer, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(agent_program()?);
    command.args(arguments).args(["--source", "kube", "--kubeconfig"]).arg(api.kubeconfig());
    command.stdin(Stdio::null());
    api.namespace.run(|| command.output().context("starting the agent"))
}

fn backup(api: &ApiServer) -> PathBuf {
    api.dir().join("backup")
}

/// `migrate --apply`, and how it ended.
fn migrate(api: &ApiServer, more: &[&str]) -> Result<(bool, String)> {
    let backup = backup(api).display().to_string();
    let output = agent(api, &[&["migrate", "--apply", "--backup", &backup], more].concat())?;
    let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    Ok((output.status.success(), said))
}

/// Carries out what can be, and stops at somebody else's step.
fn stops_at(api: &ApiServer, step: &str) -> Result<String> {
    let (is_well, said) = migrate(api, &[])?;
    ensure!(is_well, "{said}");
    ensure!(said.contains(&format!("yours     {step}: ")), "it does not stop at {step}:\n{said}");
    Ok(said)
}

/// MetalLB as its chart installs it, without anything that runs.
async fn install_metallb(client: &Client) -> Result<()> {
    apply_definitions(client).await?;
    let asked =
        json!({"service": {"name": "metallb-webhook-service", "namespace": SYSTEM, "path": "/convert"}});
    let by_webhook = json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {
        "clientConfig": asked, "conversionReviewVersions": ["v1beta1", "v1beta2"],
    }}}});
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    crds.patch("bgppeers.metallb.io", &PatchParams::default(), &Patch::Merge(&by_webhook)).await?;
    let release = json!({"meta.helm.sh/release-name": "metallb", "meta.helm.sh/release-namespace": SYSTEM});
    for crd in crds.list_metadata(&ListParams::default()).await?.items {
        let name = crd.metadata.name.context("a definition has a name")?;
        let patch = json!({"metadata": {"annotations": release}});
        crds.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    for (kind, part) in [("Deployment", "controller"), ("DaemonSet", "speaker")] {
        let image = format!("quay.io/metallb/{part}:v0.14.9");
        apply(client, &workload(kind, &format!("metallb-{part}"), part, &image, &["--port=7472"])).await?;
    }
    apply(client, &record(1, true)?).await?;
    apply(
        client,
        &json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "memberlist", "namespace": SYSTEM, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "metallb-controller", "uid": "1"},
            ]},
            "stringData": {"secretkey": "known-to-nobody-else"},
        }),
    )
    .await?;
    apply(
        client,
        &object("metallb.io/v1beta1", "L2Advertisement", "main", json!({"ipAddressPools": ["main"]})),
    )
    .await?;
    apply(client, &pool(&["198.51.100.1-198.51.100.9"])).await?;
    let peer = json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1"});
    apply(client, &object("metallb.io/v1beta2", "BGPPeer", "router", peer)).await?;
    let webhook = |resource: &str, version: &str| {
        json!({
            "name": format!("{resource}.metallb.io"),
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 1,
            "clientConfig": {"service": {"name": "metallb-webhook-service", "namespace": SYSTEM, "path": "/validate"}},
            "rules": [{
                "apiGroups": ["metallb.io"], "apiVersions": [version],
                "operations": ["CREATE", "UPDATE"], "resources": [resource],
            }],
        })
    };
    let webhooks = [webhook("ipaddresspools", "v1beta1"), webhook("bgppeers", "v1beta2")];
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "metallb-webhook-configuration"},
        "webhooks": webhooks,
    });
    apply(client, &configuration).await?;
    for (name, address, annotations) in [
        ("web", "198.51.100.3", json!({"metallb.io/ip-allocated-from-pool": "main"})),
        ("eager", "198.51.100.4", json!({"magnetite.io/forwarding": "auto"})),
    ] {
        apply(
            client,
            &json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "default", "annotations": annotations},
                "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}]},
                "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
            }),
        )
        .await?;
    }
    Ok(())
}

fn object(api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": SYSTEM}, "spec": spec,
    })
}

fn pool(addresses: &[&str]) -> Value {
    object("metallb.io/v1beta1", "IPAddressPool", "main", json!({"addresses": addresses}))
}

fn workload(kind: &str, name: &str, part: &str, image: &str, arguments: &[&str]) -> Value {
    let labels =
        json!({"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": part, "name": name});
    let mut object = object(
        "apps/v1",
        kind,
        name,
        json!({
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": part, "image": image, "args": arguments}]},
            },
        }),
    );
    object["metadata"]["labels"] = labels;
    object
}

/// What Helm keeps of a release.
fn record(version: u32, has_definitions: bool) -> Result<Value> {
    let definition = "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: ipaddresspools.metallb.io\n";
    let manifest = if has_definitions { definition } else { "---\nkind: Service\n" };
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(json!({"name": "metallb", "manifest": manifest}).to_string().as_bytes())?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": format!("sh.helm.release.v1.metallb.v{version}"),
            "namespace": SYSTEM,
            "labels": {"owner": "helm", "name": "metallb", "version": version.to_string()},
        },
        "type": "helm.sh/release.v1",
        "stringData": {"release": STANDARD.encode(packed.finish()?)},
    }))
}

fn pools(client: &Client) -> Api<IPAddressPool> {
    Api::namespaced(client.clone(), SYSTEM)
}

fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "default")
}

/// Whether a pool can be changed.
async fn edit_pool(client: &Client) -> Result<()> {
    let patch = json!({"spec": {"addresses": ["198.51.100.1-198.51.100.8"]}});
    pools(client).patch("main", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Of each object what shows that it has been written.
async fn versions(client: &Client) -> Result<Vec<(String, Option<String>)>> {
    let mut versions = Vec::new();
    for (group, version, kind) in [
        ("", "v1", "Service"),
        ("", "v1", "Secret"),
        ("apps", "v1", "Deployment"),
        ("apps", "v1", "DaemonSet"),
        ("metallb.io", "v1beta1", "IPAddressPool"),
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in api.list_metadata(&ListParams::default()).await?.items {
            let name = format!("{kind} {}", object.metadata.name.unwrap_or_default());
            versions.push((name, object.metadata.resource_version));
        }
    }
    Ok(versions)
}

fn has_workload(client: &Client, kind: &str, name: &str) -> impl Future<Output = Result<bool>> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), SYSTEM, &resource);
    let name = name.to_owned();
    async move { Ok(api.get_opt(&name).await?.is_some()) }
}

fn an_installation_is_taken_over_step_by_step() -> Result<()> {
    let api = ApiServer::start()?;
    let before = api.with_client(|client| async move {
        install_metallb(&client).await?;
        ensure!(edit_pool(&client).await.is_err(), "the webhook lets everything through");
        versions(&client).await
    })?;

    let report = agent(&api, &["migrate", "-o", "json"])?;
    ensure!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    let text = String::from_utf8(report.stdout)?;
    ensure!(!text.contains("known-to-nobody-else"), "a secret is printed");
    let report: Value = serde_json::from_str(&text)?;
    let web =
        report["addresses"].as_array().into_iter().flatten().find(|one| one["service"] == "default/web");
    ensure!(
        web.is_some_and(|web| web["change"] == "none" && web["gets"] == json!(["198.51.100.3"])),
        "{web:?}"
    );
    let after = api.with_client(|client| async move { versions(&client).await })?;
    ensure!(before == after, "without --apply something is written");

    // Helm's record has the definitions in it: as long as it has, nothing that cannot be taken back is done.
    let said = stops_at(&api, "release")?;
    ensure!(said.contains("helm upgrade metallb "), "{said}");
    ensure!(backup(&api).join("ipaddresspool-metallb-system-main.yaml").exists(), "no pool in the backup");
    ensure!(
        backup(&api).join("daemonset-metallb-system-metallb-speaker.yaml").exists(),
        "no speaker in the backup"
    );
    let is_secret = std::fs::read_dir(backup(&api))?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .any(|text| text.contains("secretkey"));
    ensure!(!is_secret, "a Secret is in the backup");
    api.with_client(|client| async move {
        ensure!(edit_pool(&client).await.is_err(), "the webhook went too early");
        apply(&client, &record(2, false)?).await
    })?;

    stops_at(&api, "our-controller")?;
    api.with_client(|client| async move {
        ensure!(!has_workload(&client, "Deployment", "metallb-controller").await?, "two controllers");
        ensure!(has_workload(&client, "DaemonSet", "metallb-speaker").await?, "speakers went too early");
        edit_pool(&client).await.context("a pool is changed after the webhook is gone")?;
        let old = ApiResource::from_gvk(&GroupVersionKind::gvk("metallb.io", "v1beta1", "BGPPeer"));
        let old: Api<DynamicObject> = Api::namespaced_with(client.clone(), SYSTEM, &old);
        old.get("router").await.context("a BGPPeer of the other version")?;
        let secret = Api::<Secret>::namespaced(client.clone(), SYSTEM).get("memberlist").await?;
        ensure!(secret.metadata.owner_references.is_none(), "it goes with MetalLB's controller");
        let mut ours = workload(
            "Deployment",
            "controller",
            "controller",
            "magnetite.io/lb-agent:0.1.0",
            &["controller"],
        );
        ours["status"] = json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 1});
        apply(&client, &ours).await
    })?;
    run_controller(&api)?;

    stops_at(&api, "our-nodes")?;
    api.with_client(|client| async move {
        ensure!(!has_workload(&client, "DaemonSet", "metallb-speaker").await?, "speakers beside agents");
        let mut ours = workload("DaemonSet", "speaker", "speaker", "magnetite.io/lb-agent:0.1.0", &["node"]);
        ours["status"] =
            json!({"desiredNumberScheduled": 3, "numberReady": 3, "currentNumberScheduled": 3, "numberMisscheduled": 0});
        apply(&client, &ours).await
    })?;

    let (is_well, said) = migrate(&api, &[])?;
    ensure!(is_well && !said.contains("yours"), "{said}");
    ensure!(said.contains("any time  switch: ") && said.contains("2 on kube-proxy"), "{said}");
    let before = api.with_client(|client| async move {
        for (name, address, forwarding) in
            [("web", "198.51.100.3", "kernel"), ("eager", "198.51.100.4", "auto")]
        {
            let service = services(&client).get(name).await?;
            let found = service.metadata.annotations.clone().unwrap_or_default();
            ensure!(
                found.get("magnetite.io/forwarding").map(String::as_str) == Some(forwarding),
                "{name}: {found:?}"
            );
            ensure!(
                serde_json::to_value(&service.status)?["loadBalancer"]["ingress"][0]["ip"] == address,
                "{name}"
            );
        }
        // Its owner switches it by taking the annotation away.
        let patch = json!({"metadata": {"annotations": {"magnetite.io/forwarding": null}}});
        services(&client).patch("web", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        versions(&client).await
    })?;
    let (is_well, said) = migrate(&api, &[])?;
    ensure!(
        is_well && said.lines().all(|line| line.starts_with("done") || line.starts_with("any time")),
        "{said}"
    );
    let after = api.with_client(|client| async move { versions(&client).await })?;
    ensure!(before == after, "what is done is done again: {before:?}\n{after:?}");
    Ok(())
}

/// Our controller finds all as MetalLB's has left it.
fn run_controller(api: &ApiServer) -> Result<()> {
    let mut command = Command::new(agent_program()?);
    command.args(["controller", "--source", "kube", "--kubeconfig"]).arg(api.kubeconfig());
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
    let mut controller = api.namespace.run(|| command.spawn().context("starting the controller"))?;
    let given = api.with_client(|client| async move {
        let new: Service = serde_json::from_value(json!({
            "metadata": {"name": "new"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        }))?;
        services(&client).create(&PostParams::default(), &new).await?;
        let has_address = |service: Option<&Service>| {
            let status = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref());
            status.is_some_and(|status| status.ingress.iter().flatten().next().is_some())
        };
        let given = kube::runtime::wait::await_condition(services(&client), "new", has_address);
        tokio::time::timeout(std::time::Duration::from_secs(30), given)
            .await
            .context("no address for a new Service")??;
        Ok(())
    });
    controller.kill()?;
    controller.wait()?;
    given
}

fn what_would_be_lost_is_not_lost_by_accident() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        install_metallb(&client).await?;
        apply(&client, &record(2, false)?).await?;
        let advertisements =
            ApiResource::from_gvk(&GroupVersionKind::gvk("metallb.io", "v1beta1", "L2Advertisement"));
        let advertisements: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), SYSTEM, &advertisements);
        advertisements.delete("main", &Default::default()).await?;
        apply(&client, &object("metallb.io/v1beta1", "BGPAdvertisement", "main", json!({}))).await
    })?;
    let (is_well, said) = migrate(&api, &[])?;
    ensure!(!is_well && said.contains("default/eager, default/web"), "{said}");
    api.with_client(|client| async move {
        ensure!(has_workload(&client, "Deployment", "metallb-controller").await?, "it went on all the same");
        Ok(())
    })?;
    let (is_well, said) = migrate(&api, &["--accept-losses"])?;
    ensure!(is_well && said.contains("yours     our-controller: "), "{said}");
    Ok(())
}

fn a_cluster_is_validated_like_files() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        apply_definitions(&client).await?;
        apply(&client, &pool(&["198.51.100.1-198.51.100.9"])).await
    })?;
    let output = agent(&api, &["validate"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    api.with_client(|client| async move {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "default", "annotations": {"magnetite.io/forwarding": "sideways"}},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        });
        apply(&client, &service).await?;
        let mut stray = pool(&["203.0.113.1-203.0.113.9"]);
        stray["metadata"]["namespace"] = "default".into();
        apply(&client, &stray).await
    })?;
    let output = agent(&api, &["validate"])?;
    let said = String::from_utf8(output.stdout)?;
    for expected in [
        "error: cluster: Service default/web: metadata.annotations[magnetite.io/forwarding]: ",
        "error: cluster: IPAddressPool default/main: metadata.namespace: is not metallb-system, ",
    ] {
        ensure!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
    Ok(())
}
