//! One case for each thing that a definition refuses.

use anyhow::Result;
use serde_json::{Value, json};

use crate::schema::{ABOVE, BELOW, FEW, NONE_OF, Node, UNLIKE, at, nodes};

/// A change of a good object that is refused, what is said of it, and one that is taken.
pub struct Case {
    /// Kind and version.
    pub of: String,
    /// The field that the API server names.
    pub field: String,
    /// A part of what it says.
    pub says: String,
    /// What the object has besides, if it has to be there before.
    pub before: Option<Value>,
    /// What is refused.
    pub refused: Value,
    /// Its twin.
    pub taken: Value,
}

impl Case {
    /// Whether it is of this field.
    pub fn is_of(&self, node: &Node) -> bool {
        self.of == node.of && self.field.replace("[0]", "[]").replace("[1]", "[]") == node.path
    }
}

/// All cases.
pub fn table() -> Result<Vec<Case>> {
    let mut cases = of_one_object();
    cases.extend(of_changes());
    for node in nodes()? {
        cases.extend(of_bounds(&node));
        cases.extend(of_selectors(&node));
    }
    Ok(cases)
}

fn case(of: &str, field: &str, says: &str, refused: Value, taken: Value) -> Case {
    let [of, field, says] = [of, field, says].map(str::to_owned);
    Case { of, field, says, before: None, refused, taken }
}

fn spec(fields: Value) -> Value {
    json!({ "spec": fields })
}

