//! What others write into a Service's status is put right, whoever it was.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Client,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use magnetite_tests::{api_server::ApiServer, lab::Controller};
use serde_json::{Value, json};

use super::{PATIENCE, Test, address, create, given, install, services, told};

pub const TESTS: [(&str, Test); 2] = [
    ("a_status_that_somebody_else_empties_is_written_again", a_status_that_somebody_else_empties),
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
