//! MetalLB's objects in files, so that what is deleted can be made again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    addresses::ingress,
    installation::{Installation, is_of_metallb, text},
};
use crate::output;

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be written.
    #[error("saving {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An object cannot be written as YAML.
    #[error(transparent)]
    Form(#[from] output::Error),
}

/// What is written last: with it a backup is whole.
const ADDRESSES: &str = "addresses.txt";

/// Whether a backup is there.
pub fn is_there(dir: &Path) -> bool {
    dir.join(ADDRESSES).exists()
}

/// Writes objects, a file each, that nobody else may read. Secrets are none of them.
///
/// # Errors
/// A file cannot be written.
pub fn write(installation: &Installation, dir: &Path) -> Result<(), BackupError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Write { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    let saved = installation.objects().filter(|(key, object)| match key.kind.as_str() {
        "ConfigMap" => key.name != "kube-root-ca.crt",
        "Deployment" | "DaemonSet" => key.namespace == installation.namespace,
        // What is applied in their place may have their names.
        "ServiceAccount" => key.name != "default",
        "Role" | "RoleBinding" => key.namespace == installation.namespace,
        "ClusterRole" | "ClusterRoleBinding" => key.name.contains("metallb"),
        "CustomResourceDefinition" => is_of_metallb(&key.name),
        "Secret" | "ValidatingWebhookConfiguration" => false,
        _ => text(object, "/apiVersion").starts_with("metallb.io/"),
    });
    for (key, object) in saved.chain(installation.webhooks()) {
        let parts = [key.kind.to_lowercase(), key.namespace.clone(), key.name.clone()];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let path = dir.join(output::component(&format!("{}.yaml", parts.join("-"))));
        let yaml = output::to_yaml(&bare(object))?;
        create(&path).and_then(|mut file| file.write_all(yaml.as_bytes())).map_err(failed(&path))?;
    }
    let mut addresses = String::new();
    for (key, object) in installation.of_kind("Service") {
        let has = ingress(object).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if !has.is_empty() {
            addresses.push_str(&format!("{} {has}\n", key.object_name()));
        }
    }
    // It is there as a whole, or not.
    let (new, path) = (dir.join(".addresses"), dir.join(ADDRESSES));
    create(&new)
        .and_then(|mut file| file.write_all(addresses.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path))
        .map_err(failed(&path))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// As it would be written by hand: without what the API server says of it.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in
            ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "ownerReferences"]
        {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    object
}
