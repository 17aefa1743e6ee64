//! Carries steps out, one by one: whatever was carried out is looked at again before the next.

use std::{path::PathBuf, time::Duration};

use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};

use super::{
    action::{Action, Object},
    backup::{self, BackupError},
    helm,
    installation::{Installation, label},
    report::{Circumstances, Report, report},
    steps::{By, State, Step},
    text::line,
};
use crate::cluster::{self, ReadError};

/// How steps are carried out.
#[derive(Clone, Debug)]
pub struct Options {
    /// MetalLB's namespace.
    pub namespace: String,
    /// Where objects are saved.
    pub backup: PathBuf,
    /// What would be lost is not missed.
    pub accepts_losses: bool,
}

/// How far it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// There is nothing left that has to be done.
    Whole,
    /// The next step is somebody else's.
    Yours,
}

/// Why it went no further.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Objects cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Objects cannot be saved.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// An object cannot be changed.
    #[error("step {step}: {object}")]
    Refused {
        /// The step.
        step: &'static str,
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A step must not be carried out yet.
    #[error("step {step}: {why}")]
    Blocked {
        /// The step.
        step: &'static str,
        /// Why.
        why: String,
    },
    /// A step was carried out, and is as before.
    #[error(
        "step {step} was carried out, and does not last: somebody undoes it, an operator or a tool that keeps MetalLB as it was"
    )]
    Undone {
        /// The step.
        step: &'static str,
    },
    /// A step was carried out, and is not over.
    #[error("step {step}: {what}, after {} s: run it again", PATIENCE.as_secs())]
    Overdue {
        /// The step.
        step: &'static str,
        /// What is waited for.
        what: String,
    },
    /// There is no randomness for a secret.
    #[error("no random bytes for a secret")]
    Random,
}

/// Something that was carried out ends within this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often it is looked whether it has.
const LOOK: Duration = Duration::from_secs(1);
/// What is new meanwhile has the same done to it, so often.
const TURNS: u32 = 3;
/// Who the API server takes for the owner of what is changed.
const MANAGER: &str = "magnetite-migrate";
/// Bytes of a secret.
const SECRET_LENGTH: usize = 64;

/// A MetalLB installation in a cluster, as it is now.
///
/// # Errors
/// The API server does not answer, or does not let us.
pub async fn read(client: &Client, namespace: &str) -> Result<Installation, ReadError> {
    let is_record = |secret: &Value| label(secret, helm::OWNER.0) == Some(helm::OWNER.1);
    Ok(Installation::of_objects(cluster::installation(client, namespace, is_record).await?, namespace))
}

impl Options {
    /// What is not in the objects.
    pub fn circumstances(&self) -> Circumstances {
        Circumstances {
            backup: self.backup.display().to_string(),
            has_backup: backup::is_there(&self.backup),
            accepts_losses: self.accepts_losses,
        }
    }
}

/// Carries out what is left, until a step is somebody else's, or fails. Each step is told of when it is over. It can be called again at
/// any time: what is done is not done again.
///
/// # Errors
/// A step failed, or must not be carried out; those after it were not begun.
pub async fn apply(
    client: &Client,
    options: &Options,
    mut tell: impl FnMut(&str),
) -> Result<Applied, ApplyError> {
    let mut told = 0;
    let mut attempts = Attempts::default();
    loop {
        let installation = read(client, &options.namespace).await?;
        let Report { steps, .. } = report(&installation, &options.circumstances());
        let next = steps.iter().position(|step| !step.is_over());
        for step in steps.iter().take(next.unwrap_or(steps.len())).skip(told) {
            tell(&line(step));
        }
        let Some(index) = next else { return Ok(Applied::Whole) };
        told = told.max(index);
        let step = &steps[index];
        match (&step.state, step.by) {
            (State::Todo, By::Apply) => {
                if !attempts.may_try(step.name) {
                    return Err(ApplyError::Undone { step: step.name });
                }
                for action in &step.actions {
                    carry_out(client, &installation, options, step, action, &mut tell).await?;
                }
            }
            (State::Todo, By::Operator) => {
                tell(&line(step));
                step.commands.iter().for_each(|command| tell(&format!("            {command}")));
                return Ok(Applied::Yours);
            }
            (State::Waiting(what), _) => {
                if !attempts.may_wait(step.name) {
                    let what = what.clone();
                    return Err(ApplyError::Overdue { step: step.name, what });
                }
                tokio::time::sleep(LOOK).await;
            }
            (State::Blocked(why), _) => {
                return Err(ApplyError::Blocked { step: step.name, why: why.clone() });
            }
            // They are over.
            (State::Done | State::Whenever(_), _) => {}
        }
    }
}

/// How often the step that is next was tried.
#[derive(Default)]
struct Attempts {
    step: &'static str,
    turns: u32,
    since: Option<tokio::time::Instant>,
}

impl Attempts {
    fn may_try(&mut self, step: &'static str) -> bool {
        self.begin(step);
        self.turns += 1;
        self.turns <= TURNS
    }

    fn may_wait(&mut self, step: &'static str) -> bool {
        self.begin(step);
        let now = tokio::time::Instant::now();
        now.duration_since(*self.since.get_or_insert(now)) < PATIENCE
    }

    fn begin(&mut self, step: &'static str) {
        if self.step != step {
            *self = Self { step, ..Self::default() };
        }
    }
}

async fn carry_out(
    client: &Client,
    installation: &Installation,
    options: &Options,
    step: &Step,
    action: &Action,
    tell: &mut impl FnMut(&str),
) -> Result<(), ApplyError> {
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let (object, result) = match action {
        Action::Backup { .. } => return Ok(backup::write(installation, &options.backup)?),
        Action::Patch { object, patch } => {
            let patched = api(client, object).patch(&object.name, &params, &Patch::Merge(patch)).await;
            (object, patched.map(drop))
        }
        Action::Delete(object) => {
            let deleted = api(client, object).delete(&object.name, &DeleteParams::background()).await;
            (object, deleted.map(drop))
        }
        Action::MakeSecret(object) => {
            let secret: DynamicObject =
                serde_json::from_value(secret(object)?).map_err(|_| ApplyError::Random)?;
            let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
            (object, api(client, object).create(&params, &secret).await.map(drop))
        }
    };
    let [_, _, kind, _] = object.resource.names();
    let place = if object.namespace.is_empty() { String::new() } else { format!("{}/", object.namespace) };
    let object = format!("{kind} {place}{}", object.name);
    match result {
        Ok(()) => tell(&format!("          {}: {object}", step.name)),
        // Somebody else has deleted it meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(source) => return Err(ApplyError::Refused { step: step.name, object, source: Box::new(source) }),
    }
    Ok(())
}

fn api(client: &Client, object: &Object) -> Api<DynamicObject> {
    let [group, version, kind, plural] = object.resource.names();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    match object.namespace.as_str() {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    }
}

/// In letters, for MetalLB gives it to its speakers as a variable.
fn secret(object: &Object) -> Result<Value, ApplyError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut bytes = [0; SECRET_LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ApplyError::Random)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": object.name, "namespace": object.namespace},
        "stringData": {"secretkey": STANDARD.encode(bytes)},
    }))
}
