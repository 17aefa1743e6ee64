//! The objects of `manifests/`, as kustomize puts them together.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, TypeMeta},
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use serde_json::Value;

/// The namespace in which all is that has one.
pub const NAMESPACE: &str = "metallb-system";

const PATIENCE: Duration = Duration::from_secs(30);
const KUSTOMIZATION: &str = "kustomization.yaml";

/// Where they are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// Objects by the file in which they stand, of a directory with a kustomization and of those that it names.
///
/// # Errors
/// A file is not there, is no YAML, or a kustomization does more than to name resources.
pub fn objects(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<Value>>> {
    let mut files = BTreeMap::new();
    let path = directory.join(KUSTOMIZATION);
    let kustomization: Value = serde_saphyr::from_str(&read(&path)?)?;
    for field in kustomization.as_object().context("a kustomization is an object")?.keys() {
        let is_known = ["apiVersion", "kind", "resources"].contains(&field.as_str());
        ensure!(is_known, "{}: {field}: teach the tests what it does", path.display());
    }
    for resource in kustomization["resources"].as_array().context("resources are a list")? {
        let resource = directory.join(resource.as_str().context("a resource is a path")?);
        if resource.is_dir() {
            files.append(&mut objects(&resource)?);
            continue;
        }
        let documents = serde_saphyr::from_multiple(&read(&resource)?);
        let documents = documents.with_context(|| format!("{} is no YAML", resource.display()))?;
        if files.insert(resource.clone(), documents).is_some() {
            bail!("{} is named twice", resource.display());
        }
    }
    Ok(files)
}

/// Applies all of them, as `kubectl apply --server-side --validate=strict` does, and waits until custom resources can be used.
///
/// # Errors
/// The API server refuses one.
pub async fn apply(client: &Client) -> Result<()> {
    apply_some(client, |_| true).await
}

/// The same of the definitions of kinds and the namespace alone.
///
/// # Errors
/// The API server refuses one.
pub async fn apply_definitions(client: &Client) -> Result<()> {
    let kinds = ["Namespace", "CustomResourceDefinition"];
    apply_some(client, |object| kinds.iter().any(|kind| object["kind"] == *kind)).await
}

async fn apply_some(client: &Client, is_asked: impl Fn(&Value) -> bool) -> Result<()> {
    let files = objects(&directory())?;
    let asked = files.values().flatten().filter(|object| is_asked(object));
    // Namespaces first: others are in them.
    let (first, rest): (Vec<_>, Vec<_>) = asked.partition(|object| object["kind"] == "Namespace");
    for object in first.into_iter().chain(rest) {
        apply_one(client, object).await?;
    }
    Ok(())
}

async fn apply_one(client: &Client, object: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let types = TypeMeta { api_version: text(&object["apiVersion"]), kind: kind.clone() };
    let resource = ApiResource::from_gvk(&(&types).try_into()?);
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let apply = PatchParams::apply("tests").force().validation_strict();
    api.patch(&name, &apply, &Patch::Apply(object)).await.with_context(|| format!("{kind} {name}"))?;
    if kind == "CustomResourceDefinition" {
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        tokio::time::timeout(PATIENCE, await_condition(definitions, &name, is_crd_established()))
            .await
            .with_context(|| format!("{name} is not established"))??;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
