//! What a label selector says of pods of which some labels are known.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use lb_core::model::Labels;

/// Whether pods with certain labels, and perhaps others, are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// None of them.
    Never,
    /// It depends on their other labels.
    Perhaps,
    /// All of them.
    Always,
}

/// Whether pods that have these labels are selected.
pub fn selects(selector: &LabelSelector, known: &Labels) -> Match {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| match known.get(key) {
        Some(found) => certain(found == value),
        None => Match::Perhaps,
    });
    let expressed = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.as_deref().unwrap_or_default();
        match (expression.operator.as_str(), known.get(&expression.key)) {
            ("In", Some(found)) => certain(values.contains(found)),
            ("NotIn", Some(found)) => certain(!values.contains(found)),
            ("Exists", Some(_)) => Match::Always,
            ("DoesNotExist", Some(_)) => Match::Never,
            // Another operator, or a label of which nothing is known.
            _ => Match::Perhaps,
        }
    });
    equal.chain(expressed).min().unwrap_or(Match::Always)
}

const fn certain(is_met: bool) -> Match {
    if is_met { Match::Always } else { Match::Never }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_may_be_either() {
        let known = [("app".to_owned(), "web".to_owned())].into();
        let of = |selector| selects(&serde_json::from_value(selector).expect("a selector"), &known);
        assert_eq!(of(json!({})), Match::Always);
        assert_eq!(of(json!({"matchLabels": {"app": "web"}})), Match::Always);
        assert_eq!(of(json!({"matchLabels": {"app": "db"}})), Match::Never);
        assert_eq!(of(json!({"matchLabels": {"app": "web", "tier": "front"}})), Match::Perhaps);
        assert_eq!(of(json!({"matchLabels": {"app": "db", "tier": "front"}})), Match::Never);
        let expression = |operator, key, values: &[&str]| {
            of(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert_eq!(expression("In", "app", &["web", "db"]), Match::Always);
        assert_eq!(expression("NotIn", "app", &["web"]), Match::Never);
        assert_eq!(expression("Exists", "app", &[]), Match::Always);
        assert_eq!(expression("DoesNotExist", "app", &[]), Match::Never);
        assert_eq!(expression("DoesNotExist", "tier", &[]), Match::Perhaps);
        assert_eq!(expression("Gt", "app", &["1"]), Match::Perhaps);
    }
}
