//! `lb-image`: packs the agent into an image.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use lb_image::{Architecture, Image};

/// Packs the agent into a container image: an archive that container runtimes import.
#[derive(Parser)]
struct Arguments {
    /// The agent, linked statically.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// The archive.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.program;
    let program = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let architecture = Architecture::of(&program).with_context(|| path.display().to_string())?;
    let image = Image::of(&program, architecture)?;
    let archive = image.archive()?;
    if let Some(directory) = arguments.output.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&arguments.output, &archive)
        .with_context(|| format!("writing {}", arguments.output.display()))?;
    println!(
        "image: {}, {} for {}: the program has {:.1} MiB, the archive {:.1} MiB, manifest {}",
        arguments.output.display(),
        lb_image::NAME,
        architecture.name(),
        mebibytes(program.len()),
        mebibytes(archive.len()),
        image.digest(),
    );
    Ok(())
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
