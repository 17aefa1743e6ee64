//! What is to be said of an allocation to those whose objects it is about.

use std::collections::BTreeMap;

use lb_core::{
    allocate::{Allocation, AllocationError, Remark},
    model::ObjectName,
};

use crate::{
    problem::{ObjectKey, Problem, ProblemKind, Severity},
    service::Fields,
};

/// What is wrong, by the object that has to be mended. Objects stand in the files that `origins` names, all others `elsewhere`.
pub(crate) fn of_allocation(
    allocation: &Allocation,
    origins: &BTreeMap<ObjectKey, String>,
    fields: &BTreeMap<ObjectName, Fields>,
    elsewhere: &str,
) -> Vec<Problem> {
    let file = |object: &ObjectKey| origins.get(object).map_or(elsewhere, String::as_str).to_owned();
    let problem = |service: &ObjectName, severity, error: &AllocationError, kind| {
        let object = ObjectKey::of_service(service);
        let field = fields.get(service).map(|fields| fields.of(error)).unwrap_or_default();
        Problem { file: file(&object), object: Some(object), field, severity, kind }
    };
    let errors = allocation.errors.iter().map(|(service, error)| {
        problem(service, Severity::Error, error, ProblemKind::Allocation(error.clone()))
    });
    let remarks = allocation.remarks.iter().map(|(service, remark)| {
        let (Remark::Cleared(error) | Remark::Stranded(error) | Remark::OneFamily(error)) = remark;
        problem(service, Severity::Warning, error, ProblemKind::Remark(remark.clone()))
    });
    let pools = allocation.counts.iter().flat_map(|(pool, counts)| {
        let object = || origins.keys().find(|key| key.kind == "IPAddressPool" && key.name == *pool);
        counts.left_out.iter().map(move |(part, purpose)| {
            let object = object();
            Problem {
                file: object.map(file).unwrap_or_default(),
                object: object.cloned(),
                field: "spec.addresses".to_owned(),
                severity: Severity::Warning,
                kind: ProblemKind::InUse {
                    part: format!("{}-{}", part.first(), part.last()),
                    purpose: purpose.clone(),
                },
            }
        })
    });
    errors.chain(remarks).chain(pools).collect()
}
