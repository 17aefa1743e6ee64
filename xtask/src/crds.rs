//! The definitions of custom resources, as files.

use anyhow::Result;

use crate::command::{cargo, run};

/// Writes them; the test that compares them does it.
pub fn write() -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--package", "lb-api", "--test", "crds"]).env("MAGNETITE_BLESS", "1");
    run(&mut test)
}
