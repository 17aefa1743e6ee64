//! What MetalLB checks in webhooks (`internal/config/config.go`), as far as one object alone decides it, in the definitions.
//!
//! Nothing is refused that works with MetalLB. Where a rule cannot say all, it says less, and decoding says the rest: the order of the
//! ends of an IPv6 range, keys of `matchLabels`, selectors that are there twice, and whatever needs a second object. A range from one
//! family to the other, of which MetalLB takes no address without a word, is refused.
//!
//! All of it is known to Kubernetes 1.25, the first whose API servers hold rules against objects unasked: none of what came later
//! is used (`messageExpression` of 1.27, `fieldPath` of 1.28, `ip()` and `cidr()`, which definitions may use from 1.31 on), because an
//! API server refuses a whole definition for one word that it does not know.
//!
//! An API server takes a rule whose cost it can bound: so the lists and texts that rules look at have limits here, which MetalLB has not.
//! They are as large as rules may cost, and far above what people have: see each. An object that was stored before, and breaks a rule, can
//! still be changed elsewhere from Kubernetes 1.30 on.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// Entries of `addresses`. Who has so many has them from a generator, and can give it ranges.
const ADDRESSES: usize = 3_500;
/// Characters of an entry: two IPv6 addresses in full have 91 with the dash between them.
const ADDRESS_PAIR: usize = 100;
/// Characters of an IP address: no way to write one has more than 45.
pub(super) const ADDRESS: usize = 64;
/// Characters of a duration: nanoseconds of 290 years have 21.
pub(super) const DURATION: usize = 64;
/// Names of objects in a list: pools or peers that are named one by one, instead of by a label or all.
pub(super) const NAMES: usize = 300;
/// Characters of an object's name (RFC 1123, section 2.1).
pub(super) const NAME: usize = 253;
/// Namespaces that are named one by one, instead of by a label.
pub(super) const NAMESPACES: usize = 550;
/// Characters of a namespace's name, of a label's name and of a label's value.
pub(super) const LABEL: usize = 63;
/// Aliases of one object; in more objects there can be more.
pub(super) const ALIASES: usize = 400;
/// Characters of a community or an alias.
pub(super) const COMMUNITY: usize = 128;
/// Selectors in a list, of which one has to be met: one for each node of the largest cluster that Kubernetes knows of has room.
pub(super) const SELECTORS: usize = 5_000;
/// Requirements in a selector, which all have to be met.
const REQUIREMENTS: usize = 100;
/// The names of a list are held against each other up to this length: at an API server each call has its budget, too.
const COMPARED: usize = 160;

/// An IPv4 address, whose octets have no leading zeros. Where a boundary has to follow, no two parts run into each other.
const V4: &str = r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.?\b){4}";
/// An IPv6 address (RFC 4291, section 2.2); the groups on both sides of `::` are not added up.
const V6: &str =
    r"(([\da-f]{1,4}:?\b){8}|([\da-f]{1,4}:?\b){0,7}::([\da-f]{1,4}:?\b){0,7}|[\da-f:]*:(\d+\.){3}\d+)";
/// A duration as Go writes and reads it, not negative.
const GO_DURATION: &str = r"^\+?(0|((\d+(\.\d*)?|\.\d+)(ns|[uµμ]s|ms|s|m|h))+)$";

/// Addresses of a pool.
pub(super) fn addresses(_: &mut SchemaGenerator) -> Schema {
    let v4_range = format!(r"\s*{V4}\s*-\s*{V4}\s*");
    let v4 = format!(r"^({V4}/0*(3[0-2]|[12]?\d)|{v4_range})$");
    let v6 = format!(r"(?i)^({V6}/0*(12[0-8]|1[01]\d|[1-9]?\d)|(\s*{V6}\s*(-|$)){{2}})$");
    let number = |first: usize| {
        let octets = (first..).zip([16_777_216, 65_536, 256, 1]);
        let terms = octets.map(|(i, factor)| format!(r"int(self.findAll(r'\d+')[{i}]) * {factor}"));
        terms.collect::<Vec<_>>().join(" + ")
    };
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": ADDRESSES,
        "items": {
            "type": "string",
            "maxLength": ADDRESS_PAIR,
            "x-kubernetes-validations": [
                {
                    "rule": format!("self.contains(':') || {}", matches(&v4)),
                    "message": "addresses has to have CIDRs (192.0.2.0/24) or ranges (192.0.2.1-192.0.2.9)",
                },
                {
                    "rule": format!("!self.contains(':') || {} && !self.endsWith('-')", matches(&v6)),
                    "message": "addresses has to have CIDRs (2001:db8::/64) or ranges of one family (2001:db8::1-2001:db8::9)",
                },
                {
                    "rule": format!("!self.matches(r'^{v4_range}$') || {} <= {}", number(0), number(4)),
                    "message": "addresses has to have the lower end of a range first",
                },
            ],
        },
    })
}

