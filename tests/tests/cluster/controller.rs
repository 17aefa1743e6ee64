//! The controller and a real API server.

mod gaps;
mod others;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Service},
    rbac::v1::ClusterRole,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use lb_api::{
    TABLE_SIZE,
    crd::{ConfigurationState, IPAddressPool},
};
use magnetite_tests::{
    api_server::{ApiServer, apply},
    lab::{Controller, controller_log as log_of, last_lines},
    manifests::{self, NAMESPACE as SYSTEM},
};
use serde_json::{Value, json};

use super::Test;

const PATIENCE: Duration = Duration::from_secs(30);

const TESTS: [(&str, Test); 5] = [
    ("services_get_addresses_and_keep_them", services_get_addresses_and_keep_them),
    (
        "of_two_controllers_one_acts_and_the_other_takes_over",
        of_two_controllers_one_acts_and_the_other_takes_over,
    ),
    (
        "an_api_server_that_goes_and_comes_is_followed_again",
        an_api_server_that_goes_and_comes_is_followed_again,
    ),
    ("a_table_grows_by_a_word_that_all_nodes_hear", a_table_grows_by_a_word_that_all_nodes_hear),
    (
        "a_right_that_is_missing_is_named_until_it_is_given",
        a_right_that_is_missing_is_named_until_it_is_given,
    ),
];

pub fn tests() -> impl Iterator<Item = (&'static str, Test)> {
    TESTS.into_iter().chain(gaps::TESTS).chain(others::TESTS)
}

/// With what it said, if it fails; nothing may have been refused to it.
fn told<T>(api: &ApiServer, result: Result<T>) -> Result<T> {
    let allowed = result.and_then(|done| {
        ensure!(!log_of(api).contains("is forbidden"), "a right is missing");
        Ok(done)
    });
    with_log(api, allowed)
}

fn with_log<T>(api: &ApiServer, result: Result<T>) -> Result<T> {
    result.with_context(|| last_lines(&log_of(api), 30))
}

/// All of `manifests/`, and a pool of two addresses.
async fn install(client: &Client) -> Result<()> {
    manifests::apply(client).await?;
    let pool = json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "IPAddressPool",
        "metadata": {"name": "main"},
        "spec": {"addresses": ["198.51.100.1-198.51.100.2"]},
    });
    Api::<IPAddressPool>::namespaced(client.clone(), SYSTEM)
        .patch("main", &PatchParams::apply("tests").force(), &Patch::Apply(&pool))
        .await?;
    Ok(())
}

async fn create(client: &Client, name: &str, spec: Value) -> Result<()> {
    let mut service =
        json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    if let (Value::Object(fields), Value::Object(more)) = (&mut service["spec"], spec) {
        fields.extend(more);
    }
    let service: Service = serde_json::from_value(service)?;
    services(client).create(&PostParams::default(), &service).await?;
    Ok(())
}

fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "default")
}

fn address(service: &Service) -> Option<&str> {
    service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.as_deref()
}

/// Waits until a Service has an address.
async fn given(client: &Client, name: &str) -> Result<Service> {
    let has_address = |service: Option<&Service>| service.is_some_and(|service| address(service).is_some());
    let waited = tokio::time::timeout(PATIENCE, await_condition(services(client), name, has_address)).await;
    match waited {
        Ok(service) => service?.with_context(|| format!("Service {name} is gone")),
        Err(_) => bail!("Service {name} gets no address"),
    }
}

