//! The objects of `manifests/`, without a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{Container, Namespace, PodSpec, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use libtest_mimic::{Arguments, Failed, Trial};
use magnetite_tests::manifests::{NAMESPACE, directory, objects};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

type Test = fn() -> Result<()>;

fn main() {
    let has_kubectl = Command::new("kubectl").args(["version", "--client"]).output();
    let has_kubectl = has_kubectl.is_ok_and(|output| output.status.success());
    let tests: [(&str, Test, Option<&str>); 5] = [
        ("every_file_is_named_by_a_kustomization", every_file_is_named_by_a_kustomization, None),
        ("objects_have_no_field_that_is_not_known", objects_have_no_field_that_is_not_known, None),
        ("kustomize_says_the_same", kustomize_says_the_same, (!has_kubectl).then_some("no kubectl")),
        ("pods_have_the_rights_that_they_need_and_no_more", pods_have_no_more_rights, None),
        ("no_rule_is_for_everything", no_rule_is_for_everything, None),
    ];
    let trials = tests.map(|(name, test, cannot_run)| match cannot_run {
        None => Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}")))),
        Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn all() -> Result<Vec<Value>> {
    Ok(objects(&directory())?.into_values().flatten().collect())
}

fn every_file_is_named_by_a_kustomization() -> Result<()> {
    let named: BTreeSet<PathBuf> = objects(&directory())?.into_keys().collect();
    let mut files = BTreeSet::new();
    collect(&directory(), &mut files)?;
    files.retain(|path| !path.ends_with("kustomization.yaml"));
    ensure!(files == named, "not named: {:?}", files.difference(&named).collect::<Vec<_>>());
    Ok(())
}

fn collect(directory: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

fn objects_have_no_field_that_is_not_known() -> Result<()> {
    let mut names = BTreeSet::new();
    for object in all()? {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        match object["kind"].as_str().unwrap_or_default() {
            Namespace::KIND => same::<Namespace>(&object),
            ServiceAccount::KIND => same::<ServiceAccount>(&object),
            Role::KIND => same::<Role>(&object),
            RoleBinding::KIND => same::<RoleBinding>(&object),
            ClusterRole::KIND => same::<ClusterRole>(&object),
            ClusterRoleBinding::KIND => same::<ClusterRoleBinding>(&object),
            Deployment::KIND => same::<Deployment>(&object),
            DaemonSet::KIND => same::<DaemonSet>(&object),
            CustomResourceDefinition::KIND => same::<CustomResourceDefinition>(&object),
            _ => bail!("{name}: teach the tests this kind"),
        }
        .with_context(|| name.clone())?;
        let namespace = object["metadata"]["namespace"].as_str();
        ensure!(namespace.is_none_or(|namespace| namespace == NAMESPACE), "{name} is in {namespace:?}");
        ensure!(names.insert(name.clone()), "{name} is there twice");
    }
    Ok(())
}

/// Fields that a type does not know are not there any more when it is written again.
fn same<T: Resource + Serialize + DeserializeOwned>(object: &Value) -> Result<()> {
    ensure!(object["apiVersion"] == T::API_VERSION, "{} is not of {}", object["apiVersion"], T::API_VERSION);
    let again = serde_json::to_value(serde_json::from_value::<T>(object.clone())?)?;
    ensure!(again == *object, "a field is not known:\n{object}\n{again}");
    Ok(())
}

/// By kind, namespace and name.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |object: &Value| {
        let metadata = &object["metadata"];
        format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"])
    };
    objects.into_iter().map(|object| (name(&object), object)).collect()
}

fn kustomize_says_the_same() -> Result<()> {
    let output = Command::new("kubectl").arg("kustomize").arg(directory()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let built: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(output.stdout)?)?;
    // It writes 255.0 as 255.
    let [built, read] = [built, all()?].map(|mut objects| {
        objects.iter_mut().for_each(as_floats);
        by_name(objects)
    });
    ensure!(built.keys().eq(read.keys()), "{:?}\n{:?}", built.keys(), read.keys());
    for (name, object) in built {
        ensure!(read.get(&name) == Some(&object), "{name} differs");
    }
    Ok(())
}

fn as_floats(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::from(number.as_f64()),
        Value::Array(values) => values.iter_mut().for_each(as_floats),
        Value::Object(fields) => fields.values_mut().for_each(as_floats),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Of the object of that kind and name, the pod and its only container.
fn pod(kind: &str, name: &str) -> Result<(PodSpec, Container)> {
    let object =
        all()?.into_iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let template = object.with_context(|| format!("no {kind} {name}"))?["spec"]["template"]["spec"].take();
    let mut pod: PodSpec = serde_json::from_value(template)?;
    let container = pod.containers.pop().context("no container")?;
    ensure!(pod.containers.is_empty() && pod.init_containers.is_none(), "{name} has more containers");
    Ok((pod, container))
}

fn pods_have_no_more_rights() -> Result<()> {
    let (controller, speaker) = (pod("Deployment", "controller")?, pod("DaemonSet", "speaker")?);
    for (name, (pod, container), added) in [
        ("controller", &controller, None),
        ("speaker", &speaker, Some(["BPF", "NET_ADMIN", "NET_RAW", "PERFMON"].map(str::to_owned).to_vec())),
    ] {
        let version = env!("CARGO_PKG_VERSION");
        let image = container.image.as_deref();
        ensure!(image == Some(&format!("magnetite.io/lb-agent:{version}")), "{name}: {image:?}");
        let security = container.security_context.clone().context("no security context")?;
        let capabilities = security.capabilities.context("no capabilities are named")?;
        ensure!(capabilities.drop == Some(vec!["ALL".to_owned()]), "{name} keeps capabilities");
        ensure!(capabilities.add == added, "{name}: {:?}", capabilities.add);
        ensure!(security.read_only_root_filesystem == Some(true), "{name} may write to its root");
        ensure!(security.allow_privilege_escalation == Some(false), "{name} may get more rights");
        ensure!(security.privileged.is_none(), "{name} is privileged");
        ensure!(pod.host_pid.is_none() && pod.host_ipc.is_none(), "{name} sees the host's processes");
        ensure!(pod.service_account_name.as_deref() == Some(name), "{name} has another's rights");
    }
    let pod = controller.0;
    ensure!(pod.host_network.is_none() && pod.volumes.is_none(), "the controller has something of the host");
    let security = pod.security_context.context("no security context")?;
    ensure!(security.run_as_non_root == Some(true), "the controller may be root");
    Ok(())
}

fn no_rule_is_for_everything() -> Result<()> {
    for mut object in all()? {
        let rules: Vec<PolicyRule> = match object["rules"].take() {
            Value::Null => continue,
            rules => serde_json::from_value(rules)?,
        };
        let is_own = object["kind"] == Role::KIND;
        for rule in rules {
            let words = [Some(&rule.verbs), rule.api_groups.as_ref(), rule.resources.as_ref()];
            let is_wide = words.into_iter().flatten().flatten().any(|word| word == "*");
            ensure!(!is_wide, "{}: {rule:?}", object["metadata"]["name"]);
            let of_secrets = rule.resources.iter().flatten().any(|name| name == "secrets");
            let is_named = rule.resource_names.is_some() || rule.verbs == ["create"];
            ensure!(!of_secrets || is_own && is_named, "{}: {rule:?}", object["metadata"]["name"]);
        }
    }
    Ok(())
}
