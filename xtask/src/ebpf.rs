//! The BPF objects: building them, and their budget.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    command::{root, run},
    object_file::ObjectFile,
    setup,
    toolchain::{Compiler, linker},
};

/// Bytes of stack of a program, of the kernel's 512.
const MAX_STACK: u32 = 400;
/// Instructions that the verifier walks through, of the kernel's million.
const MAX_VERIFIED: u64 = 200_000;

/// Object files, as cargo names them and as they are kept in `target/bpf`.
const OBJECTS: [(&str, &str); 2] =
    [("magnetite", "magnetite.o"), ("magnetite-testing", "magnetite-testing.o")];

/// Builds the objects and prints what they cost; refuses one that costs too much.
pub fn build() -> Result<()> {
    let Some(compiler) = Compiler::find() else {
        bail!("no compiler for bpfel-unknown-none: run `cargo xtask setup`");
    };
    let Some(linker) = linker()? else {
        bail!("no bpf-linker: run `cargo xtask setup`");
    };
    println!("build-ebpf: with {}", compiler.describe());
    let linker_directory = linker.parent().context("the linker is a file")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(linker_directory.to_owned()).chain(env::split_paths(&path));
    let mut command = compiler.cargo_build();
    command.env("PATH", env::join_paths(paths)?).env("CARGO_ENCODED_RUSTFLAGS", rustflags().join("\x1f"));
    // Here alone: what the linker sees decides what it inlines. For programs it would be most of the time of a build.
    command.env("CARGO_PROFILE_RELEASE_LTO", "thin");
    command.args(["--package", "lb-ebpf", "--target", "bpfel-unknown-none", "--release"]);
    run(command.args(["--target-dir", "target/ebpf"]))?;

    let kept = root().join("target/bpf");
    fs::create_dir_all(&kept)?;
    for (built, name) in OBJECTS {
        let bytes = fs::read(root().join("target/ebpf/bpfel-unknown-none/release").join(built))?;
        let path = kept.join(name);
        // An equal file keeps its time, so that the agent is not built again.
        if fs::read(&path).ok().as_ref() != Some(&bytes) {
            fs::write(&path, &bytes)?;
        }
        report(&path, &ObjectFile::read(&bytes)?)?;
    }
    Ok(())
}

fn rustflags() -> Vec<String> {
    [
        &format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        // 32-bit registers (kernel 5.1); the linker's own option for it has no effect.
        "-Ctarget-cpu=v3",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Without it copies of 16 bytes become calls, whose frames count.
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .map(str::to_owned)
    .into()
}

fn report(path: &Path, object: &ObjectFile) -> Result<()> {
    let verified = match setup::can_load() {
        Ok(()) => Some(verify(path)?),
        Err(why) => {
            println!("build-ebpf: verified instructions not measured: {why}");
            None
        }
    };
    println!(
        "{:<24} {:>12} {:>12} {:>12}   {}",
        "program",
        "instructions",
        "stack",
        "verified",
        path.display()
    );
    let mut failures = Vec::new();
    for function in &object.functions {
        let walked = verified.as_ref().and_then(|verified| verified.get(&function.name));
        let shown = walked.map_or("-".to_owned(), u64::to_string);
        println!("{:<24} {:>12} {:>12} {:>12}", function.name, function.instructions, function.stack, shown);
        if function.stack > MAX_STACK {
            failures.push(format!(
                "{} uses {} bytes of stack, {MAX_STACK} are allowed",
                function.name, function.stack
            ));
        }
        if walked.is_some_and(|walked| *walked > MAX_VERIFIED) {
            failures.push(format!(
                "{} takes the verifier {shown} instructions, {MAX_VERIFIED} are allowed",
                function.name
            ));
        }
    }
    failures.extend(object.panics.iter().map(|symbol| format!("a panic can be reached: {symbol}")));
    if !failures.is_empty() {
        bail!("{}:\n  {}", path.display(), failures.join("\n  "));
    }
    Ok(())
}

/// Loads the programs, and unloads them: instructions that the verifier went through, by program.
fn verify(path: &Path) -> Result<BTreeMap<String, u64>> {
    let pins = Path::new("/sys/fs/bpf").join(format!("magnetite-verify-{}", std::process::id()));
    let output = Command::new("bpftool").args(["-d", "prog", "loadall"]).arg(path).arg(&pins).output()?;
    // What could not be pinned is not there.
    let _ = fs::remove_dir_all(&pins);
    let log = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.iter().position(|line| line.starts_with("processed ")).unwrap_or(lines.len());
        bail!("the verifier refuses {}:\n{}", path.display(), lines[end.saturating_sub(20)..end].join("\n"));
    }
    Ok(verified_instructions(&log))
}

/// `processed N insns` behind `prog 'name': -- BEGIN PROG LOAD LOG --`.
fn verified_instructions(log: &str) -> BTreeMap<String, u64> {
    let mut current = None;
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        if line.contains("BEGIN PROG LOAD LOG") {
            current = line.split('\'').nth(1);
        } else if let Some(rest) = line.strip_prefix("processed ") {
            let count = rest.split(' ').next().and_then(|count| count.parse().ok());
            if let (Some(name), Some(count)) = (current, count) {
                counts.insert(name.to_owned(), count);
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::verified_instructions;

    #[test]
    fn counts_belong_to_their_programs() {
        let log = "libbpf: prog 'a': -- BEGIN PROG LOAD LOG --\n0: (95) exit\nprocessed 12 insns (limit 1000000)\n\
                   -- END PROG LOAD LOG --\nlibbpf: prog 'b': -- BEGIN PROG LOAD LOG --\nprocessed 7 insns (limit\n";
        assert_eq!(verified_instructions(log), [("a".to_owned(), 12), ("b".to_owned(), 7)].into());
    }
}
