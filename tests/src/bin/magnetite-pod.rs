//! What the containers of a cluster of kubelets run: the server of a pod, or nothing.

use std::env;

use anyhow::{Context, Result};
use magnetite_tests::lab::serve;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    if env::args().nth(1).is_none_or(|argument| argument != "serve") {
        // Of a sandbox: it holds the pod's namespaces.
        terminated.recv().await;
        return Ok(());
    }
    let name = env::var("POD_NAME").context("POD_NAME")?;
    tokio::select! {
        served = serve(&name) => served,
        _ = terminated.recv() => Ok(()),
    }
}