fn services_get_addresses_and_keep_them() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        install(&client).await?;
        create(&client, "early", json!({})).await
    })?;
    let controller = Controller::start(&api)?;
    told(
        &api,
        api.with_client(|client| async move {
            let early = given(&client, "early").await?;
            ensure!(address(&early) == Some("198.51.100.1"), "{:?}", early.status);
            let annotations = early.metadata.annotations.clone().unwrap_or_default();
            let pool = annotations.get("metallb.io/ip-allocated-from-pool").map(String::as_str);
            ensure!(pool == Some("main"), "{annotations:?}");
            create(&client, "asks", json!({"loadBalancerIP": "198.51.100.2"})).await?;
            given(&client, "asks").await?;
            create(&client, "waits", json!({})).await?;
            let failed = |events: &[Event]| {
                events.iter().any(|event| event.reason.as_deref() == Some("AllocationFailed"))
            };
            wait_for_events(&client, "waits", failed).await?;
            let events = events(&client, "early").await?;
            ensure!(events.iter().any(|event| event.reason.as_deref() == Some("IPAllocated")), "{events:?}");
            ensure!(
                events.iter().all(|event| event.involved_object.uid == early.metadata.uid),
                "kubectl describe finds them by it"
            );
            let states: Api<ConfigurationState> = Api::namespaced(client.clone(), SYSTEM);
            ensure!(
                states.get_opt("controller").await?.is_some_and(|state| state.status.is_some()),
                "no state"
            );
            let pools: Api<IPAddressPool> = Api::namespaced(client.clone(), SYSTEM);
            let full = |pool: Option<&IPAddressPool>| {
                pool.and_then(|pool| pool.status.as_ref())
                    .is_some_and(|status| status.assigned_ipv4 == 2 && status.available_ipv4 == 0)
            };
            tokio::time::timeout(PATIENCE, await_condition(pools, "main", full))
                .await
                .context("status of the pool")??;
            Ok(())
        }),
    )?;

    // The next controller finds all as it was; whoever waited gets what is given up.
    controller.terminate()?;
    let _controller = Controller::start(&api)?;
    told(
        &api,
        api.with_client(|client| async move {
            services(&client).delete("early", &DeleteParams::default()).await?;
            let waits = given(&client, "waits").await?;
            ensure!(address(&waits) == Some("198.51.100.1"), "{:?}", waits.status);
            let asks = given(&client, "asks").await?;
            ensure!(address(&asks) == Some("198.51.100.2"), "{:?}", asks.status);

            // Of another type, it gives up what it had.
            create(&client, "next", json!({})).await?;
            let other_type = json!({"spec": {"type": "ClusterIP"}});
            services(&client).patch("asks", &PatchParams::default(), &Patch::Merge(&other_type)).await?;
            let next = given(&client, "next").await?;
            ensure!(address(&next) == Some("198.51.100.2"), "{:?}", next.status);
            let is_bare = |service: Option<&Service>| {
                service.is_some_and(|service| {
                    address(service).is_none() && service.metadata.annotations.iter().flatten().count() == 0
                })
            };
            let bare = await_condition(services(&client), "asks", is_bare);
            tokio::time::timeout(PATIENCE, bare).await.context("what is left of what it had")??;
            Ok(())
        }),
    )
}

fn of_two_controllers_one_acts_and_the_other_takes_over() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move { install(&client).await })?;
    let serves = |name: &'static str| {
        told(
            &api,
            api.with_client(|client| async move {
                create(&client, name, json!({})).await?;
                given(&client, name).await?;
                let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM);
                let spec =
                    leases.get("magnetite-controller").await?.spec.context("the Lease says nothing")?;
                Ok((spec.holder_identity.unwrap_or_default(), spec.lease_transitions))
            }),
        )
    };
    let first = Controller::start(&api)?;
    let (one, transitions) = serves("one")?;
    ensure!(!one.is_empty() && transitions == Some(0), "{one} {transitions:?}");
    let _second = Controller::start(&api)?;
    // Without a word: the Lease has to run out.
    drop(first);
    let (other, transitions) = serves("two")?;
    ensure!(other != one && transitions == Some(1), "{one} {other} {transitions:?}");
    Ok(())
}

fn an_api_server_that_goes_and_comes_is_followed_again() -> Result<()> {
    let mut api = ApiServer::start()?;
    api.with_client(|client| async move { install(&client).await })?;
    let _controller = Controller::start(&api)?;
    told(
        &api,
        api.with_client(|client| async move {
            create(&client, "before", json!({})).await?;
            let before = given(&client, "before").await?;
            // Another of the same name, before anybody has looked: it gets what the first had.
            services(&client).delete("before", &DeleteParams::default()).await?;
            create(&client, "before", json!({})).await?;
            let again = given(&client, "before").await?;
            ensure!(before.metadata.uid != again.metadata.uid, "it is the same");
            ensure!(address(&before) == address(&again), "{:?} {:?}", before.status, again.status);
            Ok(())
        }),
    )?;
    api.stop_server()?;
    api.start_server()?;
    // One that has just started refuses everything for a moment.
    with_log(
        &api,
        api.with_client(|client| async move {
            create(&client, "after", json!({})).await?;
            let after = given(&client, "after").await?;
            ensure!(address(&after) == Some("198.51.100.2"), "{:?}", after.status);
            Ok(())
        }),
    )
}

