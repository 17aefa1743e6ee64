//! Programs that print end with their reader.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

const LINKS: &str =
    "nodes: {n1: {links: {eth0: {ifindex: 2, mac: \"02:00:00:00:00:01\", prefixes: [192.0.2.11/24]}}}}\n";

#[test]
fn a_dry_run_whose_reader_is_gone_ends_quietly() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (objects, links) = (dir.path().join("objects"), dir.path().join("links.yaml"));
    fs::create_dir(&objects)?;
    fs::write(&links, LINKS)?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-agent"));
    command.args(["node", "--dry-run", "--node-name", "n1", "--source"]);
    command.arg(format!("file:{}", objects.display())).arg("--links").arg(links);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
    Ok(())
}