fn of_one_object() -> Vec<Case> {
    let mut cases = Vec::new();

    let pool = "IPAddressPool.v1beta1";
    let addresses = |list: &[&str]| spec(json!({ "addresses": list }));
    cases.push(case(pool, "spec.addresses", FEW, addresses(&[]), addresses(&["192.0.2.0/24"])));
    let [v4, v6, order] = [
        "addresses has to have CIDRs (192.0.2.0/24) or ranges (192.0.2.1-192.0.2.9)",
        "addresses has to have CIDRs (2001:db8::/64) or ranges of one family (2001:db8::1-2001:db8::9)",
        "addresses has to have the lower end of a range first",
    ];
    for (says, refused, taken) in [
        (v4, "", "192.0.2.0/24"),
        (v4, "192.0.2.1", "192.0.2.1/32"),
        (v4, "192.0.2.0/33", "192.0.2.0/32"),
        (v4, "192.0.2.256/32", "192.0.2.255/32"),
        (v4, "192.0.02.0/24", "192.0.2.0/24"),
        (v4, "192.0.2/24", "192.0.2.0/24"),
        (v4, "192.0.2.0.0/24", "192.0.2.0/24"),
        (v4, "192.0.2.1-192.0.2", "192.0.2.1-192.0.2.2"),
        (v4, "192.0.2.1-192.0.2.2-192.0.2.3", "192.0.2.1-192.0.2.2"),
        (v4, "192.0.2.1,192.0.2.2", "192.0.2.1-192.0.2.2"),
        (v4, "pool.example", "192.0.2.0/24"),
        (v6, "2001:db8::/129", "2001:db8::/128"),
        (v6, "2001:db8::1", "2001:db8::1/128"),
        (v6, "2001:db8::12345/128", "2001:db8::1234/128"),
        (v6, "2001:db8::g/128", "2001:db8::f/128"),
        (v6, "2001:db8:1/48", "2001:db8:1::/48"),
        (v6, "2001::db8::1/128", "2001:db8::1/128"),
        (v6, "1:2:3:4:5:6:7:8:9/128", "1:2:3:4:5:6:7:8/128"),
        (v6, "fe80::1%eth0/128", "fe80::1/128"),
        (v6, "2001:db8::1-", "2001:db8::1-2001:db8::2"),
        (v6, "2001:db8::1-2001:db8::2-", "2001:db8::1-2001:db8::2"),
        (v6, "192.0.2.1-2001:db8::1", "2001:db8::1-2001:db8::2"),
        (v6, "2001:db8::1-192.0.2.1", "2001:db8::1-2001:db8::2"),
        (order, "192.0.2.9-192.0.2.8", "192.0.2.8-192.0.2.9"),
        (order, "192.0.2.9-192.0.2.8", "192.0.2.9-192.0.2.9"),
        (order, "192.0.2.1-191.255.255.255", "191.255.255.255-192.0.2.1"),
        (order, "192.0.2.10 - 192.0.2.9", "192.0.2.9 - 192.0.2.10"),
    ] {
        cases.push(case(
            pool,
            "spec.addresses[1]",
            says,
            addresses(&["192.0.2.0/24", refused]),
            addresses(&["192.0.2.0/24", taken]),
        ));
    }
    let namespaces = |list: &[&str]| spec(json!({ "serviceAllocation": { "namespaces": list } }));
    cases.push(case(
        pool,
        "spec.serviceAllocation.namespaces",
        "namespaces has to have each entry once",
        namespaces(&["a", "b", "a"]),
        namespaces(&["a", "b", "c"]),
    ));

    for (of, field) in [
        ("L2Advertisement.v1beta1", "ipAddressPools"),
        ("BGPAdvertisement.v1beta1", "ipAddressPools"),
        ("BGPAdvertisement.v1beta1", "peers"),
        ("BGPAdvertisement.v1beta1", "communities"),
    ] {
        let says = format!("{field} has to have each entry once");
        let list = |last: &str| spec(json!({ field: ["a", "b", last] }));
        cases.push(case(of, &format!("spec.{field}"), &says, list("b"), list("c")));
    }

    let advertisement = "BGPAdvertisement.v1beta1";
    let says = "communities has to have communities (64512:100, large:64512:100:1) or names of them, without a colon";
    let communities = |of: &str| spec(json!({ "communities": ["0:0", of] }));
    for (refused, taken) in COMMUNITIES.iter().chain([&("a:b", "a-b"), &("large:1:2", "large")]) {
        cases.push(case(
            advertisement,
            "spec.communities[1]",
            says,
            communities(refused),
            communities(taken),
        ));
    }
    let says = "serviceSelectors are for whole addresses only: aggregationLength has to be 32 and aggregationLengthV6 128";
    let selected = |length: &str, of: u8| spec(json!({ "serviceSelectors": [{}], length: of }));
    for (field, part, whole) in [("aggregationLength", 24, 32), ("aggregationLengthV6", 64, 128)] {
        cases.push(case(advertisement, "spec", says, selected(field, part), selected(field, whole)));
    }

    let community = "Community.v1beta1";
    let aliases = |list: &[(&str, &str)]| {
        let alias = |(name, value): &(&str, &str)| json!({"name": name, "value": value});
        spec(json!({"communities": list.iter().map(alias).collect::<Vec<_>>()}))
    };
    let says = "value has to be a community: 64512:100, or large:64512:100:1";
    for (refused, taken) in COMMUNITIES.iter().chain([&("", "0:0"), &("no-advertise", "65535:65282")]) {
        let (refused, taken) = (aliases(&[("a", refused)]), aliases(&[("a", taken)]));
        cases.push(case(community, "spec.communities[0]", says, refused, taken));
    }
    cases.push(case(
        community,
        "spec.communities[0]",
        says,
        spec(json!({"communities": [{"name": "a"}]})),
        spec(json!({"communities": [{"value": "1:1"}]})),
    ));
    cases.push(case(
        community,
        "spec.communities",
        "communities has to have each name once",
        aliases(&[("a", "1:1"), ("b", "1:2"), ("a", "1:3")]),
        aliases(&[("a", "1:1"), ("b", "1:1"), ("c", "1:3")]),
    ));

    for of in ["BGPPeer.v1beta1", "BGPPeer.v1beta2"] {
        cases.extend(of_peers(of));
    }
    let peer = "BGPPeer.v1beta2";
    let says = "one of peerASN and dynamicASN has to be there, and not both";
    let dynamic = spec(json!({"peerASN": null, "dynamicASN": "external"}));
    cases.push(case(peer, "spec", says, spec(json!({"peerASN": null})), spec(json!({}))));
    cases.push(case(peer, "spec", says, spec(json!({"peerASN": 0})), spec(json!({}))));
    cases.push(case(peer, "spec", says, spec(json!({"dynamicASN": "external"})), dynamic.clone()));
    cases.push(case(
        peer,
        "spec.dynamicASN",
        NONE_OF,
        spec(json!({"peerASN": null, "dynamicASN": "any"})),
        dynamic,
    ));
    let says = "one of peerAddress and interface has to be there, and not both";
    let unnumbered = spec(json!({"peerAddress": null, "interface": "eth0"}));
    cases.push(case(peer, "spec", says, spec(json!({"interface": "eth0"})), unnumbered));
    cases.push(case(peer, "spec", says, spec(json!({"peerAddress": ""})), spec(json!({"interface": ""}))));
    cases.push(case(
        peer,
        "spec",
        "password and passwordSecret cannot both be there",
        spec(json!({"password": "a", "passwordSecret": {"name": "b"}})),
        spec(json!({"password": "a", "passwordSecret": {"namespace": "b"}})),
    ));
    let connect = |time: &str| spec(json!({ "connectTime": time }));
    for (says, refused, taken) in [
        ("connectTime has to be from 1s to 65535s", "0s", "1s"),
        ("connectTime has to be from 1s to 65535s", "65536s", "65535s"),
        ("connectTime has to be whole seconds", "1500ms", "2000ms"),
    ] {
        cases.push(case(peer, "spec.connectTime", says, connect(refused), connect(taken)));
    }
    cases
}