/// Communities, or aliases of them.
pub(super) fn communities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": ALIASES,
        "items": {
            "type": "string",
            "maxLength": COMMUNITY,
            "x-kubernetes-validations": [{
                "rule": format!("!self.contains(':') || {}", is_community("self")),
                "message": "communities has to have communities (64512:100, large:64512:100:1) or names of them, without a colon",
            }],
        },
        "x-kubernetes-validations": [each_once("communities")],
    })
}

/// Each is there once.
pub(super) fn each_once(field: &str) -> Rule {
    Rule::new(format!("self.size() > {COMPARED} || self.all(a, self.exists_one(b, a == b))"))
        .message(format!("{field} has to have each entry once").as_str())
}

/// The name of each is there once.
pub(super) fn each_name_once(field: &str) -> Rule {
    let name = |of: &str| format!("(has({of}.name) ? {of}.name : '')");
    let (a, b) = (name("a"), name("b"));
    Rule::new(format!("self.size() > {COMPARED} || self.all(a, self.exists_one(b, {a} == {b}))"))
        .message(format!("{field} has to have each name once").as_str())
}

/// The value of an alias is a community.
pub(super) fn alias_of_community() -> Rule {
    Rule::new(format!("has(self.value) && {}", is_community("self.value")))
        .message("value has to be a community: 64512:100, or large:64512:100:1")
}

/// An IP address, or nothing.
pub(super) fn address(field: &str) -> Rule {
    Rule::new(matches(&format!("(?i)^({V4}|{V6})?$")))
        .message(format!("{field} has to be an IP address (192.0.2.1, 2001:db8::1)").as_str())
}

/// An IPv4 address, or nothing; Go reads one that is mapped to IPv6 as well.
pub(super) fn router_id() -> Rule {
    Rule::new(matches(&format!("(?i)^((::ffff:)?{V4})?$")))
        .message("routerID has to look like an IPv4 address (192.0.2.1)")
}

/// RFC 4271, section 4.2. Fractions of a second do not count, as in MetalLB.
pub(super) fn hold_time() -> Rule {
    let seconds = "duration(self).getSeconds()";
    Rule::new(format!("{} && ({seconds} == 0 || {seconds} >= 3)", matches(GO_DURATION)))
        .message("holdTime has to be 0s, or a duration of 3s and more (90s)")
}

/// A duration.
pub(super) fn keepalive_time() -> Rule {
    Rule::new(matches(GO_DURATION)).message("keepaliveTime has to be a duration (30s)")
}

/// Not longer than the hold time.
pub(super) fn keepalive_in_hold_time() -> Rule {
    let is_duration = |field: &str| format!("self.{field}.matches(r'{GO_DURATION}')");
    let (keepalive, hold) = (is_duration("keepaliveTime"), is_duration("holdTime"));
    Rule::new(format!(
        "!has(self.keepaliveTime) || !has(self.holdTime) || !{keepalive} || !{hold} || \
         duration(self.keepaliveTime) <= duration(self.holdTime)"
    ))
    .message("keepaliveTime has to be no longer than holdTime")
}

