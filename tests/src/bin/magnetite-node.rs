//! The first process of a node with a kubelet, in namespaces of its own.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use magnetite_tests::kubelets::Boot;

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    let file: PathBuf = env::args_os().nth(1).context("usage: magnetite-node BOOT.json")?.into();
    Boot::read(&file)?.run()
}