/// What is no community, and what is one.
const COMMUNITIES: [(&str, &str); 6] = [
    ("65536:1", "65535:1"),
    ("1:65536", "1:65535"),
    ("1:", "1:1"),
    ("1:2:3", "large:1:2:3"),
    ("small:1:2:3", "large:1:2:3"),
    ("large:1:2:4294967296", "large:1:2:4294967295"),
];

fn of_peers(of: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for (field, says, refused, taken) in [
        (
            "peerAddress",
            "peerAddress has to be an IP address (192.0.2.1, 2001:db8::1)",
            "router.example",
            "198.51.100.9",
        ),
        (
            "peerAddress",
            "peerAddress has to be an IP address (192.0.2.1, 2001:db8::1)",
            "198.51.100.1/32",
            "fe80::1",
        ),
        (
            "sourceAddress",
            "sourceAddress has to be an IP address (192.0.2.1, 2001:db8::1)",
            "192.0.2.999",
            "192.0.2.9",
        ),
        (
            "sourceAddress",
            "sourceAddress has to be an IP address (192.0.2.1, 2001:db8::1)",
            "fe80::1%eth0",
            "",
        ),
        ("routerID", "routerID has to look like an IPv4 address (192.0.2.1)", "2001:db8::1", "192.0.2.1"),
        ("routerID", "routerID has to look like an IPv4 address (192.0.2.1)", "1", ""),
        ("holdTime", HOLD_TIME, "2s", "3s"),
        ("holdTime", HOLD_TIME, "2999ms", "999ms"),
        ("holdTime", HOLD_TIME, "-90s", "0s"),
        ("holdTime", HOLD_TIME, "90", "1m30s"),
        ("holdTime", HOLD_TIME, "", "0"),
        ("keepaliveTime", "keepaliveTime has to be a duration (30s)", "soon", "0.5h"),
        ("keepaliveTime", "keepaliveTime has to be a duration (30s)", "30", "1h2m3.5s"),
    ] {
        let field_is = |value: &str| spec(json!({ field: value }));
        cases.push(case(of, &format!("spec.{field}"), says, field_is(refused), field_is(taken)));
    }
    let times = |hold: Value, keepalive: &str| spec(json!({"holdTime": hold, "keepaliveTime": keepalive}));
    let longer = "keepaliveTime has to be no longer than holdTime";
    cases.push(case(of, "spec", longer, times(json!("9s"), "9001ms"), times(json!("9s"), "9s")));
    cases.push(case(of, "spec", longer, times(json!("0s"), "1s"), times(json!("0s"), "0s")));
    let alone =
        "keepaliveTime has to be 0s, or 1s and more, where holdTime is unset: that is three times as long";
    for (refused, taken) in [("999ms", "1s"), ("334ms", "333ms")] {
        cases.push(case(of, "spec", alone, times(Value::Null, refused), times(Value::Null, taken)));
    }
    let multi_hop = |peer: u32| spec(json!({"peerASN": peer, "ebgpMultiHop": true}));
    let says = "ebgpMultiHop has to be false for a router of our own AS";
    cases.push(case(of, "spec", says, multi_hop(64512), multi_hop(64513)));
    cases
}

const HOLD_TIME: &str = "holdTime has to be 0s, or a duration of 3s and more (90s)";

fn of_changes() -> Vec<Case> {
    let mut cases = Vec::new();
    for of in ["ServiceL2Status.v1beta1", "ServiceBGPStatus.v1beta1"] {
        for field in ["node", "serviceName", "serviceNamespace"] {
            let says = format!("{field} cannot be changed");
            let is = |value: &str| json!({ "status": { field: value } });
            let mut changed = case(of, &format!("status.{field}"), &says, is("b"), is("a"));
            changed.before = Some(is("a"));
            cases.push(changed);
        }
    }
    let is = |value: bool| spec(json!({ "enableGracefulRestart": value }));
    let says = "enableGracefulRestart cannot be changed";
    let mut changed = case("BGPPeer.v1beta2", "spec.enableGracefulRestart", says, is(false), is(true));
    changed.before = Some(is(true));
    cases.push(changed);
    let is = |value: &str| json!({ "status": { "result": value } });
    let mut changed = case("ConfigurationState.v1beta1", "status.result", NONE_OF, is("Good"), is("Valid"));
    changed.before = Some(json!({}));
    cases.push(changed);
    cases
}

