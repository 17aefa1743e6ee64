//! What others make of what was written is put right, whoever it was.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use lb_agent::{
    cluster::{OwnPod, There, Written},
    output::Document,
};
use lb_api::{
    ObjectKey,
    crd::{ConfigurationState, ServiceL2Status},
};
use magnetite_tests::{api_server::ApiServer, lab::Controller};
use serde_json::{Value, json};

use super::{PATIENCE, SYSTEM, Test, address, create, given, install, services, told};

pub const TESTS: [(&str, Test); 3] = [
    ("a_status_that_somebody_else_empties_is_written_again", a_status_that_somebody_else_empties),
    ("what_an_agent_alone_writes_is_its_pods_and_is_written_again", what_an_agent_alone_writes),
    ("what_metallb_has_written_is_taken_away_where_it_must_be", what_metallb_has_written_is_taken_away),
];

const ALLOCATED_FROM: &str = "metallb.io/ip-allocated-from-pool";

async fn patch_status(client: &Client, name: &str, status: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"status": status}));
    services(client).patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn a_status_that_somebody_else_empties() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        install(&client).await?;
        create(&client, "web", json!({})).await
    })?;
    let _controller = Controller::start(&api)?;
    told(
        &api,
        api.with_client(|client| async move {
            given(&client, "web").await?;
            patch_status(&client, "web", json!({"loadBalancer": null})).await?;
            let web = given(&client, "web").await?;
            ensure!(address(&web) == Some("198.51.100.1"), "{:?}", web.status);
            let other = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
            patch_status(&client, "web", other).await?;
            let is_right =
                |service: Option<&Service>| service.and_then(address).is_some_and(|ip| ip == "198.51.100.1");
            tokio::time::timeout(PATIENCE, await_condition(services(&client), "web", is_right))
                .await
                .context("an address that nobody has given stays")??;
            Ok(())
        }),
    )
}

/// As the ServiceAccount, where owners may be changed by those alone who may delete.
fn what_an_agent_alone_writes() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move { install(&client).await })?;
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig_of("speaker")?)?;
    told(
        &api,
        api.with_client(|admin| async move {
            let mut config =
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            // As in a pod.
            SYSTEM.clone_into(&mut config.default_namespace);
            let client = Client::try_from(config)?;
            // Two pods of a node, one after the other.
            let mut of_pod = ["first", "second"].map(|uid| {
                let pod = OwnPod { name: "speaker-x".to_owned(), uid: uid.to_owned() };
                Written::of_node(client.clone(), "magnetite-node", SYSTEM, Some(pod), "n1")
            });
            for written in &mut of_pod {
                write(written).await?;
            }
            let [_, written] = &mut of_pod;
            ensure!(owners(&admin).await? == [["second"]; 2], "{:?}", owners(&admin).await?);
            states(&admin).delete("speaker-n1", &DeleteParams::default()).await?;
            statuses(&admin).delete("l2-shop.web.n1", &DeleteParams::default()).await?;
            written.look(Instant::now() + PATIENCE);
            until_idle(written).await?;
            ensure!(written.recheck().is_some(), "it has not seen that anything is gone");
            write(written).await?;
            ensure!(owners(&admin).await? == [["second"]; 2], "{:?}", owners(&admin).await?);
            // What is there is left alone.
            written.look(Instant::now() + PATIENCE);
            until_idle(written).await?;
            ensure!(written.recheck().is_none(), "it misses what is there");
            Ok(())
        }),
    )
}

fn states(client: &Client) -> Api<ConfigurationState> {
    Api::namespaced(client.clone(), SYSTEM)
}

fn statuses(client: &Client) -> Api<ServiceL2Status> {
    Api::namespaced(client.clone(), SYSTEM)
}

/// What an agent alone writes, until it is written.
async fn write(written: &mut Written) -> Result<()> {
    let document = |kind: &str, name: &str, status: Value| Document {
        author: "n1".to_owned(),
        key: ObjectKey { kind: kind.to_owned(), namespace: SYSTEM.to_owned(), name: name.to_owned() },
        value: json!({
            "apiVersion": "metallb.io/v1beta1", "kind": kind,
            "metadata": {"name": name, "namespace": SYSTEM, "labels": {"metallb.io/node": "n1"}},
            "status": status,
        }),
    };
    let mut announced = document("ServiceL2Status", "l2-shop.web.n1", json!({"node": "n1"}));
    announced.value["spec"] = json!({});
    let documents = [document("ConfigurationState", "speaker-n1", json!({"result": "Valid"})), announced];
    written.want(documents, |_, _| There::default());
    until_idle(written).await
}

/// A right that is missing would be waited for without end.
async fn until_idle(written: &mut Written) -> Result<()> {
    let work = async {
        written.start(Instant::now());
        while !written.is_idle() {
            written.progress().await;
            written.start(Instant::now());
        }
    };
    tokio::time::timeout(PATIENCE, work).await.context("it is not written")
}

/// UIDs of the owners of both.
async fn owners(client: &Client) -> Result<[Vec<String>; 2]> {
    let of = |metadata: ObjectMeta| -> Vec<String> {
        metadata.owner_references.into_iter().flatten().map(|owner| owner.uid).collect()
    };
    let state = states(client).get("speaker-n1").await?;
    let status = statuses(client).get("l2-shop.web.n1").await?;
    Ok([state.metadata, status.metadata].map(of))
}

/// MetalLB updates whole objects: what it has written is its own field by field, and to apply nothing takes nothing of that away.
fn what_metallb_has_written_is_taken_away() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        install(&client).await?;
        create(&client, "web", json!({})).await?;
        let mut web = services(&client).get("web").await?;
        let annotations = [(ALLOCATED_FROM, "main"), ("metallb.io/loadBalancerIPs", "203.0.113.77")];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
        web.metadata.annotations = Some(annotations.into());
        web.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}))?;
        let metallb = PostParams { field_manager: Some("controller".to_owned()), ..PostParams::default() };
        let status = web.status.clone();
        let known = services(&client).replace("web", &metallb, &web).await?;
        services(&client).replace_status("web", &metallb, &Service { status, ..known }).await?;
        Ok(())
    })?;
    let _controller = Controller::start(&api)?;
    told(
        &api,
        api.with_client(|client| async move {
            // What it asks for cannot be had, and so it may not keep another, as with MetalLB.
            let is_bare = |service: Option<&Service>| {
                service.is_some_and(|service| {
                    address(service).is_none()
                        && !service
                            .metadata
                            .annotations
                            .iter()
                            .flatten()
                            .any(|(name, _)| name == ALLOCATED_FROM)
                })
            };
            tokio::time::timeout(PATIENCE, await_condition(services(&client), "web", is_bare))
                .await
                .context("the address stays in the status")??;
            Ok(())
        }),
    )
}
