//! A Kubernetes cluster as source and output: objects as an API server tells of them, and objects that are applied there.

mod applied;
mod kinds;
mod leadership;
mod once;
mod watched;
mod written;

use kube::{
    Client, Config,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

pub use applied::There;
pub use leadership::Leadership;
pub use once::{ReadError, installation, objects};
pub use watched::Watched;
pub use written::{OwnPod, Written};

/// What can go wrong at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says where the API server is.
    #[error("no API server is known: neither a pod's service account nor a kubeconfig says where it is")]
    NotConfigured(#[from] Box<InferConfigError>),
    /// A kubeconfig that was named cannot be used.
    #[error("kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The configuration cannot be used.
    #[error("connecting to the API server")]
    Client(#[from] Box<kube::Error>),
}

/// Connects as a pod's service account, or as a kubeconfig says.
///
/// # Errors
/// Nothing says how, or what does is wrong. Whether the API server is there shows later.
pub async fn connect(kubeconfig: Option<&str>) -> Result<Client, Error> {
    // Of two that could be there, the one that is in the tree anyway; whoever was first has decided.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = match kubeconfig {
        Some(path) => {
            let failed = |source| Error::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => Config::infer().await.map_err(Box::new)?,
    };
    Ok(Client::try_from(config).map_err(Box::new)?)
}
