//! Objects of a cluster as they are at one moment, for who looks once.

use kube::{
    Api, Client,
    api::ListParams,
    core::{DynamicObject, ObjectList, PartialObjectMeta},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::kinds::{
    DEFINITION, FRR_CONFIGURATION, Kind, OF_INSTALLATION, SECRET, Scope, of_both, of_controller,
};

/// Objects of a kind cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reading objects of kind {kind}")]
pub struct ReadError {
    /// The kind.
    pub kind: &'static str,
    /// Why.
    #[source]
    pub source: Box<kube::Error>,
}

/// So many objects are asked for at once.
const PAGE: u32 = 500;

/// What controller and nodes read, with `own` as our own namespace; and of MetalLB's kinds what they do not read because it stands in
/// another one, if we may see that. A kind that the API server does not have has no objects.
///
/// # Errors
/// The API server does not answer, or does not let us.
pub async fn objects(client: &Client, own: &str) -> Result<Vec<Value>, ReadError> {
    let mut objects = Vec::new();
    for kind in of_both() {
        objects.extend(match everywhere(kind) {
            Some(everywhere) => match list(client, own, everywhere).await {
                Err(ReadError { source, .. }) if is_forbidden(&source) => list(client, own, kind).await?,
                listed => listed?,
            },
            None => list(client, own, kind).await?,
        });
    }
    Ok(objects)
}

/// A kind of MetalLB's, in all namespaces.
fn everywhere(kind: Kind) -> Option<Kind> {
    kind.is_defined().then_some(Kind { scope: Scope::Namespaced, ..kind })
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// What there is of a MetalLB installation in the namespace `own`: what a controller reads, what runs MetalLB, and what it has installed
/// for it. Of Secrets only what is said of them, not what is in them; but the one in which Helm has recorded a release, if `is_record`
/// says so of what is said of it.
///
/// # Errors
/// The API server does not answer, or does not let us.
pub async fn installation(
    client: &Client,
    own: &str,
    is_record: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>, ReadError> {
    let mut objects = Vec::new();
    let of_controller = of_controller().filter(|kind| kind.kind != "ConfigMap");
    for kind in of_controller.chain(OF_INSTALLATION) {
        objects.extend(list(client, own, kind).await?);
    }
    let definitions = metadata(client, own, DEFINITION).await?;
    let name_of = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let has_frr = definitions.iter().any(|definition| name_of(definition).ends_with(".frrk8s.metallb.io"));
    if has_frr {
        objects.extend(list(client, own, FRR_CONFIGURATION).await?);
    }
    for definition in definitions {
        let name = name_of(&definition);
        let whole = match name.ends_with(".metallb.io") {
            true => get(client, own, DEFINITION, &name).await?,
            false => Some(definition),
        };
        objects.extend(whole);
    }
    let secrets = metadata(client, own, SECRET).await?;
    let records: Vec<String> = secrets.iter().filter(|secret| is_record(secret)).map(name_of).collect();
    objects.extend(secrets.into_iter().filter(|secret| !is_record(secret)));
    for record in records {
        objects.extend(get(client, own, SECRET, &record).await?);
    }
    Ok(objects)
}

async fn list(client: &Client, own: &str, kind: Kind) -> Result<Vec<Value>, ReadError> {
    let api = kind.read(client.clone(), own);
    pages(kind, |params| {
        let api: Api<DynamicObject> = api.clone();
        async move { api.list(&params).await }
    })
    .await
}

/// What is said of objects, without the objects.
async fn metadata(client: &Client, own: &str, kind: Kind) -> Result<Vec<Value>, ReadError> {
    let api = kind.read(client.clone(), own);
    pages(kind, |params| {
        let api: Api<DynamicObject> = api.clone();
        async move { api.list_metadata(&params).await as kube::Result<ObjectList<PartialObjectMeta<_>>> }
    })
    .await
}

async fn get(client: &Client, own: &str, kind: Kind, name: &str) -> Result<Option<Value>, ReadError> {
    let found = kind.read(client.clone(), own).get_opt(name).await;
    let found = found.map_err(|source| ReadError { kind: kind.kind, source: Box::new(source) })?;
    Ok(found.and_then(|object| value(kind, object)))
}

async fn pages<T, F>(kind: Kind, ask: impl Fn(ListParams) -> F) -> Result<Vec<Value>, ReadError>
where
    T: Serialize + DeserializeOwned + Clone,
    F: Future<Output = kube::Result<ObjectList<T>>>,
{
    let mut params = ListParams::default().limit(PAGE);
    if let Some(name) = kind.only {
        params = params.fields(&format!("metadata.name={name}"));
    }
    let mut objects = Vec::new();
    loop {
        let page = match ask(params.clone()).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
            // The list is older than the API server remembers: once more, and all at once.
            Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                params = ListParams { limit: None, continue_token: None, ..params };
                objects.clear();
                continue;
            }
            Err(source) => return Err(ReadError { kind: kind.kind, source: Box::new(source) }),
        };
        objects.extend(page.items.into_iter().filter_map(|object| value(kind, object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(objects),
        }
    }
}

/// Items of a list do not say of which kind they are.
fn value(kind: Kind, object: impl Serialize) -> Option<Value> {
    let mut value = serde_json::to_value(object).ok()?;
    value["apiVersion"] = Value::from(kind.api_version());
    value["kind"] = Value::from(kind.kind);
    Some(value)
}
