//! The lab to work in, as its users have it: by its program.

use std::{
    io::Read,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_magnetite-lab"));
    command.args(arguments);
    command
}

pub fn a_lab_is_used_from_a_shell() -> Result<()> {
    let (mut reader, writer) = std::io::pipe()?;
    let status = lab(&["up"]).stdout(writer.try_clone()?).stderr(writer).status()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        let _ = sender.send(reader.read_to_string(&mut said).map(|_| said));
    });
    let said =
        receiver.recv_timeout(Duration::from_secs(10)).context("the lab holds its caller's output")??;
    ensure!(status.success(), "up ended with {status}:\n{said}");
    let id = said.lines().find_map(|line| line.strip_prefix("lab ")?.split_once(" serves"));
    let (id, _) = id.with_context(|| format!("no id in:\n{said}"))?;
    let used = use_it(id);
    ensure!(lab(&["down", "--lab", id]).stdout(Stdio::null()).status()?.success());
    used
}

fn use_it(id: &str) -> Result<()> {
    let status = lab(&["exec", "--lab", id, "c1", "sh", "-c", "exit 7"]).status()?;
    ensure!(status.code() == Some(7), "the command's exit status is {status}");
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = lab(&["status"]).stdout(writer).stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    ensure!(
        output.status.signal() == Some(libc::SIGPIPE) && output.stderr.is_empty(),
        "status without a reader ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
