//! What is missed while nobody listens, or while another takes over, is made up for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::Service, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use lb_api::crd::IPAddressPool;
use magnetite_tests::{api_server::ApiServer, lab::Controller, proxy::Proxy};
use serde_json::json;

use super::{PATIENCE, SYSTEM, Test, address, create, given, install, services, wait_for_log, with_log};

pub const TESTS: [(&str, Test); 4] = [
    ("definitions_that_are_deleted_take_no_address_away", definitions_that_are_deleted_take_no_address_away),
    ("what_is_compacted_under_a_watch_is_listed_anew", what_is_compacted_under_a_watch_is_listed_anew),
    ("connections_that_are_cut_lose_nothing", connections_that_are_cut_lose_nothing),
    ("a_change_of_leaders_moves_no_address_and_gives_none_twice", a_change_of_leaders_moves_no_address),
];

/// More addresses than the pool has at first.
async fn widen(client: &kube::Client) -> Result<()> {
    let wide = json!({"spec": {"addresses": ["198.51.100.0/24"]}});
    let pools: Api<IPAddressPool> = Api::namespaced(client.clone(), SYSTEM);
    pools.patch("main", &PatchParams::default(), &Patch::Merge(&wide)).await?;
    Ok(())
}

fn what_is_compacted_under_a_watch_is_listed_anew() -> Result<()> {
    let mut api = ApiServer::start()?;
    api.with_client(|client| async move { install(&client).await })?;
    let controller = Controller::start(&api)?;
    let serve = |name: &'static str| {
        api.with_client(|client| async move {
            create(&client, name, json!({})).await?;
            given(&client, name).await
        })
    };
    with_log(&api, serve("stays"))?;
    let gone = with_log(&api, serve("goes"))?;
    // While it hears nothing, one goes and one comes, and of that nothing is left but what is there.
    controller.freeze(true)?;
    api.with_client(|client| async move {
        services(&client).delete("goes", &DeleteParams::default()).await?;
        create(&client, "comes", json!({})).await
    })?;
    api.stop_server()?;
    api.compact()?;
    api.start_server()?;
    controller.freeze(false)?;
    let comes = with_log(&api, api.with_client(|client| async move { given(&client, "comes").await }))?;
    ensure!(address(&comes) == address(&gone), "the pool has two: {:?} {:?}", comes.status, gone.status);
    Ok(())
}

/// As when MetalLB's chart is uninstalled.
fn definitions_that_are_deleted_take_no_address_away() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move { install(&client).await })?;
    let controller = Controller::start(&api)?;
    let before = with_log(
        &api,
        api.with_client(|client| async move {
            create(&client, "web", json!({})).await?;
            let before = given(&client, "web").await?;
            let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
            for definition in definitions.list(&ListParams::default()).await? {
                let name = definition.metadata.name.context("a definition has a name")?;
                definitions.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(before)
        }),
    )?;
    with_log(&api, wait_for_log(&api, "what they said last holds until there is one"))?;
    api.with_client(|client| async move {
        let after = services(&client).get("web").await?;
        ensure!(address(&after) == address(&before), "{:?} {:?}", before.status, after.status);
        Ok(())
    })?;
    controller.terminate()
}

fn connections_that_are_cut_lose_nothing() -> Result<()> {
    const COUNT: usize = 60;
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        install(&client).await?;
        widen(&client).await
    })?;
    let proxy = Proxy::start(&api.namespace, api.address())?;
    let direct = fs::read_to_string(api.kubeconfig_of("controller")?)?;
    let through = api.dir().join("kubeconfig-through-proxy");
    fs::write(&through, direct.replace(&api.address().to_string(), &proxy.address.to_string()))?;
    let _controller = Controller::start_with(&api, &through)?;
    let given = with_log(
        &api,
        api.with_client(|client| async move {
            for number in 0..COUNT {
                create(&client, &format!("s{number}"), json!({})).await?;
                if number % 5 == 0 {
                    proxy.cut();
                }
            }
            let mut addresses = BTreeSet::new();
            for number in 0..COUNT {
                let service = given(&client, &format!("s{number}")).await?;
                addresses.extend(address(&service).map(str::to_owned));
            }
            Ok(addresses)
        }),
    )?;
    ensure!(given.len() == COUNT, "{} addresses for {COUNT} Services", given.len());
    Ok(())
}

fn a_change_of_leaders_moves_no_address() -> Result<()> {
    const COUNT: usize = 80;
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        install(&client).await?;
        widen(&client).await
    })?;
    let mut first = Some(Controller::start(&api)?);
    api.with_client(|client| async move {
        create(&client, "first", json!({})).await?;
        given(&client, "first").await
    })?;
    let _second = Controller::start(&api)?;
    let seen = with_log(
        &api,
        api.with_client(|client| async move {
            // All that anybody ever sees of a Service.
            let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            let mut told = watcher(services(&client), watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .boxed();
            for number in 0..COUNT {
                create(&client, &format!("s{number}"), json!({})).await?;
                if number == COUNT / 2 {
                    // Without a word, in the middle of its work.
                    drop(first.take());
                }
            }
            let all = async {
                while seen.len() < COUNT + 1 {
                    let service: Service = told.next().await.context("the watch has ended")??;
                    let name = service.metadata.name.clone().unwrap_or_default();
                    if let Some(address) = address(&service).filter(|_| name != "kubernetes") {
                        seen.entry(name).or_default().insert(address.to_owned());
                    }
                }
                anyhow::Ok(())
            };
            tokio::time::timeout(PATIENCE * 2, all).await.context("some get no address")??;
            Ok(seen)
        }),
    )?;
    ensure!(seen.values().all(|addresses| addresses.len() == 1), "an address has moved: {seen:?}");
    let given: BTreeSet<&String> = seen.values().flatten().collect();
    ensure!(given.len() == COUNT + 1, "{} addresses for {} Services", given.len(), COUNT + 1);
    Ok(())
}
