//! The definitions of MetalLB's kinds: those in `manifests/crds` are these, and these have all that MetalLB's have.

use std::{collections::BTreeSet, fs, path::PathBuf};

use lb_api::crd::definitions;
use serde_json::Value;

/// MetalLB's definitions (main branch of July 2026), a line for each version, column and field; without rules, which are held against
/// objects on a real API server.
const METALLB: &str = include_str!("metallb.txt");

/// Where these definitions say more: MetalLB's line, and ours.
const MORE: &[(&str, &str)] = &[
    // MetalLB's webhook refuses what lacks these.
    ("", "BGPPeer.v1beta1.spec object required"),
    ("", "BGPPeer.v1beta2.spec object required"),
    // What else it refuses, and a number alone says.
    (
        "BGPPeer.v1beta1.spec.myASN integer required minimum=0 maximum=4294967295",
        "BGPPeer.v1beta1.spec.myASN integer required minimum=1 maximum=4294967295",
    ),
    (
        "BGPPeer.v1beta1.spec.peerASN integer required minimum=0 maximum=4294967295",
        "BGPPeer.v1beta1.spec.peerASN integer required minimum=1 maximum=4294967295",
    ),
    (
        "BGPPeer.v1beta2.spec.myASN integer required minimum=0 maximum=4294967295",
        "BGPPeer.v1beta2.spec.myASN integer required minimum=1 maximum=4294967295",
    ),
    (
        "BGPAdvertisement.v1beta1.spec.aggregationLength integer default=32 minimum=1",
        "BGPAdvertisement.v1beta1.spec.aggregationLength integer default=32 minimum=1 maximum=32",
    ),
    (
        "BGPAdvertisement.v1beta1.spec.aggregationLengthV6 integer default=128",
        "BGPAdvertisement.v1beta1.spec.aggregationLengthV6 integer default=128 maximum=128",
    ),
    (
        "IPAddressPool.v1beta1.spec.addresses array required",
        "IPAddressPool.v1beta1.spec.addresses array required minItems=1",
    ),
    // It is unsigned (RFC 4271, section 5.1.5).
    (
        "BGPAdvertisement.v1beta1.spec.localPref integer",
        "BGPAdvertisement.v1beta1.spec.localPref integer minimum=0 maximum=4294967295",
    ),
];
/// And here in every selector.
const OPERATOR: &str = ".matchExpressions[].operator string required";

fn manifests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds")
}

#[test]
fn manifests_are_up_to_date() {
    for definition in definitions().unwrap() {
        let name = definition.metadata.name.clone().unwrap();
        let path = manifests().join(format!("{name}.yaml"));
        let text = serde_saphyr::to_string(&definition).unwrap();
        if std::env::var_os("MAGNETITE_BLESS").is_some() {
            fs::create_dir_all(manifests()).unwrap();
            fs::write(&path, text).unwrap();
        } else {
            let known = fs::read_to_string(&path).unwrap_or_default();
            assert!(known == text, "{} is out of date: cargo xtask crds", path.display());
        }
    }
}

#[test]
fn nothing_of_metallb_is_missing() {
    let ours: BTreeSet<String> = definitions()
        .unwrap()
        .iter()
        .flat_map(|definition| lines(&serde_json::to_value(definition).unwrap()))
        .collect();
    let mut expected: BTreeSet<String> = METALLB
        .lines()
        .map(|line| match line.ends_with(OPERATOR) {
            true => format!("{line} enum=In,NotIn,Exists,DoesNotExist"),
            false => line.to_owned(),
        })
        .collect();
    for (theirs, ours) in MORE {
        assert!(theirs.is_empty() || expected.remove(*theirs), "{theirs}");
        assert!(expected.insert((*ours).to_owned()), "{ours}");
    }
    assert_eq!(expected.difference(&ours).collect::<Vec<_>>(), [""; 0], "is missing");
    assert_eq!(ours.difference(&expected).collect::<Vec<_>>(), [""; 0], "is more");
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Number(number) => number.as_f64().map_or_else(String::new, |number| number.to_string()),
        other => other.to_string(),
    }
}

fn lines(definition: &Value) -> Vec<String> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let kind = text(&names["kind"]);
    let mut lines = vec![format!(
        "{} {} {kind} {}",
        text(&definition["metadata"]["name"]),
        text(&spec["scope"]),
        text(&names["singular"])
    )];
    for version in spec["versions"].as_array().into_iter().flatten() {
        let path = format!("{kind}.{}", text(&version["name"]));
        lines.push(format!(
            "{path} served={} storage={} deprecated={} status={}",
            version["served"],
            version["storage"],
            version["deprecated"].as_bool().unwrap_or(false),
            version["subresources"].get("status").is_some()
        ));
        for column in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
            let priority = column["priority"].as_i64().unwrap_or(0);
            let (name, of, at) = (text(&column["name"]), text(&column["type"]), text(&column["jsonPath"]));
            lines.push(format!("{path} column '{name}' {of} {at} {priority}"));
        }
        fields(&path, &version["schema"]["openAPIV3Schema"], false, &mut lines);
    }
    lines
}

fn fields(path: &str, schema: &Value, is_required: bool, lines: &mut Vec<String>) {
    let mut words = vec![path.to_owned(), text(&schema["type"])];
    words.extend(is_required.then(|| "required".to_owned()));
    for key in ["default", "minimum", "maximum", "minItems", "enum", "format"] {
        let value = &schema[key];
        let is_usual = key == "format" && matches!(value.as_str(), Some("int32" | "int64"));
        if !value.is_null() && !is_usual {
            words.push(format!("{key}={}", text(value)));
        }
    }
    let properties = schema["properties"].as_object();
    if words.len() > 2 || words[1] != "object" || properties.is_none_or(serde_json::Map::is_empty) {
        lines.push(words.join(" "));
    }
    let required = schema["required"].as_array();
    for (name, inner) in properties.into_iter().flatten() {
        let is_root = path.matches('.').count() == 1;
        if is_root && ["apiVersion", "kind", "metadata"].contains(&name.as_str())
            || path.ends_with("conditions[]")
        {
            continue;
        }
        let is_required = required.is_some_and(|required| required.iter().any(|field| field == name));
        fields(&format!("{path}.{name}"), inner, is_required, lines);
    }
    if let Some(items) = schema.get("items") {
        fields(&format!("{path}[]"), items, false, lines);
    }
}
