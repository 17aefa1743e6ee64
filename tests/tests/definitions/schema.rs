//! What the definitions say of each field, and JSON in which fields are found by their path.

use anyhow::Result;
use lb_api::crd::definitions;
use serde_json::{Map, Value, json};

/// A field of a kind.
pub struct Node {
    /// Kind and version.
    pub of: String,
    /// Its path, with `[]` after a list and `a` for any key of a map.
    pub path: String,
    /// What is said of it.
    pub schema: Value,
}

/// All fields of all kinds.
pub fn nodes() -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for definition in definitions()? {
        let value = serde_json::to_value(&definition)?;
        for version in value["spec"]["versions"].as_array().into_iter().flatten() {
            let (kind, name) = (&value["spec"]["names"]["kind"], &version["name"]);
            let of = format!("{}.{}", kind.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
            let properties = &version["schema"]["openAPIV3Schema"]["properties"];
            for part in ["spec", "status"] {
                walk(&of, part, &properties[part], &mut nodes);
            }
        }
    }
    Ok(nodes)
}

fn walk(of: &str, path: &str, schema: &Value, nodes: &mut Vec<Node>) {
    if schema.is_null() || path == "status.conditions" {
        return;
    }
    nodes.push(Node { of: of.to_owned(), path: path.to_owned(), schema: schema.clone() });
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(of, &format!("{path}.{name}"), inner, nodes);
    }
    walk(of, &format!("{path}[]"), &schema["items"], nodes);
    walk(of, &format!("{path}.a"), &schema["additionalProperties"], nodes);
}

/// What an API server says where a field does not have what a schema asks for without a rule.
pub const BELOW: &str = "should be greater than or equal to";
pub const ABOVE: &str = "should be less than or equal to";
pub const FEW: &str = "should have at least 1 items";
pub const UNLIKE: &str = "should match";
pub const NONE_OF: &str = "supported values: ";

impl Node {
    /// What an API server says when the field is wrong, for each way to be wrong. Lengths are there for rules, and are not counted.
    pub fn checks(&self) -> Vec<String> {
        let plain = [
            ("minimum", BELOW),
            ("maximum", ABOVE),
            ("minItems", FEW),
            ("pattern", UNLIKE),
            ("enum", NONE_OF),
        ];
        let plain = plain.into_iter().filter(|(key, _)| !self.schema[*key].is_null());
        let mut checks: Vec<String> = plain.map(|(_, says)| says.to_owned()).collect();
        let rules = self.schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        checks.extend(rules.map(|rule| rule["message"].as_str().unwrap_or_default().to_owned()));
        checks
    }

    /// Whether labels are selected by it.
    pub fn is_selector(&self) -> bool {
        let properties = &self.schema["properties"];
        !properties["matchLabels"].is_null() && !properties["matchExpressions"].is_null()
    }
}

/// Parts without which an entry of a list is not whole.
fn entry(list: &str) -> Value {
    match list {
        "preferredNodeSelectors" => json!({"weight": 1, "preference": {}}),
        "matchExpressions" => json!({"key": "a", "operator": "In", "values": ["b"]}),
        _ => Value::Null,
    }
}

/// An object that has a value at a path, and what else it needs for that.
pub fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, segment| {
        let Some(name) = segment.strip_suffix("[]") else { return json!({ segment: inner }) };
        let mut whole = entry(name);
        match inner {
            Value::Object(_) if whole.is_object() => merge(&mut whole, &inner),
            _ => whole = inner,
        }
        json!({ name: [whole] })
    })
}

/// Whether there is something at a path.
pub fn has(value: &Value, path: &str) -> bool {
    let Some((segment, rest)) = path.split_once('.').or(Some((path, ""))).filter(|_| !path.is_empty()) else {
        return true;
    };
    let (name, is_list) = segment.strip_suffix("[]").map_or((segment, false), |name| (name, true));
    let inner = &value[name];
    match inner {
        Value::Null => false,
        Value::Array(entries) if is_list => entries.iter().any(|entry| has(entry, rest)),
        _ => has(inner, rest),
    }
}

/// JSON merge patch (RFC 7386).
pub fn merge(value: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        value.clone_from(change);
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(fields) = value else { return };
    for (name, inner) in change {
        if inner.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), inner);
        }
    }
}

/// Names of fields that are not in another object, or are otherwise.
pub fn missing(sent: &Value, found: &Value) -> Vec<String> {
    let fields = sent.as_object().into_iter().flatten();
    fields.filter(|(name, value)| found[name.as_str()] != **value).map(|(name, _)| name.clone()).collect()
}