fn a_table_grows_by_a_word_that_all_nodes_hear() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move { install(&client).await })?;
    let _controller = Controller::start(&api)?;
    let slice = |endpoints: u32| {
        let addresses = (0..endpoints).map(|n| json!({"addresses": [format!("10.0.0.{n}")]}));
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "web-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"port": 8080}],
            "endpoints": addresses.collect::<Vec<_>>(),
        })
    };
    told(
        &api,
        api.with_client(|client| async move {
            let said = async |text: &'static str| {
                let says = |service: Option<&Service>| {
                    let annotations = service.and_then(|service| service.metadata.annotations.as_ref());
                    annotations.and_then(|all| all.get(TABLE_SIZE)).is_some_and(|size| size == text)
                };
                let waited = await_condition(services(&client), "web", says);
                tokio::time::timeout(PATIENCE, waited)
                    .await
                    .with_context(|| format!("a table of {text}"))??;
                anyhow::Ok(())
            };
            create(&client, "web", json!({})).await?;
            said("1024").await?;
            apply(&client, &slice(20)).await?;
            said("2048,1024").await?;
            // What somebody says is theirs.
            let theirs = json!({"metadata": {"annotations": {TABLE_SIZE: "512"}}});
            services(&client).patch("web", &PatchParams::default(), &Patch::Merge(&theirs)).await?;
            apply(&client, &slice(40)).await?;
            create(&client, "other", json!({})).await?;
            given(&client, "other").await?;
            said("512").await
        }),
    )
}

fn a_right_that_is_missing_is_named_until_it_is_given() -> Result<()> {
    let api = ApiServer::start()?;
    api.with_client(|client| async move {
        install(&client).await?;
        create(&client, "waits", json!({})).await?;
        take_away(&client, "nodes").await
    })?;
    let controller = Controller::start(&api)?;
    with_log(&api, wait_for_log(&api, "cannot list resource"))?;
    controller.terminate()?;
    api.with_client(|client| async move { take_away(&client, "services/status").await })?;
    let _controller = Controller::start(&api)?;
    with_log(&api, wait_for_log(&api, "cannot patch resource"))?;
    with_log(
        &api,
        api.with_client(|client| async move {
            manifests::apply(&client).await?;
            given(&client, "waits").await.map(drop)
        }),
    )
}

/// Leaves the controller all rights but those on one of the cluster's resources.
async fn take_away(client: &Client, resource: &str) -> Result<()> {
    manifests::apply(client).await?;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let mut role = roles.get("metallb-system:controller").await?;
    for rule in role.rules.iter_mut().flatten() {
        rule.resources.iter_mut().for_each(|resources| resources.retain(|other| other != resource));
    }
    role.rules.iter_mut().for_each(|rules| rules.retain(|rule| rule.resources.iter().flatten().count() > 0));
    roles.replace("metallb-system:controller", &PostParams::default(), &role).await?;
    Ok(())
}

/// Waits until the controller says so.
fn wait_for_log(api: &ApiServer, text: &str) -> Result<()> {
    let begin = std::time::Instant::now();
    while !log_of(api).contains(text) {
        ensure!(begin.elapsed() < PATIENCE, "it does not say {text:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

async fn events(client: &Client, service: &str) -> Result<Vec<Event>> {
    let of_service = ListParams::default().fields(&format!("involvedObject.name={service}"));
    Ok(Api::<Event>::namespaced(client.clone(), "default").list(&of_service).await?.items)
}

async fn wait_for_events(client: &Client, service: &str, is_met: impl Fn(&[Event]) -> bool) -> Result<()> {
    let begin = tokio::time::Instant::now();
    while !is_met(&events(client, service).await?) {
        ensure!(begin.elapsed() < PATIENCE, "events of {service}: {:?}", events(client, service).await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
