//! Label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_core::model::{Operator, Requirement, Selector};

use crate::problem::Report;

/// `None` if an operator is unknown.
pub(crate) fn selectors(
    field: &str,
    selectors: Vec<LabelSelector>,
    report: &mut Report<'_>,
) -> Option<Vec<Selector>> {
    let numbered = selectors.into_iter().enumerate();
    numbered.map(|(i, one)| selector(&format!("{field}[{i}]"), one, report)).collect()
}

/// `None` if an operator is unknown.
pub(crate) fn selector(field: &str, selector: LabelSelector, report: &mut Report<'_>) -> Option<Selector> {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.unwrap_or_default() {
        requirements.push(Requirement { key, operator: Operator::In([value].into()) });
    }
    for (i, expression) in selector.match_expressions.unwrap_or_default().into_iter().enumerate() {
        let values = expression.values.unwrap_or_default().into_iter().collect();
        let operator = match expression.operator.as_str() {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                let field = format!("{field}.matchExpressions[{i}].operator");
                report.bad_value(field, other, "one of In, NotIn, Exists, DoesNotExist");
                return None;
            }
        };
        requirements.push(Requirement { key: expression.key, operator });
    }
    Some(Selector { requirements })
}
