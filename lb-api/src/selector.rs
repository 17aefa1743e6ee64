//! Label selectors.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_core::model::{Operator, Requirement, Selector};

use crate::problem::{ProblemKind, Report, Severity};

/// `None` if one of them is none that Kubernetes takes.
pub(crate) fn selectors(
    field: &str,
    selectors: Vec<LabelSelector>,
    report: &mut Report<'_>,
) -> Option<Vec<Selector>> {
    report.repeated(field, selectors.iter().map(|selector| serde_json::to_string(selector).ok()));
    let numbered = selectors.into_iter().enumerate();
    numbered.map(|(i, one)| selector(&format!("{field}[{i}]"), one, report)).collect()
}

/// `None` if it is none that Kubernetes takes (`k8s.io/apimachinery/pkg/labels/selector.go`).
pub(crate) fn selector(field: &str, selector: LabelSelector, report: &mut Report<'_>) -> Option<Selector> {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.unwrap_or_default() {
        let key = label_key(format!("{field}.matchLabels"), key, report)?;
        let value = label_value(format!("{field}.matchLabels.{key}"), value, report)?;
        requirements.push(Requirement { key, operator: Operator::In([value].into()) });
    }
    for (i, expression) in selector.match_expressions.unwrap_or_default().into_iter().enumerate() {
        let field = format!("{field}.matchExpressions[{i}]");
        let values = expression.values.unwrap_or_default().into_iter().enumerate();
        let values: BTreeSet<String> = values
            .map(|(j, value)| label_value(format!("{field}.values[{j}]"), value, report))
            .collect::<Option<_>>()?;
        let has_values = !values.is_empty();
        let (operator, takes_values) = match expression.operator.as_str() {
            "In" => (Operator::In(values), true),
            "NotIn" => (Operator::NotIn(values), true),
            "Exists" => (Operator::Exists, false),
            "DoesNotExist" => (Operator::DoesNotExist, false),
            other => {
                let field = format!("{field}.operator");
                report.bad_value(field, other, "one of In, NotIn, Exists, DoesNotExist");
                return None;
            }
        };
        if has_values != takes_values {
            report.add(Severity::Error, format!("{field}.values"), ProblemKind::ValuesOfOperator);
            return None;
        }
        let key = label_key(format!("{field}.key"), expression.key, report)?;
        requirements.push(Requirement { key, operator });
    }
    Some(Selector { requirements })
}

/// A name, and before it a domain if there is a slash.
fn label_key(field: String, key: String, report: &mut Report<'_>) -> Option<String> {
    let (domain, name) =
        key.split_once('/').map_or((None, key.as_str()), |(domain, name)| (Some(domain), name));
    let is_part = |part: &str| {
        let is_ours = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        part.bytes().all(|byte| is_ours(byte) || byte == b'-')
            && part.bytes().next().is_some_and(is_ours)
            && part.bytes().last().is_some_and(is_ours)
    };
    let is_domain = |domain: &str| domain.len() <= MAX_DOMAIN && domain.split('.').all(is_part);
    if name.is_empty() || !is_label(name) || !domain.is_none_or(is_domain) {
        report.bad_value(field, key, "the key of a label (zone, example.com/tier)");
        return None;
    }
    Some(key)
}

fn label_value(field: String, value: String, report: &mut Report<'_>) -> Option<String> {
    if !is_label(&value) {
        report.bad_value(field, value, "the value of a label: 63 letters, digits, '-', '_' and '.' at most");
        return None;
    }
    Some(value)
}

/// Characters of a label, and of the domain before its name.
const MAX_LABEL: usize = 63;
const MAX_DOMAIN: usize = 253;

/// Nothing is a label as well.
fn is_label(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= MAX_LABEL
        && ends.into_iter().flatten().all(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
