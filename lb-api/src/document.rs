//! From bytes to objects: documents of a file, and typed objects with the path of what does not fit.

use kube::Resource;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_ignored::Path;
use serde_json::{Map, Value};

use crate::problem::{ObjectKey, Problem, ProblemKind, Report, Severity};

/// An object before its kind is looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub file: String,
    pub key: ObjectKey,
    pub value: Value,
}

/// The objects of a file; a document that cannot be read does not hide the others.
pub(crate) fn split(file: &str, bytes: &[u8], documents: &mut Vec<Document>, problems: &mut Vec<Problem>) {
    let mut fail = |message: String| {
        problems.push(Problem {
            file: file.to_owned(),
            object: None,
            field: String::new(),
            severity: Severity::Error,
            kind: ProblemKind::Syntax { message },
        });
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return fail(error.to_string()),
    };
    let mut values = Vec::new();
    if file.ends_with(".json") {
        match serde_json::from_str(text) {
            Ok(value) => values.push(value),
            Err(error) => fail(error.to_string()),
        }
    } else {
        for document in yaml_documents(text) {
            match serde_saphyr::from_str::<Value>(&document) {
                Ok(value) => values.push(value),
                Err(error) => {
                    let message = error.to_string();
                    let line = message.lines().next().unwrap_or_default();
                    fail(line.strip_prefix("error: ").unwrap_or(line).to_owned());
                }
            }
        }
    }
    for value in values {
        take(file, value, documents, problems);
    }
}

/// Documents of a stream, each alone, with its lines where they were: so that messages name the lines of the file.
fn yaml_documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        if after_marker(line).is_some() {
            documents.push("\n".repeat(number));
        }
        if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let is_content = |line: &str| {
        let line = after_marker(line).unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with('#')
    };
    documents.retain(|document| document.lines().any(is_content));
    documents
}

/// What follows the marker of a document on its line; `None` if there is no marker.
fn after_marker(line: &str) -> Option<&str> {
    line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

/// An object, or those of a list.
fn take(file: &str, mut value: Value, documents: &mut Vec<Document>, problems: &mut Vec<Problem>) {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text("/kind");
    if value.is_null() {
        return;
    }
    if kind == "List" {
        if let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) {
            // A list in a list is none of Kubernetes'.
            items
                .into_iter()
                .filter(|item| item["kind"] != "List")
                .for_each(|item| take(file, item, documents, problems));
        }
        return;
    }
    let namespace = match kind.as_str() {
        "Node" | "Namespace" | "ServiceCIDR" => String::new(),
        _ => Some(text("/metadata/namespace"))
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or("default".to_owned()),
    };
    let key = ObjectKey { kind, namespace, name: text("/metadata/name") };
    let missing = [("kind", &key.kind), ("metadata.name", &key.name), ("apiVersion", &text("/apiVersion"))];
    for (field, _) in missing.iter().filter(|(_, value)| value.is_empty()) {
        let object = (!key.kind.is_empty()).then(|| key.clone());
        problems.push(Problem {
            file: file.to_owned(),
            object,
            field: (*field).to_owned(),
            severity: Severity::Error,
            kind: ProblemKind::Missing,
        });
    }
    if missing.iter().all(|(_, value)| !value.is_empty()) {
        documents.push(Document { file: file.to_owned(), key, value });
    }
}

/// Fields of which none may be left out: the object would be for more than was meant.
const RESTRICTION: &str = "spec.serviceAllocation.";

/// The object as a type; `None` if its version or a field does not fit. Fields that the type does not have are reported, and left
/// out.
pub(crate) fn typed<T>(value: &Value, report: &mut Report<'_>) -> Option<T>
where
    T: DeserializeOwned + Resource<DynamicType = ()>,
{
    let expected = T::api_version(&());
    let version = value["apiVersion"].as_str().unwrap_or_default();
    if version != expected {
        let kind = ProblemKind::ApiVersion { value: version.to_owned(), expected: expected.into_owned() };
        report.add(Severity::Error, "apiVersion", kind);
        return None;
    }
    // Of MetalLB's kinds the spec may be left out where all that is in it may.
    let with_spec = (version.starts_with("metallb.io/") && value.get("spec").is_none()).then(|| {
        let mut value = value.clone();
        value["spec"] = Value::Object(Map::new());
        value
    });
    fitted(with_spec.as_ref().unwrap_or(value), "", report)
}

/// A value as a type; `None` if a field does not fit. What is said of a field begins with `prefix`.
pub(crate) fn fitted<T: DeserializeOwned>(value: &Value, prefix: &str, report: &mut Report<'_>) -> Option<T> {
    let mut unknown: Vec<String> = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let result: Result<T, serde_json::Error> =
        serde_ignored::deserialize(deserializer, |path| unknown.push(shown(&path)));
    // The types of custom resources leave these two to whoever reads them: here.
    unknown.retain(|field| field != "apiVersion" && field != "kind");
    let is_open = unknown.iter().any(|field| field.starts_with(RESTRICTION));
    for field in unknown {
        let severity = if field.starts_with(RESTRICTION) { Severity::Error } else { Severity::Warning };
        report.add(severity, format!("{prefix}{field}"), ProblemKind::UnknownField);
    }
    match result {
        Ok(object) => (!is_open).then_some(object),
        Err(error) => {
            // The whole object shows as a dot.
            let field = Some(track.path().to_string()).filter(|field| field != ".").unwrap_or_default();
            let field = format!("{prefix}{field}");
            report.add(Severity::Error, field, ProblemKind::Type { message: error.to_string() });
            None
        }
    }
}

/// A path as people write it: `spec.ports[0].port`.
fn shown(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", shown(parent)),
        Path::Map { parent, key } => match shown(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            shown(parent)
        }
    }
}