/// Where there is no hold time, it is three times the keepalive time.
pub(super) fn keepalive_alone() -> Rule {
    let milliseconds = "duration(self.keepaliveTime).getMilliseconds()";
    Rule::new(format!(
        "!has(self.keepaliveTime) || has(self.holdTime) || !self.keepaliveTime.matches(r'{GO_DURATION}') || \
         {milliseconds} * 3 < 1000 || {milliseconds} * 3 >= 3000"
    ))
    .message(
        "keepaliveTime has to be 0s, or 1s and more, where holdTime is unset: that is three times as long",
    )
}

/// RFC 4271 has no word for several hops to a router of the same AS: it is not on a link anyway.
pub(super) fn multi_hop_is_external() -> Rule {
    Rule::new(
        "!has(self.ebgpMultiHop) || !self.ebgpMultiHop || !has(self.peerASN) || self.peerASN != self.myASN",
    )
    .message("ebgpMultiHop has to be false for a router of our own AS")
}

/// One of two.
pub(super) fn peer_asn_or_dynamic() -> Rule {
    Rule::new("has(self.dynamicASN) != (has(self.peerASN) && self.peerASN != 0)")
        .message("one of peerASN and dynamicASN has to be there, and not both")
}

/// One of two.
pub(super) fn address_or_interface() -> Rule {
    Rule::new(
        "(has(self.peerAddress) && self.peerAddress != '') != (has(self.interface) && self.interface != '')",
    )
    .message("one of peerAddress and interface has to be there, and not both")
}

/// One of two, or none.
pub(super) fn password_or_secret() -> Rule {
    Rule::new(
        "!has(self.password) || self.password == '' || !has(self.passwordSecret) || \
         !has(self.passwordSecret.name) || self.passwordSecret.name == ''",
    )
    .message("password and passwordSecret cannot both be there")
}

/// The field is what it was.
pub(super) fn unchanged(field: &str) -> Rule {
    Rule::new("self == oldSelf").message(format!("{field} cannot be changed").as_str())
}

/// Adds to the properties of a selector what labels may look like, and which operators there are
/// (`k8s.io/apimachinery/pkg/labels/selector.go`).
pub(super) fn selector(properties: &mut Map<String, Value>) {
    let add = |place: Option<&mut Value>, more: Value| {
        if let (Some(Value::Object(fields)), Value::Object(more)) = (place, more) {
            fields.extend(more);
        }
    };
    let value = json!({ "maxLength": LABEL, "pattern": VALUE_PATTERN });
    let labels = properties.get_mut("matchLabels");
    add(labels.and_then(|labels| labels.get_mut("additionalProperties")), value.clone());
    let Some(expressions) = properties.get_mut("matchExpressions") else { return };
    add(Some(expressions), json!({ "maxItems": REQUIREMENTS }));
    let Some(expression) = expressions.get_mut("items") else { return };
    let rule = "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)";
    let message = "values has to be there for operators In and NotIn, and for no others";
    add(Some(expression), json!({ "x-kubernetes-validations": [{ "rule": rule, "message": message }] }));
    for (pointer, more) in [
        ("/properties/key", json!({ "maxLength": NAME + 1 + LABEL, "pattern": KEY_PATTERN })),
        ("/properties/operator", json!({ "enum": ["In", "NotIn", "Exists", "DoesNotExist"] })),
        ("/properties/values/items", value),
    ] {
        add(expression.pointer_mut(pointer), more);
    }
}

/// Of a label's key.
const KEY_PATTERN: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$";
/// Of a label's value.
const VALUE_PATTERN: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";

fn matches(pattern: &str) -> String {
    format!("self.matches(r'{pattern}')")
}

/// Whether a text is a community (RFC 1997, RFC 8092).
fn is_community(text: &str) -> String {
    let number = |i: usize, most: u32| format!(r"int({text}.findAll(r'\d+')[{i}]) <= {most}");
    let all = |most| move |i| number(i, most);
    let two = (0..2).map(all(u16::MAX.into())).collect::<Vec<_>>().join(" && ");
    let three = (0..3).map(all(u32::MAX)).collect::<Vec<_>>().join(" && ");
    let digits = r"0*\d{1,10}";
    format!(
        "({text}.matches(r'^{digits}:{digits}$') && {two} || {text}.matches(r'^large:{digits}:{digits}:{digits}$') && {three})"
    )
}
