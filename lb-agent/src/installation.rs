//! What is asked of all objects at once, in files or in a cluster: whether they are right, and what a MetalLB installation would become.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use lb_agent::{
    cluster, commands, migrate,
    source::{self, Source},
};

use crate::{Format, roles::ClusterArguments, runtime};

/// Where objects are.
#[derive(Args)]
pub struct ObjectsArguments {
    /// Directory of YAML and JSON files, or - for YAML from standard input.
    #[arg(conflicts_with = "source")]
    files: Option<PathBuf>,
    /// Where objects come from, as with the roles: kube or file:DIR.
    #[arg(long)]
    source: Option<Source>,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// What `migrate` is told.
#[derive(Args)]
pub struct MigrateArguments {
    #[command(flatten)]
    objects: ObjectsArguments,
    /// Form of the answer.
    #[arg(short = 'o', value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
    /// Carries the steps out, one by one, until one fails or is yours; what is done is not done again. Without it nothing is changed.
    #[arg(long, conflicts_with = "format")]
    pub apply: bool,
    /// Directory in which objects are saved before anything is changed.
    #[arg(long, value_name = "DIR", default_value = "metallb-backup")]
    backup: PathBuf,
    /// Goes on although Services lose what the report says they do.
    #[arg(long)]
    accept_losses: bool,
}

/// Objects that are looked at once.
enum Objects {
    Files(BTreeMap<String, Vec<u8>>),
    Cluster,
}

impl ObjectsArguments {
    /// As named; if nothing is, a cluster's.
    fn read(&self) -> Result<Objects> {
        let dir = match (&self.files, &self.source) {
            (Some(path), _) if path == Path::new("-") => return standard_input(),
            (Some(dir), _) | (None, Some(Source::File(dir))) => dir,
            (None, Some(Source::Kube) | None) => return Ok(Objects::Cluster),
        };
        Ok(Objects::Files(source::read(dir)?))
    }
}

fn standard_input() -> Result<Objects> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
    Ok(Objects::Files([("standard input".to_owned(), bytes)].into()))
}

/// Says what is wrong.
pub fn validate(arguments: ObjectsArguments) -> Result<ExitCode> {
    let is_named = arguments.files.is_some() || arguments.source.is_some();
    let objects = if is_named { arguments.read()? } else { standard_input()? };
    let problems = match objects {
        Objects::Files(files) => commands::validate(&files, &arguments.cluster.namespace),
        Objects::Cluster => {
            let ClusterArguments { namespace, kubeconfig } = arguments.cluster;
            runtime()?.block_on(async {
                let client = cluster::connect(kubeconfig.as_deref()).await?;
                let objects = cluster::objects(&client, &namespace).await?;
                anyhow::Ok(commands::validate_objects(objects, &namespace))
            })?
        }
    };
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what a MetalLB installation would become, or makes it so.
pub fn migrate(arguments: MigrateArguments) -> Result<()> {
    let ClusterArguments { namespace, kubeconfig } = &arguments.objects.cluster;
    let options = migrate::Options {
        namespace: namespace.clone(),
        backup: arguments.backup,
        accepts_losses: arguments.accept_losses,
    };
    let installation = match arguments.objects.read()? {
        Objects::Files(_) if arguments.apply => bail!("--apply is for a cluster: --source kube"),
        Objects::Files(files) => migrate::Installation::of_files(&files, namespace),
        Objects::Cluster => {
            let runtime = runtime()?;
            let client = runtime.block_on(cluster::connect(kubeconfig.as_deref()))?;
            if arguments.apply {
                let applied = migrate::apply(&client, &options, |line| println!("{line}"));
                return match runtime.block_on(applied)? {
                    migrate::Applied::Whole => Ok(()),
                    migrate::Applied::Yours => {
                        println!("that is yours to do; then run it again");
                        Ok(())
                    }
                };
            }
            runtime.block_on(migrate::read(&client, namespace))?
        }
    };
    let report = migrate::report(&installation, &options.circumstances());
    match arguments.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Table => print!("{}", migrate::text(&report)),
    }
    Ok(())
}
