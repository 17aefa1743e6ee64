//! The container image: a static agent, packed without a container daemon.

use std::{
    env,
    path::{self, Path},
};

use anyhow::Result;

use crate::{
    command::{cargo, root, run},
    ebpf, setup,
};

/// Builds the agent for the image, and packs it into `output`, or `target/image/lb-agent.tar`.
///
/// # Errors
/// It cannot be built.
pub fn build(output: Option<&Path>) -> Result<()> {
    setup::if_needed()?;
    ebpf::build()?;
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut agent = cargo();
    agent.args(["build", "--release", "--package", "lb-agent", "--target", &target]);
    // glibc: musl would be a target and a C compiler more to install. What a static glibc cannot do is to load the modules of the
    // machine's NSS; for names it asks DNS and /etc/hosts by itself, and pods find the API server by its address.
    agent.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    run(agent.env("CARGO_PROFILE_RELEASE_STRIP", "symbols"))?;
    let program = root().join("target").join(target).join("release/lb-agent");
    let mut pack = cargo();
    pack.args(["run", "--quiet", "--release", "--package", "lb-image", "--"]);
    pack.arg("--program").arg(program).arg("--output").arg(match output {
        // Cargo runs in the checkout.
        Some(path) => path::absolute(path)?,
        None => root().join("target/image/lb-agent.tar"),
    });
    run(&mut pack)
}
