//! Secret `memberlist`, as MetalLB's controller makes it. Nothing of what is in it is ever in a problem.

use k8s_openapi::api::core::v1;
use lb_core::model::GossipSecret;
use serde_json::Value;

use crate::problem::{ProblemKind, Report, Severity};

/// Fewest bytes of a secret.
const LEAST: usize = 16;

/// `None` if it holds no secret, or one that is too short to be any.
pub(crate) fn gossip_secret(value: &Value, report: &mut Report<'_>) -> Option<GossipSecret> {
    // The decoder's words could quote what it read.
    let Ok(secret) = serde_json::from_value::<v1::Secret>(value.clone()) else {
        report.add(Severity::Error, "data", ProblemKind::Secret { expected: "values in base64" });
        return None;
    };
    let (data, text) = (secret.data.unwrap_or_default(), secret.string_data.unwrap_or_default());
    let of = |key: &str| {
        let bytes = data.get(key).map(|bytes| bytes.0.clone());
        bytes.or_else(|| text.get(key).map(|text| text.clone().into_bytes()))
    };
    let is_long = |secret: &Vec<u8>| secret.len() >= LEAST;
    let expected = "a secret of at least 16 bytes, as `openssl rand -base64 128` makes it";
    let Some(current) = of("secretkey").filter(is_long) else {
        report.add(Severity::Error, "data.secretkey", ProblemKind::Secret { expected });
        return None;
    };
    // With one that can be guessed anybody could speak for a node.
    let previous = of("previous");
    if previous.as_ref().is_some_and(|previous| !is_long(previous)) {
        report.add(Severity::Error, "data.previous", ProblemKind::Secret { expected });
    }
    Some(GossipSecret { current, previous: previous.filter(is_long) })
}