/// A number at its bounds, and beyond.
fn of_bounds(node: &Node) -> Vec<Case> {
    let bound = |key: &str, says: &str, step: i64| {
        let bound = node.schema[key].as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "bounds are whole")]
        let bound = bound as i64;
        let is = |value: i64| {
            let mut change = at(&node.path, json!(value));
            // Without the number of the other AS it has to be said which is meant.
            if node.path == "spec.peerASN" && value == 0 {
                change["spec"]["dynamicASN"] = json!("external");
            }
            change
        };
        Some(case(&node.of, &first(&node.path), says, is(bound + step), is(bound)))
    };
    [bound("minimum", BELOW, -1), bound("maximum", ABOVE, 1)].into_iter().flatten().collect()
}

/// Every list of selectors, in the same way.
fn of_selectors(node: &Node) -> Vec<Case> {
    if !node.is_selector() {
        return Vec::new();
    }
    let mut cases = Vec::new();
    let mut add = |field: &str, says: &str, refused: Value, taken: Value| {
        let field = first(&format!("{}.{field}", node.path));
        cases.push(case(&node.of, &field, says, at(&node.path, refused), at(&node.path, taken)));
    };
    let labels = |value: &str| json!({"matchLabels": {"a": value}});
    add("matchLabels.a", UNLIKE, labels("b c"), labels("b.c_d-e"));
    let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let good = expression("example.com/a", "NotIn", &["b", ""]);
    add("matchExpressions[].key", UNLIKE, expression("-a", "NotIn", &["b"]), good.clone());
    add("matchExpressions[].key", UNLIKE, expression("A.example/a", "NotIn", &["b"]), good.clone());
    add("matchExpressions[].operator", NONE_OF, expression("a", "in", &["b"]), good.clone());
    add("matchExpressions[].values[]", UNLIKE, expression("a", "NotIn", &["-b"]), good.clone());
    let says = "values has to be there for operators In and NotIn, and for no others";
    add("matchExpressions[]", says, expression("a", "Exists", &["b"]), good.clone());
    let expressions = &node.schema["properties"]["matchExpressions"]["items"]["properties"];
    if expressions["values"]["minItems"].is_null() {
        add("matchExpressions[]", says, expression("a", "In", &[]), expression("a", "DoesNotExist", &[]));
    } else {
        add("matchExpressions[].values", FEW, expression("a", "In", &[]), good);
    }
    cases
}

/// The path of the first entry of each list.
fn first(path: &str) -> String {
    path.replace("[]", "[0]")
}

/// Objects at the limits that rules need, with as much for the rules to do as there can be.
pub fn largest() -> Vec<(&'static str, Value)> {
    let list = |count: usize, entry: &dyn Fn(usize) -> Value| Value::Array((0..count).map(entry).collect());
    let v4 = |i: usize| json!(format!("255.255.{}.{} - 255.255.255.255", 100 + i / 100, 100 + i % 100));
    let v6 = |i: usize| {
        json!(format!("2001:db80:aaaa:bbbb:cccc:dddd:eeee:{i:04x} - 2001:db80:aaaa:bbbb:cccc:dddd:eeee:ffff"))
    };
    let namespace = |i: usize| json!(format!("{i:a>63}"));
    let name = |i: usize| json!(format!("{i:a>253}"));
    let selector =
        |i: usize| json!({"matchExpressions": [{"key": "a", "operator": "In", "values": [i.to_string()]}]});
    let requirement = |i: usize| json!({"key": i.to_string(), "operator": "Exists"});
    let alias = |i: usize| json!({"name": format!("{i:a>128}"), "value": "large:1:2:3"});
    vec![
        ("IPAddressPool.v1beta1", spec(json!({"addresses": list(3_500, &v4)}))),
        ("IPAddressPool.v1beta1", spec(json!({"addresses": list(3_500, &v6)}))),
        (
            "IPAddressPool.v1beta1",
            spec(json!({"serviceAllocation": {
                "namespaces": list(550, &namespace),
                "namespaceSelectors": list(5_000, &selector),
                "serviceSelectors": [{"matchExpressions": list(100, &requirement)}],
            }})),
        ),
        ("IPAddressPool.v1beta1", spec(json!({"serviceAllocation": {"namespaces": list(160, &namespace)}}))),
        ("L2Advertisement.v1beta1", spec(json!({"ipAddressPools": list(300, &name)}))),
        ("L2Advertisement.v1beta1", spec(json!({"ipAddressPools": list(160, &name)}))),
        (
            "BGPAdvertisement.v1beta1",
            spec(json!({
                "peers": list(160, &name),
                "communities": list(400, &|i| json!(format!("large:4294967295:4294967295:{i}"))),
            })),
        ),
        (
            "BGPAdvertisement.v1beta1",
            spec(json!({
                "peers": list(300, &name),
                "communities": list(160, &|i| json!(format!("large:4294967295:4294967295:{i}"))),
            })),
        ),
        ("Community.v1beta1", spec(json!({"communities": list(400, &alias)}))),
        ("Community.v1beta1", spec(json!({"communities": list(160, &alias)}))),
    ]
}
