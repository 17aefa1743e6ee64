//! Golden scenarios: what each node, and the controller, would do with `tests/scenarios/<name>/input.yaml`, up to the content of each map, as text;
//! and what becomes of the MetalLB installations in `tests/migrations/<name>/input.yaml`.
//!
//! `MAGNETITE_BLESS=1 cargo test --package magnetite-tests --test golden` writes the files anew; read the difference.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use lb_agent::{
    controller, migrate, network, node,
    output::{Document, to_yaml},
};
use lb_api::Reading;
use lb_core::{maps::Sizes, model::NodeName};
use libtest_mimic::{Arguments, Trial};

fn main() -> Result<()> {
    let mut trials = Vec::new();
    let mut dirs: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    dirs.sort();
    for dir in dirs {
        let scenario = dir.file_name().context("a directory has a name")?.to_string_lossy().into_owned();
        let of_controller = dir.clone();
        trials.push(Trial::test(format!("{scenario}::controller"), move || {
            let compared = in_source(&of_controller, |source| Ok(controller::dry_run(source)?))
                .and_then(|documents| compare(&of_controller.join("controller.yaml"), &documents));
            compared.map_err(|error| format!("{error:#}").into())
        }));
        for name in ["n1", "n2"] {
            let (dir, node) = (dir.clone(), NodeName(name.into()));
            if network::read(&dir.join("links.yaml"), &node).is_err() {
                continue;
            }
            trials.push(Trial::test(format!("{scenario}::{name}"), move || {
                let compared = in_source(&dir, |source| {
                    let network = network::read(&dir.join("links.yaml"), &node)?;
                    Ok(node::dry_run(source, &node, &network, Sizes::default(), Reading::default())?)
                })
                .and_then(|documents| compare(&dir.join(format!("{node}.yaml")), &documents));
                compared.map_err(|error| format!("{error:#}").into())
            }));
        }
    }
    ensure!(trials.len() >= 3, "scenarios are missing");
    for name in ["chart", "class", "config-map"] {
        trials.push(Trial::test(format!("migration::{name}"), move || {
            migration(name).map_err(|error| format!("{error:#}").into())
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// What a MetalLB installation would become.
fn migration(name: &str) -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(name);
    let files = [("input.yaml".to_owned(), fs::read(dir.join("input.yaml"))?)].into();
    let installation = migrate::Installation::of_files(&files, "metallb-system");
    let circumstances = migrate::Circumstances { backup: "backup".to_owned(), ..Default::default() };
    let report = migrate::report(&installation, &circumstances);
    let json = serde_json::to_string(&report)?;
    ensure!(!json.contains("never-shown") && !json.contains("bm9ib2R5"), "a secret is said");
    compare_text(&dir.join("report.txt"), &migrate::text(&report))
}

/// What happens with the scenario's objects as the only ones of a source.
fn in_source(dir: &Path, act: impl FnOnce(&Path) -> Result<Vec<Document>>) -> Result<Vec<Document>> {
    let source = tempfile::tempdir()?;
    fs::copy(dir.join("input.yaml"), source.path().join("input.yaml"))?;
    act(source.path())
}

fn compare(path: &Path, documents: &[Document]) -> Result<()> {
    let texts: Result<Vec<String>, _> = documents.iter().map(|document| to_yaml(&document.value)).collect();
    let happened: String = texts?.iter().map(|text| format!("---\n{}\n", text.trim_end())).collect();
    compare_text(path, &happened)
}

fn compare_text(path: &Path, happened: &str) -> Result<()> {
    if std::env::var_os("MAGNETITE_BLESS").is_some() {
        return Ok(fs::write(path, happened)?);
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    let line = expected.lines().zip(happened.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or_else(|| expected.lines().count().min(happened.lines().count()));
    ensure!(
        expected == happened,
        "{} differs from line {}:\n- {}\n+ {}\nMAGNETITE_BLESS=1 writes it anew",
        path.display(),
        line + 1,
        expected.lines().nth(line).unwrap_or("(end)"),
        happened.lines().nth(line).unwrap_or("(end)")
    );
    Ok(())
}
