//! The definitions of MetalLB's kinds on a real API server: what they take, what they fill in, and what they refuse with which words.

mod cases;
mod objects;
mod schema;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use cases::{Case, largest, table};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use lb_api::{Problem, ProblemKind, crd::definitions, decode};
use libtest_mimic::{Arguments, Failed, Trial};
use magnetite_tests::api_server::{ApiServer, programs};
use objects::{complete, good};
use schema::nodes;
use serde_json::{Value, json};

type Test = fn(&ApiServer) -> Result<()>;

const SYSTEM: &str = "metallb-system";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

fn main() {
    let arguments = Arguments::from_args();
    let cannot_run = match (rustix::process::geteuid().is_root(), programs()) {
        (false, _) => Some("not root"),
        (_, None) => Some("no Kubernetes, cargo xtask test cluster builds it"),
        _ => None,
    };
    let tests: [(&str, Test); 4] = [
        ("every_field_is_taken_and_kept", every_field_is_taken_and_kept),
        ("defaults_are_metallbs", defaults_are_metallbs),
        ("what_is_wrong_is_refused_and_its_twin_is_taken", what_is_wrong_is_refused_and_its_twin_is_taken),
        ("the_largest_objects_are_taken", the_largest_objects_are_taken),
    ];
    // One for all: nothing that a test writes is in the way of another.
    let api = match cannot_run {
        None if !arguments.list => Some(ready()),
        _ => None,
    };
    let mut trials = vec![
        Trial::test("every_check_has_a_case", || said(every_check_has_a_case())),
        Trial::test("every_field_is_in_an_object", || said(every_field_is_in_an_object())),
        Trial::test("files_are_told_the_same", || said(files_are_told_the_same())),
    ];
    trials.extend(tests.map(|(name, test)| match (cannot_run, &api) {
        (Some(why), _) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
        (_, api) => {
            let api = api.clone();
            Trial::test(name, move || match api.as_deref() {
                Some(Ok(api)) => said(test(api)),
                Some(Err(error)) => Err(Failed::from(error)),
                None => Ok(()),
            })
        }
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Exiting drops nothing.
    drop(api);
    conclusion.exit();
}

fn said(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

/// An API server that knows all kinds, or why there is none.
fn ready() -> Arc<Result<ApiServer, String>> {
    let start = || {
        let api = ApiServer::start()?;
        api.with_client(|client| async move { install(&client).await })?;
        Ok(api)
    };
    Arc::new(start().map_err(|error: anyhow::Error| format!("{error:#}")))
}

async fn install(client: &Client) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in definitions()? {
        let name = crd.metadata.name.clone().context("a definition has a name")?;
        crds.create(&PostParams::default(), &crd).await.with_context(|| format!("definition {name}"))?;
        tokio::time::timeout(PATIENCE, await_condition(crds.clone(), &name, is_crd_established())).await??;
    }
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": SYSTEM}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

fn every_check_has_a_case() -> Result<()> {
    let cases = table()?;
    let missing: Vec<String> = nodes()?
        .iter()
        .flat_map(|node| node.checks().into_iter().map(move |says| (node, says)))
        .filter(|(node, says)| !cases.iter().any(|case| case.is_of(node) && case.says == *says))
        .map(|(node, says)| format!("{} {}: {says}", node.of, node.path))
        .collect();
    ensure!(missing.is_empty(), "no case for\n{}", missing.join("\n"));
    Ok(())
}

fn every_field_is_in_an_object() -> Result<()> {
    let objects = complete();
    let is_there = |node: &schema::Node| {
        let mut of_kind = objects.iter().filter(|(of, _)| *of == node.of);
        of_kind.any(|(_, object)| schema::has(object, &node.path))
    };
    let missing: Vec<String> = nodes()?
        .iter()
        .filter(|node| node.path.starts_with("spec.") && !is_there(node))
        .map(|node| format!("{} {}", node.of, node.path))
        .collect();
    ensure!(missing.is_empty(), "in no object:\n{}", missing.join("\n"));
    Ok(())
}

/// Where there is no API server, decoding takes and refuses the same; of BGP it does when that is announced.
fn files_are_told_the_same() -> Result<()> {
    for (of, value) in complete() {
        // They are examples, which have addresses in common, and names of what is not there.
        let is_meant = |kind: &ProblemKind| {
            matches!(
                kind,
                ProblemKind::OverlapWithin { .. }
                    | ProblemKind::NoNamespace
                    | ProblemKind::NotAnnounced
                    | ProblemKind::NoSuchObject { .. }
            ) || matches!(kind, ProblemKind::Value { value, .. } if value == "no-advertise")
        };
        let problems: Vec<_> =
            told(of, &value)?.into_iter().filter(|problem| !is_meant(&problem.kind)).collect();
        ensure!(problems.is_empty(), "{of}: {}", problems[0]);
    }
    let read = ["IPAddressPool.v1beta1", "L2Advertisement.v1beta1"];
    for Case { of, refused, taken, field, .. } in
        table()?.into_iter().filter(|case| read.contains(&case.of.as_str()))
    {
        let told = |change: &Value| {
            let mut value = good(&of);
            schema::merge(&mut value, change);
            let is_meant = |kind: &ProblemKind| {
                matches!(
                    kind,
                    ProblemKind::NoNamespace
                        | ProblemKind::OverlapWithin { .. }
                        | ProblemKind::NoSuchObject { .. }
                )
            };
            let problems = told(&of, &value)?.into_iter();
            let mut problems = problems.filter(|problem| !is_meant(&problem.kind));
            Ok::<_, anyhow::Error>(problems.find(|problem| problem.field.starts_with(&field)))
        };
        ensure!(told(&refused)?.is_some(), "{of} {refused} is taken");
        let problem = told(&taken)?;
        ensure!(problem.is_none(), "{of} {taken}: {problem:?}");
    }
    Ok(())
}

/// What decoding says of an object.
fn told(of: &str, value: &Value) -> Result<Vec<Problem>> {
    let mut value = serde_json::to_value(object(of, value.clone())?)?;
    value["metadata"]["name"] = json!("case");
    Ok(decode(&[("case.json".to_owned(), serde_json::to_vec(&value)?)].into()).problems)
}

/// Where the objects of each kind and version are.
fn apis(client: &Client) -> Result<BTreeMap<String, Api<DynamicObject>>> {
    let mut apis = BTreeMap::new();
    for definition in definitions()? {
        for version in &definition.spec.versions {
            let (group, kind) = (definition.spec.group.clone(), definition.spec.names.kind.clone());
            let of = format!("{kind}.{}", version.name);
            let mut resource = ApiResource::from_gvk_with_plural(
                &kube::api::GroupVersionKind { group, version: version.name.clone(), kind },
                &definition.spec.names.plural,
            );
            resource.version.clone_from(&version.name);
            apis.insert(of, Api::namespaced_with(client.clone(), SYSTEM, &resource));
        }
    }
    Ok(apis)
}

fn api<'a>(apis: &'a BTreeMap<String, Api<DynamicObject>>, of: &str) -> Result<&'a Api<DynamicObject>> {
    apis.get(of).with_context(|| format!("there is no {of}"))
}

/// An object that can be sent.
fn object(of: &str, mut value: Value) -> Result<DynamicObject> {
    let (kind, version) = of.split_once('.').context("a kind and a version")?;
    value["apiVersion"] = json!(format!("metallb.io/{version}"));
    value["kind"] = json!(kind);
    value["metadata"] = json!({"generateName": "case-"});
    Ok(serde_json::from_value(value)?)
}

fn every_field_is_taken_and_kept(server: &ApiServer) -> Result<()> {
    server.with_client(|client| async move {
        let apis = apis(&client)?;
        for (of, value) in complete() {
            let sent = object(of, value.clone())?;
            let made = api(&apis, of)?.create(&PostParams::default(), &sent).await;
            let made = made.with_context(|| format!("{of} {value}"))?;
            let differing = schema::missing(&value["spec"], &made.data["spec"]);
            ensure!(differing.is_empty(), "{of}: {differing:?} is not what was sent: {}", made.data);
        }
        Ok(())
    })
}

fn defaults_are_metallbs(server: &ApiServer) -> Result<()> {
    server.with_client(|client| async move {
        let apis = apis(&client)?;
        let in_v1beta2 = json!({"peerPort": 179, "disableMP": false, "dualStackAddressFamily": false});
        for (of, filled) in [
            ("IPAddressPool.v1beta1", json!({"autoAssign": true, "avoidBuggyIPs": false})),
            ("L2Advertisement.v1beta1", json!({})),
            ("BGPAdvertisement.v1beta1", json!({"aggregationLength": 32, "aggregationLengthV6": 128})),
            ("BGPPeer.v1beta2", in_v1beta2.clone()),
            // It is filled in as what is stored.
            ("BGPPeer.v1beta1", json!({"peerPort": 179})),
            ("BFDProfile.v1beta1", json!({})),
            ("Community.v1beta1", json!({})),
        ] {
            let sent = object(of, good(of))?;
            let made = api(&apis, of)?.create(&PostParams::default(), &sent).await?;
            let mut expected = good(of);
            schema::merge(&mut expected["spec"], &filled);
            ensure!(made.data["spec"] == expected["spec"], "{of}: {} is not {expected}", made.data);
            if of == "BGPPeer.v1beta1" {
                let name = made.metadata.name.context("it has a name by now")?;
                let stored = api(&apis, "BGPPeer.v1beta2")?.get(&name).await?;
                schema::merge(&mut expected["spec"], &in_v1beta2);
                ensure!(stored.data["spec"] == expected["spec"], "{} is not {expected}", stored.data);
            }
        }
        Ok(())
    })
}

fn what_is_wrong_is_refused_and_its_twin_is_taken(server: &ApiServer) -> Result<()> {
    server.with_client(|client| async move {
        let apis = apis(&client)?;
        let mut wrong = Vec::new();
        for case in table()? {
            if let Err(error) = holds(api(&apis, case.of.as_str())?, &case).await {
                wrong.push(format!("{} {} ({}): {error:#}", case.of, case.field, case.says));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
}

async fn holds(api: &Api<DynamicObject>, case: &Case) -> Result<()> {
    // An object that is there is changed; another is made.
    let name = match &case.before {
        Some(before) => Some(exists(api, &case.of, before).await?),
        None => None,
    };
    match tell(api, &case.of, name.as_deref(), &case.refused).await? {
        Ok(_) => bail!("{} is taken", case.refused),
        Err(causes) => ensure!(
            causes.iter().any(|(field, message)| *field == case.field && message.contains(&case.says)),
            "{} is refused because of {causes:?}",
            case.refused
        ),
    }
    let taken = tell(api, &case.of, name.as_deref(), &case.taken).await?;
    ensure!(taken.is_ok(), "{} is refused because of {:?}", case.taken, taken.err());
    Ok(())
}

/// Makes an object that is changed later.
async fn exists(api: &Api<DynamicObject>, of: &str, more: &Value) -> Result<String> {
    let mut value = good(of);
    schema::merge(&mut value, more);
    let made = api.create(&PostParams::default(), &object(of, value)?).await?;
    let name = made.metadata.name.context("it has a name by now")?;
    if !more["status"].is_null() {
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(more)).await?;
    }
    Ok(name)
}

/// The fields that are complained of, and with which words.
type Causes = Vec<(String, String)>;

/// What is said of a good object with something changed: in the one of this name, or in a new one.
async fn tell(
    api: &Api<DynamicObject>,
    of: &str,
    name: Option<&str>,
    change: &Value,
) -> Result<Result<DynamicObject, Causes>> {
    let dry = PatchParams { dry_run: true, ..Default::default() };
    let answer = match name {
        Some(name) if !change["status"].is_null() => {
            api.patch_status(name, &dry, &Patch::Merge(change)).await
        }
        Some(name) => api.patch(name, &dry, &Patch::Merge(change)).await,
        None => {
            let mut value = good(of);
            schema::merge(&mut value, change);
            let dry = PostParams { dry_run: true, ..Default::default() };
            api.create(&dry, &object(of, value)?).await
        }
    };
    match answer {
        Ok(object) => Ok(Ok(object)),
        Err(kube::Error::Api(status)) if status.code == 422 => {
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            Ok(Err(causes.into_iter().map(|cause| (cause.field, cause.message)).collect()))
        }
        Err(other) => Err(other.into()),
    }
}

/// As large as the definitions say: what an API server may spend on an object is enough for them.
fn the_largest_objects_are_taken(server: &ApiServer) -> Result<()> {
    server.with_client(|client| async move {
        let apis = apis(&client)?;
        for (of, change) in largest() {
            let taken = tell(api(&apis, of)?, of, None, &change).await?;
            let causes = taken.err().unwrap_or_default();
            let causes: Vec<_> = causes
                .iter()
                .map(|(field, message)| {
                    let end = message.chars().rev().take(300).collect::<Vec<_>>();
                    (field, end.into_iter().rev().collect::<String>())
                })
                .collect();
            ensure!(causes.is_empty(), "{of} is refused because of {causes:?}");
        }
        Ok(())
    })
}
