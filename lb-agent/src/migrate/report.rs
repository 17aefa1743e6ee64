//! All that there is to say of a MetalLB installation that is to become ours.

use lb_api::{ProblemKind, Severity};
use serde::Serialize;

use super::{
    addresses::{ServiceAddresses, addresses},
    differences::{differences, not_taken_over},
    installation::{Installation, Part, Whose},
    policies::{NewClients, new_clients},
    steps::{Step, steps},
};

/// What is not in the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Where objects are saved before anything is changed, as a path.
    pub backup: String,
    /// They have been.
    pub has_backup: bool,
    /// What would be lost is not missed.
    pub accepts_losses: bool,
}

/// What becomes of an installation, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// MetalLB's namespace.
    pub namespace: String,
    /// What runs MetalLB; nothing of it may run and its objects be there.
    pub runs: Vec<String>,
    /// Whether anything of MetalLB's is there.
    pub is_there: bool,
    /// What is wrong with objects, and keeps them from being used.
    pub problems: Vec<Finding>,
    /// Service by Service, what it has and would have.
    pub addresses: Vec<ServiceAddresses>,
    /// What is not taken over.
    pub not_taken_over: Vec<Finding>,
    /// What is otherwise than with MetalLB.
    pub differences: Vec<Finding>,
    /// Whose pods will see clients for the first time, and not let them in.
    pub new_clients: Vec<NewClients>,
    /// What is to be done, in this order.
    pub steps: Vec<Step>,
}

/// Something to know of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Kind, namespace and name.
    pub object: String,
    /// The field; empty for the whole.
    pub field: String,
    /// What there is to know.
    pub words: String,
}

/// What becomes of an installation.
pub fn report(installation: &Installation, circumstances: &Circumstances) -> Report {
    let addresses = addresses(installation);
    Report {
        namespace: installation.namespace.clone(),
        runs: runs(installation),
        is_there: installation.is_there(),
        problems: problems(installation),
        not_taken_over: not_taken_over(installation),
        differences: differences(installation),
        new_clients: new_clients(installation),
        steps: steps(installation, circumstances, &addresses),
        addresses,
    }
}

fn runs(installation: &Installation) -> Vec<String> {
    let controllers = installation.running("Deployment", Whose::MetalLb, Part::Controller);
    let speakers = installation.running("DaemonSet", Whose::MetalLb, Part::Speaker);
    controllers.chain(speakers).map(|(key, _)| key.to_string()).collect()
}

/// What keeps objects from being used. Services that get no address are told of where addresses are.
fn problems(installation: &Installation) -> Vec<Finding> {
    let problems = installation.settled.problems.iter();
    let errors = problems.filter(|problem| {
        problem.severity == Severity::Error && !matches!(problem.kind, ProblemKind::Allocation(_))
    });
    errors
        .map(|problem| Finding {
            object: problem.object.as_ref().map_or(problem.file.clone(), ToString::to_string),
            field: problem.field.clone(),
            words: problem.kind.to_string(),
        })
        .collect()
}
